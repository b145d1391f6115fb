//! A chat room: clients, and a hub that they register with. Open its page in two browsers.
//!
//! ```text
//! cargo run --example chat -- [ADDRESS]    # http://127.0.0.1:8282/chat unless told otherwise
//! ```
//!
//! The rules of the room, its messages and its page are those of `echoring serve` at `/chat`; `docs/chat.md` has the
//! protocol. What is here is how they travel when each client is a task of its own.

mod support;

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Instant;

use echoring::aio::{
    self, Acceptance, Answer, Asked, Control, Decision, Kind, Reader, Sender, TrySendError, UpgradeError,
    Upgrader,
};
use echoring::limits::{CHAT_REFUSALS_MAX, SOCKET_SEND_BYTES};
use echoring::protocol::CloseCode;
use echoring::server::chat::{Input, Message, Rate, Refused, Room, SUBPROTOCOL, page};
use socket2::SockRef;
use support::{arguments, listen, until_signal};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Messages that wait for a client. One that lets more come together does not read.
const WAITING_MAX: usize = 256;
/// Events that wait for the hub. Past it clients are read no further.
const EVENTS_MAX: usize = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [address] = arguments("A chat room, with its page on /chat.", ["ADDRESS"], ["127.0.0.1:8282"]);
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

/// One connection: a file of the page, or a client that stays.
async fn visit(
    upgrader: &Upgrader,
    stream: TcpStream,
    address: SocketAddr,
    id: Id,
    events: mpsc::Sender<Event>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    // What the kernel keeps for a client that does not read is bounded, too.
    SockRef::from(&stream).set_send_buffer_size(SOCKET_SEND_BYTES)?;
    let conn = match upgrader.accept_tcp_with(stream, route).await {
        Ok(conn) => conn,
        Err(UpgradeError::Answered(_) | UpgradeError::Gone) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let control = conn.control();
    let (reader, writer) = conn.split();
    // In the tutorial a client has a channel and a goroutine that writes what comes out of it: here, the pump.
    let (send, pump) = writer.into_sender(WAITING_MAX);
    let ip = address.ip().to_canonical().to_string();
    let mut client = Client { id, connection: reader, send: send.clone(), data: Data::default(), events };
    client.events.send(Event::Register(id, Registered { ip, send, control })).await?;
    // Both halves of the connection in one task, so that none is left behind. The pump ends as soon as the connection
    // is being closed; then the client is still heard out, until it has said goodbye, too.
    let ended = {
        let mut listening = pin!(client.listen());
        tokio::select! {
            ended = &mut listening => ended,
            _ = pump => listening.await,
        }
    };
    // Also when it has no name: the hub knows it.
    client.events.send(Event::Unregister(id)).await?;
    match ended {
        Err(error) if !error.is_clean() => Err(error.into()),
        _ => Ok(()),
    }
}

fn route(asked: &Asked<'_>) -> Decision {
    if asked.is_upgrade() && asked.path() == "/chat" {
        return Acceptance::new().into();
    }
    let Some(file) = page(asked.path()) else { return Answer::new(404, "no such path\n").into() };
    let mut answer = Answer::new(file.status, String::from_utf8_lossy(file.body));
    let fields = file.headers.lines().filter_map(|line| line.split_once(": "));
    for (name, value) in fields.chain([("Content-Type", file.content_type)]) {
        if let Err(error) = answer.set_header(name, value) {
            return Answer::new(500, format!("{name}: {error}\n")).into();
        }
    }
    answer.into()
}

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Id(u64);

/// A connection as its own task sees it.
struct Client {
    id: Id,
    connection: Reader<TcpStream>,
    send: Sender,
    data: Data,
    events: mpsc::Sender<Event>,
}

/// What a client's task remembers of it.
#[derive(Default)]
struct Data {
    rate: Rate,
    /// Messages in a row that were not taken.
    refused: u8,
}

impl Client {
    /// Reads until the connection ends, and brings what may be said to the hub. While that is busy nothing is read:
    /// TCP then tells the client to wait.
    async fn listen(&mut self) -> Result<(), aio::Error> {
        let begun = Instant::now();
        loop {
            let message = self.connection.read().await?;
            if message.kind() == Kind::Binary {
                return self.close(CloseCode::UNSUPPORTED, "chat is text").await;
            }
            let allowed = self.data.rate.allows(begun.elapsed().as_nanos() as u64);
            let input = if allowed { Input::parse(message.as_bytes()) } else { Err(Refused::TooMany) };
            match input {
                Ok(Input::Leave) => return self.close(CloseCode::NORMAL, "goodbye").await,
                Ok(input) => {
                    self.data.refused = 0;
                    let event = Event::Said(self.id, input);
                    self.events.send(event).await.map_err(|_| aio::Error::Closing)?;
                }
                Err(_) if self.data.refused >= CHAT_REFUSALS_MAX => {
                    let reason = "too many messages that cannot be taken";
                    return self.close(CloseCode::POLICY, reason).await;
                }
                Err(why) => {
                    self.data.refused += 1;
                    let event = Event::Refused(self.id, why);
                    self.events.send(event).await.map_err(|_| aio::Error::Closing)?;
                }
            }
        }
    }

    /// Says goodbye behind what is queued, and hears the client out.
    async fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), aio::Error> {
        self.send.close(code, reason).await?;
        Err(self.connection.discard_reads().await)
    }
}

