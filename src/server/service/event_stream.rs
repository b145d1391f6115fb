//! Requests for event streams, `GET /sse/TOPIC`: the way to the same topics for clients whose proxies break WebSockets.
//!
//! The checks are those of an upgrade, in the same order: the origin of the page, who the client is, and what it may do.

use echoring_proto::connection::Reply;
use echoring_proto::handshake::{OriginPolicy, Refusal, Request};
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{Answer, OwnedReply};
use echoring_topics::Position;

use super::{BAD_TOPIC, Service, topic_of};
use crate::auth::Admission;
use echoring_broker::broadcast::TopicRequest;
use echoring_broker::peer::{Context, Peer};

/// The paths of event streams, before the name of the topic.
const PREFIX: &str = "/sse/";

echoring_proto::refusals! {
    METHOD = 405, "an event stream is requested by GET", "Allow: GET, OPTIONS\r\n",
        "use GET; publish over a WebSocket or the admin address";
}

/// The same without a body. HEAD would get the head of a stream that has no end, and begin a subscription for it.
const HEAD: Reply<'static> = Reply {
    status: METHOD.status,
    content_type: "text/plain; charset=utf-8",
    headers: METHOD.headers,
    body: b"",
    head_only: true,
};

impl Service {
    /// Whether a request without an upgrade is for an event stream. The program's own routes come first.
    pub(super) fn is_event_stream(&self, request: &Request<'_>) -> bool {
        self.builtin_routes
            && request.path.starts_with(PREFIX)
            && !self.routes.has(request.path)
            && !self.backends.has_upgrade(request.path)
    }

    /// Answers a request for an event stream, or first authenticates the client.
    pub(super) fn event_stream(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
    ) -> Answer<Peer> {
        if request.is_head() {
            return Answer::Respond(HEAD);
        }
        let headers = match cross_origin_headers(&self.origins, request) {
            Ok(headers) => headers,
            Err(refusal) => return Answer::Refuse(refusal),
        };
        match request.method {
            "GET" => {}
            "OPTIONS" => return preflight(&headers, "GET"),
            _ => return Answer::Refuse(METHOD),
        }
        match self.admit(cx, token, request, None, false) {
            Admission::Open => self.serve_event_stream(cx, token, request),
            Admission::Later => Answer::Later { peer: Peer::Echo },
            Admission::Refused(refusal) => Answer::Refuse(refusal),
        }
    }

    /// The answer to a refused request for a stream whose page may know why: without the header lines its browser would tell it of a lost
    /// connection. `None` for other requests.
    pub(super) fn readable_refusal(
        &self,
        refusal: &Refusal,
        request: &Request<'_>,
    ) -> Option<Box<OwnedReply>> {
        let is_stream = self.is_event_stream(request) || self.is_unidirectional(request);
        let allowed = cross_origin_headers(&self.origins, request).ok();
        let allowed = allowed.filter(|lines| is_stream && !lines.is_empty())?;
        let Refusal { status, reason, headers, hint } = refusal;
        Some(text_reply(*status, [headers, &*allowed].concat(), format!("{reason}\n{hint}\n")))
    }

    /// Serves an event stream to a client that was let in.
    pub(super) fn serve_event_stream(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
    ) -> Answer<Peer> {
        if let Some(refused) = self.refused_before(token, request) {
            self.forget_client(token, cx.pool());
            return refused;
        }
        let topic = request.path.strip_prefix(PREFIX).and_then(topic_of).ok_or(BAD_TOPIC);
        let answer = match topic.and_then(|topic| Ok((topic, cross_origin_headers(&self.origins, request)?)))
        {
            Ok((topic, headers)) => {
                let from = requested_position(request);
                let request = TopicRequest { token, topic: &topic, gate: &mut self.gate };
                self.broadcast.open_event_stream(cx, request, from, headers)
            }
            Err(refusal) => Answer::Refuse(refusal),
        };
        if matches!(answer, Answer::Refuse(_)) {
            self.forget_client(token, cx.pool());
        }
        answer
    }
}

/// The position from which a client continues. A browser sends the field when it returns; the parameter is for clients
/// that cannot set fields, and stays in their URL, so the field takes precedence. No topic has the epoch 0, so an id that is not one of
/// ours is an unknown position, like one from before a restart.
fn requested_position(request: &Request<'_>) -> Option<Position> {
    let field = request.header("last-event-id").filter(|id| !id.is_empty());
    let id = field.or_else(|| request.query_value("last_event_id").filter(|id| !id.is_empty()));
    id.map(|id| id.parse().unwrap_or_default())
}

