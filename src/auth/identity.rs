//! An authenticated client: its subject, what its credentials allow, and until when.

pub(crate) mod app_data;
pub(crate) mod info;
pub(crate) mod memory;
pub(crate) mod patterns;
mod plain;
pub(crate) mod server_subscriptions;

use std::fmt;

use echoring_proto::happenings;
use echoring_topics::{Access, Permission, names};

use self::info::Info;
use self::memory::allocated;
use self::patterns::Patterns;
use self::server_subscriptions::ServerSubscriptions;
use crate::limits::SUBJECT_BYTES_MAX;

pub use echoring_topics::Right;

happenings! {
    /// How a client was authenticated.
    ///
    /// ```
    /// # use echoring_auth::{Identity, Method as AuthMethod};
    /// /// Whether a client may be logged out for all.
    /// fn is_of_a_person(client: &Identity) -> bool {
    ///     matches!(client.method(), AuthMethod::Password | AuthMethod::Jwt)
    /// }
    /// ```
    #[non_exhaustive]
    pub enum Method: word {
        /// A token of the token file.
        Token = "token",
        /// A JSON Web Token.
        Jwt = "jwt",
        /// A user name and a password of the password file.
        Password = "password",
        /// The HTTP hook.
        Hook = "hook",
        /// A TLS client certificate.
        Certificate = "certificate",
        /// The application's connect hook.
        ConnectHook = "connect-hook",
    }
}

/// The topics that credentials name, by right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rights {
    pub(crate) subscribe: Patterns,
    pub(crate) publish: Patterns,
    /// `None`: as `subscribe`.
    pub(crate) presence: Option<Patterns>,
    /// `None`: as `subscribe`.
    pub(crate) history: Option<Patterns>,
}

impl Rights {
    /// The rights in the lists of a file.
    pub(crate) fn of_lists(
        subscribe: Vec<String>,
        publish: Vec<String>,
        presence: Option<Vec<String>>,
        history: Option<Vec<String>>,
    ) -> Result<Rights, String> {
        let list = |name: &str, patterns: Vec<String>| {
            Patterns::new(patterns).ok_or(format!("{name}: too many patterns, or one that matches no topic"))
        };
        Ok(Rights {
            subscribe: list("subscribe", subscribe)?,
            publish: list("publish", publish)?,
            presence: presence.map(|patterns| list("presence", patterns)).transpose()?,
            history: history.map(|patterns| list("history", patterns)).transpose()?,
        })
    }

    /// Whether the credentials name a topic for a right.
    pub fn name(&self, right: Right, topic: &str) -> bool {
        match right {
            Right::Subscribe => &self.subscribe,
            Right::Publish => &self.publish,
            Right::Presence => self.presence.as_ref().unwrap_or(&self.subscribe),
            Right::History => self.history.as_ref().unwrap_or(&self.subscribe),
        }
        .fit(topic)
    }

    fn held_bytes(&self) -> usize {
        let Rights { subscribe, publish, presence, history } = self;
        let optional = [presence, history].into_iter().flatten();
        [subscribe, publish].into_iter().chain(optional).map(Patterns::held_bytes).sum()
    }
}

/// An authenticated client.
///
/// ```
/// # use echoring_auth::Identity;
/// fn greeting(client: &Identity) -> String {
///     format!("hello, {}, by {}", client.subject(), client.method().word())
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    subject: Box<str>,
    number: u64,
    method: Method,
    rights: Rights,
    /// When the credentials expire, in seconds since 1970.
    expires_at: Option<u64>,
    /// The subscriptions that the server makes for its sessions.
    subscriptions: ServerSubscriptions,
    /// Data of the application about it.
    info: Info,
    /// A digest of the credentials, for methods whose credentials can be withdrawn.
    pub(crate) credential: Option<[u8; 32]>,
}

// The subject is personal data, and the rest is long.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("method", &self.method).finish_non_exhaustive()
    }
}

