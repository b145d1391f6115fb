//! Traces of handshakes and publications, exported by OTLP over HTTP (feature `otel`).
//!
//! Endpoint, header fields, timeouts and the name of the service come from the variables that OpenTelemetry specifies
//! (`OTEL_*`).

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;

use crate::Failure;
use crate::common::telemetry_client;
use crate::common::values::share_in;
use crate::limits::TRACE_REQUEST_TIMEOUT;

/// The options of traces.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Log")]
pub(crate) struct TraceArgs {
    /// Fraction of handshakes and publications that are traced, from 0 to 1
    ///
    /// Spans go to the OTLP collector of OTEL_EXPORTER_OTLP_ENDPOINT, by default http://localhost:4318. A request with a
    /// `traceparent` is traced if its sampled flag is set. 0 traces nothing.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share_in(0.0..=1.0))]
    pub(super) trace_sample: f64,
}

/// Traces from now on, unless `sample` is 0 or `OTEL_SDK_DISABLED` is `true`.
///
/// # Errors
/// If a variable has a wrong value, or the thread cannot be started.
pub(super) fn start(sample: f64) -> Result<(), Failure> {
    let is_disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|word| word.eq_ignore_ascii_case("true"));
    if sample == 0.0 || is_disabled {
        return Ok(());
    }
    let exporter =
        exporter().map_err(|error| Failure::Usage(format!("traces cannot be exported: {error}")))?;
    echoring_admin::start_traces(sample, exporter)
        .map_err(|error| Failure::Environment(format!("traces cannot be exported: {error}")))
}

fn exporter() -> Result<SpanExporter, ExporterBuildError> {
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(HttpSender)
        .with_protocol(Protocol::HttpBinary)
        .build()?;
    exporter.set_resource(&resource());
    Ok(exporter)
}

/// This process, with the attributes that the environment gives it.
fn resource() -> Resource {
    let is_named = std::env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|list| list.contains("service.name="));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_attribute(version);
    if is_named { resource.build() } else { resource.with_service_name("echoring").build() }
}

/// Sends batches to the collector.
#[derive(Clone, Copy, Debug)]
struct HttpSender;

#[async_trait]
impl HttpClient for HttpSender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter has no timeout of its own around this.
        telemetry_client::send(request, TRACE_REQUEST_TIMEOUT).await
    }
}
