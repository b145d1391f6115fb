//! `echoring connect`: its flags, and the course of a conversation.

pub(crate) mod talk;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::oneshot;

use self::talk::{Options, Outcome, Style, Wait};
use super::signals::Signals;
use crate::Failure;
use crate::common::compress::Compress;
use crate::common::failure::refuse;
use crate::common::http_client::trust;
use crate::common::{environment, values};
use echoring_async::{Conn, DialError, Dialer, MaybeTls, Proxy, Transport};
use echoring_proto::handshake::BadHandshake;
use echoring_proto::limits;
use echoring_proto::limits::CLOSE_TIMEOUT;

const EXAMPLES: &str = "\
Examples:
  echoring connect ws://127.0.0.1:9001/echo
      talk to it: a line is a message, /help lists the commands
  echo hi | echoring connect ws://127.0.0.1:9001/echo
      prints hi: waits for as many messages as were sent, at most a second of silence
  echoring connect -n 3 ws://127.0.0.1:9001/broadcast/news </dev/null
      prints three messages, however long they take
  echoring connect --wait 10s wss://api.example/feed --header 'Authorization: Bearer x' </dev/null
      prints messages until none has arrived for ten seconds
  echo 00ff | echoring connect --binary ws://127.0.0.1:9001/echo
  echo hi | echoring connect unix:/run/echoring.sock:/echo

In a pipe each line of stdin is a message, and each message a line of stdout; binary ones are hexadecimal.

Exit codes: 0 closed cleanly (by us, or by the server with 1000, 1001 or no code), 1 closed otherwise, broken, or \
fewer messages than -n, 2 usage or a line that cannot be sent, 3 no connection (with the reason in one line).";

const CONNECTION: &str = "Connection";
const TERMINAL: &str = "Terminal";

/// The flags of `connect`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// Server to connect to: ws://HOST[:PORT][/PATH], wss://… or unix:FILE[:/PATH]
    ///
    /// unix:FILE is a socket on this host. ws+unix:FILE, as serve prints it, means the same.
    #[arg(value_name = "URL")]
    url: String,

    /// Offer this subprotocol; repeatable, best first
    #[arg(long, value_name = "NAME", value_parser = values::subprotocol)]
    subprotocol: Vec<String>,

    /// Send this header field, such as 'Authorization: Bearer x'; repeatable
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,

    /// Send this Origin header, as a browser page would
    #[arg(long, value_name = "ORIGIN", value_parser = values::origin)]
    origin: Option<String>,

    /// Read lines as hexadecimal and send them as binary messages
    #[arg(long)]
    binary: bool,

    /// Pretty-print text messages that are JSON
    #[arg(long)]
    json: bool,

    /// Show when each message arrived [default: on at a terminal, off in a pipe]
    ///
    /// At a terminal as time of day in UTC, in a pipe as seconds since 1970.
    #[arg(long, value_parser = values::one_of(values::SWITCH), value_name = "on|off", num_args = 0..=1, default_missing_value = "on",
        require_equals = true, hide_possible_values = true)]
    timestamps: Option<bool>,

    /// In a pipe: close after this number of received messages
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// In a pipe: close when nothing arrived for this long after the last line
    ///
    /// By default it closes when as many messages arrived as were sent, at the latest after 1s of silence.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    wait: Option<Duration>,

    /// Offer permessage-deflate: off, on, or parameters as in serve
    #[arg(
        long,
        value_name = "off|on|PARAMS",
        num_args = 0..=1,
        default_value = "off",
        default_missing_value = "on",
        require_equals = true
    )]
    compress: Compress,

    /// Maximum size of a received message; a larger message closes the connection with 1009
    #[arg(
        long,
        value_name = "BYTES",
        default_value = values::shown_bytes(MESSAGE_BYTES_DEFAULT),
        value_parser = values::bytes_in(1..=limits::MESSAGE_BYTES_MAX),
        help_heading = CONNECTION
    )]
    max_message: u64,

    /// Maximum time to connect, including the server's response
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = values::duration,
        help_heading = CONNECTION
    )]
    timeout: Duration,

    /// Trust the CA certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure", help_heading = CONNECTION)]
    ca_file: Option<PathBuf>,

    /// Accept any certificate: for tests only
    ///
    /// Anyone between this host and the server can read and change everything.
    #[arg(long, help_heading = CONNECTION)]
    insecure: bool,

    /// Connect through a proxy: http://[USER:PASSWORD@]HOST[:PORT], socks5://… or env
    ///
    /// env uses the proxy in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, and respects NO_PROXY.
    #[arg(long, value_name = "URL|env", value_parser = proxy, help_heading = CONNECTION)]
    proxy: Option<Proxy>,

    /// Keep no history of typed lines
    ///
    /// The history is in $XDG_STATE_HOME/echoring/history.
    #[arg(long, help_heading = TERMINAL)]
    no_history: bool,
}

