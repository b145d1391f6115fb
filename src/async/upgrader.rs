//! The server side of opening a connection: on an accepted stream, or on a request that an HTTP server has read.
//!
//! Both ways use the rules of `echoring_proto::handshake`. Never: listening, routes, or messages.

#![forbid(unsafe_code)]

#[cfg(feature = "hyper")]
mod handed_over;
mod pending;
mod request;
mod response;
mod stream;

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use super::{BufferPool, Heartbeat, Opened, Settings};
use crate::conn::Head;
use crate::limits::{AIO_HTTP_BUFFER_BYTES, SETTING_TIME_MAX};
use echoring_proto::Role;
use echoring_proto::connection::Compression;
use echoring_proto::deflate::{self, Agreement};
use echoring_proto::handshake::{
    self, BadField, OriginPolicy, Refusal, Request, SubprotocolPreference, Upgrade, check_field,
    check_subprotocols,
};
use echoring_proto::limits::HANDSHAKE_TIMEOUT;

#[cfg(feature = "hyper")]
pub use handed_over::{Upgraded, Upgrading};
pub use pending::PendingUpgrade;
#[cfg(any(feature = "axum", feature = "client"))]
pub(crate) use request::offered;
pub use request::{Negotiated, Refused};
pub use response::{Acceptance, Decision, HttpResponse, RequestHead};

/// Opens server connections.
///
/// By default a page may connect only to the host that served it, messages are not compressed, and a handshake has five
/// seconds. A setting applies to connections that are opened afterwards. Clones are cheap.
///
/// ```
/// use echoring::{Dialer, Message, Upgrader};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (near, far) = tokio::io::duplex(4096);
/// let upgrader = Upgrader::new().subprotocols(["chat"]);
/// let dialer = Dialer::new().subprotocols(["chat"]);
/// let (server, client) =
///     tokio::join!(upgrader.accept(near), dialer.dial_over("ws://localhost/", far));
/// let (mut server, mut client) = (server?, client?);
/// assert_eq!(server.subprotocol(), Some("chat"));
/// client.write("hello").await?;
/// assert_eq!(server.read().await?, Message::from("hello"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Upgrader {
    settings: Settings,
    timeout: Option<Duration>,
    origins: OriginRule,
    subprotocols: Vec<String>,
    preference: SubprotocolPreference,
    fields: Vec<(String, String)>,
    bad_field: Option<(String, BadField)>,
    on_refusal: Option<Arc<OnRefusal>>,
    keeps_request: bool,
}

/// The refusal of a foreign origin, with a hint for library users.
const FOREIGN_ORIGIN: Refusal = Refusal {
    hint: "serve the page from the same host, or let the server allow its origin",
    ..Refusal::ORIGIN
};

