//! The asynchronous connection for Autobahn|Testsuite, in both roles, over tokio or tokio-uring: an echo server, and a client that
//! echoes the messages of the suite's fuzzing server.
//!
//! A failed connection does not stop the run, because the suite checks how each case ends. Never: retrying a case.
//!
//! ```text
//! autobahn_aio serve [--runtime tokio|tokio-uring]
//! autobahn_aio client ws://127.0.0.1:9001 [--runtime tokio|tokio-uring] [--agent NAME] [--deadline-s SECONDS]
//! ```
//!
//! The server prints `listening ws://… driver=RUNTIME …` and runs until SIGTERM. The client prints `client driver=RUNTIME cases=…`
//! at its end. Exit codes: 0 success, 1 failure, 2 usage.
#![forbid(unsafe_code)]

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use echoring_async::{Conn, DialError, Dialer, Listener, Transport, UpgradeError, Upgrader};
use echoring_proto::connection::Compression;
use echoring_proto::deflate::{Direction, Preferences, WINDOW_BITS_MAX};
use tokio::signal::unix::{SignalKind, signal};

/// Cases 9.1.6 and 9.2.6 send this much in one message, the maximum of the suite.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;
/// The suite's port listens before its interpreter has loaded the suite.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Twice the time of all 517 cases on a slow machine.
const DEADLINE_S_DEFAULT: u64 = 3_600;

const USAGE: &str = "usage: autobahn_aio serve [--runtime tokio|tokio-uring]\n       autobahn_aio client ws://ADDR:PORT [--runtime …] [--agent NAME] [--deadline-s SECONDS]";

type Problem = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some(command) = command(&words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let Flags { runtime, agent, deadline } = command.flags;
    let work = async {
        match command.url {
            None => serve(runtime).await,
            Some(url) => tokio::time::timeout(deadline, run_cases(&url, &agent, runtime))
                .await
                .map_err(Problem::from)?,
        }
    };
    let done = match runtime {
        Runtime::Tokio => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime can be made"), work)
        }
        Runtime::TokioUring => tokio_uring::start(work),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("autobahn_aio: {problem}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Runtime {
    Tokio,
    TokioUring,
}

impl Runtime {
    fn name(self) -> &'static str {
        match self {
            Runtime::Tokio => "tokio",
            Runtime::TokioUring => "tokio-uring",
        }
    }
}

struct Command {
    /// That of the fuzzing server; none for a server.
    url: Option<String>,
    flags: Flags,
}

struct Flags {
    runtime: Runtime,
    agent: String,
    deadline: Duration,
}

fn command(words: &[&str]) -> Option<Command> {
    match words {
        ["serve", rest @ ..] => Some(Command { url: None, flags: flags(rest)? }),
        ["client", url, rest @ ..] => Some(Command { url: Some((*url).to_owned()), flags: flags(rest)? }),
        _ => None,
    }
}

fn flags(mut words: &[&str]) -> Option<Flags> {
    let deadline = Duration::from_secs(DEADLINE_S_DEFAULT);
    let mut flags = Flags { runtime: Runtime::Tokio, agent: "echoring".to_owned(), deadline };
    while let [flag, value, rest @ ..] = words {
        match (*flag, *value) {
            ("--runtime", "tokio") => flags.runtime = Runtime::Tokio,
            ("--runtime", "tokio-uring") => flags.runtime = Runtime::TokioUring,
            ("--agent", name) if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => {
                flags.agent = name.to_owned();
            }
            ("--deadline-s", seconds) => flags.deadline = Duration::from_secs(seconds.parse().ok()?),
            _ => return None,
        }
        words = rest;
    }
    words.is_empty().then_some(flags)
}

/// All parameters of the extension, and no threshold, so that even the smallest messages come back compressed.
fn compression() -> Compression {
    let direction = Direction { context_takeover: true, window_bits: WINDOW_BITS_MAX };
    let preferences = Preferences { server: direction, client: direction };
    Compression::default().preferences(preferences).threshold_bytes(0)
}

async fn serve(runtime: Runtime) -> Result<(), Problem> {
    let listener = Listener::bind("127.0.0.1:0").await?;
    let (address, name, pid) = (listener.local_addr()?, runtime.name(), std::process::id());
    println!("listening ws://{address} driver={name} shards=1 pid={pid}");
    let upgrader = Upgrader::new().compression(compression()).max_message(MESSAGE_BYTES_MAX);
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = terminate.recv() => return Ok(()),
        };
        let upgrader = upgrader.clone();
        // The connections on a ring stay on its thread.
        tokio::task::spawn_local(async move {
            match runtime {
                Runtime::Tokio => upgrader.accept_tcp(stream).await.map(|conn| Box::pin(echo(conn)) as Echo),
                Runtime::TokioUring => {
                    upgrader.accept_uring(stream).await.map(|conn| Box::pin(echo(conn)) as Echo)
                }
            }?
            .await;
            Ok::<(), UpgradeError>(())
        });
    }
}

type Echo = Pin<Box<dyn Future<Output = ()>>>;

async fn echo<S: Transport>(mut conn: Conn<S>) {
    while let Ok(message) = conn.read().await {
        if conn.write(message).await.is_err() {
            // The peer may have sent a Close frame; reading it answers it.
            conn.discard_reads().await;
            return;
        }
    }
}

async fn run_cases(url: &str, agent: &str, runtime: Runtime) -> Result<(), Problem> {
    let dialer = Dialer::new()
        .compression(compression())
        .max_message(MESSAGE_BYTES_MAX)
        .handshake_timeout(HANDSHAKE_TIMEOUT);
    let mut asking = dialer.dial(&format!("{url}/getCaseCount")).await?;
    let count = asking.read().await?;
    let cases: u32 = count.as_text().unwrap_or_default().trim().parse()?;
    asking.discard_reads().await;
    for case in 1..=cases {
        let url = format!("{url}/runCase?case={case}&agent={agent}");
        let opened = match runtime {
            Runtime::Tokio => dialer.dial(&url).await.map(|conn| Box::pin(echo(conn)) as Echo),
            Runtime::TokioUring => dialer.dial_uring(&url).await.map(|conn| Box::pin(echo(conn)) as Echo),
        };
        match opened {
            Ok(echo) => echo.await,
            // The suite checks how the case ended.
            Err(DialError::BadHandshake { .. } | DialError::Closed) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let error = dialer.dial(&format!("{url}/updateReports?agent={agent}")).await?.discard_reads().await;
    if !error.is_clean() {
        return Err(format!("the reports were not written: {error}").into());
    }
    println!("client driver={} cases={cases}", runtime.name());
    Ok(())
}
