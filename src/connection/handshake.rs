//! The opening handshake as states (RFC 6455, section 4): collecting a head, waiting for a decision, answering.

use super::reading::Stop;
use super::{Cause, Closed, Config, Connection, Delivery, Env, OutOfMemory, Phase, Run, Step};
use crate::buffer::Buffer;
use crate::limits::HEAD_BYTES_MAX;
use crate::protocol::handshake::{self, Refusal};
use crate::protocol::{CloseCode, Role};

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Bytes of a response's head without the lines that its author adds.
const RESPONSE_HEAD_BYTES_MAX: usize = 1024;

/// Bytes of a 101 without the subprotocol's name: 129, 26 for its field, and up to 157 for the extension's.
const ACCEPT_BYTES: usize = 320;

/// What a server says besides switching protocols.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// Such as 200.
    pub status: u16,
    /// Such as `text/plain`.
    pub content_type: &'a str,
    /// Further header lines, each ended by CRLF.
    pub headers: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// The request was HEAD: everything but the body is sent.
    pub head_only: bool,
}

impl Connection {
    /// Collects heads until one ends the waiting: a server's interim responses (RFC 9110, 15.2) do not. What
    /// follows it stays in the run.
    pub(super) fn poll_head(
        &mut self,
        run: &mut Run,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, Stop> {
        while matches!(self.phase, Phase::Head { .. }) && run.read < bytes.len() {
            if let Some(step) = self.collect_head(run, bytes, env)? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    fn collect_head(&mut self, run: &mut Run, bytes: &[u8], env: &mut Env<'_>) -> Result<Option<Step>, Stop> {
        let rest = &bytes[run.read..];
        let Phase::Head { buffer, nonce, .. } = &mut self.phase else { return Ok(None) };
        let mut head = match buffer.take() {
            Some(buffer) => buffer,
            None => env.pool.get(rest.len().min(HEAD_BYTES_MAX)).ok_or(OutOfMemory)?,
        };
        let before = head.len();
        let end = head_bytes_in(head.as_slice(), rest);
        let (taken, complete) = (end.unwrap_or(rest.len()), end.is_some());
        let kept = taken.min(HEAD_BYTES_MAX + 1 - before);
        let outgrown = head.room() < kept;
        if outgrown {
            let Some(mut larger) = env.pool.get((2 * (before + kept)).min(HEAD_BYTES_MAX + 1)) else {
                env.pool.put(head);
                return Err(OutOfMemory.into());
            };
            larger.append(head.as_slice());
            env.pool.put(std::mem::replace(&mut head, larger));
        }
        head.append(&rest[..kept]);
        run.read += taken;
        let nonce = nonce.as_ref().map_or([0; 16], |nonce| **nonce);
        match self.role {
            Role::Server => Ok(self.request_head(head, before == 0 || outgrown, complete, env)),
            Role::Client => Ok(self.response_head(head, nonce, env)),
        }
    }

    fn request_head(&mut self, head: Buffer, look: bool, complete: bool, env: &mut Env<'_>) -> Option<Step> {
        if complete && head.len() <= HEAD_BYTES_MAX {
            return Some(Step::Head(head));
        }
        // A head that is malformed, or too long, need not be waited for. It is looked at when it begins and each
        // time that its buffer had to grow, which is by doubling: dribbled bytes are not parsed over and over.
        if (look || head.len() >= HEAD_BYTES_MAX)
            && let Err(refusal) = handshake::with_request(head.as_slice(), |_, _| ())
        {
            env.pool.put(head);
            self.refuse(&refusal, env);
            return Some(Step::Refused(refusal));
        }
        if let Phase::Head { buffer, .. } = &mut self.phase {
            *buffer = Some(head);
        }
        None
    }

    fn response_head(&mut self, head: Buffer, nonce: [u8; 16], env: &mut Env<'_>) -> Option<Step> {
        let offered = env.config.dial.as_ref().map_or(&[][..], |dial| &dial.subprotocols);
        let judged = match handshake::parse_response(head.as_slice(), nonce, env.codecs.preferences()) {
            Ok(None) => {
                if let Phase::Head { buffer, .. } = &mut self.phase {
                    *buffer = Some(head);
                }
                return None;
            }
            Ok(Some((response, _))) => response.check_subprotocol(offered).map(|()| response),
            Err(bad) => Err(bad),
        };
        env.pool.put(head);
        match judged {
            Ok(response) => {
                if let Some(agreement) = response.agreement
                    && self.agree(agreement, env).is_err()
                {
                    self.out_of_memory();
                    return None;
                }
                self.open();
                Some(Step::Opened(response))
            }
            Err(bad) => {
                let closed = Closed::new(CloseCode::ABNORMAL, Cause::BadHandshake(bad));
                self.finish(closed, env.now + env.config.close_timeout);
                None
            }
        }
    }

    /// The decision about a head will come later.
    pub fn decide_later(&mut self, key: [u8; 24]) {
        if let Phase::Head { until, .. } = self.phase {
            self.phase = Phase::Deciding { key: Box::new(key), until };
        }
    }

    /// Queues the 101 and opens the connection. `key` is that of the upgrade request; after
    /// [`decide_later`](Connection::decide_later) it is known already; what arrived since then is
    /// [parked](Connection::take_parked). What was [agreed](Connection::agree) before is said in the 101, and so are
    /// further `fields`, names and values, see [`check_field`](handshake::check_field).
    ///
    /// # Errors
    /// When the node's memory is spent.
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
            Phase::Deciding { key, .. } => Some(**key),
            Phase::Open | Phase::Ending(_) => return Ok(()),
        };
        let Some(key) = key else { return Ok(()) };
        let fields_bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let head_bytes = ACCEPT_BYTES + subprotocol.map_or(0, str::len) + fields_bytes;
        let mut head = env.pool.get(head_bytes).ok_or(OutOfMemory)?;
        let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        handshake::write_accept(head.vec(), &key, subprotocol, self.agreement(), fields);
        self.outbox.push_first(head);
        self.delivery = Delivery::of(whole);
        self.open();
        Ok(())
    }

    /// Queues a refusal; the connection ends behind it.
    pub fn refuse(&mut self, refusal: &Refusal, env: &mut Env<'_>) {
        let bytes =
            RESPONSE_HEAD_BYTES_MAX + refusal.reason.len() + refusal.cure.len() + refusal.headers.len();
        let head = env.pool.get(bytes);
        self.end_with_response(
            refusal.status,
            head.map(|mut head| {
                handshake::write_refusal(head.vec(), refusal);
                head
            }),
            env,
        );
    }

    /// Queues a complete response; the connection ends behind it.
    pub fn respond(&mut self, reply: &Reply<'_>, env: &mut Env<'_>) {
        let Reply { status, content_type, headers, body, head_only } = *reply;
        let head = env.pool.get(RESPONSE_HEAD_BYTES_MAX + headers.len() + body.len());
        self.end_with_response(
            status,
            head.map(|mut head| {
                handshake::write_response(head.vec(), status, content_type, headers, body, head_only);
                head
            }),
            env,
        );
    }

    fn end_with_response(&mut self, status: u16, response: Option<Buffer>, env: &mut Env<'_>) {
        if let Phase::Head { buffer, .. } = &mut self.phase
            && let Some(head) = buffer.take()
        {
            env.pool.put(head);
        }
        match response {
            Some(response) => self.outbox.push(response),
            None => return self.out_of_memory(),
        }
        let cause = if status < 400 { Cause::Answered } else { Cause::Refused(status) };
        self.half_close(Closed::new(CloseCode::ABNORMAL, cause), env);
    }

    /// Queues the request of a connection in the client role.
    pub(super) fn queue_request(&mut self, env: &mut Env<'_>, nonce: [u8; 16]) -> Result<(), OutOfMemory> {
        let Config { dial: Some(dial), .. } = env.config else { return Ok(()) };
        let mut request = Vec::new();
        handshake::write_request(&mut request, dial, nonce, env.codecs.preferences());
        self.outbox.raw(env.pool, &request)
    }

    fn open(&mut self) {
        self.phase = Phase::Open;
        self.deadline_moved = true;
    }
}

/// How many bytes of `rest` belong to the head that `head` began, when its end is among them.
fn head_bytes_in(head: &[u8], rest: &[u8]) -> Option<usize> {
    // The end may lie across the border. The earliest counts: of `\r\n\r` and `\n\r\n` only the first byte is its.
    let tail = &head[head.len().saturating_sub(HEAD_END.len() - 1)..];
    for split in (1..HEAD_END.len()).rev() {
        let (before, behind) = HEAD_END.split_at(split);
        if tail.ends_with(before) && rest.starts_with(behind) {
            return Some(behind.len());
        }
    }
    rest.windows(HEAD_END.len()).position(|window| window == HEAD_END).map(|at| at + HEAD_END.len())
}
