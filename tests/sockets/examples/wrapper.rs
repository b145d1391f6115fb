//! The wrapped connection, and the loss of messages in the common version that it corrects.

use std::sync::Arc;
use std::time::Duration;

use echoring_async::{Conn, Error, Message, Opened, Settings};
use echoring_proto::{CloseCode, Role};
use tokio::io::DuplexStream;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

use super::wrapped_connection::{CHANNEL_MESSAGES, Connection, ConnectionClosed};

/// Longer than any test here takes. Time is paused and advances only when all tasks wait, so a task that still waits then
/// waits for ever.
const FOR_EVER: Duration = Duration::from_secs(3_600);

/// A wrapped connection and its peer, with a transport buffer of `bytes` between them.
fn pair(bytes: usize) -> (Connection, Conn<DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(bytes);
    let conn = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
    let peer = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
    (Connection::start(conn), peer)
}

fn numbered(n: usize) -> Message {
    Message::from(n.to_string())
}

#[tokio::test(start_paused = true)]
async fn messages_that_came_before_the_end_are_read_after_it() {
    let (connection, mut peer) = pair(1024);
    for n in 0..10 {
        peer.write(numbered(n)).await.expect("sent");
    }
    // The read loop answers the ping, so the pong comes after all ten messages.
    peer.close(CloseCode::NORMAL, "").await.expect("an answer");
    for n in 0..10 {
        assert_eq!(connection.read_message().await, Ok(numbered(n)));
    }
    assert_eq!(connection.read_message().await, Err(ConnectionClosed));
    assert_eq!(connection.write_message("too late").await, Err(ConnectionClosed));
    assert_eq!(ConnectionClosed.to_string(), "connection is closed");
}

#[tokio::test(start_paused = true)]
async fn messages_that_were_written_before_the_close_are_sent() {
    let (connection, mut peer) = pair(64);
    for n in 0..CHANNEL_MESSAGES {
        connection.write_message(numbered(n)).await.expect("queued");
    }
    connection.close();
    assert_eq!(connection.write_message("too late").await, Err(ConnectionClosed));
    for n in 0..CHANNEL_MESSAGES {
        assert_eq!(peer.read().await.expect("a message"), numbered(n));
    }
    let end = peer.read().await.expect_err("the end");
    assert!(end.is_close(&[CloseCode::NORMAL]), "{end}");
}

#[tokio::test(start_paused = true)]
async fn a_full_channel_pauses_the_peer_and_loses_nothing() {
    let (connection, peer) = pair(256);
    let (mut reader, mut writer) = peer.split();
    tokio::spawn(async move { reader.discard_reads().await });
    let messages = 3 * CHANNEL_MESSAGES;
    let mut sent = 0;
    let paused_at = loop {
        match timeout(FOR_EVER, writer.write(numbered(sent))).await {
            Ok(written) => written.expect("sent"),
            // The message that was not sent is queued too.
            Err(_) => break sent + 1,
        }
        sent += 1;
    };
    // The capacity of the channel and of the path to it: a transport buffer of 256 bytes, one read of 4,096 bytes, and one
    // frame in flight. A masked frame has a header of six bytes.
    let between = (256 + 4_096) / (6 + numbered(CHANNEL_MESSAGES).len()) + 2;
    assert!((CHANNEL_MESSAGES..CHANNEL_MESSAGES + between).contains(&paused_at), "{paused_at}");

    let sending = tokio::spawn(async move {
        for n in paused_at..messages {
            writer.write(numbered(n)).await.expect("sent");
        }
        writer
    });
    for n in 0..messages {
        assert_eq!(connection.read_message().await, Ok(numbered(n)));
    }
    drop(sending.await.expect("no panic"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_is_closed_by_many_tasks_at_once_and_more_than_once() {
    let (connection, mut peer) = pair(1024);
    let connection = Arc::new(connection);
    let reading = tokio::spawn({
        let connection = Arc::clone(&connection);
        async move { connection.read_message().await }
    });
    let closing = (0..16).map(|_| {
        let connection = Arc::clone(&connection);
        tokio::spawn(async move {
            connection.close();
            connection.close();
        })
    });
    for task in closing.collect::<Vec<_>>() {
        task.await.expect("no panic");
    }
    let end = peer.read().await.expect_err("the end");
    assert!(end.is_close(&[CloseCode::NORMAL]), "{end}");
    assert_eq!(reading.await.expect("no panic"), Err(ConnectionClosed));
    connection.close();
    assert_eq!(connection.write_message("too late").await, Err(ConnectionClosed));
}

#[tokio::test(start_paused = true)]
async fn its_loops_end_with_it_even_if_the_peer_takes_nothing() {
    let (connection, peer) = pair(64);
    for n in 0..CHANNEL_MESSAGES {
        connection.write_message(numbered(n)).await.expect("queued");
    }
    drop(connection);
    let metrics = Handle::current().metrics();
    let ended = async {
        while metrics.num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(6), ended).await.expect("five seconds of patience");
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_vanishes_ends_it() {
    let (connection, mut peer) = pair(1024);
    peer.write("a last word").await.expect("sent");
    drop(peer);
    assert_eq!(connection.read_message().await, Ok(Message::from("a last word")));
    assert_eq!(connection.read_message().await, Err(ConnectionClosed));
}

/// The read function of the widely copied wrapper:
///
/// ```go
/// select {
/// case data = <-conn.inChan:
/// case <-conn.closeChan:
///     err = errors.New("connection is closed")
/// }
/// data = <-conn.inChan
/// ```
struct ReceivesTwice {
    incoming: Mutex<mpsc::Receiver<Message>>,
    closed: watch::Receiver<bool>,
}

impl ReceivesTwice {
    async fn read_message(&self) -> (Option<Message>, Result<(), ConnectionClosed>) {
        let mut incoming = self.incoming.lock().await;
        let mut closed = self.closed.clone();
        let (_data, result) = tokio::select! {
            data = incoming.recv() => (data, Ok(())),
            _ = closed.wait_for(|closed| *closed) => (None, Err(ConnectionClosed)),
        };
        (incoming.recv().await, result)
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrapper_that_receives_twice_loses_every_other_message_and_blocks() {
    let (incoming_sender, incoming) = mpsc::channel(CHANNEL_MESSAGES);
    let (close, closed) = watch::channel(false);
    let wrong = ReceivesTwice { incoming: Mutex::new(incoming), closed };
    let (right, mut peer) = pair(1024);
    for n in 0..11 {
        incoming_sender.send(numbered(n)).await.expect("room");
        peer.write(numbered(n)).await.expect("sent");
    }
    for n in [1, 3, 5, 7, 9] {
        let (data, result) = wrong.read_message().await;
        assert_eq!((data, result), (Some(numbered(n)), Ok(())), "the one before it is lost");
    }
    // One more message is there, but the call returns none.
    timeout(FOR_EVER, wrong.read_message()).await.expect_err("it waits for the one after");
    // Closing does not help either: the call sees the end, and then waits again.
    close.send_replace(true);
    timeout(FOR_EVER, wrong.read_message()).await.expect_err("it waits for a message that nobody sends");

    for n in 0..11 {
        assert_eq!(right.read_message().await, Ok(numbered(n)));
    }
    right.close();
    assert_eq!(timeout(FOR_EVER, right.read_message()).await, Ok(Err(ConnectionClosed)));
    assert!(matches!(peer.read().await, Err(Error::Closed(_))));
}
