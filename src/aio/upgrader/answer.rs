//! What a server says when it does not switch protocols, and what it decides about a request.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

use crate::protocol::handshake::{self, BadField, Refusal, Request, Upgrade, check_field};

/// A request as it is shown to those who decide about it. It may be no upgrade at all.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    request: &'a Request<'a>,
    upgrade: Option<&'a Upgrade<'a>>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(request: &'a Request<'a>, upgrade: Option<&'a Upgrade<'a>>) -> Asked<'a> {
        Asked { request, upgrade }
    }

    pub(super) fn upgrade(&self) -> Option<&'a Upgrade<'a>> {
        self.upgrade
    }

    /// Whether it asks for a WebSocket. Requests that ask for one in a wrong way are refused without being shown.
    pub fn is_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    /// As sent, such as `GET`.
    pub fn method(&self) -> &'a str {
        self.request.method
    }

    /// The target's path, percent-encoded as sent; see
    /// [`percent_decode_path`](crate::protocol::handshake::percent_decode_path).
    pub fn path(&self) -> &'a str {
        self.request.path
    }

    /// What follows the first `?`, or empty.
    pub fn query(&self) -> &'a str {
        self.request.query
    }

    /// The value of `name=value` in the query, as sent.
    pub fn query_value(&self, name: &str) -> Option<&'a str> {
        self.request.query_value(name)
    }

    /// The authority that the client asked for.
    pub fn host(&self) -> &'a str {
        self.request.host
    }

    /// The page's origin; browsers always send one.
    pub fn origin(&self) -> Option<&'a str> {
        self.request.header("origin")
    }

    /// The first field called `name`, whatever its case, if it is text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.request.header(name)
    }

    /// All fields in order. Values are bytes: not all of them need be text (RFC 9110, 5.5).
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + Clone {
        self.request.fields()
    }

    /// The subprotocols offered, best first; none when this is no upgrade.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> + Clone {
        self.upgrade.into_iter().flat_map(Upgrade::subprotocols)
    }
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It gets its WebSocket. A request that asks for none gets 426 instead.
    Accept(Acceptance),
    /// It gets this.
    Answer(Answer),
}

impl From<Acceptance> for Decision {
    fn from(acceptance: Acceptance) -> Decision {
        Decision::Accept(acceptance)
    }
}

impl From<Answer> for Decision {
    fn from(answer: Answer) -> Decision {
        Decision::Answer(answer)
    }
}

/// How a request is accepted, where that is decided for it alone.
#[derive(Clone, Debug, Default)]
pub struct Acceptance {
    pub(super) subprotocol: Option<Option<String>>,
    pub(super) fields: Vec<(String, String)>,
}

impl Acceptance {
    /// As the [`Upgrader`](super::Upgrader) says.
    pub fn new() -> Acceptance {
        Acceptance::default()
    }

    /// With this subprotocol, which must be one that is [offered](Asked::subprotocols).
    #[must_use]
    pub fn subprotocol(mut self, name: impl Into<String>) -> Acceptance {
        self.subprotocol = Some(Some(name.into()));
        self
    }

    /// With no subprotocol, whatever the upgrader supports.
    #[must_use]
    pub fn without_subprotocol(mut self) -> Acceptance {
        self.subprotocol = Some(None);
        self
    }

    /// With a further field in the 101, such as `Set-Cookie`. A field that
    /// [may not be added](crate::protocol::handshake::check_field) makes the upgrade fail.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Acceptance {
        self.fields.push((name.into(), value.into()));
        self
    }
}

/// A response other than 101. The connection ends behind it.
///
/// ```
/// use echoring::aio::Answer;
///
/// let mut answer = Answer::new(401, "who are you?\n");
/// answer.set_header("WWW-Authenticate", "Bearer").unwrap();
/// assert_eq!((answer.status(), answer.reason()), (401, "who are you?"));
/// assert!(answer.set_header("X", "a\r\nEvil: 1").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    reason: Cow<'static, str>,
    content_type: String,
    fields: Vec<(String, String)>,
    body: String,
}

impl Answer {
    /// A status from 200 to 599, any other becoming 500, and a body of plain text.
    pub fn new(status: u16, body: impl Into<String>) -> Answer {
        let body = body.into();
        Answer {
            status: if (200..600).contains(&status) { status } else { 500 },
            reason: Cow::Owned(body.lines().next().unwrap_or_default().to_owned()),
            content_type: "text/plain; charset=utf-8".to_owned(),
            fields: Vec::new(),
            body,
        }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What is wrong, in one line, for a log.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The body.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The fields that were set, not those that every response has.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Changes the status; any that is not from 200 to 599 becomes 500.
    pub fn set_status(&mut self, status: u16) {
        self.status = if (200..600).contains(&status) { status } else { 500 };
    }

    /// Changes the body.
    pub fn set_body(&mut self, body: impl Into<String>) {
        self.body = body.into();
    }

    /// Sets a field, in place of those of the same name. `Set-Cookie` is added to those.
    ///
    /// # Errors
    /// When a response [may not have it](crate::protocol::handshake::check_field).
    pub fn set_header(&mut self, name: &str, value: &str) -> Result<(), BadField> {
        check_field(name, value)?;
        if name.eq_ignore_ascii_case("content-type") {
            self.content_type = value.to_owned();
            return Ok(());
        }
        if !name.eq_ignore_ascii_case("set-cookie") {
            self.fields.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        }
        self.fields.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    /// The response as bytes; `head_only` leaves the body out, as HEAD wants.
    pub(super) fn write(&self, out: &mut Vec<u8>, head_only: bool) {
        let mut lines = String::new();
        for (name, value) in &self.fields {
            lines.extend([name, ": ", value, "\r\n"]);
        }
        let body = self.body.as_bytes();
        handshake::write_response(out, self.status, &self.content_type, &lines, body, head_only);
    }

    /// The response for an HTTP server.
    pub fn into_response<B: From<String>>(self) -> http::Response<B> {
        let mut response = http::Response::builder()
            .status(self.status)
            .header(http::header::CONTENT_TYPE, self.content_type);
        for (name, value) in self.fields {
            response = response.header(name, value);
        }
        let body = B::from(self.body);
        // Status, names and values were looked at when they were set.
        response.body(body).unwrap_or_else(|_| {
            let mut response = http::Response::new(B::from(String::new()));
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Answer {
        let fields = refusal.headers.lines().filter_map(|line| line.split_once(": "));
        Answer {
            reason: Cow::Borrowed(refusal.reason),
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            ..Answer::new(refusal.status, format!("{}\n{}\n", refusal.reason, refusal.cure))
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)
    }
}
