//! The opening handshake as states (RFC 6455, section 4): collecting a head, waiting for a decision, answering.

use super::reading::Stop;
use super::{Cause, Closed, Config, Connection, Env, OutOfMemory, Phase, Run, Step};
use crate::buffer::Buffer;
use crate::limits::{HEAD_BYTES_MAX, RECEIVE_CREDIT_BYTES};
use crate::protocol::handshake::{self, HEAD_END, Refusal};
use crate::protocol::{CloseCode, Offence, Role};

/// Bytes that a response may take; its head is ours and its body is static.
const RESPONSE_HEAD_BYTES_MAX: usize = 1024;

/// Bytes of a 101 without the subprotocol's name: 129, and 26 for its field.
const ACCEPT_BYTES: usize = 160;

/// What a server says besides switching protocols.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// Such as 200.
    pub status: u16,
    /// Such as `text/plain`.
    pub content_type: &'static str,
    /// Further header lines, each ended by CRLF.
    pub headers: &'static str,
    /// The body.
    pub body: &'static [u8],
    /// The request was HEAD: everything but the body is sent.
    pub head_only: bool,
}

impl Connection {
    /// Collects a head until its end. What follows it stays in the run.
    pub(super) fn poll_head(
        &mut self,
        run: &mut Run,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, Stop> {
        // A server may send interim responses before the one that counts (RFC 9110, 15.2).
        while run.read < bytes.len() && matches!(self.phase, Phase::Head { .. }) {
            if let Some(step) = self.poll_one_head(run, bytes, env)? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    fn poll_one_head(
        &mut self,
        run: &mut Run,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, Stop> {
        let rest = &bytes[run.read..];
        let Phase::Head { buffer, nonce, .. } = &mut self.phase else { return Ok(None) };
        let mut head = match buffer.take() {
            Some(buffer) => buffer,
            None => env.pool.get(rest.len().min(HEAD_BYTES_MAX)).ok_or(OutOfMemory)?,
        };
        let before = head.len();
        let taken = head_bytes_in(head.as_slice(), rest).unwrap_or(rest.len());
        let complete = head_bytes_in(head.as_slice(), rest).is_some();
        let kept = taken.min(HEAD_BYTES_MAX + 1 - before);
        if head.room() < kept {
            let mut larger =
                env.pool.get((2 * (before + kept)).min(HEAD_BYTES_MAX + 1)).ok_or(OutOfMemory)?;
            larger.append(head.as_slice());
            env.pool.put(std::mem::replace(&mut head, larger));
        }
        head.append(&rest[..kept]);
        run.read += taken;
        let nonce = nonce.as_ref().map_or([0; 16], |nonce| **nonce);
        match self.role {
            Role::Server => Ok(self.request_head(head, before == 0, complete, env)),
            Role::Client => Ok(self.response_head(head, nonce, env)),
        }
    }

    fn request_head(
        &mut self,
        head: Buffer,
        first_run: bool,
        complete: bool,
        env: &mut Env<'_>,
    ) -> Option<Step> {
        if complete && head.len() <= HEAD_BYTES_MAX {
            return Some(Step::Head(head));
        }
        // A head that is malformed from its first bytes, or too long, need not be waited for.
        if (first_run || head.len() > HEAD_BYTES_MAX)
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
        match handshake::parse_response(head.as_slice(), nonce) {
            Ok(None) => {
                if let Phase::Head { buffer, .. } = &mut self.phase {
                    *buffer = Some(head);
                }
                None
            }
            Ok(Some((response, _))) => {
                env.pool.put(head);
                self.open();
                Some(Step::Opened(response))
            }
            Err(bad) => {
                env.pool.put(head);
                let closed = Closed { code: CloseCode::ABNORMAL, cause: Cause::BadHandshake(bad) };
                self.finish(closed, env.now + env.config.close_timeout);
                None
            }
        }
    }

    /// Keeps what arrives while the application decides. At most the receive credit can arrive: reading is
    /// paused meanwhile.
    pub(super) fn hold(&mut self, run: &mut Run, bytes: &[u8], env: &mut Env<'_>) -> Result<(), Stop> {
        let rest = &bytes[run.read..];
        run.read = bytes.len();
        let Phase::Deciding { held, .. } = &mut self.phase else { return Ok(()) };
        if rest.is_empty() {
            return Ok(());
        }
        let before = held.as_ref().map_or(0, Buffer::len);
        if before + rest.len() > 4 * RECEIVE_CREDIT_BYTES as usize {
            return Err(Stop::Offence(Offence::MessageTooBig));
        }
        let mut larger = env.pool.get(before + rest.len()).ok_or(OutOfMemory)?;
        if let Some(smaller) = held.take() {
            larger.append(smaller.as_slice());
            env.pool.put(smaller);
        }
        larger.append(rest);
        *held = Some(larger);
        Ok(())
    }

    /// The decision about a head will come later.
    pub fn decide_later(&mut self, key: [u8; 24]) {
        if let Phase::Head { until, .. } = self.phase {
            self.phase = Phase::Deciding { key: Box::new(key), held: None, until };
        }
    }

    /// Queues the 101 and opens the connection. `key` is that of the upgrade request; after
    /// [`decide_later`](Connection::decide_later) it is known already. Returns what arrived meanwhile, to be
    /// read as a run.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn accept(
        &mut self,
        key: Option<[u8; 24]>,
        subprotocol: Option<&str>,
        whole: bool,
        env: &mut Env<'_>,
    ) -> Result<Option<Buffer>, OutOfMemory> {
        let (key, held) = match &mut self.phase {
            Phase::Head { .. } => (key, None),
            Phase::Deciding { key, held, .. } => (Some(**key), held.take()),
            Phase::Open | Phase::Ending(_) => return Ok(None),
        };
        let Some(key) = key else { return Ok(held) };
        let head_bytes = ACCEPT_BYTES + subprotocol.map_or(0, str::len);
        let mut head = env.pool.get(head_bytes).ok_or(OutOfMemory)?;
        handshake::write_accept(head.vec(), &key, subprotocol);
        self.outbox.push(head);
        self.whole = whole;
        self.open();
        Ok(held)
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
    pub fn respond(&mut self, reply: &Reply, env: &mut Env<'_>) {
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
        if let Phase::Head { buffer: held, .. } | Phase::Deciding { held, .. } = &mut self.phase
            && let Some(held) = held.take()
        {
            env.pool.put(held);
        }
        match response {
            Some(response) => self.outbox.push(response),
            None => return self.out_of_memory(),
        }
        let cause = if status < 400 { Cause::Answered } else { Cause::Refused(status) };
        self.half_close(Closed { code: CloseCode::ABNORMAL, cause }, env);
    }

    /// Queues the request of a connection in the client role.
    pub(super) fn queue_request(&mut self, env: &mut Env<'_>, nonce: [u8; 16]) -> Result<(), OutOfMemory> {
        let Config { dial: Some(dial), .. } = env.config else { return Ok(()) };
        let mut request = Vec::new();
        handshake::write_request(&mut request, dial, nonce);
        self.outbox.raw(env.pool, &request)
    }

    fn open(&mut self) {
        self.phase = Phase::Open;
        self.deadline_moved = true;
    }
}

/// How many bytes of `rest` belong to the head that `head` began, when its end is among them.
fn head_bytes_in(head: &[u8], rest: &[u8]) -> Option<usize> {
    // The end may lie across the border.
    let tail = &head[head.len().saturating_sub(HEAD_END.len() - 1)..];
    for split in 1..HEAD_END.len() {
        let (before, behind) = HEAD_END.split_at(split);
        if tail.ends_with(before) && rest.starts_with(behind) {
            return Some(behind.len());
        }
    }
    rest.windows(HEAD_END.len()).position(|window| window == HEAD_END).map(|at| at + HEAD_END.len())
}
