//! [`Gate`]: who the clients of one shard are, until when, and how much of topics they may use.
//!
//! Without authentication nothing of it is used. Clients are in a table beside the connections, so a connection that nobody
//! authenticates does not grow.

mod counters;
mod known_clients;
mod plain;
pub mod quotas;
mod shared_identities;

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use echoring_auth::{
    App, AppAnswer, AppEvent, Authenticator, BackendDelivery, Call, Credentials, Decision, Denied, Failed,
    Identity, Presented, Question, Renewal, SharedBlocklist, SubscriptionGrant, Verdict,
};
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;
use echoring_runtime::admission::Limit;
use echoring_runtime::driver::Token;

use crate::limits::EXPIRY_NOTICE;
pub use counters::{AuthCounters, AuthFigures, KeySetFigures};
pub use known_clients::Due;
use known_clients::KnownClients;
pub use plain::TakenClient;
use quotas::{CountedCall, CountedSubscription, IdentityUse, Quotas};

/// A command about authentication.
#[derive(Debug)]
pub enum AuthCommand {
    /// The decision about a request that waits for it.
    Decided(Token, Decision),
    /// The blocks of operators have changed.
    Blocked,
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

/// Decisions of other threads, for the shard.
#[derive(Debug)]
pub enum GateAnswer {
    /// About credentials.
    Auth(AuthCommand),
    /// The application's answer.
    App(AppAnswered),
    /// That of the back end of a connection.
    Backend(Token, BackendDelivery),
}

/// Sends answers to a shard, from any thread.
#[derive(Clone)]
pub struct AnswerSender(Arc<dyn Fn(GateAnswer) + Send + Sync>);

impl AnswerSender {
    /// Sends with this function. A shard that has ended needs no answer.
    pub fn new(send: impl Fn(GateAnswer) + Send + Sync + 'static) -> AnswerSender {
        AnswerSender(Arc::new(send))
    }

    /// Sends an answer.
    pub fn send(&self, answer: GateAnswer) {
        (self.0)(answer);
    }
}

impl fmt::Debug for AnswerSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnswerSender")
    }
}

/// The gate of one shard.
#[derive(Debug, Default)]
pub struct Gate {
    /// Authenticates clients; `None` if every client is admitted.
    pub authenticator: Option<Arc<Authenticator>>,
    /// The hooks of the application.
    pub app: Option<Arc<App>>,
    counters: Arc<AuthCounters>,
    known: KnownClients,
    /// Where decisions are sent to: the shard itself. `None` until it is set.
    pub answers: Option<AnswerSender>,
    /// How clients may use topics.
    pub quotas: Quotas,
    /// The blocks that operators have added.
    pub blocks: Arc<SharedBlocklist>,
}

impl Gate {
    /// A gate with these settings; without any, everybody is let in.
    pub fn new(authenticator: Option<Arc<Authenticator>>, counters: Arc<AuthCounters>) -> Gate {
        Gate { authenticator, counters, ..Gate::default() }
    }

    /// Whether the application is asked about an event, by the hooks with this id.
    pub(crate) fn asks_app(&self, event: AppEvent, hooks: u64) -> bool {
        self.app.as_ref().is_some_and(|app| app.has(event, hooks))
    }

    /// The id of the hooks that get the calls of a method.
    pub(crate) fn hooks_of_method(&self, method: &str) -> u64 {
        self.app.as_ref().map_or(0, |app| app.hooks_of_method(method))
    }

