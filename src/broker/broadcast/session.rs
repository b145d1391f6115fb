//! The state of a connection that subscribes: a raw subscriber of one topic, a session with many topics, or an event stream,
//! which is a session with one subscription.
//!
//! No I/O: a session records its requests and the progress of each subscription. Its wire format is its
//! [dialect](Dialect).

use echoring_auth::{AppData, Identity, Info};
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_topics::{ClientId, Position, Replay, SubscriberId, TopicId, Topics};

use super::centrifuge_session::{CentrifugeSession, Stage};
use super::dialect::Dialect;
use super::history_range::HistoryPages;
use super::request_history::RequestHistory;
use super::unanswered::Unanswered;
use crate::gate::quotas::CountedSubscription;

/// A connection on a raw route.
#[derive(Debug)]
pub struct Subscriber {
    pub(super) topic: TopicId,
    /// `None` until the owner has answered, and after the subscriber fell behind.
    pub(super) member: Option<SubscriberId>,
    pub(super) echo_own: bool,
    /// Whether the client may publish to the topic.
    pub(super) may_publish: bool,
    /// Its publications that wait for room in a mailbox.
    pub(super) held: u16,
}

/// A connection that subscribes to many topics, or an event stream.
#[derive(Debug, Default)]
pub struct Session {
    pub(super) subscriptions: Vec<SessionSubscription>,
    /// Topics whose presence events the session missed.
    pub(super) member_lists: Vec<MemberList>,
    pub(super) requests: RequestHistory,
    /// The subject of its credentials, visible to other subscribers; empty for none.
    pub(super) subject: Box<str>,
    /// The number of the request whose token is being checked.
    pub(super) refreshing: Option<u32>,
    /// Its publications that wait for room in a mailbox, and refusals that wait for answers.
    pub(super) held: u16,
    /// Its publications that owners of topics have not answered; `None` before the first.
    pub(super) unanswered: Option<Box<Unanswered>>,
    /// Its requests of history that wait for pages; `None` before the first.
    pub(super) histories: Option<Box<Histories>>,
    /// How it speaks.
    pub(super) protocol: Protocol,
    /// The id of its client, if the session has moved and its id does not follow from the connection any more.
    pub(super) client: Option<Box<ClientId>>,
}

/// Requests of history that wait for pages.
#[derive(Debug, Default)]
pub(super) struct Histories(pub(super) Vec<HistoryQuery>);

/// A request of history.
#[derive(Debug)]
pub(super) struct HistoryQuery {
    pub(super) id: Option<u64>,
    pub(super) topic: TopicId,
    pub(super) pages: HistoryPages,
}

/// The dialect of a session, with its further state.
#[derive(Debug, Default)]
pub(super) enum Protocol {
    /// By messages of `echoring.v1.json`.
    #[default]
    V1,
    /// By an event stream. Its client makes no requests.
    EventStream,
    /// By Centrifuge's client protocol.
    Centrifuge(Box<CentrifugeSession>),
    /// By raw messages. Its handler makes the requests and receives the events.
    Handler,
}

/// A topic of a session.
#[derive(Debug)]
pub(super) struct SessionSubscription {
    pub(super) topic: TopicId,
    pub(super) state: SubscriptionState,
    pub(super) granted: Granted,
    /// Whether the client wants no subscription from which it missed messages.
    pub(super) must_recover: bool,
    /// Whether messages may be deltas.
    pub(super) deltas: bool,
    /// Whether messages that the connection has published are not sent back to it.
    pub(super) skips_own: bool,
    // Not [`Terms`], which would make it longer.
    pub(super) allowed_by: AllowedBy,
    /// When it expires.
    pub(super) expires_at: Option<Nanos>,
    /// Data of the application.
    pub(super) application: Option<Box<ApplicationData>>,
    /// Counts it for its identity, until it is dropped.
    pub(super) counted: Option<CountedSubscription>,
}

/// What is wanted of a subscription.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SubscriptionRequest {
    /// The position after which messages are wanted first.
    pub(super) from: Option<Position>,
    /// Whether presence events are wanted.
    pub(super) presence: bool,
    /// Whether a subscription from which messages are missing is unwanted.
    pub(super) must_recover: bool,
    /// Whether messages may be deltas, where the topic has them.
    pub(super) deltas: bool,
    /// Whether messages of the connection itself are not wanted.
    pub(super) skips_own: bool,
}

/// The terms of a subscription.
#[derive(Debug, Default)]
pub(super) struct Terms {
    pub(super) allowed_by: AllowedBy,
    /// Data of the application.
    pub(super) application: Option<Box<ApplicationData>>,
    /// When the subscription expires.
    pub(super) expires_at: Option<Nanos>,
}

