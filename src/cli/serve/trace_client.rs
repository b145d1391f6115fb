//! The HTTP client of the exporter of traces: one connection for each batch.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::limits::{TRACE_ANSWER_BYTES_MAX, TRACE_REQUEST_TIMEOUT};
use echoring_async::TokioStream;
use echoring_async::tls::{self, Trust};

/// Sends batches to the collector.
#[derive(Clone, Copy, Debug)]
pub(super) struct HttpSender;

#[async_trait]
impl HttpClient for HttpSender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter has no timeout of its own around this.
        tokio::time::timeout(TRACE_REQUEST_TIMEOUT, exchange(request))
            .await
            .map_err(|_| Unusable("the collector does not answer in time"))?
    }
}

/// Why a collector cannot be used.
#[derive(Debug)]
struct Unusable(&'static str);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Unusable {}

async fn exchange(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut head, body) = request.into_parts();
    let uri = std::mem::take(&mut head.uri);
    let authority = uri.authority().ok_or(Unusable("the endpoint has no host"))?.clone();
    let is_secure = uri.scheme_str() == Some("https");
    head.uri = uri.path_and_query().map_or("/", |path| path.as_str()).parse::<Uri>()?;
    head.headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
    let request = Request::from_parts(head, Full::new(body));
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    if !is_secure {
        return ask(stream, request).await;
    }
    let config = tls::client_config(&Trust::System)?;
    let connector = TlsConnector::from(Arc::clone(&config));
    ask(connector.connect(ServerName::try_from(host)?, stream).await?, request).await
}

async fn ask<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioStream(stream)).await?;
    let driving = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, TRACE_ANSWER_BYTES_MAX).collect().await?.to_bytes();
    driving.abort();
    Ok(Response::from_parts(head, body))
}
