//! Restores the messages of a subscription with delta compression.
//!
//! Never: a message that its checksum does not confirm; more bytes than a message may have.

use bytes::Bytes;
use echoring_wire::centrifuge::delta::apply;
use serde_json::value::RawValue;

use crate::codec::Sent;
use crate::limits::DELTA_MESSAGE_BYTES_MAX;
use crate::{Message, Payload};

/// A message that cannot be restored: its delta is not from the message before.
#[derive(Debug)]
pub(super) struct Corrupt;

/// The message before, which the next delta starts from.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    base: Bytes,
}

impl Deltas {
    /// The message that was sent. Each one must be restored, in order.
    ///
    /// # Errors
    /// If that is impossible.
    pub(super) fn restore(&mut self, sent: Sent) -> Result<Message<Payload>, Corrupt> {
        let Sent { mut message, is_delta } = sent;
        // In JSON, a string contains the delta or the whole value.
        let is_json = matches!(message.data, Payload::Json(_));
        let carried = match &message.data {
            Payload::Json(value) => {
                Bytes::from(serde_json::from_str::<String>(value.get()).map_err(|_| Corrupt)?)
            }
            Payload::Bytes(bytes) => bytes.clone(),
            Payload::Text(_) => return Err(Corrupt),
        };
        let whole = match is_delta {
            true => apply(&self.base, &carried, DELTA_MESSAGE_BYTES_MAX).map_err(|_| Corrupt)?.into(),
            false => carried,
        };
        message.data = match is_json {
            true => {
                let text = String::from_utf8(whole.to_vec()).map_err(|_| Corrupt)?;
                Payload::Json(RawValue::from_string(text).map_err(|_| Corrupt)?)
            }
            false => Payload::Bytes(whole.clone()),
        };
        self.base = whole;
        Ok(message)
    }
}
