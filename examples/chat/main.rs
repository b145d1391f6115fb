//! A chat room: clients, and a hub that they register with. Open its page in two browsers.
//!
//! ```text
//! cargo run --example chat -- [ADDRESS]    # default: 127.0.0.1:8282, page at http://127.0.0.1:8282/chat
//! ```
//!
//! `message` and `room` have the protocol and the rules and do no I/O; this file moves the messages, with one task for each
//! client and one for the hub. `docs/guide/chat.md` describes the protocol.

mod message;
mod page;
mod room;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Instant;

use echoring::{
    Acceptance, CloseCode, Control, Decision, MessageKind, Reader, RequestHead, Sender, TrySendError,
    UpgradeError, Upgrader,
};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use message::{Message, Rejection, Request};
use room::{RateLimit, Room};
use support::{arguments, listen, until_signal};

/// The subprotocol of the room, for clients that offer it.
const SUBPROTOCOL: &str = "chat";
/// Rejected messages in a row before 1008.
const REJECTIONS_MAX: u8 = 50;
/// Messages queued to a client. A client with a full queue does not read.
const QUEUED_MAX: usize = 256;
/// Events queued to the hub. While the queue is full, clients are not read.
const EVENTS_MAX: usize = 1_000;
/// Send buffer of a socket, so that the kernel's memory for a client that does not read is bounded too.
const SOCKET_SEND_BYTES: usize = 128 * 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [address] = arguments("A chat room with its page at /chat.", ["ADDRESS"], ["127.0.0.1:8282"]);
    until_signal(serve(&address)).await
}

async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let (listener, shown) = listen(address).await?;
    println!("listening on http://{shown}/chat");
    let upgrader = Upgrader::new().allow_any_origin().subprotocols([SUBPROTOCOL]);
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(Hub::default().run(inbox));
    for id in 0.. {
        let (stream, address) = listener.accept().await?;
        let (upgrader, events) = (upgrader.clone(), events.clone());
        tokio::spawn(async move {
            if let Err(error) = visit(&upgrader, stream, address, Id(id), events).await {
                eprintln!("{address}: {error}");
            }
        });
    }
    Ok(())
}

/// Serves one connection: a file of the page, or a client of the room.
async fn visit(
    upgrader: &Upgrader,
    stream: TcpStream,
    address: SocketAddr,
    id: Id,
    events: mpsc::Sender<Event>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    SockRef::from(&stream).set_send_buffer_size(SOCKET_SEND_BYTES)?;
    let conn = match upgrader.accept_tcp_with(stream, route).await {
        Ok(conn) => conn,
        Err(UpgradeError::NotUpgraded(_) | UpgradeError::Gone) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let control = conn.control();
    let (reader, writer) = conn.split();
    // The tutorial gives a client a channel and a goroutine that writes from it; here the send task does that.
    let (send, send_task) = writer.into_sender(QUEUED_MAX);
    let ip = address.ip().to_canonical().to_string();
    let (rate, rejections) = (RateLimit::default(), 0);
    let mut client = Client { id, connection: reader, send: send.clone(), rate, rejections, events };
    client.events.send(Event::Register(id, Registered { ip, send, control })).await?;
    // One task owns both halves, so that neither outlives the other. The send task ends when the closing handshake begins;
    // the client is then read until its Close frame arrives.
    let ended = {
        let mut listening = pin!(client.listen());
        tokio::select! {
            ended = &mut listening => ended,
            _ = send_task => listening.await,
        }
    };
    client.events.send(Event::Unregister(id)).await?;
    match ended {
        Err(error) if !error.is_clean() => Err(error.into()),
        _ => Ok(()),
    }
}

fn route(asked: &RequestHead<'_>) -> Decision {
    match asked.is_upgrade() && asked.path() == "/chat" {
        true => Acceptance::new().into(),
        false => page::respond(asked.path()).into(),
    }
}

/// The number of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Id(u64);

/// The state of a client in its own task.
struct Client {
    id: Id,
    connection: Reader<TcpStream>,
    send: Sender,
    rate: RateLimit,
    /// Rejected messages in a row.
    rejections: u8,
    events: mpsc::Sender<Event>,
}

impl Client {
    /// Reads until the connection ends and sends valid requests to the hub. While the hub's queue is full nothing is
    /// read, so TCP makes the client wait.
    async fn listen(&mut self) -> Result<(), echoring::Error> {
        let begun = Instant::now();
        loop {
            let message = self.connection.read().await?;
            if message.kind() == MessageKind::Binary {
                return self.close(CloseCode::UNSUPPORTED, "chat is text").await;
            }
            let allowed = self.rate.allows(begun.elapsed());
            let request = if allowed { Request::parse(message.as_bytes()) } else { Err(Rejection::TooMany) };
            let event = match request {
                Ok(Request::Leave) => return self.close(CloseCode::NORMAL, "goodbye").await,
                Ok(request) => {
                    self.rejections = 0;
                    Event::Request(self.id, request)
                }
                Err(_) if self.rejections >= REJECTIONS_MAX => {
                    return self.close(CloseCode::POLICY, "too many rejected messages").await;
                }
                Err(rejection) => {
                    self.rejections += 1;
                    Event::Rejection(self.id, rejection)
                }
            };
            self.events.send(event).await.map_err(|_| echoring::Error::Closing)?;
        }
    }

    /// Closes behind the queued messages, and reads until the client has closed too.
    async fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), echoring::Error> {
        self.send.close(code, reason).await?;
        Err(self.connection.discard_reads().await)
    }
}

