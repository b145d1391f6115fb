//! [`Response`]: the response of a route to a plain request, or its refusal of an upgrade.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{StatusCode, header};
use serde::Serialize;

use crate::limits::RESPONSE_BODY_BYTES_MAX;
use echoring_runtime::shard::OwnedReply;

/// A response with its whole body; the connection is closed behind it. It converts from any [`http::Response`]. 426 is sent with
/// `Upgrade: websocket` (RFC 9110, 15.5.22).
///
/// The body has at most [`RESPONSE_BODY_BYTES_MAX`] bytes. A longer body, or a status that is not final (200 to 599),
/// becomes a 500 and is logged. The server sets `Connection`, `Content-Length` and `Transfer-Encoding` itself; they are
/// omitted, as are fields whose values are not visible ASCII.
///
/// ```
/// use echoring::server::Response;
///
/// let refusal = Response::text(401, "who are you?\n").header("www-authenticate", "Basic realm=\"attic\"");
/// assert_eq!(refusal.status(), 401);
/// let own: Response = http::Response::builder().status(204).body("").unwrap().into();
/// assert_eq!(own.status(), 204);
/// ```
#[derive(Clone, Debug)]
pub struct Response(Box<http::Response<Bytes>>);

impl<B: Into<Bytes>> From<http::Response<B>> for Response {
    fn from(response: http::Response<B>) -> Response {
        Response(Box::new(response.map(Into::into)))
    }
}

impl From<Response> for http::Response<Bytes> {
    fn from(response: Response) -> http::Response<Bytes> {
        *response.0
    }
}

impl Response {
    /// A response in plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Response {
        Response::with_type(status, "text/plain; charset=utf-8", Bytes::from(body.into()))
    }

    /// A response in HTML. The caller must escape untrusted text.
    pub fn html(status: u16, body: impl Into<String>) -> Response {
        Response::with_type(status, "text/html; charset=utf-8", Bytes::from(body.into()))
    }

    /// A response in JSON; 500 if the value cannot be serialized.
    pub fn json(status: u16, value: &impl Serialize) -> Response {
        match serde_json::to_vec(value) {
            Ok(body) => Response::with_type(status, "application/json", Bytes::from(body)),
            Err(error) => {
                tracing::error!(%error, "a response cannot be serialised as JSON");
                Response::internal_error()
            }
        }
    }

    /// Adds a field. A malformed field is omitted and logged.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Response {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) => {
                self.0.headers_mut().append(name, value);
            }
            _ => tracing::error!(name, "malformed header field in a response"),
        }
        self
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    /// The whole body.
    pub fn body(&self) -> &[u8] {
        self.0.body()
    }

    pub(crate) fn internal_error() -> Response {
        Response::text(500, "internal error\n")
    }

    fn with_type(status: u16, content_type: &'static str, body: Bytes) -> Response {
        let mut response = http::Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        // A browser must not sniff a page in plain text.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Response(Box::new(response))
    }
}

/// The response as the shard sends it.
pub(crate) fn to_reply(response: Response, head_only: bool) -> OwnedReply {
    if response.body().len() > RESPONSE_BODY_BYTES_MAX {
        tracing::error!(bytes = response.body().len(), "a response's body is longer than allowed");
        return to_reply(Response::internal_error(), head_only);
    }
    if !(200..600).contains(&response.status()) {
        tracing::error!(status = response.status(), "the status of a response is not final");
        return to_reply(Response::internal_error(), head_only);
    }
    let (head, body) = response.0.into_parts();
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut headers = String::new();
    for (name, value) in &head.headers {
        if ![CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING].contains(name) {
            append(&mut headers, name, value);
        }
    }
    OwnedReply {
        status: head.status.as_u16(),
        content_type: content_type.unwrap_or("application/octet-stream").to_owned(),
        headers,
        body,
        head_only,
    }
}

fn append(lines: &mut String, name: &HeaderName, value: &HeaderValue) {
    // A `HeaderValue` has no line breaks.
    if let Ok(value) = value.to_str() {
        lines.extend([name.as_str(), ": ", value, "\r\n"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_keeps_its_fields_and_leaves_the_framing_to_the_server() {
        let response = http::Response::builder()
            .status(401)
            .header("WWW-Authenticate", "Basic realm=\"a\"")
            .header("Content-Length", "999")
            .header("Connection", "keep-alive")
            .header("Content-Type", "text/css")
            .body("x")
            .unwrap();
        let reply = to_reply(response.into(), false);
        assert_eq!(
            (reply.status, reply.content_type.as_str(), &reply.body[..]),
            (401, "text/css", &b"x"[..])
        );
        assert_eq!(reply.headers, "www-authenticate: Basic realm=\"a\"\r\n");
    }

    #[test]
    fn what_cannot_be_sent_becomes_a_500() {
        let long = Response::text(200, "x".repeat(RESPONSE_BODY_BYTES_MAX + 1));
        assert_eq!(to_reply(long, false).status, 500);
        assert_eq!(to_reply(Response::text(101, ""), false).status, 500);
        let smuggling = Response::text(200, "").header("x", "a\r\nset-cookie: b").header("y\r\n", "c");
        assert!(!to_reply(smuggling, false).headers.contains("cookie"));
    }
}
