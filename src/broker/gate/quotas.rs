//! Quotas on publications and subscriptions of a connection, and of an identity, which may have connections on every
//! shard.
//!
//! A connection of an identity holds what the identity uses, in atomics: a publication takes no lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{
    APP_CALLS_PER_IDENTITY_MAX, IDENTITIES_SWEPT_MIN, SUBSCRIBE_RATE_OF_SUBSCRIPTIONS, SUBSCRIPTIONS_DEFAULT,
};
use echoring_proto::limits::Nanos;
use echoring_runtime::admission::{Bucket, Limit, Rate, SharedBucket, TopicUseLimits};
use echoring_runtime::driver::Token;

/// The identities of a node. An identity without a connection is remembered until its buckets are full again, so that to
/// connect again gains nothing. Those without a limit are not in it.
#[derive(Debug, Default)]
pub struct Identities(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_subject: HashMap<Box<str>, Arc<IdentityUse>>,
    /// Number of identities at which those that need not be remembered are dropped.
    sweep_at: usize,
}

/// The usage of all connections of an identity.
#[derive(Debug, Default)]
pub struct IdentityUse {
    /// By [`Use`].
    rates: [SharedBucket; 2],
    /// Of each kind of [`Counted`].
    counts: [AtomicU32; 3],
}

/// The subject of a rate.
#[derive(Clone, Copy, Debug)]
enum Use {
    Publication,
    Subscription,
}

impl Use {
    /// The rates of a connection and of an identity, with the limits that name them once they are used up.
    fn rates(self, limits: &TopicUseLimits) -> [(Option<Rate>, Limit); 2] {
        match self {
            Use::Publication => [
                (limits.publish_rate, Limit::Publications),
                (limits.publish_rate_per_identity, Limit::PublicationsPerIdentity),
            ],
            Use::Subscription => [
                (limits.subscribe_rate, Limit::SubscribeRate),
                (limits.subscribe_rate_per_identity, Limit::SubscribeRatePerIdentity),
            ],
        }
    }
}

/// One of what an identity has at most so many of, until it is dropped. `OF` is its place among the counts of the identity.
#[derive(Debug)]
pub struct Counted<const OF: usize>(Arc<IdentityUse>);

/// A connection of an identity.
pub type CountedConnection = Counted<0>;
/// A subscription of an identity.
pub type CountedSubscription = Counted<1>;
/// A call of an identity that waits for the application.
pub type CountedCall = Counted<2>;

impl<const OF: usize> Counted<OF> {
    /// `None` if the identity has `most` of them.
    fn of(identity: &Arc<IdentityUse>, most: u32) -> Option<Counted<OF>> {
        let add = |count| (count < most).then_some(count + 1);
        identity.counts[OF].fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Counted(Arc::clone(identity)))
    }

    /// Counts one beyond any limit.
    fn beyond_limit(identity: &Arc<IdentityUse>) -> Counted<OF> {
        identity.counts[OF].fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(identity))
    }
}

impl CountedCall {
    /// `None` if as many of the identity wait as may.
    pub(crate) fn waiting(identity: &Arc<IdentityUse>) -> Option<CountedCall> {
        Counted::of(identity, APP_CALLS_PER_IDENTITY_MAX)
    }
}

