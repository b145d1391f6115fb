//! A WebSocket server with one known fault, which it repeats and counts. It is written with tungstenite on blocking threads,
//! so that it shares no code with the program under test. It echoes, and under `/broadcast/` relays to all other clients.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Message, WebSocket};

/// Messages that are kept to be looked at.
const HEARD_MAX: usize = 2_000;

/// Receive buffer of a server that stops reading: so much of what it never reads is taken.
const DEAF_BYTES: usize = 64 * 1024;

/// What is wrong with the server. Numbers count the messages on their way to one connection, from 1.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Nothing.
    Nothing,
    /// Each so many-th is not sent.
    Drop(u64),
    /// Each so many-th is sent twice.
    Duplicate(u64),
    /// Each so many-th is sent after the one that follows.
    Swap(u64),
    /// In each so many-th one byte is another, each time in another place.
    Flip(u64),
    /// Behind so many comes a Close frame with this code.
    Close(u64, u16),
    /// Every so often nothing is done for so long, on all connections at once.
    Stall(Duration, Duration),
    /// Every answer comes so much later.
    Late(Duration),
    /// Each so many-th answer comes so much later.
    LateEach(u64, Duration),
    /// Each so many-th is sent so much later, the others so much later, and nobody waits for anybody.
    Postpone(u64, Duration, Duration),
    /// The same, and what is sent are two letters.
    Shrug(u64, Duration, Duration),
    /// Behind so many nothing is sent any more.
    Mute(u64),
    /// Behind so many nothing is read any more.
    Deaf(u64),
}

/// What the server did.
#[derive(Debug, Default)]
pub struct Counts {
    /// Faults that it made.
    pub planted: AtomicU64,
    /// Messages that it owed when the connection was over, or closing by its own will.
    pub unanswered: AtomicU64,
    /// Messages that it got.
    pub received: AtomicU64,
    /// By how much its longest pause was longer than it was to be, in nanoseconds. One that stalls pauses all the time.
    pub overslept_ns: AtomicU64,
    /// The most messages that one connection had got no answer to at once.
    pub most_awaited: AtomicU64,
}

/// The server. It takes connections until the test's process ends.
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Fault,
    begun: Instant,
    counts: Counts,
    heard: Mutex<Vec<Message>>,
    /// Ways to all connections.
    room: Mutex<Vec<Arc<Mutex<Lane>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What is to be sent later, by when and a number.
    postponed: (Mutex<Postponed>, Condvar),
    /// Whether those who read nothing need not stay any longer.
    over: (Mutex<bool>, Condvar),
}

type Postponed = BTreeMap<(Instant, u64), (Arc<Mutex<Lane>>, Message)>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread of the server panics")
}

impl Server {
    pub fn start(fault: Fault) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        if let Fault::Deaf(_) = fault {
            // Connections inherit it. Without a size, the kernel enlarges the buffer of a server that has read fast, up to
            // net.ipv4.tcp_rmem.
            SockRef::from(&listener).set_recv_buffer_size(DEAF_BYTES).expect("a buffer");
        }
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared {
            fault,
            begun: Instant::now(),
            counts: Counts::default(),
            heard: Mutex::default(),
            room: Mutex::default(),
            threads: Mutex::default(),
            postponed: (Mutex::default(), Condvar::new()),
            over: (Mutex::default(), Condvar::new()),
        });
        let server = Server { address, shared: shared.clone() };
        if let Fault::Postpone(..) | Fault::Shrug(..) = fault {
            let shared = shared.clone();
            thread::spawn(move || shared.send_postponed());
        }
        if let Fault::Stall(..) = fault {
            let shared = shared.clone();
            thread::spawn(move || shared.watch());
        }
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, theirs) = (stream.expect("a connection"), shared.clone());
                // Locked before it starts: whoever joins the threads finds each that has.
                lock(&shared.threads).push(thread::spawn(move || serve(stream, &theirs)));
            }
        });
        server
    }

    /// Waits until all connections are over, and tells what was done on them.
    pub fn finish(&self) -> &Counts {
        let (over, told) = &self.shared.over;
        *lock(over) = true;
        told.notify_all();
        let threads = std::mem::take(&mut *lock(&self.shared.threads));
        for thread in threads {
            thread.join().expect("no thread of the server panics");
        }
        &self.shared.counts
    }

    /// The first of the messages that came.
    pub fn heard(&self) -> Vec<Message> {
        lock(&self.shared.heard).clone()
    }
}

