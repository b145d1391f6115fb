//! Frames between a successor and its predecessor, on a stream socket of the Unix domain.
//!
//! A frame is its length, its kind, and its body. The peer is the same user or root, but nothing that it sends is
//! trusted: lengths have a bound, memory grows with what arrives, and descriptors are taken only where they are
//! expected.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::limits::{PROCESS_FRAME_BYTES_MAX, PROCESS_SOCKETS_MAX};

/// The purpose of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameKind(pub(super) u8);

impl FrameKind {
    /// Successor: its number of shards and its limits.
    pub(crate) const HELLO: FrameKind = FrameKind(1);
    /// Predecessor: the request waits for something, in words.
    pub(crate) const WAIT: FrameKind = FrameKind(2);
    /// Predecessor: its data, and its listeners, whose descriptors follow.
    pub(crate) const OFFER: FrameKind = FrameKind(3);
    /// Successor: everything that can fail has succeeded; send the topics.
    pub(crate) const BEGIN: FrameKind = FrameKind(4);
    /// Predecessor: records of the topics of one shard.
    pub(crate) const STATE: FrameKind = FrameKind(5);
    /// Predecessor: that was everything.
    pub(crate) const STATE_END: FrameKind = FrameKind(6);
    /// Successor: everything is imported.
    pub(crate) const IMPORTED: FrameKind = FrameKind(7);
    /// Predecessor: it orders nothing more unless the successor ends now. With the bans and blocks of clients.
    pub(crate) const GO: FrameKind = FrameKind(8);
    /// Successor: it orders from now on.
    pub(crate) const STARTED: FrameKind = FrameKind(9);
    /// Mail of a shard to a shard.
    pub(crate) const MAIL: FrameKind = FrameKind(10);
    /// Predecessor: its last client has left.
    pub(crate) const BYE: FrameKind = FrameKind(11);
    /// Either: the handover has failed, in words.
    pub(crate) const FAILED: FrameKind = FrameKind(12);
    /// Successor, on the socket for questions: a question about connections.
    pub(crate) const ASK: FrameKind = FrameKind(13);
    /// Predecessor, there: the answer.
    pub(crate) const ANSWER: FrameKind = FrameKind(14);
    /// Predecessor, on the socket for connections: connections, whose descriptors follow.
    pub(crate) const CONNECTIONS: FrameKind = FrameKind(15);
    /// Successor, there: which of them it has taken in.
    pub(crate) const TAKEN: FrameKind = FrameKind(16);
    /// Predecessor, behind the topics: the state of its node in the cluster.
    pub(crate) const NODE: FrameKind = FrameKind(17);
    /// Predecessor: what it tells beside mail.
    pub(crate) const TOLD: FrameKind = FrameKind(18);
}

/// Bytes before the body: its length with the kind, and the kind.
pub(crate) const FRAME_HEAD_BYTES: usize = 4 + 1;
/// Bytes that are read at once while a frame grows.
const READ_BYTES: usize = 64 * 1024;
/// Descriptors per message; the kernel allows 253.
const SOCKETS_PER_MESSAGE: usize = 64;

/// Appends a frame whose body `write` appends.
pub(crate) fn append_frame(bytes: &mut Vec<u8>, kind: FrameKind, write: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0, 0, 0, 0, kind.0]);
    write(bytes);
    let length = (bytes.len() - start - 4) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// An error of a socket between the two, in words; its kind stays.
pub(crate) fn in_words(error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    let words = match error.kind() {
        _ if is_end(&error) => "the other process has ended, or has closed the socket",
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "the other process does not answer in time",
        _ => return error,
    };
    io::Error::new(error.kind(), words)
}

/// Whether an error says that the other side has closed the socket, as the kernel does when a process ends.
pub(crate) fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | BrokenPipe | ConnectionReset | ConnectionAborted)
}

/// Sends one frame.
pub(crate) fn send(mut stream: &UnixStream, kind: FrameKind, body: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(FRAME_HEAD_BYTES + body.len());
    append_frame(&mut bytes, kind, |bytes| bytes.extend_from_slice(body));
    stream.write_all(&bytes).map_err(in_words)
}

/// Reads one frame's body into `body`.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] at the end of the stream, [`io::ErrorKind::InvalidData`] for a malformed frame.
pub(crate) fn receive(stream: &mut impl Read, body: &mut Vec<u8>) -> io::Result<FrameKind> {
    let mut head = [0; FRAME_HEAD_BYTES];
    stream.read_exact(&mut head).map_err(in_words)?;
    let (kind, mut rest) = read_head(head, PROCESS_FRAME_BYTES_MAX)?;
    body.clear();
    while rest > 0 {
        // Not more than arrives, whatever the length says.
        let at = body.len();
        body.resize(at + rest.min(READ_BYTES), 0);
        stream.read_exact(&mut body[at..]).map_err(in_words)?;
        rest -= body.len() - at;
    }
    Ok(kind)
}

