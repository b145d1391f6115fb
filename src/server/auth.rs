//! Authentication on one shard: who may open a connection, who its clients are, and until when.
//!
//! Without `[auth]` none of this is used. Clients are in a table beside the connections, so a connection that nobody
//! authenticates does not grow.

mod counters;
mod known_clients;
mod pending;
mod refusals;
mod shared_identities;

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use echoring_auth::{
    App, AppAnswer, AppEvent, Authenticator, Call, Credentials, Decision, Denied, Failed, Forwarded,
    Identity, OwnedHead, Presented, Question, Renewal, SubscriptionGrant, Verdict, extract,
};
use echoring_proto::buffer::Pool;
use echoring_proto::handshake::{Refusal, Request, Upgrade};
use echoring_proto::limits::Nanos;
use echoring_runtime::admission::{Limit, TopicUseLimits};
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{ControlMessage, Remote};
use echoring_topics::HubReport;

pub use counters::{AuthCounters, AuthFigures, KeySetFigures};
pub(crate) use known_clients::Due;
use known_clients::KnownClients;
use pending::PendingRequests;
pub(crate) use refusals::{NOT_ALLOWED, refusal};

use crate::commands::ShardCommand;
use crate::quotas::{CountedCall, CountedSubscription, IdentityUse, Quotas};

/// A command about authentication.
#[derive(Debug)]
pub enum AuthCommand {
    /// The decision about a request that waits for it.
    Decided(Token, Decision),
    /// The decision about new credentials of a session.
    Refreshed {
        /// The session's connection.
        token: Token,
        /// The id of its request.
        id: Option<u64>,
        /// The decision.
        decision: Decision,
    },
}

/// The application's answer about a request of a session.
#[derive(Debug)]
pub struct AppAnswered {
    /// The session's connection.
    pub token: Token,
    /// The number of the call in its session.
    pub number: u32,
    /// The call.
    pub call: Box<Call>,
    /// The answer.
    pub answer: AppAnswer,
}

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
    /// Its password may have been a guess.
    pub(crate) is_wrong_password: bool,
}

/// The gate of one shard.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    authenticator: Option<Arc<Authenticator>>,
    app: Option<Arc<App>>,
    counters: Arc<AuthCounters>,
    known: KnownClients,
    pending: PendingRequests,
    /// The shard itself, to which decisions are sent.
    shard: Option<Remote<ShardCommand, HubReport>>,
    /// How clients may use topics.
    quotas: Quotas,
}

impl Gate {
    /// A gate with these settings; without any, everybody is let in.
    pub(crate) fn new(authenticator: Option<Arc<Authenticator>>, counters: Arc<AuthCounters>) -> Gate {
        Gate { authenticator, counters, ..Gate::default() }
    }

    /// Sets where decisions are sent to.
    pub(crate) fn set_shard(&mut self, shard: Remote<ShardCommand, HubReport>) {
        self.shard = Some(shard);
    }

    /// Sets the hooks of the application.
    pub(crate) fn set_app(&mut self, app: Option<Arc<App>>) {
        self.app = app;
    }

    /// Whether the application is asked about an event.
    pub(crate) fn asks_app(&self, event: AppEvent) -> bool {
        self.app.as_ref().is_some_and(|app| app.has(event))
    }

    /// The header fields of a handshake that are for the application.
    pub(crate) fn forwarded(&self, request: &Request<'_>) -> Option<Forwarded> {
        self.app.as_ref()?.forwarded(request)
    }

    /// Asks the application about a request of a client, which counts for its `identity`. The answer follows through
    /// [`AppAnswered`].
    pub(crate) fn ask_app(&self, token: Token, number: u32, call: Call, identity: Option<&Arc<IdentityUse>>) {
        let (Some(app), Some(shard)) = (&self.app, self.shard.clone()) else { return };
        let answered = move |call, answer| {
            let answered = AppAnswered { token, number, call: Box::new(call), answer };
            // A shard that has ended needs no answer.
            shard.send(ControlMessage::Command(ShardCommand::App(answered)));
        };
        let counted = identity.map(CountedCall::of);
        if let Some(None) = counted {
            return answered(call, AppAnswer::Failed(Failed::Busy));
        }
        app.ask(call, move |call, answer| {
            drop(counted);
            answered(call, answer);
        });
    }

    /// The account of the calls of a connection's client; `None` for a client without a name.
    pub(crate) fn identity_use(&self, token: Token, now: Nanos) -> Option<Arc<IdentityUse>> {
        self.client(token).map(|client| self.quotas.identity(client.subject(), now))
    }

