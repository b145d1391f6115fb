//! Control frames (RFC 6455, 5.5): collected when they span runs, answered in place when they do not, pings counted.

use std::ops::Range;

use super::reading::{Reading, Stop};
use super::{Connection, Env, OutOfMemory, Piece, Pings, Run, Step};
use crate::limits::{QUEUED_PONGS_MAX, SECOND};
use crate::protocol::frame::{Header, Opcode};
use crate::protocol::{Offence, Role, mask};

impl Connection {
    pub(super) fn begin_control(
        &mut self,
        header: &Header,
        run: &mut Run,
        bytes: &mut [u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, Stop> {
        let payload_bytes = header.payload_bytes as usize;
        if payload_bytes <= bytes.len() - run.read {
            let at = self.place(run, bytes, run.read, payload_bytes, header.mask);
            run.read += payload_bytes;
            return self.control_in_run(header.opcode, run, bytes, at, env);
        }
        self.reading = Reading::Control {
            left: payload_bytes as u8,
            key: header.mask.unwrap_or_default(),
            opcode: header.opcode,
            buffer: env.pool.get(payload_bytes).ok_or(OutOfMemory)?,
        };
        Ok(None)
    }

    pub(super) fn read_control(
        &mut self,
        run: &mut Run,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, Stop> {
        let Reading::Control { left, key, buffer, .. } = &mut self.reading else { return Ok(None) };
        let here = usize::from(*left).min(bytes.len() - run.read);
        mask::append(buffer.vec(), &bytes[run.read..run.read + here], *key);
        *key = mask::rotate(*key, here);
        *left -= here as u8;
        run.read += here;
        if *left > 0 {
            return Ok(None);
        }
        let Reading::Control { opcode, buffer, .. } = std::mem::take(&mut self.reading) else {
            return Ok(None);
        };
        if !self.message.open {
            // What begins behind it in the same run has a time of its own.
            self.message_since = 0;
        }
        if opcode == Opcode::Pong {
            return Ok(Some(Step::Pong(Piece::Held(buffer))));
        }
        let done = match opcode {
            Opcode::Ping => self.handle_ping(buffer.as_slice(), env),
            _ => self.handle_close(run, buffer.as_slice(), env),
        };
        if done.is_ok() && opcode == Opcode::Ping && env.config.pings != Pings::Answered {
            return Ok(Some(Step::Ping(Piece::Held(buffer))));
        }
        env.pool.put(buffer);
        done?;
        Ok(None)
    }

    fn control_in_run(
        &mut self,
        opcode: Opcode,
        run: &mut Run,
        bytes: &mut [u8],
        at: Range<usize>,
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, Stop> {
        match opcode {
            Opcode::Pong => return Ok(Some(Step::Pong(Piece::Run(at)))),
            Opcode::Ping => {
                let in_place = self.is_open()
                    && self.role == Role::Server
                    && env.config.pings != Pings::Shown
                    && self.outbox.block_may_grow()
                    && (self.outbox.is_empty() || !run.block.is_empty());
                if in_place && !self.outbox.is_blocked() {
                    self.count_ping(env)?;
                    self.reply(run, bytes, Opcode::Pong, true, at.clone(), env)?;
                } else {
                    self.handle_ping(&bytes[at.clone()], env)?;
                }
                if env.config.pings != Pings::Answered {
                    return Ok(Some(Step::Ping(Piece::Run(at))));
                }
            }
            _ => self.handle_close(run, &bytes[at], env)?,
        }
        Ok(None)
    }

    fn handle_ping(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), Stop> {
        if self.is_open() {
            self.count_ping(env)?;
            if env.config.pings == Pings::Shown {
                return Ok(());
            }
            let key = self.key(env);
            if self.outbox.is_blocked() {
                self.outbox.control(env.pool, Opcode::Pong, key, payload, QUEUED_PONGS_MAX)?;
            } else {
                // What is queued leaves with this turn. Overtaking it would win nothing, and could put the
                // pong before an earlier one or before our response to the request.
                self.outbox.frame(env.pool, &Header::new(Opcode::Pong, true, key, payload.len()), payload)?;
            }
        }
        Ok(())
    }

    /// Pings cost us a frame each, so they are rate limited.
    fn count_ping(&mut self, env: &Env<'_>) -> Result<(), Offence> {
        let second = (env.now / SECOND) as u32;
        if self.ping_second != second {
            self.ping_second = second;
            self.pings = 0;
        }
        self.pings = self.pings.saturating_add(1);
        if u32::from(self.pings) > env.config.pings_per_second_max { Err(Offence::PingFlood) } else { Ok(()) }
    }
}
