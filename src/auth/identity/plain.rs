//! An identity as bytes, which another shard or another process continues with.
//!
//! They are trusted as little as those of a peer: reading them never panics, keeps every limit of credentials, and uses memory in
//! proportion to their length. They contain a digest of the credentials and are not for logs.

use echoring_proto::{Plain, plain};
use echoring_topics::limits::TOPIC_BYTES_MAX;
use serde_json::value::RawValue;

use super::app_data::AppData;
use super::patterns::Patterns;
use super::server_subscriptions::{ServerSubscription, ServerSubscriptions};
use super::{Identity, Method, Rights};
use crate::limits::SERVER_SUBSCRIPTIONS_MAX;

/// Its number follows from its subject.
impl Plain<'_> for Identity {
    fn put(&self, out: &mut Vec<u8>) {
        let Identity { subject, number: _, method, rights, expires_at, subscriptions, info, credential } =
            self;
        (&**subject).put(out);
        method.put(out);
        rights.put(out);
        expires_at.put(out);
        credential.put(out);
        subscriptions.put(out);
        info.put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Identity> {
        let subject = Plain::take(from)?;
        let (method, rights) = (Plain::take(from)?, Plain::take(from)?);
        let identity = Identity::new(subject, method, rights, Plain::take(from)?)?;
        let (credential, subscriptions) = (Plain::take(from)?, Plain::take(from)?);
        let identity = identity.with_subscriptions(subscriptions);
        Some(Identity { credential, info: Plain::take(from)?, ..identity })
    }
}

impl Plain<'_> for Patterns {
    fn put(&self, out: &mut Vec<u8>) {
        self.texts().collect::<Vec<_>>().put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Patterns> {
        Patterns::new(Vec::<&str>::take(from)?)
    }
}

plain!(for enum AppData { Json(bytes), Bytes(bytes) } where |data| match data {
    AppData::Json(bytes) => serde_json::from_slice::<&RawValue>(bytes).is_ok(),
    AppData::Bytes(_) => true,
});

// Each topic once, in the order of their names.
plain!(for ServerSubscriptions(all) where |ServerSubscriptions(all)| {
    all.len() <= SERVER_SUBSCRIPTIONS_MAX && all.is_sorted_by(|one, next| one.channel < next.channel)
});

