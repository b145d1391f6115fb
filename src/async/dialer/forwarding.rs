//! Requests that a proxy passes on to a server, and refusals that it passes back (RFC 9110, section 7.6).
//!
//! Never: trust in a client's statements about itself or about earlier proxies.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use http::header::{CONNECTION, CONTENT_ENCODING, HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Dialer;
use super::error::{DialError, Response};
use crate::upgrader::offered;
use crate::{Acceptance, HttpResponse};
use echoring_proto::handshake::{
    BadField, BadHandshake, VIA, check_field, hop_by_hop_fields, identifies_client, is_authority,
};

/// End-to-end fields that do not pass nevertheless: the dialer writes its own (`Sec-WebSocket-*` too), reads the response itself, or
/// sends no content that they could be about.
const NOT_PASSED: [&str; 6] = ["accept-encoding", "content-length", "expect", "host", "origin", "trailer"];

impl Dialer {
    /// Passes on a client's upgrade request: for proxies, which answer the client as the server answers them. `peer` is the client's
    /// address.
    ///
    /// The server gets
    /// - the client's `Host` and `Origin`, because it compares them, and its subprotocols;
    /// - all other end-to-end fields, such as `Authorization`, `Cookie`, `User-Agent` and those that nobody here knows (RFC 9110,
    ///   7.6.1), byte for byte, the values of a name in their order;
    /// - `X-Forwarded-For` with the address of `peer`, `X-Forwarded-Host`, and `Via`. There is no `X-Forwarded-Proto`: add it with
    ///   [`header`](Dialer::header), because the program knows whether its clients use TLS.
    ///
    /// It does not get
    /// - the fields that `Connection` lists, nor `Connection`, `Keep-Alive`, `Proxy-Authenticate`, `Proxy-Authorization`,
    ///   `Proxy-Connection`, `TE`, `Transfer-Encoding` and `Upgrade`: they are for this hop;
    /// - `Forwarded` (RFC 7239), `X-Forwarded-*`, `X-Real-IP`, `X-Client-IP` and `True-Client-IP` of the client, because anybody can send
    ///   them. A program behind a proxy that it trusts adds them again;
    /// - `Sec-WebSocket-*`, `Accept-Encoding`, `Content-Length`, `Expect` and `Trailer`: the handshake, its compression and its
    ///   response are this dialer's own.
    ///
    /// Values cannot begin a line or a request, because the types of `http` hold none that could. The head is bounded by that of
    /// `request`: it is longer by the `Host`, a space for each field and subprotocol, and 500 bytes at most, besides what the program
    /// adds.
    ///
    /// Call it before [`header`](Dialer::header), [`host`](Dialer::host) and [`without_header`](Dialer::without_header), which change
    /// the result. A request without one valid `Host`, or with a second or a malformed `Origin`, makes every dial fail; an
    /// [`Upgrader`](crate::Upgrader) refuses such requests.
    ///
    /// ```
    /// use echoring::{ClientStream, Conn, DialError, Dialer, PendingUpgrade};
    /// use tokio::net::TcpStream;
    ///
    /// /// Clones of one dialer share TLS sessions.
    /// async fn dial(dialer: &Dialer, client: &PendingUpgrade<TcpStream>) -> Result<Conn<ClientStream>, DialError> {
    ///     let dialer = dialer.clone().forwarding(client.request(), client.peer_addr());
    ///     // The server trusts this proxy to say who its client is, and does not get the client's cookies.
    ///     let dialer = dialer.header("X-User", "ada").without_header("Cookie");
    ///     dialer.dial(&format!("wss://server.example{}", client.path_and_query())).await
    /// }
    /// ```
    pub fn forwarding<B>(mut self, request: &http::Request<B>, peer: Option<SocketAddr>) -> Dialer {
        let headers = request.headers();
        let authority = request.uri().authority().map(|authority| authority.as_str());
        match authority.or_else(|| only_text(headers, &HOST)).filter(|host| is_authority(host)) {
            Some(host) => self.request.host = host.to_owned(),
            None => self.bad_field = Some(("Host".to_owned(), BadField::Malformed)),
        }
        match only_text(headers, &ORIGIN) {
            Some(origin) => self.request.origin = Some(origin.to_owned()),
            None if headers.contains_key(ORIGIN) => {
                self.bad_field = Some(("Origin".to_owned(), BadField::Malformed));
            }
            None => self.request.origin = None,
        }
        self.request.subprotocols.clear();
        for name in offered(request) {
            // A client may repeat one, which this end may not (RFC 6455, 4.1).
            if !self.request.subprotocols.iter().any(|other| other == name) {
                self.request.subprotocols.push(name.to_owned());
            }
        }
        let end_to_end = end_to_end(headers);
        let passed = end_to_end.iter().filter(|(name, _)| passes(name.as_str()));
        let passed = passed.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        self.request.headers.extend(passed);
        // A dual-stack listener reports IPv4 clients as IPv4-mapped addresses.
        let address = peer.map(|peer| ("X-Forwarded-For", peer.ip().to_canonical().to_string()));
        let host = ("X-Forwarded-Host", self.request.host.clone());
        let own = address.into_iter().chain([host, ("Via", VIA.to_owned())]);
        self.request.headers.extend(own.map(|(name, value)| (name.to_owned(), value.into_bytes())));
        self
    }

