//! Rooms: what a client says goes to everyone in its room, however many they are. Lines of standard input, `ROOM TEXT`, go to the
//! room from outside.
//!
//! ```text
//! cargo run --example rooms                # ws://127.0.0.1:9001/rooms/NAME?as=NICKNAME
//! ```

use std::error::Error;
use std::io::BufRead;
use std::net::SocketAddr;
use std::time::Duration;

use echoring::server::{
    Builder, Disposition, Failure, Handler, Message, Path, Query, Remote, Response, Route, Server,
};
use serde::Deserialize;

/// The query of a request: `?as=NICKNAME`.
#[derive(Deserialize)]
struct Who {
    #[serde(rename = "as")]
    nickname: String,
}

/// One client in one room. The room is a topic: its messages go to the clients straight from a log that all members of a shard
/// share, so a room of 100,000 members costs no queue for each.
struct Member {
    room: String,
    nickname: String,
}

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result<(), Failure> {
        remote.subscribe(&self.room)?;
        remote.publish(&self.room, &format!("{} is here", self.nickname))?;
        Ok(())
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition, Failure> {
        let text = message.text().unwrap_or_default();
        remote.publish(&self.room, &format!("{}: {text}", self.nickname))?;
        Ok(Disposition::Done)
    }
}

/// The server, which listens on `address`. A member that reads too slowly is closed with 4008 by default.
pub fn rooms(address: SocketAddr) -> Builder {
    let route =
        Route::new("/rooms/{room}", |Path(room): Path<String>, Query(Who { nickname }): Query<Who>| {
            match nickname.len() {
                1..=32 => Ok(Member { room, nickname }),
                _ => Err(Response::text(400, "a nickname has 1 to 32 bytes\n")),
            }
        });
    Server::builder().listen(address).route(route.text_only().message_bytes_max(4096))
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let server = rooms(address.parse()?).start()?;
    for address in server.addresses() {
        println!("ws://{address}/rooms/NAME?as=NICKNAME");
    }
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let Some((room, text)) = line.split_once(' ') else { continue };
        match server.publish(room, text) {
            Ok(position) => println!("message {} of {room}", position.offset),
            Err(error) => println!("not published: {error}"),
        }
    }
    server.shutdown(Duration::from_secs(5))?;
    Ok(())
}
