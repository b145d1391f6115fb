//! Requests of sessions about which the application is asked by its hooks.
//!
//! A request that is asked about does not hold up others, but publications stay in their order. A session with many open requests
//! is not read.

use std::collections::VecDeque;

use echoring_auth::{AppAnswer, AppData, AppEvent, Call, Failed};
use echoring_centrifuge::{Disconnect, Encoding, Error, ErrorCode, Rpc, reply};
use echoring_proto::CloseCode;
use echoring_runtime::shard::ConnectionContext;
use echoring_topics::{Content, Position, Publication, Refused};

use super::Broadcast;
use super::centrifuge::{centrifuge, content_of, disconnect};
use super::centrifuge_events::{app_payload, number};
use super::requests::WantedSubscription;
use super::session::AllowedBy;
use super::subscription_tokens::expires_at;
use crate::auth::{AppAnswered, Gate};
use crate::limits::CENTRIFUGE_APP_CALLS_MAX;
use crate::peer::{Peer, ServerApplication};

/// The open requests of a session.
#[derive(Debug, Default)]
pub(super) struct AppCalls {
    last: u32,
    open: VecDeque<OpenCall>,
}

#[derive(Debug)]
struct OpenCall {
    number: u32,
    /// The id of the request.
    id: u32,
    asked: Asked,
    answered: Option<(Box<Call>, AppAnswer)>,
}

/// What to do when the application agrees.
#[derive(Debug)]
enum Asked {
    /// Answer the call.
    Rpc,
    /// Nothing.
    Send,
    /// Publish.
    Publish { content: Content, key: Box<str> },
    /// Subscribe.
    Subscribe(AskedSubscription),
}

#[derive(Debug)]
struct AskedSubscription {
    name: Box<str>,
    from: Option<Position>,
    presence: bool,
    must_recover: bool,
    deltas: bool,
}

/// What the application has agreed to.
struct Agreed {
    encoding: Encoding,
    id: u32,
    asked: Asked,
    data: Option<AppData>,
    expire_at: u64,
}

impl AppCalls {
    fn begin(&mut self, id: u32, asked: Asked) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.open.push_back(OpenCall { number: self.last, id, asked, answered: None });
        self.last
    }

    /// Whether so many are open that the session is not to be read.
    pub(super) fn are_many(&self) -> bool {
        self.open.len() >= CENTRIFUGE_APP_CALLS_MAX
    }

    /// Keeps an answer until it is taken.
    fn answer(&mut self, number: u32, call: Box<Call>, answer: AppAnswer) {
        if let Some(open) = self.open.iter_mut().find(|open| open.number == number) {
            open.answered = Some((call, answer));
        }
    }

    /// The next request whose answer may be acted on: that of a publication only after those of earlier publications.
    fn take_answered(&mut self) -> Option<(u32, Asked, Box<Call>, AppAnswer)> {
        let mut publications_wait = false;
        let index = self.open.iter().position(|open| {
            let is_publication = matches!(open.asked, Asked::Publish { .. });
            let is_next = open.answered.is_some() && !(is_publication && publications_wait);
            publications_wait |= is_publication;
            is_next
        })?;
        let OpenCall { id, asked, answered, .. } = self.open.remove(index)?;
        let (call, answer) = answered?;
        Some((id, asked, call, answer))
    }

    /// Removes the request to subscribe to a topic. Returns its id.
    fn cancel_subscribe(&mut self, name: &str) -> Option<u32> {
        let is_this =
            |open: &OpenCall| matches!(&open.asked, Asked::Subscribe(asked) if *asked.name == *name);
        let index = self.open.iter().position(is_this)?;
        self.open.remove(index).map(|open| open.id)
    }

    fn subscribes(&self, name: &str) -> bool {
        self.open.iter().any(|open| matches!(&open.asked, Asked::Subscribe(asked) if *asked.name == *name))
    }
}