fn header(word: &str) -> Result<(String, String), String> {
    match word.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("expected a field such as 'Authorization: Bearer x'".to_owned()),
    }
}

fn proxy(word: &str) -> Result<Proxy, String> {
    let parsed = match word.split_once("://") {
        _ if word == "env" => Proxy::from_env(),
        Some(("http", _)) => Proxy::http(word),
        Some(("socks5" | "socks5h", _)) => Proxy::socks5(word),
        _ => return Err("expected http://HOST:PORT, socks5://HOST:PORT, or env".to_owned()),
    };
    parsed.map_err(|error| error.to_string())
}

/// The validated options of `connect`.
struct Plan {
    url: String,
    dialer: Dialer,
    options: Options,
}

const MESSAGE_BYTES_DEFAULT: u64 = 16 << 20;
const SILENCE_DEFAULT: Duration = Duration::from_secs(1);

impl Args {
    /// `interactive`: stdin and stdout are a terminal.
    fn validate(self, interactive: bool) -> Result<Plan, Failure> {
        let is_for_pipes = self.count.is_some() || self.wait.is_some();
        let line = "only with pipes; at a terminal, use /quit";
        refuse([("--count, --wait", interactive && is_for_pipes)], line)?;
        let mut dialer = Dialer::new()
            .connect_timeout(None)
            .handshake_timeout(self.timeout)
            .subprotocols(self.subprotocol)
            .max_message(self.max_message)
            .compression(self.compress.compression)
            .proxy(self.proxy)
            .tls(trust(self.ca_file.as_deref(), self.insecure));
        if let Some(origin) = self.origin {
            refuse([("--origin", origin == "*")], "expected one origin, such as https://app.example")?;
            dialer = dialer.origin(origin);
        }
        for (name, value) in self.header {
            dialer = match &*name.to_ascii_lowercase() {
                // These have their own options.
                "origin" => dialer.origin(value),
                "host" => dialer.host(value),
                _ => dialer.header(name, value),
            };
        }
        let style = Style {
            json: self.json,
            timestamps: self.timestamps.unwrap_or(interactive),
            terminal: interactive,
            colours: interactive && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        let wait = match (self.count, self.wait) {
            (Some(count), silence) => Wait::Count(count, silence),
            (None, Some(silence)) => Wait::Silence(silence),
            (None, None) => Wait::Answers(SILENCE_DEFAULT),
        };
        let history = if self.no_history { None } else { environment::state_file("history") };
        let options = Options { binary: self.binary, style, wait, history };
        Ok(Plan { url: self.url, dialer, options })
    }
}

/// Exit code of a conversation that did not end cleanly.
const EXIT_BROKEN: u8 = 1;

/// Runs the conversation until the connection ends.
pub(super) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let plan = arguments.validate(interactive)?;
    environment::start_log("warn")?;
    let runtime = echoring_async::local_runtime()
        .map_err(|error| Failure::Environment(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(converse(&plan));
    // A thread may still wait for a line; it is abandoned.
    runtime.shutdown_background();
    let outcome = outcome?;
    let last = match &outcome {
        Outcome::BadInput(..) => return Err(Failure::Usage(outcome.to_string())),
        outcome if !outcome.is_clean() => format!("error: {outcome}\n"),
        outcome if interactive => format!("{outcome}\n"),
        _ => String::new(),
    };
    // In one write, because the line editor's thread may still use the terminal. A closed stderr must not turn an exit
    // code into a panic.
    let _ = io::stderr().write_all(last.as_bytes());
    Ok(if outcome.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_BROKEN) })
}

