//! Requests to the admin address of a running server, for the commands that operate one.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use tokio::net::{TcpStream, UnixStream};

use crate::Failure;
use crate::common::http_client::{RequestError, ask};
use crate::common::values::{OFF, shown_duration};
use crate::limits::{ADMIN_ANSWER_BYTES_MAX, ADMIN_TIMEOUT};
use crate::serve::{Variables, socket_address};
use echoring_admin::Token;
use echoring_async::Transport;
use echoring_server::ListenAddress;

/// The default admin address of servers.
const ADMIN_DEFAULT: &str = "127.0.0.1:9002";

/// The admin address of a running server, and the credentials for it, as typed.
///
/// Options that are not typed come from the variables that `serve` reads for the same options, so that a command in a
/// container asks the server of that container.
#[derive(Debug, clap::Args)]
pub(crate) struct AdminArgs {
    /// Admin address of the server, or unix:PATH [default: ECHORING_ADMIN, or 127.0.0.1:9002]
    #[arg(long, value_name = "ADDR:PORT", value_parser = admin_address)]
    admin: Option<ListenAddress>,

    /// File with the bearer token that the admin address requires [default: ECHORING_ADMIN_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

impl AdminArgs {
    /// A client of the address.
    ///
    /// # Errors
    /// [`Failure::Usage`] if `ECHORING_ADMIN` is not an address that a client can connect to.
    pub(crate) fn client(self) -> Result<AdminClient, Failure> {
        self.client_with(&Variables::new(std::env::vars_os()))
    }

    fn client_with(self, variables: &Variables) -> Result<AdminClient, Failure> {
        let variable = || -> Result<ListenAddress, Failure> {
            let (name, value) = variables.value("admin").unwrap_or(("--admin", OsStr::new(ADMIN_DEFAULT)));
            let value = value.to_string_lossy();
            if value == "off" {
                let line = "is off: the server has no admin address; give the address with --admin";
                return Err(Failure::Usage(format!("{name} {line}")));
            }
            admin_address(&value).map_err(|error| Failure::Usage(format!("{name}: {error}")))
        };
        let admin = self.admin.map_or_else(variable, Ok)?;
        let token_file = || {
            let of_server = variables.value("admin_token_file").map(|(_, path)| PathBuf::from(path));
            of_server.filter(|path| path.as_os_str() != OFF)
        };
        let token_file = self.admin_token_file.or_else(token_file);
        Ok(AdminClient { admin, token_file, timeout: ADMIN_TIMEOUT })
    }
}

/// Asks the admin address of a server.
#[derive(Debug)]
pub(crate) struct AdminClient {
    admin: ListenAddress,
    token_file: Option<PathBuf>,
    timeout: Duration,
}

/// The address of `--admin`.
fn admin_address(word: &str) -> Result<ListenAddress, String> {
    match word.strip_prefix("unix:") {
        Some("") => Err("expected unix:PATH".to_owned()),
        Some(path) => Ok(ListenAddress::Unix(path.into())),
        None => socket_address(word)
            .map(ListenAddress::Tcp)
            .map_err(|expected| format!("{expected}, or unix:PATH")),
    }
}

/// An answer: its status and its body.
pub(crate) type Answer = (StatusCode, Bytes);

impl AdminClient {
    /// The same with another bound on the time for an answer.
    pub(crate) fn with_timeout(self, timeout: Duration) -> AdminClient {
        AdminClient { timeout, ..self }
    }

    /// The address, for people.
    pub(crate) fn target(&self) -> String {
        self.admin.to_string()
    }

    /// Makes one request and waits for its answer.
    ///
    /// # Errors
    /// [`Failure::Environment`] when there is no answer in time, or no access.
    pub(crate) fn request(&self, method: Method, path: &str) -> Result<Answer, Failure> {
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let unreachable = |error: String| {
            let hint = "is the server running with this --admin address?";
            Failure::Environment(format!("no answer from {}: {error}; {hint}", self.admin))
        };
        let runtime = echoring_async::local_runtime().map_err(|error| unreachable(error.to_string()))?;
        let asked = async {
            match tokio::time::timeout(self.timeout, self.ask(method, path, token.as_ref())).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err(format!("it took longer than {}", shown_duration(self.timeout))),
            }
        };
        let answer = runtime.block_on(asked).map_err(unreachable)?;
        match answer.0 {
            StatusCode::UNAUTHORIZED => {
                Err(refused("it requires its token; give --admin-token-file", &self.admin))
            }
            StatusCode::FORBIDDEN => Err(refused(&message(&answer.1), &self.admin)),
            _ => Ok(answer),
        }
    }

    async fn ask(&self, method: Method, path: &str, token: Option<&Token>) -> Result<Answer, RequestError> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token.authorization()?);
        }
        let request = request.body(Full::default())?;
        let stream: Box<dyn Transport + Send> = match &self.admin {
            ListenAddress::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            ListenAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        let answer = ask(stream, request, ADMIN_ANSWER_BYTES_MAX).await?;
        Ok((answer.status(), answer.into_body()))
    }
}

fn refused(why: &str, admin: &ListenAddress) -> Failure {
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

/// The line for people in an error of the admin address.
pub(crate) fn message(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json.as_ref().and_then(|json| json["error"]["message"].as_str());
    let text = || String::from_utf8_lossy(body).into_owned();
    message.map_or_else(text, str::to_owned).replace(char::is_control, " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn client(words: &[&str], variables: &[(&str, &str)]) -> Result<AdminClient, Failure> {
        let command = AdminArgs::augment_args(Command::new("health").no_binary_name(true));
        let typed = command.try_get_matches_from(words).expect("valid");
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        AdminArgs::from_arg_matches(&typed).expect("valid").client_with(&Variables::new(variables))
    }

    #[test]
    fn the_address_is_that_of_the_flag_of_the_variable_or_the_default() {
        let target = |words: &[&str], variables: &[(&str, &str)]| {
            client(words, variables).map(|client| client.target())
        };
        let variable = [("ECHORING_ADMIN", "unix:/run/admin.sock")];
        assert_eq!(target(&["--admin", "[::1]:7"], &variable).as_deref(), Ok("[::1]:7"));
        assert_eq!(target(&[], &variable).as_deref(), Ok("unix:/run/admin.sock"));
        assert_eq!(target(&[], &[]).as_deref(), Ok("127.0.0.1:9002"));
        for (value, told) in [("off", "ECHORING_ADMIN is off"), ("here", "ECHORING_ADMIN: expected")] {
            let Err(Failure::Usage(line)) = target(&[], &[("ECHORING_ADMIN", value)]) else {
                panic!("{value}")
            };
            assert!(line.starts_with(told), "{line}");
        }
    }

    #[test]
    fn the_token_is_that_of_the_flag_or_of_the_variable() {
        let file = |words: &[&str]| {
            client(words, &[("ECHORING_ADMIN_TOKEN_FILE", "variable")]).map(|client| client.token_file)
        };
        assert_eq!(file(&["--admin-token-file", "flag"]), Ok(Some("flag".into())));
        assert_eq!(file(&[]), Ok(Some("variable".into())));
    }
}
