//! Reads the parameters of a command into the action that it asks for. A command whose parameters are invalid or not available is
//! answered with an error.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use echoring_auth::{AppData, Info, ServerSubscription};
use echoring_proto::CloseCode;
use echoring_topics::limits::INTEGER_END;
use echoring_topics::{ClientId, Content, Keeping, Pattern, Tags, Version, is_topic_name};
use echoring_wire::centrifuge::{Disconnect, Encoding, ErrorCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::super::publications::{InvalidBody, owned, present};
use super::error::ApiError;
use crate::actions::Action;
use echoring_auth::limits::SUBJECT_BYTES_MAX;
use echoring_broker::broadcast::{HistoryRange, content_of};
use echoring_broker::gate::unix_now;
use echoring_broker::limits::OUTSIDE_MESSAGES_MAX;
use echoring_broker::publications::PublicationOptions;
use echoring_server::machinery::{
    CLOSE_REASON_BYTES_MAX, ConnectionFilter, NodeOrder, OperatorClose, ScanAction,
};
use echoring_server::{Block, Blocked, OwnedPublication};
use echoring_wire::limits::IDEMPOTENCY_KEY_BYTES_MAX;

/// The call, or the reason why it is impossible.
pub(super) type Parsed = Result<Call, ApiError>;

/// An action with valid parameters.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Publish(String, OwnedPublication),
    Broadcast(Vec<String>, OwnedPublication),
    History(String, HistoryRange, Epoch),
    RemoveHistory(String),
    Presence(String),
    PresenceStats(String),
    Channels(Pattern),
    /// The action for connections.
    Change(ConnectionFilter, ScanAction),
    /// A command for the node.
    Order(NodeOrder),
    Info,
}

/// The epoch of a position; empty if the client knows none.
pub(super) type Epoch = String;

/// A JSON object.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, InvalidBody> {
    // Serde would take the fields from an array as well.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(InvalidBody::bad_json("expected a JSON object"));
    }
    serde_json::from_slice(json).map_err(|error| InvalidBody::bad_json(error.to_string()))
}

/// The call for an action; none for what other interfaces have only.
///
/// # Errors
/// If the parameters do not match the method at all.
pub(super) fn parse(action: Option<Action>, json: &[u8]) -> Result<Parsed, InvalidBody> {
    Ok(match action {
        Some(Action::Publish) => publish(object(json)?),
        Some(Action::Broadcast) => broadcast(object(json)?),
        Some(Action::History) => history(object(json)?),
        Some(Action::RemoveHistory) => channel_of(json)?.map(Call::RemoveHistory),
        Some(Action::Presence) => channel_of(json)?.map(Call::Presence),
        Some(Action::PresenceStats) => channel_of(json)?.map(Call::PresenceStats),
        Some(Action::Channels) => channels(object(json)?),
        Some(Action::Info) => object::<IgnoredAny>(json).map(|_| Ok(Call::Info))?,
        Some(Action::CloseMatching) => disconnect(object(json)?),
        Some(Action::Subscribe) => subscribe(object(json)?),
        Some(Action::Unsubscribe) => unsubscribe(object(json)?),
        Some(Action::Refresh) => refresh(object(json)?),
        Some(Action::BlockUser | Action::RevokeToken) => {
            block(object(json)?).map(|block| Call::Order(NodeOrder::Block(block)))
        }
        Some(Action::UnblockUser) => {
            block(object(json)?).map(|block| Call::Order(NodeOrder::Unblock(block.who)))
        }
        _ => Err(ErrorCode::MethodNotFound.into()),
    })
}

/// The parameters of `publish` and `broadcast`.
#[derive(Debug, Deserialize)]
struct PublishParameters<'a> {
    channel: Option<String>,
    channels: Option<Vec<String>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    idempotency_key: Option<String>,
    skip_history: Option<bool>,
    tags: Option<BTreeMap<String, String>>,
    version: Option<u64>,
    version_epoch: Option<String>,
}

