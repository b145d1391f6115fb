//! The table of refused requests: the HTTP status, the reason, and a hint for the operator or the client.

#![forbid(unsafe_code)]

/// A refused request. The texts are constant, so that a refusal allocates nothing and no data of the peer gets into
/// a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The reason, for the response body and the log.
    pub reason: &'static str,
    /// Further header lines, each terminated by CRLF, or empty.
    pub headers: &'static str,
    /// Advice for the operator or the author of the client. A setting of the server is in backticks, under its name in
    /// the library: a program may have another.
    pub hint: &'static str,
}

/// Declares refusals: each with its status, its reason, its header lines, and its hint.
///
/// ```
/// use echoring_proto::refusals;
///
/// refusals! {
///     TEAPOT = 418, "this is a teapot", "", "ask a coffee machine";
/// }
///
/// assert_eq!((TEAPOT.status, TEAPOT.headers), (418, ""));
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! refusals {
    ($($(#[$of:meta])* $vis:vis $NAME:ident = $status:literal, $reason:literal, $headers:literal, $hint:literal;)*) => {
        $($(#[$of])* $vis const $NAME: $crate::handshake::Refusal =
            $crate::handshake::Refusal { status: $status, reason: $reason, headers: $headers, hint: $hint };)*
    };
}

macro_rules! table {
    ($($(#[$of:meta])* $NAME:ident = $status:literal, $reason:literal, $headers:literal, $hint:literal;)*) => {
        impl Refusal {
            $crate::refusals! { $($(#[$of])* pub $NAME = $status, $reason, $headers, $hint;)* }

            /// Every refusal of this table, for counters and tests.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$NAME),*];
        }
    };
}

table! {
    /// The bytes are not an HTTP request.
    MALFORMED = 400, "malformed HTTP request", "",
        "send an HTTP/1.1 request; if the client speaks TLS, connect it to a TLS listener";
    /// The head exceeds [`max_header`](crate::connection::ConnectionConfig::max_header), or the maximum of its parser.
    HEAD_TOO_BIG = 431, "request head too big", "",
        "keep the request head small; large cookies are the usual cause";
    /// More fields than [`HEADERS_MAX`](crate::limits::HEADERS_MAX).
    TOO_MANY_HEADERS = 431, "too many header fields", "", "send fewer header fields";
    /// HTTP/2 or another version, or an upgrade with HTTP/1.0.
    VERSION = 505, "HTTP version not supported", "",
        "use HTTP/1.1; a proxy in front must speak HTTP/1.1 to this server (nginx: proxy_http_version 1.1)";
    /// `Host` is missing, repeated, or not an authority (RFC 9112, 3.2).
    HOST = 400, "Host header missing, repeated or malformed", "", "send exactly one Host header";
    /// A request target that is neither a path nor an absolute URI.
    TARGET = 400, "malformed request target", "", "request a path that begins with / and has no fragment";
    /// An upgrade with a method other than GET.
    METHOD = 405, "a WebSocket upgrade must be a GET", "Allow: GET\r\n", "use GET";
    /// `Upgrade` does not contain websocket, but the request has a `Sec-WebSocket-Key`.
    NO_UPGRADE = 400, "Upgrade header missing or not websocket", "",
        "send Upgrade: websocket; a proxy in front must forward it (nginx: proxy_set_header Upgrade $http_upgrade)";
    /// `Connection` does not list `upgrade`.
    NO_CONNECTION_UPGRADE = 400, "Connection header does not list upgrade", "",
        "send Connection: Upgrade; a proxy in front must forward it (nginx: proxy_set_header Connection upgrade)";
    /// A version other than 13 (RFC 6455, 4.4).
    WEBSOCKET_VERSION = 426, "WebSocket version is not 13", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "send Sec-WebSocket-Version: 13";
    /// The key is missing, repeated, or not 16 bytes in base64.
    KEY = 400, "Sec-WebSocket-Key missing, repeated or not 16 bytes in base64", "",
        "send one Sec-WebSocket-Key of 16 random bytes in base64";
    /// The request declares a body.
    BODY = 400, "a WebSocket upgrade has no body", "", "send neither Content-Length nor Transfer-Encoding";
    /// `Sec-WebSocket-Protocol` is not a list of tokens.
    SUBPROTOCOL = 400, "Sec-WebSocket-Protocol malformed", "", "list subprotocols as tokens separated by commas";
    /// `Origin` is repeated or not text.
    BAD_ORIGIN = 400, "Origin header repeated or malformed", "", "send at most one Origin header";
    /// The origin policy rejects the request.
    ORIGIN = 403, "origin not allowed", "",
        "serve the page from the same host, or allow its origin (`allow_origin`)";
    /// The host policy rejects the request.
    FOREIGN_HOST = 403, "host not allowed on a loopback address", "",
        "connect to localhost or to the address of the server, or allow the name (`allow_host`)";
    /// `Forwarded` is malformed, or contradicts `X-Forwarded-For`.
    FORWARDED = 400, "Forwarded malformed, or not the same client as X-Forwarded-For", "",
        "let the proxy in front write one of the two fields, and remove the other from requests";
    /// The path does not exist.
    NOT_FOUND = 404, "no such path", "", "request /echo or /broadcast/TOPIC";
    /// The path requires an upgrade, and the request has none.
    WEBSOCKET_ONLY = 426, "this path speaks WebSocket only", "Upgrade: websocket\r\n",
        "open it with a WebSocket client";
    /// The head did not arrive in time.
    TIMEOUT = 408, "the request took too long", "", "send the whole request head at once";
    /// Whoever decides about the request did not in time.
    UNDECIDED = 503, "no decision about the request in time", "Retry-After: 2\r\n",
        "try again; the server's log has the reason";
    /// The node has reached its maximum number of connections. Callers may replace `headers` by a jittered Retry-After.
    UNAVAILABLE = 503, "too many connections", "Retry-After: 5\r\n",
        "try again later, or raise `max_connections`";
    /// The node is draining.
    DRAINING = 503, "the server is shutting down", "Retry-After: 1\r\n", "connect to another node";
}
