//! What has arrived and must wait: while a request is being decided on, and when compressed messages have become
//! enough for a turn.
//!
//! Never: more than the receive credit that was granted before reading paused.

use super::reading::{Reading, Stop};
use super::{Config, Connection, Delivery, Env, OutOfMemory, Run};
use crate::buffer::Buffer;
use crate::limits::{INFLATED_BYTES_PER_TURN, PARKED_BYTES_MAX};
use crate::protocol::Offence;

impl Connection {
    /// Compressed messages multiply: few bytes can become much to answer and to wait for. Between two frames the
    /// rest of a run waits when its messages have become enough for one turn, or more than the peer takes. A run
    /// that begins on a stalled connection waits whole: bytes that were under way when reading paused come a few at a
    /// time, and each of them could bring another message.
    pub(super) fn wants_to_park(&self, run: &Run, env: &Env<'_>) -> bool {
        // Whoever reads chunk by chunk stops reading by itself, and takes nothing that is parked.
        let may_park = match self.delivery {
            Delivery::Chunks => run.inflated_bytes > 0,
            Delivery::Whole | Delivery::Frames => self.session.is_some(),
        };
        may_park
            && self.reading.is_between_frames()
            && (run.inflated_bytes >= INFLATED_BYTES_PER_TURN || self.is_stalled(env.config))
    }

    /// Whether what is parked has to stay there.
    fn is_stalled(&self, config: &Config) -> bool {
        let is_full = self.queued_bytes() > config.queue_bytes && !config.reads_when_full;
        self.is_deciding() || self.held_up || is_full
    }

    /// Keeps the rest of a run until it can be read. At most the receive credit can come on top of it, for reading
    /// is paused meanwhile.
    pub(super) fn park(&mut self, run: &mut Run, bytes: &[u8], env: &mut Env<'_>) -> Result<(), Stop> {
        let rest = &bytes[run.read..];
        run.read = bytes.len();
        if rest.is_empty() {
            return Ok(());
        }
        let mut parked = self.reading.take_buffer();
        let before = parked.as_ref().map_or(0, Buffer::len);
        if before + rest.len() > PARKED_BYTES_MAX {
            if let Some(parked) = parked {
                env.pool.put(parked);
            }
            return Err(Offence::MessageTooBig.into());
        }
        if parked.as_ref().is_none_or(|parked| parked.room() < rest.len()) {
            let larger = env.pool.get(before + rest.len()).map(|mut larger| {
                larger.append(parked.as_ref().map_or(&[], Buffer::as_slice));
                larger
            });
            if let Some(smaller) = std::mem::replace(&mut parked, larger) {
                env.pool.put(smaller);
            }
            if parked.is_none() {
                return Err(OutOfMemory.into());
            }
        }
        if let Some(mut parked) = parked {
            parked.append(rest);
            self.reading = Reading::Parked(parked);
        }
        Ok(())
    }

    /// Whether anything waits to be read.
    pub fn has_parked(&self) -> bool {
        self.reading.is_parked()
    }

    /// What had to wait and can be read now, as a run of its own.
    pub fn take_parked(&mut self, config: &Config) -> Option<Buffer> {
        if self.reading.is_parked() && !self.is_stalled(config) { self.reading.take_buffer() } else { None }
    }
}
