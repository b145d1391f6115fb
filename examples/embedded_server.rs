//! A server inside another program, with its own handler: it listens on a free port, prints the address, and reports
//! its counts when standard input ends.
//!
//! ```text
//! cargo run --example embedded_server
//! ```

use std::io::Read;
use std::time::Duration;

use echoring::server::{
    Builder, Disposition, Handler, Message, Path, Remote, Response, Result, Route, Server,
};

/// Greets each client, and sends messages back in capitals.
struct Shouting {
    name: String,
}

impl Handler for Shouting {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.send_text(&format!("WELCOME, {}", self.name.to_uppercase()))?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        if let Some(text) = message.text() {
            remote.send_text(&text.to_uppercase())?;
        }
        Ok(Disposition::Done)
    }
}

/// The server. Tests run it without sockets.
pub fn server() -> Builder {
    let shout = Route::new("/shout/{name}", |Path(name): Path<String>| match name.len() {
        ..=32 => Ok(Shouting { name }),
        _ => Err(Response::text(400, "a name has at most 32 bytes\n")),
    });
    Server::builder()
        .listen(([127, 0, 0, 1], 0))
        .shards(1)
        .route(shout.text_only())
        .get("/hello", || Response::text(200, "hello\n"))
        .builtin_routes(true)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = server().start()?;
    for address in server.addresses() {
        println!("ws://{address}/shout/NAME and ws://{address}/echo; http://{address}/hello");
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for snapshot in server.shutdown(Duration::from_secs(5))? {
        let traffic = snapshot.counters.traffic.total();
        println!(
            "shard {}: {} messages in, {} out",
            snapshot.shard, traffic.messages_in, traffic.messages_out
        );
    }
    Ok(())
}
