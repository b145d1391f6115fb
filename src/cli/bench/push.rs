//! Sends the figures of a run to an OpenTelemetry collector every few seconds, and once more at its end.
//!
//! A separate thread sends them. The run only leaves its latest figures there: a receiver that is slow or fails costs
//! figures, which are counted, and nothing else. A request that fails for a reason of the server's (5xx) is sent again
//! after a pause that doubles, until the next one is due.

mod otlp;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use http::{Request, Uri};
use tokio::runtime::Runtime;

use crate::common::http_client::RequestError;
use crate::common::{locked, telemetry_client};
use echoring_load::render::Figures;

/// Time from one request to the next.
const INTERVAL: Duration = Duration::from_secs(5);
/// The pause before a request is sent again, at first.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Time for one request, its answer included. The end of `bench` waits for the last figures, sent again for [`INTERVAL`] at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of checks for figures, before the first.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Runs that are over and whose last figures wait to be sent: more than short runs in a row that pass within a request.
const FINISHED_MAX: usize = 64;
/// The path of a URL without one.
const PATH: &str = "/v1/metrics";
/// Characters of an answer that are shown.
const SHOWN_CHARACTERS: usize = 200;

/// An HTTP URL of a receiver, with the user and password of Basic authentication, if it has any.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ReceiverUrl {
    uri: Uri,
    authorization: Option<HeaderValue>,
}

impl fmt::Debug for ReceiverUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl FromStr for ReceiverUrl {
    type Err = String;

    fn from_str(word: &str) -> Result<ReceiverUrl, String> {
        let expected = || "expected a URL such as http://127.0.0.1:4318".to_owned();
        let uri: Uri = word.parse().map_err(|_| expected())?;
        let authority = uri.authority().ok_or_else(expected)?.as_str().to_owned();
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(expected());
        }
        let Some((user, host)) = authority.rsplit_once('@') else {
            return Ok(ReceiverUrl { uri, authorization: None });
        };
        let mut parts = uri.into_parts();
        parts.authority = Some(host.parse().map_err(|_| expected())?);
        let mut authorization =
            HeaderValue::try_from(format!("Basic {}", BASE64.encode(user))).map_err(|_| expected())?;
        authorization.set_sensitive(true);
        Ok(ReceiverUrl {
            uri: Uri::from_parts(parts).map_err(|_| expected())?,
            authorization: Some(authorization),
        })
    }
}

/// The header fields of every request to this receiver.
fn headers(url: &ReceiverUrl) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    let agent = concat!("echoring/", env!("CARGO_PKG_VERSION"));
    headers.insert(USER_AGENT, HeaderValue::from_static(agent));
    headers.extend(url.authorization.clone().map(|value| (AUTHORIZATION, value)));
    headers.extend(otlp::headers(std::env::var("OTEL_EXPORTER_OTLP_HEADERS").ok().as_deref()));
    headers
}

/// The figures of a run, and when they were true.
#[derive(Clone, Debug)]
struct Moment {
    figures: Arc<Figures>,
    at: SystemTime,
    /// When the run began, from which its counters count.
    began: SystemTime,
}

/// The figures that the run leaves for the thread.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The last figures of runs that are over.
    finished: VecDeque<Moment>,
    latest: Option<Moment>,
    is_over: bool,
}

/// How the requests went.
#[derive(Debug, Default)]
struct Deliveries {
    sent: u64,
    failed: u64,
    /// Why the last one failed.
    why: String,
}

impl Deliveries {
    fn count(&mut self, result: Result<(), RequestError>) {
        match result {
            Ok(()) => self.sent += 1,
            Err(error) => {
                self.failed += 1;
                self.why = error.to_string();
            }
        }
    }
}

/// Sends the figures of one `bench`.
#[derive(Debug)]
pub(super) struct Pusher {
    uri: Uri,
    shared: Arc<Shared>,
    thread: JoinHandle<Deliveries>,
}

impl Pusher {
    /// Sends to this receiver from now on, as soon as there are figures.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(url: &ReceiverUrl) -> io::Result<Pusher> {
        let runtime = echoring_async::local_runtime()?;
        let receiver = Receiver { uri: with_path(&url.uri, PATH), headers: headers(url), runtime };
        let (uri, shared) = (receiver.uri.clone(), Arc::new(Shared::default()));
        let theirs = shared.clone();
        let pushing = move || push(&receiver, &theirs);
        let thread = thread::Builder::new().name("pusher".to_owned()).spawn(pushing)?;
        Ok(Pusher { uri, shared, thread })
    }

    /// Leaves figures to be sent. `began` is when their run began.
    pub(super) fn show(&self, figures: &Arc<Figures>, began: SystemTime) {
        let moment = Moment { figures: figures.clone(), at: SystemTime::now(), began };
        let mut state = locked(&self.shared.state);
        if let Some(before) = state.latest.replace(moment)
            && before.began != began
            && state.finished.len() < FINISHED_MAX
        {
            state.finished.push_back(before);
        }
    }

    /// Sends the last figures, and says in a line if some were lost.
    pub(super) fn finish(self) -> Option<String> {
        locked(&self.shared.state).is_over = true;
        self.shared.changed.notify_one();
        let Ok(Deliveries { sent, failed, why }) = self.thread.join() else {
            return Some(format!("--otlp: no figures were sent to {}", self.uri));
        };
        (failed > 0).then(|| {
            format!(
                "--otlp: {failed} of {} requests to {} failed, the last one because of: {why}",
                sent + failed,
                self.uri
            )
        })
    }
}

/// Where and how figures are sent.
struct Receiver {
    uri: Uri,
    headers: HeaderMap,
    runtime: Runtime,
}