impl<const OF: usize> Drop for Counted<OF> {
    fn drop(&mut self) {
        self.0.counts[OF].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Identities {
    fn of(&self, subject: &str, now: Nanos) -> Arc<IdentityUse> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = known.by_subject.get(subject) {
            return Arc::clone(identity);
        }
        if known.by_subject.len() >= known.sweep_at {
            known.by_subject.retain(|_, identity| {
                Arc::strong_count(identity) > 1 || !identity.rates.iter().all(|rate| rate.is_full(now))
            });
            known.sweep_at = IDENTITIES_SWEPT_MIN.max(2 * known.by_subject.len());
        }
        let identity = Arc::<IdentityUse>::default();
        known.by_subject.insert(subject.into(), Arc::clone(&identity));
        identity
    }
}

/// New subscriptions per second by default of a session that may have so many.
pub fn default_subscribe_rate(max_subscriptions: u32) -> u64 {
    u64::from(max_subscriptions.max(SUBSCRIPTIONS_DEFAULT)) * SUBSCRIBE_RATE_OF_SUBSCRIPTIONS
}

/// How one shard's connections use topics.
#[derive(Debug, Default)]
pub struct Quotas {
    limits: TopicUseLimits,
    /// The rate of new subscriptions of a session without a limit of it.
    subscribe_rate_default: Option<Rate>,
    identities: Arc<Identities>,
    /// By the index of the connection: those whose use of something is limited, as are the subscriptions of each session.
    connections: HashMap<u32, ConnectionUse>,
}

#[derive(Debug)]
struct ConnectionUse {
    token: Token,
    /// By [`Use`].
    rates: [Bucket; 2],
    identity: Option<Arc<IdentityUse>>,
    /// The connection itself.
    connection: Option<CountedConnection>,
    /// The subscription of a raw connection.
    subscription: Option<CountedSubscription>,
}

impl Quotas {
    /// Quotas with the identities of the node, without a default.
    pub fn new(identities: Arc<Identities>, limits: &TopicUseLimits) -> Quotas {
        let (limits, connections) = (limits.clone(), HashMap::new());
        Quotas { limits, subscribe_rate_default: None, identities, connections }
    }

    /// Sessions that may have so many subscriptions have the [default rate](default_subscribe_rate), unless a limit says something else.
    #[must_use]
    pub fn with_subscriptions_max(self, max_subscriptions: u32) -> Quotas {
        let rate = default_subscribe_rate(max_subscriptions);
        Quotas { subscribe_rate_default: Rate::per_second(rate), ..self }
    }

    /// The usage of all connections of `subject`.
    pub(crate) fn identity(&self, subject: &str, now: Nanos) -> Arc<IdentityUse> {
        self.identities.of(subject, now)
    }

    /// Uses other limits from now on.
    pub fn configure(&mut self, limits: &TopicUseLimits, max_subscriptions: u32) {
        self.limits = limits.clone();
        self.subscribe_rate_default = Rate::per_second(default_subscribe_rate(max_subscriptions));
        if self.limits.is_none() {
            self.connections = HashMap::new();
        }
    }

    /// A connection becomes one of `subject`.
    ///
    /// # Errors
    /// The exceeded limit.
    pub(crate) fn connect(&mut self, token: Token, subject: &str, now: Nanos) -> Result<(), Limit> {
        let Some(most) = self.limits.max_connections_per_identity else { return Ok(()) };
        let known = self.identified(token, subject, now);
        if known.connection.is_none() {
            let counted = known.identity.as_ref().and_then(|identity| Counted::of(identity, most));
            known.connection = Some(counted.ok_or(Limit::ConnectionsPerIdentity)?);
        }
        Ok(())
    }

    /// A connection of `subject` has moved here. It counts, even if the limit is exceeded.
    pub(crate) fn continue_connection(&mut self, token: Token, subject: &str, now: Nanos) {
        if self.limits.max_connections_per_identity.is_some() {
            let known = self.identified(token, subject, now);
            known.connection = known.identity.as_ref().map(Counted::beyond_limit);
        }
    }

    fn identified(&mut self, token: Token, subject: &str, now: Nanos) -> &mut ConnectionUse {
        let Quotas { identities, connections, .. } = self;
        let known = of_connection(connections, token);
        known.identity.get_or_insert_with(|| identities.of(subject, now));
        known
    }

    /// A connection of `subject` publishes.
    ///
    /// # Errors
    /// The exceeded limit.
    #[inline]
    pub(crate) fn publish<'a>(
        &mut self,
        token: Token,
        subject: impl FnOnce() -> Option<&'a str>,
        now: Nanos,
    ) -> Result<(), Limit> {
        if self.limits.is_none() {
            Ok(())
        } else {
            self.take((Use::Publication, None), token, subject(), now)
        }
    }

    /// A connection of `subject` requests a subscription: a session, which may request many, or another one.
    ///
    /// # Errors
    /// The exceeded limit.
    pub(crate) fn request_subscription(
        &mut self,
        token: Token,
        subject: Option<&str>,
        is_session: bool,
        now: Nanos,
    ) -> Result<(), Limit> {
        let default = self.subscribe_rate_default.filter(|_| is_session);
        self.take((Use::Subscription, default), token, subject, now)
    }