#[derive(Debug, Deserialize)]
struct HistoryParameters {
    channel: Option<String>,
    limit: Option<i64>,
    since: Option<Since>,
    reverse: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Since {
    offset: Option<u64>,
    epoch: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ChannelParameters {
    channel: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ChannelsParameters {
    pattern: Option<String>,
}

/// Who is blocked: a user, or the clients with a token of this id.
#[derive(Debug, Deserialize)]
struct BlockParameters {
    user: Option<String>,
    uid: Option<String>,
    expire_at: Option<u64>,
}

/// Whose connections are meant.
#[derive(Debug, Deserialize)]
struct Whose {
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
}

#[derive(Debug, Deserialize)]
struct SubscribeParameters<'a> {
    #[serde(flatten)]
    whose: Whose,
    channel: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    expire_at: Option<u64>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    b64info: Option<String>,
    recover_since: Option<IgnoredAny>,
    r#override: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Debug, Deserialize)]
struct UnsubscribeParameters {
    #[serde(flatten)]
    whose: Whose,
    channel: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RefreshParameters {
    #[serde(flatten)]
    whose: Whose,
    expired: Option<bool>,
    expire_at: Option<u64>,
    info: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct DisconnectParameters {
    #[serde(flatten)]
    whose: Whose,
    whitelist: Option<Vec<String>>,
    disconnect: Option<CloseParameters>,
}

#[derive(Debug, Deserialize)]
struct CloseParameters {
    code: Option<u16>,
    reason: Option<String>,
}

fn bad(detail: &str) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}

/// The channel of a method that has no other parameter.
fn channel_of(json: &[u8]) -> Result<Result<String, ApiError>, InvalidBody> {
    Ok(channel(object::<ChannelParameters>(json)?.channel))
}

/// The name of a channel, which is that of a topic.
fn channel(name: Option<String>) -> Result<String, ApiError> {
    let name = name.filter(|name| is_topic_name(name));
    name.ok_or_else(|| bad("a channel has 1 to 255 bytes without control characters"))
}

fn publish(mut parameters: PublishParameters<'_>) -> Parsed {
    let channel = channel(parameters.channel.take())?;
    Ok(Call::Publish(channel, publication(parameters)?))
}

fn broadcast(mut parameters: PublishParameters<'_>) -> Parsed {
    let channels = parameters.channels.take().filter(|channels| !channels.is_empty());
    let channels = channels.ok_or_else(|| bad("channels are missing"))?;
    Ok(Call::Broadcast(channels, publication(parameters)?))
}

fn publication(parameters: PublishParameters<'_>) -> Result<OwnedPublication, ApiError> {
    let PublishParameters { data, b64data, idempotency_key, tags, .. } = parameters;
    let tags = tags.unwrap_or_default();
    let tags = Tags::encode(tags.iter().map(|(key, value)| (&**key, &**value)))
        .ok_or_else(|| bad("tags have at most 4 KiB, and their keys 255 bytes"))?;
    let version = match parameters.version.unwrap_or(0) {
        0 => Box::default(),
        number => Version::encode(number, &parameters.version_epoch.unwrap_or_default())
            .ok_or_else(|| bad("a version_epoch has at most 255 bytes"))?,
    };
    let keeping = if parameters.skip_history == Some(true) { Keeping::Skipped } else { Keeping::Kept };
    // An empty `b64data` counts only without `data`: client libraries send both.
    let (content, payload) = match (b64data, data) {
        (Some(text), data) if !text.is_empty() || data.is_none() => {
            let bytes = BASE64.decode(text).map_err(|_| bad("b64data is not base64"))?;
            let content = content_of(Encoding::Protobuf, &bytes);
            (content.ok_or_else(|| bad("b64data is nested too deep"))?, bytes)
        }
        (_, Some(data)) => (Content::Json, data.get().as_bytes().to_vec()),
        (_, None) => return Err(bad("data is missing")),
    };
    let idempotency_key = idempotency_key.unwrap_or_default();
    if idempotency_key.len() > IDEMPOTENCY_KEY_BYTES_MAX || idempotency_key.chars().any(char::is_control) {
        return Err(bad("an idempotency_key has at most 255 bytes without control characters"));
    }
    let mut message = owned(content, "", idempotency_key, payload);
    message.options = PublicationOptions { tags, version, keeping };
    Ok(message)
}

fn history(parameters: HistoryParameters) -> Parsed {
    let HistoryParameters { channel: name, limit, since, reverse } = parameters;
    let (offset, epoch) = since.map_or((None, None), |since| (Some(since.offset.unwrap_or(0)), since.epoch));
    if offset.is_some_and(|offset| offset >= INTEGER_END) {
        return Err(bad("the offset is too large"));
    }
    let range = HistoryRange {
        limit: usize::try_from(limit.unwrap_or(0)).ok(),
        since: offset,
        reverse: reverse == Some(true),
    };
    Ok(Call::History(channel(name)?, range, epoch.unwrap_or_default()))
}

fn channels(parameters: ChannelsParameters) -> Parsed {
    let pattern = parameters.pattern.filter(|pattern| !pattern.is_empty()).unwrap_or_else(|| "*".to_owned());
    if pattern.contains(['?', '[', ']', '{', '}', '\\']) {
        return Err(ApiError::new(ErrorCode::NotAvailable, "a pattern has no special characters but *"));
    }
    Ok(Call::Channels(Pattern::new(&pattern)))
}

fn disconnect(parameters: DisconnectParameters) -> Parsed {
    let DisconnectParameters { whose, whitelist, disconnect } = parameters;
    let filter = whose.filter()?;
    let whitelist = whitelist.unwrap_or_default();
    if whitelist.len() as u64 > OUTSIDE_MESSAGES_MAX {
        return Err(bad("the whitelist is too long"));
    }
    let kept_clients = whitelist.iter().filter_map(|id| ClientId::parse(id)).collect();
    let filter = ConnectionFilter { kept_clients, ..filter };
    Ok(Call::Change(filter, ScanAction::Close(close(disconnect)?)))
}

fn subscribe(parameters: SubscribeParameters<'_>) -> Parsed {
    let SubscribeParameters {
        whose,
        channel: name,
        data,
        b64data,
        expire_at,
        info,
        b64info,
        recover_since,
        r#override,
    } = parameters;
    if recover_since.is_some() {
        return Err(ApiError::new(ErrorCode::NotAvailable, "recover_since"));
    }
    if r#override.is_some_and(|options| !options.is_empty()) {
        return Err(ApiError::new(ErrorCode::NotAvailable, "override: the settings of the topic decide"));
    }
    let data = AppData::read(data, b64data).map_err(|_| bad("b64data is not base64"))?;
    let info = Info::read(info, b64info).ok_or_else(|| bad("info is too long, or b64info is not base64"))?;
    let expire_at = expire_at.filter(|at| *at > 0);
    let subscription = ServerSubscription { channel: channel(name)?.into(), data, info, expire_at };
    Ok(Call::Change(whose.filter()?, ScanAction::Subscribe(subscription)))
}

fn refresh(parameters: RefreshParameters) -> Parsed {
    let RefreshParameters { whose, expired, expire_at, info } = parameters;
    if info.is_some() {
        return Err(ApiError::new(ErrorCode::NotAvailable, "info"));
    }
    let expire_at = expire_at.filter(|at| *at > 0);
    let action = if expired == Some(true) || expire_at.is_some_and(|at| at <= unix_now()) {
        let (code, reason) = (Disconnect::Expired.code(), Disconnect::Expired.reason());
        ScanAction::Close(OperatorClose { code: CloseCode(code), reason: reason.into() })
    } else {
        ScanAction::Refresh(expire_at)
    };
    Ok(Call::Change(whose.filter()?, action))
}

fn block(parameters: BlockParameters) -> Result<Block, ApiError> {
    let BlockParameters { user, uid, expire_at } = parameters;
    let who = match (&user, &uid) {
        (Some(user), None) => Blocked::subject(user),
        (None, Some(uid)) => Blocked::token_id(uid),
        _ => None,
    };
    let who = who.ok_or_else(|| bad("a user, and the uid of a token, has 1 to 255 bytes"))?;
    Ok(Block { who, until: expire_at.filter(|at| *at > 0) })
}

fn unsubscribe(parameters: UnsubscribeParameters) -> Parsed {
    let UnsubscribeParameters { whose, channel: name } = parameters;
    Ok(Call::Change(whose.filter()?, ScanAction::Unsubscribe(channel(name)?.into())))
}

impl Whose {
    fn filter(self) -> Result<ConnectionFilter, ApiError> {
        let Whose { user, client, session } = self;
        let user = user.filter(|user| (1..=SUBJECT_BYTES_MAX).contains(&user.len()));
        let user = user.ok_or_else(|| bad("a user has 1 to 255 bytes"))?;
        if session.is_some_and(|session| !session.is_empty()) {
            return Err(ApiError::new(ErrorCode::NotAvailable, "session"));
        }
        Ok(ConnectionFilter {
            identity: Some(user.into()),
            // No client has the number 0.
            client: client.filter(|id| !id.is_empty()).map(|id| ClientId::parse(&id).unwrap_or_default()),
            ..ConnectionFilter::default()
        })
    }
}

/// The Close frame, by default the one after which SDKs do not return.
fn close(parameters: Option<CloseParameters>) -> Result<OperatorClose, ApiError> {
    let default = Disconnect::ForceNoReconnect;
    let CloseParameters { code, reason } = parameters.unwrap_or(CloseParameters { code: None, reason: None });
    let reason = reason.unwrap_or_else(|| default.reason().to_owned());
    let code = code.filter(|code| *code != 0).unwrap_or(default.code());
    if !(3_000..=4_999).contains(&code) || reason.len() > CLOSE_REASON_BYTES_MAX {
        return Err(bad("disconnect has a code from 3000 to 4999, and a reason of at most 123 bytes"));
    }
    Ok(OperatorClose { code: CloseCode(code), reason: reason.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(method: &str, body: &str) -> Parsed {
        parse(Action::of_api(method), body.as_bytes()).expect("an object")
    }

    fn code(parsed: Parsed) -> u32 {
        parsed.err().map_or(0, |error| error.code)
    }

    #[test]
    fn data_is_published_byte_for_byte() {
        for (data, content, payload) in [
            (r#""data": {"a" : [1e400, "\u00e4"]} "#, Content::Json, &br#"{"a" : [1e400, "\u00e4"]}"#[..]),
            (r#""data":null"#, Content::Json, b"null"),
            (r#""data":"","b64data":"eyJhIjoxfQ==""#, Content::Json, b"{\"a\":1}"),
            (r#""b64data":"aGVsbG8=""#, Content::Text, b"hello"),
            (r#""b64data":"""#, Content::Text, b""),
            (r#""b64data":"","data":"""#, Content::Json, b"\"\""),
            (r#""b64data":"/w==","tags":{},"skip_history":false"#, Content::Binary, b"\xff"),
        ] {
            let body = format!(r#"{{"channel":"a",{data},"other":[]}}"#);
            let Ok(Call::Publish(channel, message)) = single("publish", &body) else { panic!("{body}") };
            assert_eq!((&*channel, message.content, &message.payload[..]), ("a", content, payload));
        }
    }

    #[test]
    fn invalid_parameters_are_errors_of_their_command() {
        let long = "c".repeat(256);
        for (method, body, expected) in [
            ("publish", r#"{"channel":"a"}"#.to_owned(), 107),
            ("publish", r#"{"channel":"","data":1}"#.to_owned(), 107),
            ("publish", format!(r#"{{"channel":"{long}","data":1}}"#), 107),
            ("publish", r#"{"channel":"a","b64data":"?"}"#.to_owned(), 107),
            ("publish", format!(r#"{{"channel":"a","data":1,"idempotency_key":"{long}"}}"#), 107),
            ("publish", format!(r#"{{"channel":"a","data":1,"version":1,"version_epoch":"{long}"}}"#), 107),
            ("publish", format!(r#"{{"channel":"a","data":1,"tags":{{"{long}":"b"}}}}"#), 107),
            ("broadcast", r#"{"channels":[],"data":1}"#.to_owned(), 107),
            ("history", r#"{"channel":"a","since":{"offset":9007199254740992}}"#.to_owned(), 107),
            ("presence", "{}".to_owned(), 107),
            ("channels", r#"{"pattern":"a[bc]"}"#.to_owned(), 108),
            ("disconnect", r#"{"user":""}"#.to_owned(), 107),
            ("disconnect", r#"{"user":"a","session":"b"}"#.to_owned(), 108),
            ("disconnect", r#"{"user":"a","disconnect":{"code":1000,"reason":""}}"#.to_owned(), 107),
            ("subscribe", "{}".to_owned(), 107),
            ("subscribe", r#"{"user":"a"}"#.to_owned(), 107),
            ("subscribe", r#"{"user":"a","channel":"b","b64data":"?"}"#.to_owned(), 107),
            ("subscribe", r#"{"user":"a","channel":"b","recover_since":{"offset":1}}"#.to_owned(), 108),
            (
                "subscribe",
                r#"{"user":"a","channel":"b","override":{"presence":{"value":true}}}"#.to_owned(),
                108,
            ),
            ("subscribe", r#"{"user":"a","channel":"b","data":{"x":[1]},"expire_at":0}"#.to_owned(), 0),
            ("subscribe", r#"{"user":"a","channel":"b","info":null,"b64info":""}"#.to_owned(), 0),
            ("subscribe", r#"{"user":"a","channel":"b","info":{"name":"Ann"}}"#.to_owned(), 0),
            ("subscribe", r#"{"user":"a","channel":"b","b64info":"AA=="}"#.to_owned(), 0),
            ("unsubscribe", r#"{"user":"a"}"#.to_owned(), 107),
            ("unsubscribe", r#"{"user":"a","channel":"b","client":"7f"}"#.to_owned(), 0),
            ("history_remove", "{}".to_owned(), 107),
            ("history_remove", r#"{"channel":"a"}"#.to_owned(), 0),
            ("refresh", "{}".to_owned(), 107),
            ("refresh", r#"{"user":"a","expire_at":1,"session":""}"#.to_owned(), 0),
            ("refresh", r#"{"user":"a","info":{}}"#.to_owned(), 108),
            ("block_user", r#"{"user":""}"#.to_owned(), 107),
            ("block_user", r#"{"user":"a","expire_at":1900000000}"#.to_owned(), 0),
            ("revoke_token", r#"{"uid":"b"}"#.to_owned(), 0),
            ("unblock_user", r#"{"user":"a"}"#.to_owned(), 0),
            ("rpc", "{}".to_owned(), 104),
            ("PUBLISH", "{}".to_owned(), 104),
            ("info", "{}".to_owned(), 0),
        ] {
            assert_eq!(code(single(method, &body)), expected, "{method} {body}");
        }
    }

    #[test]
    fn a_publication_may_have_tags_skip_the_history_and_have_a_version() {
        let body = r#"{"channel":"a","data":1,"tags":{"b":"2","a":""},"skip_history":true,"version":3,"version_epoch":"e"}"#;
        let Ok(Call::Publish(_, message)) = single("publish", body) else { panic!("{body}") };
        let version = Version::encode(3, "e").expect("short");
        let tags = Tags::encode([("a", ""), ("b", "2")].into_iter()).expect("short");
        let expected = PublicationOptions { tags, version, keeping: Keeping::Skipped };
        assert_eq!(message.options, expected);
        let body = r#"{"channel":"a","data":1,"skip_history":false,"version":0,"version_epoch":"e"}"#;
        let Ok(Call::Publish(_, message)) = single("publish", body) else { panic!("{body}") };
        assert_eq!(message.options, PublicationOptions::default());
    }

    #[test]
    fn a_refreshed_user_expires_then_or_now() {
        let action = |body: &str| match single("refresh", body) {
            Ok(Call::Change(_, action)) => action,
            other => panic!("{other:?}"),
        };
        let reason = "connection expired".into();
        let expired = ScanAction::Close(OperatorClose { code: CloseCode(3005), reason });
        for (body, expected) in [
            (r#"{"user":"a","expire_at":99999999999}"#, ScanAction::Refresh(Some(99_999_999_999))),
            (r#"{"user":"a","expire_at":0}"#, ScanAction::Refresh(None)),
            (r#"{"user":"a","expire_at":1}"#, expired.clone()),
            (r#"{"user":"a","expire_at":99999999999,"expired":true}"#, expired),
        ] {
            assert_eq!(action(body), expected, "{body}");
        }
    }

    #[test]
    fn a_user_is_disconnected_for_good_unless_the_command_says_otherwise() {
        let closed = |body: &str| match single("disconnect", body) {
            Ok(Call::Change(filter, ScanAction::Close(close))) => (filter, close.code.0, close.reason),
            other => panic!("{other:?}"),
        };
        let (filter, code, reason) = closed(r#"{"user":"alice"}"#);
        assert_eq!(
            (filter.identity.as_deref(), filter.client, code, &*reason),
            (Some("alice"), None, 3503, "force disconnect")
        );
        let (filter, code, reason) = closed(
            r#"{"user":"a","client":"ff","whitelist":["1f","?"],"disconnect":{"code":4400,"reason":"x"}}"#,
        );
        let id = ClientId::local;
        assert_eq!(
            (filter.client, &*filter.kept_clients, code, &*reason),
            (Some(id(255)), &[id(31)][..], 4400, "x")
        );
        assert_eq!(closed(r#"{"user":"a","client":"not one"}"#).0.client, Some(id(0)));
    }
}
