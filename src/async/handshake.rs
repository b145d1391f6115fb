//! Stream operations that both sides of a handshake use: reading a head, writing one, ending the stream.
//!
//! Never: the meaning of a head. `echoring_proto::handshake` defines that, for these streams as for the shards.

#![forbid(unsafe_code)]

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::limits::CONN_BUFFER_BYTES_DEFAULT;
use echoring_proto::limits::{DISCARD_BYTES_MAX, HEAD_BYTES_DEFAULT};

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Why no head was read.
#[derive(Debug)]
pub(crate) enum HeadError<E> {
    /// The stream ended.
    Gone,
    Io(io::Error),
    /// The bytes are not a valid head.
    Bad(E),
}

/// Reads into `bytes` until `parse` finds a head at their start. The bytes behind it stay in `bytes`.
///
/// Incomplete bytes are parsed at the beginning, each time they have doubled, and past the limit of a head. So a bad head is
/// detected early, and slowly arriving bytes are not parsed repeatedly.
pub(crate) async fn read_head<S: AsyncRead + Unpin, T, E>(
    stream: &mut S,
    bytes: &mut BytesMut,
    mut parse: impl FnMut(&[u8]) -> Result<Option<T>, E>,
) -> Result<T, HeadError<E>> {
    let mut parsed_bytes = 0;
    loop {
        let before = bytes.len();
        bytes.reserve(CONN_BUFFER_BYTES_DEFAULT);
        if stream.read_buf(bytes).await.map_err(HeadError::Io)? == 0 {
            return Err(HeadError::Gone);
        }
        let tail = &bytes[before.saturating_sub(HEAD_END.len() - 1)..];
        let may_be_whole = tail.windows(HEAD_END.len()).any(|window| window == HEAD_END);
        if may_be_whole || bytes.len() >= 2 * parsed_bytes || bytes.len() > HEAD_BYTES_DEFAULT {
            parsed_bytes = bytes.len();
            if let Some(parsed) = parse(bytes).map_err(HeadError::Bad)? {
                return Ok(parsed);
            }
        }
    }
}

/// Writes and flushes a head.
pub(crate) async fn write_head<S: AsyncWrite + Unpin>(stream: &mut S, head: &[u8]) -> io::Result<()> {
    stream.write_all(head).await?;
    stream.flush().await
}

/// Ends a stream behind a response so that the peer can read it: if received bytes stayed unread, the kernel would send
/// a reset, which overtakes the response (RFC 9112, 9.6). Discards until the peer ends its stream or exceeds a bound;
/// the caller limits the time.
pub(crate) async fn end<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut discarded = [0; 1024];
    let mut bytes = 0;
    while bytes < DISCARD_BYTES_MAX as usize {
        match stream.read(&mut discarded).await {
            Ok(0) | Err(_) => return,
            Ok(read) => bytes += read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::connection::{Entropy, Seed};
    use echoring_proto::handshake::{Refusal, with_request};

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    #[tokio::test]
    async fn a_head_is_read_however_it_is_cut_and_what_follows_it_is_kept() {
        for cut in 1..HEAD.len() {
            let (mut near, mut far) = tokio::io::duplex(64);
            let mut bytes = BytesMut::new();
            let reading =
                read_head(&mut near, &mut bytes, |bytes| with_request(bytes, |_, head_bytes| head_bytes));
            let writing = async {
                far.write_all(&HEAD[..cut]).await.expect("written");
                // The reader reads the first piece by itself.
                tokio::task::yield_now().await;
                far.write_all(&HEAD[cut..]).await.expect("written");
                far.write_all(b"frame").await.expect("written");
            };
            let (read, ()) = tokio::join!(reading, writing);
            assert_eq!(read.expect("a head"), HEAD.len(), "cut at {cut}");
            let mut rest = bytes.split_off(HEAD.len());
            while rest.len() < 5 {
                near.read_buf(&mut rest).await.expect("the rest");
            }
            assert_eq!(&rest[..], b"frame");
        }
    }

    #[tokio::test]
    async fn slow_bytes_are_parsed_seldom_and_bad_ones_at_once() {
        let (mut near, mut far) = tokio::io::duplex(1);
        let mut bytes = BytesMut::new();
        let mut parses = 0;
        let reading = read_head(&mut near, &mut bytes, |bytes| {
            parses += 1;
            with_request(bytes, |_, head_bytes| head_bytes)
        });
        let (read, written) = tokio::join!(reading, far.write_all(HEAD));
        written.expect("written");
        assert_eq!(read.expect("a head"), HEAD.len());
        assert!(parses <= 7, "{parses} parses of {} bytes", HEAD.len());

        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(b"\x16\x03\x01").await.expect("written");
        let read =
            read_head(&mut near, &mut BytesMut::new(), |bytes| with_request(bytes, |_, bytes| bytes)).await;
        assert!(matches!(read, Err(HeadError::Bad(Refusal::MALFORMED))));
        drop(far);
        let read =
            read_head(&mut near, &mut BytesMut::new(), |bytes| with_request(bytes, |_, bytes| bytes)).await;
        assert!(matches!(read, Err(HeadError::Gone)));
    }

    #[test]
    fn nonces_differ() {
        let nonce = |_| Entropy::new(Seed::System).nonce();
        let nonces: std::collections::HashSet<[u8; 16]> = (0..1000).map(nonce).collect();
        assert_eq!(nonces.len(), 1000);
    }
}
