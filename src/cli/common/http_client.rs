//! An HTTP client for the program's data to monitoring systems: one connection for each request.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use echoring_async::tls::{self, Trust};
use echoring_async::{TokioStream, Transport};

/// Bytes of an answer: it has a short reason.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Any failure of a request.
pub(crate) type RequestError = Box<dyn std::error::Error + Send + Sync>;

/// The trust of `--ca-file` and `--insecure`.
pub(crate) fn trust(ca_file: Option<&Path>, insecure: bool) -> Trust {
    match ca_file {
        Some(file) => Trust::CaFile(file.to_owned()),
        None if insecure => Trust::Insecure,
        None => Trust::System,
    }
}

/// Makes one request to the `http://` or `https://` URL that it names, and waits this long for the whole answer.
///
/// # Errors
/// If no answer in time, or it is too long.
pub(crate) async fn send(
    request: Request<Bytes>,
    timeout: Duration,
) -> Result<Response<Bytes>, RequestError> {
    tokio::time::timeout(timeout, exchange(request)).await.map_err(|_| "there is no answer in time")?
}

async fn exchange(request: Request<Bytes>) -> Result<Response<Bytes>, RequestError> {
    let (mut head, body) = request.into_parts();
    let uri = std::mem::take(&mut head.uri);
    let authority = uri.authority().ok_or("the URL has no host")?.clone();
    let is_secure = uri.scheme_str() == Some("https");
    head.uri = uri.path_and_query().map_or("/", |path| path.as_str()).parse::<Uri>()?;
    head.headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
    let request = Request::from_parts(head, Full::new(body));
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    if !is_secure {
        return ask(Box::new(stream), request, ANSWER_BYTES_MAX).await;
    }
    let config = tls::client_config(&Trust::System)?;
    let connector = TlsConnector::from(Arc::clone(&config));
    let stream = connector.connect(ServerName::try_from(host)?, stream).await?;
    ask(Box::new(stream), request, ANSWER_BYTES_MAX).await
}

/// Makes one request on a connection. A longer answer than `answer_bytes_max` is an error.
///
/// The stream is boxed, so that the client is compiled once for all kinds of streams.
pub(crate) async fn ask(
    stream: Box<dyn Transport + Send>,
    request: Request<Full<Bytes>>,
    answer_bytes_max: usize,
) -> Result<Response<Bytes>, RequestError> {
    let (mut sender, connection) = http1::handshake(TokioStream(stream)).await?;
    let driving = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, answer_bytes_max).collect().await?.to_bytes();
    driving.abort();
    Ok(Response::from_parts(head, body))
}
