//! An HTTP/1.1 client for one URL: bounded answers, no redirects, connections that are used again.
//!
//! A request is sent once. It goes to another connection only if nothing of it was written, because the idle connection that it was
//! meant for had ended before (RFC 9110, 9.2.2): a service that has read a request may have carried it out.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use std::vec;

use bytes::Bytes;
use echoring_async::tls::{self, Trust};
use http::response::Parts;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::load::Source;
use super::lock;
use super::turns::Turns;
use crate::error::LoadError;
use crate::limits::{HOOK_REQUESTS_MAX, IDLE_CONNECTION_MAX, KEEP_ALIVE_MARGIN_MAX, LOOKUPS_MAX};

/// The field with the id of a request. An intermediary that sends the request again keeps it, and a service may use it
/// to do something only once (draft-ietf-httpapi-idempotency-key-header).
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("idempotency-key");
/// The time for which the service keeps an idle connection (RFC 2068, 19.7.1.1).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// A request without its URL.
pub(crate) type Outgoing = Request<Full<Bytes>>;

/// A POST of JSON with these fields.
pub(crate) fn post(
    fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    json: impl Into<Bytes>,
) -> Outgoing {
    let mut request = Request::new(Full::from(json.into()));
    *request.method_mut() = Method::POST;
    request.headers_mut().extend(fields);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

/// The same with an id.
pub(crate) fn post_with_id(
    fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    json: impl Into<Bytes>,
) -> Result<Outgoing, String> {
    let mut request = post(fields, json);
    let id = HeaderValue::try_from(random_id()?).map_err(|error| text_of(&error))?;
    request.headers_mut().insert(REQUEST_ID, id);
    Ok(request)
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_id() -> Result<String, String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| text_of(&error))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bits)))
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct AnswerHead(Parts);

impl AnswerHead {
    pub(crate) fn status(&self) -> u16 {
        self.0.status.as_u16()
    }

    /// The time after which the service wants the next request.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.0.headers)
    }

    pub(crate) fn is_json(&self) -> bool {
        let value = self.0.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = value.unwrap_or_default().split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("application/json")
    }
}

/// The body of an answer, unless it is too long, or incomplete.
pub(crate) type AnswerBody = Result<Bytes, NoAnswer>;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer {
    /// No connection was made, so that no service has read the request.
    pub(crate) is_unsent: bool,
    pub(crate) problem: String,
}

impl From<String> for NoAnswer {
    fn from(problem: String) -> NoAnswer {
        NoAnswer { is_unsent: false, problem }
    }
}

impl From<NoAnswer> for String {
    fn from(error: NoAnswer) -> String {
        error.problem
    }
}

/// Sends requests to one URL. The caller bounds their number and their time.
pub(crate) struct HttpClient {
    uri: Uri,
    authority: HeaderValue,
    answer_bytes_max: usize,
    connector: Connector,
    connections: Mutex<Connections>,
}

// The path may have a secret in it.
opaque!(HttpClient, |it| authority: it.authority);

/// The connections to a service.
struct Connections {
    client: Client<Connector, Full<Bytes>>,
    /// How long an idle one is kept.
    idle_max: Duration,
}

impl Connections {
    fn new(connector: &Connector, idle_max: Duration) -> Connections {
        let kept = if idle_max.is_zero() { 0 } else { HOOK_REQUESTS_MAX };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(idle_max)
            .pool_max_idle_per_host(kept)
            .build(connector.clone());
        Connections { client, idle_max }
    }
}

