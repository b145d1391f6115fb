//! Requests to the admin address of a running server, for the commands that operate one.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::header::{AUTHORIZATION, HOST};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::LocalSet;

use crate::Failure;
use crate::limits::{ADMIN_ANSWER_BYTES_MAX, ADMIN_TIMEOUT};
use crate::serve::socket_address;
use echoring_async::TokioStream;
use echoring_server::control::Token;

/// The admin address of a running server, and how to have access.
#[derive(Debug, clap::Args)]
pub(crate) struct AdminArgs {
    /// Admin address of the server, or unix:PATH
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9002")]
    admin: AdminTarget,

    /// File with the bearer token that the admin address requires
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum AdminTarget {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for AdminTarget {
    type Err = String;

    fn from_str(word: &str) -> Result<AdminTarget, String> {
        match word.strip_prefix("unix:") {
            Some("") => Err("expected unix:PATH".to_owned()),
            Some(path) => Ok(AdminTarget::Unix(path.into())),
            None => socket_address(word)
                .map(AdminTarget::Tcp)
                .map_err(|expected| format!("{expected}, or unix:PATH")),
        }
    }
}

impl fmt::Display for AdminTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminTarget::Tcp(address) => address.fmt(f),
            AdminTarget::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An answer: its status and its body.
pub(crate) type Answer = (StatusCode, Bytes);

impl AdminArgs {
    /// The address, for people.
    pub(crate) fn target(&self) -> String {
        self.admin.to_string()
    }

    /// Makes one request and waits for its answer.
    ///
    /// # Errors
    /// [`Failure::Environment`] when there is no answer in time, or no access.
    pub(crate) fn request(&self, method: Method, path: &str) -> Result<Answer, Failure> {
        let token = self.admin_token_file.as_deref().map(read_token).transpose()?;
        let unreachable = |error: String| {
            let hint = "is the server running with this --admin address?";
            Failure::Environment(format!("no answer from {}: {error}; {hint}", self.admin))
        };
        let runtime = echoring_async::local_runtime().map_err(|error| unreachable(error.to_string()))?;
        let asked = async {
            match tokio::time::timeout(ADMIN_TIMEOUT, self.ask(method, path, token.as_ref())).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("it took longer than {} s", ADMIN_TIMEOUT.as_secs())),
            }
        };
        let answer = LocalSet::new().block_on(&runtime, asked).map_err(unreachable)?;
        match answer.0 {
            StatusCode::UNAUTHORIZED => {
                Err(refused("it requires its token; give --admin-token-file", &self.admin))
            }
            StatusCode::FORBIDDEN => Err(refused(&message(&answer.1), &self.admin)),
            _ => Ok(answer),
        }
    }

    async fn ask(&self, method: Method, path: &str, token: Option<&Token>) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if let Some(token) = token {
            request =
                request.header(AUTHORIZATION, token.authorization().map_err(|error| error.to_string())?);
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        let failed = |error: std::io::Error| error.to_string();
        match &self.admin {
            AdminTarget::Tcp(address) => {
                exchange(TcpStream::connect(address).await.map_err(failed)?, request).await
            }
            AdminTarget::Unix(path) => {
                exchange(UnixStream::connect(path).await.map_err(failed)?, request).await
            }
        }
    }
}

fn refused(why: &str, admin: &AdminTarget) -> Failure {
    Failure::Environment(format!("{admin} refuses the request: {why}"))
}

/// The token of a file.
///
/// # Errors
/// [`Failure::Environment`] if the file has none.
pub(crate) fn read_token(file: &Path) -> Result<Token, Failure> {
    Token::read(file)
        .map_err(|error| Failure::Environment(format!("no token in {}: {error}", file.display())))
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let failed = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioStream(stream)).await.map_err(failed)?;
    // It ends with the runtime.
    tokio::task::spawn_local(connection);
    let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
    let body =
        Limited::new(body, ADMIN_ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    Ok((head.status, body.to_bytes()))
}

/// The line for people in an error of the admin address.
pub(crate) fn message(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json.as_ref().and_then(|json| json["error"]["message"].as_str());
    let text = || String::from_utf8_lossy(body).into_owned();
    message.map_or_else(text, str::to_owned).replace(char::is_control, " ").trim().to_owned()
}
