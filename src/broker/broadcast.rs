//! Broadcast on one shard: raw subscribers, whose messages go to all other subscribers of their topic, and sessions, which
//! speak `echoring.v1.json` or Centrifuge's client protocol, or only listen to an event stream. On all shards, messages are in
//! the order that the topic's owner gives.
//!
//! ```text
//! publisher's shard ──Publish──> owner shard ──Deliver──> each subscribing shard ──> its log ──> sockets
//!       (request lane: may wait)        (forward lane: always taken)
//! ```
//!
//! Shards exchange the published bytes; each encodes them for its own subscribers, once per encoding and window size.
//!
//! The parts own their state, and know only those before them: `session` (a connection's subscriptions), `sessions` (what they are
//! sent, through `events` in their `dialect`), `fan_out` (logs and local subscribers), `subscriptions` (the shard's subscriptions at
//! owner shards), `following` (topics of other nodes), `sequencer` (topics that this shard owns, with its requests to other owner
//! shards), `held_publications` (those that wait for room), `drain`, `order_stop`, `fence` and `settling` (of connections that move
//! between shards or processes). The other files are operations that need several
//! parts; no part knows them. `requests` has those of sessions; `centrifuge` turns the commands of that protocol into them.
//!
//! A full mailbox loses nothing: a publication that cannot be posted is held, and its publisher is not read. An owner takes
//! requests only while every forward lane has room for a whole message, and forwards are always taken. Two shards that
//! flood each other therefore both make progress.

mod ages;
mod app_calls;
mod centrifuge;
mod centrifuge_events;
mod centrifuge_session;
mod connecting;
pub(crate) mod connection_sink;
mod continued;
mod deltas;
mod described;
pub(crate) mod dialect;
pub mod direct;
mod drain;
mod draining;
mod event_stream;
mod events;
mod fan_out;
mod fence;
mod fencing;
mod filtering;
mod filters;
pub mod following;
mod forwards;
mod frame_encoder;
mod handing_over;
mod handler_events;
mod handler_topics;
mod held_commands;
mod held_publications;
mod history;
mod history_range;
mod ids;
mod inbox;
pub mod mail_codec;
mod members;
mod open_calls;
mod order_stop;
mod owner_reads;
mod pending_requests;
mod plain_peer;
mod plain_session;
mod presence;
mod presence_changes;
mod profiles;
pub mod publish;
mod refreshing;
mod replay;
mod reports;
mod request_history;
mod requests;
mod rights;
mod sequencer;
mod server_subscriptions;
pub(crate) mod session;
pub mod sessions;
mod settling;
pub mod shard_mail;
mod subscribe;
mod subscription_tokens;
mod subscriptions;
mod tick;
mod topic_events;
mod topic_read;
mod unanswered;
mod v1_events;
mod waiting_requests;
mod wanted;
mod watched;
mod webhook_events;
mod windows;

use std::collections::VecDeque;
use std::sync::Arc;

use echoring_auth::Webhooks;
use echoring_proto::buffer::{Lease, Pool};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{Lane, Shed};
use echoring_topics::{
    ClientId, CreationLimits, Creators, Importer, OwnedTopicId, OwnedTopics, Placement, Rules,
};

use crate::node_mail::RelayOutbox;
use crate::peer::{Context, HandlerPeer, Peer};
use ages::Ages;
pub use centrifuge::content_of;
pub use centrifuge_session::CentrifugeSession;
pub use deltas::payload;
use drain::Drain;
use fan_out::FanOut;
use fence::Fence;
use following::{Following, FollowingSettings};
pub use handing_over::StateCursor;
pub use handler_events::{HandlerEvent, HandlerEvents};
use held_publications::HeldPublications;
pub use history_range::HistoryRange;
pub use ids::{ConnectionId, Ids};
use order_stop::OrderStop;
#[doc(hidden)]
pub use plain_session::check_plain_peer;
use presence_changes::PresenceChanges;
use settling::Settling;

pub use sequencer::MAIL_OVERHEAD_BYTES;
use sequencer::Sequencer;
use sessions::Sessions;
pub use subscribe::TopicRequest;
use subscriptions::Subscriptions;
use topic_events::TopicEvents;
pub use topic_read::{TopicAnswer, TopicQuestion, TopicRead};
pub use watched::SessionNote;

/// Interval of the checks for slow consumers, heartbeats and expiry.
const CHECK_INTERVAL: Nanos = SECOND;
/// Delay before mail that found no room is tried again.
const RETRY_DELAY: Nanos = MILLISECOND;

/// The settings of a shard's broadcast.
#[derive(Debug)]
pub struct BroadcastSettings {
    /// The settings of topics, by name.
    pub rules: Rules,
    /// The shard's lease of the node's topics.
    pub topics: Lease,
    /// Maximum topics of one session.
    pub max_subscriptions: u32,
    /// The age of one delivery in so many is sampled; 0 for none.
    pub age_sample: u32,
    /// The node's creators of topics.
    pub creators: Creators,
    /// How many topics they may create.
    pub creation: CreationLimits,
    /// Maximum message size in bytes.
    pub max_message: u64,
    /// Makes the epochs of this run differ from those of others.
    pub seed: u64,
    /// Maps topics to owner shards; equal on all shards.
    pub placement: Placement,
    /// The number of the node's first shard. A successor's shards have other numbers.
    pub first_number: u8,
    /// The ids of its connections and clients.
    pub ids: Ids,
    /// Of the digests of publications with idempotency keys; the same in a successor.
    pub digest_seed: u64,
}

