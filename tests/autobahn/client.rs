//! The client that Autobahn|Testsuite's fuzzing server puts to the test: the crate's own connections in the
//! client role, on the crate's own event loop.
//!
//! The fuzzing server is asked how many cases it has, each case is a connection of its own on which every
//! message is sent back, and at the end the server is asked to write its reports. How a case ends is the
//! server's to judge: a connection that fails is no reason to stop. It must never retry a case, and never run
//! on a driver other than the one it was told.
//!
//! ```text
//! autobahn_client ws://127.0.0.1:9001 [--driver uring|epoll] [--agent NAME] [--deadline-s SECONDS]
//! ```
//!
//! Prints `client driver=… cases=…` when it is through. Exit codes: 0 all cases were run and the reports are
//! written, 1 they were not, 2 usage, 3 the environment forbids it.
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use echoring::buffer::{Budget, Pool};
use echoring::connection::{self, Cause, Chunk, Closed, Compression, Kind, Seed};
use echoring::driver::epoll::Epoll;
use echoring::driver::uring::Uring;
use echoring::driver::{Driver, Features, Options, Token};
use echoring::limits::{Nanos, SECOND};
use echoring::protocol::deflate::{Direction, Preferences, WINDOW_BITS_MAX};
use echoring::protocol::handshake::{Dial, Refusal, Request, Response, Upgrade};
use echoring::protocol::url::Url;
use echoring::shard::{
    Allowance, Answer, Application, Config, Context, Disposition, Link, Mailboxes, Shard, system_seed,
};

/// Cases 9.1.6 and 9.2.6 send as much in one message; nothing sends more.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;
/// All buffers together: the largest message as it came, its echo on the way out, and as much again.
const MEMORY_BYTES_MAX: u64 = 8 * MESSAGE_BYTES_MAX;
/// One connection at a time; a second one may still be on its way out.
const CONNECTIONS_MAX: u32 = 16;
/// The server's port listens before its interpreter has loaded the suite.
const HANDSHAKE_TIMEOUT: Nanos = 60 * SECOND;
/// Twice what all 517 cases take on a slow machine.
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
    let options = Options { connections: CONNECTIONS_MAX, without: Features::NONE, receive_bytes: 0 };
    let ended = match arguments.driver.as_str() {
        "uring" => Uring::new(&options).map(|driver| run(driver, &arguments)),
        _ => Epoll::new(&options).map(|driver| run(driver, &arguments)),
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
fn run<D: Driver>(driver: D, arguments: &Arguments) -> Result<(), String> {
    let name = driver.describe().name;
    let deadline = driver.now() + arguments.deadline_s * SECOND;
    let dial = Dial {
        host: arguments.address.to_string(),
        path: String::new(),
        origin: None,
        subprotocols: Vec::new(),
        headers: Vec::new(),
    };
    let config = Config {
        connection: connection::Config {
            message_bytes_max: MESSAGE_BYTES_MAX,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            compression: Some(compression()),
            dial: Some(dial),
            ..connection::Config::default()
        },
        connections: CONNECTIONS_MAX,
        security: Default::default(),
        // Masking keys must be unpredictable (RFC 6455, 10.3).
        seed: Seed::Source(system_seed),
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

/// All that the extension can do, for every message, so that even the smallest come back compressed.
fn compression() -> Compression {
    let direction = Direction { takeover: true, window_bits: WINDOW_BITS_MAX };
    let preferences = Preferences { server: direction, client: direction };
    Compression { preferences, threshold_bytes: 0, ..Compression::default() }
}

/// What the connection of the moment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Asking how many cases there are.
    Count,
    /// Running one, from 1 on.
    Case(u32),
    /// Having the reports written; the server closes when they are.
    Reports,
}

/// The application: one connection after the other.
#[derive(Debug)]
struct Testee {
    address: SocketAddr,
    agent: String,
    deadline: Nanos,
    stage: Stage,
    /// Whether the stage's connection was made.
    dialled: bool,
    /// Cases there are, once the server has said so.
    cases: Option<u32>,
    /// Cases that were run, or why not all of them were.
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

    fn dial<D: Driver>(&mut self, cx: &mut Context<'_, D, Testee>) -> io::Result<()> {
        self.dialled = true;
        let path = self.path();
        cx.dial().expect("this shard was set up to dial").path = path;
        cx.connect(self.address, None, true, ()).map(drop)
    }

    fn end<D: Driver>(&mut self, cx: &mut Context<'_, D, Testee>, outcome: Result<u32, String>) {
        self.outcome = outcome;
        cx.stop();
    }
}

impl Application for Testee {
    type Peer = ();
    type Message = ();
    type Ask = ();

    fn request<D: Driver>(
        &mut self,
        _: &mut Context<'_, D, Testee>,
        _: Token,
        _: &Request<'_>,
        _: Option<&Upgrade<'_>>,
    ) -> Answer<()> {
        // Nobody can ask: this shard does not listen.
        Answer::Refuse(Refusal::NOT_FOUND)
    }

    fn opened<D: Driver>(&mut self, _: &mut Context<'_, D, Testee>, _: Token, response: Option<&Response>) {
        tracing::debug!(stage = ?self.stage, ?response, "open");
    }

    fn chunk(&mut self, _: &mut Link<'_, Testee>, chunk: Chunk<'_>) -> Disposition {
        match self.stage {
            Stage::Case(_) => return Disposition::Echo,
            Stage::Count if chunk.kind == Kind::Text => {
                let text = str::from_utf8(chunk.payload).unwrap_or_default();
                self.cases = text.trim().parse().ok();
            }
            Stage::Count | Stage::Reports => {}
        }
        Disposition::Done
    }

    fn closed<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Testee>,
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

    fn turn_ended<D: Driver>(&mut self, cx: &mut Context<'_, D, Testee>) {
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
