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
pub(crate) mod program;
#[cfg(test)]
mod reference_tests;
#[cfg(feature = "traces")]
pub(crate) mod traces;

use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue, VARY};

use super::http::Reply;
use super::report::Node;
use crate::ProgramMetric;
use crate::access::failed_attempts::AttemptFigures;
use crate::reload::ReloadCounters;
pub use allocator::{AllocatorFigures, set_allocator};
use echoring_server::Snapshot;
use family::Families;
use formats::Format;

/// The answer to a request with these header fields.
pub(super) fn reply(headers: &HeaderMap, node: Node, snapshots: &[Snapshot]) -> Reply {
    rendered(headers, collect::families(node, snapshots))
}

/// The same for another program than the server, with metrics of its own.
pub(super) fn program_reply(
    headers: &HeaderMap,
    own: Vec<ProgramMetric>,
    reloads: &ReloadCounters,
    attempts: AttemptFigures,
) -> Reply {
    rendered(headers, collect::program_families(own, reloads, attempts))
}

/// These metrics, in the format that the header fields of a request prefer.
fn rendered(headers: &HeaderMap, families: Families) -> Reply {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::negotiate(&accept.collect::<Vec<_>>().join(","));
    let Ok(body) = format.render(families) else {
        return Reply::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be rendered");
    };
    let mut reply = Reply { content_type: format.content_type(), body, ..Reply::empty(StatusCode::OK) };
    reply.headers.push((VARY, HeaderValue::from_static("accept")));
    reply
}