impl HttpClient {
    /// A client for an `http://` or `https://` URL, whose answers have at most this many bytes. Reads the roots of the system for the
    /// latter.
    pub(crate) fn parse(
        setting: &'static str,
        url: &str,
        answer_bytes_max: usize,
    ) -> Result<HttpClient, LoadError> {
        let wrong = |problem: &str| LoadError::new(setting, problem);
        let uri: Uri = url.parse().map_err(|_| wrong("not a URL"))?;
        let authority =
            uri.authority().ok_or_else(|| wrong("expected http://HOST/PATH or https://HOST/PATH"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("the URL has a user name, which is not supported"));
        }
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(secured(setting, authority.host())?),
            _ => return Err(wrong("expected http:// or https://")),
        };
        let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("not a URL"))?;
        let mut tcp = HttpConnector::new_with_resolver(Lookup);
        // The scheme has been looked at.
        tcp.enforce_http(false);
        // Requests are short.
        tcp.set_nodelay(true);
        let connector = Connector { tcp, tls };
        let connections = Mutex::new(Connections::new(&connector, IDLE_CONNECTION_MAX));
        Ok(HttpClient { uri, authority, answer_bytes_max, connector, connections })
    }

    /// The host and the port of the URL, which has neither a user name nor a path.
    pub(crate) fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    /// Sends a request.
    pub(crate) async fn send(&self, mut request: Outgoing) -> Result<(AnswerHead, AnswerBody), NoAnswer> {
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().insert(HOST, self.authority.clone());
        let client = lock(&self.connections).client.clone();
        let failed =
            |error: legacy::Error| NoAnswer { is_unsent: error.is_connect(), problem: text_of(&error) };
        let (head, body) = client.request(request).await.map_err(failed)?.into_parts();
        if let Some(idle_max) = idle_max(&head.headers) {
            self.keep_for(idle_max);
        }
        let body = Limited::new(body, self.answer_bytes_max).collect().await;
        let body = body.map(|body| body.to_bytes()).map_err(|error| text_of(&*error).into());
        Ok((AnswerHead(head), body))
    }

    /// Keeps idle connections for no longer than this. Those that are kept already, for longer, are kept no more.
    fn keep_for(&self, idle_max: Duration) {
        let mut connections = lock(&self.connections);
        if idle_max < connections.idle_max {
            *connections = Connections::new(&self.connector, idle_max);
        }
    }
}

fn secured(setting: &'static str, host: &str) -> Result<Tls, LoadError> {
    let config =
        tls::client_config(&Trust::System).map_err(|error| LoadError::new(setting, error.to_string()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host)
        .map_err(|_| LoadError::new(setting, "the host of the URL has no valid name"))?;
    Ok((config, name))
}

/// An error's text and its causes.
fn text_of(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The time that `Retry-After` names, in seconds or as a date in any of the forms of HTTP (RFC 9110, 5.6.7 and 10.2.3). A date is
/// measured by the clock of the service, if it says in `Date` what that shows. One that has passed is now.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let date = |name: HeaderName| {
        let text = headers.get(name)?.to_str().ok()?;
        httpdate::parse_http_date(text.trim()).ok()
    };
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = date(DATE).unwrap_or_else(SystemTime::now);
    Some(date(RETRY_AFTER)?.duration_since(now).unwrap_or_default())
}

/// How long an idle connection may be kept whose service ends it as `Keep-Alive` says. The service's time begins before this side has
/// the answer, and the next request takes time to arrive.
fn idle_max(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(KEEP_ALIVE).into_iter().filter_map(|value| value.to_str().ok());
    let timeout = |parameter: &str| {
        let (name, seconds) = parameter.split_once('=')?;
        let seconds = seconds.trim().trim_matches('"').parse().ok()?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| Duration::from_secs(seconds))
    };
    let time = values.flat_map(|value| value.split(',')).filter_map(timeout).min()?;
    Some(time - KEEP_ALIVE_MARGIN_MAX.min(time / 2))
}

/// Opens connections, with TLS or without.
#[derive(Clone)]
struct Connector {
    tcp: HttpConnector<Lookup>,
    tls: Option<Tls>,
}

/// The configuration, and the name that the server's certificate has.
type Tls = (Arc<rustls::ClientConfig>, ServerName<'static>);

type ConnectError = Box<dyn Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, tls) = (self.tcp.call(uri), self.tls.clone());
        Box::pin(async move {
            let tcp = connecting.await?.into_inner();
            let stream = match tls {
                None => Stream(Box::new(tcp)),
                Some((config, name)) => {
                    Stream(Box::new(TlsConnector::from(config).connect(name, tcp).await?))
                }
            };
            Ok(TokioIo::new(stream))
        })
    }
}

/// Looks up names of hosts on threads for work that blocks. Hosts take turns, so that a slow lookup leaves threads to others.
#[derive(Clone, Debug)]
struct Lookup;

static LOOKUPS: LazyLock<Arc<Turns>> = LazyLock::new(|| Turns::of_at_most(LOOKUPS_MAX));

impl Service<Name> for Lookup {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<vec::IntoIter<SocketAddr>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let turn = LOOKUPS.take(&Source::Name(name.as_str().into())).await;
            // Who gives up leaves a lookup that goes on.
            let look_up = move || {
                let _turn = turn;
                (name.as_str(), 0).to_socket_addrs()
            };
            spawn_blocking(look_up).await.map_err(io::Error::other)?
        })
    }
}

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection, with TLS or without.
struct Stream(Box<dyn Transport>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, out)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{BufRead, BufReader, Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::rc::Rc;
    use std::sync::{Barrier, mpsc};
    use std::thread;
    use std::time::Instant;

