//! Authentication of handshakes on one shard: who may open a connection.
//!
//! Without authentication nothing of it is used. Who the clients of open connections are is in the [`Gate`].

mod pending;
mod refusals;

use std::net::SocketAddr;

use echoring_auth::{Decision, Denied, Forwarded, OwnedHead, Presented, Question, Source, Verdict, extract};
use echoring_broker::gate::{AuthCommand, Gate, GateAnswer, unix_now};
use echoring_proto::buffer::Pool;
use echoring_proto::handshake::{Refusal, Request, Upgrade};
use echoring_proto::limits::Nanos;
use echoring_runtime::admission::Limit;
use echoring_runtime::driver::Token;

pub(crate) use pending::{PendingConnect, PendingQuestion, PendingRequests};
pub(crate) use refusals::refusal;

/// The result for a request.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It is served.
    Open,
    /// It is decided later, through [`AuthCommand::Decided`].
    Later,
    /// It is refused.
    Refused(Refusal),
}

/// The decision about a request that has waited.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) head: OwnedHead,
    /// Why it is refused, if it is.
    pub(crate) refusal: Option<Refusal>,
    /// The same for the limits that it may have exceeded.
    pub(crate) exceeded: Option<Limit>,
}

/// The header fields of a handshake that are for the application.
pub(crate) fn forwarded(gate: &Gate, request: &Request<'_>) -> Option<Forwarded> {
    gate.app.as_ref()?.forwarded(request)
}

/// What can be said at once about the client of a request. `certificate` is that of TLS, in DER. `None` if everybody is
/// let in.
pub(crate) fn judge<'a>(
    gate: &Gate,
    request: &'a Request<'_>,
    upgrade: Option<&'a Upgrade<'_>>,
    certificate: Option<&[u8]>,
) -> Option<(Presented<'a>, Verdict)> {
    let authenticator = gate.authenticator.as_ref()?;
    let wall = unix_now();
    let presented = extract(request, upgrade, authenticator.sources());
    let verdict = match certificate {
        Some(certificate) => authenticator.check_certified(&presented, certificate, wall),
        None => authenticator.check(&presented, wall),
    };
    Some((presented, verdict))
}

impl PendingRequests<PendingQuestion> {
    /// Begins to ask about the client of a request. The decision needs the address of the peer.
    pub(crate) fn begin(
        &mut self,
        gate: &Gate,
        token: Token,
        source: Source,
        presented: Presented<'_>,
        head: OwnedHead,
    ) -> Admission {
        let Some(answers) = gate.answers.clone() else { return refused(gate, Denied::Unavailable) };
        let reply = move |decision| {
            answers.send(GateAnswer::Auth(AuthCommand::Decided(token, decision)));
        };
        let added = Question::new(presented, reply).is_some_and(|question| {
            let question = Question { head: Some(head.clone()), ..question };
            self.add(token, source, head, question)
        });
        if added { Admission::Later } else { refused(gate, Denied::Busy) }
    }

    /// The address of a peer whose request is pending was found.
    pub(crate) fn addressed(&mut self, gate: &Gate, token: Token, address: Option<SocketAddr>) {
        if let (Some(question), Some(authenticator)) = (self.take_question(token), &gate.authenticator) {
            authenticator.ask(Question { address, ..question });
        }
    }

    /// A request has waited as long as a handshake may take. Returns its refusal.
    pub(crate) fn overdue(&mut self, gate: &Gate, token: Token) -> Option<Refusal> {
        self.take(token).map(|_| refuse(gate, Denied::Unavailable))
    }

    /// A decision arrived. Returns the decision, unless the connection has ended.
    pub(crate) fn decided(
        &mut self,
        gate: &mut Gate,
        token: Token,
        decision: Decision,
        pool: &mut Pool,
        now: Nanos,
    ) -> Option<Decided> {
        let (head, PendingQuestion { has_password, .. }) = self.take(token)?;
        let is_wrong_password = has_password && decision == Err(Denied::Invalid);
        let denied = gate.as_of_now(decision).and_then(|client| gate.let_in(token, &client, pool, now)).err();
        let exceeded = match denied {
            _ if is_wrong_password => Some(Limit::Passwords),
            denied => denied.and_then(limit_of),
        };
        Some(Decided { head, refusal: denied.map(|denied| refuse(gate, denied)), exceeded })
    }
}

/// The limit for which a client is refused that is known.
pub(crate) fn limit_of(denied: Denied) -> Option<Limit> {
    (denied == Denied::TooMany).then_some(Limit::ConnectionsPerIdentity)
}

/// Refuses a client, which is counted.
pub(crate) fn refused(gate: &Gate, denied: Denied) -> Admission {
    Admission::Refused(refuse(gate, denied))
}

fn refuse(gate: &Gate, denied: Denied) -> Refusal {
    gate.note_denied(denied);
    let sources = gate.authenticator.as_ref().map(|authenticator| authenticator.sources());
    refusal(denied, sources)
}
