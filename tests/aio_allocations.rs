//! An asynchronous echo of long messages allocates only the messages that the program receives. Reads and writes reuse their
//! buffers.

#[allow(dead_code, reason = "what is held is not looked at")]
#[path = "support/counting.rs"]
mod counting;

use counting::allocations;
use echoring_async::{Conn, Message, Opened, Settings};
use echoring_proto::Role;
use tokio::net::UnixStream;

/// Echoes before the count, and counted echoes.
const WARM_UP: u64 = 50;
const COUNTED: u64 = 100;

/// Allocations of an echo of `message`, both ends together.
fn allocations_of_echo(message: &Message) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let mut server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
        let mut client = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
        let mut before = 0;
        for round in 0..WARM_UP + COUNTED {
            if round == WARM_UP {
                before = allocations();
            }
            let sending = async {
                match message {
                    Message::Text(text) => client.write_text(text).await,
                    Message::Binary(bytes) => client.write_binary(bytes).await,
                }
            };
            let (sent, received) = tokio::join!(sending, server.read());
            sent.expect("sent");
            let received = received.expect("a message");
            let (sent, echoed) = tokio::join!(server.write(received), client.read());
            sent.expect("sent");
            assert_eq!(echoed.expect("the echo").len(), message.len());
        }
        (allocations() - before).div_ceil(COUNTED)
    })
}

#[test]
fn an_echo_of_a_long_message_allocates_the_message_only() {
    let text = Message::from("grüße ".repeat(8_000));
    for message in [Message::from(vec![7; 64 << 10]), text] {
        let allocations = allocations_of_echo(&message);
        // At each end: the part that came with the header, and its growth to the whole message.
        assert!(allocations <= 4, "{allocations} for {message:?}");
    }
}

#[test]
fn an_echo_of_a_short_message_allocates_the_message_only() {
    for message in [Message::from(vec![7; 200]), Message::from("a text")] {
        let allocations = allocations_of_echo(&message);
        assert!(allocations <= 2, "{allocations} for {message:?}");
    }
}
