//! One relayed connection: both directions, and the close on both sides.
//!
//! Each direction reads no further than it can write. So a slow receiver backpressures its sender, and memory stays
//! within a few buffers. Messages, pings, pongs and the closing handshake pass through. The proxy sends its own Close
//! frames in three cases: 1014 to the client when the upstream connection fails, 1002 and similar codes to a peer that
//! violates the protocol, and 1001 to both sides when the proxy drains or the connection is idle. When the client's
//! stream ends without a Close frame, so does the upstream's, as it would without a proxy. Each side may end its own
//! stream (FIN, or close_notify) and still gets what the other one sends within [`CLOSE_TIMEOUT`].
//!
//! Never: a Close frame inside another frame, or a connection that ends on one side only.

#![forbid(unsafe_code)]

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::forwarder::{Activity, Common, ConnectionTap, DirectionEnd, Format, Forwarder, MaskingKeys};
use crate::recording::Side;
use echoring_proto::limits::CLOSE_TIMEOUT;
use echoring_proto::{CloseCode, Role};

/// One side of a relayed connection.
pub(super) struct Peer<S> {
    /// The transport, after the upgrade.
    pub(super) stream: S,
    /// Bytes that were read behind the response or request head.
    pub(super) read_ahead: BytesMut,
}

/// Options of a relay.
pub(super) struct RelayOptions {
    /// How frames from the client are forwarded.
    pub(super) from_client: Format,
    /// How frames from the upstream are forwarded.
    pub(super) from_upstream: Format,
    /// Records the frames, if the proxy records.
    pub(super) tap: Option<Rc<ConnectionTap>>,
    /// Masking keys of the proxy's own frames.
    pub(super) keys: MaskingKeys,
    /// Time without a byte in either direction after which both sides are closed.
    pub(super) idle_timeout: Option<Duration>,
    pub(super) activity: Activity,
}

/// The side that ended a relayed connection, and the close code (1006: without a Close frame).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RelayEnd {
    pub(super) by: Option<Side>,
    pub(super) code: CloseCode,
}

/// Whether a direction ended in time with a Close frame.
fn is_close(end: &Result<DirectionEnd, Elapsed>) -> bool {
    matches!(end, Ok(DirectionEnd::Closed(_)))
}

/// Relays until both sides are closed. `drained` resolves when the proxy drains.
pub(super) async fn relay<C, U>(
    client: Peer<C>,
    upstream: Peer<U>,
    options: RelayOptions,
    drained: impl Future<Output = ()>,
) -> RelayEnd
where
    C: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let RelayOptions { from_client, from_upstream, tap, keys, idle_timeout, activity } = options;
    let common = Common { tap, keys, activity };
    let (client_reader, client_writer) = tokio::io::split(client.stream);
    let (upstream_reader, upstream_writer) = tokio::io::split(upstream.stream);
    let inbound = Forwarder::new(
        (client_reader, client.read_ahead),
        upstream_writer,
        Role::Server,
        from_client,
        &common,
    );
    let outbound = Forwarder::new(
        (upstream_reader, upstream.read_ahead),
        client_writer,
        Role::Client,
        from_upstream,
        &common,
    );
    let mut relay = Relay { inbound, outbound };
    let first = {
        let mut drained = pin!(drained);
        tokio::select! {
            end = relay.inbound.run() => RelayEvent::FromClient(end),
            end = relay.outbound.run() => RelayEvent::FromUpstream(end),
            // A recording that fails drains the proxy.
            () = &mut drained => match common.tap.as_ref().is_some_and(|of| of.tap.has_failed()) {
                true => RelayEvent::RecordingFailed,
                false => RelayEvent::Drained,
            },
            () = idle(&common.activity, idle_timeout) => RelayEvent::Idle,
        }
    };
    relay.close(first).await
}

/// The event that ends forwarding in both directions.
enum RelayEvent {
    FromClient(DirectionEnd),
    FromUpstream(DirectionEnd),
    RecordingFailed,
    Drained,
    Idle,
}

/// Resolves once no byte has passed for `timeout`.
pub(super) async fn idle(activity: &Activity, timeout: Option<Duration>) {
    let Some(timeout) = timeout else { return std::future::pending().await };
    loop {
        let deadline = activity.latest() + timeout;
        if Instant::now() >= deadline {
            return;
        }
        sleep_until(deadline).await;
    }
}

struct Relay<C, U> {
    inbound: Forwarder<ReadHalf<C>, WriteHalf<U>>,
    outbound: Forwarder<ReadHalf<U>, WriteHalf<C>>,
}