impl Identity {
    /// `None` if `subject` is not a [valid subject](is_subject).
    pub(crate) fn new(
        subject: &str,
        method: Method,
        rights: Rights,
        expires_at: Option<u64>,
    ) -> Option<Identity> {
        let number = is_subject(subject).then(|| number_of(subject))?;
        let (subscriptions, info) = (ServerSubscriptions::default(), Info::default());
        let subject = subject.into();
        Some(Identity { subject, number, method, rights, expires_at, subscriptions, info, credential: None })
    }

    /// A client with the rights of [`Authenticated`](Permission::Authenticated) clients and no others, as verified TLS certificates
    /// and the application's connect hook give them. `None` for a subject that is empty, too long, or has control characters.
    pub(crate) fn authenticated(subject: &str, method: Method, expires_at: Option<u64>) -> Option<Identity> {
        Identity::new(subject, method, Rights::default(), expires_at)
    }

    pub(crate) fn with_subscriptions(self, subscriptions: ServerSubscriptions) -> Identity {
        Identity { subscriptions, ..self }
    }

    /// The same client, with other data about it.
    #[doc(hidden)]
    pub fn with_info(self, info: Info) -> Identity {
        Identity { info, ..self }
    }

    pub(crate) fn with_credential(self, digest: [u8; 32]) -> Identity {
        Identity { credential: Some(digest), ..self }
    }

    /// The name of the client.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Stands for the subject where counts are kept: equal for equal subjects, in every process, and never 0.
    #[doc(hidden)]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How the client was authenticated.
    pub fn method(&self) -> Method {
        self.method
    }

    /// When the credentials expire, in seconds since 1970, leeway included.
    pub fn expires_at(&self) -> Option<u64> {
        self.expires_at
    }

    /// The topics that the credentials name.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    /// The subscriptions that the server makes for its sessions of Centrifuge's protocol.
    #[doc(hidden)]
    pub fn subscriptions(&self) -> &ServerSubscriptions {
        &self.subscriptions
    }

    /// The same client, whose credentials expire at another time, in seconds since 1970.
    #[doc(hidden)]
    pub fn with_expiry(self, expires_at: Option<u64>) -> Identity {
        Identity { expires_at, ..self }
    }

    /// Data of the application about it, for others to see.
    #[doc(hidden)]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Bytes of a shared identity, with the allocator's overhead on its parts.
    #[doc(hidden)]
    pub fn held_bytes(&self) -> usize {
        let counts = 2 * size_of::<usize>();
        let own = allocated(counts + size_of::<Identity>()) + allocated(self.subject.len());
        own + self.rights.held_bytes() + self.subscriptions.held_bytes() + allocated(self.info.text().len())
    }
}

/// Whether `subject` has 1 to [`SUBJECT_BYTES_MAX`] bytes without control characters.
pub(crate) fn is_subject(subject: &str) -> bool {
    (1..=SUBJECT_BYTES_MAX).contains(&subject.len()) && !subject.chars().any(char::is_control)
}

/// Whether a client may use a right on a topic with these permissions; `None` is a client without credentials.
pub fn may(client: Option<&Identity>, right: Right, access: &Access, topic: &str) -> bool {
    match (access.of(right), client) {
        (Permission::Everybody, _) | (Permission::Authenticated, Some(_)) => true,
        (Permission::Claim, Some(client)) => client.rights.name(right, topic),
        (Permission::Named, Some(client)) => names(topic, &client.subject),
        // A hook is asked elsewhere: whoever cannot wait for it may not. Who subscribes is known elsewhere, too.
        (Permission::Nobody | Permission::Operator | Permission::Hook | Permission::Subscriber, _)
        | (Permission::Authenticated | Permission::Claim | Permission::Named, None) => false,
    }
}

