//! The decisions of an application about requests and messages.

use std::sync::Arc;

use bytes::Bytes;

use echoring_proto::connection::Reply;
use echoring_proto::event_stream::StreamFormat;
use echoring_proto::handshake::Refusal;

/// The application's decision about a chunk.
///
/// ```
/// # mod echoring { pub use echoring_runtime::shard as server; }
/// use echoring::server::Disposition;
///
/// /// Pings of an application's own go back; everything else is done.
/// fn answer(text: &str) -> Disposition {
///     if text == "ping" { Disposition::Echo } else { Disposition::Done }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposition {
    /// Nothing to send.
    Done,
    /// Send the chunk back in place: the cheapest reply.
    Echo,
}

/// The answer to a request.
#[derive(Debug)]
pub enum Answer<P> {
    /// 101: the connection becomes a WebSocket with `peer` as its state. `whole` requests whole messages (assembled up
    /// to the message limit) instead of chunks as they arrive.
    Upgrade {
        /// State kept with the connection.
        peer: P,
        /// The subprotocol to name in the response, one of those offered.
        subprotocol: Option<&'static str>,
        /// Assemble fragmented and split messages.
        whole: bool,
    },
    /// The same with header fields for this request.
    UpgradeWith {
        /// State kept with the connection.
        peer: P,
        /// Further fields of the 101.
        extras: Box<Extras>,
        /// Assemble fragmented and split messages.
        whole: bool,
    },
    /// 200: the connection becomes an event stream, or another stream, with `peer` as its state. Nothing more of the client is read,
    /// except for the body of its request.
    EventStream {
        /// State kept with the connection.
        peer: P,
        /// The answer.
        head: StreamHead,
    },
    /// The answer follows through [`Context::accept`](super::Context::accept),
    /// [`Context::begin_event_stream`](super::Context::begin_event_stream) or
    /// [`Context::refuse`](super::Context::refuse); until then nothing is read from the connection. `peer` is its state
    /// from now on.
    Later {
        /// State kept with the connection.
        peer: P,
    },
    /// A complete response; the connection is closed after it.
    Respond(Reply<'static>),
    /// The same, made for this request. A status of 400 or more counts as a refusal.
    RespondWith(Box<OwnedReply>),
    /// A refusal; the connection is closed after it, and it is counted and logged.
    Refuse(Refusal),
}

/// The head of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHead {
    /// The format of what follows.
    pub format: StreamFormat,
    /// Further header lines, each ended by CRLF.
    pub headers: Box<str>,
    /// Bytes of the body of the request, which the application gets as a text message.
    pub body_bytes: u32,
}

impl StreamHead {
    /// The head of an event stream.
    pub fn events(headers: Box<str>) -> StreamHead {
        StreamHead { format: StreamFormat::Events, headers, body_bytes: 0 }
    }
}

/// Fields of a 101 for one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The subprotocol to name, one of those offered.
    pub subprotocol: Option<String>,
    /// Further fields, names and values, see [`check_field`](echoring_proto::handshake::check_field).
    pub fields: Vec<(String, String)>,
    /// The name of the route whose [times](super::RouteTimes) the connection has, if it sets any.
    pub route: Option<Arc<str>>,
}

/// A [`Reply`] made for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedReply {
    /// The status, such as 200.
    pub status: u16,
    /// The media type, such as `text/plain`.
    pub content_type: String,
    /// Further header lines, each ended by CRLF.
    pub headers: String,
    /// The body.
    pub body: Bytes,
    /// Omit the body, for HEAD.
    pub head_only: bool,
}

impl OwnedReply {
    /// Converts it to a reply.
    pub fn as_reply(&self) -> Reply<'_> {
        let OwnedReply { status, content_type, headers, body, head_only } = self;
        Reply { status: *status, content_type, headers, body, head_only: *head_only }
    }
}
