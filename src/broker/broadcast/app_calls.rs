//! Requests of sessions about which the application is asked by its hooks.

use echoring_auth::{AppAnswer, AppData, AppEvent, Call, ClientProgram, Failed, Info};
use echoring_proto::CloseCode;
use echoring_topics::{Content, Publication, Refused};
use echoring_wire::centrifuge::{Disconnect, Encoding, Error, ErrorCode, Rpc, reply};

use super::Broadcast;
use super::centrifuge::{centrifuge, content_of, disconnect, encoding_of};
use super::centrifuge_events::number;
use super::described::app_payload;
use super::open_calls::Asked;
use super::requests::WantedSubscription;
use super::session::{AllowedBy, ApplicationData, Terms};
use super::subscription_tokens::expires_at;
use crate::gate::{AppAnswered, Gate};
use crate::peer::ConnectionContext;
use crate::publications::TopicPublication;

/// A question to the application, without its client.
pub(super) struct Question<'a> {
    pub(super) event: AppEvent,
    /// The id of the hooks that are asked.
    pub(super) hooks: u64,
    /// The method, or the topic.
    pub(super) target: Option<&'a str>,
    pub(super) data: Option<AppData>,
    /// The client's program, of a session that begins.
    pub(super) program: Option<ClientProgram>,
}

/// The application's agreement.
struct Agreed {
    id: u32,
    asked: Asked,
    data: Option<AppData>,
    info: Info,
    expire_at: u64,
}

impl Broadcast {
    /// A session calls the application.
    pub(super) fn take_rpc(&mut self, link: &mut ConnectionContext<'_>, gate: &Gate, id: u32, rpc: &Rpc<'_>) {
        let hooks = gate.hooks_of_method(&rpc.method);
        if !gate.asks_app(AppEvent::Rpc, hooks) {
            return self.fail(link, id, ErrorCode::NotAvailable);
        }
        let data = data_of(link, rpc.data);
        let question = Question { hooks, ..Question::new(AppEvent::Rpc, Some(&rpc.method), data) };
        self.ask_app(link, gate, id, Asked::Rpc, question);
    }

    /// A session sends a message to the application. Without a hook, no one could answer it.
    pub(super) fn take_send(&mut self, link: &mut ConnectionContext<'_>, gate: &Gate, data: &[u8]) {
        if gate.asks_app(AppEvent::Rpc, 0) {
            let question = Question::new(AppEvent::Rpc, None, data_of(link, data));
            self.ask_app(link, gate, 0, Asked::Send, question);
        }
    }

    /// A session wants to publish where the application decides.
    pub(super) fn ask_publish(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        id: u32,
        message: &TopicPublication<'_>,
    ) {
        let hooks = self.hooks_of(message.topic);
        if !gate.asks_app(AppEvent::Publish, hooks) {
            return self.fail(link, id, ErrorCode::PermissionDenied);
        }
        if let Err(limit) = gate.publish(link.token, link.now()) {
            link.note_excess(limit, false);
            return self.refuse_publication(link, Some(id.into()), message.topic, Refused::RateLimited);
        }
        let Publication { content, key, payload, .. } = message.publication;
        let asked = Asked::Publish { content, key: key.into() };
        let data = match content {
            Content::Json => AppData::Json(payload.to_vec()),
            Content::Text | Content::Binary => AppData::Bytes(payload.to_vec()),
        };
        let question =
            Question { hooks, ..Question::new(AppEvent::Publish, Some(message.topic), Some(data)) };
        self.ask_app(link, gate, id, asked, question);
    }

