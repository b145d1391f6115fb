//! The client for Autobahn|Testsuite's fuzzing server: the connection state machine in the client role, on the event loop of a
//! shard.
//!
//! The client requests the number of cases, opens one connection per case and echoes every message on it. At the end it
//! requests the reports. A failed connection does not stop the run, because the suite checks how each case ends. Never:
//! retrying a case, or running on another driver than requested.
//!
//! ```text
//! autobahn_client ws://127.0.0.1:9001 [--driver uring|epoll] [--agent NAME] [--deadline-s SECONDS]
//! ```
//!
//! Prints `client driver=… cases=…` at its end. Exit codes: 0 all cases ran and the reports are written, 1 not, 2 usage, 3 the
//! environment forbids it.
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use echoring_proto::buffer::{Budget, Pool};
use echoring_proto::connection::{self, Cause, Chunk, Closed, Compression, MessageKind, Seed};
use echoring_proto::deflate::{Direction, Preferences, WINDOW_BITS_MAX};
use echoring_proto::handshake::{Dial, Refusal, Request, Response, Upgrade};
use echoring_proto::limits::{Nanos, SECOND};
use echoring_proto::url::Url;
use echoring_runtime::driver::epoll::Epoll;
use echoring_runtime::driver::uring::Uring;
use echoring_runtime::driver::{Driver, Options, Token};
use echoring_runtime::shard::{
    Allowance, Answer, Application, ConnectionContext, Context, Disposition, Kinds, Mailboxes, Shard,
    ShardConfig,
};

/// Cases 9.1.6 and 9.2.6 send this much in one message, the maximum of the suite.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;
/// Bytes of all buffers together: the largest message, its echo, and the same again.
const MEMORY_BYTES_MAX: u64 = 8 * MESSAGE_BYTES_MAX;
/// One connection at a time; the previous one may still be closing.
const CONNECTIONS_MAX: u32 = 16;
/// The server's port listens before its interpreter has loaded the suite.
const HANDSHAKE_TIMEOUT: Nanos = 60 * SECOND;
/// Twice the time of all 517 cases on a slow machine.
const DEADLINE_S_DEFAULT: u64 = 3_600;

const USAGE: &str =
    "usage: autobahn_client ws://ADDR:PORT [--driver uring|epoll] [--agent NAME] [--deadline-s SECONDS]";

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("autobahn_client: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let options = Options { connections: CONNECTIONS_MAX, ..Options::default() };
    let ended = match arguments.driver.as_str() {
        "uring" => Uring::new(&options).map(|driver| run(Driver::Uring(driver), &arguments)),
        _ => Epoll::new(&options).map(|driver| run(Driver::Epoll(driver), &arguments)),
    };
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(problem)) => {
            eprintln!("autobahn_client: {problem}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("autobahn_client: the {} driver is not available: {error}", arguments.driver);
            ExitCode::from(3)
        }
    }
}

#[derive(Debug)]
struct Arguments {
    address: SocketAddr,
    driver: String,
    agent: String,
    deadline_s: u64,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let url = Url::parse(&words.next().ok_or("which server?")?).map_err(|error| error.to_string())?;
        let address = format!("{}:{}", url.host, url.port);
        let mut arguments = Arguments {
            address: address.parse().map_err(|_| format!("{address} is no address with a port"))?,
            driver: "uring".to_owned(),
            agent: "echoring".to_owned(),
            deadline_s: DEADLINE_S_DEFAULT,
        };
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| format!("{flag} wants a value"))?;
            match (flag.as_str(), value.as_str()) {
                ("--driver", "uring" | "epoll") => arguments.driver = value,
                ("--agent", name)
                    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') =>
                {
                    arguments.agent = value;
                }
                ("--deadline-s", _) => {
                    arguments.deadline_s = value.parse().map_err(|_| format!("{value} is no number"))?;
                }
                _ => return Err(format!("{flag} {value} is not understood")),
            }
        }
        Ok(arguments)
    }
}

/// Runs all cases on one shard.
fn run(driver: Driver, arguments: &Arguments) -> Result<(), String> {
    let name = driver.describe().name;
    let deadline = driver.now() + arguments.deadline_s * SECOND;
    let dial = Dial {
        host: arguments.address.to_string(),
        path: String::new(),
        origin: None,
        subprotocols: Vec::new(),
        headers: Vec::new(),
    };
    let config = ShardConfig {
        connection: connection::ConnectionConfig {
            max_message: MESSAGE_BYTES_MAX,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            compression: Some(compression()),
            dial: Some(dial),
            ..connection::ConnectionConfig::default()
        },
        connections: CONNECTIONS_MAX,
        security: Default::default(),
        // Masking keys must be unpredictable (RFC 6455, 10.3).
        seed: Seed::System,
    };
    let connections = u64::from(CONNECTIONS_MAX);
    let shard = Shard::new(
        driver,
        Testee::new(arguments.address, arguments.agent.clone(), deadline),
        config,
        Allowance { pool: Pool::new(Budget::new(MEMORY_BYTES_MAX)), ..Allowance::standalone(connections) },
        Mailboxes::connect(1, 0).remove(0),
    );
    let (testee, _) = shard.run().map_err(|error| format!("the driver failed: {error}"))?;
    let cases = testee.outcome?;
    println!("client driver={name} cases={cases}");
    Ok(())
}