/// Data of the application about a subscription.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ApplicationData {
    /// For the answer; `None` once it was sent.
    pub(super) data: Option<AppData>,
    /// About the client, for others to see.
    pub(super) info: Info,
    /// When the application is asked whether the subscription goes on.
    pub(super) refresh_at: Option<Nanos>,
}

impl ApplicationData {
    /// `None` if there are none.
    pub(super) fn new(data: Option<AppData>, info: Info) -> Option<Box<ApplicationData>> {
        ApplicationData { data, info, refresh_at: None }.boxed()
    }

    /// The same with the time of a refresh.
    pub(super) fn boxed(self) -> Option<Box<ApplicationData>> {
        (self != ApplicationData::default()).then(|| Box::new(self))
    }
}

/// Why a client may have a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AllowedBy {
    /// The permissions of the topic include it.
    #[default]
    Permission,
    /// The application's hook has allowed it.
    Hook,
    /// Its token of the subscription allows it.
    Token,
    /// The server makes it: the client's credentials list it.
    Credentials,
    /// The server makes it: the answer of the connect hook lists it.
    ConnectHook,
    /// The server makes it: an operator has requested it.
    Operator,
    /// The connection's handler has made it.
    Handler,
}

impl AllowedBy {
    /// Whether only its client has requested it: that counts for rates.
    pub(super) fn is_requested(self) -> bool {
        matches!(self, AllowedBy::Permission | AllowedBy::Token)
    }

    /// Whether the server makes the subscription, and its client has not asked for it.
    pub(super) fn is_server_side(self) -> bool {
        matches!(self, AllowedBy::Credentials | AllowedBy::ConnectHook | AllowedBy::Operator)
    }
}

/// The additional rights of a subscription's client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// See who else subscribes.
    pub(super) members: bool,
    /// The same, and to be notified of changes.
    pub(super) presence: bool,
    /// Receive stored messages.
    pub(super) history: bool,
}

/// How far a subscription is.
#[derive(Debug)]
pub(super) enum SubscriptionState {
    /// The topic's owner has not answered. `request` is the number of the request in its session.
    AwaitingOwner { id: Option<u64>, request: u32, from: Option<Position> },
    /// The topic's owner has answered, and the answer to the session's connect command is not complete. Its first page, if it has
    /// one, is kept there.
    AwaitingConnect { position: Position, recovered: Option<bool>, has_page: bool },
    /// It has moved here, and the topic's owner has not answered. The client has everything up to this position.
    Continued(Position),
    /// Messages of the history are sent first.
    Replaying(ReplayState),
    /// New messages are sent as they are published.
    Live(SubscriberId),
}

/// A replay, which is sent page by page.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplayState {
    /// The id of the request.
    pub(super) id: Option<u64>,
    /// The request has been answered.
    pub(super) answered: bool,
    /// Where the next page starts.
    pub(super) from: Replay,
    /// The next page has been requested.
    pub(super) requested: bool,
    /// Messages up to this offset are marked as parts of a snapshot.
    pub(super) snapshot: u64,
    /// The position that the client asked for is of another epoch, or not of this topic.
    pub(super) lost: bool,
    /// The subscription has moved here: its client knows nothing of the replay, and is listed as a member.
    pub(super) continues: bool,
}

/// A member list that the server sends by itself, page by page, because the session missed presence events.
#[derive(Debug)]
pub(super) struct MemberList {
    pub(super) topic: TopicId,
    /// The last member that was sent.
    pub(super) after: Option<ClientId>,
    /// The next page has been requested.
    pub(super) requested: bool,
    /// More events were missed since: the requested page is stale, and the list starts again.
    pub(super) restart: bool,
}

/// The action for a page of a member list that the server sends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushedPage {
    /// Send it; `more` tells whether further pages are due.
    Sent { more: bool },
    /// Discard it, and start the list again.
    Stale,
    /// Discard it.
    Unwanted,
}

impl ReplayState {
    pub(super) fn new(id: Option<u64>, from: Replay, lost: bool) -> ReplayState {
        ReplayState { id, answered: false, from, requested: false, snapshot: 0, lost, continues: false }
    }

    /// The replay of a subscription that has moved, behind the offset that its client has reached.
    pub(super) fn continued(offset: u64) -> ReplayState {
        ReplayState {
            answered: true,
            continues: true,
            ..ReplayState::new(None, Replay::Continued(offset), false)
        }
    }
}