    /// A session wants to subscribe where the application decides.
    pub(super) fn ask_subscribe(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        wanted: &WantedSubscription<'_>,
        data: &[u8],
    ) {
        let WantedSubscription { id, name, request, .. } = *wanted;
        let hooks = self.hooks_of(name);
        if !gate.asks_app(AppEvent::Subscribe, hooks) {
            return self.fail(link, number(id), ErrorCode::PermissionDenied);
        }
        if self.has_waiting(link, name) {
            return self.fail(link, number(id), ErrorCode::Internal);
        }
        if let Some(error) = self.subscribe_error(link, id, name) {
            return self.sessions.reject(link, &error);
        }
        if centrifuge(link).is_some_and(|centrifuge| centrifuge.calls.subscribes(name)) {
            return self.fail(link, number(id), ErrorCode::AlreadySubscribed);
        }
        if let Err(limit) = gate.request_subscription(link.token, true, link.now()) {
            link.note_excess(limit, false);
            return self.fail(link, number(id), ErrorCode::TooManyRequests);
        }
        let asked = Asked::Subscribe { name: name.into(), request };
        let data = data_of(link, data);
        let question = Question { hooks, ..Question::new(AppEvent::Subscribe, Some(name), data) };
        self.ask_app(link, gate, number(id), asked, question);
    }

    /// A session ends a subscription about which the application is still asked.
    pub(super) fn cancel_asked_subscribe(&mut self, link: &mut ConnectionContext<'_>, name: &str) {
        let Some(centrifuge) = centrifuge(link) else { return };
        if let Some(id) = centrifuge.calls.cancel_subscribe(name) {
            self.fail(link, id, ErrorCode::PermissionDenied);
            self.read_again(link);
        }
    }

    /// Asks the application about a request. Its answer follows through [`app_answered`](Broadcast::app_answered).
    pub(super) fn ask_app(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &Gate,
        id: u32,
        asked: Asked,
        question: Question<'_>,
    ) {
        let Question { event, hooks, target, data, program } = question;
        let (token, now, client) = (link.token, link.now(), self.client_id(link).to_string());
        let Some(session) = link.peer.session_mut() else { return };
        let user = session.subject.clone();
        let Some(centrifuge) = session.centrifuge_mut() else { return };
        let call = Call {
            event,
            hooks,
            client,
            address: centrifuge.address,
            encoding: if centrifuge.encoding.is_binary() { "protobuf" } else { "json" },
            user,
            target: target.map(Into::into),
            data,
            program,
            forwarded: centrifuge.forwarded.clone(),
        };
        let calls = &mut centrifuge.calls;
        if event != AppEvent::Connect && calls.identity.is_none() {
            calls.identity = gate.identity_use(token, now);
        }
        let call_number = calls.begin(id, asked);
        gate.ask_app(token, call_number, call, calls.identity.as_ref());
        if calls.are_many() {
            link.set_backpressured(true);
        }
    }

    /// The application has answered.
    pub fn app_answered(&mut self, link: &mut ConnectionContext<'_>, gate: &mut Gate, answered: AppAnswered) {
        let AppAnswered { number, call, answer, .. } = answered;
        if let Some(centrifuge) = centrifuge(link) {
            centrifuge.calls.answer(number, call, answer);
        }
        while link.is_open()
            && let Some(centrifuge) = centrifuge(link)
            && let Some((id, asked, call, answer)) = centrifuge.calls.take_answered()
        {
            if matches!(asked, Asked::Refresh | Asked::SubRefresh(_)) {
                self.refresh_answered(link, gate, &asked, answer);
                continue;
            }
            match answer {
                AppAnswer::Agreed { data, info, expire_at } => {
                    let agreed = Agreed { id, asked, data, info, expire_at };
                    self.app_agreed(link, gate, &call, agreed);
                }
                AppAnswer::Expired => {}
                AppAnswer::Connected(connected) => self.app_connected(link, gate, *connected),
                AppAnswer::Disconnect { code, reason } => link.close(CloseCode(code), &reason),
                AppAnswer::Refused { code, message, temporary } => {
                    let error = Error { code, message: &message, temporary };
                    if matches!(asked, Asked::Connect) {
                        self.abandon_connect(link);
                    }
                    if !matches!(asked, Asked::Send) {
                        self.sessions.reply(link, |encoding, out| reply::error(encoding, out, id, error));
                    }
                }
                // A message has no answer: only the end of the connection says that it is lost.
                AppAnswer::Failed(failed) if matches!(asked, Asked::Send) => {
                    let is_down = failed == Failed::Unavailable;
                    let ending = if is_down { Disconnect::ServerError } else { Disconnect::TooManyRequests };
                    disconnect(link, ending);
                }
                AppAnswer::Failed(failed) => {
                    let code = match failed {
                        Failed::Busy => ErrorCode::TooManyRequests,
                        Failed::TooLarge => ErrorCode::LimitExceeded,
                        Failed::Unavailable => ErrorCode::Internal,
                    };
                    if matches!(asked, Asked::Connect) {
                        self.fail_connect(link, code);
                    } else {
                        self.fail(link, id, code);
                    }
                }
            }
        }
        self.take_held(link, gate);
    }

