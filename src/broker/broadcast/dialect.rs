//! The dialects of sessions: the wire formats of the same requests and events.

use echoring_proto::CloseCode;
use echoring_proto::connection::MessageKind;
use echoring_topics::{CodecId, Deltas, Encoding as LogEncoding};
use echoring_wire::centrifuge::{Disconnect, Encoding};
use echoring_wire::v1;

/// The codecs of logs.
const V1: CodecId = CodecId(0);
const EVENT_STREAM: CodecId = CodecId(1);
const CENTRIFUGE_JSON: CodecId = CodecId(2);
const CENTRIFUGE_PROTOBUF: CodecId = CodecId(3);
const CENTRIFUGE_EVENTS: CodecId = CodecId(4);
const CENTRIFUGE_LINES: CodecId = CodecId(5);

/// How a session speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// `echoring.v1.json`.
    #[default]
    V1,
    /// Centrifuge's client protocol.
    Centrifuge(Encoding),
    /// Events of an event stream. There are no requests.
    EventStream,
    /// Raw messages. The requests are those of the connection's handler, which receives the events.
    Handler,
}

impl Dialect {
    /// The name of its subprotocol, if it has one.
    pub fn subprotocol(self) -> Option<&'static str> {
        match self {
            Dialect::V1 => Some(v1::SUBPROTOCOL),
            Dialect::Centrifuge(encoding) => Some(encoding.subprotocol()).filter(|_| !self.is_stream()),
            Dialect::EventStream | Dialect::Handler => None,
        }
    }

    /// Whether its events are those of a stream that answers a request, without frames.
    #[inline]
    pub(crate) fn is_stream(self) -> bool {
        match self {
            Dialect::EventStream => true,
            Dialect::Centrifuge(encoding) => encoding.is_unidirectional(),
            Dialect::V1 | Dialect::Handler => false,
        }
    }

    /// The type of the messages that carry its events.
    #[inline]
    pub(super) fn kind(self) -> MessageKind {
        match self {
            Dialect::Centrifuge(encoding) if encoding.is_binary() => MessageKind::Binary,
            Dialect::V1 | Dialect::Centrifuge(_) | Dialect::EventStream | Dialect::Handler => {
                MessageKind::Text
            }
        }
    }

    /// Whether a subscriber can be notified of missed messages. Otherwise it recovers when it subscribes again.
    pub(super) fn has_gaps(self) -> bool {
        matches!(self, Dialect::V1 | Dialect::EventStream | Dialect::Handler)
    }

    /// The encoding of a topic's log for sessions of this dialect, with or without presence events, deltas and filters.
    pub(super) fn of_log(self, sees_presence: bool, deltas: bool, filtered: bool) -> LogEncoding {
        match self {
            Dialect::V1 => LogEncoding::WithEvents { codec: V1, presence: sees_presence },
            // Its client is not told who else subscribes.
            Dialect::EventStream => LogEncoding::WithEvents { codec: EVENT_STREAM, presence: false },
            Dialect::Handler => LogEncoding::RawWithGaps,
            Dialect::Centrifuge(encoding) => {
                let codec = match encoding {
                    Encoding::Json => CENTRIFUGE_JSON,
                    Encoding::Protobuf => CENTRIFUGE_PROTOBUF,
                    Encoding::Events => CENTRIFUGE_EVENTS,
                    Encoding::Lines => CENTRIFUGE_LINES,
                };
                let deltas = if deltas { Deltas::Beginning } else { Deltas::Off };
                LogEncoding::Resuming { codec, presence: sees_presence, deltas, filtered }
            }
        }
    }

    /// The dialect of a log; `None` for the log of raw subscribers.
    #[inline]
    pub(super) fn of(log: LogEncoding) -> Option<Dialect> {
        match log {
            LogEncoding::Raw => None,
            LogEncoding::RawWithGaps => Some(Dialect::Handler),
            LogEncoding::WithEvents { codec: EVENT_STREAM, .. } => Some(Dialect::EventStream),
            LogEncoding::WithEvents { .. } => Some(Dialect::V1),
            LogEncoding::Resuming { codec, .. } => Some(Dialect::Centrifuge(match codec {
                CENTRIFUGE_JSON => Encoding::Json,
                CENTRIFUGE_EVENTS => Encoding::Events,
                CENTRIFUGE_LINES => Encoding::Lines,
                _ => Encoding::Protobuf,
            })),
        }
    }

    /// The code and the reason that end a session in this dialect, from those of `echoring.v1.json`.
    pub(crate) fn ending(self, code: CloseCode, reason: &str) -> (CloseCode, &str) {
        if !matches!(self, Dialect::Centrifuge(_)) {
            return (code, reason);
        }
        let disconnect = match code {
            CloseCode::GOING_AWAY | CloseCode::SERVICE_RESTART => Disconnect::Shutdown,
            CloseCode::SLOW_CONSUMER => Disconnect::Slow,
            CloseCode::CREDENTIALS_ENDED => Disconnect::Expired,
            CloseCode::POLICY => Disconnect::TooManyErrors,
            CloseCode::TRY_AGAIN_LATER => Disconnect::ServerError,
            _ => return (code, reason),
        };
        close(disconnect)
    }
}

/// The close frame of a disconnection.
pub(super) fn close(disconnect: Disconnect) -> (CloseCode, &'static str) {
    (CloseCode(disconnect.code()), disconnect.reason())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Dialect; 7] = [
        Dialect::V1,
        Dialect::EventStream,
        Dialect::Handler,
        Dialect::Centrifuge(Encoding::Json),
        Dialect::Centrifuge(Encoding::Protobuf),
        Dialect::Centrifuge(Encoding::Events),
        Dialect::Centrifuge(Encoding::Lines),
    ];

    #[test]
    fn each_dialect_has_logs_of_its_own() {
        for dialect in ALL {
            for flags in 0..8 {
                let [sees_presence, deltas, filtered] = [1, 2, 4].map(|flag| flags & flag != 0);
                assert_eq!(Dialect::of(dialect.of_log(sees_presence, deltas, filtered)), Some(dialect));
            }
        }
        assert_eq!(Dialect::of(LogEncoding::Raw), None);
    }

    #[test]
    fn every_end_of_a_session_has_a_code_of_its_dialect() {
        let ends = [
            (CloseCode::GOING_AWAY, 3001),
            (CloseCode::SERVICE_RESTART, 3001),
            (CloseCode::SLOW_CONSUMER, 3008),
            (CloseCode::CREDENTIALS_ENDED, 3005),
            (CloseCode::POLICY, 3509),
            (CloseCode::TRY_AGAIN_LATER, 3004),
            (CloseCode::INTERNAL, 1011),
        ];
        for (code, expected) in ends {
            for dialect in &ALL[..3] {
                assert_eq!(dialect.ending(code, "why"), (code, "why"));
            }
            for dialect in &ALL[3..] {
                assert_eq!(dialect.ending(code, "why").0, CloseCode(expected));
            }
        }
    }
}
