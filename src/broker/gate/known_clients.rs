//! The authenticated clients of one shard, beside the connections, and when their credentials expire.

use std::sync::Arc;

use echoring_auth::Identity;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::{Nanos, SECOND};
use echoring_runtime::driver::Token;

use super::shared_identities::SharedIdentities;
use crate::limits::EXPIRY_NOTICE;
use crate::timers::Timers;

/// The due action for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Its credentials expire soon.
    Notice,
    /// They have expired.
    Expired,
    /// They were withdrawn.
    Withdrawn,
}

/// The clients, by the index of their connection.
#[derive(Debug, Default)]
pub struct KnownClients {
    clients: Vec<Option<Box<KnownClient>>>,
    identities: SharedIdentities,
    /// One timer for each client whose credentials expire, by the same index.
    timers: Timers,
}

#[derive(Debug)]
struct KnownClient {
    token: Token,
    identity: Arc<Identity>,
    expires: Nanos,
    is_noticed: bool,
}

impl KnownClients {
    #[inline]
    pub(crate) fn client(&self, token: Token) -> Option<&Identity> {
        self.get(token).map(|client| &*client.identity)
    }

    /// Whether the client of a connection was told that its credentials expire soon.
    pub(crate) fn is_noticed(&self, token: Token) -> bool {
        self.get(token).is_some_and(|client| client.is_noticed)
    }

    /// The client was told where its connection was before.
    pub(crate) fn note_noticed(&mut self, token: Token) {
        let client = self.clients.get_mut(token.index as usize).and_then(Option::as_deref_mut);
        let Some(client) = client.filter(|client| client.token == token) else { return };
        if client.expires != Nanos::MAX {
            client.is_noticed = true;
            self.timers.set(token.index, client.expires);
        }
    }

    fn get(&self, token: Token) -> Option<&KnownClient> {
        self.clients.get(token.index as usize)?.as_deref().filter(|client| client.token == token)
    }

    /// Sets the client of a connection, at the time `now`, which is `wall` in seconds since 1970. False, with the old client
    /// kept, if there is no memory for a new identity.
    #[must_use]
    pub(crate) fn insert(
        &mut self,
        token: Token,
        identity: &Arc<Identity>,
        pool: &mut Pool,
        now: Nanos,
        wall: u64,
    ) -> bool {
        let Some(identity) = self.identities.take(identity, pool) else { return false };
        let index = token.index as usize;
        if index >= self.clients.len() {
            self.clients.resize_with(index + 1, || None);
        }
        self.timers.clear(token.index);
        let mut expires = Nanos::MAX;
        if let Some(at) = identity.expires_at() {
            let left = at.saturating_sub(wall).saturating_mul(SECOND);
            expires = now.saturating_add(left);
            self.timers.set(token.index, expires - EXPIRY_NOTICE.min(left / 2));
        }
        let client = Box::new(KnownClient { token, identity, expires, is_noticed: false });
        if let Some(old) = self.clients[index].replace(client) {
            self.identities.give(&old.identity, pool);
        }
        true
    }

    pub(crate) fn remove(&mut self, token: Token, pool: &mut Pool) {
        if self.get(token).is_some()
            && let Some(client) = self.clients[token.index as usize].take()
        {
            self.identities.give(&client.identity, pool);
            self.timers.clear(token.index);
        }
    }

    /// All clients. Allocates, so it is for rare events.
    pub(crate) fn all(&self) -> Vec<(Token, Arc<Identity>)> {
        let clients = self.clients.iter().flatten();
        clients.map(|client| (client.token, Arc::clone(&client.identity))).collect()
    }

    /// The next client with a due action. `wall` reads the clock in seconds since 1970: a clock that was set back, or
    /// did not run while the host slept, is no reason to end a connection early.
    pub(crate) fn pop_due(&mut self, now: Nanos, wall: impl Fn() -> u64) -> Option<(Token, Due)> {
        while let Some(index) = self.timers.pop_due(now) {
            let Some(client) = self.clients.get_mut(index as usize).and_then(Option::as_deref_mut) else {
                continue;
            };
            let token = client.token;
            if !client.is_noticed {
                client.is_noticed = true;
                self.timers.set(index, client.expires);
                return Some((token, Due::Notice));
            }
            let left = client.identity.expires_at().map_or(0, |at| at.saturating_sub(wall()));
            if left > 0 {
                client.expires = now.saturating_add(left.saturating_mul(SECOND));
                self.timers.set(index, client.expires);
                continue;
            }
            return Some((token, Due::Expired));
        }
        None
    }