/// 63 bits of a digest, so that nobody finds a second subject with the same number.
fn number_of(subject: &str) -> u64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, subject.as_bytes());
    let first = digest.as_ref().iter().take(8);
    first.fold(0, |number, byte| number << 8 | u64::from(*byte)) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(subscribe: &str, publish: &str, presence: Option<&str>) -> Rights {
        let one = |pattern: &str| Patterns::new([pattern]).expect("valid");
        Rights {
            subscribe: one(subscribe),
            publish: one(publish),
            presence: presence.map(one),
            history: None,
        }
    }

    #[test]
    fn each_permission_includes_the_clients_that_its_name_says() {
        let rights = claims("a.*", "b", None);
        let known = Identity::new("alice", Method::Jwt, rights, None).expect("a subject");
        let plain = Identity::authenticated("CN=bob", Method::Certificate, None).expect("a subject");
        for (permission, expected) in [
            (Permission::Nobody, [false, false, false, false]),
            (Permission::Operator, [false, false, false, false]),
            (Permission::Hook, [false, false, false, false]),
            (Permission::Everybody, [true, true, true, true]),
            (Permission::Authenticated, [false, true, true, true]),
            (Permission::Claim, [false, false, false, true]),
            (Permission::Named, [false, false, false, false]),
            (Permission::Subscriber, [false, false, false, false]),
        ] {
            let access = Access { subscribe: permission, ..Access::default() };
            let clients = [(None, "a.x"), (Some(&plain), "a.x"), (Some(&known), "c"), (Some(&known), "a.x")];
            for ((client, topic), expected) in clients.into_iter().zip(expected) {
                assert_eq!(
                    may(client, Right::Subscribe, &access, topic),
                    expected,
                    "{permission:?} {client:?} {topic}"
                );
            }
        }
    }

    #[test]
    fn a_topic_names_subjects_behind_its_last_mark() {
        let access = Access { publish: Permission::Named, ..Access::default() };
        let alice = Identity::authenticated("alice", Method::Jwt, None).expect("a subject");
        for (topic, expected) in [
            ("#alice", true),
            ("x#alice", true),
            ("x#bob,alice,carol", true),
            ("x#bob#alice", true),
            ("x#alice#bob", false),
            ("x#alice2", false),
            ("x#Alice", false),
            ("x# alice", false),
            ("x#", false),
            ("alice", false),
            ("", false),
        ] {
            assert_eq!(may(Some(&alice), Right::Publish, &access, topic), expected, "{topic}");
            assert!(!may(None, Right::Publish, &access, topic), "{topic}");
        }
    }

    #[test]
    fn presence_and_history_follow_subscribe_unless_the_credentials_say_otherwise() {
        let rights = claims("a", "b", None);
        let named = |right: Right, topic: &str| rights.name(right, topic);
        assert!(named(Right::Presence, "a") && named(Right::History, "a") && named(Right::Publish, "b"));
        assert!(!named(Right::Publish, "a") && !named(Right::Presence, "b"));
        let rights = claims("a", "b", Some("c"));
        assert!(!rights.name(Right::Presence, "a") && rights.name(Right::Presence, "c"));
    }

    #[test]
    fn an_identity_holds_the_bytes_of_its_subject_and_of_all_its_patterns() {
        let held = |subject: &str, patterns: usize| {
            let list = Patterns::new(vec!["a.*"; patterns]).expect("valid");
            let rights = Rights { subscribe: list.clone(), history: Some(list), ..Rights::default() };
            Identity::new(subject, Method::Jwt, rights, None).expect("a subject").held_bytes()
        };
        assert!(held("a", 0) > size_of::<Identity>() + 16);
        assert!(held(&"a".repeat(255), 0) >= held("a", 0) + 254 - 16);
        assert!(held("a", 128) >= held("a", 0) + 2 * 128 * (size_of::<Box<str>>() + 3));
        assert!(held("a", 128) < 2 * 128 * 48 + 1_024, "{}", held("a", 128));
    }

    #[test]
    fn a_subject_is_short_and_shows_itself() {
        for subject in ["a", "CN=alice,O=example", "ü@example", &"s".repeat(SUBJECT_BYTES_MAX)] {
            assert!(is_subject(subject), "{subject:?}");
        }
        for subject in ["", "a\nb", "\0", "\u{85}", &"s".repeat(SUBJECT_BYTES_MAX + 1)] {
            assert!(!is_subject(subject), "{subject:?}");
        }
    }
}