    fn app_agreed(&mut self, link: &mut ConnectionContext<'_>, gate: &mut Gate, call: &Call, agreed: Agreed) {
        let Agreed { id, asked, data, info, expire_at } = agreed;
        match asked {
            // Answers about sessions that begin are others.
            Asked::Send | Asked::Connect | Asked::Refresh | Asked::SubRefresh(_) => {}
            Asked::Rpc => {
                let data = data.as_ref().map(app_payload);
                self.sessions.reply(link, |encoding, out| reply::rpc(encoding, out, id, data));
            }
            Asked::Publish { content, key } => {
                let content = match &data {
                    None => Some(content),
                    Some(AppData::Json(value)) => content_of(Encoding::Json, value),
                    Some(AppData::Bytes(bytes)) => content_of(Encoding::Protobuf, bytes),
                };
                let Some(content) = content else {
                    return self.fail(link, id, ErrorCode::Internal);
                };
                let payload = data.as_ref().or(call.data.as_ref()).map(AppData::bytes).unwrap_or_default();
                self.publish_agreed(link, gate, id, call, Publication::new(content, &key, payload));
            }
            Asked::Subscribe { name, request } => {
                let expires_at = match expires_at(link.now(), (expire_at > 0).then_some(expire_at)) {
                    Ok(expires_at) => expires_at,
                    Err(code) => return self.fail(link, id, code),
                };
                let event = (AppEvent::SubRefresh, call.hooks);
                let refresh_at = gate.refresh_at(event, link.now(), expires_at);
                let application = ApplicationData { data, info, refresh_at }.boxed();
                let terms = Terms { allowed_by: AllowedBy::Hook, application, expires_at };
                let wanted = WantedSubscription { id: Some(id.into()), name: &name, request, terms };
                self.subscribe_session(link, gate, wanted);
            }
        }
    }

    fn publish_agreed(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &Gate,
        id: u32,
        call: &Call,
        publication: Publication<'_>,
    ) {
        let id = Some(id.into());
        let refused = if self.drain.is_on() {
            Some(Refused::Draining)
        } else {
            let is_long = publication.payload.len() > self.sequencer.max_message();
            is_long.then_some(Refused::TooLarge)
        };
        let topic = call.target.as_deref().unwrap_or_default();
        if let Some(refused) = refused {
            return self.refuse_publication(link, id, topic, refused);
        }
        let message = TopicPublication::plain(topic, publication);
        self.publish_allowed(link, gate.client(link.token), id, &message);
    }

    /// The id of the hooks that are asked about a topic.
    pub(super) fn hooks_of(&self, topic: &str) -> u64 {
        self.fan_out.topics.settings_of(topic).hooks
    }

    /// Reads a session again that has fewer open requests, unless it has publications that are held.
    pub(super) fn read_again(&mut self, link: &mut ConnectionContext<'_>) {
        let Some(session) = link.peer.session_mut() else { return };
        let is_held = session.held > 0 || session.is_connecting();
        if !is_held && session.centrifuge().is_some_and(|centrifuge| !centrifuge.calls.are_many()) {
            link.set_backpressured(false);
        }
    }
}

impl<'a> Question<'a> {
    pub(super) fn new(event: AppEvent, target: Option<&'a str>, data: Option<AppData>) -> Question<'a> {
        Question { event, hooks: 0, target, data, program: None }
    }
}

/// The payload of a client; `None` for nothing.
pub(super) fn data_of(link: &ConnectionContext<'_>, data: &[u8]) -> Option<AppData> {
    match content_of(encoding_of(link), data) {
        Some(Content::Json) => Some(AppData::Json(data.to_vec())),
        _ if data.is_empty() => None,
        _ => Some(AppData::Bytes(data.to_vec())),
    }
}
