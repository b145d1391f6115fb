//! Permissions on a topic.

/// The rights of a client to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Receive its messages.
    Subscribe,
    /// Publish messages.
    Publish,
    /// Learn which other clients subscribe.
    Presence,
    /// Receive messages that were published before the subscription.
    History,
}

impl Right {
    /// All rights.
    pub const ALL: [Right; 4] = [Right::Subscribe, Right::Publish, Right::Presence, Right::History];

    /// The word for it in settings, tokens and errors.
    pub fn word(self) -> &'static str {
        match self {
            Right::Subscribe => "subscribe",
            Right::Publish => "publish",
            Right::Presence => "presence",
            Right::History => "history",
        }
    }
}

/// Who has a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// No one, not even the operator.
    Nobody,
    /// All clients, and the operator.
    Everybody,
    /// Clients that are authenticated, and the operator.
    Authenticated,
    /// Clients whose credentials name the topic, and the operator.
    Claim,
    /// Clients that the topic's own name lists, and the operator: see [`names`].
    Named,
    /// Clients that subscribe to the topic, and the operator. Of the right to subscribe it includes no client.
    Subscriber,
    /// The operator, at the admin address.
    Operator,
    /// Clients of Centrifuge's client protocol, as the application's hook decides about each request, and the operator.
    Hook,
}

impl Permission {
    /// Whether the operator has the right.
    pub fn includes_operator(self) -> bool {
        self != Permission::Nobody
    }

    /// Whether some client has the right.
    pub fn includes_clients(self) -> bool {
        !matches!(self, Permission::Nobody | Permission::Operator)
    }
}

/// Whether a topic's name lists a subject: behind its last `#`, where subjects stand with commas between them.
///
/// ```
/// use echoring_topics::names;
///
/// assert!(names("chat:7#alice,bob", "bob"));
/// assert!(!names("chat:7#alice,bob", "carol"));
/// assert!(!names("chat:7", "chat:7"));
/// ```
pub fn names(topic: &str, subject: &str) -> bool {
    topic.rsplit_once('#').is_some_and(|(_, subjects)| subjects.split(',').any(|listed| listed == subject))
}

/// The permissions of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Who may subscribe.
    pub subscribe: Permission,
    /// Who may publish.
    pub publish: Permission,
    /// The clients that get presence events and member lists, if their protocol supports them. The topic counts its
    /// subscribers unless this is `Nobody`.
    pub presence: Permission,
    /// The clients that are sent stored messages.
    pub history: Permission,
}

impl Access {
    /// Whether nobody may subscribe or publish, so that the topic does not exist for clients.
    pub fn is_unknown(&self) -> bool {
        [self.subscribe, self.publish] == [Permission::Nobody; 2]
    }

    /// Who has a right.
    pub fn of(&self, right: Right) -> Permission {
        match right {
            Right::Subscribe => self.subscribe,
            Right::Publish => self.publish,
            Right::Presence => self.presence,
            Right::History => self.history,
        }
    }
}

impl Default for Access {
    fn default() -> Access {
        Access {
            subscribe: Permission::Everybody,
            publish: Permission::Everybody,
            presence: Permission::Nobody,
            history: Permission::Everybody,
        }
    }
}
