//! Requests as the application sees them, decisions about them, and responses other than 101.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

use echoring_proto::handshake::{self, BadField, Refusal, Request, Upgrade, check_field};

/// A request head, for code that decides about it. It need not be an upgrade.
///
/// ```
/// use echoring::{Acceptance, Conn, Decision, HttpResponse, RequestHead, UpgradeError, Upgrader};
/// use tokio::net::TcpStream;
///
/// fn decide(request: &RequestHead<'_>) -> Decision {
///     match request.header("authorization") {
///         Some("Bearer secret") if request.path() == "/chat" => Acceptance::new().into(),
///         _ => HttpResponse::new(401, "who are you?\n").into(),
///     }
/// }
///
/// async fn open(stream: TcpStream) -> Result<Conn<TcpStream>, UpgradeError> {
///     Upgrader::new().accept_tcp_with(stream, decide).await
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    request: &'a Request<'a>,
    upgrade: Option<&'a Upgrade<'a>>,
}

impl<'a> RequestHead<'a> {
    pub(super) fn new(request: &'a Request<'a>, upgrade: Option<&'a Upgrade<'a>>) -> RequestHead<'a> {
        RequestHead { request, upgrade }
    }

    pub(super) fn parsed(&self) -> &'a Request<'a> {
        self.request
    }

    pub(super) fn upgrade(&self) -> Option<&'a Upgrade<'a>> {
        self.upgrade
    }

    /// Whether it is a valid WebSocket upgrade. Invalid upgrades are refused without being shown to the application.
    pub fn is_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    /// The method as sent, such as `GET`.
    pub fn method(&self) -> &'a str {
        self.request.method
    }

    /// The path of the target, percent-encoded as sent; see
    /// [`percent_decode_path`](echoring_proto::handshake::percent_decode_path).
    pub fn path(&self) -> &'a str {
        self.request.path
    }

    /// The part behind the first `?`, or an empty string.
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

    /// The origin of the page; browsers always send one.
    pub fn origin(&self) -> Option<&'a str> {
        self.request.header("origin")
    }

    /// The value of the first field `name` (case-insensitive), if it is text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.request.header(name)
    }

    /// All fields in order. Values are bytes, because not all are text (RFC 9110, 5.5).
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + Clone {
        self.request.fields()
    }

    /// The offered subprotocols in order of preference; none if this is not an upgrade.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> + Clone {
        self.upgrade.into_iter().flat_map(Upgrade::subprotocols)
    }
}

/// The decision about a request.
///
/// ```
/// use echoring::{Acceptance, Decision, HttpResponse, RequestHead};
///
/// fn decide(request: &RequestHead<'_>) -> Decision {
///     match request.path() {
///         "/chat" => Acceptance::new().into(),
///         _ => HttpResponse::new(404, "there is /chat only\n").into(),
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub enum Decision {
    /// Accepts the upgrade. A request that is not an upgrade gets 426 instead.
    Accept(Acceptance),
    /// Sends this response.
    Respond(HttpResponse),
}

impl From<Acceptance> for Decision {
    fn from(acceptance: Acceptance) -> Decision {
        Decision::Accept(acceptance)
    }
}

impl From<HttpResponse> for Decision {
    fn from(answer: HttpResponse) -> Decision {
        Decision::Respond(answer)
    }
}

/// How a single request is accepted.
///
/// ```
/// use echoring::{Acceptance, RequestHead};
///
/// fn accept(request: &RequestHead<'_>) -> Acceptance {
///     let session = request.query_value("session").unwrap_or("new");
///     Acceptance::new().header("Set-Cookie", format!("session={session}; Secure; HttpOnly"))
/// }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Acceptance {
    pub(super) subprotocol: Option<Option<String>>,
    pub(super) fields: Vec<(String, String)>,
}

impl Acceptance {
    /// Accepts with the settings of the [`Upgrader`](super::Upgrader).
    pub fn new() -> Acceptance {
        Acceptance::default()
    }