/// An event for the hub. The tutorial has one channel for each kind and selects among them, so a message may overtake its
/// sender's registration; a single channel keeps the order.
enum Event {
    Register(Id, Registered),
    Request(Id, Request),
    Rejection(Id, Rejection),
    Unregister(Id),
}

/// The state of a client in the hub.
struct Registered {
    ip: String,
    send: Sender,
    control: Control<TcpStream>,
}

/// Knows all clients and orders their messages. It is one task, so it needs no lock.
#[derive(Default)]
struct Hub {
    clients: HashMap<Id, Registered>,
    room: Room<Id>,
}

impl Hub {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        while let Some(event) = inbox.recv().await {
            match event {
                Event::Register(id, client) => {
                    self.clients.insert(id, client);
                    self.send(id, &Message::handshake());
                }
                Event::Request(id, request) => {
                    if let Err(rejection) = self.handle(id, request) {
                        self.send(id, &Message::error(&rejection));
                    }
                }
                Event::Rejection(id, rejection) => self.send(id, &Message::error(&rejection)),
                Event::Unregister(id) => self.unregister(id),
            }
        }
    }

    fn handle(&mut self, id: Id, request: Request) -> Result<(), Rejection> {
        match request {
            Request::Join { name } => self.join(id, &name)?,
            Request::Broadcast { text } => {
                let message = self.room.broadcast(id, &text)?;
                self.broadcast(&message);
            }
            Request::Private { to, text } => {
                let (receiver, message) = self.room.private(id, &to, &text)?;
                self.send(receiver, &message);
                if receiver != id {
                    self.send(id, &message);
                }
            }
            Request::Users => {
                let users = self.room.users(id)?;
                self.send(id, &users);
            }
            Request::Leave => {}
        }
        Ok(())
    }

    fn join(&mut self, id: Id, name: &str) -> Result<(), Rejection> {
        let Some(ip) = self.clients.get(&id).map(|client| client.ip.clone()) else { return Ok(()) };
        let joined = match self.room.join(id, name, &ip) {
            Err(Rejection::Full) => {
                self.evict_longest_idle();
                self.room.join(id, name, &ip)
            }
            joined => joined,
        };
        self.broadcast(&joined?);
        let users = self.room.users(id)?;
        self.send(id, &users);
        Ok(())
    }

    fn evict_longest_idle(&mut self) {
        if let Some(id) = self.room.longest_idle() {
            self.disconnect(id, CloseCode::TRY_AGAIN_LATER, "idle in a full room");
        }
    }

    fn broadcast(&mut self, message: &Message) {
        for id in self.room.members().to_vec() {
            self.send(id, message);
        }
    }

    /// Never waits: a client with a full queue is closed.
    fn send(&mut self, id: Id, message: &Message) {
        let Some(client) = self.clients.get(&id) else { return };
        let mut text = Vec::new();
        Message::address(&message.encode(), &client.ip, &mut text);
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        if let Err(TrySendError::Full(_)) = client.send.try_send(text) {
            self.disconnect(id, CloseCode::SLOW_CONSUMER, "slow consumer");
        }
    }

    fn disconnect(&mut self, id: Id, code: CloseCode, reason: &'static str) {
        if let Some(client) = self.clients.get(&id) {
            let control = client.control.clone();
            tokio::spawn(async move { control.close(code, reason).await });
        }
        self.unregister(id);
    }

    fn unregister(&mut self, id: Id) {
        self.clients.remove(&id);
        if let Some(message) = self.room.leave(id) {
            self.broadcast(&message);
        }
    }
}
