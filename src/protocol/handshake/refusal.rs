//! Why a request is refused: the HTTP status, what the client is told and what cures it, in one table.

#![forbid(unsafe_code)]

/// A refused request. The text is fixed so that refusing costs no memory and leaks nothing of the peer's
/// into a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, for the body and the log.
    pub reason: &'static str,
    /// Further header lines, each ended by CRLF, or empty.
    pub headers: &'static str,
    /// What the operator or the client's author can do.
    pub cure: &'static str,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $status:literal, $reason:literal, $headers:literal, $cure:literal;)*) => {
        impl Refusal {
            $($(#[$doc])* pub const $name: Refusal =
                Refusal { status: $status, reason: $reason, headers: $headers, cure: $cure };)*

            /// Every refusal of this table, for counters and tests.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name),*];
        }
    };
}

refusals! {
    /// The bytes are no HTTP request.
    MALFORMED = 400, "malformed HTTP request", "",
        "send an HTTP/1.1 request; if the client speaks TLS, connect it to a TLS listener";
    /// The head is longer than [`HEAD_BYTES_MAX`](crate::limits::HEAD_BYTES_MAX).
    HEAD_TOO_BIG = 431, "request head too big", "",
        "keep the request head small; large cookies are the usual cause";
    /// More fields than [`HEADERS_MAX`](crate::limits::HEADERS_MAX).
    TOO_MANY_HEADERS = 431, "too many header fields", "", "send fewer header fields";
    /// HTTP/1.0, HTTP/2 or another version.
    VERSION = 505, "HTTP version not supported", "",
        "use HTTP/1.1; a proxy in front must speak HTTP/1.1 to this server (nginx: proxy_http_version 1.1)";
    /// No `Host`, several, or one that is no authority (RFC 9112, 3.2).
    HOST = 400, "Host header missing, repeated or malformed", "", "send exactly one Host header";
    /// A request target that is neither a path nor an absolute URI.
    TARGET = 400, "malformed request target", "", "ask for a path that begins with / and has no fragment";
    /// An upgrade by another method than GET.
    METHOD = 405, "a WebSocket upgrade must be a GET", "Allow: GET\r\n", "use GET";
    /// `Upgrade` does not name websocket although the other fields do.
    NO_UPGRADE = 400, "Upgrade header missing or not websocket", "",
        "send Upgrade: websocket; a proxy in front must forward it (nginx: proxy_set_header Upgrade $http_upgrade)";
    /// `Connection` does not list `upgrade`.
    NO_CONNECTION_UPGRADE = 400, "Connection header does not list upgrade", "",
        "send Connection: Upgrade; a proxy in front must forward it (nginx: proxy_set_header Connection upgrade)";
    /// Another version than 13 (RFC 6455, 4.4).
    WEBSOCKET_VERSION = 426, "WebSocket version is not 13", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "send Sec-WebSocket-Version: 13";
    /// The key is missing, repeated, or not 16 bytes in base64.
    KEY = 400, "Sec-WebSocket-Key missing, repeated or not 16 bytes in base64", "",
        "send one Sec-WebSocket-Key of 16 random bytes in base64";
    /// The request announces a body.
    BODY = 400, "a WebSocket upgrade has no body", "", "send neither Content-Length nor Transfer-Encoding";
    /// `Sec-WebSocket-Protocol` is no list of tokens.
    SUBPROTOCOL = 400, "Sec-WebSocket-Protocol malformed", "", "list subprotocols as tokens with commas between";
    /// `Origin` is repeated or not text.
    BAD_ORIGIN = 400, "Origin header repeated or malformed", "", "send at most one Origin header";
    /// The origin policy says no.
    ORIGIN = 403, "origin not allowed", "",
        "serve the page from the same host, or allow its origin with --allow-origin";
    /// The host policy says no.
    FOREIGN_HOST = 403, "host not allowed on a loopback address", "",
        "name the server as localhost or by its address, or allow the name with --allow-host";
    /// Nothing lives at the path.
    NOT_FOUND = 404, "no such path", "", "ask for /echo or /broadcast/TOPIC";
    /// What lives there is reached by an upgrade, and the request asks for none.
    WEBSOCKET_ONLY = 426, "this path speaks WebSocket only", "Upgrade: websocket\r\n",
        "open it with a WebSocket client";
    /// The head took longer than it may.
    TIMEOUT = 408, "the request took too long", "", "send the whole request head at once";
    /// The node is full. Callers may replace `headers` by a jittered Retry-After.
    UNAVAILABLE = 503, "too many connections", "Retry-After: 5\r\n",
        "try again later, or raise --max-connections";
    /// The node drains.
    DRAINING = 503, "the server is shutting down", "Retry-After: 1\r\n", "connect to another node";
}
