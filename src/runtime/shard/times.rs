//! The times of connections: those of all, and those that routes set.

use std::sync::Arc;

use echoring_proto::connection::{MessageProgress, Times};
use echoring_proto::limits::Nanos;

/// How long connections last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// The longest time from the handshake to the Close; 0 for no limit. Each connection gets up to a tenth less, at random, so that
    /// connections that began together do not end together.
    pub max_lifetime: Nanos,
    /// The longest time without a message in either direction; 0 for no limit. Control frames and comments are no messages.
    pub idle_timeout: Nanos,
}

/// The times that a route sets. Where it sets none, those of the server apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTimes {
    /// The least progress of a message that has begun.
    pub message_progress: Option<MessageProgress>,
    /// Silence after which a ping is sent; 0 for never.
    pub ping_interval: Option<Nanos>,
    /// From the ping to the next byte of the peer.
    pub pong_timeout: Option<Nanos>,
    /// See [`Lifetime::max_lifetime`].
    pub max_lifetime: Option<Nanos>,
    /// See [`Lifetime::idle_timeout`].
    pub idle_timeout: Option<Nanos>,
}

/// The times of connections that are not in their [configuration](echoring_proto::connection::ConnectionConfig).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimesConfig {
    /// How long connections last.
    pub lifetime: Lifetime,
    /// The times that routes set, by the names of the routes.
    pub routes: Vec<(Arc<str>, RouteTimes)>,
}

/// How long ago something was that a connection brings along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ages {
    /// Its handshake.
    pub(super) began: Nanos,
    /// Its last message.
    pub(super) message: Nanos,
}

echoring_proto::plain!(for Ages { began, message });

impl RouteTimes {
    /// The times of the route's connections.
    pub(super) fn over(&self, server: Times) -> Times {
        Times {
            message_progress: self.message_progress.unwrap_or(server.message_progress),
            ping_interval: self.ping_interval.unwrap_or(server.ping_interval),
            pong_timeout: self.pong_timeout.unwrap_or(server.pong_timeout),
        }
    }

    /// How long the route's connections last.
    pub(super) fn lifetime_over(&self, server: Lifetime) -> Lifetime {
        Lifetime {
            max_lifetime: self.max_lifetime.unwrap_or(server.max_lifetime),
            idle_timeout: self.idle_timeout.unwrap_or(server.idle_timeout),
        }
    }
}
