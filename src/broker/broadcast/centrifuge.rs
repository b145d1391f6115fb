//! The commands of Centrifuge's client protocol, as the requests of a session.
//!
//! Topics, permissions, limits and history are those of every other session: nothing here touches a log or a cursor.

use echoring_auth::limits::CREDENTIAL_BYTES_MAX;
use echoring_proto::CloseCode;
use echoring_proto::connection::MessageKind;
use echoring_proto::limits::Nanos;
use echoring_topics::limits::{INTEGER_END, KEY_BYTES_MAX};
use echoring_topics::{Content, Permission, Position, Publication, is_topic_name, parse_epoch};
use echoring_wire::centrifuge::{
    Command, Commands, Disconnect, Encoding, ErrorCode, Publish, Request, Subscribe, decode, decode_connect,
    delta, push, reply,
};

use super::Broadcast;
use super::centrifuge_events::{code_of_denied, number};
use super::centrifuge_session::{CentrifugeSession, ConnectBacklog, Due, PingTimes, Stage, frame_bytes};
use super::dialect::{Dialect, close};
use super::filters::filter_of;
use super::held_commands::charge_of;
use super::members::MembersPage;
use super::requests::{ANY_EPOCH, WantedSubscription};
use super::session::{SubscriptionRequest, Terms};
use super::sessions::{dialect_of, end, latest_request};
use crate::gate::{Gate, RefreshError};
use crate::limits::{CENTRIFUGE_PRESENCE_CLIENTS_MAX, PENDING_REQUESTS_MAX};
use crate::peer::{ConnectionContext, Context};
use crate::publications::{TopicPublication, is_json};
use echoring_wire::is_too_deep;

/// The id of the connect command of a client that sends no other.
const CONNECT_ID: u32 = 1;

impl Broadcast {
    /// A session sent a frame.
    pub(super) fn centrifuge_frame(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        kind: MessageKind,
        frame: &[u8],
    ) {
        if kind != dialect_of(link).kind() {
            return disconnect(link, Disconnect::BadRequest);
        }
        if encoding_of(link).is_unidirectional() {
            return self.connect_unidirectional(link, gate, frame);
        }
        if backlog(link).is_some() {
            return self.keep_frame(link, frame);
        }
        self.take_commands(link, gate, frame, 0);
    }

    /// The head of the answer to a client that sends only its connect command is queued. If the request had the command, it is
    /// carried out; otherwise it is in the body.
    pub fn begin_unidirectional(&mut self, link: &mut ConnectionContext<'_>, gate: &mut Gate) {
        if let Some(command) = centrifuge(link).and_then(|own| own.command.take()) {
            self.connect_unidirectional(link, gate, &command);
        }
    }

    fn connect_unidirectional(&mut self, link: &mut ConnectionContext<'_>, gate: &mut Gate, command: &[u8]) {
        let Some(session) = link.peer.session_mut() else { return };
        let awaits = session.centrifuge().is_some_and(|own| matches!(own.stage, Stage::AwaitingConnect));
        match decode_connect(command) {
            Ok(connect) if awaits => {
                session.requests.begin();
                self.connect(link, gate, CONNECT_ID, &connect);
            }
            _ => disconnect(link, Disconnect::BadRequest),
        }
    }

    /// Keeps a frame until the connect command is decided.
    fn keep_frame(&mut self, link: &mut ConnectionContext<'_>, frame: &[u8]) {
        let bytes = frame_bytes(frame);
        let has_room = backlog(link).is_some_and(|backlog| backlog.has_room(bytes));
        if !has_room || !self.sessions.kept.add(bytes, link.pool()) {
            return disconnect(link, Disconnect::TooManyRequests);
        }
        if let Some(backlog) = backlog(link) {
            backlog.keep(frame);
        }
    }