async fn converse(plan: &Plan) -> Result<Outcome, Failure> {
    match UnixTarget::of(&plan.url) {
        Some(target) => talk(plan, dial_unix(plan, &target).await?).await,
        None => {
            let conn = plan.dialer.dial(&plan.url).await.map_err(|error| failed(&error, &plan.url))?;
            talk(plan, conn).await
        }
    }
}

async fn talk<S: Transport + Send + 'static>(plan: &Plan, conn: Conn<S>) -> Result<Outcome, Failure> {
    let interrupt = interrupted()?;
    Ok(if plan.options.style.terminal {
        talk::terminal::talk(conn, &plan.url, &plan.options, interrupt).await
    } else {
        talk::pipe::talk(conn, &plan.options, interrupt).await
    })
}

/// A Unix socket and the path to request there.
#[derive(Debug, PartialEq, Eq)]
struct UnixTarget<'a> {
    file: &'a str,
    url: String,
}

impl UnixTarget<'_> {
    /// Parses `unix:FILE[:/PATH]`, also after `ws+`, and after `wss+` for TLS; an absolute FILE may have `//` in front.
    fn of(url: &str) -> Option<UnixTarget<'_>> {
        let (scheme, rest) = url.split_once("unix:")?;
        let scheme = match scheme {
            "" | "ws+" => "ws",
            "wss+" => "wss",
            _ => return None,
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (file, path) = match rest.find(":/") {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, "/"),
        };
        Some(UnixTarget { file, url: format!("{scheme}://localhost{path}") })
    }
}

async fn dial_unix(plan: &Plan, target: &UnixTarget<'_>) -> Result<Conn<MaybeTls<UnixStream>>, Failure> {
    let (shown, file) = (&plan.url, target.file);
    let stream = UnixStream::connect(file).await.map_err(|error| {
        Failure::Environment(format!(
            "cannot open {shown}: cannot connect to {file}: {error}; is the server running?"
        ))
    })?;
    plan.dialer.dial_over(&target.url, stream).await.map_err(|error| failed(&error, shown))
}

fn failed(error: &DialError, url: &str) -> Failure {
    match error {
        DialError::BadUrl(_) | DialError::BadField { .. } => Failure::Usage(format!("{url}: {error}")),
        error => Failure::Environment(format!("cannot open {url}: {error}{}", hint(error, url))),
    }
}

/// A hint about the cause.
fn hint(error: &DialError, url: &str) -> &'static str {
    match error {
        DialError::Closed if url.starts_with("wss") => "; does the server use TLS? ws:// connects without",
        DialError::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            "; is the server running, and on this port?"
        }
        DialError::Tls(cause) if cause.is_unknown_issuer() => {
            " (--ca-file FILE), or disable the check with --insecure"
        }
        DialError::Tls(cause) if cause.is_untrusted() => "; --insecure disables the check",
        DialError::Timeout(_) => "; raise --timeout",
        DialError::Redirect { .. } => "; connect there if you trust it",
        DialError::BadHandshake { why: BadHandshake::Status(status), .. } => match status {
            401 => "; pass credentials with --header 'Authorization: …'",
            403 => "; the server may require another --origin, or credentials with --header",
            404 | 405 => "; check the path",
            502..=504 => "; a proxy in front of the server cannot reach it",
            _ => "",
        },
        _ => "",
    }
}

