//! Rooms: what a client says goes to everyone in its room, however many they are. They are told who comes, and who has left.
//!
//! ```text
//! cargo run --example rooms                # ws://127.0.0.1:9001/rooms/NAME?as=NICKNAME
//! ```

use std::error::Error;
use std::net::SocketAddr;

use echoring::server::{
    Builder, Disposition, Handler, Message, Path, Query, Remote, Response, Result, Route, Server, TopicName,
};

/// The query of a request: `?as=NICKNAME`.
#[derive(serde::Deserialize)]
struct Who {
    r#as: String,
}

/// One client in one room. The room is a topic: its messages go to the clients straight from a log that all members of a shard
/// share, so a room of 100,000 members costs no queue for each.
struct Member {
    room: TopicName,
    name: String,
}

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.subscribe(&self.room)?;
        remote.publish_on_close(&self.room, &format!("{} has left", self.name))?;
        Ok(remote.publish(&self.room, &format!("{} is here", self.name))?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        let text = message.text().unwrap_or_default();
        remote.publish(&self.room, &format!("{}: {text}", self.name))?;
        Ok(Disposition::Done)
    }
}

/// The server, which listens on `address`. A member that reads too slowly is closed with 4008 by default.
pub fn rooms(address: SocketAddr) -> Builder {
    let join = |Path(room): Path<TopicName>, Query(Who { r#as: name }): Query<Who>| match name.len() {
        1..=32 => Ok(Member { room, name }),
        _ => Err(Response::text(400, "a nickname has 1 to 32 bytes\n")),
    };
    let route = Route::new("/rooms/{room}", join).text_only().max_message(4096);
    Server::builder().listen(address).route(route)
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let server = rooms(address.parse()?).start()?;
    for address in server.addresses() {
        println!("ws://{address}/rooms/NAME?as=NICKNAME");
    }
    server.join()?;
    Ok(())
}