    /// Carries out the commands of a frame, except for the first `done`. Those that find too many requests open wait.
    pub(super) fn take_commands(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        frame: &[u8],
        done: usize,
    ) {
        let mut commands = decode(encoding_of(link), frame);
        commands.by_ref().take(done).for_each(drop);
        let others_wait = centrifuge(link).is_some_and(|centrifuge| centrifuge.calls.are_many());
        if (others_wait || self.take_some(link, gate, frame, &mut commands))
            && let Some((rest, left)) = commands.unread()
        {
            hold(link, rest, left);
        }
    }

    /// Takes the waiting commands, as far as there is room for their requests. A session without any left is read
    /// again.
    pub(super) fn take_held(&mut self, link: &mut ConnectionContext<'_>, gate: &mut Gate) {
        while link.is_open()
            && let Some(own) = centrifuge(link)
            && let Some(mut held) = own.calls.pop_held()
        {
            let (encoding, (frame, left)) = (own.encoding, held.unread());
            let mut commands = Commands::resume(encoding, frame, left);
            let waits = self.take_some(link, gate, frame, &mut commands);
            let rest = commands.unread().filter(|_| waits).map(|(rest, left)| (rest.len(), left));
            match rest.zip(centrifuge(link)) {
                Some(((bytes, left), own)) => {
                    held.advance(bytes, left);
                    own.calls.held.put_back(held);
                }
                None => link.pool().discharge(held.charged_bytes()),
            }
        }
        self.read_again(link);
    }

    /// Takes commands of a frame until all are read, too many requests are open, or the connection ends. Returns whether those
    /// that are left have to wait.
    fn take_some(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        frame: &[u8],
        commands: &mut Commands<'_>,
    ) -> bool {
        while let Some(command) = commands.next() {
            match command {
                Ok(command) => self.take_command(link, gate, &command),
                Err(_) => disconnect(link, Disconnect::BadRequest),
            }
            if !link.is_open() {
                return false;
            }
            if let Some(backlog) = backlog(link) {
                backlog.has_first = commands.next().is_some();
                if backlog.has_first {
                    self.keep_frame(link, frame);
                }
                return false;
            }
            if !centrifuge(link).is_some_and(|centrifuge| centrifuge.calls.have_room()) {
                return true;
            }
        }
        false
    }

    fn take_command(&mut self, link: &mut ConnectionContext<'_>, gate: &mut Gate, command: &Command<'_>) {
        let (id, token) = (command.id, link.token);
        let Some(session) = link.peer.session_mut() else { return };
        let Some(centrifuge) = session.centrifuge_mut() else { return };
        let is_connected = matches!(centrifuge.stage, Stage::Connected(_));
        if is_connected == matches!(command.request, Request::Connect(_)) {
            return disconnect(link, Disconnect::BadRequest);
        }
        match &command.request {
            Request::Pong => return centrifuge.note_pong(),
            Request::Send { data } => return self.take_send(link, gate, data),
            _ => {}
        }
        session.requests.begin();
        match &command.request {
            Request::Connect(connect) => self.connect(link, gate, id, connect),
            Request::Subscribe(subscribe) => self.take_subscribe(link, gate, id, subscribe),
            Request::Unsubscribe { channel } => {
                self.cancel_asked_subscribe(link, channel);
                self.unsubscribe_in_turn(link, id, channel);
            }
            Request::Publish(publish) => self.take_publish(link, gate, id, publish),
            Request::Presence { channel } => self.take_presence(link, gate, id, channel, false),
            Request::PresenceStats { channel } => self.take_presence(link, gate, id, channel, true),
            Request::History(history) => self.read_history(link, gate.client(token), id, history),
            Request::Ping => self.sessions.reply(link, |encoding, out| reply::ping(encoding, out, id)),
            Request::Refresh { token } if is_token(token) => {
                self.authenticate(link, gate, Some(id.into()), token);
            }
            Request::Refresh { .. } => disconnect(link, Disconnect::InvalidToken),
            Request::SubRefresh(refresh) => self.take_sub_refresh(link, gate, id, refresh),
            Request::Rpc(rpc) => self.take_rpc(link, gate, id, rpc),
            Request::Unknown => self.fail(link, id, ErrorCode::MethodNotFound),
            Request::Pong | Request::Send { .. } => {}
        }
    }

