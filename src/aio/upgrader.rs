//! The server's side of opening a connection: on an accepted stream, or on a request that an HTTP server has read.
//!
//! Both ways share one judgement, which is that of `protocol::handshake`. Never: listening, routes, or messages.

#![forbid(unsafe_code)]

mod answer;
mod received;
mod request;
mod stream;

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use super::{BufferPool, Heartbeat, Opened, Settings};
use crate::connection::Compression;
use crate::limits::{AIO_HTTP_BUFFER_BYTES, HANDSHAKE_TIMEOUT};
use crate::protocol::Role;
use crate::protocol::deflate::{self, Agreement};
use crate::protocol::handshake::{
    self, BadField, OriginPolicy, Refusal, Request, SubprotocolPreference, Upgrade, check_field,
};

pub use answer::{Acceptance, Answer, Asked, Decision};
pub use received::Received;
pub use request::{Refused, Upgraded, Upgrading};

/// Opens the server's end of connections.
///
/// By default a page may connect only to the host that served it, messages are not compressed, and a client has
/// five seconds. A setting applies to the connections opened after it. Clones are cheap.
///
/// ```
/// use echoring::aio::{Dialer, Message, Upgrader};
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
pub struct Upgrader {
    settings: Settings,
    timeout: Option<Duration>,
    origins: OriginRule,
    subprotocols: Vec<String>,
    preference: SubprotocolPreference,
    fields: Vec<(String, String)>,
    bad_field: Option<(String, BadField)>,
    on_refusal: Option<Arc<OnRefusal>>,
}

/// What the table says of an origin, with a cure that fits a program.
const FOREIGN_ORIGIN: Refusal = Refusal {
    cure: "serve the page from the same host, or let the server allow its origin",
    ..Refusal::ORIGIN
};

