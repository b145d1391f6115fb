//! The connect command of Centrifuge's protocol: who the client is, the subscriptions that the server makes for it, and one answer
//! for all of that.
//!
//! ```text
//! connect ──> token checked, or application asked ──> subscriptions begin ──> owners and first pages are known ──> answer
//! ```
//!
//! Nothing of a topic is sent before the answer, which has the positions: with it, a subscription goes live or continues its replay.
//! Commands that come meanwhile are kept in the [`ConnectBacklog`].

use echoring_auth::{
    AppConnected, AppData, AppEvent, ClientProgram, Credentials, Decision, Forwarded, Identity, Info,
    ServerSubscription,
};
use echoring_proto::limits::SECOND;
use echoring_topics::{Position, Replay, TopicId, entries};
use echoring_wire::centrifuge::{
    Connect, ConnectResult, Disconnect, ErrorCode, Publication, SubscribeResult, reply,
};

use super::Broadcast;
use super::app_calls::{Question, data_of};
use super::centrifuge::{backlog, centrifuge, disconnect, encoding_of, is_token, ping_times, position_of};
use super::centrifuge_events::{VERSION, publication, refresh_in_s};
use super::centrifuge_session::{ConnectBacklog, FirstPage, Stage};
use super::described::{Described, app_payload};
use super::open_calls::Asked;
use super::session::{AllowedBy, ReplayState, SubscriptionState};
use super::sessions::{ReplayedPage, latest_request};
use crate::gate::Gate;
use crate::peer::{ConnectionContext, Context};

/// The part of the answer about a subscription.
struct Begins {
    topic: TopicId,
    name: String,
    epoch: String,
    position: Position,
    recovered: Option<bool>,
    recoverable: bool,
    data: Option<AppData>,
    /// The first page of its history.
    page: Option<FirstPage>,
}

/// Who lets a client in, and with which data of the application.
struct Admitted {
    /// For the answer.
    data: Option<AppData>,
    /// About the client, for others to see.
    info: Info,
    /// Why it has its server-side subscriptions.
    allowed_by: AllowedBy,
}

impl Broadcast {
    /// The connect command. Without a token, the application decides if it has a hook, otherwise the credentials of the
    /// handshake.
    pub(super) fn connect(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        id: u32,
        connect: &Connect<'_>,
    ) {
        let asks_app = connect.token.is_empty() && gate.asks_app(AppEvent::Connect, 0);
        let is_checked = !connect.token.is_empty() && gate.is_on();
        if is_checked && !is_token(&connect.token) {
            return disconnect(link, Disconnect::InvalidToken);
        }
        if !emulate_fields(link, gate, connect) {
            return self.fail(link, id, ErrorCode::BadRequest);
        }
        let recovered = connect.subscriptions.iter().filter(|wanted| wanted.recover);
        let positions = recovered.map(|wanted| Some((wanted.channel.as_ref().into(), position_of(wanted)?)));
        let Some(positions) = positions.collect() else {
            return self.fail(link, id, ErrorCode::BadRequest);
        };
        if !is_checked && !asks_app && !gate.admits_without_token(link.token) {
            return self.fail(link, id, ErrorCode::Unauthorized);
        }
        let backlog = ConnectBacklog::new(id, is_checked, positions);
        if !self.sessions.kept.add(backlog.bytes(), link.pool()) {
            return self.fail(link, id, ErrorCode::TooManyRequests);
        }
        let request = latest_request(link);
        let Some(session) = link.peer.session_mut() else { return };
        let Some(centrifuge) = session.centrifuge_mut() else { return };
        centrifuge.stage = Stage::Connecting(Box::new(backlog));
        if asks_app {
            link.set_backpressured(true);
            let program = ClientProgram {
                name: connect.name.as_ref().into(),
                version: connect.version.as_ref().into(),
            };
            let question = Question {
                event: AppEvent::Connect,
                hooks: 0,
                target: None,
                data: data_of(link, connect.data),
                program: Some(program),
            };
            return self.ask_app(link, gate, id, Asked::Connect, question);
        }
        if !is_checked {
            return self.let_known_in(link, gate);
        }
        session.refreshing = Some(request);
        let id = Some(id.into());
        match gate.refresh(link.token, id, Credentials::Token(connect.token.as_ref().into())) {
            Some(decision) => self.refreshed(link, gate, id, decision),
            // Commands behind it wait.
            None => link.set_backpressured(true),
        }
    }