    /// Answers a command with an error. Too many violations of the protocol in a row end the session.
    pub(super) fn fail(&mut self, link: &mut ConnectionContext<'_>, id: u32, error: ErrorCode) {
        if encoding_of(link).is_unidirectional() {
            return disconnect(link, instead_of(error));
        }
        let request = latest_request(link);
        let Some(session) = link.peer.session_mut() else { return };
        if error.is_violation() && session.requests.is_too_much(request) {
            return end(link, CloseCode::POLICY, "too many errors");
        }
        if self.sessions.watched.is_on() {
            self.sessions.watched.note_error(link.token, error.code(), error.message());
        }
        self.sessions.reply(link, |encoding, out| reply::error(encoding, out, id, error));
    }

    /// A token of the session was not accepted.
    pub(super) fn refuse_token(
        &mut self,
        link: &mut ConnectionContext<'_>,
        id: Option<u64>,
        error: RefreshError,
    ) {
        let code = match error {
            RefreshError::Denied(denied) => code_of_denied(denied),
            RefreshError::OtherSubject => None,
        };
        match code {
            Some(code) => self.fail(link, number(id), code),
            None => disconnect(link, Disconnect::InvalidToken),
        }
    }

    fn take_subscribe(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        id: u32,
        subscribe: &Subscribe<'_>,
    ) {
        // Subscriptions of other types cannot be served as if they were ordinary.
        if subscribe.kind != 0 {
            return self.fail(link, id, ErrorCode::NotAvailable);
        }
        let Some(position) = position_of(subscribe).filter(|_| is_topic_name(&subscribe.channel)) else {
            return self.fail(link, id, ErrorCode::BadRequest);
        };
        let request = SubscriptionRequest {
            from: subscribe.recover.then_some(position),
            presence: subscribe.join_leave,
            must_recover: subscribe.rejects_unrecovered(),
            // A filter leaves out messages that deltas would be from.
            deltas: subscribe.delta == delta::NAME && subscribe.tags_filter.is_none(),
            skips_own: false,
        };
        let name = &*subscribe.channel;
        let settings = self.fan_out.topics.settings_of(name);
        let (access, may_filter) = (settings.access, settings.allow_tags_filter);
        if access.is_unknown() {
            return self.fail(link, id, ErrorCode::UnknownChannel);
        }
        let encoding = encoding_of(link);
        let filter = subscribe.tags_filter.map(|bytes| filter_of(encoding, bytes).filter(|_| may_filter));
        if filter == Some(None) {
            return self.fail(link, id, ErrorCode::BadRequest);
        }
        if !self.set_filter(link, name, filter.flatten()) {
            return self.fail(link, id, ErrorCode::Internal);
        }
        let wanted = WantedSubscription { id: Some(id.into()), name, request, terms: Terms::default() };
        if !subscribe.token.is_empty() && gate.is_on() {
            return self.subscribe_with_token(link, gate, wanted, &subscribe.token);
        }
        if access.subscribe == Permission::Hook {
            return self.ask_subscribe(link, gate, &wanted, subscribe.data);
        }
        self.subscribe_in_turn(link, gate, id, wanted);
    }

    fn take_publish(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        id: u32,
        publish: &Publish<'_>,
    ) {
        let Publish { channel, data, key, removed, kind } = publish;
        if *removed || *kind != 0 {
            return self.fail(link, id, ErrorCode::NotAvailable);
        }
        let content = content_of(encoding_of(link), data);
        let Some(content) = content.filter(|_| is_topic_name(channel) && key.len() <= KEY_BYTES_MAX) else {
            return self.fail(link, id, ErrorCode::BadRequest);
        };
        let publication = Publication::new(content, key, data);
        let message = TopicPublication::plain(channel, publication);
        let access = self.fan_out.topics.settings_of(channel).access;
        if access.is_unknown() {
            return self.fail(link, id, ErrorCode::UnknownChannel);
        }
        if access.publish == Permission::Hook {
            return self.ask_publish(link, gate, id, &message);
        }
        self.publish_within_rate(link, gate, Some(id.into()), &message);
    }

