//! The asynchronous connection for Autobahn|Testsuite, in both roles, over tokio: an echo server, and a client that echoes the
//! messages of the suite's fuzzing server.
//!
//! A failed connection does not stop the run, because the suite checks how each case ends. Never: retrying a case.
//!
//! ```text
//! autobahn_aio serve
//! autobahn_aio client ws://127.0.0.1:9001 [--agent NAME] [--deadline-s SECONDS]
//! ```
//!
//! The server prints `listening ws://… driver=tokio …` and runs until SIGTERM. The client prints `client driver=tokio cases=…` at
//! its end. Exit codes: 0 success, 1 failure, 2 usage.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use echoring_async::{Conn, DialError, Dialer, Listener, Transport, Upgrader};
use echoring_proto::connection::Compression;
use echoring_proto::deflate::{Direction, Preferences, WINDOW_BITS_MAX};
use tokio::signal::unix::{SignalKind, signal};

/// Cases 9.1.6 and 9.2.6 send this much in one message, the maximum of the suite.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;
/// The suite's port listens before its interpreter has loaded the suite.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Twice the time of all 517 cases on a slow machine.
const DEADLINE_S_DEFAULT: u64 = 3_600;

const USAGE: &str = "usage: autobahn_aio serve\n       autobahn_aio client ws://ADDR:PORT [--agent NAME] [--deadline-s SECONDS]";

type Problem = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let done = match &words[..] {
        ["serve"] => runtime.block_on(serve()),
        ["client", url, flags @ ..] => match client_flags(flags) {
            Some((agent, deadline)) => runtime.block_on(async {
                tokio::time::timeout(deadline, run_cases(url, &agent)).await.map_err(Problem::from)?
            }),
            None => return usage(),
        },
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("autobahn_aio: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn client_flags(mut flags: &[&str]) -> Option<(String, Duration)> {
    let (mut agent, mut deadline_s) = ("echoring".to_owned(), DEADLINE_S_DEFAULT);
    while let [flag, value, rest @ ..] = flags {
        match *flag {
            "--agent" if value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => {
                agent = (*value).to_owned();
            }
            "--deadline-s" => deadline_s = value.parse().ok()?,
            _ => return None,
        }
        flags = rest;
    }
    flags.is_empty().then(|| (agent, Duration::from_secs(deadline_s)))
}

/// All parameters of the extension, and no threshold, so that even the smallest messages come back compressed.
fn compression() -> Compression {
    let direction = Direction { takeover: true, window_bits: WINDOW_BITS_MAX };
    let preferences = Preferences { server: direction, client: direction };
    Compression::default().preferences(preferences).threshold_bytes(0)
}

async fn serve() -> Result<(), Problem> {
    let listener = Listener::bind("127.0.0.1:0").await?;
    println!("listening ws://{} driver=tokio shards=1 pid={}", listener.local_addr()?, std::process::id());
    let upgrader = Upgrader::new().compression(compression()).message_bytes_max(MESSAGE_BYTES_MAX);
    let mut incoming = listener.incoming(&upgrader);
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            conn = incoming.next() => drop(tokio::spawn(echo(conn?))),
            _ = terminate.recv() => return Ok(()),
        }
    }
}

async fn echo<S: Transport>(mut conn: Conn<S>) {
    while let Ok(message) = conn.read().await {
        if conn.write(message).await.is_err() {
            // The peer may have sent a Close frame; reading it answers it.
            conn.discard_reads().await;
            return;
        }
    }
}

async fn run_cases(url: &str, agent: &str) -> Result<(), Problem> {
    let dialer = Dialer::new()
        .compression(compression())
        .message_bytes_max(MESSAGE_BYTES_MAX)
        .handshake_timeout(HANDSHAKE_TIMEOUT);
    let mut asking = dialer.dial(&format!("{url}/getCaseCount")).await?;
    let count = asking.read().await?;
    let cases: u32 = count.as_text().unwrap_or_default().trim().parse()?;
    asking.discard_reads().await;
    for case in 1..=cases {
        match dialer.dial(&format!("{url}/runCase?case={case}&agent={agent}")).await {
            Ok(conn) => echo(conn).await,
            // The suite checks how the case ended.
            Err(DialError::BadHandshake { .. } | DialError::Closed) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let error = dialer.dial(&format!("{url}/updateReports?agent={agent}")).await?.discard_reads().await;
    if !error.is_clean() {
        return Err(format!("the reports were not written: {error}").into());
    }
    println!("client driver=tokio cases={cases}");
    Ok(())
}