plain! {
    for enum Method { Token, Jwt, Password, Hook, Certificate, ConnectHook }
    for Rights { subscribe, publish, presence, history }
    for ServerSubscription {
        channel where |channel| (1..=TOPIC_BYTES_MAX).contains(&channel.len()),
        data,
        info,
        expire_at,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;

    use super::*;
    use crate::identity::info::Info;
    use crate::identity::is_subject;
    use crate::identity::server_subscriptions::Listed;
    use crate::limits::{PATTERNS_MAX, SUBJECT_BYTES_MAX};

    const LISTED: &str =
        r#"{"channels":["a"],"subs":{"b":{"data":{"x":[1]},"info":[2]},"c":{"b64data":"/w=="}}}"#;

    fn list(patterns: usize) -> Patterns {
        Patterns::new((0..patterns).map(|number| format!("t.{number}.*"))).expect("valid")
    }

    /// Identities as each method makes them, and the largest one.
    fn identities() -> Vec<Identity> {
        let rights = |presence, history| Rights { subscribe: list(3), publish: list(0), presence, history };
        let new = |subject, method, rights, expires_at| {
            Identity::new(subject, method, rights, expires_at).expect("a subject")
        };
        let listed: Listed<'_> = serde_json::from_str(LISTED).expect("valid");
        let listed = listed.subscriptions().expect("valid");
        let mut expiring = listed.clone();
        expiring.0[1].expire_at = Some(5);
        let long = "s".repeat(SUBJECT_BYTES_MAX);
        let all = Rights {
            subscribe: list(PATTERNS_MAX),
            publish: list(PATTERNS_MAX),
            presence: Some(list(PATTERNS_MAX)),
            history: Some(list(PATTERNS_MAX)),
        };
        vec![
            new("alice", Method::Token, rights(None, Some(list(0))), Some(1_000)).with_credential([7; 32]),
            new("a:b", Method::Jwt, rights(Some(list(1)), None), Some(u64::MAX)).with_subscriptions(listed),
            new("bob", Method::Password, Rights::default(), None).with_credential([0xFF; 32]),
            new("ü@example", Method::Hook, rights(None, None), Some(0)).with_subscriptions(expiring),
            Identity::authenticated("CN=bob", Method::Certificate, Some(9)).expect("a subject"),
            Identity::authenticated("carol", Method::ConnectHook, None)
                .expect("a subject")
                .with_info(Info::of_text("{\"name\":\"Carol\"}").expect("valid")),
            new(&long, Method::Hook, all, None).with_credential([1; 32]),
        ]
    }

    #[test]
    fn identities_of_every_method_are_read_back() {
        let all = identities();
        assert!(Method::ALL.iter().all(|method| all.iter().any(|identity| identity.method == *method)));
        for identity in all {
            let mut bytes = identity.encode();
            bytes.extend(b"behind");
            let mut from = &bytes[..];
            let read = Identity::take(&mut from).expect("whole");
            assert!(read == identity, "{}", identity.subject);
            assert_eq!((read.number, from), (identity.number, &b"behind"[..]));
        }
    }

    #[test]
    fn a_prefix_is_no_identity() {
        for identity in identities() {
            let bytes = identity.encode();
            assert!((0..bytes.len()).all(|end| Identity::take(&mut &bytes[..end]).is_none()));
        }
    }

    #[test]
    fn limits_of_credentials_are_kept() {
        let identity = |subject: &str, patterns: &[&str], channels: &[&str], data: Option<&AppData>| {
            let mut out = Vec::new();
            subject.put(&mut out);
            Method::Token.put(&mut out);
            patterns.to_vec().put(&mut out);
            out.extend([0; 4 + 4]);
            (channels.len() as u32).put(&mut out);
            for channel in channels {
                channel.put(&mut out);
                data.cloned().put(&mut out);
                out.extend([0; 4 + 1]);
            }
            out.extend([0; 4]);
            Identity::take(&mut &out[..])
        };
        let json = |text: &str| Some(AppData::Json(text.into()));
        assert!(identity("a", &["a.*"], &["a", "b"], json("[1]").as_ref()).is_some());
        assert!(identity("", &[], &[], None).is_none());
        assert!(identity("a\n", &[], &[], None).is_none());
        assert!(identity("a", &[""], &[], None).is_none());
        assert!(identity("a", &["a"; PATTERNS_MAX + 1], &[], None).is_none());
        assert!(identity("a", &[], &[""], None).is_none());
        assert!(identity("a", &[], &["a", "a"], None).is_none());
        assert!(identity("a", &[], &["a"], json("[1").as_ref()).is_none());
        assert!(identity("a", &[], &["a"], json("1 2").as_ref()).is_none());
        let many: Vec<String> = (0..=SERVER_SUBSCRIPTIONS_MAX).map(|number| format!("{number:03}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(identity("a", &[], &many[1..], None).is_some());
        assert!(identity("a", &[], &many, None).is_none());
    }

    #[test]
    fn other_methods_are_refused() {
        let identity = &identities()[0];
        let mut bytes = identity.encode();
        let at = 4 + identity.subject.len();
        for number in 0..=Method::ALL.len() {
            bytes[at] = number as u8;
            assert_eq!(
                Identity::take(&mut &bytes[..]).map(|read| read.method),
                Method::ALL.get(number).copied()
            );
        }
    }

    proptest! {
        #[test]
        fn any_identity_is_read_back(
            subject in "\\PC{1,40}",
            method in 0..Method::ALL.len(),
            lists in (vec("\\PC{1,20}", 0..4), vec(".{1,20}", 0..4), of(vec("[a-z*.]{1,9}", 0..4)), of(vec("a", 0..4))),
            expires_at in of(any::<u64>()),
            credential in of(any::<[u8; 32]>()),
        ) {
            prop_assume!(is_subject(&subject));
            let rights = Rights::of_lists(lists.0, lists.1, lists.2, lists.3).expect("valid");
            let identity = Identity::new(&subject, Method::ALL[method], rights, expires_at).expect("a subject");
            let identity = Identity { credential, ..identity };
            prop_assert!(Identity::take(&mut &identity.encode()[..]) == Some(identity));
        }

        #[test]
        fn changed_bytes_are_read_without_panic_and_hold_no_more_than_they_are_long(
            which in 0..7_usize,
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = identities()[which].encode();
            for (at, to) in changes {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            if let Some(identity) = Identity::take(&mut &bytes[..]) {
                // A pattern of one byte is two bytes, and an allocation beside its place in the list.
                prop_assert!(identity.held_bytes() <= 1_024 + 32 * bytes.len());
                prop_assert!(Identity::take(&mut &identity.encode()[..]) == Some(identity));
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..400)) {
            let _ = Identity::take(&mut &bytes[..]);
            let named = [&"a".encode()[..], &bytes].concat();
            let _ = Identity::take(&mut &named[..]);
        }
    }
}