impl Receiver {
    /// Sends a request until it is taken, or refused for good, or the next one is due.
    fn send(&self, moment: &Moment) -> Result<(), RequestError> {
        let body = Bytes::from(otlp::encode(moment));
        let until = Instant::now() + INTERVAL;
        let mut pause = RETRY_PAUSE;
        loop {
            let mut request = Request::post(self.uri.clone()).body(body.clone())?;
            request.headers_mut().extend(self.headers.clone());
            let answer = self.runtime.block_on(telemetry_client::send(request, REQUEST_TIMEOUT))?;
            if answer.status().is_server_error() && Instant::now() + pause < until {
                thread::sleep(pause);
                pause *= 2;
                continue;
            }
            return Receiver::judge(&answer);
        }
    }

    fn judge(answer: &http::Response<Bytes>) -> Result<(), RequestError> {
        if answer.status().is_success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(answer.body());
        let shown: String =
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARACTERS).collect();
        Err(format!("{} {}", answer.status(), shown.trim()).into())
    }
}

/// Sends the latest figures at each interval until the run is over, and then the last ones.
fn push(receiver: &Receiver, shared: &Shared) -> Deliveries {
    let mut deliveries = Deliveries::default();
    let mut due = Instant::now();
    loop {
        let mut state = locked(&shared.state);
        while !state.is_over && state.finished.is_empty() && (state.latest.is_none() || Instant::now() < due)
        {
            let left = due.saturating_duration_since(Instant::now());
            let left = if left.is_zero() { LOOK_INTERVAL } else { left };
            state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let moment = state.finished.pop_front().or_else(|| state.latest.take());
        let (is_over, others) = (state.is_over, state.finished.len() + usize::from(state.latest.is_some()));
        drop(state);
        let Some(moment) = moment else { return deliveries };
        let sent = receiver.send(&moment);
        let has_failed = sent.is_err();
        deliveries.count(sent);
        if has_failed && is_over {
            // The end of the program waits no longer.
            deliveries.failed += others as u64;
            return deliveries;
        }
        due = Instant::now() + INTERVAL;
    }
}

/// The URL with this path if it has none.
fn with_path(uri: &Uri, path: &'static str) -> Uri {
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return uri.clone();
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static(path));
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use echoring_load::render::figures::{Family, Series, Values};

    #[test]
    fn a_receiver_has_a_url_with_a_path_by_default_and_perhaps_a_user() {
        let url: ReceiverUrl = "https://me:secret@metrics.example:9090".parse().expect("a URL");
        assert_eq!(with_path(&url.uri, "/v1/metrics"), "https://metrics.example:9090/v1/metrics");
        assert_eq!(url.authorization.as_ref().expect("a user").as_bytes(), b"Basic bWU6c2VjcmV0");
        assert!(!format!("{url:?}").contains("secret"), "{url:?}");
        let other: ReceiverUrl = "http://[::1]:4318/own/path".parse().expect("a URL");
        assert_eq!(with_path(&other.uri, "/v1/metrics"), "http://[::1]:4318/own/path");
        for wrong in ["", "metrics.example", "ftp://metrics.example", "http://", "/v1/metrics"] {
            assert!(wrong.parse::<ReceiverUrl>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_last_figures_of_each_run_are_sent() {
        let state = Arc::new(Shared::default());
        let thread = thread::spawn(Deliveries::default);
        let uri = Uri::from_static("http://127.0.0.1:1");
        let pusher = Pusher { uri, shared: state.clone(), thread };
        for (run, name) in [(1, "first"), (1, "last of 1"), (2, "last of 2"), (3, "latest")] {
            let figures = Figures { target: name.to_owned(), families: Vec::new() };
            pusher.show(&Arc::new(figures), SystemTime::UNIX_EPOCH + Duration::from_secs(run));
        }
        let state = state.state.lock().expect("no panic");
        let finished: Vec<&str> =
            state.finished.iter().map(|moment| moment.figures.target.as_str()).collect();
        assert_eq!(finished, ["last of 1", "last of 2"]);
        assert_eq!(state.latest.as_ref().expect("there").figures.target, "latest");
    }

    #[test]
    fn a_request_that_the_server_could_not_take_is_sent_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            // Each connection has one request. The first two are not taken.
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.expect("a connection");
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                let mut body = vec![0; length.expect("a length")];
                stream.read_exact(&mut body).expect("a body");
                let status = if number < 2 { "503 Service Unavailable" } else { "204 No Content" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                // Before the answer, which ends the wait of the test.
                let _ = tell.send(body);
                stream.write_all(answer.as_bytes()).expect("written");
            }
        });
        let url = format!("http://{address}").parse().expect("a URL");
        let pusher = Pusher::start(&url).expect("a thread");
        let values = Values::Gauge(vec![Series { labels: Vec::new(), value: 1.0 }]);
        let families = vec![Family { name: "connections", help: "", values }];
        pusher.show(&Arc::new(Figures { target: String::new(), families }), SystemTime::now());
        assert_eq!(pusher.finish(), None, "nothing was lost");
        let bodies: Vec<Vec<u8>> = told.try_iter().collect();
        assert_eq!(bodies.len(), 3, "two were sent again");
        assert!(bodies[0] == bodies[1] && bodies[1] == bodies[2]);
    }

    #[test]
    fn a_receiver_that_is_away_costs_figures_and_a_line() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let url = format!("http://{address}").parse().expect("a URL");
        let pusher = Pusher::start(&url).expect("a thread");
        pusher.show(&Arc::new(Figures::default()), SystemTime::now());
        let told = pusher.finish().expect("it failed");
        assert!(told.contains(&format!("1 of 1 requests to http://{address}{PATH} failed")), "{told}");
    }
}
