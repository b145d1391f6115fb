//! The application that `scripts/compare-tools` measures load tools with: JSON-RPC 2.0 over WebSocket, with a log that says
//! what the tools had to find.
//!
//! Each user logs in with the header `Authorization: Bearer user-N`. A request is answered after a delay that is drawn from
//! the user and the id of the request, so that answers come out of order, and every run has the same delays. Each period
//! the whole process stalls. The log has all of it, on the clock of the wall:
//!
//! ```text
//! request,USER,ID,SENT_NS,READ_NS,DELAY_NS,WRITTEN_NS     SENT_NS: the client's own time, from `params.sent_us`
//! stall,START_NS,END_NS                                   planned
//! pause,START_NS,END_NS                                   the host did not run the process, or it worked, for 200 µs or more
//! clock,STEP_NS                                           by how much the clock was set during the run
//! ```
//!
//! `READ_NS` is when the application had the request, `WRITTEN_NS` when it wrote the answer. The process
//! never sleeps outside its stalls: it needs a CPU of its own, and neither timers nor wake-ups blur its times.
//!
//! ```text
//! application LOG MEAN_DELAY_US STALL_MS PERIOD_MS
//! ```
//!
//! It ends when its standard input does, and then writes the log.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response, ServerHandshake};
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::http::StatusCode;
use tungstenite::{Message, WebSocket};

/// A turn of the loop that takes longer is a pause.
const PAUSE: Duration = Duration::from_micros(200);
/// Longest delay, in means. The rare longer ones would make the maximum a matter of luck.
const MEANS_MAX: f64 = 8.0;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [log, mean, stall, period] = arguments.as_slice() else {
        return Err("usage: application LOG MEAN_DELAY_US STALL_MS PERIOD_MS".into());
    };
    let plan = Plan { mean: micros(mean)?, stall: 1000 * micros(stall)?, period: 1000 * micros(period)? };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    println!("listening ws://{} pid={}", listener.local_addr()?, std::process::id());
    let over = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&over);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        end.store(true, Ordering::Relaxed);
    });
    let mut application = Application::new(listener, plan);
    while !over.load(Ordering::Relaxed) {
        application.turn();
    }
    Ok(application.write_log(log)?)
}

fn micros(text: &str) -> Result<Duration, <u64 as FromStr>::Err> {
    Ok(Duration::from_micros(text.parse()?))
}

struct Plan {
    /// Mean of the delays, which have an exponential distribution.
    mean: Duration,
    stall: Duration,
    /// From the start of a stall to the start of the next.
    period: Duration,
}

impl Plan {
    /// The delay of a request: the same in every run.
    fn delay(&self, user: u64, id: u64) -> Duration {
        // SplitMix64, whose output is uniform for any input.
        let mut bits = (user << 40 ^ id).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let uniform = ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        self.mean.mul_f64((-(1.0 - uniform).ln()).min(MEANS_MAX))
    }
}

struct Application {
    listener: TcpListener,
    plan: Plan,
    peers: Vec<Peer>,
    due: BinaryHeap<Reverse<Answer>>,
    requests: Vec<Entry>,
    stalls: Vec<(Instant, Instant)>,
    pauses: Vec<(Instant, Instant)>,
    clock: Clock,
    turned: Instant,
    stall_due: Instant,
}

/// An answer that is not due yet. The order of the members is that of the heap.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    at: Instant,
    /// Index in `requests`.
    request: usize,
    /// Index in `peers`.
    peer: usize,
    text: String,
}

/// A request, as it is in the log.
struct Entry {
    user: u64,
    id: u64,
    sent_us: u64,
    read: Instant,
    delay: Duration,
    written: Option<Instant>,
}

#[derive(Deserialize)]
struct Call {
    id: u64,
    params: Params,
}

#[derive(Deserialize)]
struct Params {
    sent_us: u64,
    text: String,
}

#[derive(Serialize)]
struct Reply<'a> {
    jsonrpc: &'static str,
    id: u64,
    result: Quote<'a>,
}

#[derive(Serialize)]
struct Quote<'a> {
    text: &'a str,
}

impl Application {
    fn new(listener: TcpListener, plan: Plan) -> Application {
        let clock = Clock::new();
        let now = Instant::now();
        Application {
            listener,
            stall_due: now + plan.period,
            plan,
            peers: Vec::new(),
            due: BinaryHeap::new(),
            requests: Vec::with_capacity(1 << 20),
            stalls: Vec::new(),
            pauses: Vec::new(),
            clock,
            turned: now,
        }
    }

    /// Accepts, reads at most one request of each user, and writes the answers that are due.
    fn turn(&mut self) {
        let now = Instant::now();
        if now - self.turned >= PAUSE {
            self.pauses.push((self.turned, now));
        }
        self.turned = now;
        if now >= self.stall_due {
            std::thread::sleep(self.plan.stall);
            self.turned = Instant::now();
            self.stalls.push((now, self.turned));
            self.stall_due += self.plan.period;
        }
        if let Ok((stream, _)) = self.listener.accept() {
            self.peers.push(Peer::accept(stream));
        }
        for peer in 0..self.peers.len() {
            if let Some((user, call)) = self.peers[peer].next() {
                self.take(peer, user, call);
            }
        }
        self.answer();
    }

