//! A small HTTP/1.1 client for one URL: bounded answers, connections that are used again, no redirects.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use echoring_async::TokioStream;
use echoring_async::tls::{self, Trust};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::LoadError;
use crate::limits::HOOK_REQUESTS_MAX;

/// A URL that can be requested.
#[derive(Clone)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
    path: Uri,
    authority: HeaderValue,
    tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
}

// The path may have a secret in it.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
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
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("expected http:// or https://")),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let tls = if is_secure { Some(secured(setting, &host)?) } else { None };
        Ok(Endpoint {
            path: path.parse().map_err(|_| wrong("not a URL"))?,
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("not a URL"))?,
            host,
            port,
            tls,
        })
    }
}

fn secured(
    setting: &'static str,
    host: &str,
) -> Result<(Arc<rustls::ClientConfig>, ServerName<'static>), LoadError> {
    let config =
        tls::client_config(&Trust::System).map_err(|error| LoadError::new(setting, error.to_string()))?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| LoadError::new(setting, "the host of the URL has no valid name"))?;
    Ok((config, name))
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) struct HttpError(String);

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HttpError {
    fn of(error: impl fmt::Display) -> HttpError {
        HttpError(error.to_string())
    }
}

/// Sends requests to one URL, from one thread. The caller bounds their number and their time.
pub(crate) struct HttpClient {
    endpoint: Endpoint,
    /// Connections without a request.
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
}

impl HttpClient {
    pub(crate) fn new(endpoint: Endpoint) -> HttpClient {
        HttpClient { endpoint, idle: RefCell::default() }
    }

    /// Gets the URL. Returns the status and the body of at most `bytes_max`.
    pub(crate) async fn get(&self, bytes_max: usize) -> Result<(u16, Bytes), HttpError> {
        self.request(Method::GET, &[], Bytes::new(), bytes_max).await
    }

    /// Posts JSON to the URL. Returns the status and the body of at most `bytes_max`.
    pub(crate) async fn post(&self, json: Vec<u8>, bytes_max: usize) -> Result<(u16, Bytes), HttpError> {
        self.post_with(&[], json, bytes_max).await
    }

    /// The same with more header fields.
    pub(crate) async fn post_with(
        &self,
        fields: &[(HeaderName, HeaderValue)],
        json: Vec<u8>,
        bytes_max: usize,
    ) -> Result<(u16, Bytes), HttpError> {
        self.request(Method::POST, fields, json.into(), bytes_max).await
    }

    async fn request(
        &self,
        method: Method,
        fields: &[(HeaderName, HeaderValue)],
        body: Bytes,
        bytes_max: usize,
    ) -> Result<(u16, Bytes), HttpError> {
        loop {
            let reused = self.idle.borrow_mut().pop();
            let is_reused = reused.is_some();
            let mut sender = match reused {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            match self.send(&mut sender, &method, fields, &body, bytes_max).await {
                // The server may have closed it meanwhile.
                Err(_) if is_reused => {}
                Err(error) => return Err(error),
                Ok(answer) => {
                    self.keep(sender);
                    return Ok(answer);
                }
            }
        }
    }

    async fn send(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        method: &Method,
        fields: &[(HeaderName, HeaderValue)],
        body: &Bytes,
        bytes_max: usize,
    ) -> Result<(u16, Bytes), HttpError> {
        sender.ready().await.map_err(HttpError::of)?;
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = self.endpoint.path.clone();
        for (name, value) in fields {
            request.headers_mut().append(name, value.clone());
        }
        request.headers_mut().insert(HOST, self.endpoint.authority.clone());
        if method == Method::POST {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let response = sender.send_request(request).await.map_err(HttpError::of)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), bytes_max).collect().await.map_err(HttpError::of)?;
        Ok((status, body.to_bytes()))
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|other| !other.is_closed());
        if idle.len() < HOOK_REQUESTS_MAX && !sender.is_closed() {
            idle.push(sender);
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let Endpoint { host, port, tls, .. } = &self.endpoint;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(HttpError::of)?;
        // Requests are short.
        stream.set_nodelay(true).map_err(HttpError::of)?;
        match tls {
            None => handshake(stream).await,
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                handshake(connector.connect(name.clone(), stream).await.map_err(HttpError::of)?).await
            }
        }
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioStream(stream)).await.map_err(HttpError::of)?;
    tokio::task::spawn_local(async move {
        // Its error is that of the request.
        let _ = connection.await;
    });
    Ok(sender)
}
