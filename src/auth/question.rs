//! Questions about clients, and the decisions that answer them.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use echoring_proto::happenings;

use crate::calls::head::OwnedHead;
use crate::calls::load::Source;
use crate::credentials::presented::{Credentials, Presented};
use crate::identity::Identity;

happenings! {
    /// Why a client is not let in.
    pub enum Denied: word,
    /// The response: its status, the reason, and a hint for the operator or the author of the client.
    response: (u16, &'static str, &'static str) {
        /// It presented no credentials.
        Missing = "missing" => (401, "credentials are missing", "send a token or a password"),
        /// Its credentials cannot be read.
        Malformed = "malformed" => (401, "credentials are malformed", "send one token, or one name and password"),
        /// Its credentials are unknown, or their signature is wrong.
        Invalid = "invalid" => (401, "credentials are invalid", "get a new token, or check the password"),
        /// Its credentials have expired.
        Expired = "expired" => (401, "credentials have expired", "get a new token"),
        /// Its credentials are not valid yet.
        NotYet = "not-yet-valid" => (401, "credentials are not valid yet", "check the clocks, or wait"),
        /// Its token is for another audience or from another issuer.
        Foreign = "foreign" =>
            (401, "credentials are not for this server", "check the audience and the issuer of the token"),
        /// The client is known, and not allowed.
        Forbidden = "forbidden" =>
            (403, "not allowed", "the client is blocked, or the authentication hook refuses it"),
        /// The client has as many connections as it may.
        TooMany = "too-many-connections" =>
            (429, "too many connections of this client", "end some, or raise `max_connections_per_identity`"),
        /// The hook or the key set is unavailable.
        Unavailable = "unavailable" =>
            (503, "authentication is unavailable", "try again; the server's log has the reason"),
        /// Too many decisions wait.
        Busy = "busy" => (503, "too many clients are authenticated at once", "try again"),
    }
}

/// The immediate verdict about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A client without credentials, which is let in.
    Anonymous,
    /// A known client.
    Known(Arc<Identity>),
    /// The authentication thread has to be [asked](crate::Authenticator::ask).
    Ask,
    /// The client is not let in.
    Denied(Denied),
}

/// The decision of the authentication thread.
pub type Decision = Result<Arc<Identity>, Denied>;

/// The verdict on a client after the settings have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Its credentials are as good as before.
    Same,
    /// Its credentials allow something else now.
    Changed(Arc<Identity>),
    /// Its credentials were withdrawn.
    Withdrawn,
}

/// A question for the authentication thread.
pub struct Question {
    /// The credentials.
    pub credentials: Credentials<'static>,
    /// The request; `None` for a session that presents new credentials.
    pub head: Option<OwnedHead>,
    /// The subject of that session.
    pub subject: Option<Box<str>>,
    /// The address of the client.
    pub address: Option<SocketAddr>,
    /// Is given the decision.
    pub reply: Reply,
    /// Held by whoever waits for the decision: once it is dropped, nobody does. `None` if the decision is wanted in any case.
    pub asker: Option<Weak<()>>,
}

opaque!(Question, |it| credentials: it.credentials);

impl Question {
    /// The question about a request's credentials; `None` if it presents none.
    pub fn new(presented: Presented<'_>, reply: impl FnOnce(Decision) + Send + 'static) -> Option<Question> {
        let Presented::Credentials(credentials) = presented else { return None };
        Some(Question {
            credentials: credentials.into_owned(),
            head: None,
            subject: None,
            address: None,
            reply: Reply(Some(Box::new(reply))),
            asker: None,
        })
    }

    /// Whose load it is: that of the client's address, or of the session that presents new credentials.
    pub(crate) fn source(&self) -> Source {
        match (&self.subject, self.address) {
            (Some(subject), None) => Source::Name(subject.clone()),
            (_, address) => Source::from(address),
        }
    }

    /// Whether somebody waits for the decision: the client may have left, or been answered.
    pub(crate) fn is_awaited(&self) -> bool {
        self.asker.as_ref().is_none_or(|asker| asker.strong_count() > 0)
    }
}

/// Passes a decision to the asker. A question that is dropped is answered, too: the decision is unavailable.
pub struct Reply(Option<Box<dyn FnOnce(Decision) + Send>>);

impl Reply {
    pub(crate) fn give(mut self, decision: Decision) {
        if let Some(reply) = self.0.take() {
            reply(decision);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply(Err(Denied::Unavailable));
        }
    }
}
