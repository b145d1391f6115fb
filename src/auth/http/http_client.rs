//! An HTTP/1.1 client for one URL: bounded answers, no redirects, connections that are used again.
//!
//! A request is sent once. It goes to another connection only if nothing of it was written, because the idle connection that it was
//! meant for had ended before (RFC 9110, 9.2.2): a service that has read a request may have carried it out.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use echoring_async::tls::{self, Trust};
use http::response::Parts;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use crate::error::LoadError;
use crate::limits::{HOOK_REQUESTS_MAX, IDLE_CONNECTION_MAX, WEBHOOK_ANSWER_BYTES_MAX};

/// The field with the id of a request. An intermediary that sends the request again keeps it, and a service may use it
/// to do something only once (draft-ietf-httpapi-idempotency-key-header).
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("idempotency-key");

/// A URL that can be requested.
#[derive(Clone)]
pub(crate) struct Endpoint {
    uri: Uri,
    authority: HeaderValue,
    connector: Connector,
}

// The path may have a secret in it.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Parses an `http://` or `https://` URL. Reads the roots of the system for the latter.
    pub(crate) fn parse(setting: &'static str, url: &str) -> Result<Endpoint, LoadError> {
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
        let mut tcp = HttpConnector::new();
        // The scheme has been looked at.
        tcp.enforce_http(false);
        // Requests are short.
        tcp.set_nodelay(true);
        Ok(Endpoint { uri, authority, connector: Connector { tcp, tls } })
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

/// Sends requests to one URL. The caller bounds their number and their time. Clones share the connections.
#[derive(Clone)]
pub(crate) struct HttpClient {
    endpoint: Endpoint,
    client: Client<Connector, Full<Bytes>>,
}

impl HttpClient {
    pub(crate) fn new(endpoint: Endpoint) -> HttpClient {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION_MAX)
            .pool_max_idle_per_host(HOOK_REQUESTS_MAX)
            .build(endpoint.connector.clone());
        HttpClient { endpoint, client }
    }

    /// The host and the port of the URL, which has neither a user name nor a path.
    pub(crate) fn authority(&self) -> &str {
        self.endpoint.authority.to_str().unwrap_or_default()
    }

    /// Gets the URL. Returns the status and the body of at most `bytes_max`.
    pub(crate) async fn get(&self, bytes_max: usize) -> Result<(u16, Bytes), String> {
        self.send(Request::new(Full::default()), bytes_max).await
    }

    /// Posts JSON to the URL. Returns the status and the body of at most `bytes_max`.
    pub(crate) async fn post(&self, json: Vec<u8>, bytes_max: usize) -> Result<(u16, Bytes), String> {
        self.post_with(&[], json, bytes_max).await
    }

    /// The same with more header fields.
    pub(crate) async fn post_with(
        &self,
        fields: &[(HeaderName, HeaderValue)],
        json: Vec<u8>,
        bytes_max: usize,
    ) -> Result<(u16, Bytes), String> {
        let mut request = post_json(fields.iter().cloned(), json.into());
        request.headers_mut().insert(REQUEST_ID, request_id()?);
        self.send(request, bytes_max).await
    }

    /// Posts JSON with these fields. Returns the status, and the time after which the service wants the next request.
    pub(crate) async fn notify(
        &self,
        fields: &[(HeaderName, HeaderValue)],
        json: Bytes,
    ) -> Result<(u16, Option<Duration>), String> {
        let request = post_json(fields.iter().cloned(), json);
        let response = self.request(request).await.map_err(|error| error.problem)?;
        let (head, body) = response.into_parts();
        // Read so that the connection is used again. The status has said everything.
        let _ = Limited::new(body, WEBHOOK_ANSWER_BYTES_MAX).collect().await;
        Ok((head.status.as_u16(), retry_after(&head.headers)))
    }

    async fn send(&self, request: Request<Full<Bytes>>, bytes_max: usize) -> Result<(u16, Bytes), String> {
        let (head, body) = self.exchange(request, bytes_max).await.map_err(|error| error.problem)?;
        Ok((head.status.as_u16(), body))
    }

    /// Posts JSON with these fields and no others. Returns the head and the body of at most `bytes_max`.
    pub(crate) async fn post_exactly(
        &self,
        fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        json: Bytes,
        bytes_max: usize,
    ) -> Result<(Parts, Bytes), HttpError> {
        self.exchange(post_json(fields, json), bytes_max).await
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> Result<(Parts, Bytes), HttpError> {
        let (head, body) = self.request(request).await?.into_parts();
        match Limited::new(body, bytes_max).collect().await {
            Ok(body) => Ok((head, body.to_bytes())),
            Err(error) => Err(HttpError { is_unsent: false, problem: text_of(&*error) }),
        }
    }

    async fn request(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
        *request.uri_mut() = self.endpoint.uri.clone();
        request.headers_mut().insert(HOST, self.endpoint.authority.clone());
        let response = self.client.request(request).await;
        response.map_err(|error| HttpError { is_unsent: error.is_connect(), problem: text_of(&error) })
    }
}

/// A POST of JSON with these fields.
fn post_json(
    fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    json: Bytes,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::from(json));
    *request.method_mut() = Method::POST;
    request.headers_mut().extend(fields);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

/// The seconds of `Retry-After`; a date is not understood.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct HttpError {
    /// No connection was made, so that no service has read the request.
    pub(crate) is_unsent: bool,
    pub(crate) problem: String,
}

fn request_id() -> Result<HeaderValue, String> {
    HeaderValue::try_from(random_id()?).map_err(|error| text_of(&error))
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_id() -> Result<String, String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| text_of(&error))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bits)))
}

/// Opens connections, with TLS or without.
#[derive(Clone)]
struct Connector {
    tcp: HttpConnector,
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
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::rc::Rc;
    use std::sync::{Barrier, mpsc};
    use std::thread;
    use std::time::Instant;

    use tokio::runtime::Builder;
    use tokio::task::LocalSet;

    use super::*;

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

    /// Reads a request. Returns its id.
    fn request(reader: &mut BufReader<TcpStream>) -> Option<String> {
        let (mut id, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let (name, value) = line.trim_end().split_once(": ").unwrap_or_default();
            match name {
                "idempotency-key" => value.clone_into(&mut id),
                "content-length" => length = value.parse().expect("a number"),
                _ if line == "\r\n" => break,
                _ => {}
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        Some(id)
    }

    /// Has the client keep `KEPT` connections, and then make one more request.
    fn after_many(server: &Server, before: impl AsyncFnOnce()) -> Result<(u16, Bytes), String> {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = Rc::new(HttpClient::new(Endpoint::parse("url", &server.url).expect("valid")));
        LocalSet::new().block_on(&runtime, async {
            let first = || {
                let client = Rc::clone(&client);
                tokio::task::spawn_local(async move { client.post(b"{}".to_vec(), BYTES_MAX).await })
            };
            let first: Vec<_> = (0..KEPT).map(|_| first()).collect();
            for answer in first {
                assert_eq!(answer.await.expect("no panic").expect("an answer").0, 200);
            }
            before().await;
            tokio::time::timeout(PATIENCE, client.post(b"{}".to_vec(), BYTES_MAX)).await.expect("in time")
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