    pub(crate) fn deadline(&self) -> Option<Nanos> {
        self.timers.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_auth::{Authenticator, Credentials, Presented, Settings, Verdict};
    use echoring_proto::buffer::Budget;

    /// Clients of a token file whose tokens expire at 1,000 s and never.
    fn clients() -> [Arc<Identity>; 2] {
        let thread = std::thread::current().id();
        let name = format!("echoring-known-clients-{}-{thread:?}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let text = "[[tokens]]\ntoken = \"0123456789abcdef0\"\nsubject = \"a\"\nexpires = 1970-01-01T00:16:40Z\n\
                    [[tokens]]\ntoken = \"0123456789abcdef1\"\nsubject = \"b\"\n";
        std::fs::write(&file, text).expect("written");
        let settings = Settings::default().tokens(&file);
        let authenticator = Authenticator::load(&settings).expect("valid");
        let _ = std::fs::remove_file(file);
        ["0123456789abcdef0", "0123456789abcdef1"].map(|token| {
            let presented = Presented::Credentials(Credentials::Token(token.into()));
            match authenticator.check(&presented, 900) {
                Verdict::Known(client) => client,
                other => panic!("{other:?}"),
            }
        })
    }

    fn token(index: u32, generation: u32) -> Token {
        Token { index, generation }
    }

    #[test]
    fn a_client_is_noticed_before_it_expires_and_only_its_own_connection() {
        let [expiring, lasting] = clients();
        let (mut known, mut pool) = (KnownClients::default(), Pool::standalone());
        assert!(known.insert(token(2, 1), &expiring, &mut pool, 5 * SECOND, 900));
        assert!(known.insert(token(0, 1), &lasting, &mut pool, 5 * SECOND, 900));
        assert_eq!(known.client(token(2, 1)).map(Identity::subject), Some("a"));
        assert_eq!((known.client(token(2, 2)), known.client(token(9, 1))), (None, None));
        assert_eq!(known.deadline(), Some(75 * SECOND), "30 s before 105 s");
        assert_eq!(known.pop_due(75 * SECOND - 1, || 0), None);
        assert_eq!(known.pop_due(75 * SECOND, || 0), Some((token(2, 1), Due::Notice)));
        assert_eq!(known.pop_due(105 * SECOND, || 999), None, "the clock was set back a second");
        assert_eq!(known.deadline(), Some(106 * SECOND));
        assert_eq!(known.pop_due(106 * SECOND, || 1000), Some((token(2, 1), Due::Expired)));
        assert_eq!(known.deadline(), None);
        assert!(known.insert(token(2, 1), &expiring, &mut pool, 0, 990));
        assert_eq!(known.deadline(), Some(5 * SECOND), "half of the time that is left");
        known.remove(token(2, 9), &mut pool);
        assert_eq!(known.all().len(), 2);
        known.remove(token(2, 1), &mut pool);
        assert_eq!((known.deadline(), known.all().len()), (None, 1));
    }

    #[test]
    fn connections_share_an_identity_whose_memory_is_charged_once() {
        let [identity, other] = clients();
        let bytes = identity.held_bytes();
        // A budget below the minimum of a node has no reserve.
        let mut pool = Pool::new(Budget::new(2 * bytes as u64 - 1));
        let mut known = KnownClients::default();
        for index in 0..3 {
            // What is decided anew is another value with the same contents.
            let decided = Arc::new(Identity::clone(&identity));
            assert!(known.insert(token(index, 1), &decided, &mut pool, 0, 0));
        }
        assert_eq!(pool.used_bytes(), bytes as u64);
        assert!(!known.insert(token(3, 1), &other, &mut pool, 0, 0), "no room");
        assert!(!known.insert(token(0, 1), &other, &mut pool, 0, 0), "the old client stays");
        assert_eq!(known.client(token(0, 1)), Some(&*identity));
        (0..3).for_each(|index| known.remove(token(index, 1), &mut pool));
        assert_eq!(pool.used_bytes(), 0);
        assert!(known.insert(token(3, 1), &other, &mut pool, 0, 0));
        assert_eq!(pool.used_bytes(), other.held_bytes() as u64);
    }
}
