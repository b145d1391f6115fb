//! Publications per second, of a connection and of an identity, which may have connections on every shard.
//!
//! A connection of an identity holds its bucket, which is one atomic: a publication takes no lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::IDENTITIES_SWEPT_MIN;
use echoring_proto::limits::Nanos;
use echoring_runtime::admission::{Bucket, Limit, PublicationLimits, SharedBucket};
use echoring_runtime::driver::Token;

/// The identities of a node. An identity without a connection is remembered until its bucket is full again, so that to
/// connect again gains nothing.
#[derive(Debug, Default)]
pub(crate) struct Identities(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_subject: HashMap<Box<str>, Arc<SharedBucket>>,
    /// Number of identities at which those that need not be remembered are dropped.
    sweep_at: usize,
}

impl Identities {
    fn of(&self, subject: &str, now: Nanos) -> Arc<SharedBucket> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = known.by_subject.get(subject) {
            return Arc::clone(bucket);
        }
        if known.by_subject.len() >= known.sweep_at {
            known.by_subject.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_full(now));
            known.sweep_at = IDENTITIES_SWEPT_MIN.max(2 * known.by_subject.len());
        }
        let bucket = Arc::<SharedBucket>::default();
        known.by_subject.insert(subject.into(), Arc::clone(&bucket));
        bucket
    }
}

/// The publications of one shard's connections.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    limits: PublicationLimits,
    identities: Arc<Identities>,
    /// By the index of the connection. Empty without limits.
    connections: HashMap<u32, Publisher>,
}

#[derive(Debug)]
struct Publisher {
    token: Token,
    bucket: Bucket,
    identity: Option<Arc<SharedBucket>>,
}

impl Quotas {
    /// Quotas with the identities of the node.
    pub(crate) fn new(identities: Arc<Identities>, limits: &PublicationLimits) -> Quotas {
        Quotas { limits: limits.clone(), identities, connections: HashMap::new() }
    }

    /// Uses other limits from now on.
    pub(crate) fn configure(&mut self, limits: &PublicationLimits) {
        self.limits = limits.clone();
        if self.limits.is_none() {
            self.connections = HashMap::new();
        }
    }

    /// A connection of `subject` publishes.
    ///
    /// # Errors
    /// The limit that it is over.
    #[inline]
    pub(crate) fn publish<'a>(
        &mut self,
        token: Token,
        subject: impl FnOnce() -> Option<&'a str>,
        now: Nanos,
    ) -> Result<(), Limit> {
        if self.limits.is_none() { Ok(()) } else { self.take(token, subject(), now) }
    }

    fn take(&mut self, token: Token, subject: Option<&str>, now: Nanos) -> Result<(), Limit> {
        let Quotas { limits, identities, connections } = self;
        let publisher = connections.entry(token.index).or_insert_with(|| Publisher::new(token));
        if publisher.token != token {
            *publisher = Publisher::new(token);
        }
        if let Some(rate) = limits.per_connection
            && !publisher.bucket.take(rate, 1, now)
        {
            return Err(Limit::Publications);
        }
        if let (Some(rate), Some(subject)) = (limits.per_identity, subject) {
            let bucket = publisher.identity.get_or_insert_with(|| identities.of(subject, now));
            if !bucket.take(rate, 1, now) {
                return Err(Limit::PublicationsPerIdentity);
            }
        }
        Ok(())
    }

    /// A connection has ended.
    pub(crate) fn forget(&mut self, token: Token) {
        if !self.connections.is_empty() {
            self.connections.remove(&token.index);
        }
    }
}

impl Publisher {
    fn new(token: Token) -> Publisher {
        Publisher { token, bucket: Bucket::default(), identity: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::limits::SECOND;
    use echoring_runtime::admission::Rate;

    fn token(index: u32) -> Token {
        Token { index, generation: 1 }
    }

    fn taken(quotas: &mut Quotas, index: u32, subject: Option<&str>, now: Nanos) -> usize {
        (0..100).filter(|_| quotas.publish(token(index), || subject, now).is_ok()).count()
    }

    #[test]
    fn a_connection_and_an_identity_have_their_rates_on_all_shards_together() {
        let limits =
            PublicationLimits { per_connection: Rate::per_second(20), per_identity: Rate::per_second(30) };
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
        one.configure(&PublicationLimits::default());
        assert_eq!(taken(&mut one, 6, Some("a"), now), 100);
    }

    #[test]
    fn identities_that_are_gone_are_forgotten() {
        let limits = PublicationLimits { per_connection: None, per_identity: Rate::per_second(30) };
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
}