type OnRefusal = dyn Fn(Option<&Asked<'_>>, &mut Answer) + Send + Sync;
type CheckOrigin = dyn Fn(&Asked<'_>) -> bool + Send + Sync;

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
    /// With the defaults named above.
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
        }
    }

    /// How long a client may take from now on to send its request and take the answer; `None` for ever. On a request
    /// that an HTTP server has read it bounds how long that server takes to hand the connection over.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Upgrader {
        self.timeout = timeout.into();
        self
    }

    /// Bytes that one read asks for, 4,096 by default. 0 means as many as the HTTP server in front reads at a time:
    /// hyper's 8 KiB, also for a head that is read here. It limits no message.
    #[must_use]
    pub fn read_buffer_bytes(mut self, bytes: usize) -> Upgrader {
        self.settings.read_buffer_bytes = or_http_buffer(bytes);
        self
    }

    /// Bytes that a message which is written in pieces gathers before they leave as a frame, 4,096 by default; 0 as
    /// for reading.
    #[must_use]
    pub fn write_buffer_bytes(mut self, bytes: usize) -> Upgrader {
        self.settings.write_buffer_bytes = or_http_buffer(bytes);
        self
    }

    /// Shares buffers among connections, so that those that are idle hold none.
    #[must_use]
    pub fn buffers(mut self, buffers: BufferPool) -> Upgrader {
        self.settings.buffers = Some(buffers);
        self
    }

    /// Subprotocols that are supported, best first (RFC 6455, 1.9). One that the client offers too is chosen; without
    /// one in common the connection goes without. Names that are no tokens are never offered, so never chosen.
    #[must_use]
    pub fn subprotocols<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Upgrader {
        self.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Whose order counts when several subprotocols are in common; the server's by default.
    #[must_use]
    pub fn subprotocol_preference(mut self, preference: SubprotocolPreference) -> Upgrader {
        self.preference = preference;
        self
    }

    /// Which pages may connect; others get 403. By default those served by the very host that they connect to.
    #[must_use]
    pub fn origins(mut self, policy: OriginPolicy) -> Upgrader {
        self.origins = OriginRule::Policy(policy);
        self
    }

    /// Asks `check` whether a page may connect, in place of a policy. It is asked about every upgrade, also one
    /// without an `Origin`, as programs other than browsers send it.
    #[must_use]
    pub fn check_origin(mut self, check: impl Fn(&Asked<'_>) -> bool + Send + Sync + 'static) -> Upgrader {
        self.origins = OriginRule::Check(Arc::new(check));
        self
    }

    /// Lets pages of every origin connect. They do so with the cookies that their visitors have for this host, so
    /// nothing may then rest on cookies (RFC 6455, 10.2).
    #[must_use]
    pub fn allow_any_origin(self) -> Upgrader {
        self.origins(OriginPolicy::Any)
    }

    /// Compresses messages for clients that offer it (RFC 7692).
    #[must_use]
    pub fn compression(mut self, compression: impl Into<Option<Compression>>) -> Upgrader {
        self.settings.compression = compression.into();
        self
    }

    /// Adds a field to the 101, such as `Set-Cookie` or `Server`. One that
    /// [may not be added](crate::protocol::handshake::check_field) makes [`check`](Upgrader::check) and every upgrade
    /// fail.
    #[must_use]
    pub fn response_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Upgrader {
        let (name, value) = (name.into(), value.into());
        match check_field(&name, &value) {
            Ok(()) => self.fields.push((name, value)),
            Err(why) => self.bad_field = Some((name, why)),
        }
        self
    }

    /// Shows each refusal to `hook` before it is sent, with the request as far as it could be read. The hook may
    /// change status, fields and body, but not make it an acceptance.
    #[must_use]
    pub fn on_refusal(
        mut self,
        hook: impl Fn(Option<&Asked<'_>>, &mut Answer) + Send + Sync + 'static,
    ) -> Upgrader {
        self.on_refusal = Some(Arc::new(hook));
        self
    }

    /// Bytes of a message at most, 64 KiB by default; a longer one ends the connection with 1009.
    #[must_use]
    pub fn message_bytes_max(mut self, bytes: u64) -> Upgrader {
        self.settings.message_bytes_max = bytes;
        self
    }

    /// Notices peers that are gone.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: impl Into<Option<Heartbeat>>) -> Upgrader {
        self.settings.heartbeat = heartbeat.into();
        self
    }

    /// Everything that holds for the connections, in place of what was set before.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Upgrader {
        self.settings = settings;
        self
    }

    /// Whether the settings can work, for programs that want to know when they start.
    ///
    /// # Errors
    /// [`UpgradeError::BadField`].
    pub fn check(&self) -> Result<(), UpgradeError> {
        match &self.bad_field {
            Some((name, why)) => Err(UpgradeError::BadField { name: name.clone(), why: *why }),
            None => Ok(()),
        }
    }

    /// Decides about a request, by the rules and then by `decide`.
    fn judge<D: Into<Decision>>(
        &self,
        request: &Request<'_>,
        decide: impl FnOnce(&Asked<'_>) -> D,
    ) -> Result<Terms, No> {
        let upgrade = self.admit(request)?;
        let asked = Asked::new(request, upgrade.as_ref());
        self.settle(&asked, decide(&asked).into())
    }

    /// What is asked for, when it is asked in the right way and by whom it may be.
    fn admit<'a>(&self, request: &Request<'a>) -> Result<Option<Upgrade<'a>>, No> {
        let upgrade =
            request.upgrade().map_err(|refusal| self.refuse(Some(&Asked::new(request, None)), refusal))?;
        let asked = Asked::new(request, upgrade.as_ref());
        if let Some(upgrade) = &upgrade
            && !self.origin_may(&asked, upgrade)
        {
            let origin = upgrade.origin.unwrap_or("-");
            tracing::info!(origin, host = upgrade.host, path = request.path, "origin not allowed");
            return Err(self.refuse(Some(&asked), FOREIGN_ORIGIN));
        }
        Ok(upgrade)
    }

    /// What comes of a decision about a request that was admitted.
    fn settle(&self, asked: &Asked<'_>, decision: Decision) -> Result<Terms, No> {
        let acceptance = match decision {
            Decision::Answer(answer) if answer.status() >= 400 => {
                return Err(self.refuse(Some(asked), answer));
            }
            Decision::Answer(answer) => return Err(No { answer: Box::new(answer), mistake: None }),
            Decision::Accept(acceptance) => acceptance,
        };
        let Some(upgrade) = asked.upgrade() else {
            return Err(self.refuse(Some(asked), Refusal::WEBSOCKET_ONLY));
        };
        self.terms(upgrade, acceptance).map_err(|mistake| {
            let answer = Answer::new(500, "the server's own response is malformed\n");
            No { mistake: Some(mistake), ..self.refuse(Some(asked), answer) }
        })
    }

    fn origin_may(&self, asked: &Asked<'_>, upgrade: &Upgrade<'_>) -> bool {
        match &self.origins {
            OriginRule::Policy(policy) => policy.allows(upgrade.host, upgrade.origin),
            OriginRule::Check(check) => check(asked),
        }
    }

    fn refuse(&self, asked: Option<&Asked<'_>>, answer: impl Into<Answer>) -> No {
        No { answer: self.shown(asked, answer.into()), mistake: None }
    }

    /// The answer as the hook leaves it.
    fn shown(&self, asked: Option<&Asked<'_>>, answer: Answer) -> Box<Answer> {
        let mut answer = Box::new(answer);
        if let Some(hook) = &self.on_refusal {
            hook(asked, &mut answer);
        }
        answer
    }

    fn terms(&self, upgrade: &Upgrade<'_>, acceptance: Acceptance) -> Result<Terms, (String, BadField)> {
        let Acceptance { subprotocol, fields } = acceptance;
        if let Some((name, why)) = &self.bad_field {
            return Err((name.clone(), *why));
        }
        for (name, value) in &fields {
            check_field(name, value).map_err(|why| (name.clone(), why))?;
        }
        let subprotocol = match subprotocol {
            // A client fails a connection whose subprotocol it did not offer (RFC 6455, 4.1).
            Some(Some(name)) if !upgrade.subprotocols().any(|offered| offered == name) => {
                return Err(("Sec-WebSocket-Protocol".to_owned(), BadField::Value));
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
        Ok(Terms { key: upgrade.key, subprotocol, agreement, fields })
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

/// What was agreed with a client.
struct Terms {
    key: [u8; 24],
    subprotocol: Option<String>,
    agreement: Option<Agreement>,
    fields: Vec<(String, String)>,
}

impl Terms {
    /// The 101.
    fn write(&self, out: &mut Vec<u8>) {
        let fields = self.fields.iter().map(|(name, value)| (&**name, &**value));
        let subprotocol = self.subprotocol.as_deref();
        handshake::write_accept(out, &self.key, subprotocol, self.agreement.as_ref(), fields);
    }

    fn opened(self) -> Opened {
        Opened {
            role: Role::Server,
            subprotocol: self.subprotocol,
            agreement: self.agreement,
            early: bytes::Bytes::new(),
            local: None,
            peer: None,
        }
    }
}

/// What is said in place of a 101.
struct No {
    answer: Box<Answer>,
    /// The field of our own that is to blame, if one is.
    mistake: Option<(String, BadField)>,
}

impl No {
    fn into_error(self) -> UpgradeError {
        match self.mistake {
            Some((name, why)) => UpgradeError::BadField { name, why },
            None => UpgradeError::Answered(self.answer),
        }
    }
}

/// Why a server has no connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The request was refused, or was none for a WebSocket, and got this answer.
    Answered(Box<Answer>),
    /// The client went away before it had sent its request.
    Gone,
    /// The client took longer than [`Upgrader::handshake_timeout`]. It was told 408 if it would still listen.
    Timeout,
    /// The stream failed.
    Io(io::Error),
    /// The HTTP server did not hand its connection over, because its response did not leave or it serves connections
    /// without upgrades (hyper: `with_upgrades`).
    NotHandedOver(hyper::Error),
    /// A field of the server's own response may not be in it. The client was told 500.
    BadField {
        /// Its name. `Sec-WebSocket-Protocol` where a subprotocol was chosen that the client did not offer.
        name: String,
        /// What is wrong with it.
        why: BadField,
    },
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpgradeError::Answered(answer) => write!(f, "answered {answer}"),
            UpgradeError::Gone => f.write_str("the client went away before it had sent its request"),
            UpgradeError::Timeout => f.write_str("the handshake took too long"),
            UpgradeError::Io(error) => write!(f, "the stream failed during the handshake: {error}"),
            UpgradeError::NotHandedOver(error) => {
                write!(f, "the HTTP server did not hand the connection over: {error}")
            }
            UpgradeError::BadField { name, why } => write!(f, "the response may not have {name:?}: {why}"),
        }
    }
}

impl std::error::Error for UpgradeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            UpgradeError::Io(error) => Some(error),
            UpgradeError::NotHandedOver(error) => Some(error),
            UpgradeError::BadField { why, .. } => Some(why),
            UpgradeError::Answered(_) | UpgradeError::Gone | UpgradeError::Timeout => None,
        }
    }
}