/// What clients tell the hub. The tutorial has a channel for each kind and a `select`, which may then find that
/// somebody spoke before it came; one channel keeps the order.
enum Event {
    Register(Id, Registered),
    Said(Id, Input),
    Refused(Id, Refused),
    Unregister(Id),
}

/// A connection as the hub sees it.
struct Registered {
    ip: String,
    send: Sender,
    control: Control<TcpStream>,
}

/// Knows everyone, and gives what is said its order: being one task, it needs no lock.
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
                    self.tell(id, &Message::handshake());
                }
                Event::Said(id, input) => {
                    if let Err(why) = self.said(id, input) {
                        self.tell(id, &Message::error(&why));
                    }
                }
                Event::Refused(id, why) => self.tell(id, &Message::error(&why)),
                Event::Unregister(id) => self.unregister(id),
            }
        }
    }

    fn said(&mut self, id: Id, input: Input) -> Result<(), Refused> {
        match input {
            Input::Join { name } => {
                let Some(client) = self.clients.get(&id) else { return Ok(()) };
                let message = self.room.join(id, &name, &client.ip)?;
                self.broadcast(&message);
                let users = self.room.users(id)?;
                self.tell(id, &users);
            }
            Input::Broadcast { text } => {
                let message = self.room.broadcast(id, &text)?;
                self.broadcast(&message);
            }
            Input::Private { to, text } => {
                let (receiver, message) = self.room.private(id, &to, &text)?;
                self.tell(receiver, &message);
                if receiver != id {
                    self.tell(id, &message);
                }
            }
            Input::Users => {
                let users = self.room.users(id)?;
                self.tell(id, &users);
            }
            Input::Leave => {}
        }
        Ok(())
    }

    fn broadcast(&mut self, message: &Message) {
        for id in self.room.members().to_vec() {
            self.tell(id, message);
        }
    }

    /// Never waits: a client that lets too much come together is closed instead.
    fn tell(&mut self, id: Id, message: &Message) {
        let Some(client) = self.clients.get(&id) else { return };
        let mut text = Vec::new();
        Message::address(&message.encode(), &client.ip, &mut text);
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        if let Err(TrySendError::Full(_)) = client.send.try_send(text) {
            let control = client.control.clone();
            tokio::spawn(async move { control.close(CloseCode::SLOW_CONSUMER, "slow consumer").await });
            self.unregister(id);
        }
    }

    fn unregister(&mut self, id: Id) {
        self.clients.remove(&id);
        if let Some(message) = self.room.leave(id) {
            self.broadcast(&message);
        }
    }
}
