//! `GET /metrics`: the counts of the shards, the log, the allocator and the process, for Prometheus.
//!
//! It reports the same snapshots as `/stats` and counts nothing itself. `collect` names the metrics, `family` is their
//! form, `formats` renders them.

mod allocator;
mod collect;
mod family;
mod formats;
mod native;
mod process;
#[cfg(test)]
mod reference_tests;
#[cfg(feature = "traces")]
pub(crate) mod traces;

use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue, VARY};

use super::http::Reply;
use super::report::Node;
pub use allocator::{AllocatorFigures, set_allocator};
use echoring_server::Snapshot;
use formats::Format;

/// The answer to a request with these header fields.
pub(super) fn reply(headers: &HeaderMap, node: Node, snapshots: &[Snapshot]) -> Reply {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::negotiate(&accept.collect::<Vec<_>>().join(","));
    let Ok(body) = format.render(collect::families(node, snapshots)) else {
        return Reply::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be rendered");
    };
    let mut reply = Reply { content_type: format.content_type(), body, ..Reply::empty(StatusCode::OK) };
    reply.headers.push((VARY, HeaderValue::from_static("accept")));
    reply
}
