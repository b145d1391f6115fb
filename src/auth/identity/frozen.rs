//! An identity as bytes, which another shard or another process continues with.
//!
//! They are trusted as little as those of a peer: reading them never panics, keeps every limit of credentials, and uses memory in
//! proportion to their length. They contain a digest of the credentials and are not for logs.

use bytes::{Buf as _, BufMut as _};
use echoring_topics::limits::TOPIC_BYTES_MAX;
use serde_json::value::RawValue;

use super::app_data::AppData;
use super::info::Info;
use super::patterns::Patterns;
use super::server_subscriptions::{ServerSubscription, ServerSubscriptions};
use super::{Identity, Method, Rights};
use crate::limits::{PATTERNS_MAX, SERVER_SUBSCRIPTIONS_MAX, SUBJECT_BYTES_MAX};

// Every length but that of data is one byte.
const _: () = assert!(SUBJECT_BYTES_MAX <= 255 && TOPIC_BYTES_MAX <= 255);
const _: () = assert!(PATTERNS_MAX <= 255 && SERVER_SUBSCRIPTIONS_MAX <= 255);

/// The version of the format. Bytes of another one are refused.
const VERSION: u8 = 2;

/// A method is its place in this list. New ones are appended.
const METHODS: [Method; 6] =
    [Method::Token, Method::Jwt, Method::Password, Method::Hook, Method::Certificate, Method::ConnectHook];

impl Identity {
    /// Appends the identity to `out`.
    #[doc(hidden)]
    pub fn freeze(&self, out: &mut Vec<u8>) {
        let Identity { subject, number: _, method, rights, expires_at, subscriptions, info, credential } =
            self;
        let Rights { subscribe, publish, presence, history } = rights;
        out.put_u8(VERSION);
        // A method that is not in the list is refused when it is read.
        out.put_u8(METHODS.iter().position(|other| other == method).unwrap_or(METHODS.len()) as u8);
        text(out, subject);
        patterns(out, subscribe);
        patterns(out, publish);
        option(out, presence.as_ref(), patterns);
        option(out, history.as_ref(), patterns);
        option(out, expires_at.as_ref(), |out, at| out.put_u64_le(*at));
        option(out, credential.as_ref(), |out, digest| out.put_slice(digest));
        out.put_u8(subscriptions.0.len() as u8);
        for ServerSubscription { channel, data, info, expire_at } in &subscriptions.0 {
            text(out, channel);
            option(out, data.as_ref(), app_data);
            put_info(out, info);
            option(out, expire_at.as_ref(), |out, at| out.put_u64_le(*at));
        }
        put_info(out, info);
    }

    /// The identity that `from` begins with, which is left with the bytes behind it. `None` if there is none of this version, or
    /// credentials could not give it.
    #[doc(hidden)]
    pub fn thaw(from: &mut &[u8]) -> Option<Identity> {
        if from.try_get_u8().ok()? != VERSION {
            return None;
        }
        let method = *METHODS.get(usize::from(from.try_get_u8().ok()?))?;
        let subject = read_text(from)?;
        let rights = Rights {
            subscribe: read_patterns(from)?,
            publish: read_patterns(from)?,
            presence: read_option(from, read_patterns)?,
            history: read_option(from, read_patterns)?,
        };
        let expires_at = read_option(from, |from| from.try_get_u64_le().ok())?;
        let credential = read_option(from, |from| from.split_off(..32)?.try_into().ok())?;
        let subscriptions = read_subscriptions(from)?;
        let info = read_info(from)?;
        let identity = Identity::new(subject, method, rights, expires_at)?.with_subscriptions(subscriptions);
        Some(Identity { credential, info, ..identity })
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.put_u8(text.len() as u8);
    out.put_slice(text.as_bytes());
}

fn read_text<'a>(from: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::from(from.try_get_u8().ok()?);
    str::from_utf8(from.split_off(..length)?).ok()
}

fn option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl Fn(&mut Vec<u8>, &T)) {
    out.put_u8(value.is_some().into());
    if let Some(value) = value {
        put(out, value);
    }
}

fn read_option<'a, T>(from: &mut &'a [u8], read: impl Fn(&mut &'a [u8]) -> Option<T>) -> Option<Option<T>> {
    match from.try_get_u8().ok()? {
        0 => Some(None),
        1 => read(from).map(Some),
        _ => None,
    }
}

fn patterns(out: &mut Vec<u8>, patterns: &Patterns) {
    out.put_u8(patterns.0.len() as u8);
    patterns.0.iter().for_each(|pattern| text(out, pattern.text()));
}

fn read_patterns(from: &mut &[u8]) -> Option<Patterns> {
    let count = from.try_get_u8().ok()?;
    let texts = (0..count).map(|_| read_text(from)).collect::<Option<Vec<&str>>>()?;
    Patterns::new(texts)
}

fn app_data(out: &mut Vec<u8>, data: &AppData) {
    out.put_u8(matches!(data, AppData::Bytes(_)).into());
    out.put_u32_le(data.bytes().len() as u32);
    out.put_slice(data.bytes());
}

fn read_app_data(from: &mut &[u8]) -> Option<AppData> {
    let kind = from.try_get_u8().ok()?;
    let length = usize::try_from(from.try_get_u32_le().ok()?).ok()?;
    let bytes = from.split_off(..length)?;
    match kind {
        0 => serde_json::from_slice::<&RawValue>(bytes).ok().map(|_| AppData::Json(bytes.to_vec())),
        1 => Some(AppData::Bytes(bytes.to_vec())),
        _ => None,
    }
}

