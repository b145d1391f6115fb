//! What both ends of a handshake do with a stream: collect a head, write one, end behind it.
//!
//! Never: what a head means. That is `protocol::handshake`'s, for these streams as for the shards.

#![forbid(unsafe_code)]

#[cfg(feature = "client")]
use std::collections::hash_map::RandomState;
#[cfg(feature = "client")]
use std::hash::BuildHasher as _;
use std::io;

use bytes::BytesMut;
use rand::TryRng as _;
use rand::rngs::SysRng;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

#[cfg(feature = "client")]
use crate::connection::{Entropy, Seed};
use crate::limits::{CONN_BUFFER_BYTES_DEFAULT, DISCARD_BYTES_MAX};

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Why no head was read.
#[derive(Debug)]
pub(super) enum NoHead<E> {
    /// The stream ended.
    Gone,
    Io(io::Error),
    /// The bytes become no head that is wanted.
    Bad(E),
}

/// Reads into `bytes` until `parse` finds a head at their start. What follows it stays in `bytes`.
///
/// Incomplete bytes are parsed only when they begin and each time that they have doubled, so that a bad head is not
/// waited for and dribbled bytes are not parsed over and over.
pub(super) async fn read_head<S, T, E>(
    stream: &mut S,
    bytes: &mut BytesMut,
    mut parse: impl FnMut(&[u8]) -> Result<Option<T>, E>,
) -> Result<T, NoHead<E>>
where
    S: AsyncRead + Unpin,
{
    let mut parsed_bytes = 0;
    loop {
        let before = bytes.len();
        bytes.reserve(CONN_BUFFER_BYTES_DEFAULT);
        if stream.read_buf(bytes).await.map_err(NoHead::Io)? == 0 {
            return Err(NoHead::Gone);
        }
        let tail = &bytes[before.saturating_sub(HEAD_END.len() - 1)..];
        let may_be_whole = tail.windows(HEAD_END.len()).any(|window| window == HEAD_END);
        if may_be_whole || bytes.len() >= 2 * parsed_bytes {
            parsed_bytes = bytes.len();
            if let Some(parsed) = parse(bytes).map_err(NoHead::Bad)? {
                return Ok(parsed);
            }
        }
    }
}

/// Writes a head and sees that it leaves.
pub(super) async fn write_head<S: AsyncWrite + Unpin>(stream: &mut S, head: &[u8]) -> io::Result<()> {
    stream.write_all(head).await?;
    stream.flush().await
}

/// Ends a stream behind a response so that the peer gets to read it: without reading what it still sends, the
/// kernel would answer with a reset, which overtakes the response (RFC 9112, 9.6). Goes on until the peer ends
/// or has sent too much; to be bounded in time by the caller.
pub(super) async fn end<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
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

/// 64 bits that nobody can foresee: a hash under a key that the system's random source gave.
#[cfg(feature = "client")]
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0_u64)
}

/// A seed of masking keys, from the system's random source.
///
/// # Panics
/// Where the system denies it.
pub(crate) fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    SysRng.try_fill_bytes(&mut seed).expect("the system has a random source");
    seed
}

/// A nonce for `Sec-WebSocket-Key` (RFC 6455, 4.1).
#[cfg(feature = "client")]
pub(super) fn nonce() -> [u8; 16] {
    Entropy::new(Seed::Source(seed)).nonce()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::handshake::{Refusal, with_request};

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
                // The reader takes the first piece by itself.
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
    async fn dribbled_bytes_are_parsed_seldom_and_bad_ones_at_once() {
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
        assert!(matches!(read, Err(NoHead::Bad(Refusal::MALFORMED))));
        drop(far);
        let read =
            read_head(&mut near, &mut BytesMut::new(), |bytes| with_request(bytes, |_, bytes| bytes)).await;
        assert!(matches!(read, Err(NoHead::Gone)));
    }

    #[test]
    fn nonces_differ() {
        let nonces: std::collections::HashSet<[u8; 16]> = (0..1000).map(|_| nonce()).collect();
        assert_eq!(nonces.len(), 1000);
    }
}