    fn take_presence(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &Gate,
        id: u32,
        name: &str,
        stats: bool,
    ) {
        let is_full = has_long_queue(link);
        let Some(centrifuge) = centrifuge(link) else { return };
        if is_full || centrifuge.stats.len() >= PENDING_REQUESTS_MAX {
            return self.fail(link, id, ErrorCode::TooManyRequests);
        }
        if stats {
            centrifuge.stats.push(id.into());
        }
        let (id, limit) = (Some(u64::from(id)), CENTRIFUGE_PRESENCE_CLIENTS_MAX);
        let (page, client) = (MembersPage { id, name, after: None, limit }, gate.client(link.token));
        if !self.list_members(link, client, &page)
            && let Some(session) = link.peer.session_mut()
        {
            session.take_stats(id);
        }
    }

    /// Attends to the sessions that are due: pings, and clients that do not answer or do not connect.
    pub(super) fn attend_alarms(&mut self, cx: &mut Context<'_>) {
        while let Some(token) = self.sessions.alarms.pop_due(self.now) {
            if let Some(mut link) = cx.link(token).filter(|link| link.is_open()) {
                self.attend_alarm(&mut link, self.now);
            }
        }
    }

    fn attend_alarm(&mut self, link: &mut ConnectionContext<'_>, now: Nanos) {
        self.end_expired(link, now);
        self.note_refreshes(link, now);
        let (token, queued_bytes) = (link.token, link.queued_bytes());
        let Some(session) = link.peer.session_mut() else { return };
        let expires_at = session.next_expiry();
        // A client whose publications are held is not read.
        let is_held = queued_bytes > 0 || session.held > 0;
        let Some(centrifuge) = session.centrifuge_mut() else { return };
        let is_excused = is_held || centrifuge.calls.are_many();
        let due = centrifuge.take_due(now, is_excused);
        if let Some(at) = expires_at {
            centrifuge.wake_by(at);
        }
        self.sessions.alarms.add(token, centrifuge);
        match due {
            Due::Stale => disconnect(link, Disconnect::Stale),
            Due::NoPong => disconnect(link, Disconnect::NoPong),
            Due::Ping => {
                self.sessions.reply(link, push::ping);
                note_no_answer(link);
            }
            Due::Nothing => {}
        }
    }
}

/// How a session ends whose client gets no replies, instead of with an error.
fn instead_of(error: ErrorCode) -> Disconnect {
    match error {
        ErrorCode::Expired | ErrorCode::TokenExpired => Disconnect::Expired,
        ErrorCode::TooManyRequests => Disconnect::TooManyRequests,
        ErrorCode::PermissionDenied => Disconnect::PermissionDenied,
        ErrorCode::Unauthorized => Disconnect::InvalidToken,
        ErrorCode::BadRequest => Disconnect::BadRequest,
        _ => Disconnect::ServerError,
    }
}

/// A client that sends nothing answers no ping.
fn note_no_answer(link: &mut ConnectionContext<'_>) {
    if let Some(own) = centrifuge(link).filter(|own| own.encoding.is_unidirectional()) {
        own.note_pong();
    }
}

/// The position that a client names; `None` if it is invalid. Without an epoch, it is of any.
pub(super) fn position_of(subscribe: &Subscribe<'_>) -> Option<Position> {
    let epoch = match &*subscribe.epoch {
        "" => ANY_EPOCH,
        text => parse_epoch(text).filter(|epoch| *epoch != ANY_EPOCH).unwrap_or(u64::MAX),
    };
    (subscribe.offset < INTEGER_END).then_some(Position { epoch, offset: subscribe.offset })
}