/// The way to one connection.
struct Lane {
    socket: WebSocket<TcpStream>,
    /// Messages that were to go this way.
    messages: u64,
    /// Of those, messages that have not been sent.
    awaited: u64,
    held: Option<Message>,
    closed: bool,
}

fn serve(stream: TcpStream, shared: &Shared) {
    stream.set_nodelay(true).expect("TCP");
    let out = stream.try_clone().expect("a descriptor");
    let lane = Arc::new(Mutex::new(Lane {
        socket: WebSocket::from_raw_socket(out, Role::Server, None),
        messages: 0,
        awaited: 0,
        held: None,
        closed: false,
    }));
    let mut relays = false;
    #[allow(clippy::result_large_err)]
    let judge = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        relays = request.uri().path().starts_with("/broadcast/");
        // In the room before the 101 leaves: whoever has it gets everything that is sent from then on.
        lock(&shared.room).push(lane.clone());
        Ok(response)
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, judge) else { return };
    while let Ok(message) = socket.read() {
        shared.stay_deaf(&lane);
        match message {
            Message::Text(_) | Message::Binary(_) => {
                shared.hear(&message);
                if relays {
                    shared.relay(&lane, &message);
                } else {
                    shared.deliver(&lane, message);
                }
            }
            Message::Close(_) => break,
            _ => {}
        }
    }
    let mut lane = lock(&lane);
    let owed = u64::from(lane.held.take().is_some()) + lane.awaited;
    shared.counts.unanswered.fetch_add(owed, Ordering::Relaxed);
    if !lane.closed {
        // The answer to the peer's Close; one that is gone hears nothing.
        let _ = socket.flush();
    }
    let _ = socket.get_ref().shutdown(std::net::Shutdown::Both);
}

impl Shared {
    fn hear(&self, message: &Message) {
        self.counts.received.fetch_add(1, Ordering::Relaxed);
        let mut heard = lock(&self.heard);
        if heard.len() < HEARD_MAX {
            heard.push(message.clone());
        }
    }

    /// Locked until all have it: what several publish is in one order for all.
    fn relay(&self, from: &Arc<Mutex<Lane>>, message: &Message) {
        for other in lock(&self.room).iter().filter(|other| !Arc::ptr_eq(other, from)) {
            self.deliver(other, message.clone());
        }
    }

    fn deliver(&self, lane: &Arc<Mutex<Lane>>, message: Message) {
        let (number, late, soon) = match self.fault {
            Fault::Postpone(number, late, soon) | Fault::Shrug(number, late, soon) => (number, late, soon),
            _ => return lock(lane).deliver(message, self),
        };
        let mut own = lock(lane);
        own.messages += 1;
        own.awaited += 1;
        self.counts.most_awaited.fetch_max(own.awaited, Ordering::Relaxed);
        let is_late = own.messages.is_multiple_of(number);
        drop(own);
        self.counts.planted.fetch_add(u64::from(is_late), Ordering::Relaxed);
        let message = if let Fault::Shrug(..) = self.fault { Message::text("ok") } else { message };
        let due = Instant::now() + if is_late { late } else { soon };
        let (postponed, told) = &self.postponed;
        let mut postponed = lock(postponed);
        // Their number keeps those apart that are due at one time.
        let number = postponed.len() as u64 + 1;
        let free =
            (number..).find(|number| !postponed.contains_key(&(due, *number))).expect("there are many");
        postponed.insert((due, free), (lane.clone(), message));
        told.notify_all();
    }

