//! One relayed connection: two directions, and how its end is told to both sides.
//!
//! Each direction reads no further than what it could pass on, so a slow receiver pauses its sender and nothing is
//! kept but a few buffers. Messages, pings and pongs pass; the closing handshake is the ends' own, and passes too.
//! What the proxy says by itself: 1014 to the client when the server is lost, 1002 and its like to who breaks the
//! protocol, 1001 to both when the proxy drains or nothing passed for too long. A server whose client is lost sees
//! the same as without a proxy: the stream ends without a Close frame.
//!
//! Never: a Close frame inside a frame, or an end that only one side hears of.

#![forbid(unsafe_code)]

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::pump::{Activity, End, Format, Log, MaskingKeys, Pump};
use crate::limits::CLOSE_TIMEOUT;
use crate::protocol::{CloseCode, Role};
use crate::recording::Side;

/// One side of a relayed connection.
pub(super) struct Peer<S> {
    /// The transport, its upgrade done.
    pub(super) stream: S,
    /// What was read behind the head.
    pub(super) early: BytesMut,
}

/// How a relay is to be done.
pub(super) struct Plan {
    /// What the frames from the client are made into.
    pub(super) from_client: Format,
    /// What the frames from the server are made into.
    pub(super) from_upstream: Format,
    /// Where frames are recorded, if anywhere.
    pub(super) log: Option<Rc<Log>>,
    /// The masking keys of frames that are made here.
    pub(super) keys: MaskingKeys,
    /// Time without a byte in either direction after which both sides are closed.
    pub(super) idle_timeout: Option<Duration>,
}

/// Who ended a relayed connection, and with which code (1006: without a Close frame).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) by: Option<Side>,
    pub(super) code: CloseCode,
}

/// Registered for a gateway that lost its server (the IANA registry of close codes).
const BAD_GATEWAY: CloseCode = CloseCode(1014);

/// Relays until both sides are closed. `drained` resolves when the proxy wants to end.
pub(super) async fn relay<C, U>(
    client: Peer<C>,
    upstream: Peer<U>,
    plan: Plan,
    drained: impl Future<Output = ()>,
) -> Ended
where
    C: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let activity = Activity::now();
    let (client_reader, client_writer) = tokio::io::split(client.stream);
    let (upstream_reader, upstream_writer) = tokio::io::split(upstream.stream);
    let inbound = Pump::new(
        (client_reader, client.early),
        upstream_writer,
        Role::Server,
        plan.from_client,
        plan.log.clone(),
        &plan.keys,
        &activity,
    );
    let outbound = Pump::new(
        (upstream_reader, upstream.early),
        client_writer,
        Role::Client,
        plan.from_upstream,
        plan.log,
        &plan.keys,
        &activity,
    );
    let mut relay = Relay { inbound, outbound };
    let first = {
        let mut drained = pin!(drained);
        tokio::select! {
            end = relay.inbound.run() => Happened::FromClient(end),
            end = relay.outbound.run() => Happened::FromUpstream(end),
            () = &mut drained => Happened::Drained,
            () = idle(&activity, plan.idle_timeout) => Happened::Idle,
        }
    };
    relay.close(first).await
}

/// What ends the time in which frames pass in both directions.
enum Happened {
    FromClient(End),
    FromUpstream(End),
    Drained,
    Idle,
}

/// Resolves once nothing has passed for so long.
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
    inbound: Pump<ReadHalf<C>, WriteHalf<U>>,
    outbound: Pump<ReadHalf<U>, WriteHalf<C>>,
}

