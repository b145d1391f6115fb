//! Answers control frames (RFC 6455, 5.5).

use super::reader::ReadError;
use super::{Connection, Env, Piece, Pings, SpanCursor, Step};
use crate::Role;
use crate::frame::{Header, Opcode};

impl Connection {
    /// Acts on a control frame; returns the part that the application sees.
    pub(super) fn handle_control(
        &mut self,
        opcode: Opcode,
        cursor: &mut SpanCursor,
        bytes: &mut [u8],
        piece: Piece,
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, ReadError> {
        if opcode == Opcode::Pong {
            self.liveness.ponged();
            return Ok(Some(Step::Pong(piece)));
        }
        let done = match (opcode, &piece) {
            (Opcode::Ping, Piece::InSpan(at)) if self.may_reply_in_span(cursor, env) => {
                let header = Header::new(Opcode::Pong, true, None, at.len());
                self.count_ping(env).and_then(|()| Ok(self.reply(cursor, bytes, &header, at.clone(), env)?))
            }
            (Opcode::Ping, Piece::InSpan(at)) => self.handle_ping(&bytes[at.clone()], env),
            (Opcode::Ping, Piece::Buffered(buffer)) => self.handle_ping(buffer.as_slice(), env),
            (_, Piece::InSpan(at)) => self.handle_close(&bytes[at.clone()], env),
            (_, Piece::Buffered(buffer)) => self.handle_close(buffer.as_slice(), env),
        };
        if done.is_ok() && opcode == Opcode::Ping && env.config.pings != Pings::Answered {
            return Ok(Some(Step::Ping(piece)));
        }
        if let Piece::Buffered(buffer) = piece {
            env.pool.put(buffer);
        }
        done?;
        Ok(None)
    }

    /// Whether a pong may take the place of the ping in the span.
    fn may_reply_in_span(&self, cursor: &SpanCursor, env: &Env<'_>) -> bool {
        self.is_open()
            && self.role() == Role::Server
            && env.config.pings != Pings::Shown
            && self.outbox.replies_may_grow()
            && (self.outbox.is_empty() || !cursor.replies.is_empty())
            && !self.outbox.is_blocked()
    }

    fn handle_ping(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), ReadError> {
        if !self.is_open() {
            return Ok(());
        }
        self.count_ping(env)?;
        if env.config.pings == Pings::Shown {
            return Ok(());
        }
        if self.outbox.is_blocked() {
            self.pong(payload, env)?;
        } else {
            // What is queued leaves with this turn. Overtaking it would win nothing, and could send the pong before an
            // earlier pong or before our response to the request.
            self.queue_frame(Opcode::Pong, true, payload, env)?;
        }
        Ok(())
    }

    fn count_ping(&mut self, env: &Env<'_>) -> Result<(), ReadError> {
        Ok(self.liveness.count_ping(env.now, env.config.pings_per_second_max)?)
    }
}
