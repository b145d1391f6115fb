//! Requests to collectors of metrics and traces.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::Full;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::http_client::{RequestError, ask};
use echoring_async::tls::{self, Trust};

/// Bytes of an answer: it has a short reason.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

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
