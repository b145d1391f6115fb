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
