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
//! shards), `held_publications` (those that wait for room), `drain`, `handover`, `fence` and `arrivals` (of connections that move
//! between shards or processes). The other files are operations that need several
//! parts; no part knows them. `requests` has those of sessions; `centrifuge` turns the commands of that protocol into them.
//!
//! A full mailbox loses nothing: a publication that cannot be posted is held, and its publisher is not read. An owner takes
//! requests only while every forward lane has room for a whole message, and forwards are always taken. Two shards that
//! flood each other therefore both make progress.

mod ages;
mod app_calls;
mod arrivals;
mod centrifuge;
mod centrifuge_events;
mod centrifuge_session;
mod connecting;
pub(crate) mod connection_sink;
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
mod frozen_session;
mod handing_over;
mod handler_events;
mod handler_topics;
mod handover;
mod held_commands;
mod held_publications;
mod history;
mod history_range;
mod inbox;
pub mod mail_codec;
mod members;
mod moving;
mod open_calls;
mod owner_reads;
mod pending_requests;
mod presence;
mod presence_changes;
mod profiles;
pub mod publish;
mod refreshing;
mod replay;
mod reports;
mod request_history;
mod requests;
mod resuming;
mod rights;
mod sequencer;
mod server_subscriptions;
pub(crate) mod session;
pub mod sessions;
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

use std::sync::Arc;

use echoring_auth::Webhooks;
use echoring_proto::buffer::{Lease, Pool};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_runtime::driver::{Driver, Token};
use echoring_runtime::shard::Lane;
use echoring_topics::{CreationLimits, Creators, Importer, OwnedTopics, Placement, Rules};

use crate::node_mail::RelayOutbox;
use crate::peer::{Context, HandlerPeer, Peer};
use ages::Ages;
use arrivals::Arrivals;
pub use centrifuge::content_of;
pub use centrifuge_session::CentrifugeSession;
pub use deltas::payload;
use drain::Drain;
use fan_out::FanOut;
use fence::Fence;
use following::{Following, FollowingSettings};
#[doc(hidden)]
pub use frozen_session::check_frozen_peer;
pub use handing_over::StateCursor;
pub use handler_events::{HandlerEvent, HandlerEvents};
pub use handover::ClientNumbers;
use handover::Handover;
use held_publications::HeldPublications;
pub use history_range::HistoryRange;
use presence_changes::PresenceChanges;

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
    pub subscriptions_max: u32,
    /// The age of one delivery in so many is sampled; 0 for none.
    pub age_sample: u32,
    /// The node's creators of topics.
    pub creators: Creators,
    /// How many topics they may create.
    pub creation: CreationLimits,
    /// Maximum message size in bytes.
    pub message_bytes_max: u64,
    /// Makes the epochs of this run differ from those of others.
    pub seed: u64,
    /// Maps topics to owner shards; equal on all shards.
    pub placement: Placement,
    /// The number of the node's first shard, in the numbers of clients. A successor's shards have other numbers.
    pub first_number: u8,
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
    handover: Handover,
    fence: Fence,
    arrivals: Arrivals,
    /// Joins and leaves of this tick.
    presence_changes: PresenceChanges,
    /// When subscribers were last told of them.
    presence_told_at: Nanos,
    /// What webhooks are told.
    topic_events: Option<Box<TopicEvents>>,
    topic_webhooks: Arc<Webhooks>,
    first_number: u8,
    /// The run of the node in its cluster, in the ids of clients; 0 without one.
    node: u64,
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
            sequencer: Sequencer::new(owned, settings.placement, settings.message_bytes_max as usize),
            fan_out: FanOut::new(rules, Ages::new(settings.seed, settings.age_sample)),
            subscriptions: Subscriptions::default(),
            sessions: Sessions::new(settings.subscriptions_max),
            held: HeldPublications::default(),
            drain: Drain::default(),
            handover: Handover::default(),
            fence: Fence::default(),
            arrivals: Arrivals::default(),
            presence_changes: PresenceChanges::default(),
            topic_events: None,
            topic_webhooks: Arc::default(),
            presence_told_at: 0,
            first_number: settings.first_number,
            node: 0,
            check_at: 0,
            now: 0,
        }
    }

    /// Shares the topics with other nodes.
    pub fn join(&mut self, mut settings: FollowingSettings) {
        self.node = settings.identity.node.0;
        self.handover.importer = Importer::of_node(self.node);
        self.sequencer.relay = settings.relay.take().map(RelayOutbox::new);
        self.sequencer.join(Following::new(settings));
    }

    /// Uses other settings from now on. Connections keep the topics that they subscribe to.
    pub fn configure(
        &mut self,
        rules: &Rules,
        creation: CreationLimits,
        subscriptions_max: u32,
        message_bytes_max: u64,
    ) {
        self.sequencer.configure(rules.clone(), creation, message_bytes_max as usize);
        self.fan_out.topics.configure(rules.clone());
        self.fan_out.ages.reconfigure();
        self.sessions.subscriptions_max = subscriptions_max;
    }

    /// Whether the owner may take a request, which may post one message to every other shard.
    pub fn takes_requests<D: Driver>(&self, cx: &Context<'_, D>) -> bool {
        cx.all_have_room(Lane::Forward, self.sequencer.mail_bytes_max())
            && self.sequencer.has_room_for_others()
    }

    /// A send to a connection was partial.
    pub fn blocked<D: Driver>(&mut self, cx: &mut Context<'_, D>, token: Token) {
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
    pub fn acknowledged<D: Driver>(&mut self, cx: &mut Context<'_, D>, token: Token, at: Nanos) {
        self.fan_out.ages.acknowledged(cx, token, at);
    }

    /// The number of this shard, in the numbers of clients.
    pub fn number(&self, shard: usize) -> u8 {
        self.first_number.wrapping_add(shard as u8)
    }

    /// The numbers of the clients of this process, which has so many shards.
    fn numbers(&self, shards: usize) -> ClientNumbers {
        ClientNumbers { first: self.first_number, shards: shards as u16 }
    }

    /// A connection is gone.
    pub fn closed<D: Driver>(&mut self, cx: &mut Context<'_, D>, token: Token, peer: Peer) {
        self.fan_out.ages.forget(token);
        match peer {
            Peer::Subscriber(subscriber) => self.subscriber_closed(&mut cx.resources(), token, &subscriber),
            Peer::Session(session) | Peer::Handler(HandlerPeer { session: Some(session), .. }) => {
                self.session_closed(&mut cx.resources(), token, &session);
            }
            Peer::Echo | Peer::Handler(_) => {}
        }
    }

    /// Frees a part of the histories or, if memory is `owed`, the messages that only slow consumers need.
    pub fn shed(&mut self, pool: &mut Pool, owed: bool) -> bool {
        if owed { self.fan_out.topics.shed(pool) } else { self.sequencer.topics.shed(pool) }
    }
}