    fn take(&mut self, peer: usize, user: u64, call: Call) {
        let (read, delay) = (Instant::now(), self.plan.delay(user, call.id));
        let Params { sent_us, text } = call.params;
        self.due.push(Reverse(Answer { at: read + delay, request: self.requests.len(), peer, text }));
        self.requests.push(Entry { user, id: call.id, sent_us, read, delay, written: None });
    }

    fn answer(&mut self) {
        while self.due.peek().is_some_and(|Reverse(first)| first.at <= Instant::now()) {
            let Some(Reverse(Answer { request, peer, text, .. })) = self.due.pop() else { return };
            let id = self.requests[request].id;
            let reply = Reply { jsonrpc: "2.0", id, result: Quote { text: &text } };
            let now = Instant::now();
            if self.peers[peer].send(&reply) {
                self.requests[request].written = Some(now);
            }
        }
    }

    fn write_log(&self, path: &str) -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for Entry { user, id, sent_us, read, delay, written } in &self.requests {
            let (sent, read, delay) = (sent_us * 1000, self.clock.ns(*read), delay.as_nanos());
            let written = written.map(|at| self.clock.ns(at).to_string()).unwrap_or_default();
            writeln!(file, "request,{user},{id},{sent},{read},{delay},{written}")?;
        }
        for (kind, spans) in [("stall", &self.stalls), ("pause", &self.pauses)] {
            for (start, end) in spans {
                writeln!(file, "{kind},{},{}", self.clock.ns(*start), self.clock.ns(*end))?;
            }
        }
        writeln!(file, "clock,{}", self.clock.step_ns())?;
        file.flush()
    }
}

/// Converts monotonic times into times of the wall.
struct Clock {
    instant: Instant,
    wall: SystemTime,
}

impl Clock {
    /// Reads both clocks at once. Of several attempts, the one with the least time between them counts.
    fn new() -> Clock {
        const ATTEMPTS: usize = 100;
        let attempts = (0..ATTEMPTS).map(|_| {
            let (instant, wall) = (Instant::now(), SystemTime::now());
            (instant.elapsed(), Clock { instant, wall })
        });
        attempts.min_by_key(|(between, _)| *between).map(|(_, clock)| clock).expect("there are attempts")
    }

    fn ns(&self, at: Instant) -> u128 {
        since_1970(self.wall) + at.saturating_duration_since(self.instant).as_nanos()
    }

    /// By how much the wall's clock was set since the start.
    fn step_ns(&self) -> i128 {
        let now = Clock::new();
        since_1970(now.wall) as i128 - self.ns(now.instant) as i128
    }
}

fn since_1970(at: SystemTime) -> u128 {
    at.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos())
}

/// A connection.
enum Peer {
    Opening(MidHandshake<ServerHandshake<TcpStream, Login>>, Arc<AtomicU64>),
    Open { user: u64, socket: WebSocket<TcpStream> },
    Closed,
}

impl Peer {
    fn accept(stream: TcpStream) -> Peer {
        if stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).is_err() {
            return Peer::Closed;
        }
        let user = Arc::default();
        Peer::opened(tungstenite::accept_hdr(stream, Login(Arc::clone(&user))), user)
    }

    fn opened(
        result: Result<WebSocket<TcpStream>, HandshakeError<ServerHandshake<TcpStream, Login>>>,
        user: Arc<AtomicU64>,
    ) -> Peer {
        match result {
            Ok(socket) => Peer::Open { user: user.load(Ordering::Relaxed), socket },
            Err(HandshakeError::Interrupted(rest)) => Peer::Opening(rest, user),
            Err(HandshakeError::Failure(_)) => Peer::Closed,
        }
    }

    /// The next request, if one has come. A message that is no request closes the connection.
    fn next(&mut self) -> Option<(u64, Call)> {
        match std::mem::replace(self, Peer::Closed) {
            Peer::Opening(rest, user) => *self = Peer::opened(rest.handshake(), user),
            Peer::Closed => {}
            Peer::Open { user, mut socket } => {
                let result = socket.read();
                let call = match &result {
                    Ok(Message::Text(text)) => serde_json::from_str(text).ok(),
                    _ => None,
                };
                let open = match result {
                    Ok(Message::Text(_)) => call.is_some(),
                    Ok(Message::Binary(_)) => false,
                    Ok(_) => true,
                    Err(error) => would_block(&error),
                };
                if open {
                    *self = Peer::Open { user, socket };
                }
                return call.map(|call| (user, call));
            }
        }
        None
    }

    /// Sends an answer. What the socket refuses leaves with the next read or answer.
    fn send(&mut self, reply: &Reply<'_>) -> bool {
        let (Peer::Open { socket, .. }, Ok(text)) = (self, serde_json::to_string(reply)) else {
            return false;
        };
        socket.send(Message::text(text)).map_or_else(|error| would_block(&error), |()| true)
    }
}

fn would_block(error: &tungstenite::Error) -> bool {
    matches!(error, tungstenite::Error::Io(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Refuses who names no user, and keeps the number of the user.
struct Login(Arc<AtomicU64>);

impl Callback for Login {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let user = header.and_then(|value| value.strip_prefix("Bearer user-")?.parse().ok());
        let Some(user) = user else {
            let mut refusal = ErrorResponse::new(None);
            *refusal.status_mut() = StatusCode::UNAUTHORIZED;
            return Err(refusal);
        };
        self.0.store(user, Ordering::Relaxed);
        Ok(response)
    }
}