impl SubscriptionState {
    /// Whether a request of the client is not answered.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(
            self,
            SubscriptionState::AwaitingOwner { id: Some(_), .. }
                | SubscriptionState::Replaying(ReplayState { id: Some(_), answered: false, .. })
        )
    }
}

impl SessionSubscription {
    /// When the application is asked whether it goes on.
    pub(super) fn refresh_at(&self) -> Option<Nanos> {
        self.application.as_deref()?.refresh_at
    }

    /// Takes the data of the application for the answer.
    pub(super) fn take_data(&mut self) -> Option<AppData> {
        let application = self.application.as_deref_mut()?;
        let data = application.data.take();
        if *application == ApplicationData::default() {
            self.application = None;
        }
        data
    }

    pub(super) fn member(&self) -> Option<SubscriberId> {
        match self.state {
            SubscriptionState::Live(member) => Some(member),
            _ => None,
        }
    }

    /// Whether it has moved here and is not live yet.
    pub(super) fn continues(&self) -> bool {
        matches!(
            self.state,
            SubscriptionState::Continued(_)
                | SubscriptionState::Replaying(ReplayState { continues: true, .. })
        )
    }

    /// The offset up to which everything was sent or reported as lost, and whether that is everything published.
    /// `None` until the subscription was answered.
    fn reached(&self, topics: &Topics<Token>) -> Option<(u64, bool)> {
        match self.state {
            SubscriptionState::Live(member) => topics.reached(member),
            SubscriptionState::Continued(position) => Some((position.offset, false)),
            SubscriptionState::Replaying(ReplayState {
                answered: true,
                from: Replay::After(after) | Replay::Continued(after) | Replay::Latest(after),
                ..
            }) => Some((after, false)),
            SubscriptionState::AwaitingOwner { .. }
            | SubscriptionState::AwaitingConnect { .. }
            | SubscriptionState::Replaying(_) => None,
        }
    }
}

impl Session {
    /// The session of a client without subscriptions.
    pub(super) fn new(client: Option<&Identity>, protocol: Protocol) -> Session {
        let subject = client.map(Identity::subject).unwrap_or_default().into();
        Session { subject, protocol, ..Session::default() }
    }

    /// Whether the client is sent an event stream.
    pub(crate) fn is_event_stream(&self) -> bool {
        self.dialect() == Dialect::EventStream
    }

    /// How the session speaks.
    #[inline]
    pub fn dialect(&self) -> Dialect {
        match &self.protocol {
            Protocol::V1 => Dialect::V1,
            Protocol::EventStream => Dialect::EventStream,
            Protocol::Centrifuge(session) => Dialect::Centrifuge(session.encoding),
            Protocol::Handler => Dialect::Handler,
        }
    }

    /// The further state of a session that speaks Centrifuge's protocol.
    pub(super) fn centrifuge(&self) -> Option<&CentrifugeSession> {
        if let Protocol::Centrifuge(session) = &self.protocol { Some(session) } else { None }
    }

    /// The same, to change it.
    pub(super) fn centrifuge_mut(&mut self) -> Option<&mut CentrifugeSession> {
        if let Protocol::Centrifuge(session) = &mut self.protocol { Some(session) } else { None }
    }

    /// Whether its connect command is not answered yet.
    pub(super) fn is_connecting(&self) -> bool {
        self.centrifuge().is_some_and(|session| matches!(session.stage, Stage::Connecting(_)))
    }

    /// Whether it speaks Centrifuge's protocol, and its connect command was answered.
    pub(super) fn is_connected(&self) -> bool {
        self.centrifuge().is_some_and(|session| matches!(session.stage, Stage::Connected(_)))
    }

    /// Its requests of history that wait for pages.
    pub(super) fn histories(&self) -> &[HistoryQuery] {
        self.histories.as_deref().map(|histories| &histories.0[..]).unwrap_or_default()
    }

    /// Takes the request of history that waits for this page.
    pub(super) fn take_history(&mut self, topic: TopicId, from: Replay) -> Option<HistoryQuery> {
        let Histories(queries) = self.histories.as_deref_mut()?;
        let is_this = |query: &HistoryQuery| query.topic == topic && query.pages.from == from;
        Some(queries.remove(queries.iter().position(is_this)?))
    }