    use tokio::runtime::Builder;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use tokio::task::LocalSet;

    use super::*;

    async fn posted(client: &HttpClient) -> Result<(u16, Bytes), String> {
        let (head, body) = client.send(post_with_id([], "{}")?).await?;
        Ok((head.status(), body?))
    }

    #[test]
    fn a_service_says_when_to_try_again_in_seconds_or_by_a_date() {
        let wait = |fields: &[(HeaderName, &'static str)]| {
            let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            retry_after(&fields.collect())
        };
        let date = (DATE, "Sun, 06 Nov 1994 08:49:37 GMT");
        for (value, seconds) in [
            (" 7 ", Some(7)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:49:38 1994", Some(1)),
            ("Sun, 06 Nov 1994 08:49:36 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(wait(&[(RETRY_AFTER, value), date.clone()]), expected, "{value:?}");
        }
        assert_eq!(wait(&[(RETRY_AFTER, "Sun, 06 Nov 1994 08:49:47 GMT")]), Some(Duration::ZERO), "long ago");
        assert!(wait(&[(RETRY_AFTER, "Thu, 01 Jan 2099 00:00:00 GMT")]) > Some(Duration::from_secs(1 << 24)));
        assert_eq!(wait(&[date]), None);
    }

    #[test]
    fn an_idle_connection_is_kept_for_less_long_than_its_service_says() {
        let kept = |values: &[&'static str]| {
            idle_max(&values.iter().map(|value| (KEEP_ALIVE, HeaderValue::from_static(value))).collect())
        };
        for (values, milliseconds) in [
            (&["timeout=5"][..], Some(4_000)),
            (&["timeout=5, max=1000"], Some(4_000)),
            (&["max=7,Timeout = \"2\""], Some(1_000)),
            (&["timeout=1"], Some(500)),
            (&["timeout=0"], Some(0)),
            (&["timeout=60", "timeout=3"], Some(2_000)),
            (&["max=5"], None),
            (&["timeout=-1"], None),
            (&["timeout=1.5"], None),
            (&["timeout"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(kept(values), milliseconds.map(Duration::from_millis), "{values:?}");
        }
    }

    /// A service that ends idle connections after a time, as it says. A request that meets the end is not answered. Also has a word
    /// for each connection whose time is over.
    fn service_that_keeps_for(seconds: u64) -> (String, UnboundedReceiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let (ends, over) = unbounded_channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let ends = ends.clone();
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
                    stream.set_read_timeout(Some(Duration::from_secs(seconds))).expect("not zero");
                    while request(&mut reader).is_some() {
                        let head = format!("HTTP/1.1 200 OK\r\nkeep-alive: timeout={seconds}\r\n");
                        write!(&stream, "{head}content-length: 2\r\n\r\n{{}}").expect("read");
                    }
                    let _ = ends.send(());
                    // The connection is closed once a request has met its end, or the client has ended it.
                    stream.set_read_timeout(None).expect("possible");
                    let _ = request(&mut reader);
                });
            }
        });
        (url, over)
    }

    #[test]
    fn no_request_meets_the_end_of_an_idle_connection_whose_service_says_when_it_comes() {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (url, mut over) = service_that_keeps_for(1);
        let client = HttpClient::parse("url", &url, BYTES_MAX).expect("valid");
        runtime.block_on(async {
            for round in 0..3 {
                let answer = tokio::time::timeout(PATIENCE, posted(&client)).await;
                assert_eq!(answer.expect("in time").map(|(status, _)| status), Ok(200), "round {round}");
                assert_eq!(tokio::time::timeout(PATIENCE, over.recv()).await, Ok(Some(())));
            }
        });
    }

    /// Connections that the client keeps before the request that is looked at.
    const KEPT: usize = 8;
    const BYTES_MAX: usize = 1_024;
    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A server's treatment of the requests after the first one of each connection.
    #[derive(Clone, Copy)]
    enum Then {
        /// Reads them, and ends the connection.
        Ends,
        /// Answers more than the client takes.
        Floods,
        /// Answers them.
        Answers,
    }

    /// A server that waits for `KEPT` connections before it answers their first requests, so that the client keeps them all.
    struct Server {
        url: String,
        /// The id of each request, when it has been read.
        read: mpsc::Receiver<String>,
        /// The connections.
        streams: mpsc::Receiver<TcpStream>,
        /// A word for each connection that has ended.
        ended: mpsc::Receiver<()>,
    }

