//! One message for many connections: encoded and compressed once for each negotiated format.

use std::sync::{Arc, Mutex, PoisonError};

use serde_core::Serialize;

use super::core::{Core, Transport};
use super::error::Error;
use super::message::Message;
use echoring_proto::Role;
use echoring_proto::connection::Compression;
use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header};
use echoring_proto::limits::MESSAGE_BYTES_MAX;

/// A message that is sent to many connections. A server sends the same bytes to all connections with the same
/// compression parameters; a client must mask it anew each time (RFC 6455, 5.3). Clones share the encoded frames.
///
/// A server's connection with context takeover resets its compression window at the first prepared message, because
/// only messages without back references are the same for all connections.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use echoring::{Conn, Opened, PreparedMessage, Settings};
/// use echoring::Role;
///
/// let news = PreparedMessage::new("the same for all");
/// for _ in 0..2 {
///     let (ours, theirs) = tokio::io::duplex(1024);
///     let mut server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
///     let mut client = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
///     server.write_prepared(&news).await?;
///     assert_eq!(client.read().await?, "the same for all".into());
/// }
/// # Ok::<(), echoring::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct PreparedMessage {
    message: Message,
    encoded: Arc<Mutex<Vec<Encoded>>>,
}

/// The frame for one format.
#[derive(Debug)]
struct Encoded {
    /// Window bits and compression; `None` for an uncompressed frame.
    format: Option<(u8, Compression)>,
    frame: Arc<[u8]>,
}

impl PreparedMessage {
    /// Creates a prepared message. It is encoded when it is first sent.
    pub fn new(message: impl Into<Message>) -> PreparedMessage {
        PreparedMessage { message: message.into(), encoded: Arc::default() }
    }

    /// A prepared text message with `value` as JSON.
    ///
    /// # Errors
    /// [`Error::Json`] if it cannot be serialised.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<PreparedMessage, Error> {
        Ok(PreparedMessage::new(serde_json::to_string(value)?))
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The number of formats that it was encoded in.
    #[cfg(test)]
    pub(super) fn formats(&self) -> usize {
        self.encoded.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn queue<S: Transport>(&self, core: &mut Core<S>) -> Result<(), Error> {
        let payload = self.message.as_bytes();
        if core.role == Role::Client || payload.len() as u64 > MESSAGE_BYTES_MAX {
            return core.queue(self.message.kind(), payload);
        }
        core.may_queue()?;
        let compresses = core.compresses;
        let queued = core.with(|connection, env, _| {
            let window = if compresses { connection.share_window(env.codecs) } else { None };
            let format = window.map(|window| window.bits).zip(env.codecs.compression().copied());
            let frame = self.frame(format, |bits| env.codecs.deflate_for_all(bits, payload));
            connection.send_encoded(&frame, env)
        });
        core.trace.sent(payload.len(), true);
        core.queued(queued.is_ok())
    }

    fn frame<'a>(
        &self,
        format: Option<(u8, Compression)>,
        deflate: impl FnOnce(u8) -> Option<&'a [u8]>,
    ) -> Arc<[u8]> {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(present) = encoded.iter().find(|encoded| encoded.format == format) {
            return Arc::clone(&present.frame);
        }
        let compressed = format.and_then(|(window_bits, _)| deflate(window_bits));
        let payload = compressed.unwrap_or(self.message.as_bytes());
        let opcode = self.message.kind().opcode();
        let header =
            Header { compressed: compressed.is_some(), ..Header::new(opcode, true, None, payload.len()) };
        let mut head = [0; HEADER_BYTES_MAX];
        let head_bytes = frame::encode(&header, &mut head);
        let frame: Arc<[u8]> = [&head[..head_bytes], payload].concat().into();
        encoded.push(Encoded { format, frame: Arc::clone(&frame) });
        frame
    }
}
