//! One message for many connections: encoded, and compressed, once for each format that they agreed on.

use std::sync::{Arc, Mutex, PoisonError};

use super::core::{Core, Transport};
use super::error::Error;
use super::message::Message;
use crate::connection::Compression;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::protocol::frame::{self, HEADER_BYTES_MAX, Header};
use crate::protocol::{Opcode, Role};

/// A message that is sent to many connections. Servers send the very same bytes to all that agreed on the same
/// compression; clients have to mask it anew each time (RFC 6455, 5.3). A clone shares what has been encoded.
///
/// A server's connection that keeps a compression window from message to message gives it up with the first prepared
/// message: only messages that refer to no earlier one are the same for all.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use echoring::aio::{Conn, Opened, PreparedMessage, Settings};
/// use echoring::protocol::Role;
///
/// let news = PreparedMessage::new("the same for all");
/// for _ in 0..2 {
///     let (ours, theirs) = tokio::io::duplex(1024);
///     let mut server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
///     let mut client = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
///     server.write_prepared(&news).await?;
///     assert_eq!(client.read().await?, "the same for all".into());
/// }
/// # Ok::<(), echoring::aio::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct PreparedMessage {
    message: Message,
    encoded: Arc<Mutex<Vec<Encoded>>>,
}

/// The frame for one format.
#[derive(Debug)]
struct Encoded {
    /// The bits of the window, and how it is compressed; none for a plain one.
    format: Option<(u8, Compression)>,
    frame: Arc<[u8]>,
}

impl PreparedMessage {
    /// Prepares a message. It is encoded when it is first sent.
    pub fn new(message: impl Into<Message>) -> PreparedMessage {
        PreparedMessage { message: message.into(), encoded: Arc::default() }
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// In how many formats it has been encoded.
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
        let queued = core.with(|connection, env, _, _| {
            let window_bits = if compresses { connection.share_window(env.codecs) } else { None };
            let format = window_bits.zip(env.codecs.compression().copied());
            let frame = self.frame(format, |bits| env.codecs.deflate_for_all(bits, payload));
            connection.send_encoded(&frame, env)
        });
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
        let opcode = match self.message {
            Message::Text(_) => Opcode::Text,
            Message::Binary(_) => Opcode::Binary,
        };
        let header =
            Header { compressed: compressed.is_some(), ..Header::new(opcode, true, None, payload.len()) };
        let mut head = [0; HEADER_BYTES_MAX];
        let head_bytes = frame::encode(&header, &mut head);
        let frame: Arc<[u8]> = [&head[..head_bytes], payload].concat().into();
        encoded.push(Encoded { format, frame: Arc::clone(&frame) });
        frame
    }
}