    /// Sends what is due, for ever.
    fn send_postponed(&self) {
        let (postponed, told) = &self.postponed;
        let mut waiting = lock(postponed);
        loop {
            let now = Instant::now();
            let Some((&(due, number), _)) = waiting.first_key_value() else {
                waiting = told.wait(waiting).expect("no thread of the server panics");
                continue;
            };
            if due > now {
                waiting = told.wait_timeout(waiting, due - now).expect("no thread of the server panics").0;
                continue;
            }
            let (lane, message) = waiting.remove(&(due, number)).expect("it was just there");
            drop(waiting);
            let mut own = lock(&lane);
            own.awaited -= 1;
            own.write(message);
            // One that is gone hears nothing.
            let _ = own.socket.flush();
            drop(own);
            waiting = lock(postponed);
        }
    }

    /// Waits until all is over where nothing is to be read any more.
    fn stay_deaf(&self, lane: &Mutex<Lane>) {
        let Fault::Deaf(after) = self.fault else { return };
        if lock(lane).messages < after {
            return;
        }
        self.counts.planted.fetch_add(1, Ordering::Relaxed);
        let (over, told) = &self.over;
        let waited = told.wait_while(lock(over), |over| !*over);
        drop(waited.expect("no thread of the server panics"));
    }

    /// Notes how long this process is not run, also between its pauses.
    fn watch(&self) {
        while !*lock(&self.over.0) {
            self.pause(Duration::from_millis(1));
        }
    }

    fn pause(&self, time: Duration) {
        let before = Instant::now();
        thread::sleep(time);
        let over = before.elapsed().saturating_sub(time);
        self.counts.overslept_ns.fetch_max(over.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Lane {
    fn deliver(&mut self, message: Message, shared: &Shared) {
        if self.closed {
            shared.counts.unanswered.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.messages += 1;
        let nth = |number: u64| self.messages.is_multiple_of(number);
        let plant = || shared.counts.planted.fetch_add(1, Ordering::Relaxed);
        match shared.fault {
            Fault::Drop(number) if nth(number) => {
                plant();
                return;
            }
            Fault::Duplicate(number) if nth(number) => {
                plant();
                self.write(message.clone());
                self.write(message);
            }
            Fault::Swap(number) if nth(number) => {
                self.held = Some(message);
                return;
            }
            Fault::Flip(number) if nth(number) => {
                let place = plant();
                self.write(flipped(&message, place as usize));
            }
            Fault::Stall(every, time) => {
                let left = time.checked_sub(remainder(shared.begun.elapsed(), every));
                if let Some(left) = left.filter(|left| !left.is_zero()) {
                    plant();
                    shared.pause(left);
                }
                self.write(message);
            }
            Fault::Late(time) => {
                shared.pause(time);
                self.write(message);
            }
            Fault::LateEach(number, time) => {
                if nth(number) {
                    plant();
                    shared.pause(time);
                }
                self.write(message);
            }
            Fault::Mute(after) if self.messages > after => {
                plant();
                return;
            }
            _ => self.write(message),
        }
        if let Some(held) = self.held.take() {
            plant();
            self.write(held);
        }
        if let Fault::Close(after, code) = shared.fault
            && self.messages == after
        {
            plant();
            self.closed = true;
            let frame = CloseFrame { code: code.into(), reason: "planted".into() };
            self.write(Message::Close(Some(frame)));
        }
        // What belongs together leaves together. One that is gone hears nothing.
        let _ = self.socket.flush();
    }

    fn write(&mut self, message: Message) {
        let _ = self.socket.write(message);
    }
}

fn remainder(time: Duration, every: Duration) -> Duration {
    Duration::from_nanos((time.as_nanos() % every.as_nanos()) as u64)
}

/// The same with the lowest bit of one byte flipped, which leaves ASCII what it is.
fn flipped(message: &Message, place: usize) -> Message {
    let mut bytes = message.clone().into_data().to_vec();
    let at = place % bytes.len();
    bytes[at] ^= 1;
    match message {
        Message::Text(_) => Message::text(String::from_utf8(bytes).expect("ASCII was sent")),
        _ => Message::binary(bytes),
    }
}