    /// The application has let the client of the connect command in.
    pub(super) fn app_connected(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        connected: AppConnected,
    ) {
        let AppConnected { identity, subscriptions, data, info } = connected;
        let is_adopted = match identity {
            Some(identity) => self.adopt(link, gate, Ok(identity)),
            None => {
                gate.note_anonymous();
                true
            }
        };
        if is_adopted {
            let subscriptions = self.with_personal(gate, link.token, &subscriptions);
            let admitted = Admitted { data, info, allowed_by: AllowedBy::ConnectHook };
            self.let_in(link, gate, &subscriptions, admitted);
        }
    }

    /// The client of a session is known. False if it is refused.
    pub(super) fn adopt(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        decision: Decision,
    ) -> bool {
        let (token, now) = (link.token, link.now());
        if let Err(error) = gate.present(token, decision, false, link.pool(), now) {
            let id = backlog(link).map(|backlog| backlog.id);
            self.abandon_connect(link);
            self.refuse_token(link, id.map(u64::from), error);
            return false;
        }
        let subject = gate.client(token).map(Identity::subject).unwrap_or_default();
        if let Some(session) = link.peer.session_mut() {
            session.subject = subject.into();
        }
        true
    }

    /// Lets the client in, with the subscriptions that its credentials list.
    pub(super) fn let_known_in(&mut self, link: &mut ConnectionContext<'_>, gate: &mut Gate) {
        let subscriptions = self.listed(gate, link.token);
        let info = gate.client(link.token).map(Identity::info).cloned().unwrap_or_default();
        let admitted = Admitted { data: None, info, allowed_by: AllowedBy::Credentials };
        self.let_in(link, gate, &subscriptions, admitted);
    }

    fn let_in(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        subscriptions: &[ServerSubscription],
        admitted: Admitted,
    ) {
        let Admitted { data, info, allowed_by } = admitted;
        if !self.set_info(link, info) {
            return self.fail_connect(link, ErrorCode::Internal);
        }
        for subscription in subscriptions {
            let Some(from) = backlog(link).map(|backlog| backlog.position(&subscription.channel)) else {
                return;
            };
            if let Err(code) = self.subscribe_for_server(link, gate, subscription, from, allowed_by) {
                return self.fail_connect(link, code);
            }
        }
        if let Some(backlog) = backlog(link) {
            (backlog.is_admitted, backlog.data) = (true, data);
        }
        if !self.complete_connect(link, gate) {
            link.set_backpressured(true);
        }
    }

    /// Answers the connect commands whose subscriptions may all have begun, asks the application what is to be refreshed, and takes
    /// requests that have waited for an answer.
    pub fn complete_connects(&mut self, cx: &mut Context<'_>, gate: &mut Gate) {
        for _ in 0..self.sessions.connects_due.len() {
            let token = self.sessions.connects_due.pop_front();
            if let Some(mut link) = token.and_then(|token| cx.link(token)).filter(|link| link.is_open()) {
                self.complete_connect(&mut link, gate);
                self.ask_refreshes(&mut link, gate);
            }
        }
        self.take_waiting_requests(cx, gate);
    }

    /// Whether [`complete_connects`](Broadcast::complete_connects) has something to do.
    #[inline]
    pub fn has_connects_due(&self) -> bool {
        !self.sessions.connects_due.is_empty() || !self.sessions.requests_waiting.is_empty()
    }

    /// Answers the connect command, if all subscriptions have begun, and takes the commands behind it. False if some have not.
    fn complete_connect(&mut self, link: &mut ConnectionContext<'_>, gate: &mut Gate) -> bool {
        if !backlog(link).is_some_and(|backlog| backlog.is_admitted) || !self.have_begun(link) {
            return false;
        }
        let Some(begins) = self.beginnings(link) else {
            // The topic has moved since. SDKs try again.
            self.fail_connect(link, ErrorCode::Internal);
            return true;
        };
        let Some(backlog) = self.take_backlog(link) else { return true };
        self.answer_connect(link, gate, &backlog, &begins);
        self.plan_refresh(link, gate);
        for begins in &begins {
            self.go_on(link, begins);
        }
        let mut done = usize::from(backlog.has_first);
        for frame in &backlog.frames {
            if !link.is_open() {
                break;
            }
            self.take_commands(link, gate, frame, std::mem::take(&mut done));
        }
        true
    }

    /// A subscription whose beginning was answered continues.
    fn go_on(&mut self, link: &mut ConnectionContext<'_>, begins: &Begins) {
        let Begins { topic, name, page, .. } = begins;
        let Some(first) = page else { return self.go_live(link, *topic) };
        if first.recovered != Some(true) {
            let (page, messages) = (&first.page, &*first.messages);
            let history = ReplayedPage { page, messages, reached: first.reached, snapshot: 0, deltas: false };
            self.sessions.send_history(link, name, &history);
        }
        if first.reached == self.fan_out.topics.offset(*topic) {
            return self.go_live(link, *topic);
        }
        let replay = ReplayState { answered: true, ..ReplayState::new(None, first.next(), false) };
        self.begin_replay(link, *topic, replay);
    }

