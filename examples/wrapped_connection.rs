//! A connection behind two bounded channels, which any number of tasks may read, write and close: an echo with a
//! heartbeat.
//!
//! ```text
//! cargo run --example wrapped_connection   # ws://localhost:7777/ws
//! ```
//!
//! It shows what a wrapper must take care of. The library already provides most of it: `Conn::split` for one reading
//! and one writing task, `Writer::into_sender` for many writers.

mod support;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use echoring::CloseCode;
use echoring::{Conn, Message, Reader, Transport, Upgrader, Writer};
use support::{arguments, listen, only, until_signal};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{interval, sleep};

/// Messages that each of the two channels holds.
pub const CHANNEL_MESSAGES: usize = 1_000;
/// Time limit for a peer to read the queued messages when the connection is closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [address] = arguments("Echoes and beats on /ws.", ["ADDRESS"], ["localhost:7777"]);
    until_signal(serve(&address)).await
}

async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let (listener, shown) = listen(address).await?;
    println!("listening on ws://{shown}/ws");
    let upgrader = Upgrader::new().allow_any_origin();
    loop {
        let (stream, peer) = listener.accept().await?;
        let upgrader = upgrader.clone();
        tokio::spawn(async move {
            if let Err(error) = echo_and_beat(&upgrader, stream).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn echo_and_beat(upgrader: &Upgrader, stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    let conn = upgrader.accept_tcp_with(stream, only("/ws")).await?;
    let connection = Connection::start(conn);
    let beat = async {
        let mut ticks = interval(HEARTBEAT_EVERY);
        loop {
            // The first tick is at once.
            ticks.tick().await;
            if connection.write_message("heartbeat").await.is_err() {
                return;
            }
        }
    };
    let echo = async {
        while let Ok(message) = connection.read_message().await {
            if connection.write_message(message).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(beat, echo);
    Ok(())
}

/// A connection that is read, written and closed by shared reference. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    incoming: Mutex<mpsc::Receiver<Message>>,
    outgoing: mpsc::Sender<Message>,
    /// Becomes true once, when either end closes. Unlike a Go channel, it may be closed twice.
    closed: watch::Sender<bool>,
}

/// No message can be read or written any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionClosed;

impl fmt::Display for ConnectionClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection is closed")
    }
}

impl Error for ConnectionClosed {}

impl Connection {
    /// Wraps `conn`. Its two loops run until either end closes it.
    pub fn start<S: Transport + Send + 'static>(conn: Conn<S>) -> Connection {
        let (reader, writer) = conn.split();
        let (incoming_sender, incoming) = mpsc::channel(CHANNEL_MESSAGES);
        let (outgoing, outgoing_receiver) = mpsc::channel(CHANNEL_MESSAGES);
        let closed = watch::Sender::new(false);
        tokio::spawn(read_loop(reader, incoming_sender, closed.clone()));
        tokio::spawn(write_loop(writer, outgoing_receiver, closed.clone()));
        Connection { incoming: Mutex::new(incoming), outgoing, closed }
    }

    /// The next message. Messages that arrived before the end are still returned after it.
    ///
    /// # Errors
    /// If the connection is closed and no message is left.
    pub async fn read_message(&self) -> Result<Message, ConnectionClosed> {
        // One receive. The channel itself tells its end when it is empty and the read loop is gone; to ask for the
        // end first, and then receive again, would lose messages.
        self.incoming.lock().await.recv().await.ok_or(ConnectionClosed)
    }

    /// Queues a message, waiting for room. Queued messages are sent even if the connection is closed afterwards.
    ///
    /// # Errors
    /// If the connection is closed.
    pub async fn write_message(&self, message: impl Into<Message>) -> Result<(), ConnectionClosed> {
        tokio::select! {
            // In this order: nothing is taken after the end.
            biased;
            () = is_closed(self.closed.subscribe()) => Err(ConnectionClosed),
            sent = self.outgoing.send(message.into()) => sent.map_err(|_| ConnectionClosed),
        }
    }

    /// Closes the connection, from any task and any number of times.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

async fn is_closed(mut closed: watch::Receiver<bool>) {
    // This fails when all senders are gone: nobody is left who could close it, which is an end as well.
    let _ = closed.wait_for(|closed| *closed).await;
}

/// Ends when either end closes; the channel then ends after its last message.
async fn read_loop<S: Transport>(
    mut reader: Reader<S>,
    incoming: mpsc::Sender<Message>,
    closed: watch::Sender<bool>,
) {
    let reading = async {
        // Room first: while the channel is full nothing is read, so TCP makes the peer wait.
        while let Ok(room) = incoming.reserve().await {
            match reader.read().await {
                Ok(message) => room.send(message),
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = is_closed(closed.subscribe()) => {}
    }
    closed.send_replace(true);
}

/// Sends queued messages, including those queued when the end came, and closes.
async fn write_loop<S: Transport>(
    mut writer: Writer<S>,
    outgoing: mpsc::Receiver<Message>,
    closed: watch::Sender<bool>,
) {
    let patience = async {
        is_closed(closed.subscribe()).await;
        sleep(CLOSE_PATIENCE).await;
    };
    tokio::select! {
        sent = send_all(&mut writer, outgoing, closed.subscribe()) => {
            closed.send_replace(true);
            if sent.is_ok() {
                // Where the peer has closed, this finds that so.
                let _ = writer.close(CloseCode::NORMAL, "").await;
            }
        }
        // The peer does not take it. Dropping the writer ends the stream.
        () = patience => {}
    }
}

async fn send_all<S: Transport>(
    writer: &mut Writer<S>,
    mut outgoing: mpsc::Receiver<Message>,
    closed: watch::Receiver<bool>,
) -> Result<(), echoring::Error> {
    loop {
        tokio::select! {
            message = outgoing.recv() => match message {
                Some(message) => writer.write(message).await?,
                None => return Ok(()),
            },
            () = is_closed(closed.clone()) => break,
        }
    }
    // Nothing comes into the channel any more; what is in it comes out.
    outgoing.close();
    while let Some(message) = outgoing.recv().await {
        writer.write(message).await?;
    }
    Ok(())
}