    /// Takes one of the rates of a connection, which may have a default, and of its identity.
    fn take(
        &mut self,
        (what, default): (Use, Option<Rate>),
        token: Token,
        subject: Option<&str>,
        now: Nanos,
    ) -> Result<(), Limit> {
        let Quotas { limits, identities, connections, .. } = self;
        let [(rate, connection_limit), (of_identity, identity_limit)] = what.rates(limits);
        let (rate, of_identity) = (rate.or(default), of_identity.zip(subject));
        if rate.is_none() && of_identity.is_none() {
            return Ok(());
        }
        let known = of_connection(connections, token);
        if let Some(rate) = rate
            && !known.rates[what as usize].take(rate, 1, now)
        {
            return Err(connection_limit);
        }
        if let Some((rate, subject)) = of_identity {
            let identity = known.identity.get_or_insert_with(|| identities.of(subject, now));
            if !identity.rates[what as usize].take(rate, 1, now) {
                return Err(identity_limit);
            }
        }
        Ok(())
    }

    /// A connection of `subject` subscribes. Returns the counter of the subscription, if it is counted.
    ///
    /// # Errors
    /// The exceeded limit.
    pub(crate) fn subscribe(
        &mut self,
        token: Token,
        subject: Option<&str>,
        now: Nanos,
    ) -> Result<Option<CountedSubscription>, Limit> {
        let Quotas { limits, identities, connections, .. } = self;
        let (Some(most), Some(subject)) = (limits.max_subscriptions_per_identity, subject) else {
            return Ok(None);
        };
        let known = of_connection(connections, token);
        let identity = known.identity.get_or_insert_with(|| identities.of(subject, now));
        CountedSubscription::of(identity, most).map(Some).ok_or(Limit::SubscriptionsPerIdentity)
    }

    /// A subscription of a connection of `subject` has moved here. It counts, even if the limit is exceeded.
    pub(crate) fn continue_subscription(
        &mut self,
        token: Token,
        subject: Option<&str>,
        now: Nanos,
    ) -> Option<CountedSubscription> {
        let Quotas { limits, identities, connections, .. } = self;
        limits.max_subscriptions_per_identity?;
        let subject = subject?;
        let known = of_connection(connections, token);
        let identity = known.identity.get_or_insert_with(|| identities.of(subject, now));
        Some(CountedSubscription::beyond_limit(identity))
    }

    /// Keeps the subscription of a raw connection until the connection ends.
    pub(crate) fn keep(&mut self, token: Token, subscription: Option<CountedSubscription>) {
        if let Some(subscription) = subscription {
            of_connection(&mut self.connections, token).subscription = Some(subscription);
        }
    }

    /// A connection has ended.
    pub(crate) fn forget(&mut self, token: Token) {
        if !self.connections.is_empty() {
            self.connections.remove(&token.index);
        }
    }
}

fn of_connection(connections: &mut HashMap<u32, ConnectionUse>, token: Token) -> &mut ConnectionUse {
    let known = connections.entry(token.index).or_insert_with(|| ConnectionUse::new(token));
    if known.token != token {
        *known = ConnectionUse::new(token);
    }
    known
}