impl Broadcast {
    /// A session calls the application.
    pub(super) fn take_rpc<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        gate: &Gate,
        encoding: Encoding,
        id: u32,
        rpc: &Rpc<'_>,
    ) {
        if !gate.asks_app(AppEvent::Rpc) {
            return self.fail(link, encoding, id, ErrorCode::NotAvailable);
        }
        let target = Some(&*rpc.method);
        self.ask_app(link, gate, id, Asked::Rpc, AppEvent::Rpc, target, data_of(encoding, rpc.data));
    }

    /// A session sends a message to the application. Without a hook there is nobody that it could be for.
    pub(super) fn take_send<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        gate: &Gate,
        data: &[u8],
    ) {
        let Some(encoding) = centrifuge(link).map(|centrifuge| centrifuge.encoding) else { return };
        if gate.asks_app(AppEvent::Rpc) {
            self.ask_app(link, gate, 0, Asked::Send, AppEvent::Rpc, None, data_of(encoding, data));
        }
    }

    /// A session wants to publish where the application decides.
    pub(super) fn ask_publish<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        gate: &mut Gate,
        encoding: Encoding,
        id: u32,
        name: &str,
        publication: &Publication<'_>,
    ) {
        if !gate.asks_app(AppEvent::Publish) {
            return self.fail(link, encoding, id, ErrorCode::PermissionDenied);
        }
        if let Err(limit) = gate.publish(link.token, link.now()) {
            link.note_excess(limit, false);
            self.sequencer.topics.note_refused();
            return self.sessions.refuse(link, Some(id.into()), Refused::RateLimited);
        }
        let Publication { content, key, payload } = *publication;
        let asked = Asked::Publish { content, key: key.into() };
        let data = match content {
            Content::Json => AppData::Json(payload.to_vec()),
            Content::Text | Content::Binary => AppData::Bytes(payload.to_vec()),
        };
        self.ask_app(link, gate, id, asked, AppEvent::Publish, Some(name), Some(data));
    }

    /// A session wants to subscribe where the application decides.
    pub(super) fn ask_subscribe<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        gate: &Gate,
        encoding: Encoding,
        wanted: &WantedSubscription<'_>,
        data: &[u8],
    ) {
        let WantedSubscription { id, name, from, presence, must_recover, deltas, .. } = *wanted;
        if !gate.asks_app(AppEvent::Subscribe) {
            return self.fail(link, encoding, number(id), ErrorCode::PermissionDenied);
        }
        if let Some(error) = self.subscribe_error(link, id, name) {
            return self.sessions.reject(link, &error);
        }
        if centrifuge(link).is_some_and(|centrifuge| centrifuge.calls.subscribes(name)) {
            return self.fail(link, encoding, number(id), ErrorCode::AlreadySubscribed);
        }
        let asked = AskedSubscription { name: name.into(), from, presence, must_recover, deltas };
        let data = data_of(encoding, data);
        self.ask_app(link, gate, number(id), Asked::Subscribe(asked), AppEvent::Subscribe, Some(name), data);
    }

    /// A session ends a subscription about which the application is still asked.
    pub(super) fn cancel_asked_subscribe<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        name: &str,
    ) {
        let Some(centrifuge) = centrifuge(link) else { return };
        let encoding = centrifuge.encoding;
        if let Some(id) = centrifuge.calls.cancel_subscribe(name) {
            self.fail(link, encoding, id, ErrorCode::PermissionDenied);
            self.read_again(link);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is a part of one call")]
    fn ask_app<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        gate: &Gate,
        id: u32,
        asked: Asked,
        event: AppEvent,
        target: Option<&str>,
        data: Option<AppData>,
    ) {
        let (token, client) = (link.token, format!("{:x}", self.client_id(link)));
        let Peer::Session(session) = &mut *link.peer else { return };
        let user = session.subject.clone();
        let Some(centrifuge) = session.centrifuge_mut() else { return };
        let call = Call {
            event,
            client,
            encoding: match centrifuge.encoding {
                Encoding::Json => "json",
                Encoding::Protobuf => "protobuf",
            },
            user,
            target: target.map(Into::into),
            data,
            forwarded: centrifuge.forwarded.clone(),
        };
        let call_number = centrifuge.calls.begin(id, asked);
        if centrifuge.calls.are_many() {
            link.set_backpressured(true);
        }
        gate.ask_app(token, call_number, call);
    }

    /// The application has answered.
    pub(crate) fn app_answered<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        gate: &mut Gate,
        answered: AppAnswered,
    ) {
        let AppAnswered { number, call, answer, .. } = answered;
        if let Some(centrifuge) = centrifuge(link) {
            centrifuge.calls.answer(number, call, answer);
        }
        while link.is_open()
            && let Some(centrifuge) = centrifuge(link)
            && let Some((id, asked, call, answer)) = centrifuge.calls.take_answered()
        {
            let encoding = centrifuge.encoding;
            match answer {
                AppAnswer::Agreed { data, expire_at } => {
                    let agreed = Agreed { encoding, id, asked, data, expire_at };
                    self.app_agreed(link, gate, &call, agreed);
                }
                AppAnswer::Disconnect { code, reason } => link.close(CloseCode(code), &reason),
                AppAnswer::Refused { code, message, temporary } => {
                    let error = Error { code, message: &message, temporary };
                    if !matches!(asked, Asked::Send) {
                        self.sessions.send_with(link, |out| reply::error(encoding, out, id, error));
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
                    self.fail(link, encoding, id, code);
                }
            }
        }
        self.read_again(link);
    }

    fn app_agreed<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        gate: &mut Gate,
        call: &Call,
        agreed: Agreed,
    ) {
        let Agreed { encoding, id, asked, data, expire_at } = agreed;
        match asked {
            Asked::Send => {}
            Asked::Rpc => {
                let data = data.as_ref().map(app_payload);
                self.sessions.send_with(link, |out| reply::rpc(encoding, out, id, data));
            }
            Asked::Publish { content, key } => {
                let content = match &data {
                    None => Some(content),
                    Some(AppData::Json(value)) => content_of(Encoding::Json, value),
                    Some(AppData::Bytes(bytes)) => content_of(Encoding::Protobuf, bytes),
                };
                let Some(content) = content else {
                    return self.fail(link, encoding, id, ErrorCode::Internal);
                };
                let payload = data.as_ref().or(call.data.as_ref()).map(AppData::bytes).unwrap_or_default();
                self.publish_agreed(link, gate, id, call, Publication { content, key: &key, payload });
            }
            Asked::Subscribe(AskedSubscription { name, from, presence, must_recover, deltas }) => {
                let expires_at = match expires_at(gate, link.now(), (expire_at > 0).then_some(expire_at)) {
                    Ok(expires_at) => expires_at,
                    Err(code) => return self.fail(link, encoding, id, code),
                };
                let (allowed_by, data) = (AllowedBy::Hook, data.map(Box::new));
                let (id, name) = (Some(id.into()), &*name);
                let wanted = WantedSubscription {
                    id,
                    name,
                    from,
                    presence,
                    must_recover,
                    deltas,
                    allowed_by,
                    data,
                    expires_at,
                };
                self.subscribe_session(link, gate, wanted);
            }
        }
    }

    fn publish_agreed<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        gate: &Gate,
        id: u32,
        call: &Call,
        publication: Publication<'_>,
    ) {
        let id = Some(id.into());
        let refused = if self.drain.is_on() {
            Some(Refused::Draining)
        } else {
            let is_long = publication.payload.len() > self.sequencer.message_bytes_max();
            is_long.then_some(Refused::TooLarge)
        };
        if let Some(refused) = refused {
            self.sequencer.topics.note_refused();
            return self.sessions.refuse(link, id, refused);
        }
        let name = call.target.as_deref().unwrap_or_default();
        let client = gate.client(link.token);
        self.publish_allowed(link, client, id, name, publication, "");
    }

    /// Reads a session again that has fewer open requests, unless it has publications that are held.
    fn read_again<A: ServerApplication>(&mut self, link: &mut ConnectionContext<'_, A>) {
        let Peer::Session(session) = &mut *link.peer else { return };
        let is_held = session.held > 0 || session.is_connecting();
        if !is_held && session.centrifuge().is_some_and(|centrifuge| !centrifuge.calls.are_many()) {
            link.set_backpressured(false);
        }
    }
}

