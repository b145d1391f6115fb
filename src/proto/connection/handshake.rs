//! The states of the opening handshake (RFC 6455, section 4): reading a head, waiting for a decision, responding.

use super::codec::MessageCodec;
use super::reader::ReadError;
use super::{Cause, Connection, ConnectionConfig, Delivery, Env, OutOfMemory, Phase, SpanCursor, Step};
use crate::Role;
use crate::buffer::Buffer;
use crate::deflate::Agreement;
use crate::event_stream::{self, StreamFormat};
use crate::handshake::{self, Refusal};
use crate::limits::{EVENT_STREAM_RETRY_JITTER_MS, EVENT_STREAM_RETRY_MS_MIN, HEAD_BYTES_DEFAULT, Nanos};

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Maximum size in bytes of a response head without further header lines.
const RESPONSE_HEAD_BYTES_MAX: usize = 1024;

/// Maximum size of a 101 in bytes without the name of the subprotocol: 129, plus 26 for its field, plus up to 157 for
/// the extension.
const ACCEPT_BYTES: usize = 320;

/// An HTTP response other than 101.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The value of `Content-Type`.
    pub content_type: &'a str,
    /// Further header lines, each terminated by CRLF.
    pub headers: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// The method of the request was HEAD: the body is not sent.
    pub head_only: bool,
}