    /// Leaves out the header fields called `name` (case-insensitive) that [`header`](Dialer::header) or
    /// [`forwarding`](Dialer::forwarding) added before; without `Host`, the URL's authority is sent. `Origin` and
    /// `Sec-WebSocket-Protocol` can be left out, too.
    ///
    /// ```
    /// use echoring::Dialer;
    ///
    /// let dialer = Dialer::new().header("Cookie", "id=7").host("app.example");
    /// let other_site = dialer.clone().without_header("cookie").without_header("host");
    /// # drop(other_site);
    /// ```
    pub fn without_header(mut self, name: &str) -> Dialer {
        let request = &mut self.request;
        match name.to_ascii_lowercase().as_str() {
            "host" => request.host.clear(),
            "origin" => request.origin = None,
            "sec-websocket-protocol" => request.subprotocols.clear(),
            name => request.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name)),
        }
        self
    }
}

/// The value of the only field called `name`, if it is text.
fn only_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (Some(value), None) => str::from_utf8(value.as_bytes()).ok(),
        _ => None,
    }
}

/// The fields of `headers` that an intermediary may pass on.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    let connection = headers.get_all(CONNECTION).into_iter().map(HeaderValue::as_bytes);
    let names: Vec<HeaderName> = hop_by_hop_fields(connection).filter_map(|name| name.parse().ok()).collect();
    for name in names {
        headers.remove(name);
    }
    headers
}

/// Whether an end-to-end field called `name`, in lower case, passes to the server.
fn passes(name: &str) -> bool {
    !name.starts_with("sec-websocket-") && !NOT_PASSED.contains(&name) && !identifies_client(name)
}

/// The response of a proxy to its client: the server's refusal or redirect, 504 if a step took too long, otherwise 502.
///
/// Of the server's response, status, end-to-end fields and the first KiB of the body pass. Fields about the body but its
/// `Content-Type` do not, and a body with a content coding is left out.
///
/// ```
/// use echoring::{DialError, HttpResponse, Stage};
///
/// assert_eq!(HttpResponse::from(&DialError::Closed).status(), 502);
/// assert_eq!(HttpResponse::from(&DialError::Timeout(Stage::Connect)).status(), 504);
/// ```
impl From<&DialError> for HttpResponse {
    fn from(error: &DialError) -> HttpResponse {
        match error {
            DialError::Redirect { response, .. }
            | DialError::BadHandshake { why: BadHandshake::Status(_), response: Some(response) } => {
                refusal(response)
            }
            DialError::Timeout(_) => {
                HttpResponse::new(504, "the server behind this one did not answer in time\n")
            }
            _ => HttpResponse::new(502, "the server behind this one is unavailable\n"),
        }
    }
}

impl Acceptance {
    /// Accepts a client as the server behind a proxy has accepted the request that [`Dialer::forwarding`] passed on: with its
    /// subprotocol, and the end-to-end fields of its 101 whose values are text, such as `Set-Cookie`.
    ///
    /// ```
    /// use echoring::Acceptance;
    ///
    /// let response = http::Response::builder().status(101).header("Sec-WebSocket-Protocol", "chat").body(()).unwrap();
    /// let acceptance = Acceptance::forwarding(&response).header("X-Proxy", "edge-7");
    /// # drop(acceptance);
    /// ```
    pub fn forwarding<B>(response: &http::Response<B>) -> Acceptance {
        let acceptance =
            Acceptance::new().subprotocol(only_text(response.headers(), &SEC_WEBSOCKET_PROTOCOL));
        let fields = passed_back(response.headers()).into_iter().filter(|(name, _)| name != "content-type");
        fields.fold(acceptance, |acceptance, (name, value)| acceptance.header(name, value))
    }
}

fn refusal(response: &Response) -> HttpResponse {
    let body = match response.headers().contains_key(CONTENT_ENCODING) {
        false => String::from_utf8_lossy(response.body()),
        true => "".into(),
    };
    let mut answer = HttpResponse::new(response.status().as_u16(), body);
    for (name, value) in passed_back(response.headers()) {
        // Checked before.
        let _ = answer.add_header(&name, &value);
    }
    answer
}

/// The fields of a server's response that a client gets, but for those of a body and those that the response to the client has of
/// its own.
fn passed_back(headers: &HeaderMap) -> Vec<(String, String)> {
    let end_to_end = end_to_end(headers);
    let fields = end_to_end.iter().filter_map(|(name, value)| {
        let (name, value) = (name.as_str(), str::from_utf8(value.as_bytes()).ok()?);
        let is_about_the_body = name.starts_with("content-") && name != "content-type";
        (!is_about_the_body && name != "trailer" && check_field(name, value).is_ok())
            .then(|| (name.to_owned(), value.to_owned()))
    });
    fields.collect()
}
