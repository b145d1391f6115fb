//! The unidirectional transports of Centrifuge's protocol: a request with the connect command is answered with a stream of pushes,
//! as events or as lines. The client sends nothing after it, so it has the subscriptions that the server makes for it.
//!
//! The checks are those of event streams. As on WebSockets, the connect command may have the token.

use echoring_auth::Forwarded;
use echoring_proto::event_stream::StreamFormat;
use echoring_proto::handshake::{Refusal, Request};
use echoring_proto::url::percent_decode;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{Answer, StreamHead};
use echoring_wire::centrifuge::{Encoding, decode_connect};

use super::event_stream::{cross_origin_headers, preflight};
use super::{NO_MEMORY, Service};
use crate::auth::{self, Admission};
use crate::limits::CONNECT_BODY_BYTES_MAX;
use echoring_broker::broadcast::CentrifugeSession;
use echoring_broker::peer::{Context, Peer};

/// The paths, with the formats of their streams.
const PATHS: [(&str, StreamFormat); 2] =
    [("/connection/uni_sse", StreamFormat::Messages), ("/connection/uni_http_stream", StreamFormat::Lines)];
/// The query parameter with the connect command.
const COMMAND: &str = "cf_connect";

echoring_proto::refusals! {
    METHOD = 405, "a stream is requested by GET or POST", "Allow: GET, POST, OPTIONS\r\n",
        "send the connect command as the parameter `cf_connect` of GET, or as the body of POST";
    BAD_COMMAND = 400, "bad connect command", "",
        "send an object such as {\"token\":\"…\"}, percent-encoded in a query";
    LENGTH_REQUIRED = 411, "the length of the connect command is unknown", "",
        "send one Content-Length, and no Transfer-Encoding";
    TOO_LARGE = 413, "the connect command is too large", "", "send at most 64 KiB";
    BODY_WAITS = 400, "the credentials of this request are checked elsewhere, which a body cannot wait for", "",
        "send the connect command as the parameter `cf_connect` of GET, or the token in the command alone";
}

/// Where a request has the connect command.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    InQuery(Box<[u8]>),
    /// In a body of so many bytes.
    InBody(u32),
}

impl Service {
    /// Whether a request without an upgrade is for a stream of pushes. The program's own routes come first.
    pub(super) fn is_unidirectional(&self, request: &Request<'_>) -> bool {
        self.builtin_routes && format_of(request).is_some() && !self.routes.has(request.path)
    }

    /// Answers a request for a stream of pushes, or first authenticates the client.
    pub(super) fn unidirectional(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
    ) -> Answer<Peer> {
        let headers = match cross_origin_headers(&self.origins, request) {
            Ok(headers) => headers,
            Err(refusal) => return Answer::Refuse(refusal),
        };
        if request.method == "OPTIONS" {
            return preflight(&headers, "GET, POST");
        }
        let command = match command_of(request) {
            Ok(command) => command,
            Err(refusal) => return Answer::Refuse(refusal),
        };
        match self.admit(cx, token, request, None, true) {
            Admission::Open => self.serve_unidirectional(cx, token, request),
            Admission::Later if matches!(command, Command::InBody(_)) => {
                self.forget_client(token, cx.pool());
                Answer::Refuse(BODY_WAITS)
            }
            Admission::Later => Answer::Later { peer: Peer::Echo },
            Admission::Refused(refusal) => Answer::Refuse(refusal),
        }
    }

    /// Serves a stream of pushes to a client that was let in, or whose connect command has its token.
    pub(super) fn serve_unidirectional(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
    ) -> Answer<Peer> {
        let answer = match self.refused_before(token, request) {
            Some(refused) => refused,
            None => self.begin_stream(cx, token, request).unwrap_or_else(Answer::Refuse),
        };
        if !matches!(answer, Answer::EventStream { .. }) {
            self.forget_client(token, cx.pool());
        }
        answer
    }

