//! Settings of a subscription.

use crate::{Position, TokenSource};

/// Settings of a subscription.
///
/// ```
/// use echoring::client::{Position, SubscribeOptions};
///
/// let stored = Position { epoch: "1f3a5c".to_owned(), offset: 42 };
/// let options = SubscribeOptions::from_position(stored).presence(true).queue_events(64);
/// assert!(options.presence);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
#[must_use]
pub struct SubscribeOptions {
    /// The position to resume from, such as one that an earlier run of the program has stored.
    pub position: Option<Position>,
    /// Asks for [`Event::Join`](crate::Event::Join) and [`Event::Leave`](crate::Event::Leave), where the protocol needs
    /// that: `echoring.v1.json` sends them wherever the topic has presence.
    pub presence: bool,
    /// Asks for delta compression: the server sends the changes since the previous message. It has an effect in
    /// Centrifuge's protocol, on topics that allow it. Messages have at most
    /// [`DELTA_MESSAGE_BYTES_MAX`](crate::limits::DELTA_MESSAGE_BYTES_MAX) bytes then. The client keeps the latest message of the
    /// subscription. If a delta does not fit, the client subscribes again from its position; after three of them, without deltas.
    pub deltas: bool,
    /// Where the tokens of the subscription come from, if it needs one: the first one, and fresh ones before or after they
    /// expire. [`Unauthorized`](crate::Unauthorized) ends the subscription with [`Ended::Token`](crate::Ended::Token), a token
    /// that the server refuses with [`Ended::Refused`](crate::Ended::Refused). Centrifuge's protocol only.
    pub token_source: Option<TokenSource>,
    /// Maximum number of events that wait to be read, 1,024 by default or with 0, and at least 4.
    pub queue_events: usize,
}

impl SubscribeOptions {
    /// Resumes from `position`.
    pub fn from_position(position: Position) -> SubscribeOptions {
        SubscribeOptions { position: Some(position), ..SubscribeOptions::default() }
    }

    /// Asks for joins and leaves.
    pub fn presence(self, wanted: bool) -> SubscribeOptions {
        SubscribeOptions { presence: wanted, ..self }
    }

    /// Asks for delta compression.
    ///
    /// ```
    /// use echoring::client::{Client, SubscribeError, SubscribeOptions, Subscription};
    ///
    /// async fn tables(client: &Client) -> Result<Subscription<Vec<String>>, SubscribeError> {
    ///     client.subscribe_with("tables.7", SubscribeOptions::default().deltas(true)).await
    /// }
    /// ```
    pub fn deltas(self, wanted: bool) -> SubscribeOptions {
        SubscribeOptions { deltas: wanted, ..self }
    }

    /// Fetches the tokens of the subscription.
    pub fn token_source(self, source: TokenSource) -> SubscribeOptions {
        SubscribeOptions { token_source: Some(source), ..self }
    }

    /// Maximum number of events that wait to be read.
    pub fn queue_events(self, events: usize) -> SubscribeOptions {
        SubscribeOptions { queue_events: events, ..self }
    }
}
