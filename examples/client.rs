//! Sends `Hello Server` and prints what it receives.
//!
//! ```text
//! cargo run --example pong_axum            # a server, in another terminal
//! cargo run --example client               # connects to ws://localhost:8080/ws
//! ```

mod support;

use std::fmt;
use std::io;
use std::process::ExitCode;

use echoring::{DialError, Dialer};
use support::{arguments, until_signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let [url] = arguments("Says hello and prints what comes.", ["URL"], ["ws://localhost:8080/ws"]);
    match until_signal(talk(&url)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn talk(url: &str) -> Result<(), Failure> {
    // `echoring::dial` does the same with all defaults, as Go's `websocket.DefaultDialer`.
    let mut conn = Dialer::new().dial(url).await.map_err(Failure::Dial)?;
    conn.write_text("Hello Server").await.map_err(Failure::Write)?;
    loop {
        // Reading always ends with an error; that the server closed is one. Where a normal close is no failure,
        // `error.is_unexpected_close(&[CloseCode::NORMAL, CloseCode::GOING_AWAY])` tells them apart.
        let message = conn.read().await.map_err(Failure::Read)?;
        println!("{}", String::from_utf8_lossy(message.as_bytes()));
    }
}

/// What failed, and where.
enum Failure {
    /// Includes the server's response, if it was HTTP but not an upgrade.
    Dial(DialError),
    Write(echoring::Error),
    Read(echoring::Error),
    Signals(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Dial(error) => write!(f, "Dial Error: {error}"),
            Failure::Write(error) => write!(f, "Write error: {error}"),
            Failure::Read(error) => write!(f, "Read error: {error}"),
            Failure::Signals(error) => write!(f, "cannot wait for signals: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Signals(error)
    }
}
