//! Ends an upstream connection once nobody waits for its response.
//!
//! hyper's connection goes on until its request is written. An upstream that does not read would keep it, its descriptor and
//! its buffers for ever, long after the client was answered 504 or is gone.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::timeout;

use echoring_proto::limits::CLOSE_TIMEOUT;

/// As long as it exists, somebody waits for the response.
#[derive(Debug)]
pub(crate) struct ResponseGuard {
    _waiting: oneshot::Sender<Infallible>,
}

/// Drives `connection` to its end. Once the guard is dropped, the end must come within [`CLOSE_TIMEOUT`]; otherwise the
/// connection is dropped and the result is `None`.
pub(crate) fn guarded<C: Future>(connection: C) -> (ResponseGuard, impl Future<Output = Option<C::Output>>) {
    let (waiting, released) = oneshot::channel();
    let driven = async move {
        let mut connection = pin!(connection);
        tokio::select! {
            ended = &mut connection => Some(ended),
            _ = released => timeout(Duration::from_nanos(CLOSE_TIMEOUT), connection).await.ok(),
        }
    };
    (ResponseGuard { _waiting: waiting }, driven)
}

/// The body of a response, with the guard of its connection.
#[derive(Debug)]
pub(crate) struct GuardedBody {
    pub(crate) body: Incoming,
    pub(crate) _guard: ResponseGuard,
}

impl Body for GuardedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