/// What a client sends; `None` for nothing.
fn data_of(encoding: Encoding, data: &[u8]) -> Option<AppData> {
    match content_of(encoding, data) {
        Some(Content::Json) => Some(AppData::Json(data.to_vec())),
        _ if data.is_empty() => None,
        _ => Some(AppData::Bytes(data.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Box<Call> {
        Box::new(Call {
            event: AppEvent::Rpc,
            client: String::new(),
            encoding: "json",
            user: "".into(),
            target: None,
            data: None,
            forwarded: None,
        })
    }

    #[test]
    fn publications_stay_in_their_order_and_nothing_else_waits() {
        let mut calls = AppCalls::default();
        let publication = || Asked::Publish { content: Content::Json, key: "".into() };
        let numbers = [publication(), Asked::Rpc, publication(), Asked::Rpc, publication()];
        let numbers: Vec<u32> = (1..).zip(numbers).map(|(id, asked)| calls.begin(id, asked)).collect();
        let mut done = Vec::new();
        for answered in [3, 1, 0, 4, 2] {
            calls.answer(numbers[answered], call(), AppAnswer::Agreed { data: None, expire_at: 0 });
            while let Some((id, ..)) = calls.take_answered() {
                done.push(id);
            }
            done.push(0);
        }
        assert_eq!(done, [4, 0, 2, 0, 1, 0, 0, 3, 5, 0]);
    }

    #[test]
    fn a_subscription_that_is_asked_about_can_be_cancelled() {
        let mut calls = AppCalls::default();
        let (from, presence, must_recover, deltas) = (None, false, false, false);
        let asked = AskedSubscription { name: "a".into(), from, presence, must_recover, deltas };
        let number = calls.begin(7, Asked::Subscribe(asked));
        assert!(calls.subscribes("a") && !calls.subscribes("b"));
        assert_eq!((calls.cancel_subscribe("b"), calls.cancel_subscribe("a")), (None, Some(7)));
        calls.answer(number, call(), AppAnswer::Agreed { data: None, expire_at: 0 });
        assert!(calls.take_answered().is_none());
    }
}