/// The kind of a frame and the length of its body. With the kind, that has `bytes_max` at most.
pub(crate) fn read_head(head: [u8; FRAME_HEAD_BYTES], bytes_max: usize) -> io::Result<(FrameKind, usize)> {
    let [length @ .., kind] = head;
    let length = u32::from_le_bytes(length) as usize;
    let is_known = (FrameKind::HELLO.0..=FrameKind::TOLD.0).contains(&kind);
    if is_known && (1..=bytes_max).contains(&length) {
        Ok((FrameKind(kind), length - 1))
    } else {
        Err(invalid("the received bytes are not a frame"))
    }
}

/// A frame that does not belong here, or the other side's reason for its failure.
pub(crate) fn unexpected(kind: FrameKind, body: &[u8]) -> io::Error {
    match kind {
        FrameKind::FAILED => io::Error::other(String::from_utf8_lossy(body).into_owned()),
        _ => invalid("an unexpected frame"),
    }
}

pub(crate) fn invalid(words: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words)
}

/// Sends descriptors, each batch with a byte.
pub(crate) fn send_sockets(stream: &UnixStream, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    for batch in sockets.chunks(SOCKETS_PER_MESSAGE) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(batch));
        sendmsg(stream, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL).map_err(in_words)?;
    }
    Ok(())
}

/// Receives `count` descriptors, at most [`PROCESS_SOCKETS_MAX`].
pub(crate) fn receive_sockets(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    if count > PROCESS_SOCKETS_MAX {
        return Err(invalid("too many listeners"));
    }
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received =
            recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags).map_err(in_words)?;
        let before = sockets.len();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                sockets.extend(descriptors);
            }
        }
        if received.bytes == 0 {
            return Err(in_words(io::ErrorKind::UnexpectedEof));
        }
        if sockets.len() == before {
            return Err(invalid("descriptors are missing"));
        }
    }
    if sockets.len() > count {
        return Err(invalid("more descriptors than announced"));
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn frames_arrive_as_they_were_sent() {
        let (mut here, there) = UnixStream::pair().expect("a pair");
        let mut body = Vec::new();
        for (kind, sent) in [(FrameKind::HELLO, &b"hello"[..]), (FrameKind::STATE_END, b"")] {
            send(&there, kind, sent).expect("sent");
            assert_eq!(receive(&mut here, &mut body).expect("a frame"), kind);
            assert_eq!(body, sent);
        }
        drop(there);
        let end = receive(&mut here, &mut body).expect_err("the end");
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_frame_costs_no_memory() {
        let length = |length: usize| (length as u32).to_le_bytes().to_vec();
        for bytes in [
            [length(0), vec![1]].concat(),
            [length(1), vec![0]].concat(),
            [length(1), vec![99]].concat(),
            [length(PROCESS_FRAME_BYTES_MAX + 1), vec![1]].concat(),
            [length(PROCESS_FRAME_BYTES_MAX), vec![1]].concat(),
            b"GET / HTTP/1.1\r\n".to_vec(),
        ] {
            let mut body = Vec::new();
            receive(&mut &bytes[..], &mut body).expect_err("no frame");
            assert!(body.capacity() <= 2 * READ_BYTES, "{}", body.capacity());
        }
    }

    #[test]
    fn listeners_cross_and_are_the_same_sockets() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let listeners: Vec<TcpListener> =
            (0..70).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let addresses: Vec<_> = listeners.iter().map(|socket| socket.local_addr().expect("bound")).collect();
        let sockets: Vec<_> = listeners.iter().map(TcpListener::as_fd).collect();
        send_sockets(&there, &sockets).expect("sent");
        let received = receive_sockets(&here, 70).expect("received");
        let received =
            received.into_iter().map(|socket| TcpListener::from(socket).local_addr().expect("bound"));
        assert_eq!(received.collect::<Vec<_>>(), addresses);
        send_sockets(&there, &sockets[..2]).expect("sent");
        receive_sockets(&here, 1).expect_err("two instead of one");
        drop(there);
        receive_sockets(&here, 1).expect_err("none");
        receive_sockets(&here, PROCESS_SOCKETS_MAX + 1).expect_err("too many");
    }
}
