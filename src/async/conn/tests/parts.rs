//! The parts of a connection: its stream, its halves, and the threads that share it.

use std::cell::Cell;

use super::*;
use crate::PreparedMessage;

#[test]
fn handles_may_be_shared_between_threads() {
    fn is_sync<T: Send + Sync>() {}
    // What only one thread may use at a time.
    type Stream = Cell<u8>;
    is_sync::<Conn<Stream>>();
    is_sync::<Reader<Stream>>();
    is_sync::<Writer<Stream>>();
    is_sync::<Control<Stream>>();
    is_sync::<SendTask<Stream>>();
    is_sync::<Sender>();
}

#[tokio::test]
async fn a_connection_is_taken_apart_with_what_nobody_has_read() {
    let (ours, mut theirs) = duplex(1 << 16);
    let mut server = conn(Counted::new(ours), Role::Server, &Settings::default());
    let frames = [masked(Opcode::Text, true, b"one"), masked(Opcode::Text, true, b"two")].concat();
    theirs.write_all(&frames).await.expect("sent");
    assert_eq!(server.read().await.expect("a message"), "one".into());
    assert_eq!(server.get_ref().reads.load(Ordering::Relaxed), 1);
    let control = server.control();
    let (mut stream, unread) = server.into_inner().expect("nobody uses the control");
    assert_eq!(&unread[..], masked(Opcode::Text, true, b"two"));
    assert!(matches!(control.ping(b"").await, Err(Error::Closing)));

    // Both directions go on, without frames.
    stream.write_all(b"plain").await.expect("sent");
    let mut plain = [0; 5];
    theirs.read_exact(&mut plain).await.expect("received");
    assert_eq!(&plain, b"plain");
    // Or with frames: the unread bytes are the early ones of another connection.
    let early = Opened { early: unread, ..Opened::new(Role::Server) };
    let mut again = Conn::new(stream, &Settings::default(), early);
    assert_eq!(again.read().await.expect("a message"), "two".into());
}

#[tokio::test]
async fn halves_of_one_connection_are_reunited_and_others_are_returned() {
    let (server, mut client) = pair();
    let (reader, writer) = server.split();
    let (other_reader, other_writer) = pair().0.split();
    let ReuniteError(reader, other_writer) = reader.reunite(other_writer).expect_err("another connection");
    other_reader.reunite(other_writer).expect("the other connection");
    let mut server = reader.reunite(writer).expect("the halves of one connection");
    server.write("hello").await.expect("sent");
    assert_eq!(client.read().await.expect("a message"), "hello".into());
}

#[tokio::test]
async fn senders_queue_json_and_prepared_messages() {
    let (server, mut client) = pair();
    let (_reader, writer) = server.split();
    let (sender, send_task) = writer.into_sender(2);
    let prepared = PreparedMessage::json(&[1, 2]).expect("JSON");
    sender.send_json(&[1, 2]).await.expect("queued");
    sender.try_send_prepared(&prepared).expect("queued");
    let full = sender.try_send_prepared(&prepared);
    assert_eq!(full, Err(TrySendError::Full("[1,2]".into())));
    drop(sender);
    let (sent, ()) = tokio::join!(send_task, async {
        for _ in 0..2 {
            assert_eq!(client.read_json::<[u8; 2]>().await.expect("a message"), [1, 2]);
        }
    });
    sent.expect("sent");
}