    /// Selects this subprotocol, which the client must have [offered](RequestHead::subprotocols), or none, whatever the upgrader
    /// supports.
    pub fn subprotocol<'a>(self, name: impl Into<Option<&'a str>>) -> Acceptance {
        Acceptance { subprotocol: Some(name.into().map(str::to_owned)), ..self }
    }

    /// Adds a header field to the 101 response, such as `Set-Cookie`. A field that [may not be
    /// added](echoring_proto::handshake::check_field) makes the upgrade fail.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Acceptance {
        self.fields.push((name.into(), value.into()));
        self
    }
}

/// A response other than 101. The connection is closed after it. 426 is sent with `Upgrade: websocket` (RFC 9110, 15.5.22).
///
/// ```
/// use echoring::HttpResponse;
///
/// let mut answer = HttpResponse::new(401, "who are you?\n");
/// answer.set_header("WWW-Authenticate", "Bearer").unwrap();
/// assert_eq!((answer.status(), answer.reason()), (401, "who are you?"));
/// assert!(answer.set_header("X", "a\r\nEvil: 1").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    status: u16,
    reason: Cow<'static, str>,
    content_type: String,
    fields: Vec<(String, String)>,
    body: String,
}

impl HttpResponse {
    /// A response with a plain-text body and a status from 200 to 599; any other status becomes 500.
    pub fn new(status: u16, body: impl Into<String>) -> HttpResponse {
        let body = body.into();
        HttpResponse {
            status: if (200..600).contains(&status) { status } else { 500 },
            reason: Cow::Owned(body.lines().next().unwrap_or_default().to_owned()),
            content_type: "text/plain; charset=utf-8".to_owned(),
            fields: Vec::new(),
            body,
        }
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first line of the body, for a log.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The body.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The fields that were set, without those that every response has.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Sets the status code; one that is not from 200 to 599 becomes 500.
    pub fn set_status(&mut self, status: u16) {
        self.status = if (200..600).contains(&status) { status } else { 500 };
    }

    /// Sets the body.
    pub fn set_body(&mut self, body: impl Into<String>) {
        self.body = body.into();
    }

    /// Sets a field, replacing fields of the same name. `Set-Cookie` is added instead.
    ///
    /// # Errors
    /// If a response [may not have it](echoring_proto::handshake::check_field).
    pub fn set_header(&mut self, name: &str, value: &str) -> Result<(), BadField> {
        check_field(name, value)?;
        if !name.eq_ignore_ascii_case("set-cookie") {
            self.fields.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        }
        self.add_header(name, value)
    }

    /// Adds a field beside others of the same name.
    pub(crate) fn add_header(&mut self, name: &str, value: &str) -> Result<(), BadField> {
        check_field(name, value)?;
        if name.eq_ignore_ascii_case("content-type") {
            self.content_type = value.to_owned();
        } else {
            self.fields.push((name.to_owned(), value.to_owned()));
        }
        Ok(())
    }

    /// Writes the response; `head_only` omits the body, for HEAD.
    pub(super) fn write(&self, out: &mut Vec<u8>, head_only: bool) {
        let mut lines = String::new();
        for (name, value) in &self.fields {
            lines.extend([name, ": ", value, "\r\n"]);
        }
        let body = self.body.as_bytes();
        handshake::write_response(out, self.status, &self.content_type, &lines, body, head_only);
    }

    /// Converts it to the response type of an HTTP server.
    pub fn into_response<B: From<String>>(self) -> http::Response<B> {
        let mut response = http::Response::builder()
            .status(self.status)
            .header(http::header::CONTENT_TYPE, self.content_type);
        if self.status == 426 && !self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade")) {
            response = response.header(http::header::UPGRADE, "websocket");
        }
        for (name, value) in self.fields {
            response = response.header(name, value);
        }
        let body = B::from(self.body);
        // Status, names and values were validated when they were set.
        response.body(body).unwrap_or_else(|_| {
            let mut response = http::Response::new(B::from(String::new()));
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

impl From<Refusal> for HttpResponse {
    fn from(refusal: Refusal) -> HttpResponse {
        let fields = refusal.headers.lines().filter_map(|line| line.split_once(": "));
        HttpResponse {
            reason: Cow::Borrowed(refusal.reason),
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            ..HttpResponse::new(refusal.status, format!("{}\n{}\n", refusal.reason, refusal.hint))
        }
    }
}

impl fmt::Display for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)
    }
}