/// Resolves on SIGINT or SIGTERM. A second one ends the process at once, and so does a server that does not answer our
/// Close frame in time.
fn interrupted() -> Result<impl Future<Output = ()>, Failure> {
    let mut signals =
        Signals::listen().map_err(|error| Failure::Environment(format!("cannot handle signals: {error}")))?;
    let (interrupt, interrupted) = oneshot::channel();
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            let _ = interrupt.send(());
            signals.exit_on_second(Duration::from_nanos(CLOSE_TIMEOUT) + Duration::from_secs(1), 0);
        }
    });
    Ok(async {
        if interrupted.await.is_err() {
            // Nobody listens to signals any more.
            std::future::pending().await
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(flags: &[&str], interactive: bool) -> Result<Plan, Failure> {
        let words = ["connect"].into_iter().chain(flags.iter().copied());
        match Line::try_parse_from(words) {
            Ok(line) => line.args.validate(interactive),
            Err(error) => Err(Failure::Usage(error.to_string())),
        }
    }

    fn options(flags: &[&str], interactive: bool) -> Options {
        plan(flags, interactive).unwrap_or_else(|failure| panic!("{flags:?}: {failure:?}")).options
    }

    #[test]
    fn a_terminal_has_timestamps_and_a_pipe_has_none_unless_told() {
        assert!(options(&["ws://a"], true).style.timestamps);
        assert!(!options(&["ws://a"], false).style.timestamps);
        assert!(options(&["--timestamps", "ws://a"], false).style.timestamps);
        assert!(!options(&["--timestamps=off", "ws://a"], true).style.timestamps);
        assert!(!options(&["ws://a"], false).style.colours);
    }

    #[test]
    fn waiting_is_for_answers_silence_or_a_count() {
        assert_eq!(options(&["ws://a"], false).wait, Wait::Answers(SILENCE_DEFAULT));
        let (two, wait) = (Duration::from_secs(2), ["--wait", "2s", "ws://a"]);
        assert_eq!(options(&wait, false).wait, Wait::Silence(two));
        assert_eq!(options(&["-n", "3", "ws://a"], false).wait, Wait::Count(3, None));
        assert_eq!(options(&["-n", "3", "--wait", "2s", "ws://a"], false).wait, Wait::Count(3, Some(two)));
    }

    #[test]
    fn a_socket_file_may_have_a_path_behind_it() {
        let target = |url| UnixTarget::of(url).map(|target| (target.file.to_owned(), target.url));
        let found = |file: &str, url: &str| Some((file.to_owned(), url.to_owned()));
        assert_eq!(target("unix:/run/e.sock"), found("/run/e.sock", "ws://localhost/"));
        assert_eq!(target("unix:e.sock:/echo?a=b:/c"), found("e.sock", "ws://localhost/echo?a=b:/c"));
        assert_eq!(target("ws+unix:///run/e.sock:/echo"), found("/run/e.sock", "ws://localhost/echo"));
        assert_eq!(target("wss+unix:/run/e.sock"), found("/run/e.sock", "wss://localhost/"));
        assert_eq!((target("ws://unix:80/"), target("http+unix:/x")), (None, None));
    }

    #[test]
    fn wrong_arguments_are_usage_errors() {
        for (flags, interactive) in [
            (&[][..], false),
            (&["ws://a", "ws://b"], false),
            (&["ws://a", "--header", "no colon"], false),
            (&["ws://a", "--header", ": x"], false),
            (&["ws://a", "--subprotocol", "a b"], false),
            (&["ws://a", "--origin", "*"], false),
            (&["ws://a", "--origin", "app.example"], false),
            (&["ws://a", "--insecure", "--ca-file", "f"], false),
            (&["ws://a", "--proxy", "ftp://x"], false),
            (&["ws://a", "--max-message", "0"], false),
            (&["ws://a", "-n", "0"], false),
            (&["ws://a", "--compress=maybe"], false),
            (&["ws://a", "-n", "1"], true),
            (&["ws://a", "--wait", "1s"], true),
        ] {
            assert!(matches!(plan(flags, interactive), Err(Failure::Usage(_))), "{flags:?} were taken");
        }
    }
}
