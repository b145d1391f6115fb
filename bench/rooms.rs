//! Rooms as a program serves them, beside the built-in route of the same server: what `scripts/bench-broadcast --rows rooms`
//! compares.
//!
//! `/rooms/{topic}` is `examples/rooms.rs` without nicknames and without greetings, of which many members would hear many;
//! `/broadcast/{topic}` is the built-in route. Neither sends a member its own messages.
//!
//! ```text
//! rooms [--listen 127.0.0.1:0]
//! ```

use std::error::Error;

use echoring::server::{
    Disposition, Handler, Message, Path, Remote, Result, Route, Server, SubscribeOptions,
};

/// One client in one room.
struct Member {
    room: String,
}

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.subscribe_with(&self.room, SubscribeOptions::new().skip_own())?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.publish(&self.room, message)?;
        Ok(Disposition::Done)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let listen = match &arguments[..] {
        [] => "127.0.0.1:0",
        [flag, address] if flag == "--listen" => address,
        _ => return Err("usage: rooms [--listen ADDR:PORT]".into()),
    };
    let route = Route::new("/rooms/{topic}", |Path(room): Path<String>| Member { room });
    let builder = Server::builder().listen(listen.parse::<std::net::SocketAddr>()?).shards(1);
    let server = builder.builtin_routes(true).route(route).start()?;
    for address in server.addresses() {
        println!("listening ws://{address} shards=1 pid={}", std::process::id());
    }
    server.join()?;
    Ok(())
}