    impl Server {
        fn start(then: Then) -> Server {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let url = format!("http://{}/call?a=b", listener.local_addr().expect("an address"));
            let (read, requests) = mpsc::channel();
            let (accepted, streams) = mpsc::channel();
            let (ends, ended) = mpsc::channel();
            let all = Arc::new(Barrier::new(KEPT));
            thread::spawn(move || {
                for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                    let _ = accepted.send(stream.try_clone().expect("a descriptor"));
                    let (read, ends, all) = (read.clone(), ends.clone(), Arc::clone(&all));
                    thread::spawn(move || {
                        let _ = serve(stream, (number < KEPT).then_some(&all), then, &read);
                        let _ = ends.send(());
                    });
                }
            });
            Server { url, read: requests, streams, ended }
        }

        fn ids(&self) -> Vec<String> {
            self.read.try_iter().collect()
        }

        /// Ends all connections, and waits until the client has ended them, too.
        async fn end_all(&self) {
            for stream in self.streams.try_iter() {
                stream.shutdown(Shutdown::Write).expect("open");
            }
            let started = Instant::now();
            let mut open = KEPT;
            while open > 0 {
                open -= self.ended.try_iter().count();
                tokio::task::yield_now().await;
                assert!(started.elapsed() < PATIENCE, "{open} connections are open");
            }
        }
    }

    fn serve(
        mut stream: TcpStream,
        all: Option<&Barrier>,
        then: Then,
        read: &mpsc::Sender<String>,
    ) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        for number in 0.. {
            let id = request(&mut reader)?;
            read.send(id).ok()?;
            let body = match then {
                _ if number == 0 && all.is_some() => {
                    all?.wait();
                    "{}".to_owned()
                }
                Then::Answers => "{}".to_owned(),
                Then::Floods => "x".repeat(BYTES_MAX + 1),
                Then::Ends => return stream.shutdown(Shutdown::Both).ok(),
            };
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).ok()?;
        }
        None
    }

    /// Reads the head of a request. Returns the values of these fields, and the length of the body.
    pub(in crate::calls) fn read_head<const N: usize>(
        reader: &mut impl BufRead,
        names: [&str; N],
    ) -> Option<([String; N], usize)> {
        let (mut values, mut length) = ([const { String::new() }; N], 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let (name, value) = line.trim_end().split_once(": ").unwrap_or_default();
            if name == "content-length" {
                length = value.parse().expect("a number");
            } else if let Some(at) = names.iter().position(|other| *other == name) {
                value.clone_into(&mut values[at]);
            } else if line == "\r\n" {
                return Some((values, length));
            }
        }
    }

    /// Reads a request. Returns its id.
    fn request(reader: &mut BufReader<TcpStream>) -> Option<String> {
        let ([id], length) = read_head(reader, ["idempotency-key"])?;
        reader.read_exact(&mut vec![0; length]).ok()?;
        Some(id)
    }

    /// Has the client keep `KEPT` connections, and then make one more request.
    fn after_many(server: &Server, before: impl AsyncFnOnce()) -> Result<(u16, Bytes), String> {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = Rc::new(HttpClient::parse("url", &server.url, BYTES_MAX).expect("valid"));
        LocalSet::new().block_on(&runtime, async {
            let first = || {
                let client = Rc::clone(&client);
                tokio::task::spawn_local(async move { posted(&client).await })
            };
            let first: Vec<_> = (0..KEPT).map(|_| first()).collect();
            for answer in first {
                assert_eq!(answer.await.expect("no panic").expect("an answer").0, 200);
            }
            before().await;
            tokio::time::timeout(PATIENCE, posted(&client)).await.expect("in time")
        })
    }

    #[test]
    fn a_request_that_may_have_been_read_is_sent_once() {
        for then in [Then::Ends, Then::Floods] {
            let server = Server::start(then);
            assert!(after_many(&server, async || {}).is_err());
            assert_eq!(server.ids().len(), KEPT + 1);
        }
    }

    #[test]
    fn a_request_that_no_server_has_read_goes_to_another_connection() {
        let server = Server::start(Then::Answers);
        assert!(after_many(&server, async || server.end_all().await).is_ok());
        assert_eq!(server.ids().len(), KEPT + 1);
    }

    #[test]
    fn each_request_has_an_id_of_its_own() {
        let server = Server::start(Then::Answers);
        assert!(after_many(&server, async || {}).is_ok());
        let mut ids = server.ids();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), KEPT + 1);
        assert!(ids.iter().all(|id| id.len() == 32), "{ids:?}");
    }
}