    /// Whether clients are authenticated.
    pub(crate) fn is_on(&self) -> bool {
        self.authenticator.is_some()
    }

    /// The client of a connection; `None` for one without credentials.
    #[inline]
    pub(crate) fn client(&self, token: Token) -> Option<&Identity> {
        self.known.client(token)
    }

    /// The immediate verdict about the client of a request. `certificate` is that of TLS, in DER. `None` if everybody
    /// is let in.
    pub(crate) fn judge<'a>(
        &self,
        request: &'a Request<'_>,
        upgrade: Option<&'a Upgrade<'_>>,
        certificate: Option<&[u8]>,
    ) -> Option<(Presented<'a>, Verdict)> {
        let authenticator = self.authenticator.as_ref()?;
        let wall = unix_now();
        let presented = extract(request, upgrade, authenticator.sources());
        let verdict = match certificate {
            Some(certificate) => authenticator.check_certified(&presented, certificate, wall),
            None => authenticator.check(&presented, wall),
        };
        Some((presented, verdict))
    }

    /// Lets the client of a request in, refuses it, or begins to ask about it. A client that `presents_later` may come without
    /// credentials: its first message decides. Also returns whether the address of the peer is needed for the decision.
    pub(crate) fn admit(
        &mut self,
        token: Token,
        request: &Request<'_>,
        judged: Option<(Presented<'_>, Verdict)>,
        presents_later: bool,
        pool: &mut Pool,
        now: Nanos,
    ) -> (Admission, bool) {
        let Some((presented, verdict)) = judged else { return (Admission::Open, false) };
        match verdict {
            Verdict::Anonymous | Verdict::Denied(Denied::Missing) if presents_later => {
                (Admission::Open, false)
            }
            Verdict::Anonymous => {
                self.counters.note_anonymous();
                (Admission::Open, false)
            }
            Verdict::Known(client) => match self.let_in(token, &client, pool, now) {
                Ok(()) => (Admission::Open, false),
                Err(denied) => (Admission::Refused(self.refuse(denied)), false),
            },
            Verdict::Denied(denied) => (Admission::Refused(self.refuse(denied)), false),
            Verdict::Ask => self.begin(token, presented, OwnedHead::of(request)),
        }
    }

    fn begin(&mut self, token: Token, presented: Presented<'_>, head: OwnedHead) -> (Admission, bool) {
        let Some(shard) = self.shard.clone() else {
            return (Admission::Refused(self.refuse(Denied::Unavailable)), false);
        };
        let reply = move |decision| {
            // A shard that has ended needs no decision.
            shard.send(ControlMessage::Command(ShardCommand::Auth(AuthCommand::Decided(token, decision))));
        };
        let added = Question::new(presented, reply).is_some_and(|question| {
            let question = Question { head: Some(head.clone()), ..question };
            self.pending.add(token, head, question)
        });
        if added { (Admission::Later, true) } else { (Admission::Refused(self.refuse(Denied::Busy)), false) }
    }

    /// The address of a peer whose request is pending was found.
    pub(crate) fn addressed(&mut self, token: Token, address: Option<SocketAddr>) {
        if let (Some(question), Some(authenticator)) =
            (self.pending.take_question(token), &self.authenticator)
        {
            authenticator.ask(Question { address, ..question });
        }
    }

    /// A decision arrived. Returns the decision, unless the connection has ended.
    pub(crate) fn decided(
        &mut self,
        token: Token,
        decision: Decision,
        pool: &mut Pool,
        now: Nanos,
    ) -> Option<Decided> {
        let (head, has_password) = self.pending.take(token)?;
        let is_wrong_password = has_password && decision == Err(Denied::Invalid);
        let let_in = self.as_of_now(decision).and_then(|client| self.let_in(token, &client, pool, now));
        let refusal = let_in.err().map(|denied| self.refuse(denied));
        Some(Decided { head, refusal, is_wrong_password })
    }

    /// A decision, possibly of other settings, as far as the present ones agree.
    fn as_of_now(&self, decision: Decision) -> Decision {
        let client = decision?;
        let Some(authenticator) = &self.authenticator else { return Ok(client) };
        match authenticator.renew(&client, unix_now()) {
            Renewal::Same => Ok(client),
            Renewal::Changed(client) => Ok(client),
            Renewal::Withdrawn => Err(Denied::Invalid),
        }
    }

    /// A client without room in memory is not admitted.
    fn let_in(
        &mut self,
        token: Token,
        client: &Arc<Identity>,
        pool: &mut Pool,
        now: Nanos,
    ) -> Result<(), Denied> {
        if !self.known.insert(token, client, pool, now, unix_now()) {
            return Err(Denied::Busy);
        }
        self.counters.note_known(client.method());
        Ok(())
    }

    fn refuse(&self, denied: Denied) -> Refusal {
        self.counters.note_denied(denied);
        let sources = self.authenticator.as_ref().map(|authenticator| authenticator.sources());
        refusal(denied, sources)
    }

    /// A session presents a new token. Returns the decision, unless it follows through [`AuthCommand::Refreshed`].
    pub(crate) fn refresh(
        &self,
        token: Token,
        id: Option<u64>,
        credentials: Credentials<'_>,
    ) -> Option<Decision> {
        let Some(authenticator) = &self.authenticator else { return Some(Err(Denied::Invalid)) };
        let presented = Presented::Credentials(credentials);
        match authenticator.check(&presented, unix_now()) {
            Verdict::Known(client) => return Some(Ok(client)),
            Verdict::Denied(denied) => return Some(Err(denied)),
            Verdict::Anonymous => return Some(Err(Denied::Invalid)),
            Verdict::Ask => {}
        }
        let Some(shard) = self.shard.clone() else { return Some(Err(Denied::Unavailable)) };
        let reply = move |decision| {
            let command = AuthCommand::Refreshed { token, id, decision };
            shard.send(ControlMessage::Command(ShardCommand::Auth(command)));
        };
        let question = Question::new(presented, reply)?;
        let subject = self.client(token).map(|client| client.subject().into());
        authenticator.ask(Question { subject, ..question });
        None
    }

    /// The rights of a subscription token; `None` if no method verifies such tokens.
    ///
    /// # Errors
    /// Why it is refused. A key that is not known yet is being fetched.
    pub(crate) fn check_subscription(&self, token: &str) -> Option<Result<SubscriptionGrant, Denied>> {
        let authenticator = self.authenticator.as_ref()?;
        let denied = match authenticator.check_subscription(token, unix_now())? {
            Ok(granted) => return Some(Ok(granted)),
            Err(Verdict::Denied(denied)) => denied,
            Err(_) => {
                // The question makes the key set be read again. The client tries again.
                let presented = Presented::Credentials(Credentials::Token(token.into()));
                if let Some(question) = Question::new(presented, |_| {}) {
                    authenticator.ask(question);
                }
                Denied::Unavailable
            }
        };
        self.counters.note_denied(denied);
        Some(Err(denied))
    }

    /// Seconds until a time in seconds since 1970; 0 if it has passed.
    pub(crate) fn seconds_until(&self, at: u64) -> u64 {
        at.saturating_sub(unix_now())
    }

    /// A session has new credentials. Refuses those of another client.
    pub(crate) fn refreshed(
        &mut self,
        token: Token,
        decision: Decision,
        pool: &mut Pool,
        now: Nanos,
    ) -> Result<(), RefreshError> {
        self.replace_client(token, decision, pool, now)?;
        self.counters.note_refreshed();
        Ok(())
    }

    /// A session that presents its credentials later has done so. Refuses those of another client than the handshake's.
    pub(crate) fn connected(
        &mut self,
        token: Token,
        decision: Decision,
        pool: &mut Pool,
        now: Nanos,
    ) -> Result<(), RefreshError> {
        let client = self.replace_client(token, decision, pool, now)?;
        self.counters.note_known(client.method());
        Ok(())
    }

    /// Makes the client of a decision that of the connection, unless the connection has another one or there is no memory.
    fn replace_client(
        &mut self,
        token: Token,
        decision: Decision,
        pool: &mut Pool,
        now: Nanos,
    ) -> Result<Arc<Identity>, RefreshError> {
        let client = self.as_of_now(decision).map_err(|denied| self.refuse_refresh(denied))?;
        if self.client(token).is_some_and(|known| known.subject() != client.subject()) {
            self.counters.note_denied(Denied::Foreign);
            return Err(RefreshError::OtherSubject);
        }
        if !self.known.insert(token, &client, pool, now, unix_now()) {
            return Err(self.refuse_refresh(Denied::Busy));
        }
        Ok(client)
    }

    fn refuse_refresh(&self, denied: Denied) -> RefreshError {
        self.counters.note_denied(denied);
        RefreshError::Denied(denied)
    }

    /// The first message of a session that presents its credentials later has none. Whether the session is let in.
    pub(crate) fn admits_without_token(&self, token: Token) -> bool {
        let Some(authenticator) = &self.authenticator else { return true };
        if self.client(token).is_some() {
            return true;
        }
        match authenticator.check(&Presented::Nothing, unix_now()) {
            Verdict::Anonymous => {
                self.counters.note_anonymous();
                true
            }
            _ => {
                self.counters.note_denied(Denied::Missing);
                false
            }
        }
    }

    /// The application has let a client without a name in.
    pub(crate) fn note_anonymous(&self) {
        self.counters.note_anonymous();
    }

    /// Seconds until the credentials of a client expire.
    pub(crate) fn expires_in_s(&self, token: Token) -> Option<u64> {
        Some(self.client(token)?.expires_at()?.saturating_sub(unix_now()))
    }

    /// Uses other settings. Returns the connections whose clients lose their credentials, or have new ones without room
    /// in memory.
    pub(crate) fn configure(
        &mut self,
        authenticator: Option<Arc<Authenticator>>,
        pool: &mut Pool,
        now: Nanos,
    ) -> Vec<Token> {
        let wall = unix_now();
        let mut withdrawn = Vec::new();
        let old = mem::replace(&mut self.authenticator, authenticator);
        let Some(authenticator) = &self.authenticator else { return withdrawn };
        if old.is_some_and(|old| Arc::ptr_eq(&old, authenticator)) {
            return withdrawn;
        }
        for (token, client) in self.known.all() {
            match authenticator.renew(&client, wall) {
                Renewal::Same => {}
                Renewal::Withdrawn => withdrawn.push(token),
                Renewal::Changed(client) => {
                    if !self.known.insert(token, &client, pool, now, wall) {
                        withdrawn.push(token);
                    }
                }
            }
        }
        withdrawn
    }

    /// A connection that expired or was withdrawn is closed.
    pub(crate) fn note_ended(&self, due: Due) {
        self.counters.note_ended(due);
    }

    /// A client that may not do something tried to.
    pub(crate) fn note_forbidden(&self) {
        self.counters.note_denied(Denied::Forbidden);
    }

    /// Limits how clients use topics.
    pub(crate) fn set_quotas(&mut self, quotas: Quotas) {
        self.quotas = quotas;
    }

    /// Uses other limits from now on.
    pub(crate) fn configure_quotas(&mut self, limits: &TopicUseLimits) {
        self.quotas.configure(limits);
    }

    /// A connection publishes.
    ///
    /// # Errors
    /// The limit that it, or its client, is over.
    #[inline]
    pub(crate) fn publish(&mut self, token: Token, now: Nanos) -> Result<(), Limit> {
        let Gate { quotas, known, .. } = self;
        quotas.publish(token, || known.client(token).map(Identity::subject), now)
    }

    /// A connection requests a subscription.
    ///
    /// # Errors
    /// The limit that it, or its client, is over.
    pub(crate) fn request_subscription(&mut self, token: Token, now: Nanos) -> Result<(), Limit> {
        let Gate { quotas, known, .. } = self;
        quotas.request_subscription(token, known.client(token).map(Identity::subject), now)
    }

    /// A connection subscribes.
    ///
    /// # Errors
    /// The limit that its client is over.
    pub(crate) fn subscribe(
        &mut self,
        token: Token,
        now: Nanos,
    ) -> Result<Option<CountedSubscription>, Limit> {
        let Gate { quotas, known, .. } = self;
        quotas.subscribe(token, known.client(token).map(Identity::subject), now)
    }

    /// Keeps the subscription of a raw connection until the connection ends.
    pub(crate) fn keep_subscription(&mut self, token: Token, subscription: Option<CountedSubscription>) {
        self.quotas.keep(token, subscription);
    }

    /// A connection is gone, or was not opened.
    pub(crate) fn forget(&mut self, token: Token, pool: &mut Pool) {
        self.quotas.forget(token);
        self.known.remove(token, pool);
        self.pending.remove(token);
    }

    /// The next connection whose credentials expire or are about to.
    pub(crate) fn pop_due(&mut self, now: Nanos) -> Option<(Token, Due)> {
        self.known.pop_due(now, unix_now)
    }

    /// When [`pop_due`](Gate::pop_due) has something.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        self.known.deadline()
    }
}

/// Why a session keeps its old credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefreshError {
    /// The new ones are not accepted.
    Denied(Denied),
    /// They are those of another client.
    OtherSubject,
}

/// The time in seconds since 1970. Read when a client is authenticated, never for a message.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