impl<C: AsyncRead + AsyncWrite, U: AsyncRead + AsyncWrite> Relay<C, U> {
    /// Ends both sides after what happened, within [`CLOSE_TIMEOUT`].
    async fn close(&mut self, first: Happened) -> Ended {
        let deadline = Instant::now() + Duration::from_nanos(CLOSE_TIMEOUT);
        let client = Some(Side::Client);
        let upstream = Some(Side::Upstream);
        match first {
            Happened::FromClient(End::Closed(code)) => {
                // The server answers, after what it still has to say.
                let answered = matches!(timeout_at(deadline, self.outbound.run()).await, Ok(End::Closed(_)));
                if !answered {
                    let _ = timeout_at(deadline, self.outbound.say_close(code, "")).await;
                }
                self.end_both(deadline).await;
                Ended { by: client, code }
            }
            Happened::FromUpstream(End::Closed(code)) => {
                let answered = matches!(timeout_at(deadline, self.inbound.run()).await, Ok(End::Closed(_)));
                if !answered {
                    let _ = timeout_at(deadline, self.inbound.say_close(code, "")).await;
                }
                self.end_both(deadline).await;
                Ended { by: upstream, code }
            }
            // Nothing more can reach the client, and nothing is said in its name: the server's stream just ends.
            Happened::FromClient(End::Lost) | Happened::FromUpstream(End::Stuck) => {
                let _ = timeout_at(deadline, self.inbound.finish_writes()).await;
                Ended { by: client, code: CloseCode::ABNORMAL }
            }
            Happened::FromClient(End::Stuck) => {
                // The server takes nothing more; it may have said why.
                match timeout_at(deadline, self.outbound.run()).await {
                    Ok(End::Closed(code)) => {
                        self.end_client(deadline).await;
                        Ended { by: upstream, code }
                    }
                    _ => self.upstream_lost(deadline, "upstream connection lost").await,
                }
            }
            Happened::FromUpstream(End::Lost) => {
                self.upstream_lost(deadline, "upstream connection lost").await
            }
            Happened::FromClient(End::Offence(offence)) => {
                let code = offence.close_code();
                let _ = timeout_at(deadline, self.outbound.say_close(code, offence.text())).await;
                self.end_client(deadline).await;
                Ended { by: client, code }
            }
            Happened::FromUpstream(End::Offence(offence)) => {
                let code = offence.close_code();
                let _ = timeout_at(deadline, self.inbound.say_close(code, offence.text())).await;
                self.upstream_lost(deadline, "upstream broke the protocol").await
            }
            Happened::FromClient(End::Unrecorded) | Happened::FromUpstream(End::Unrecorded) => {
                self.say_both(deadline, CloseCode::INTERNAL, "the recording cannot go on").await
            }
            Happened::Drained => {
                self.say_both(deadline, CloseCode::GOING_AWAY, "the proxy is shutting down").await
            }
            Happened::Idle => self.say_both(deadline, CloseCode::GOING_AWAY, "idle for too long").await,
        }
    }

    async fn upstream_lost(&mut self, deadline: Instant, reason: &str) -> Ended {
        let _ = timeout_at(deadline, self.outbound.say_close(BAD_GATEWAY, reason)).await;
        self.end_client(deadline).await;
        Ended { by: Some(Side::Upstream), code: BAD_GATEWAY }
    }

    /// Closes both sides by a word of the proxy's own.
    async fn say_both(&mut self, deadline: Instant, code: CloseCode, reason: &str) -> Ended {
        let _ = tokio::join!(
            timeout_at(deadline, self.outbound.say_close(code, reason)),
            timeout_at(deadline, self.inbound.say_close(code, reason)),
        );
        self.end_both(deadline).await;
        Ended { by: None, code }
    }

    /// The end of both streams, once each side has said Close too. The client's stream we end first, and the server
    /// its own (RFC 6455, 7.1.1).
    async fn end_both(&mut self, deadline: Instant) {
        let _ = timeout_at(deadline, self.outbound.finish_writes()).await;
        let _ = tokio::join!(
            timeout_at(deadline, self.inbound.await_close()),
            timeout_at(deadline, self.outbound.await_close()),
        );
        let _ = timeout_at(deadline, self.inbound.finish_writes()).await;
    }

    /// The end of the client's stream; the server's is over.
    async fn end_client(&mut self, deadline: Instant) {
        let _ = timeout_at(deadline, self.outbound.finish_writes()).await;
        let _ = timeout_at(deadline, self.inbound.await_close()).await;
    }
}