/// Holds the rest of a frame, with up to `left` commands, until fewer requests are open.
fn hold(link: &mut ConnectionContext<'_>, rest: &[u8], left: usize) {
    let has_room = centrifuge(link).is_some_and(|centrifuge| centrifuge.calls.held.has_room(rest.len()));
    if !has_room {
        return disconnect(link, Disconnect::TooManyRequests);
    }
    if !link.pool().charge(charge_of(rest.len())) {
        return disconnect(link, Disconnect::ServerError);
    }
    if let Some(centrifuge) = centrifuge(link) {
        centrifuge.calls.held.hold(rest, left);
    }
}

/// The times of pings of a session that connects are those of the server's own.
pub(super) fn ping_times(link: &ConnectionContext<'_>) -> PingTimes {
    let (interval, timeout) = link.ping_times();
    PingTimes { interval, timeout }
}

/// Ends a session.
pub(super) fn disconnect(link: &mut ConnectionContext<'_>, disconnect: Disconnect) {
    let (code, reason) = close(disconnect);
    link.close(code, reason);
}

/// The state of a session that speaks Centrifuge's protocol.
pub(super) fn centrifuge<'a>(link: &'a mut ConnectionContext<'_>) -> Option<&'a mut CentrifugeSession> {
    let session = link.peer.session_mut()?;
    session.centrifuge_mut()
}

/// The encoding of a session that speaks Centrifuge's protocol.
pub(super) fn encoding_of(link: &ConnectionContext<'_>) -> Encoding {
    if let Dialect::Centrifuge(encoding) = dialect_of(link) { encoding } else { Encoding::default() }
}

/// The connect command without an answer yet, with the commands behind it.
pub(super) fn backlog<'a>(link: &'a mut ConnectionContext<'_>) -> Option<&'a mut ConnectBacklog> {
    match &mut centrifuge(link)?.stage {
        Stage::Connecting(backlog) => Some(backlog),
        Stage::AwaitingConnect | Stage::Connected(_) => None,
    }
}

/// Whether too much is queued to a peer for another long answer: the queue's bound would end a session that reads.
pub(super) fn has_long_queue(link: &ConnectionContext<'_>) -> bool {
    link.queued_bytes() > link.queue_bytes()
}

/// Whether a token may be one: other bytes are in no credentials.
pub(super) fn is_token(token: &str) -> bool {
    (1..=CREDENTIAL_BYTES_MAX).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The type of published data; `None` if it may not be published. Protobuf carries any bytes, also none: those that are JSON are
/// JSON for clients that speak JSON too. In JSON, no data are no value.
pub fn content_of(encoding: Encoding, data: &[u8]) -> Option<Content> {
    let content = match encoding {
        Encoding::Protobuf if is_json(data) => Content::Json,
        Encoding::Protobuf if simdutf8::basic::from_utf8(data).is_ok() => Content::Text,
        Encoding::Protobuf => Content::Binary,
        _ if data.is_empty() => return None,
        _ => Content::Json,
    };
    (content != Content::Json || !is_too_deep(data)).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protobuf_data_is_json_where_it_can_be_read_as_json() {
        let deep = "[".repeat(1_000) + &"]".repeat(1_000);
        for (data, json, protobuf) in [
            (&b"{\"a\":1}"[..], Some(Content::Json), Some(Content::Json)),
            (b"hello", Some(Content::Json), Some(Content::Text)),
            (b"\xff\x00", Some(Content::Json), Some(Content::Binary)),
            (b"\"\xff\"", Some(Content::Json), Some(Content::Binary)),
            (b"{\"a\":\"\xed\xa0\x80\"}", Some(Content::Json), Some(Content::Binary)),
            (b"", None, Some(Content::Text)),
            (deep.as_bytes(), None, None),
        ] {
            assert_eq!(content_of(Encoding::Json, data), json, "the codec has read it as JSON");
            assert_eq!(content_of(Encoding::Protobuf, data), protobuf);
        }
    }

    #[test]
    fn a_token_is_short_and_visible() {
        assert!(is_token("a.b-c_~"));
        for bad in ["", "a b", "ä", "a\n", &"x".repeat(CREDENTIAL_BYTES_MAX + 1)] {
            assert!(!is_token(bad), "{bad:?}");
        }
    }
}