/// All parameters of the extension, and no threshold, so that even the smallest messages come back compressed.
fn compression() -> Compression {
    let direction = Direction { context_takeover: true, window_bits: WINDOW_BITS_MAX };
    let preferences = Preferences { server: direction, client: direction };
    Compression::default().preferences(preferences).threshold_bytes(0)
}

/// The purpose of the current connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Requests the number of cases.
    Count,
    /// Runs one case. Cases are numbered from 1.
    Case(u32),
    /// Requests the reports. The server closes when they are written.
    Reports,
}

/// The application: one connection after the other.
#[derive(Debug)]
struct Testee {
    address: SocketAddr,
    agent: String,
    deadline: Nanos,
    stage: Stage,
    /// Whether the connection of this stage was opened.
    dialled: bool,
    /// Number of cases, once the server has reported it.
    cases: Option<u32>,
    /// Number of cases that ran, or why not all did.
    outcome: Result<u32, String>,
}

impl Testee {
    fn new(address: SocketAddr, agent: String, deadline: Nanos) -> Testee {
        Testee {
            address,
            agent,
            deadline,
            stage: Stage::Count,
            dialled: false,
            cases: None,
            outcome: Err("it was stopped".to_owned()),
        }
    }

    fn path(&self) -> String {
        let agent = &self.agent;
        match self.stage {
            Stage::Count => "/getCaseCount".to_owned(),
            Stage::Case(number) => format!("/runCase?case={number}&agent={agent}"),
            Stage::Reports => format!("/updateReports?agent={agent}"),
        }
    }

    fn dial(&mut self, cx: &mut Context<'_, Testee>) -> io::Result<()> {
        self.dialled = true;
        let path = self.path();
        cx.dial().expect("this shard was set up to dial").path = path;
        cx.connect(&self.address.into(), None, true, ()).map(drop)
    }

    fn end(&mut self, cx: &mut Context<'_, Testee>, outcome: Result<u32, String>) {
        self.outcome = outcome;
        cx.stop();
    }
}

impl Kinds for Testee {
    type Peer = ();
    type Message = ();
}

impl Application for Testee {
    type Kinds = Testee;
    type Command = ();
    type Report = ();

    fn report(&self) {}

    fn request(
        &mut self,
        _: &mut Context<'_, Testee>,
        _: Token,
        _: &Request<'_>,
        _: Option<&Upgrade<'_>>,
    ) -> Answer<()> {
        // No request arrives: this shard does not listen.
        Answer::Refuse(Refusal::NOT_FOUND)
    }

    fn opened(&mut self, _: &mut Context<'_, Testee>, _: Token, response: Option<&Response>) {
        tracing::debug!(stage = ?self.stage, ?response, "open");
    }

    fn chunk(&mut self, _: &mut ConnectionContext<'_, Testee>, chunk: Chunk<'_>) -> Disposition {
        match self.stage {
            Stage::Case(_) => return Disposition::Echo,
            Stage::Count if chunk.kind == MessageKind::Text => {
                let text = str::from_utf8(chunk.payload).unwrap_or_default();
                self.cases = text.trim().parse().ok();
            }
            Stage::Count | Stage::Reports => {}
        }
        Disposition::Done
    }

    fn closed(
        &mut self,
        cx: &mut Context<'_, Testee>,
        _: Token,
        (): (),
        Closed { code, cause, .. }: &Closed,
    ) {
        self.dialled = false;
        self.stage = match (self.stage, self.cases) {
            (Stage::Count, None) => {
                let problem =
                    format!("the server did not tell its number of cases ({code:?}, {})", cause.name());
                return self.end(cx, Err(problem));
            }
            (Stage::Count, Some(0)) => Stage::Reports,
            (Stage::Count, Some(_)) => Stage::Case(1),
            (Stage::Case(number), Some(cases)) if number < cases => Stage::Case(number + 1),
            (Stage::Case(_), _) => Stage::Reports,
            (Stage::Reports, cases) => {
                let written = *cause == Cause::Peer;
                let problem = || format!("the reports were not written ({})", cause.name());
                let outcome = if written { Ok(cases.unwrap_or(0)) } else { Err(problem()) };
                return self.end(cx, outcome);
            }
        };
    }

    fn tick_ended(&mut self, cx: &mut Context<'_, Testee>) {
        if cx.now() >= self.deadline {
            let problem = format!("the deadline has passed at {:?} of {:?}", self.stage, self.cases);
            return self.end(cx, Err(problem));
        }
        if !self.dialled
            && let Err(error) = self.dial(cx)
        {
            self.end(cx, Err(format!("no socket could be made: {error}")));
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        Some(if self.dialled { self.deadline } else { 0 })
    }
}
