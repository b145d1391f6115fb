//! The client of a connection as bytes, which move with the connection to another shard or another process.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};
use echoring_auth::Identity;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;

use super::{Gate, unix_now};

const NO_CLIENT: u8 = 0;
const CLIENT: u8 = 1;
/// A client that was told that its credentials expire soon.
const NOTICED_CLIENT: u8 = 2;

/// The client of a connection that has moved, or the reason why it cannot go on here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Thawed {
    /// It goes on, with its client or without one.
    Continued,
    /// The present settings do not let its client in, or there is no memory for it. The connection is closed as one whose credentials
    /// were withdrawn.
    Withdrawn,
}

impl Gate {
    /// Appends the client of a connection to `out`, or that it has none. The connection is [forgotten](Gate::forget) when it has moved.
    pub fn freeze_client(&self, token: Token, out: &mut Vec<u8>) {
        let Some(client) = self.client(token) else { return out.put_u8(NO_CLIENT) };
        out.put_u8(if self.known.is_noticed(token) { NOTICED_CLIENT } else { CLIENT });
        client.freeze(out);
    }

    /// Makes the client that `from` begins with that of a connection. It is not counted as another login. The present settings decide
    /// about it as [`configure`](Gate::configure) does: none let everybody stay, and clients without a name stay with all of them.
    /// `None` if the bytes are malformed.
    pub fn thaw_client(
        &mut self,
        token: Token,
        from: &mut &[u8],
        pool: &mut Pool,
        now: Nanos,
    ) -> Option<Thawed> {
        let is_noticed = match from.try_get_u8().ok()? {
            NO_CLIENT => return Some(Thawed::Continued),
            CLIENT => false,
            NOTICED_CLIENT => true,
            _ => return None,
        };
        let client = Arc::new(Identity::thaw(from)?);
        if !self.known.insert(token, &client, pool, now, unix_now()) {
            return Some(Thawed::Withdrawn);
        }
        self.quotas.resume_connection(token, client.subject(), now);
        if is_noticed {
            self.known.note_noticed(token);
        }
        // A client that is withdrawn stays known until its connection is closed.
        let stays = self.renew(token, &client, pool, now);
        Some(if stays { Thawed::Continued } else { Thawed::Withdrawn })
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
        let name = format!("echoring-gate-frozen-{test}-{}", std::process::id());
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
    fn frozen(authenticator: &Arc<Authenticator>, pool: &mut Pool) -> Vec<u8> {
        let mut gate = gate(Some(authenticator));
        let presented = Presented::Credentials(Credentials::Token(SECRET.into()));
        let Verdict::Known(client) = authenticator.check(&presented, unix_now()) else { panic!("unknown") };
        gate.let_in(token(3), &client, pool, 0).expect("room");
        let mut out = Vec::new();
        gate.freeze_client(token(3), &mut out);
        gate.forget(token(3), pool);
        assert_eq!(pool.used_bytes(), 0);
        out
    }

    #[test]
    fn a_client_moves_once_and_is_no_other_login() {
        let (mut pool, settings) =
            (Pool::standalone(), authenticator("moves", SECRET, "subscribe = [\"a\"]"));
        let bytes = [&frozen(&settings, &mut pool)[..], b"behind"].concat();
        for mut gate in [gate(Some(&settings)), gate(None)] {
            let mut from = &bytes[..];
            assert_eq!(gate.thaw_client(token(5), &mut from, &mut pool, 9), Some(Thawed::Continued));
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
        gate(None).freeze_client(token(1), &mut bytes);
        for mut gate in [gate(None), gate(Some(&authenticator("anonymous", SECRET, "")))] {
            let thawed = gate.thaw_client(token(1), &mut &bytes[..], &mut pool, 0);
            assert_eq!((thawed, gate.client(token(1))), (Some(Thawed::Continued), None));
        }
    }

    #[test]
    fn present_settings_decide_about_a_client_that_has_moved() {
        let mut pool = Pool::standalone();
        let bytes = frozen(&authenticator("old", SECRET, "subscribe = [\"a\"]"), &mut pool);
        let settings = authenticator("rights", SECRET, "subscribe = [\"b\"]");
        let mut changed = gate(Some(&settings));
        assert_eq!(changed.thaw_client(token(0), &mut &bytes[..], &mut pool, 0), Some(Thawed::Continued));
        let client = changed.client(token(0)).expect("known");
        assert!(client.rights().name(echoring_auth::Right::Subscribe, "b"));
        changed.forget(token(0), &mut pool);
        let mut withdrawn = gate(Some(&authenticator("other", "fedcba9876543210", "")));
        let thawed = withdrawn.thaw_client(token(0), &mut &bytes[..], &mut pool, 0);
        assert_eq!(thawed, Some(Thawed::Withdrawn));
        assert_eq!(withdrawn.client(token(0)).map(Identity::subject), Some("alice"), "until it is closed");
        withdrawn.forget(token(0), &mut pool);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn a_client_without_room_in_memory_is_withdrawn() {
        let mut pool = Pool::standalone();
        let settings = authenticator("memory", SECRET, "");
        let bytes = frozen(&settings, &mut pool);
        let mut full = Pool::new(Budget::new(16));
        let mut gate = gate(Some(&settings));
        let thawed = gate.thaw_client(token(0), &mut &bytes[..], &mut full, 0);
        assert_eq!((thawed, gate.client(token(0)), full.used_bytes()), (Some(Thawed::Withdrawn), None, 0));
    }

    #[test]
    fn a_client_is_told_once_that_its_credentials_expire() {
        let mut pool = Pool::standalone();
        let settings = authenticator("expiry", SECRET, "expires = 2100-01-01T00:00:00Z");
        let mut bytes = frozen(&settings, &mut pool);
        let expires =
            |gate: &Gate| gate.client(token(0)).and_then(Identity::expires_at).map(|at| at - unix_now());
        for is_noticed in [false, true] {
            let mut gate = gate(Some(&settings));
            let thawed = gate.thaw_client(token(0), &mut &bytes[..], &mut pool, 0);
            assert_eq!(thawed, Some(Thawed::Continued));
            let left = expires(&gate).expect("expires") * SECOND;
            assert_eq!(gate.deadline().is_some_and(|at| at + 10 * SECOND > left), is_noticed);
            if !is_noticed {
                assert_eq!(gate.pop_due(left), Some((token(0), Due::Notice)));
                bytes.clear();
                gate.freeze_client(token(0), &mut bytes);
            }
            gate.forget(token(0), &mut pool);
        }
    }

    #[test]
    fn malformed_bytes_make_no_client() {
        let mut pool = Pool::standalone();
        let settings = authenticator("malformed", SECRET, "subscribe = [\"a\"]");
        let bytes = frozen(&settings, &mut pool);
        let mut gate = gate(Some(&settings));
        for end in 0..bytes.len() {
            assert_eq!(gate.thaw_client(token(0), &mut &bytes[..end], &mut pool, 0), None);
        }
        assert_eq!(gate.thaw_client(token(0), &mut &[3][..], &mut pool, 0), None);
        assert_eq!((gate.client(token(0)), pool.used_bytes()), (None, 0));
    }
}