    fn begin_stream(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
    ) -> Result<Answer<Peer>, Refusal> {
        let format = format_of(request).ok_or(Refusal::NOT_FOUND)?;
        let headers = cross_origin_headers(&self.origins, request)?;
        let command = command_of(request)?;
        let forwarded = auth::forwarded(&self.gate, request);
        if !cx.pool().charge(forwarded.as_ref().map_or(0, Forwarded::held_bytes)) {
            return Err(NO_MEMORY);
        }
        let encoding = if format == StreamFormat::Lines { Encoding::Lines } else { Encoding::Events };
        let connect_by = cx.now() + cx.handshake_timeout();
        let session = CentrifugeSession::new(encoding, connect_by, forwarded);
        let session = session.with_address(cx.client_address(token));
        let (session, body_bytes) = match command {
            Command::InQuery(command) => (session.with_command(command), 0),
            Command::InBody(bytes) => (session, bytes),
        };
        let head = StreamHead { format, headers, body_bytes };
        let peer = self.broadcast.centrifuge_peer(token, self.gate.client(token), session);
        Ok(Answer::EventStream { peer, head })
    }
}

fn format_of(request: &Request<'_>) -> Option<StreamFormat> {
    PATHS.iter().find(|(path, _)| *path == request.path).map(|(_, format)| *format)
}

/// The connect command of a request. One that is here is checked, so that a mistake is answered with a status.
fn command_of(request: &Request<'_>) -> Result<Command, Refusal> {
    match request.method {
        "GET" => {
            let text = request.query_value(COMMAND).unwrap_or_default().replace('+', " ");
            let command = percent_decode(&text).ok_or(BAD_COMMAND)?;
            decode_connect(command.as_bytes()).map_err(|_| BAD_COMMAND)?;
            Ok(Command::InQuery(command.into_bytes().into()))
        }
        "POST" => match body_bytes(request)? {
            0 => Ok(Command::InQuery(Box::default())),
            bytes => Ok(Command::InBody(bytes)),
        },
        _ => Err(METHOD),
    }
}

fn body_bytes(request: &Request<'_>) -> Result<u32, Refusal> {
    if request.values("transfer-encoding").next().is_some() {
        return Err(LENGTH_REQUIRED);
    }
    let mut lengths = request.values("content-length");
    let Some(length) = lengths.next() else { return Ok(0) };
    let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    if lengths.next().is_some() || !is_number {
        return Err(LENGTH_REQUIRED);
    }
    let bytes = std::str::from_utf8(length).ok().and_then(|digits| digits.parse().ok());
    bytes.filter(|bytes| *bytes <= CONNECT_BODY_BYTES_MAX).ok_or(TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use echoring_proto::handshake::with_request;

    use super::*;

    #[test]
    fn the_command_is_in_the_query_or_in_the_body() {
        let query = |text: &str| Ok(Command::InQuery(text.as_bytes().into()));
        for (line, fields, expected) in [
            ("GET /connection/uni_sse", "", query("")),
            (
                "GET /connection/uni_sse?cf_connect=%7B%22token%22:+%22t%22%7D",
                "",
                query("{\"token\": \"t\"}"),
            ),
            ("GET /connection/uni_sse?cf_connect=%7B", "", Err(400)),
            ("GET /connection/uni_sse?cf_connect=%zz", "", Err(400)),
            ("POST /connection/uni_sse", "", query("")),
            ("POST /connection/uni_sse", "Content-Length: 0\r\n", query("")),
            ("POST /connection/uni_sse", "Content-Length: 65536\r\n", Ok(Command::InBody(65_536))),
            ("POST /connection/uni_sse", "Content-Length: 65537\r\n", Err(413)),
            ("POST /connection/uni_sse", "Content-Length: 99999999999999999999\r\n", Err(413)),
            ("POST /connection/uni_sse", "Content-Length: +1\r\n", Err(411)),
            ("POST /connection/uni_sse", "Content-Length: 1\r\nContent-Length: 1\r\n", Err(411)),
            ("POST /connection/uni_sse", "Transfer-Encoding: chunked\r\n", Err(411)),
            ("HEAD /connection/uni_sse", "", Err(405)),
        ] {
            let head = format!("{line} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
            let found = with_request(head.as_bytes(), |request, _| {
                command_of(request).map_err(|refusal| refusal.status)
            });
            assert_eq!(found.expect("valid").expect("complete"), expected, "{line} {fields}");
        }
    }
}