type OnRefusal = dyn Fn(Option<&RequestHead<'_>>, &mut HttpResponse) + Send + Sync;
type CheckOrigin = dyn Fn(&RequestHead<'_>) -> bool + Send + Sync;

#[derive(Clone)]
enum OriginRule {
    Policy(OriginPolicy),
    Check(Arc<CheckOrigin>),
}

impl Default for Upgrader {
    fn default() -> Upgrader {
        Upgrader::new()
    }
}

impl Upgrader {
    /// An upgrader with the defaults above.
    pub fn new() -> Upgrader {
        Upgrader {
            settings: Settings::default(),
            timeout: Some(Duration::from_nanos(HANDSHAKE_TIMEOUT)),
            origins: OriginRule::Policy(OriginPolicy::SameHost),
            subprotocols: Vec::new(),
            preference: SubprotocolPreference::default(),
            fields: Vec::new(),
            bad_field: None,
            on_refusal: None,
            keeps_request: false,
        }
    }

    /// Time limit for a client to send its request and read the response; `None` for no limit. For a request that an
    /// HTTP server has read, it limits the time until that server hands the connection over.
    pub fn handshake_timeout(self, timeout: impl Into<Option<Duration>>) -> Upgrader {
        Upgrader { timeout: timeout.into().map(|timeout| timeout.min(SETTING_TIME_MAX)), ..self }
    }

    /// Maximum number of bytes per read, 4,096 by default. 0 means the read size of the HTTP server: hyper's 8 KiB,
    /// also for heads that are read here. It does not limit the message size.
    pub fn read_buffer_bytes(self, bytes: usize) -> Upgrader {
        Upgrader { settings: self.settings.read_buffer_bytes(or_http_buffer(bytes)), ..self }
    }

    /// Size in bytes of the fragments of a streamed message, 4,096 by default; 0 as for reads.
    pub fn write_buffer_bytes(self, bytes: usize) -> Upgrader {
        Upgrader { settings: self.settings.write_buffer_bytes(or_http_buffer(bytes)), ..self }
    }

    /// The pool of buffers that connections share, so that idle ones hold none.
    pub fn buffers(self, buffers: BufferPool) -> Upgrader {
        Upgrader { settings: self.settings.buffers(buffers), ..self }
    }

    /// The supported subprotocols, in order of preference (RFC 6455, 1.9). One that the client offers too is chosen;
    /// without a common one, the connection has no subprotocol. A name that is invalid, or that is given twice, makes
    /// [`check`](Upgrader::check) and every upgrade fail.
    pub fn subprotocols<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Upgrader {
        self.subprotocols = names.into_iter().map(Into::into).collect();
        if let Err(why) = check_subprotocols(&self.subprotocols) {
            self.bad_field = Some(("Sec-WebSocket-Protocol".to_owned(), why));
        }
        self
    }

    /// Whether the server's or the client's order decides between several common subprotocols; the server's by default.
    pub fn subprotocol_preference(self, preference: SubprotocolPreference) -> Upgrader {
        Upgrader { preference, ..self }
    }

    /// Which origins may connect; others get 403. By default, pages that the same host served.
    pub fn origins(self, policy: OriginPolicy) -> Upgrader {
        Upgrader { origins: OriginRule::Policy(policy), ..self }
    }

    /// Calls `check` to decide whether an origin may connect, instead of a policy. It is called for every upgrade, also
    /// without an `Origin`, as non-browser clients send it.
    pub fn check_origin(self, check: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Upgrader {
        Upgrader { origins: OriginRule::Check(Arc::new(check)), ..self }
    }

    /// Allows all origins. Browsers send this host's cookies along, so cookies must not authenticate these connections
    /// (RFC 6455, 10.2).
    pub fn allow_any_origin(self) -> Upgrader {
        self.origins(OriginPolicy::Any)
    }

    /// Accepts offers of permessage-deflate (RFC 7692).
    pub fn compression(self, compression: impl Into<Option<Compression>>) -> Upgrader {
        Upgrader { settings: self.settings.compression(compression), ..self }
    }

    /// Adds a header field to the 101 response, such as `Set-Cookie` or `Server`. A field that [may not be
    /// added](echoring_proto::handshake::check_field) makes [`check`](Upgrader::check) and every upgrade fail.
    pub fn response_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Upgrader {
        let (name, value) = (name.into(), value.into());
        match check_field(&name, &value) {
            Ok(()) => self.fields.push((name, value)),
            Err(why) => self.bad_field = Some((name, why)),
        }
        self
    }

    /// Calls `hook` for each refusal before it is sent, with the request as far as it could be parsed. The hook may
    /// change status, fields and body, but cannot accept the request.
    pub fn on_refusal(
        self,
        hook: impl Fn(Option<&RequestHead<'_>>, &mut HttpResponse) + Send + Sync + 'static,
    ) -> Upgrader {
        Upgrader { on_refusal: Some(Arc::new(hook)), ..self }
    }

    /// Maximum size of a received message in bytes, 64 KiB by default; a longer one closes the connection with 1009.
    pub fn max_message(self, bytes: u64) -> Upgrader {
        Upgrader { settings: self.settings.max_message(bytes), ..self }
    }

    /// Time limit for a client to read what it is sent; past it the connection ends. See
    /// [`Settings::write_timeout`](crate::Settings::write_timeout).
    pub fn write_timeout(self, timeout: impl Into<Option<Duration>>) -> Upgrader {
        Upgrader { settings: self.settings.write_timeout(timeout), ..self }
    }

    /// Sends heartbeats, to detect dead peers.
    pub fn heartbeat(self, heartbeat: impl Into<Option<Heartbeat>>) -> Upgrader {
        Upgrader { settings: self.settings.heartbeat(heartbeat), ..self }
    }

    /// Keeps the request with each connection, as [`Conn::request`](crate::Conn::request): its path, query and header
    /// fields. Not kept by default: a head takes one to three kB for as long as the connection is open.
    pub fn keep_request(self, keeps: bool) -> Upgrader {
        Upgrader { keeps_request: keeps, ..self }
    }

    /// Replaces all settings of the connections.
    pub fn settings(self, settings: Settings) -> Upgrader {
        Upgrader { settings, ..self }
    }

    /// Validates the settings, for programs that want to fail at startup.
    ///
    /// # Errors
    /// [`UpgradeError::BadField`].
    pub fn check(&self) -> Result<(), UpgradeError> {
        match &self.bad_field {
            Some((name, why)) => Err(UpgradeError::BadField { name: name.clone(), why: *why }),
            None => Ok(()),
        }
    }

    /// Evaluates a request: first the rules, then `decide`.
    fn evaluate<D: Into<Decision>>(
        &self,
        request: &Request<'_>,
        decide: impl FnOnce(&RequestHead<'_>) -> D,
    ) -> Result<UpgradeTerms, Rejection> {
        let upgrade = self.validate(request)?;
        let asked = RequestHead::new(request, upgrade.as_ref());
        self.carry_out(&asked, decide(&asked).into())
    }

    /// The upgrade that a request asks for, if the request is valid and allowed.
    fn validate<'a>(&self, request: &Request<'a>) -> Result<Option<Upgrade<'a>>, Rejection> {
        let upgrade = request
            .upgrade()
            .map_err(|refusal| self.refuse(Some(&RequestHead::new(request, None)), refusal))?;
        let asked = RequestHead::new(request, upgrade.as_ref());
        if let Some(upgrade) = &upgrade
            && !self.origin_may(&asked, upgrade)
        {
            let origin = upgrade.origin.unwrap_or("-");
            tracing::info!(origin, host = upgrade.host, path = request.path, "origin not allowed");
            return Err(self.refuse(Some(&asked), FOREIGN_ORIGIN));
        }
        Ok(upgrade)
    }

    /// Carries out a decision about a valid request.
    fn carry_out(&self, asked: &RequestHead<'_>, decision: Decision) -> Result<UpgradeTerms, Rejection> {
        let acceptance = match decision {
            Decision::Respond(answer) if answer.status() >= 400 => {
                return Err(self.refuse(Some(asked), answer));
            }
            Decision::Respond(answer) => return Err(Rejection { answer: Box::new(answer), mistake: None }),
            Decision::Accept(acceptance) => acceptance,
        };
        let Some(upgrade) = asked.upgrade() else {
            return Err(self.refuse(Some(asked), Refusal::WEBSOCKET_ONLY));
        };
        let head = match self.keeps_request {
            true => {
                Some(request::owned(asked.parsed()).ok_or_else(|| self.refuse(None, Refusal::MALFORMED))?)
            }
            false => None,
        };
        let terms = self.terms(upgrade, acceptance).map_err(|mistake| {
            let answer = HttpResponse::new(500, "the server's response is malformed\n");
            Rejection { mistake: Some(mistake), ..self.refuse(Some(asked), answer) }
        })?;
        Ok(UpgradeTerms { head: head.map(|head| Box::new(Head::Request(head))), ..terms })
    }

    fn origin_may(&self, asked: &RequestHead<'_>, upgrade: &Upgrade<'_>) -> bool {
        match &self.origins {
            OriginRule::Policy(policy) => policy.allows(upgrade.host, upgrade.origin),
            OriginRule::Check(check) => check(asked),
        }
    }

    fn refuse(&self, asked: Option<&RequestHead<'_>>, answer: impl Into<HttpResponse>) -> Rejection {
        Rejection { answer: self.shown(asked, answer.into()), mistake: None }
    }

    /// The response after the hook has changed it.
    fn shown(&self, asked: Option<&RequestHead<'_>>, answer: HttpResponse) -> Box<HttpResponse> {
        let mut answer = Box::new(answer);
        if let Some(hook) = &self.on_refusal {
            hook(asked, &mut answer);
        }
        answer
    }

    fn terms(
        &self,
        upgrade: &Upgrade<'_>,
        acceptance: Acceptance,
    ) -> Result<UpgradeTerms, (String, BadField)> {
        let Acceptance { subprotocol, fields } = acceptance;
        if let Some((name, why)) = &self.bad_field {
            return Err((name.clone(), *why));
        }
        for (name, value) in &fields {
            check_field(name, value).map_err(|why| (name.clone(), why))?;
        }
        let subprotocol = match subprotocol {
            // A client fails the connection if the subprotocol was not offered (RFC 6455, 4.1).
            Some(Some(name)) if !upgrade.subprotocols().any(|offered| offered == name) => {
                return Err(("Sec-WebSocket-Protocol".to_owned(), BadField::NotOffered));
            }
            Some(decided) => decided,
            None => {
                let supported: Vec<&str> = self.subprotocols.iter().map(String::as_str).collect();
                upgrade.subprotocol(&supported, self.preference).map(str::to_owned)
            }
        };
        let compression = self.settings.compression.as_ref();
        let agreement = compression
            .and_then(|compression| deflate::agree(upgrade.extensions(), &compression.preferences));
        let fields = self.fields.iter().cloned().chain(fields).collect();
        Ok(UpgradeTerms { key: upgrade.key, subprotocol, agreement, fields, head: None })
    }
}

impl fmt::Debug for Upgrader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrader")
            .field("settings", &self.settings)
            .field("timeout", &self.timeout)
            .field("subprotocols", &self.subprotocols)
            .finish_non_exhaustive()
    }
}

fn or_http_buffer(bytes: usize) -> usize {
    if bytes == 0 { AIO_HTTP_BUFFER_BYTES } else { bytes }
}

/// The negotiated parameters of an accepted upgrade.
struct UpgradeTerms {
    key: [u8; 24],
    subprotocol: Option<String>,
    agreement: Option<Agreement>,
    fields: Vec<(String, String)>,
    /// The request, if it is kept.
    head: Option<Box<Head>>,
}

impl UpgradeTerms {
    /// Writes the 101 response.
    fn write(&self, out: &mut Vec<u8>) {
        let fields = self.fields.iter().map(|(name, value)| (&**name, &**value));
        let subprotocol = self.subprotocol.as_deref();
        handshake::write_accept(out, &self.key, subprotocol, self.agreement.as_ref(), fields);
    }

    fn opened(self) -> (Opened, Option<Box<Head>>) {
        let UpgradeTerms { subprotocol, agreement, head, .. } = self;
        (Opened { subprotocol, agreement, ..Opened::new(Role::Server) }, head)
    }
}

/// A response other than 101.
struct Rejection {
    answer: Box<HttpResponse>,
    /// The invalid field of our own response, if that is the cause.
    mistake: Option<(String, BadField)>,
}

impl Rejection {
    fn into_error(self) -> UpgradeError {
        match self.mistake {
            Some((name, why)) => UpgradeError::BadField { name, why },
            None => UpgradeError::NotUpgraded(self.answer),
        }
    }
}

/// Why a server did not open a connection. The text includes that of the wrapped error; `source` is its cause.
///
/// ```
/// use echoring::{UpgradeError, Upgrader};
/// use tokio::net::TcpStream;
///
/// async fn serve(stream: TcpStream) {
///     match Upgrader::new().accept_tcp(stream).await {
///         Ok(conn) => drop(conn),
///         Err(UpgradeError::NotUpgraded(response)) => println!("answered with {}", response.status()),
///         Err(error) => println!("{error}"),
///     }
/// }
/// ```
#[non_exhaustive]
pub enum UpgradeError {
    /// The request was refused or was not an upgrade, and got this response.
    NotUpgraded(Box<HttpResponse>),
    /// The client disconnected before it had sent its request.
    Gone,
    /// The client exceeded [`Upgrader::handshake_timeout`]. It was sent 408 if it was still connected.
    Timeout,
    /// The stream failed.
    Io(io::Error),
    /// The HTTP server did not hand its connection over, because its response could not be sent or it serves
    /// connections without upgrade support (hyper: `with_upgrades`).
    NotHandedOver(io::Error),
    /// A header field of the server's own response is invalid. The client was sent 500.
    BadField {
        /// The name of the field: `Sec-WebSocket-Protocol` for a subprotocol that the client did not offer.
        name: String,
        /// The problem with the field.
        why: BadField,
    },
}

echoring_proto::error_texts! {
    enum UpgradeError {
        NotUpgraded(response) => "not upgraded: {response}";
        Gone => "the client disconnected before it had sent its request";
        Timeout => "the handshake timed out";
        Io(error) from error => "the stream failed during the handshake: {error}";
        NotHandedOver(error) from error => "the HTTP server did not hand the connection over: {error}";
        BadField { name, why } from why => "invalid response header {name:?}: {why}";
    }
}
