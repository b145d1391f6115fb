//! The HTTP client of the exporter of traces.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};

use crate::common::telemetry_client;
use crate::limits::TRACE_REQUEST_TIMEOUT;

/// Sends batches to the collector.
#[derive(Clone, Copy, Debug)]
pub(super) struct HttpSender;

#[async_trait]
impl HttpClient for HttpSender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter has no timeout of its own around this.
        telemetry_client::send(request, TRACE_REQUEST_TIMEOUT).await
    }
}
