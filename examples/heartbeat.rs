//! Heartbeats: probe a connection once, or ping it at intervals.
//!
//! ```text
//! cargo run --example heartbeat probe      # asks ws://localhost:8080/ws once
//! cargo run --example heartbeat tick       # pings it every 30 seconds, and answers its pings
//! cargo run --example heartbeat serve      # a server that does the same on ws://localhost:8080/ws
//! ```

mod support;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use echoring::CloseCode;
use echoring::{Conn, ControlReply, Dialer, Transport, Upgrader, dial};
use support::{listen, only, until_signal};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, interval_at, sleep_until, timeout};

const URL: &str = "ws://localhost:8080/ws";

/// Tells whether the other end of a connection is alive.
#[derive(Parser)]
struct Flags {
    /// `probe` by default.
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(Subcommand)]
enum Mode {
    /// Sends one ping and waits for its pong.
    Probe {
        #[arg(default_value = URL)]
        url: String,
        /// Time limit for the server.
        #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
        timeout: Duration,
    },
    /// Connects, sends pings at intervals and answers those of the server.
    Tick {
        #[arg(default_value = URL)]
        url: String,
        #[command(flatten)]
        ticker: Ticker,
    },
    /// Listens, sends pings at intervals to all clients and answers theirs.
    Serve {
        #[arg(default_value = "localhost:8080")]
        address: String,
        #[command(flatten)]
        ticker: Ticker,
    },
}

/// The timing of pings.
#[derive(Args, Clone)]
pub struct Ticker {
    /// Interval of pings.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub every: Duration,
    /// How long the connection may take to accept one.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub deadline: Duration,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let probing = Mode::Probe { url: URL.to_owned(), timeout: Duration::from_secs(5) };
    let mode = Flags::parse().mode.unwrap_or(probing);
    let mut code = ExitCode::SUCCESS;
    until_signal(async {
        match mode {
            Mode::Probe { url, timeout } => match probe(&url, timeout).await {
                Ok(()) => println!("Server is alive"),
                Err(why) => {
                    println!("Server is dead: {why}");
                    code = ExitCode::FAILURE;
                }
            },
            Mode::Tick { url, ticker } => beat(dial(&url).await?, &ticker).await?,
            Mode::Serve { address, ticker } => serve(&address, &ticker).await?,
        }
        Ok::<(), Box<dyn Error>>(())
    })
    .await?;
    Ok(code)
}

/// Waits for a sign of life within `patience`, connecting included.
async fn probe(url: &str, patience: Duration) -> Result<(), Box<dyn Error>> {
    let at = Instant::now() + patience;
    let mut conn = match Dialer::new().handshake_timeout(patience).dial(url).await {
        Err(echoring::DialError::Timeout(_)) => return Err("timeout".into()),
        dialled => dialled?,
    };
    // A handler runs where the connection is read, so it shall be short: it passes on what it knows.
    let heard = Arc::new(Notify::new());
    let pong = Arc::clone(&heard);
    conn.set_pong_handler(move |_| {
        pong.notify_one();
        ControlReply::Nothing
    });
    conn.ping(b"alive?").await?;
    tokio::select! {
        // Control frames are seen only by those who read. This reads and throws away what else may come.
        error = conn.discard_reads() => return Err(error.into()),
        () = heard.notified() => {}
        () = sleep_until(at) => return Err("timeout".into()),
    }
    // It was alive: how it says goodbye is another matter.
    let _ = conn.close(CloseCode::NORMAL, "").await;
    Ok(())
}

async fn serve(address: &str, ticker: &Ticker) -> Result<(), Box<dyn Error>> {
    let (listener, shown) = listen(address).await?;
    println!("listening on ws://{shown}/ws");
    let upgrader = Upgrader::new().allow_any_origin();
    loop {
        let (stream, peer) = listener.accept().await?;
        let (upgrader, ticker) = (upgrader.clone(), ticker.clone());
        tokio::spawn(async move {
            if let Err(error) = open_and_beat(&upgrader, stream, &ticker).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn open_and_beat(
    upgrader: &Upgrader,
    stream: TcpStream,
    ticker: &Ticker,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let conn = upgrader.accept_tcp_with(stream, only("/ws")).await?;
    Ok(beat(conn, ticker).await?)
}

/// Pings until the connection ends.
///
/// All of this is built in: `Upgrader::new().heartbeat(Heartbeat::every(interval).timeout(patience))` sends pings, and
/// closes connections that stay silent. Doing it by hand shows the use of handlers and `Control`.
pub async fn beat<S: Transport>(mut conn: Conn<S>, ticker: &Ticker) -> Result<(), echoring::Error> {
    // A pong with the same data: what happens without a handler, too (RFC 6455, 5.5.3).
    conn.set_ping_handler(|data| {
        println!("ping: {}", data.escape_ascii());
        ControlReply::Pong(Bytes::copy_from_slice(data))
    });
    conn.set_pong_handler(|data| {
        println!("pong: {}", data.escape_ascii());
        ControlReply::Nothing
    });
    // Go's `WriteControl`, which may be called beside a writer, in any number of tasks: a `Control` is cloned freely.
    let control = conn.control();
    let ticking = async {
        let mut ticks = interval_at(Instant::now() + ticker.every, ticker.every);
        loop {
            ticks.tick().await;
            match timeout(ticker.deadline, control.ping(b"beat")).await {
                Ok(sent) => sent?,
                Err(_) => return Err(echoring::Error::WriteTimeout),
            }
        }
    };
    tokio::select! {
        error = conn.discard_reads() => if error.is_clean() { Ok(()) } else { Err(error) },
        ended = ticking => ended,
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("not a time".to_owned()),
    }
}
