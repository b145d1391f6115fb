//! Sends chunks back, as an echo does: in the received span where that is possible.

use std::ops::Range;

use super::{ChunkFlags, Connection, Env, OutOfMemory, Piece, SpanCursor};
use crate::Role;
use crate::buffer::Buffer;
use crate::frame::{self, HEADER_BYTES_MAX, Header, Opcode};

/// Replies up to this size are copied behind others that wait; longer ones keep a buffer of their own.
const JOINED_BYTES_MAX: usize = 4 * 1024;

impl Connection {
    /// Sends a chunk back from where it lies, or copies it into the outbox when it cannot be sent from there. A message that
    /// arrived compressed goes back compressed; one that arrived plain was not worth compressing for the peer.
    ///
    /// # Errors
    /// When the node's memory is spent.
    #[inline]
    pub fn echo(
        &mut self,
        cursor: &mut SpanCursor,
        bytes: &mut [u8],
        flags: ChunkFlags,
        piece: Piece,
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        match piece {
            Piece::InSpan(at) => {
                let header = Header::new(flags.opcode(), flags.last, None, at.len());
                self.reply(cursor, bytes, &header, at, env)
            }
            Piece::Buffered(buffer) if flags.compressed => {
                let queued = self.send(flags.kind, buffer.as_slice(), env);
                env.pool.put(buffer);
                queued
            }
            Piece::Buffered(buffer) => self.reply_buffered(flags.opcode(), flags.last, buffer, env),
        }
    }

    /// Sends a payload of the span back as one frame: from where [`SpanCursor::unmask`] moved it when that is possible,
    /// otherwise through the outbox.
    #[inline]
    pub(super) fn reply(
        &mut self,
        cursor: &mut SpanCursor,
        bytes: &mut [u8],
        header: &Header,
        at: Range<usize>,
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        if self.role() == Role::Client || !self.outbox.replies_may_grow() {
            let mask = self.key(env);
            return self.outbox.frame(env.pool, &Header { mask, ..*header }, &bytes[at]);
        }
        let header_bytes = frame::header_bytes(header.payload_bytes, false);
        if cursor.replies.is_empty() {
            if at.start < header_bytes && at.is_empty() {
                return self.outbox.frame(env.pool, header, &[]);
            }
            if at.start < header_bytes {
                // The span begins inside a frame, so there is no room for the reply's header.
                cursor.header_bytes = frame::encode(header, &mut cursor.header) as u8;
                self.outbox.begin_replies();
                cursor.replies = at;
                return Ok(());
            }
            self.outbox.begin_replies();
            cursor.replies.start = at.start - header_bytes;
            cursor.replies.end = cursor.replies.start;
        }
        frame::encode(header, &mut bytes[cursor.replies.end..at.start]);
        cursor.replies.end = at.end;
        Ok(())
    }

    /// Sends an assembled payload back: its header goes in front of it in the same buffer.
    #[inline(never)]
    fn reply_buffered(
        &mut self,
        opcode: Opcode,
        fin: bool,
        mut buffer: Buffer,
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        // Behind an unfinished send it may wait long, and in a buffer of its own a message of a byte would take hundreds.
        let joins = self.outbox.is_blocked() && buffer.len() <= JOINED_BYTES_MAX;
        if self.role() == Role::Client || joins {
            let queued = self.queue_frame(opcode, fin, buffer.as_slice(), env);
            env.pool.put(buffer);
            return queued;
        }
        let header = Header::new(opcode, fin, None, buffer.len());
        let mut head = [0; HEADER_BYTES_MAX];
        let head_bytes = frame::encode(&header, &mut head);
        buffer.prepend(&head[..head_bytes]);
        self.outbox.push(buffer);
        Ok(())
    }

    /// Ends a span. Returns the part of it that is to be sent from where it lies: after the output of
    /// [`pop`](Connection::pop) and then [`SpanCursor::detached_header`], and before the output of `pop` once
    /// [`replies_sent`](Connection::replies_sent) was called. While a send is unfinished, the replies are copied behind it.
    ///
    /// # Errors
    /// When the node's memory is spent.
    #[inline]
    pub fn end_span(
        &mut self,
        cursor: &SpanCursor,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Range<usize>>, OutOfMemory> {
        if cursor.replies.is_empty() || self.is_aborting() {
            self.outbox.end_replies();
            return Ok(None);
        }
        if self.outbox.is_blocked() {
            self.copy_replies(cursor, bytes, env)?;
            return Ok(None);
        }
        Ok(Some(cursor.replies.clone()))
    }

    /// The replies of [`end_span`](Connection::end_span) are on their way.
    #[inline]
    pub fn replies_sent(&mut self) {
        self.outbox.end_replies();
    }

    /// The replies of [`end_span`](Connection::end_span) could not be sent from where they lie.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn copy_replies(
        &mut self,
        cursor: &SpanCursor,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        self.outbox.insert_replies(env.pool, cursor.detached_header(), &bytes[cursor.replies.clone()])
    }

    /// Like [`copy_replies`](Connection::copy_replies), when [`SpanCursor::detached_header`] is on its way already.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn copy_replies_behind_header(
        &mut self,
        cursor: &SpanCursor,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        self.outbox.insert_frame_rest(env.pool, &bytes[cursor.replies.clone()])
    }
}
