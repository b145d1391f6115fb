//! The head of the peer's part of the handshake, for programs that asked to keep it.

use bytes::Bytes;

use super::trace::Trace;

/// The head that the peer sent.
#[derive(Debug)]
pub(crate) enum Head {
    Request(http::Request<()>),
    #[cfg(feature = "client")]
    Response(http::Response<Bytes>),
}

impl Head {
    pub(super) fn request(&self) -> Option<&http::Request<()>> {
        match self {
            Head::Request(request) => Some(request),
            #[cfg(feature = "client")]
            Head::Response(_) => None,
        }
    }

    pub(super) fn response(&self) -> Option<&http::Response<Bytes>> {
        match self {
            Head::Request(_) => None,
            #[cfg(feature = "client")]
            Head::Response(response) => Some(response),
        }
    }
}

/// What a handshake leaves besides its result.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// Boxed, because most connections keep none.
    pub(crate) head: Option<Box<Head>>,
    pub(crate) trace: Trace,
}
