//! Timed events of a connection: deadlines of reads and of the state machine, and the heartbeat.
//!
//! Never: a clock read on which nothing depends.

use std::task::{Context, Poll};

use super::core::{Core, Transport};
use super::error::Error;
use super::heartbeat::{HeartbeatFrame, HeartbeatTimer};
use super::sending::Writing;
use echoring_proto::connection::{Cause, MessageKind};

impl<S: Transport> Core<S> {
    /// Whether anything is scheduled.
    #[inline(always)]
    pub(super) fn has_timers(&self) -> bool {
        self.read_deadline.is_some()
            || self.heartbeat_timer.is_some()
            || self.blocked_since.is_some()
            || self.machine_deadline().is_some()
    }

    /// Waits for the next deadline, if there [is any](Core::has_timers). Ready once one was handled.
    #[inline(never)]
    pub(super) fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        self.update_clock();
        loop {
            if self.read_deadline.is_some_and(|at| at <= self.now) {
                return Err(Error::ReadTimeout);
            }
            if self.machine_deadline().is_some_and(|at| at <= self.now) {
                let was_open = self.connection.is_open();
                self.with(|connection, env, _| connection.handle_timeout(env));
                self.note_ending(was_open);
                return Ok(Poll::Ready(()));
            }
            if self.write_ends_at().is_some_and(|at| at <= self.now) && self.poll_flush(cx).is_pending() {
                // The transport may have accepted a frame just now.
                if self.write_ends_at().is_some_and(|at| at <= self.now) {
                    self.end_blocked();
                    return Err(Error::SendTimeout);
                }
            }
            if self.check_peer_timeout() || self.queue_heartbeat() {
                return Ok(Poll::Ready(()));
            }
            let heartbeat_timer = self.heartbeat_timer.as_ref().filter(|_| self.connection.is_open());
            let times = [
                self.read_deadline,
                self.machine_deadline(),
                self.write_ends_at(),
                heartbeat_timer.map(|heartbeat_timer| heartbeat_timer.next()),
            ];
            let Some(at) = times.into_iter().flatten().min() else { return Ok(Poll::Pending) };
            if self.read_timer.poll(at, cx).is_pending() {
                return Ok(Poll::Pending);
            }
            self.update_clock();
        }
    }

    /// Ends the connection if the peer sent nothing in time. Called when there is nothing to read.
    fn check_peer_timeout(&mut self) -> bool {
        let blocked = self.connection.is_blocked();
        let Some(heartbeat_timer) = self.heartbeat_timer.as_mut().filter(|_| self.connection.is_open())
        else {
            return false;
        };
        if heartbeat_timer.dead_at().is_none_or(|at| at > self.now) {
            return false;
        }
        if blocked {
            heartbeat_timer.restart_timeout(self.now);
            return false;
        }
        self.connection.abort(Cause::PongTimeout);
        self.changed = true;
        true
    }

    /// Queues the heartbeat that is due, if any.
    pub(super) fn queue_heartbeat(&mut self) -> bool {
        if !self.connection.is_open() {
            return false;
        }
        let Some(queue_heartbeat) =
            self.heartbeat_timer.as_mut().and_then(|heartbeat_timer| heartbeat_timer.due(self.now))
        else {
            return false;
        };
        // Nothing more is sent to a peer that does not accept data, and a fragmented message is not interrupted.
        let unheard = self.connection.is_blocked()
            && self.heartbeat_timer.as_ref().is_some_and(HeartbeatTimer::is_unanswered);
        let waits = unheard
            || self.connection.queued_bytes() > self.config.queue_bytes
            || matches!(
                (&queue_heartbeat, &self.writing),
                (HeartbeatFrame::Text(_), Writing::Fragments | Writing::Abandoned)
            );
        if waits {
            return false;
        }
        let queued = self.with(|connection, env, _| match &queue_heartbeat {
            HeartbeatFrame::Ping(payload) => connection.ping(payload, env),
            HeartbeatFrame::Text(text) => connection.send(MessageKind::Text, text.as_bytes(), env),
        });
        match queued {
            Ok(()) => {
                if let Some(heartbeat_timer) = &mut self.heartbeat_timer {
                    heartbeat_timer.sent(self.now);
                }
            }
            Err(_) => self.connection.abort(Cause::OutOfMemory),
        }
        true
    }
}