fn put_info(out: &mut Vec<u8>, info: &Info) {
    out.put_u16_le(info.text().len() as u16);
    out.put_slice(info.text().as_bytes());
}

fn read_info(from: &mut &[u8]) -> Option<Info> {
    let length = usize::from(from.try_get_u16_le().ok()?);
    Info::of_text(str::from_utf8(from.split_off(..length)?).ok()?)
}

/// Each topic once, in the order of their names.
fn read_subscriptions(from: &mut &[u8]) -> Option<ServerSubscriptions> {
    let count = usize::from(from.try_get_u8().ok()?);
    let mut all: Vec<ServerSubscription> = Vec::new();
    for _ in 0..count {
        let channel = read_text(from)?;
        let is_behind = all.last().is_none_or(|last| *last.channel < *channel);
        if !is_behind || !(1..=TOPIC_BYTES_MAX).contains(&channel.len()) {
            return None;
        }
        let (data, info) = (read_option(from, read_app_data)?, read_info(from)?);
        let expire_at = read_option(from, |from| from.try_get_u64_le().ok())?;
        all.push(ServerSubscription { channel: channel.into(), data, info, expire_at });
    }
    (count <= SERVER_SUBSCRIPTIONS_MAX).then(|| ServerSubscriptions(all.into()))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;

    use super::*;
    use crate::identity::is_subject;
    use crate::identity::server_subscriptions::Listed;

    const LISTED: &str =
        r#"{"channels":["a"],"subs":{"b":{"data":{"x":[1]},"info":[2]},"c":{"b64data":"/w=="}}}"#;

    fn frozen(identity: &Identity) -> Vec<u8> {
        let mut out = Vec::new();
        identity.freeze(&mut out);
        out
    }

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
        assert!(METHODS.iter().all(|method| all.iter().any(|identity| identity.method == *method)));
        for identity in all {
            let mut bytes = frozen(&identity);
            bytes.extend(b"behind");
            let mut from = &bytes[..];
            let thawed = Identity::thaw(&mut from).expect("whole");
            assert!(thawed == identity, "{}", identity.subject);
            assert_eq!((thawed.number, from), (identity.number, &b"behind"[..]));
        }
    }

    #[test]
    fn a_prefix_is_no_identity() {
        for identity in identities() {
            let bytes = frozen(&identity);
            assert!((0..bytes.len()).all(|end| Identity::thaw(&mut &bytes[..end]).is_none()));
        }
    }

    #[test]
    fn limits_of_credentials_are_kept() {
        let identity = |subject: &str, patterns: &[&str], channels: &[&str], data: Option<&AppData>| {
            let mut out = vec![VERSION, 0];
            text(&mut out, subject);
            out.put_u8(patterns.len() as u8);
            patterns.iter().for_each(|pattern| text(&mut out, pattern));
            out.extend([0; 5]);
            out.put_u8(channels.len() as u8);
            for channel in channels {
                text(&mut out, channel);
                option(&mut out, data, app_data);
                out.extend([0; 3]);
            }
            out.extend([0; 2]);
            Identity::thaw(&mut &out[..])
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
    fn other_versions_and_methods_are_refused() {
        let bytes = frozen(&identities()[0]);
        let changed = |at: usize, to: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = to;
            Identity::thaw(&mut &bytes[..])
        };
        assert!(changed(0, VERSION).is_some() && changed(0, VERSION + 1).is_none());
        assert!(changed(1, METHODS.len() as u8).is_none());
    }

    proptest! {
        #[test]
        fn any_identity_is_read_back(
            subject in "\\PC{1,40}",
            method in 0..METHODS.len(),
            lists in (vec("\\PC{1,20}", 0..4), vec(".{1,20}", 0..4), of(vec("[a-z*.]{1,9}", 0..4)), of(vec("a", 0..4))),
            expires_at in of(any::<u64>()),
            credential in of(any::<[u8; 32]>()),
        ) {
            prop_assume!(is_subject(&subject));
            let rights = Rights::of_lists(lists.0, lists.1, lists.2, lists.3).expect("valid");
            let identity = Identity::new(&subject, METHODS[method], rights, expires_at).expect("a subject");
            let identity = Identity { credential, ..identity };
            prop_assert!(Identity::thaw(&mut &frozen(&identity)[..]) == Some(identity));
        }

        #[test]
        fn changed_bytes_are_read_without_panic_and_hold_no_more_than_they_are_long(
            which in 0..7_usize,
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = frozen(&identities()[which]);
            for (at, to) in changes {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            if let Some(identity) = Identity::thaw(&mut &bytes[..]) {
                // A pattern of one byte is two bytes, and an allocation beside its place in the list.
                prop_assert!(identity.held_bytes() <= 1_024 + 32 * bytes.len());
                prop_assert!(Identity::thaw(&mut &frozen(&identity)[..]) == Some(identity));
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..400)) {
            let _ = Identity::thaw(&mut &bytes[..]);
            let versioned = [&[VERSION, 1][..], &bytes].concat();
            let _ = Identity::thaw(&mut &versioned[..]);
        }
    }
}
