//! The library's client for `matrix.py`: runs the checks from its standard input, and reports the results on its
//! standard output.
//!
//! With `--uring` its bytes go through the ring of tokio-uring instead of plain tokio.

#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::io::{self, Read as _};
use std::process::ExitCode;
use std::time::Duration;

use echoring_async::{Conn, ControlReply, Dialer, Error, Message, MessageKind, ring_allowed};
use echoring_proto::CloseCode;
use echoring_proto::connection::Compression;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

const CHECK_TIME_MAX: Duration = Duration::from_secs(20);
/// One byte more than the largest requested echo.
const MESSAGE_BYTES_MAX: u64 = (1 << 20) + 1;

/// Why a check failed.
type Problem = Box<dyn std::error::Error>;

#[derive(Debug, Deserialize)]
struct Job {
    url: String,
    checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
struct Check {
    name: String,
    path: String,
    #[serde(default)]
    subprotocols: Vec<String>,
    subprotocol: Option<String>,
    compress: Option<bool>,
    compressed: Option<bool>,
    refused: Option<u16>,
    #[serde(default)]
    steps: Vec<Step>,
}

/// The payload of a step: a unit, in hexadecimal if binary, and a repeat count.
#[derive(Debug, Deserialize)]
struct Content(String, usize);

/// A step as received: its name and its arguments.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Vec<Value>")]
enum Step {
    Send(Message),
    Fragments(MessageKind, Vec<Vec<u8>>),
    Expect(Message),
    Ping(String),
    Close(CloseCode, String),
    ExpectClose(CloseCode, Option<String>),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("interop_client: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Problem> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let job: Job = serde_json::from_str(&text)?;
    if std::env::args().any(|word| word == "--uring") {
        ring_allowed()?;
        tokio_uring::start(run_job(&job, true));
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(run_job(&job, false));
    }
    Ok(())
}

async fn run_job(job: &Job, uring: bool) {
    for check in &job.checks {
        let problem = match timeout(CHECK_TIME_MAX, check.run(&job.url, uring)).await {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem.to_string()),
            Err(_) => Some("took too long".to_owned()),
        };
        println!("{}", json!({"name": check.name, "problem": problem}));
    }
}

impl Check {
    async fn run(&self, url: &str, uring: bool) -> Result<(), Problem> {
        let compression = self.compress.unwrap_or(false).then(Compression::default);
        let dialer = Dialer::new()
            .subprotocols(self.subprotocols.clone())
            .compression(compression)
            .max_message(MESSAGE_BYTES_MAX);
        let url = format!("{url}{}", self.path);
        let refusal = if uring {
            match dialer.dial_uring(&url).await {
                // What the server agreed to is told by the other way of dialling only.
                Ok(conn) => return self.run_steps(conn, None).await,
                Err(refusal) => refusal,
            }
        } else {
            match dialer.dial_with_response(&url).await {
                Ok((conn, response)) => {
                    let extensions = response.headers().get("Sec-WebSocket-Extensions");
                    return self.run_steps(conn, Some(extensions.is_some())).await;
                }
                Err(refusal) => refusal,
            }
        };
        match (self.refused, refusal.response()) {
            (Some(status), Some(response)) => same(&response.status().as_u16(), &status, "status"),
            _ => Err(refusal.into()),
        }
    }

    async fn run_steps<S>(&self, conn: Conn<S>, compressed: Option<bool>) -> Result<(), Problem>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if let Some(status) = self.refused {
            return Err(format!("let in instead of refused with {status}").into());
        }
        if let Some(wanted) = &self.subprotocol {
            same(&conn.subprotocol().unwrap_or_default(), &wanted.as_str(), "subprotocol")?;
        }
        if let (Some(found), Some(wanted)) = (compressed, self.compressed) {
            same(&found, &wanted, "compressed")?;
        }
        let mut session = Session::new(conn);
        for step in &self.steps {
            if session.step(step).await? {
                return Ok(());
            }
        }
        session.step(&Step::Close(CloseCode::NORMAL, String::new())).await?;
        Ok(())
    }
}

struct Session<S> {
    conn: Conn<S>,
    pongs: mpsc::UnboundedReceiver<Vec<u8>>,
    /// Why the last message could not be sent. The next step decides whether that is expected.
    unsent: Option<Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    fn new(mut conn: Conn<S>) -> Session<S> {
        let (seen, pongs) = mpsc::unbounded_channel();
        conn.set_pong_handler(move |payload| {
            // Nobody listens any more when the check is over.
            let _ = seen.send(payload.to_vec());
            ControlReply::Default
        });
        Session { conn, pongs, unsent: None }
    }

