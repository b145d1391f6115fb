//! Spans of handshakes and publications, for a program that exports traces. Without the feature `traces`, everything here is
//! empty and costs nothing.
//!
//! A thread makes its own sampling decisions, and hands finished spans to the one function of the process. Never: a
//! header or a query in a span, because they have credentials; waiting.

#[cfg(feature = "traces")]
mod context;
#[cfg(feature = "traces")]
mod recorded;
#[cfg(not(feature = "traces"))]
mod unrecorded;

#[cfg(feature = "traces")]
pub use context::TraceContext;
#[cfg(feature = "traces")]
pub use recorded::{PostSpan, Sink, Span, SpanKind, Value, post, published, set_sink};
#[cfg(feature = "traces")]
pub(crate) use recorded::{accepted, answered, classified, closed, requested, secured};
#[cfg(not(feature = "traces"))]
pub use unrecorded::{PostSpan, post, published};
#[cfg(not(feature = "traces"))]
pub(crate) use unrecorded::{accepted, answered, classified, closed, requested, secured};
