//! Empty functions in the place of recording, in programs that record no spans.

use crate::driver::Token;
use echoring_proto::handshake::Request;
use echoring_proto::limits::Nanos;

#[inline(always)]
pub(crate) fn accepted(_: Token, _: Nanos) {}

#[inline(always)]
pub(crate) fn secured(_: Token, _: bool) {}

#[inline(always)]
pub(crate) fn requested(_: Token, _: &Request<'_>, _: Nanos) {}

#[inline(always)]
pub(crate) fn classified(_: Token, _: u8) {}

#[inline(always)]
pub(crate) fn answered(_: Token, _: u16) {}

#[inline(always)]
pub(crate) fn closed(_: Token, _: &'static str) {}

/// A client's publication was routed.
#[inline(always)]
pub fn published(_: Token, _: &str, _: usize, _: Nanos, _: Result<&'static str, &'static str>) {}

/// The span of a request that publishes.
#[derive(Debug)]
pub struct PostSpan(());

/// Begins a span. There is none.
#[inline(always)]
pub fn post(_: Option<&str>) -> Option<PostSpan> {
    None
}

impl PostSpan {
    /// Ends the span.
    pub fn end(self, _: &str, _: u16, _: usize) {}
}