    /// Runs a step; returns whether it ended the connection.
    async fn step(&mut self, step: &Step) -> Result<bool, Problem> {
        if let (Some(error), false) = (self.unsent.take(), matches!(step, Step::ExpectClose(..))) {
            return Err(error.into());
        }
        match step {
            Step::Send(message) => self.unsent = self.conn.write(message.clone()).await.err(),
            Step::Fragments(kind, parts) => {
                let mut writer = self.conn.next_writer(*kind);
                for part in parts {
                    writer.write_all(part).await?;
                    writer.flush().await?;
                }
                writer.finish().await?;
            }
            Step::Expect(message) => same(&self.conn.read().await?, message, "message")?,
            Step::Ping(payload) => {
                self.conn.ping(payload.as_bytes()).await?;
                same(&self.pong().await?, &payload.as_bytes().to_vec(), "pong")?;
            }
            Step::Close(code, reason) => {
                let answer = self.conn.close(*code, reason).await?;
                same(&answer.code, code, "the answer to our close code")?;
                return Ok(true);
            }
            Step::ExpectClose(code, reason) => {
                self.expect_close(*code, reason.as_deref()).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next pong's payload. Pongs are seen while reading.
    async fn pong(&mut self) -> Result<Vec<u8>, Problem> {
        tokio::select! {
            biased;
            Some(payload) = self.pongs.recv() => Ok(payload),
            message = self.conn.read() => Err(format!("{:.70?} instead of a pong", message?).into()),
        }
    }

    async fn expect_close(&mut self, code: CloseCode, reason: Option<&str>) -> Result<(), Problem> {
        let frame = match self.conn.read().await {
            Ok(message) => {
                return Err(format!("a message of {} bytes instead of a close", message.len()).into());
            }
            Err(Error::Closed(frame)) => frame,
            Err(error) => return Err(error.into()),
        };
        same(&frame.code, &code, "close code")?;
        match reason {
            Some(reason) => same(&frame.reason.as_str(), &reason, "close reason"),
            None => Ok(()),
        }
    }
}

fn same<T: PartialEq + Debug>(found: &T, wanted: &T, what: &str) -> Result<(), Problem> {
    if found == wanted {
        return Ok(());
    }
    // Messages of a MiB are not worth more than their beginning.
    let brief = |value: &T| format!("{value:?}").chars().take(70).collect::<String>();
    Err(format!("{what}: {} instead of {}", brief(found), brief(wanted)).into())
}

impl TryFrom<Vec<Value>> for Step {
    type Error = Problem;

    fn try_from(mut words: Vec<Value>) -> Result<Step, Problem> {
        words.resize(3, Value::Null);
        let [name, first, second] =
            <[Value; 3]>::try_from(words).map_err(|_| "a step has three words at most")?;
        Ok(match name.as_str().unwrap_or_default() {
            "send" => Step::Send(message(&first, second)?),
            "expect" => Step::Expect(message(&first, second)?),
            "fragments" => {
                let kind = kind(&first)?;
                let parts: Vec<Content> = serde_json::from_value(second)?;
                Step::Fragments(kind, parts.iter().map(|part| part.expand(kind)).collect::<Result<_, _>>()?)
            }
            "ping" => Step::Ping(serde_json::from_value(first)?),
            "close" => {
                Step::Close(CloseCode(serde_json::from_value(first)?), serde_json::from_value(second)?)
            }
            "expect_close" => {
                Step::ExpectClose(CloseCode(serde_json::from_value(first)?), serde_json::from_value(second)?)
            }
            other => return Err(format!("unknown step {other:?}").into()),
        })
    }
}

fn kind(value: &Value) -> Result<MessageKind, Problem> {
    match value.as_str() {
        Some("text") => Ok(MessageKind::Text),
        Some("binary") => Ok(MessageKind::Binary),
        _ => Err(format!("{value} is no kind of message").into()),
    }
}

fn message(kind_name: &Value, content: Value) -> Result<Message, Problem> {
    let kind = kind(kind_name)?;
    let bytes = serde_json::from_value::<Content>(content)?.expand(kind)?;
    Ok(match kind {
        MessageKind::Text => String::from_utf8(bytes)?.into(),
        MessageKind::Binary => bytes.into(),
    })
}

impl Content {
    fn expand(&self, kind: MessageKind) -> Result<Vec<u8>, Problem> {
        let Content(unit, times) = self;
        if kind == MessageKind::Text {
            return Ok(unit.repeat(*times).into_bytes());
        }
        let digits = unit
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair)?, 16).map_err(Problem::from));
        Ok(digits.collect::<Result<Vec<u8>, Problem>>()?.repeat(*times))
    }
}