impl<C: AsyncRead + AsyncWrite, U: AsyncRead + AsyncWrite> Relay<C, U> {
    /// Closes both sides after `first`, within [`CLOSE_TIMEOUT`].
    async fn close(&mut self, first: RelayEvent) -> RelayEnd {
        let deadline = Instant::now() + Duration::from_nanos(CLOSE_TIMEOUT);
        let (client, upstream) = (Some(Side::Client), Some(Side::Upstream));
        match first {
            RelayEvent::FromClient(DirectionEnd::Closed(code)) => {
                // The upstream sends its remaining frames, then answers the Close frame.
                if !is_close(&timeout_at(deadline, self.outbound.run()).await) {
                    let _ = timeout_at(deadline, self.outbound.send_close(code, "")).await;
                }
                self.shut_down_both(deadline).await;
                RelayEnd { by: client, code }
            }
            RelayEvent::FromUpstream(DirectionEnd::Closed(code)) => {
                if !is_close(&timeout_at(deadline, self.inbound.run()).await) {
                    let _ = timeout_at(deadline, self.inbound.send_close(code, "")).await;
                }
                self.shut_down_both(deadline).await;
                RelayEnd { by: upstream, code }
            }
            // The upstream's stream ends without a Close frame on behalf of the client, which may still read what it asked for.
            RelayEvent::FromClient(DirectionEnd::StreamEnded) => {
                self.forward_answers(deadline).await;
                RelayEnd { by: client, code: CloseCode::ABNORMAL }
            }
            // The client cannot be reached. What it sent before goes on.
            RelayEvent::FromUpstream(DirectionEnd::WriteFailed) => {
                self.forward_rest(deadline).await;
                RelayEnd { by: client, code: CloseCode::ABNORMAL }
            }
            RelayEvent::FromClient(DirectionEnd::WriteFailed) => {
                // The upstream accepts nothing more; it may have sent a Close frame.
                match timeout_at(deadline, self.outbound.run()).await {
                    Ok(DirectionEnd::Closed(code)) => {
                        self.shut_down_client(deadline).await;
                        RelayEnd { by: upstream, code }
                    }
                    _ => self.close_as_bad_gateway(deadline, "upstream connection failed").await,
                }
            }
            RelayEvent::FromUpstream(DirectionEnd::StreamEnded) => {
                self.close_as_bad_gateway(deadline, "upstream connection failed").await
            }
            RelayEvent::FromClient(DirectionEnd::ProtocolError(error)) => {
                let code = error.close_code();
                let _ = timeout_at(deadline, self.outbound.send_close(code, error.text())).await;
                self.shut_down_client(deadline).await;
                RelayEnd { by: client, code }
            }
            RelayEvent::FromUpstream(DirectionEnd::ProtocolError(error)) => {
                let code = error.close_code();
                let _ = timeout_at(deadline, self.inbound.send_close(code, error.text())).await;
                self.close_as_bad_gateway(deadline, "upstream violated the protocol").await
            }
            RelayEvent::FromClient(DirectionEnd::RecordingFailed)
            | RelayEvent::FromUpstream(DirectionEnd::RecordingFailed)
            | RelayEvent::RecordingFailed => {
                self.close_both(deadline, CloseCode::INTERNAL, "the recording has failed").await
            }
            RelayEvent::Drained => {
                self.close_both(deadline, CloseCode::GOING_AWAY, "the proxy is shutting down").await
            }
            RelayEvent::Idle => self.close_both(deadline, CloseCode::GOING_AWAY, "idle timeout").await,
        }
    }

    /// What the upstream sends after the end of the client's stream.
    async fn forward_answers(&mut self, deadline: Instant) {
        let _ = timeout_at(deadline, self.inbound.finish_writes()).await;
        let _ = timeout_at(deadline, self.outbound.run()).await;
        let _ = timeout_at(deadline, self.outbound.finish_writes()).await;
    }

    /// What the client sent before it could not be reached any more.
    async fn forward_rest(&mut self, deadline: Instant) {
        let _ = timeout_at(deadline, self.inbound.run()).await;
        let _ = timeout_at(deadline, self.inbound.finish_writes()).await;
    }

    async fn close_as_bad_gateway(&mut self, deadline: Instant, reason: &str) -> RelayEnd {
        let _ = timeout_at(deadline, self.outbound.send_close(CloseCode::BAD_GATEWAY, reason)).await;
        self.shut_down_client(deadline).await;
        RelayEnd { by: Some(Side::Upstream), code: CloseCode::BAD_GATEWAY }
    }

    /// Sends a Close frame of the proxy to both sides.
    async fn close_both(&mut self, deadline: Instant, code: CloseCode, reason: &str) -> RelayEnd {
        let _ = tokio::join!(
            timeout_at(deadline, self.outbound.send_close(code, reason)),
            timeout_at(deadline, self.inbound.send_close(code, reason)),
        );
        self.shut_down_both(deadline).await;
        RelayEnd { by: None, code }
    }

    /// Ends both streams after each side's Close frame. The proxy ends the client's stream first, as a server does; the
    /// upstream ends its own (RFC 6455, 7.1.1).
    async fn shut_down_both(&mut self, deadline: Instant) {
        let _ = timeout_at(deadline, self.outbound.finish_writes()).await;
        let _ = tokio::join!(
            timeout_at(deadline, self.inbound.await_close()),
            timeout_at(deadline, self.outbound.await_close()),
        );
        let _ = timeout_at(deadline, self.inbound.finish_writes()).await;
    }

    /// Ends the client's stream; the upstream's has ended. The upstream may still read what the client sends before its Close frame.
    async fn shut_down_client(&mut self, deadline: Instant) {
        let _ = timeout_at(deadline, self.outbound.finish_writes()).await;
        let _ = timeout_at(deadline, self.inbound.run()).await;
        let _ = timeout_at(deadline, self.inbound.await_close()).await;
    }
}