    /// Asks the application about a request of a client, which counts for its `identity`. The answer follows through
    /// [`AppAnswered`].
    pub(crate) fn ask_app(&self, token: Token, number: u32, call: Call, identity: Option<&Arc<IdentityUse>>) {
        let (Some(app), Some(answers)) = (&self.app, self.answers.clone()) else { return };
        let answered = move |call, answer| {
            answers.send(GateAnswer::App(AppAnswered { token, number, call: Box::new(call), answer }));
        };
        let counted = identity.map(CountedCall::waiting);
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

    /// When the application is asked, at the time `now`, about what expires at a time; `None` if it is not asked.
    pub(crate) fn refresh_at(
        &self,
        (event, hooks): (AppEvent, u64),
        now: Nanos,
        expires_at: Option<Nanos>,
    ) -> Option<Nanos> {
        let expires_at = expires_at.filter(|_| self.asks_app(event, hooks))?;
        Some(expires_at - EXPIRY_NOTICE.min(expires_at.saturating_sub(now) / 2))
    }

    /// Whether clients are authenticated.
    pub fn is_on(&self) -> bool {
        self.authenticator.is_some()
    }

    /// The client of a connection; `None` for one without credentials.
    #[inline]
    pub fn client(&self, token: Token) -> Option<&Identity> {
        self.known.client(token)
    }

    /// A decision, possibly of other settings, as far as the present ones agree.
    ///
    /// # Errors
    /// If they do not let the client in.
    pub fn as_of_now(&self, decision: Decision) -> Decision {
        let client = decision?;
        let Some(authenticator) = &self.authenticator else { return Ok(client) };
        match authenticator.renew(&client, unix_now()) {
            Renewal::Same => Ok(client),
            Renewal::Changed(client) => Ok(client),
            Renewal::Withdrawn => Err(Denied::Invalid),
        }
    }

    /// Makes a client that of a connection.
    ///
    /// # Errors
    /// If it is blocked, has too many connections, or there is no memory for it.
    pub fn let_in(
        &mut self,
        token: Token,
        client: &Arc<Identity>,
        pool: &mut Pool,
        now: Nanos,
    ) -> Result<(), Denied> {
        self.admit(token, client, pool, now)?;
        self.counters.note_known(client.method());
        Ok(())
    }

    fn admit(
        &mut self,
        token: Token,
        client: &Arc<Identity>,
        pool: &mut Pool,
        now: Nanos,
    ) -> Result<(), Denied> {
        let wall = unix_now();
        if self.is_blocked(client, wall) {
            return Err(Denied::Forbidden);
        }
        // A client that presents fresh credentials has its connection already.
        let is_new = self.client(token).is_none();
        let admitted = if is_new && self.quotas.connect(token, client.subject(), now).is_err() {
            Err(Denied::TooMany)
        } else if self.known.insert(token, client, pool, now, wall) {
            Ok(())
        } else {
            Err(Denied::Busy)
        };
        if is_new && admitted.is_err() {
            // Nothing else forgets a connection that is not opened.
            self.quotas.forget(token);
        }
        admitted
    }

    fn is_blocked(&self, client: &Identity, wall: u64) -> bool {
        let is_listed = |authenticator: &Arc<Authenticator>| authenticator.blocks(client, wall);
        self.authenticator.as_ref().is_some_and(is_listed) || self.blocks.blocks(client, wall)
    }

    /// The connections of clients that are blocked.
    pub fn blocked(&self) -> Vec<Token> {
        let wall = unix_now();
        let all = self.known.all().into_iter();
        all.filter(|(_, client)| self.is_blocked(client, wall)).map(|(token, _)| token).collect()
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
        let Some(answers) = self.answers.clone() else { return Some(Err(Denied::Unavailable)) };
        let reply = move |decision| {
            answers.send(GateAnswer::Auth(AuthCommand::Refreshed { token, id, decision }));
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

    /// A session presents credentials after its handshake: fresh ones, or its first ones. They become those of its connection.
    ///
    /// # Errors
    /// If they are not accepted, or those of another client, or there is no memory.
    pub(crate) fn present(
        &mut self,
        token: Token,
        decision: Decision,
        is_fresh: bool,
        pool: &mut Pool,
        now: Nanos,
    ) -> Result<(), RefreshError> {
        let client = self.as_of_now(decision).map_err(|denied| self.refuse_refresh(denied))?;
        if self.client(token).is_some_and(|known| known.subject() != client.subject()) {
            self.counters.note_denied(Denied::Foreign);
            return Err(RefreshError::OtherSubject);
        }
        self.admit(token, &client, pool, now).map_err(|denied| self.refuse_refresh(denied))?;
        match is_fresh {
            true => self.counters.note_refreshed(),
            false => self.counters.note_known(client.method()),
        }
        Ok(())
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
    pub fn note_anonymous(&self) {
        self.counters.note_anonymous();
    }

    /// Seconds until the credentials of a client expire.
    pub fn expires_in_s(&self, token: Token) -> Option<u64> {
        Some(self.client(token)?.expires_at()?.saturating_sub(unix_now()))
    }

    /// The credentials of a connection expire at another time, in seconds since 1970. False if there is no memory for that, or the
    /// connection has none.
    pub(crate) fn set_expiry(&mut self, token: Token, at: Option<u64>, pool: &mut Pool, now: Nanos) -> bool {
        let Some(client) = self.client(token).cloned() else { return false };
        self.known.insert(token, &Arc::new(client.with_expiry(at)), pool, now, unix_now())
    }

    /// Uses other settings. Returns the connections whose clients lose their credentials, or have new ones without room
    /// in memory.
    pub fn configure(
        &mut self,
        authenticator: Option<Arc<Authenticator>>,
        pool: &mut Pool,
        now: Nanos,
    ) -> Vec<Token> {
        let old = mem::replace(&mut self.authenticator, authenticator);
        let Some(authenticator) = &self.authenticator else { return Vec::new() };
        if old.is_some_and(|old| Arc::ptr_eq(&old, authenticator)) {
            return Vec::new();
        }
        let all = self.known.all().into_iter();
        all.filter(|(token, client)| !self.renew(*token, client, pool, now)).map(|(token, _)| token).collect()
    }

    /// Gives a connection the client that the present settings make of `client`, which is its own. False if they withdraw it, or
    /// there is no room in memory: then it keeps its own until it is closed.
    fn renew(&mut self, token: Token, client: &Identity, pool: &mut Pool, now: Nanos) -> bool {
        let wall = unix_now();
        if self.is_blocked(client, wall) {
            return false;
        }
        let Some(authenticator) = &self.authenticator else { return true };
        match authenticator.renew(client, wall) {
            Renewal::Same => true,
            Renewal::Withdrawn => false,
            Renewal::Changed(client) => self.known.insert(token, &client, pool, now, wall),
        }
    }

    /// A connection that expired or was withdrawn is closed.
    pub fn note_ended(&self, due: Due) {
        self.counters.note_ended(due);
    }

    /// A client is not let in, or not allowed to do something.
    pub fn note_denied(&self, denied: Denied) {
        self.counters.note_denied(denied);
    }

    /// A connection publishes.
    ///
    /// # Errors
    /// The limit that it, or its client, is over.
    #[inline]
    pub fn publish(&mut self, token: Token, now: Nanos) -> Result<(), Limit> {
        let Gate { quotas, known, .. } = self;
        quotas.publish(token, || known.client(token).map(Identity::subject), now)
    }

    /// A session requests one more subscription, or another connection the one that it has.
    ///
    /// # Errors
    /// The limit that it, or its client, is over.
    pub(crate) fn request_subscription(
        &mut self,
        token: Token,
        is_session: bool,
        now: Nanos,
    ) -> Result<(), Limit> {
        let Gate { quotas, known, .. } = self;
        quotas.request_subscription(token, known.client(token).map(Identity::subject), is_session, now)
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

    /// A subscription of a connection has moved here.
    pub(crate) fn continue_subscription(&mut self, token: Token, now: Nanos) -> Option<CountedSubscription> {
        let Gate { quotas, known, .. } = self;
        quotas.continue_subscription(token, known.client(token).map(Identity::subject), now)
    }

    /// Keeps the subscription of a raw connection until the connection ends.
    pub(crate) fn keep_subscription(&mut self, token: Token, subscription: Option<CountedSubscription>) {
        self.quotas.keep(token, subscription);
    }

    /// A connection is gone, or was not opened.
    pub fn forget(&mut self, token: Token, pool: &mut Pool) {
        self.quotas.forget(token);
        self.known.remove(token, pool);
    }

    /// The next connection whose credentials expire or are about to.
    pub fn pop_due(&mut self, now: Nanos) -> Option<(Token, Due)> {
        self.known.pop_due(now, unix_now)
    }

    /// When [`pop_due`](Gate::pop_due) has something.
    pub fn deadline(&self) -> Option<Nanos> {
        self.known.deadline()
    }
}

/// Why a session keeps its old credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshError {
    /// The new ones are not accepted.
    Denied(Denied),
    /// They are those of another client.
    OtherSubject,
}

/// The time in seconds since 1970. Read when a client is authenticated, never for a message.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use echoring_proto::buffer::Budget;
    use echoring_runtime::admission::TopicUseLimits;

    use super::plain::tests::{SECRET, authenticator, gate, token};
    use super::quotas::Identities;
    use super::*;

    fn client(settings: &Authenticator) -> Arc<Identity> {
        let presented = Presented::Credentials(Credentials::Token(SECRET.into()));
        let Verdict::Known(client) = settings.check(&presented, unix_now()) else { panic!("unknown") };
        client
    }

    fn one_connection() -> TopicUseLimits {
        TopicUseLimits { max_connections_per_identity: Some(1), ..TopicUseLimits::default() }
    }

    #[test]
    fn a_connection_that_is_not_let_in_does_not_count() {
        let settings = authenticator("uncounted", SECRET, "");
        let (mut gate, client) = (gate(Some(&settings)), client(&settings));
        gate.quotas = Quotas::new(Arc::<Identities>::default(), &one_connection());
        let (mut full, mut pool) = (Pool::new(Budget::new(16)), Pool::standalone());
        assert_eq!(gate.let_in(token(1), &client, &mut full, 0), Err(Denied::Busy));
        assert_eq!(gate.let_in(token(2), &client, &mut pool, 0), Ok(()));
        assert_eq!(gate.let_in(token(3), &client, &mut pool, 0), Err(Denied::TooMany));
    }

    #[test]
    fn a_fresh_token_makes_no_further_connection() {
        let settings = authenticator("refreshed", SECRET, "");
        let (mut gate, client) = (gate(Some(&settings)), client(&settings));
        let mut pool = Pool::standalone();
        for index in [1, 2] {
            assert_eq!(gate.let_in(token(index), &client, &mut pool, 0), Ok(()));
        }
        // There are more of them than may begin from now on.
        gate.quotas.configure(&one_connection(), 1);
        for index in [1, 2] {
            assert!(gate.present(token(index), Ok(Arc::clone(&client)), true, &mut pool, 0).is_ok());
        }
    }
}