/// Broadcast on one shard.
#[derive(Debug)]
pub struct Broadcast {
    sequencer: Sequencer,
    fan_out: FanOut,
    subscriptions: Subscriptions,
    sessions: Sessions,
    held: HeldPublications,
    drain: Drain,
    order_stop: OrderStop,
    importer: Importer,
    /// Clients that ended with the far shards, whose departure is not reported yet.
    departed: VecDeque<(OwnedTopicId, ClientId)>,
    fence: Fence,
    settling: Settling,
    /// Changes of members of which subscribers are not told yet.
    presence_changes: PresenceChanges,
    /// Changes of this shard's members that the cluster does not know yet.
    presence_reports: PresenceChanges,
    /// What webhooks are told.
    topic_events: Option<Box<TopicEvents>>,
    topic_webhooks: Arc<Webhooks>,
    first_number: u8,
    ids: Ids,
    check_at: Nanos,
    now: Nanos,
}

impl Broadcast {
    /// The broadcast of one shard.
    pub fn new(settings: BroadcastSettings) -> Broadcast {
        let rules = settings.rules;
        let owned = OwnedTopics::new(rules.clone(), settings.topics, settings.seed)
            .with_digest_seed(settings.digest_seed)
            .with_creators(settings.creators, settings.creation);
        Broadcast {
            sequencer: Sequencer::new(owned, settings.placement, settings.max_message as usize),
            fan_out: FanOut::new(rules, Ages::new(settings.seed, settings.age_sample)),
            subscriptions: Subscriptions::default(),
            sessions: Sessions::new(settings.max_subscriptions),
            held: HeldPublications::default(),
            drain: Drain::default(),
            order_stop: OrderStop::default(),
            importer: Importer::of_node(settings.ids.node()),
            departed: VecDeque::new(),
            fence: Fence::default(),
            settling: Settling::default(),
            presence_changes: PresenceChanges::default(),
            presence_reports: PresenceChanges::default(),
            topic_events: None,
            topic_webhooks: Arc::default(),
            first_number: settings.first_number,
            ids: settings.ids,
            check_at: 0,
            now: 0,
        }
    }

    /// Shares the topics with other nodes.
    pub fn join(&mut self, mut settings: FollowingSettings) {
        self.sequencer.relay = settings.relay.take().map(RelayOutbox::new);
        self.sequencer.join(Following::new(settings));
    }

    /// Uses other settings from now on. Connections keep the topics that they subscribe to.
    pub fn configure(
        &mut self,
        rules: &Rules,
        creation: CreationLimits,
        max_subscriptions: u32,
        max_message: u64,
    ) {
        self.sequencer.configure(rules.clone(), creation, max_message as usize);
        self.fan_out.topics.configure(rules.clone());
        self.fan_out.ages.reconfigure();
        self.sessions.max_subscriptions = max_subscriptions;
    }

    /// Whether the owner may take a request, which may post one message to every other shard.
    pub fn takes_requests(&self, cx: &Context<'_>) -> bool {
        cx.all_have_room(Lane::Forward, self.sequencer.mail_bytes_max())
            && self.sequencer.has_room_for_others()
    }

    /// A send to a connection was partial.
    pub fn blocked(&mut self, cx: &mut Context<'_>, token: Token) {
        // An echo has no newer bytes that could replace those in the kernel.
        if cx.peer(token).is_some_and(|peer| matches!(peer, Peer::Subscriber(_)) || peer.session().is_some())
        {
            cx.set_notsent_lowat(token);
        }
        // A connection that the drain has closed was sent everything queued, and gets nothing more.
        if !self.drain.is_on() || cx.is_open(token) {
            self.fan_out.take_back(cx, token);
        }
    }

    /// The peer's TCP has acknowledged the last byte of a send.
    pub fn acknowledged(&mut self, cx: &mut Context<'_>, token: Token, at: Nanos) {
        self.fan_out.ages.acknowledged(cx, token, at);
    }

    /// The number of this shard, which no shard of a predecessor has.
    pub fn number(&self, shard: usize) -> u8 {
        self.first_number.wrapping_add(shard as u8)
    }

    /// A connection is gone.
    pub fn closed(&mut self, cx: &mut Context<'_>, token: Token, peer: Peer) {
        self.fan_out.ages.forget(token);
        match peer {
            Peer::Subscriber(subscriber) => self.subscriber_closed(&mut cx.resources(), token, &subscriber),
            Peer::Session(session) | Peer::Handler(HandlerPeer { session: Some(session), .. }) => {
                self.session_closed(&mut cx.resources(), token, &session);
            }
            Peer::Echo | Peer::Handler(_) => {}
        }
    }

    /// Frees memory of topics for others. False if there is none.
    pub fn shed(&mut self, pool: &mut Pool, what: Shed) -> bool {
        match what {
            Shed::Optional => self.fan_out.topics.shed_optional(pool),
            Shed::Histories => self.sequencer.topics.shed(pool),
            Shed::Backlogs => self.fan_out.topics.shed(pool),
        }
    }
}
