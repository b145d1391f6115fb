//! The results of a handshake for its connection.

use super::trace::Trace;

/// The head that the peer sent.
#[derive(Debug)]
pub(crate) enum Head {
    Request(http::Request<()>),
    #[cfg(feature = "client")]
    Response(http::Response<bytes::Bytes>),
}

/// Data of a handshake besides its result.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// Boxed, because most connections keep none.
    pub(crate) head: Option<Box<Head>>,
    pub(crate) trace: Trace,
}