    /// Whether each subscription of a session that is connecting has begun. Those that have missed messages since their owner
    /// answered begin again, with a replay.
    fn have_begun(&mut self, link: &mut ConnectionContext<'_>) -> bool {
        let Some(session) = link.peer.session_mut() else { return true };
        let mut all = true;
        let mut missed = Vec::new();
        for subscription in &mut session.subscriptions {
            let topic = subscription.topic;
            let SubscriptionState::AwaitingConnect { position, recovered, has_page } =
                &mut subscription.state
            else {
                all = false;
                continue;
            };
            let known = self.subscriptions.get(topic).filter(|known| known.owned.is_some());
            let Some(epoch) = known.map(|known| known.epoch) else {
                all = false;
                continue;
            };
            if *recovered != Some(true) || *has_page {
                continue;
            }
            let is_at_head = position.offset == self.fan_out.topics.offset(topic);
            if position.epoch != epoch || !(is_at_head || subscription.granted.history) {
                *recovered = Some(false);
            } else if !is_at_head {
                missed.push((topic, position.offset));
            }
        }
        all &= missed.is_empty();
        for (topic, offset) in missed {
            self.begin_replay(link, topic, ReplayState::new(None, Replay::After(offset), false));
        }
        all
    }

    /// The answer's entries for each subscription; `None` if a page belongs to an epoch that its topic has left.
    fn beginnings(&mut self, link: &mut ConnectionContext<'_>) -> Option<Vec<Begins>> {
        let session = link.peer.session_mut()?;
        let mut pages = match &mut session.centrifuge_mut()?.stage {
            Stage::Connecting(backlog) => std::mem::take(&mut backlog.pages),
            Stage::AwaitingConnect | Stage::Connected(_) => return None,
        };
        let mut all = Vec::with_capacity(session.subscriptions.len());
        for subscription in &mut session.subscriptions {
            let topic = subscription.topic;
            let epoch = self.subscriptions.epoch(topic)?;
            let SubscriptionState::AwaitingConnect { recovered, .. } = subscription.state else {
                return None;
            };
            let page = pages.iter().position(|page| page.topic == topic).map(|at| pages.swap_remove(at));
            let (position, recovered, page) = match page {
                Some(page) => (page.position(), page.recovered, Some(page)),
                None => (Position { epoch, offset: self.fan_out.topics.offset(topic) }, recovered, None),
            };
            if position.epoch != epoch {
                return None;
            }
            all.push(Begins {
                topic,
                name: self.fan_out.name(topic).to_owned(),
                epoch: format!("{epoch:x}"),
                position,
                recovered,
                recoverable: subscription.granted.history,
                data: subscription.take_data(),
                page,
            });
        }
        Some(all)
    }

