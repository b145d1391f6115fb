//! The two encodings of the protocol, and how a client chooses one.

/// How commands, replies and pushes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Text frames with one JSON object per line.
    #[default]
    Json,
    /// Binary frames with protobuf messages, each behind its length.
    Protobuf,
    /// Pushes alone, each the data of an event of an event stream, in JSON.
    Events,
    /// Pushes alone, each a line of JSON.
    Lines,
}

echoring_proto::plain!(for enum Encoding { Json, Protobuf, Events, Lines });

impl Encoding {
    /// The subprotocols that a server accepts, in its order of preference.
    pub const SUBPROTOCOLS: [&'static str; 2] = ["centrifuge-protobuf", "centrifuge-json"];

    /// The encoding of this subprotocol; the empty name, which stands for none, is JSON.
    pub fn from_subprotocol(name: &str) -> Option<Encoding> {
        match name {
            "" | "centrifuge-json" => Some(Encoding::Json),
            "centrifuge-protobuf" => Some(Encoding::Protobuf),
            _ => None,
        }
    }

    /// The encoding that the query of the request's URL asks for: protobuf with `cf_protocol=protobuf` or
    /// `format=protobuf`.
    pub fn from_query(query: &str) -> Encoding {
        let asks = |parameter| matches!(parameter, "cf_protocol=protobuf" | "format=protobuf");
        if query.split('&').any(asks) { Encoding::Protobuf } else { Encoding::Json }
    }

    /// The name of the subprotocol. Streams of pushes have that of JSON, though they name none.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Encoding::Json | Encoding::Events | Encoding::Lines => "centrifuge-json",
            Encoding::Protobuf => "centrifuge-protobuf",
        }
    }

    /// Whether there are only pushes, which come without the replies that would hold them: the client sends its
    /// [`Connect`](crate::centrifuge::Connect) command with the request, and nothing after it.
    pub fn is_unidirectional(self) -> bool {
        matches!(self, Encoding::Events | Encoding::Lines)
    }

    /// Whether frames are binary messages, otherwise text.
    pub fn is_binary(self) -> bool {
        self == Encoding::Protobuf
    }
}