impl Connection {
    /// Reads heads until one completes this phase. Interim responses of a server (RFC 9110, 15.2) do not. Bytes after
    /// the head stay in the span.
    pub(super) fn poll_head(
        &mut self,
        cursor: &mut SpanCursor,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, ReadError> {
        while matches!(self.phase, Phase::Head { .. }) && cursor.read < bytes.len() {
            if let Some(step) = self.collect_head(cursor, bytes, env)? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    fn collect_head(
        &mut self,
        cursor: &mut SpanCursor,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, ReadError> {
        let rest = &bytes[cursor.read..];
        let Phase::Head { nonce, .. } = &self.phase else { return Ok(None) };
        let nonce = nonce.as_ref().map_or([0; 16], |nonce| **nonce);
        let bytes_max = match self.role() {
            Role::Server => env.config.max_header,
            Role::Client => HEAD_BYTES_DEFAULT,
        };
        let mut head = match self.reader.take_head() {
            Some(buffer) => buffer,
            None => env.pool.get(rest.len().min(bytes_max)).ok_or(OutOfMemory)?,
        };
        let before = head.len();
        let end = head_bytes_in(head.as_slice(), rest);
        let (taken, complete) = (end.unwrap_or(rest.len()), end.is_some());
        // One byte above the maximum shows that the head is too big. The maximum may have been higher before.
        let kept_max = bytes_max.saturating_add(1);
        let kept = taken.min(kept_max.saturating_sub(before));
        let must_grow = head.room() < kept;
        if must_grow && !env.pool.grow(&mut head, (2 * (before + kept)).min(kept_max)) {
            env.pool.put(head);
            return Err(OutOfMemory.into());
        }
        head.append(&rest[..kept]);
        cursor.read += taken;
        match self.role() {
            Role::Server => Ok(self.request_head(head, before == 0 || must_grow, complete, env)),
            Role::Client => Ok(self.response_head(head, nonce, env)),
        }
    }

    fn request_head(&mut self, head: Buffer, check: bool, complete: bool, env: &mut Env<'_>) -> Option<Step> {
        let bytes_max = env.config.max_header;
        if complete && head.len() <= bytes_max {
            return Some(Step::Head(head));
        }
        // A malformed or oversized head is refused before it is complete. It is parsed at its first bytes and each
        // time its buffer doubles, so the cost of parsing a slowly sent head is bounded.
        if (check || head.len() >= bytes_max)
            && let Err(refusal) = handshake::with_request_up_to(head.as_slice(), bytes_max, |_, _| ())
        {
            env.pool.put(head);
            self.refuse(&refusal, env);
            return Some(Step::Refused(refusal));
        }
        self.reader.keep_head(head);
        None
    }

    fn response_head(&mut self, head: Buffer, nonce: [u8; 16], env: &mut Env<'_>) -> Option<Step> {
        let offered = env.config.dial.as_ref().map_or(&[][..], |dial| &dial.subprotocols);
        let checked = match handshake::parse_response(head.as_slice(), nonce, env.codecs.preferences()) {
            Ok(None) => {
                self.reader.keep_head(head);
                return None;
            }
            Ok(Some((response, _))) => response.check_subprotocol(offered).map(|()| response),
            Err(bad) => Err(bad),
        };
        env.pool.put(head);
        match checked {
            Ok(response) => {
                if let Some(agreement) = response.agreement
                    && self.agree(agreement, env).is_err()
                {
                    self.abort(Cause::OutOfMemory);
                    return None;
                }
                self.open();
                Some(Step::Opened(response))
            }
            Err(bad) => {
                self.fail_handshake(Cause::BadHandshake(bad), env);
                None
            }
        }
    }

    /// The request must arrive by `at`, if that is before the deadline of the handshake.
    pub fn await_head_until(&mut self, at: Nanos) {
        if let Phase::Head { until, .. } = &mut self.phase {
            *until = at.min(*until);
            self.deadline_changed = true;
        }
    }

    /// Waits for a later decision about the request. `key` is that of an upgrade.
    pub fn decide_later(&mut self, key: Option<[u8; 24]>) {
        if let Phase::Head { until, .. } = self.phase {
            self.phase = Phase::Deciding { key: key.map(Box::new), until };
        }
    }

    /// Queues the 101 and opens the connection. `key` is that of the upgrade request; it is not needed after
    /// [`decide_later`](Connection::decide_later). Bytes that arrived since then are
    /// [deferred](Connection::take_deferred). The 101 contains the [agreed](Connection::agree) extension and `fields`,
    /// which must have passed [`check_field`](handshake::check_field).
    ///
    /// # Errors
    /// When the memory budget of the node is spent.
    pub fn accept(
        &mut self,
        key: Option<[u8; 24]>,
        subprotocol: Option<&str>,
        fields: &[(String, String)],
        whole: bool,
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        let key = match &self.phase {
            Phase::Head { .. } => key,
            Phase::Deciding { key, .. } => key.as_deref().copied(),
            Phase::Open | Phase::Closing(_) => return Ok(()),
        };
        let Some(key) = key else { return Ok(()) };
        let fields_bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let head_bytes = ACCEPT_BYTES + subprotocol.map_or(0, str::len) + fields_bytes;
        let mut head = env.pool.get(head_bytes).ok_or(OutOfMemory)?;
        let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        handshake::write_accept(head.vec(), &key, subprotocol, self.agreement(), fields);
        self.outbox.push_first(head);
        self.reader.set_delivery(Delivery::of(whole));
        self.open();
        Ok(())
    }

    /// Answers the request with an event stream, or another stream. The connection is open from now on;
    /// [encoded](Connection::send_encoded) events may be sent, and nothing of the peer is read but the body of its request, if that has
    /// `body_bytes`: it is shown as one text message. The last event takes the place of the Close frame. `headers` are further lines of
    /// the head, each terminated by CRLF.
    ///
    /// # Errors
    /// When the memory budget of the node is spent.
    pub fn begin_event_stream(
        &mut self,
        format: StreamFormat,
        headers: &str,
        body_bytes: u32,
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        if !self.is_in_handshake() {
            return Ok(());
        }
        let mut head = env.pool.get(RESPONSE_HEAD_BYTES_MAX + headers.len()).ok_or(OutOfMemory)?;
        let jitter_ms = env.entropy.next() % EVENT_STREAM_RETRY_JITTER_MS;
        handshake::write_event_stream_head(head.vec(), format.content_type(), headers);
        if format.has_retry() {
            event_stream::retry(head.vec(), EVENT_STREAM_RETRY_MS_MIN + jitter_ms);
        }
        self.outbox.push_first(head);
        self.reader.begin_stream(format, body_bytes, env.pool);
        self.open();
        Ok(())
    }

    /// Queues a refusal, after which the connection ends.
    pub fn refuse(&mut self, refusal: &Refusal, env: &mut Env<'_>) {
        let bytes =
            RESPONSE_HEAD_BYTES_MAX + refusal.reason.len() + refusal.hint.len() + refusal.headers.len();
        self.queue_response(refusal.status, bytes, env, |out| handshake::write_refusal(out, refusal));
    }

    /// Queues a complete response, after which the connection ends.
    pub fn respond(&mut self, reply: &Reply<'_>, env: &mut Env<'_>) {
        let Reply { status, content_type, headers, body, head_only } = *reply;
        let bytes = RESPONSE_HEAD_BYTES_MAX + headers.len() + body.len();
        self.queue_response(status, bytes, env, |out| {
            handshake::write_response(out, status, content_type, headers, body, head_only);
        });
    }

    fn queue_response(
        &mut self,
        status: u16,
        bytes: usize,
        env: &mut Env<'_>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let response = env.pool.get(bytes);
        if let Some(head) = self.reader.take_head() {
            env.pool.put(head);
        }
        let Some(mut response) = response else { return self.abort(Cause::OutOfMemory) };
        write(response.vec());
        self.outbox.push(response);
        let cause = if status < 400 { Cause::Answered } else { Cause::Refused(status) };
        self.end_with_response(cause, env);
    }

    /// Queues the request of a connection in the client role.
    pub(super) fn queue_request(&mut self, env: &mut Env<'_>, nonce: [u8; 16]) -> Result<(), OutOfMemory> {
        let ConnectionConfig { dial: Some(dial), .. } = env.config else { return Ok(()) };
        let mut request = Vec::new();
        handshake::write_request(&mut request, dial, nonce, env.codecs.preferences());
        self.outbox.raw(env.pool, &request)
    }

    /// Applies the negotiated compression. When the budget for windows is spent, a server declines context takeover. A
    /// client cannot, because the server relies on it.
    ///
    /// # Errors
    /// In the client role, when that budget is spent.
    pub fn agree(&mut self, agreement: Agreement, env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        let (role, may_decline) = (self.role(), self.role() == Role::Server);
        self.codec = Some(Box::new(MessageCodec::new(agreement, role, may_decline, env.codecs)?));
        Ok(())
    }

    fn open(&mut self) {
        self.phase = Phase::Open;
        self.deadline_changed = true;
    }
}

/// The number of bytes of `rest` that belong to the head, if the end of the head is in `rest`. `head` is the part read
/// before.
fn head_bytes_in(head: &[u8], rest: &[u8]) -> Option<usize> {
    // The end may span the boundary. The earliest end counts: between `\r\n\r` and `\n\r\n` it is one byte.
    let tail = &head[head.len().saturating_sub(HEAD_END.len() - 1)..];
    for split in (1..HEAD_END.len()).rev() {
        let (before, after) = HEAD_END.split_at(split);
        if tail.ends_with(before) && rest.starts_with(after) {
            return Some(after.len());
        }
    }
    rest.windows(HEAD_END.len()).position(|window| window == HEAD_END).map(|at| at + HEAD_END.len())
}
