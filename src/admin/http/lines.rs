//! Bodies that are read line by line: a block of lines is held at a time, however long the body is.

use std::mem;

use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::time::{Instant, timeout_at};

use super::{Bodies, BodyError, ChargedBody, RequestBody};

/// The bounds of a body that is read line by line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineBounds {
    /// Bytes of the body.
    pub(crate) bytes_max: u64,
    /// Bytes of a line.
    pub(crate) line_bytes_max: u64,
    /// Bytes that a block has at least, if the body has as many left.
    pub(crate) block_bytes: u64,
    /// When the body must have arrived.
    pub(crate) until: Instant,
}

/// A body that is read in blocks of whole lines. What is held of it is charged as the bodies of other requests are.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    bodies: &'a Bodies,
    body: &'a mut RequestBody,
    bounds: LineBounds,
    held: ChargedBody,
    /// Bytes up to the end of the last whole line.
    whole: usize,
    read: u64,
}

impl Bodies {
    /// Reads a body in blocks of whole lines.
    pub(crate) fn lines<'a>(&'a self, body: &'a mut RequestBody, bounds: LineBounds) -> Lines<'a> {
        Lines { bodies: self, body, bounds, held: self.empty(), whole: 0, read: 0 }
    }
}

impl Lines<'_> {
    /// The next whole lines; `None` at the end of the body. The last line may end without a line feed.
    ///
    /// # Errors
    /// If the body or a line is too long, if it does not arrive in time, or if the bodies of other requests leave no room.
    pub(crate) async fn next(&mut self) -> Result<Option<ChargedBody>, BodyError> {
        let LineBounds { bytes_max, line_bytes_max, block_bytes, until } = self.bounds;
        if self.body.size_hint().lower() > bytes_max - self.read {
            return Err(BodyError::TooLong);
        }
        while (self.whole as u64) < block_bytes {
            let frame = timeout_at(until, self.body.frame()).await.map_err(|_| BodyError::TooLate)?;
            let Some(frame) = frame else {
                self.whole = self.held.bytes.len();
                break;
            };
            // Other frames are trailers.
            let Ok(more) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
            self.read += more.len() as u64;
            if self.read > bytes_max {
                return Err(BodyError::TooLong);
            }
            if let Some(at) = more.iter().rposition(|byte| *byte == b'\n') {
                self.whole = self.held.bytes.len() + at + 1;
            }
            self.bodies.hold(&mut self.held, &more)?;
            if (self.held.bytes.len() - self.whole) as u64 > line_bytes_max {
                return Err(BodyError::TooLong);
            }
        }
        let rest = self.held.split_off(mem::take(&mut self.whole));
        let block = mem::replace(&mut self.held, rest);
        Ok((!block.bytes.is_empty()).then_some(block))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::error::Error;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use hyper::body::{Body, Bytes, Frame};

    use super::*;
    use crate::limits::ADMIN_BODIES_BYTES_MAX;

    /// The parts of a body that have arrived, and whether nothing follows them.
    struct Parts(VecDeque<&'static str>, bool);

    impl Body for Parts {
        type Data = Bytes;
        type Error = Box<dyn Error + Send + Sync>;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            match self.0.pop_front() {
                Some(part) => Poll::Ready(Some(Ok(Frame::data(part.into())))),
                None if self.1 => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    /// The blocks of a body, and how it ends.
    fn blocks(bodies: &Bodies, parts: &[&'static str], is_whole: bool) -> (Vec<String>, Option<BodyError>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let until = Instant::now() + Duration::from_secs(7);
            let bounds = LineBounds { bytes_max: 30, line_bytes_max: 10, block_bytes: 6, until };
            let mut body = RequestBody::new(Parts(parts.iter().copied().collect(), is_whole));
            let mut lines = bodies.lines(&mut body, bounds);
            let mut read = Vec::new();
            loop {
                match lines.next().await {
                    Ok(Some(block)) => {
                        let held = block.counted + lines.held.counted;
                        assert_eq!(bodies.0.get(), held, "what is held is charged, and nothing else");
                        read.push(String::from_utf8(block.bytes.clone()).expect("text"));
                    }
                    Ok(None) => return (read, None),
                    Err(error) => return (read, Some(error)),
                }
            }
        })
    }

    #[test]
    fn a_body_comes_in_blocks_of_whole_lines() {
        let bodies = Bodies::default();
        for (parts, expected) in [
            (&[][..], &[][..]),
            (&["a"], &["a"]),
            (&["a\n"], &["a\n"]),
            (&["a\nb", "c\nd\n", "e"], &["a\nbc\nd\n", "e"]),
            (&["a\nb\nc\nd", "e"], &["a\nb\nc\n", "de"]),
            (&["1\n2\n3\n4\n5\n6\n7\n8"], &["1\n2\n3\n4\n5\n6\n7\n", "8"]),
        ] {
            let (read, error) = blocks(&bodies, parts, true);
            assert_eq!((read, error), (expected.iter().map(|block| (*block).to_owned()).collect(), None));
        }
        assert_eq!(bodies.0.get(), 0, "everything is given back");
    }

    #[test]
    fn what_is_too_long_or_too_late_ends_behind_the_blocks_before_it() {
        let bodies = Bodies::default();
        for (parts, is_whole, expected, error) in [
            (&["a\nb\nc\nd", "efghijklmno"][..], true, &["a\nb\nc\n"][..], BodyError::TooLong),
            (
                &["1234567\n", "1234567\n", "1234567\n", "1234567\n"],
                true,
                &["1234567\n"; 3],
                BodyError::TooLong,
            ),
            (&["1234567\n", "a\n"], false, &["1234567\n"], BodyError::TooLate),
        ] {
            let (read, ended) = blocks(&bodies, parts, is_whole);
            assert_eq!(
                (&*read, ended),
                (&*expected.iter().map(|block| (*block).to_owned()).collect::<Vec<_>>(), Some(error))
            );
        }
        let mut others = bodies.empty();
        bodies.hold(&mut others, &vec![0; ADMIN_BODIES_BYTES_MAX as usize]).expect("alone");
        assert_eq!(blocks(&bodies, &["a\n"], true), (Vec::new(), Some(BodyError::NoRoom)));
        drop(others);
        assert_eq!(bodies.0.get(), 0, "everything is given back");
    }
}