    pub(super) fn find(&mut self, topic: TopicId) -> Option<&mut SessionSubscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.topic == topic)
    }

    pub(super) fn is_live(&mut self, topic: TopicId) -> bool {
        self.find(topic).is_some_and(|subscription| subscription.member().is_some())
    }

    /// The topic of an event stream.
    pub(super) fn event_stream_topic(&self) -> Option<TopicId> {
        let subscription = self.subscriptions.first().filter(|_| self.is_event_stream());
        subscription.map(|subscription| subscription.topic)
    }

    /// Removes the subscription of a topic.
    pub(super) fn take(&mut self, topic: TopicId) -> Option<SessionSubscription> {
        let index = self.subscriptions.iter().position(|subscription| subscription.topic == topic)?;
        self.member_lists.retain(|list| list.topic != topic);
        Some(self.subscriptions.swap_remove(index))
    }

    /// The topic of a live subscription.
    pub(super) fn topic_of(&self, member: SubscriberId) -> Option<TopicId> {
        let live = self.subscriptions.iter().find(|subscription| subscription.member() == Some(member));
        live.map(|subscription| subscription.topic)
    }

    /// When the next subscription expires, or the application is asked about one, if there is such a time.
    pub(super) fn next_expiry(&self) -> Option<Nanos> {
        let times = self.subscriptions.iter().flat_map(|own| [own.expires_at, own.refresh_at()]);
        times.flatten().chain(self.centrifuge().and_then(|own| own.refresh_at)).min()
    }

    /// A live subscription continues under another id.
    pub(super) fn replace_member(&mut self, from: SubscriberId, to: SubscriberId) {
        for subscription in &mut self.subscriptions {
            if let SubscriptionState::Live(member) = &mut subscription.state
                && *member == from
            {
                *member = to;
            }
        }
    }

    /// How far each answered subscription is: its topic, the offset up to which everything was sent or reported as lost,
    /// and whether that is everything published.
    pub(super) fn reached(&self, topics: &Topics<Token>) -> impl Iterator<Item = (TopicId, u64, bool)> {
        self.subscriptions.iter().filter_map(|subscription| {
            subscription.reached(topics).map(|(offset, all)| (subscription.topic, offset, all))
        })
    }

    /// The replay of a topic, if it has one.
    pub(super) fn replay(&mut self, topic: TopicId) -> Option<&mut ReplayState> {
        match &mut self.find(topic)?.state {
            SubscriptionState::Replaying(replay) => Some(replay),
            _ => None,
        }
    }

    /// The next page to request. One page at a time, so that at most one waits for the peer.
    pub(super) fn next_replay(&self) -> Option<(TopicId, Replay)> {
        let mut next = None;
        for SessionSubscription { topic, state, .. } in &self.subscriptions {
            match state {
                SubscriptionState::Replaying(ReplayState { requested: true, .. }) => return None,
                SubscriptionState::Replaying(replay) if next.is_none() => next = Some((*topic, replay.from)),
                _ => {}
            }
        }
        next
    }

    /// Whether a request of members wants only their number, if it is `id`, which is answered now.
    pub(super) fn take_stats(&mut self, id: Option<u64>) -> bool {
        let Some(session) = self.centrifuge_mut() else { return false };
        let index = session.stats.iter().position(|own| Some(*own) == id);
        index.map(|index| session.stats.swap_remove(index)).is_some()
    }

    /// Whether a page of a member list must be requested, and none is on its way.
    pub(super) fn wants_members(&self) -> bool {
        !self.member_lists.is_empty() && !self.member_lists.iter().any(|list| list.requested)
    }

    /// Accepts the page behind `after` of a member list that the server sends by itself.
    pub(super) fn accept_members_page(
        &mut self,
        topic: TopicId,
        after: Option<ClientId>,
        next: Option<ClientId>,
    ) -> PushedPage {
        let is_this = |list: &MemberList| list.topic == topic && list.requested && list.after == after;
        let Some(index) = self.member_lists.iter().position(is_this) else { return PushedPage::Unwanted };
        let list = &mut self.member_lists[index];
        list.requested = false;
        if std::mem::take(&mut list.restart) {
            list.after = None;
            return PushedPage::Stale;
        }
        match next {
            Some(next) => list.after = Some(next),
            None => drop(self.member_lists.swap_remove(index)),
        }
        PushedPage::Sent { more: !self.member_lists.is_empty() }
    }

    /// Starts the member list of a topic, or starts it again.
    pub(super) fn restart_members(&mut self, topic: TopicId) {
        match self.member_lists.iter_mut().find(|list| list.topic == topic) {
            Some(list) if list.requested => list.restart = true,
            Some(list) => list.after = None,
            None => {
                self.member_lists.push(MemberList { topic, after: None, requested: false, restart: false });
            }
        }
    }
}
