//! The client of a connection as bytes, which move with the connection to another shard or another process.

use std::sync::Arc;

use echoring_auth::Identity;
use echoring_proto::Plain;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;

use super::{Gate, unix_now};

/// The client of a connection that has moved, or the reason why it cannot go on here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum TakenClient {
    /// It goes on, with its client or without one.
    Continued,
    /// The present settings do not let its client in, or there is no memory for it. The connection is closed as one whose credentials
    /// were withdrawn.
    Withdrawn,
}

impl Gate {
    /// Appends the client of a connection to `out`, or that it has none. The connection is [forgotten](Gate::forget) when it has moved.
    pub fn put_client(&self, token: Token, out: &mut Vec<u8>) {
        let client = self.client(token);
        client.is_some().put(out);
        if let Some(client) = client {
            self.known.is_noticed(token).put(out);
            client.put(out);
        }
    }

    /// Makes the client that `from` begins with that of a connection. It is not counted as another login. The present settings decide
    /// about it as [`configure`](Gate::configure) does: none let everybody stay, and clients without a name stay with all of them.
    /// `None` if the bytes are malformed.
    pub fn take_client(
        &mut self,
        token: Token,
        from: &mut &[u8],
        pool: &mut Pool,
        now: Nanos,
    ) -> Option<TakenClient> {
        // Whether it was told that its credentials expire soon.
        let known: Option<(bool, Identity)> = Plain::take(from)?;
        let Some((is_noticed, client)) = known else { return Some(TakenClient::Continued) };
        let client = Arc::new(client);
        if !self.known.insert(token, &client, pool, now, unix_now()) {
            return Some(TakenClient::Withdrawn);
        }
        self.quotas.continue_connection(token, client.subject(), now);
        if is_noticed {
            self.known.note_noticed(token);
        }
        // A client that is withdrawn stays known until its connection is closed.
        let stays = self.renew(token, &client, pool, now);
        Some(if stays { TakenClient::Continued } else { TakenClient::Withdrawn })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use echoring_auth::{Authenticator, Credentials, Method, Presented, Settings, Verdict};
    use echoring_proto::buffer::Budget;
    use echoring_proto::limits::SECOND;

    use super::super::{AuthCounters, Due};
    use super::*;

    pub(in crate::gate) const SECRET: &str = "0123456789abcdef";

    /// An authenticator with one token. `rights` are further lines of its entry.
    pub(in crate::gate) fn authenticator(test: &str, secret: &str, rights: &str) -> Arc<Authenticator> {
        let name = format!("echoring-gate-plain-{test}-{}", std::process::id());
        let file: PathBuf = std::env::temp_dir().join(name);
        let text = format!("[[tokens]]\ntoken = \"{secret}\"\nsubject = \"alice\"\n{rights}\n");
        std::fs::write(&file, text).expect("written");
        let authenticator = Authenticator::load(&Settings::default().tokens(&file)).expect("valid");
        let _ = std::fs::remove_file(file);
        Arc::new(authenticator)
    }

    pub(in crate::gate) fn gate(authenticator: Option<&Arc<Authenticator>>) -> Gate {
        Gate::new(authenticator.cloned(), Arc::new(AuthCounters::default()))
    }

    pub(in crate::gate) fn token(index: u32) -> Token {
        Token { index, generation: 1 }
    }

    /// The bytes of a client whom `authenticator` has let in.
    fn bytes_of_client(authenticator: &Arc<Authenticator>, pool: &mut Pool) -> Vec<u8> {
        let mut gate = gate(Some(authenticator));
        let presented = Presented::Credentials(Credentials::Token(SECRET.into()));
        let Verdict::Known(client) = authenticator.check(&presented, unix_now()) else { panic!("unknown") };
        gate.let_in(token(3), &client, pool, 0).expect("room");
        let mut out = Vec::new();
        gate.put_client(token(3), &mut out);
        gate.forget(token(3), pool);
        assert_eq!(pool.used_bytes(), 0);
        out
    }

    #[test]
    fn a_client_moves_once_and_is_no_other_login() {
        let (mut pool, settings) =
            (Pool::standalone(), authenticator("moves", SECRET, "subscribe = [\"a\"]"));
        let bytes = [&bytes_of_client(&settings, &mut pool)[..], b"behind"].concat();
        for mut gate in [gate(Some(&settings)), gate(None)] {
            let mut from = &bytes[..];
            assert_eq!(gate.take_client(token(5), &mut from, &mut pool, 9), Some(TakenClient::Continued));
            assert_eq!((gate.client(token(5)).map(Identity::subject), from), (Some("alice"), &b"behind"[..]));
            assert_eq!(gate.counters.figures().accepted[Method::Token.word()], 0);
            assert!(pool.used_bytes() > 0);
            gate.forget(token(5), &mut pool);
            assert_eq!(pool.used_bytes(), 0);
        }
    }

    #[test]
    fn a_connection_without_a_client_goes_on_without_one() {
        let (mut pool, mut bytes) = (Pool::standalone(), Vec::new());
        gate(None).put_client(token(1), &mut bytes);
        for mut gate in [gate(None), gate(Some(&authenticator("anonymous", SECRET, "")))] {
            let taken = gate.take_client(token(1), &mut &bytes[..], &mut pool, 0);
            assert_eq!((taken, gate.client(token(1))), (Some(TakenClient::Continued), None));
        }
    }

    #[test]
    fn present_settings_decide_about_a_client_that_has_moved() {
        let mut pool = Pool::standalone();
        let bytes = bytes_of_client(&authenticator("old", SECRET, "subscribe = [\"a\"]"), &mut pool);
        let settings = authenticator("rights", SECRET, "subscribe = [\"b\"]");
        let mut changed = gate(Some(&settings));
        assert_eq!(
            changed.take_client(token(0), &mut &bytes[..], &mut pool, 0),
            Some(TakenClient::Continued)
        );
        let client = changed.client(token(0)).expect("known");
        assert!(client.rights().name(echoring_auth::Right::Subscribe, "b"));
        changed.forget(token(0), &mut pool);
        let mut withdrawn = gate(Some(&authenticator("other", "fedcba9876543210", "")));
        let taken = withdrawn.take_client(token(0), &mut &bytes[..], &mut pool, 0);
        assert_eq!(taken, Some(TakenClient::Withdrawn));
        assert_eq!(withdrawn.client(token(0)).map(Identity::subject), Some("alice"), "until it is closed");
        withdrawn.forget(token(0), &mut pool);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn a_client_without_room_in_memory_is_withdrawn() {
        let mut pool = Pool::standalone();
        let settings = authenticator("memory", SECRET, "");
        let bytes = bytes_of_client(&settings, &mut pool);
        let mut full = Pool::new(Budget::new(16));
        let mut gate = gate(Some(&settings));
        let taken = gate.take_client(token(0), &mut &bytes[..], &mut full, 0);
        assert_eq!(
            (taken, gate.client(token(0)), full.used_bytes()),
            (Some(TakenClient::Withdrawn), None, 0)
        );
    }

    #[test]
    fn a_client_is_told_once_that_its_credentials_expire() {
        let mut pool = Pool::standalone();
        let settings = authenticator("expiry", SECRET, "expires = 2100-01-01T00:00:00Z");
        let mut bytes = bytes_of_client(&settings, &mut pool);
        let expires =
            |gate: &Gate| gate.client(token(0)).and_then(Identity::expires_at).map(|at| at - unix_now());
        for is_noticed in [false, true] {
            let mut gate = gate(Some(&settings));
            let taken = gate.take_client(token(0), &mut &bytes[..], &mut pool, 0);
            assert_eq!(taken, Some(TakenClient::Continued));
            let left = expires(&gate).expect("expires") * SECOND;
            assert_eq!(gate.deadline().is_some_and(|at| at + 10 * SECOND > left), is_noticed);
            if !is_noticed {
                assert_eq!(gate.pop_due(left), Some((token(0), Due::Notice)));
                bytes.clear();
                gate.put_client(token(0), &mut bytes);
            }
            gate.forget(token(0), &mut pool);
        }
    }

    #[test]
    fn malformed_bytes_make_no_client() {
        let mut pool = Pool::standalone();
        let settings = authenticator("malformed", SECRET, "subscribe = [\"a\"]");
        let bytes = bytes_of_client(&settings, &mut pool);
        let mut gate = gate(Some(&settings));
        for end in 0..bytes.len() {
            assert_eq!(gate.take_client(token(0), &mut &bytes[..end], &mut pool, 0), None);
        }
        assert_eq!(gate.take_client(token(0), &mut &[3][..], &mut pool, 0), None);
        assert_eq!((gate.client(token(0)), pool.used_bytes()), (None, 0));
    }
}