/// The header lines that allow a page of another origin to read the stream (Fetch, 3.3: the CORS protocol). A page of any
/// origin may read it without credentials only: with them it would act for a user of any other page.
///
/// # Errors
/// If the origin may not connect.
pub(super) fn cross_origin_headers(
    origins: &OriginPolicy,
    request: &Request<'_>,
) -> Result<Box<str>, Refusal> {
    let Some(origin) = request.origin()? else { return Ok(Box::default()) };
    if !origins.allows(request.host, Some(origin)) {
        return Err(Refusal::ORIGIN);
    }
    Ok(match origins {
        OriginPolicy::Any => "Access-Control-Allow-Origin: *\r\n".into(),
        _ => format!(
            "Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\nVary: Origin\r\n"
        )
        .into(),
    })
}

/// The answer to the question whether a page of another origin may send a request with credentials of its own (Fetch, 3.3.3).
pub(super) fn preflight(cross_origin_headers: &str, methods: &str) -> Answer<Peer> {
    let headers = format!(
        "{cross_origin_headers}Access-Control-Allow-Methods: {methods}\r\n\
         Access-Control-Allow-Headers: authorization, content-type\r\nAccess-Control-Max-Age: 300\r\n"
    );
    Answer::RespondWith(text_reply(200, headers, String::new()))
}

fn text_reply(status: u16, headers: String, body: String) -> Box<OwnedReply> {
    let content_type = "text/plain; charset=utf-8".to_owned();
    Box::new(OwnedReply { status, content_type, headers, body: body.into(), head_only: false })
}

#[cfg(test)]
mod tests {
    use echoring_proto::handshake::with_request;

    use super::*;

    fn of<R>(target: &str, fields: &str, look: impl FnOnce(&Request<'_>) -> R) -> R {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
        with_request(head.as_bytes(), |request, _| look(request)).expect("valid").expect("complete")
    }

    #[test]
    fn the_field_comes_before_the_parameter() {
        let at = |offset| Some(Position { epoch: 0x1f, offset });
        for (target, fields, expected) in [
            ("/sse/t", "", None),
            ("/sse/t", "Last-Event-ID: 1f-7\r\n", at(7)),
            ("/sse/t?last_event_id=1f-5", "", at(5)),
            ("/sse/t?last_event_id=1f-5", "Last-Event-ID: 1f-7\r\n", at(7)),
            ("/sse/t?last_event_id=1f-5", "Last-Event-ID:\r\n", at(5)),
            ("/sse/t?last_event_id=", "", None),
            ("/sse/t", "Last-Event-ID: seven\r\n", Some(Position::default())),
        ] {
            assert_eq!(of(target, fields, requested_position), expected, "{target} {fields}");
        }
    }

    #[test]
    fn pages_read_what_their_origin_may() {
        let listed = OriginPolicy::List(vec!["https://app.example".to_owned()]);
        let own = |origin: &str| {
            format!(
                "Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\nVary: Origin\r\n"
            )
        };
        for (policy, fields, expected) in [
            (&OriginPolicy::SameHost, "", Ok(String::new())),
            (&OriginPolicy::SameHost, "Origin: http://a.example\r\n", Ok(own("http://a.example"))),
            (&OriginPolicy::SameHost, "Origin: https://app.example\r\n", Err(403)),
            (&OriginPolicy::SameHost, "Origin: null\r\n", Err(403)),
            (&listed, "Origin: https://app.example\r\n", Ok(own("https://app.example"))),
            (&listed, "Origin: https://b.example\r\n", Err(403)),
            (
                &OriginPolicy::Any,
                "Origin: https://b.example\r\n",
                Ok("Access-Control-Allow-Origin: *\r\n".to_owned()),
            ),
            (&OriginPolicy::Any, "Origin: a\r\nOrigin: b\r\n", Err(400)),
        ] {
            let found = of("/sse/t", fields, |request| cross_origin_headers(policy, request));
            let found = found.map(String::from).map_err(|refusal| refusal.status);
            assert_eq!(found, expected, "{policy:?} {fields}");
        }
    }
}
