//! A server inside another program: starts on a port of the kernel's choice, prints where, and says what it
//! counted when standard input ends.
//!
//! ```text
//! cargo run --example embedded_server
//! ```

use std::io::Read;

use echoring::server::{Config, ListenAddress, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config {
        listen: vec![ListenAddress::Tcp("127.0.0.1:0".parse()?)],
        shards: Some(1),
        ..Config::default()
    };
    let server = Server::start(config)?;
    for address in server.addresses() {
        println!("echo on ws://{address}/echo, topics on ws://{address}/broadcast/NAME");
    }
    let handle = server.handle();
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for snapshot in handle.snapshots() {
        let counters = &snapshot.counters;
        println!(
            "shard {}: {} messages in, {} out",
            snapshot.shard, counters.messages_in, counters.messages_out
        );
    }
    handle.drain();
    server.join()?;
    Ok(())
}