impl ConnectionUse {
    fn new(token: Token) -> ConnectionUse {
        ConnectionUse {
            token,
            rates: Default::default(),
            identity: None,
            connection: None,
            subscription: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::limits::SECOND;

    fn token(index: u32) -> Token {
        Token { index, generation: 1 }
    }

    fn taken(quotas: &mut Quotas, index: u32, subject: Option<&str>, now: Nanos) -> usize {
        (0..100).filter(|_| quotas.publish(token(index), || subject, now).is_ok()).count()
    }

    #[test]
    fn a_connection_and_an_identity_have_their_rates_on_all_shards_together() {
        let limits = TopicUseLimits {
            publish_rate: Rate::per_second(20),
            publish_rate_per_identity: Rate::per_second(30),
            ..TopicUseLimits::default()
        };
        let identities = Arc::<Identities>::default();
        let [mut one, mut other] = [0; 2].map(|_| Quotas::new(Arc::clone(&identities), &limits));
        let now = 5 * SECOND;
        assert_eq!(taken(&mut one, 1, Some("a"), now), 20);
        assert_eq!(taken(&mut other, 1, Some("a"), now), 10);
        assert_eq!(other.publish(token(2), || Some("a"), now), Err(Limit::PublicationsPerIdentity));
        assert_eq!(one.publish(token(1), || Some("a"), now), Err(Limit::Publications));
        assert_eq!(taken(&mut other, 3, Some("b"), now), 20);
        assert_eq!(taken(&mut other, 4, None, now), 20);
        // Connecting again gains nothing.
        one.forget(token(1));
        other.forget(token(1));
        assert_eq!(taken(&mut one, 5, Some("a"), now), 0);
        assert_eq!(taken(&mut one, 6, Some("a"), now + SECOND), 20);
        one.configure(&TopicUseLimits::default(), 1);
        assert_eq!(taken(&mut one, 6, Some("a"), now), 100);
    }

    #[test]
    fn an_identity_has_its_subscriptions_on_all_shards_together() {
        let limits = TopicUseLimits { max_subscriptions_per_identity: Some(3), ..TopicUseLimits::default() };
        let identities = Arc::<Identities>::default();
        let [mut one, mut other] = [0; 2].map(|_| Quotas::new(Arc::clone(&identities), &limits));
        let subscribe = |quotas: &mut Quotas, index, subject| quotas.subscribe(token(index), subject, SECOND);
        let session = [0; 2].map(|_| subscribe(&mut one, 1, Some("a")).expect("room"));
        let raw = subscribe(&mut other, 1, Some("a")).expect("room");
        other.keep(token(1), raw);
        for quotas in [&mut one, &mut other] {
            assert!(
                subscribe(quotas, 2, Some("a")).is_err_and(|limit| limit == Limit::SubscriptionsPerIdentity)
            );
        }
        assert!(subscribe(&mut other, 4, Some("b")).expect("room of its own").is_some());
        assert!(subscribe(&mut other, 3, None).expect("no identity").is_none());
        // The raw one ends with its connection, those of a session by themselves.
        other.forget(token(1));
        let again = subscribe(&mut one, 2, Some("a")).expect("room");
        drop(session);
        one.forget(token(1));
        assert!(again.is_some_and(|again| again.0.counts[1].load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn an_identity_has_its_connections_on_all_shards_together() {
        let limits = TopicUseLimits { max_connections_per_identity: Some(2), ..TopicUseLimits::default() };
        let identities = Arc::<Identities>::default();
        let [mut one, mut other] = [0; 2].map(|_| Quotas::new(Arc::clone(&identities), &limits));
        assert_eq!(one.connect(token(1), "a", SECOND), Ok(()));
        assert_eq!(one.connect(token(1), "a", SECOND), Ok(()), "it presents a new token");
        assert_eq!(other.connect(token(1), "a", SECOND), Ok(()));
        assert_eq!(other.connect(token(2), "a", SECOND), Err(Limit::ConnectionsPerIdentity));
        assert_eq!(other.connect(token(3), "b", SECOND), Ok(()));
        // One moves: it is counted at its new place before it has left the old one.
        other.continue_connection(token(4), "a", SECOND);
        one.forget(token(1));
        assert!(other.connect(token(5), "a", SECOND).is_err());
        other.forget(token(4));
        assert_eq!(other.connect(token(5), "a", SECOND), Ok(()));
    }

    #[test]
    fn a_subscription_that_moves_counts_and_is_not_refused() {
        let limits = TopicUseLimits { max_subscriptions_per_identity: Some(2), ..TopicUseLimits::default() };
        let identities = Arc::<Identities>::default();
        let [mut one, mut other] = [0; 2].map(|_| Quotas::new(Arc::clone(&identities), &limits));
        let now = 5 * SECOND;
        let mut moved: Vec<_> =
            (0..3).map(|_| other.continue_subscription(token(1), Some("a"), now).expect("counted")).collect();
        assert!(one.subscribe(token(2), Some("a"), now).is_err(), "there are three of two");
        moved.truncate(1);
        assert!(one.subscribe(token(2), Some("a"), now).expect("room").is_some());
        assert!(other.continue_subscription(token(3), None, now).is_none());
    }

    #[test]
    fn calls_of_an_identity_have_their_bound_on_all_shards_together() {
        let identities = Arc::<Identities>::default();
        let [one, other] = [0; 2].map(|_| Quotas::new(Arc::clone(&identities), &TopicUseLimits::default()));
        let (here, there) = (one.identity("a", SECOND), other.identity("a", SECOND));
        let calls: Vec<_> = (0..APP_CALLS_PER_IDENTITY_MAX / 2)
            .flat_map(|_| [&here, &there])
            .map(|identity| CountedCall::waiting(identity).expect("room"))
            .collect();
        assert!(CountedCall::waiting(&here).is_none() && CountedCall::waiting(&there).is_none());
        assert!(CountedCall::waiting(&one.identity("b", SECOND)).is_some());
        drop(calls);
        assert!(CountedCall::waiting(&there).is_some());
    }

    #[test]
    fn a_connection_and_an_identity_request_so_many_subscriptions_per_second() {
        let limits = TopicUseLimits {
            subscribe_rate: Rate::per_second(20),
            subscribe_rate_per_identity: Rate::per_second(30),
            ..TopicUseLimits::default()
        };
        let identities = Arc::<Identities>::default();
        let [mut one, mut other] = [0; 2].map(|_| Quotas::new(Arc::clone(&identities), &limits));
        let requested = |quotas: &mut Quotas, index, subject, now| {
            let request = |_: &i32| quotas.request_subscription(token(index), subject, false, now).is_ok();
            (0..100).take_while(request).count()
        };
        let now = 5 * SECOND;
        assert_eq!(requested(&mut one, 1, Some("a"), now), 20);
        assert_eq!(requested(&mut other, 1, Some("a"), now), 10);
        let over = other.request_subscription(token(1), Some("a"), true, now);
        assert_eq!(over, Err(Limit::SubscribeRatePerIdentity));
        assert_eq!(one.request_subscription(token(1), Some("a"), true, now), Err(Limit::SubscribeRate));
        assert_eq!(one.publish(token(1), || Some("a"), now), Ok(()), "it may publish");
        assert_eq!(requested(&mut other, 4, None, now), 20);
        one.forget(token(1));
        other.forget(token(1));
        assert_eq!(requested(&mut one, 5, Some("a"), now), 0, "to connect again gains nothing");
        assert_eq!(requested(&mut one, 6, Some("a"), now + SECOND), 20);
    }

    #[test]
    fn identities_that_are_gone_are_forgotten() {
        let limits =
            TopicUseLimits { publish_rate_per_identity: Rate::per_second(30), ..TopicUseLimits::default() };
        let identities = Arc::<Identities>::default();
        let mut quotas = Quotas::new(Arc::clone(&identities), &limits);
        for number in 0..10 * IDENTITIES_SWEPT_MIN as u64 {
            let (now, subject) = ((5 + number) * SECOND, number.to_string());
            assert_eq!(quotas.publish(token(1), || Some(&subject), now), Ok(()));
            quotas.forget(token(1));
        }
        let known = identities.0.lock().expect("no panic").by_subject.len();
        assert!(known <= IDENTITIES_SWEPT_MIN, "{known} identities");
    }

    /// A page that returns subscribes to all its topics at once, and one that shows something else to all others.
    #[test]
    fn a_session_may_subscribe_to_all_it_may_have_some_times_in_a_second_by_default() {
        for most in [1, 128, 1_000_u32] {
            let unlimited = Quotas::new(Arc::<Identities>::default(), &TopicUseLimits::default());
            let mut quotas = unlimited.with_subscriptions_max(most);
            let mut taken = |index, is_session, now| {
                let take = |_: &u32| quotas.request_subscription(token(index), None, is_session, now).is_ok();
                (0..10_000).filter(take).count() as u64
            };
            let all = 4 * u64::from(most.max(128));
            assert_eq!(
                (taken(1, true, SECOND), taken(1, true, SECOND), taken(2, true, SECOND)),
                (all, 0, all)
            );
            assert_eq!(taken(1, true, 2 * SECOND), all, "a second later");
            assert_eq!(taken(3, false, SECOND), 10_000, "others have one subscription");
            quotas.configure(&TopicUseLimits::default(), 2);
            let all = 4 * 128;
            let take = |_: &u32| quotas.request_subscription(token(1), None, true, SECOND).is_ok();
            assert_eq!((0..1_000).filter(take).count() as u64, all, "a reload");
        }
    }
}