    /// Sends the answer. The session is connected.
    fn answer_connect(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &Gate,
        backlog: &ConnectBacklog,
        begins: &[Begins],
    ) {
        let (token, now, times) = (link.token, link.now(), ping_times(link));
        if let Some(centrifuge) = centrifuge(link) {
            self.sessions.alarms.connect(token, centrifuge, now, times);
        }
        let client = self.client_id(link).to_string();
        let authors: Vec<_> = begins.iter().map(Begins::authors).collect();
        let publications: Vec<Vec<Publication<'_>>> =
            begins.iter().zip(&authors).map(|(begins, authors)| begins.publications(authors)).collect();
        let subscriptions: Vec<(&str, SubscribeResult<'_>)> = begins
            .iter()
            .zip(&publications)
            .map(|(begins, publications)| (&*begins.name, begins.result(publications)))
            .collect();
        // A client without a token has none to refresh: told of an expiry, SDKs would give up.
        let expires_in_s = gate.expires_in_s(token).filter(|_| backlog.has_token);
        let result = ConnectResult {
            client: &client,
            version: VERSION,
            expires_in_s: expires_in_s.map(refresh_in_s),
            data: backlog.data.as_ref().map(app_payload),
            subscriptions: &subscriptions,
            ping_s: u32::try_from(times.interval.div_ceil(SECOND)).unwrap_or(u32::MAX),
            pong: times.interval > 0 && !encoding_of(link).is_unidirectional(),
            ..ConnectResult::default()
        };
        self.sessions.reply(link, |encoding, out| reply::connect(encoding, out, backlog.id, &result));
    }

    /// Whether a subscription waits for the answer to the connect command of its session.
    pub(super) fn awaits_connect(&self, link: &mut ConnectionContext<'_>, topic: TopicId) -> bool {
        let Some(session) = link.peer.session_mut() else { return false };
        session.is_connecting() && session.find(topic).is_some()
    }

    /// A subscription has begun with a page of history, and waits for the answer to the connect command.
    pub(super) fn await_connect_with_page(&mut self, link: &mut ConnectionContext<'_>, page: FirstPage) {
        if !self.sessions.kept.add(page.bytes(), link.pool()) {
            return self.fail_connect(link, ErrorCode::TooManyRequests);
        }
        let (topic, position, recovered) = (page.topic, page.position(), page.recovered);
        if let Some(backlog) = backlog(link) {
            backlog.keep_page(page);
        }
        self.await_connect(link, topic, position, recovered, true);
    }

    /// A subscription has begun at a position, and waits for the answer to the connect command.
    pub(super) fn await_connect(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        position: Position,
        recovered: Option<bool>,
        has_page: bool,
    ) {
        let (token, now) = (link.token, link.now());
        let Some(session) = link.peer.session_mut() else { return };
        if let Some(subscription) = session.find(topic) {
            subscription.state = SubscriptionState::AwaitingConnect { position, recovered, has_page };
        }
        self.subscriptions.keep_for(topic, token, now);
        self.sessions.connects_due.push_back(token);
    }

    /// The connect command fails, and its subscriptions end.
    pub(super) fn fail_connect(&mut self, link: &mut ConnectionContext<'_>, code: ErrorCode) {
        if let Some(id) = self.abandon_connect(link) {
            self.fail(link, id, code);
        }
    }

    /// Forgets a connect command that is not answered, and ends its subscriptions. Returns its id.
    pub(super) fn abandon_connect(&mut self, link: &mut ConnectionContext<'_>) -> Option<u32> {
        let backlog = self.take_backlog(link)?;
        let who = (link.token, self.client_id(link));
        let session = link.peer.session_mut()?;
        for subscription in std::mem::take(&mut session.subscriptions) {
            self.leave(&mut link.resources(), who, &subscription);
        }
        Some(backlog.id)
    }

    /// Takes the connect command that is not answered. The session is read again.
    fn take_backlog(&mut self, link: &mut ConnectionContext<'_>) -> Option<Box<ConnectBacklog>> {
        let stage = &mut centrifuge(link)?.stage;
        let Stage::Connecting(backlog) = std::mem::replace(stage, Stage::AwaitingConnect) else {
            return None;
        };
        self.sessions.kept.remove(backlog.bytes(), link.pool());
        link.set_backpressured(false);
        Some(backlog)
    }
}

/// Takes the header fields that the client emulates. False if they are invalid, or there is no memory for them.
fn emulate_fields(link: &mut ConnectionContext<'_>, gate: &Gate, connect: &Connect<'_>) -> bool {
    let Some(app) = gate.app.as_ref().filter(|_| !connect.headers.is_empty()) else { return true };
    let Some(own) = centrifuge(link) else { return true };
    let fields = connect.headers.iter().map(|(name, value)| (&**name, &**value));
    let Ok(forwarded) = app.emulated(own.forwarded.as_ref(), fields) else { return false };
    let bytes = |forwarded: Option<&Forwarded>| forwarded.map_or(0, Forwarded::held_bytes);
    let more = bytes(forwarded.as_ref()) - bytes(own.forwarded.as_ref());
    let has_room = link.pool().charge(more);
    if has_room && let Some(own) = centrifuge(link) {
        own.forwarded = forwarded;
    }
    has_room
}

impl Begins {
    /// The recovered messages.
    fn messages(&self) -> &[u8] {
        let page = self.page.as_ref().filter(|page| page.recovered == Some(true));
        page.map_or(&[][..], |page| &page.messages)
    }

    fn authors(&self) -> Vec<Option<Described<'_>>> {
        entries(self.messages()).map(|(_, message)| Described::author(&message)).collect()
    }

    fn publications<'a>(&'a self, authors: &'a [Option<Described<'a>>]) -> Vec<Publication<'a>> {
        let messages = entries(self.messages()).zip(authors);
        messages.map(|((offset, message), author)| publication(offset, &message, author.as_ref())).collect()
    }

    fn result<'a>(&'a self, publications: &'a [Publication<'a>]) -> SubscribeResult<'a> {
        SubscribeResult {
            recoverable: self.recoverable,
            epoch: &self.epoch,
            publications,
            recovered: self.recovered == Some(true),
            offset: self.position.offset,
            positioned: true,
            was_recovering: self.recovered.is_some(),
            data: self.data.as_ref().map(app_payload),
            ..SubscribeResult::default()
        }
    }
}
