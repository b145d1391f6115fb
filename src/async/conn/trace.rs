//! The span of a connection, from its handshake to its end, and the events of protocol errors.
//!
//! Costs a null pointer where no subscriber wants the span: nothing is counted, formatted or allocated then. Never: the
//! content of messages, header fields, or paths, which may be secrets.

use std::fmt;
use std::time::Instant;

use tracing::Span;
use tracing::field::{Empty, display};

use super::error::{End, Error};
use super::settings::Opened;
use echoring_proto::Role;

/// The span `websocket` of one connection, at the level `debug`; nothing if no subscriber wants it.
#[derive(Debug, Default)]
pub(crate) struct Trace(Option<Box<Traced>>);

#[derive(Debug)]
struct Traced {
    span: Span,
    /// When the handshake began, if it was done here.
    begun: Option<Instant>,
    received: Tally,
    sent: Tally,
}

/// Counts of whole messages and of payload bytes.
#[derive(Debug, Default)]
struct Tally {
    messages: u64,
    bytes: u64,
}

impl Tally {
    fn add(&mut self, payload_bytes: usize, ends_message: bool) {
        self.messages += u64::from(ends_message);
        self.bytes += payload_bytes as u64;
    }
}

impl Trace {
    /// The span of a connection whose handshake begins.
    pub(crate) fn begin(role: Role) -> Trace {
        let mut trace = Trace::adopt(role);
        if let Some(traced) = &mut trace.0 {
            traced.begun = Some(Instant::now());
        }
        trace
    }

    /// The span of a connection whose handshake was done elsewhere.
    pub(super) fn adopt(role: Role) -> Trace {
        let span = tracing::debug_span!(
            "websocket",
            role = match role {
                Role::Server => "server",
                Role::Client => "client",
            },
            peer = Empty,
            subprotocol = Empty,
            compressed = Empty,
            handshake_us = Empty,
            received_messages = Empty,
            received_bytes = Empty,
            sent_messages = Empty,
            sent_bytes = Empty,
            close_code = Empty,
            error = Empty,
        );
        let traced =
            |span| Box::new(Traced { span, begun: None, received: Tally::default(), sent: Tally::default() });
        Trace((!span.is_disabled()).then(|| traced(span)))
    }

    /// Notes the result of the handshake.
    pub(super) fn opened(&self, opened: &Opened) {
        let Some(Traced { span, begun, .. }) = self.0.as_deref() else { return };
        if let Some(peer) = opened.peer {
            span.record("peer", display(peer));
        }
        if let Some(subprotocol) = &opened.subprotocol {
            span.record("subprotocol", subprotocol.as_str());
        }
        span.record("compressed", opened.agreement.is_some());
        if let Some(begun) = begun {
            span.record("handshake_us", begun.elapsed().as_micros() as u64);
        }
    }

    /// Notes a failed handshake.
    pub(crate) fn failed(&self, error: &dyn fmt::Display) {
        if let Some(traced) = self.0.as_deref() {
            traced.span.record("error", display(error));
            let _entered = traced.span.enter();
            tracing::debug!(%error, "the handshake failed");
        }
    }

    /// Notes the end of the connection.
    pub(super) fn ended(&self, end: &End) {
        let span = self.0.as_deref().map(|traced| &traced.span);
        let _entered = span.map(Span::enter);
        if let End::ProtocolError(error) = end {
            let close_code = error.close_code().0;
            tracing::debug!(%error, close_code, "the peer violated the protocol");
        }
        if let Some(span) = span {
            let error = end.error();
            if let Some(code) = error.close_code() {
                span.record("close_code", code.0);
            }
            if !matches!(error, Error::Closed(_)) {
                span.record("error", display(error));
            }
        }
    }

    /// Counts received payload.
    #[inline]
    pub(super) fn received(&mut self, payload_bytes: usize, ends_message: bool) {
        if let Some(traced) = &mut self.0 {
            traced.received.add(payload_bytes, ends_message);
        }
    }

    /// Counts payload that was queued to be sent.
    #[inline]
    pub(super) fn sent(&mut self, payload_bytes: usize, ends_message: bool) {
        if let Some(traced) = &mut self.0 {
            traced.sent.add(payload_bytes, ends_message);
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let Traced { span, received, sent, .. } = self;
        span.record("received_messages", received.messages);
        span.record("received_bytes", received.bytes);
        span.record("sent_messages", sent.messages);
        span.record("sent_bytes", sent.bytes);
    }
}
