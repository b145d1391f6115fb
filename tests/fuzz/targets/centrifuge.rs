//! Centrifuge's client protocol: commands are read as by another parser or refused, what is written can be read, and deltas
//! lead to their targets.
//!
//! Input: a byte that chooses what follows: a frame in JSON, a frame in protobuf, or a byte for the length of a base, the
//! base, and a target or a delta.

use echoring_wire::centrifuge::{
    Body, Command, Encoding, Payload, Publication, Request, Texts, decode, delta, push, reply,
};
use echoring_wire::limits::{
    COMMANDS_PER_FRAME_MAX, DELTA_OVERHEAD_BYTES_MAX, SUBSCRIPTIONS_PER_CONNECT_MAX,
};
use serde_json::Value;

/// Bytes that a client would accept of a delta's target.
const TARGET_BYTES_MAX: usize = 4 * 1024;

pub fn run(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    match choice % 3 {
        0 => run_frame(Encoding::Json, rest),
        1 => run_frame(Encoding::Protobuf, rest),
        _ => run_delta(rest),
    }
}

fn run_frame(encoding: Encoding, frame: &[u8]) {
    let mut lines = frame.split(|&byte| byte == b'\n');
    let mut count = 0;
    for command in decode(encoding, frame) {
        count += 1;
        let line = lines.next();
        let Ok(command) = command else { break };
        check_command(&command, frame);
        if encoding == Encoding::Json {
            compare(&command, line.expect("a line"));
        }
        check_publication(encoding, &command);
    }
    assert!((1..=COMMANDS_PER_FRAME_MAX + 1).contains(&count));
}

fn check_command(command: &Command<'_>, frame: &[u8]) {
    match &command.request {
        Request::Send { .. } => {}
        Request::Pong => assert_eq!(command.id, 0),
        _ => assert_ne!(command.id, 0),
    }
    if let Request::Connect(connect) = &command.request {
        assert!(connect.subscriptions.len() <= SUBSCRIPTIONS_PER_CONNECT_MAX);
    }
    let data = data_of(&command.request);
    assert!(data.is_empty() || frame.as_ptr_range().contains(&data.as_ptr()), "data was copied");
}

fn data_of<'a>(request: &Request<'a>) -> &'a [u8] {
    match request {
        Request::Connect(connect) => connect.data,
        Request::Subscribe(subscribe) => subscribe.data,
        Request::Publish(publish) => publish.data,
        Request::Send { data } => data,
        Request::Rpc(rpc) => rpc.data,
        _ => b"",
    }
}

/// The name of a request with the string that counts most.
fn name_of<'a>(request: &'a Request<'_>) -> Option<(&'static str, &'static str, &'a str)> {
    Some(match request {
        Request::Connect(connect) => ("connect", "token", &connect.token),
        Request::Subscribe(subscribe) => ("subscribe", "channel", &subscribe.channel),
        Request::Unsubscribe { channel } => ("unsubscribe", "channel", channel),
        Request::Publish(publish) => ("publish", "channel", &publish.channel),
        Request::Presence { channel } => ("presence", "channel", channel),
        Request::PresenceStats { channel } => ("presence_stats", "channel", channel),
        Request::History(history) => ("history", "channel", &history.channel),
        Request::Rpc(rpc) => ("rpc", "method", &rpc.method),
        Request::Refresh { token } => ("refresh", "token", token),
        Request::SubRefresh(refresh) => ("sub_refresh", "channel", &refresh.channel),
        Request::Send { .. } => ("send", "", ""),
        Request::Ping => ("ping", "", ""),
        Request::Pong | Request::Unknown => return None,
    })
}

/// The other parser refuses deep values and incomplete characters even where a command does not need them.
fn compare(command: &Command<'_>, line: &[u8]) {
    let Ok(read) = serde_json::from_slice::<Value>(line) else { return };
    assert!(read.is_object(), "a command from {read}");
    assert_eq!(read["id"].as_u64().unwrap_or_default(), u64::from(command.id));
    let Some((name, field, text)) = name_of(&command.request) else { return };
    let request = &read[name];
    assert_eq!(request[field].as_str().unwrap_or_default(), text, "{name}.{field}");
    if !has_data(&command.request) {
        return;
    }
    match data_of(&command.request) {
        b"" => assert_eq!(request.get("data"), None),
        data => assert_eq!(request.get("data"), serde_json::from_slice(data).ok().as_ref()),
    }
}

fn has_data(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::Connect(_)
            | Request::Subscribe(_)
            | Request::Publish(_)
            | Request::Send { .. }
            | Request::Rpc(_)
    )
}

/// Data that came in a command arrives at subscribers with both encodings.
fn check_publication(encoding: Encoding, command: &Command<'_>) {
    let data = data_of(&command.request);
    let payload = match encoding {
        Encoding::Protobuf => Payload::Bytes(data),
        _ if data.is_empty() => return,
        _ => Payload::Json(data),
    };
    let channel = name_of(&command.request).map_or("", |(.., text)| text);
    let publication =
        Publication { body: Body::Plain(payload), offset: 7, info: None, key: "", tags: Texts::NONE };
    let mut json = Vec::new();
    reply::publish(Encoding::Json, &mut json, command.id);
    push::publication(Encoding::Json, &mut json, channel, &publication);
    let lines: Vec<_> = json.split(|&byte| byte == b'\n').collect();
    let [published, pushed] = lines[..] else { panic!("{} lines", lines.len()) };
    let published: Value = serde_json::from_slice(published).expect("JSON");
    assert_eq!(published["id"].as_u64().unwrap_or_default(), u64::from(command.id));
    let Ok(pushed) = serde_json::from_slice::<Value>(pushed) else {
        // The other parser counts the levels around the data, too.
        let as_deep = [b"[[[", data, b"]]]"].concat();
        assert!(serde_json::from_slice::<Value>(&as_deep).is_err(), "it is JSON if the data is");
        return;
    };
    assert_eq!(pushed["push"]["channel"].as_str().unwrap_or_default(), channel);
    assert_eq!(pushed["push"]["pub"]["offset"], 7);
    let mut protobuf = Vec::new();
    push::publication(Encoding::Protobuf, &mut protobuf, channel, &publication);
    assert!(data.is_empty() || protobuf.windows(data.len()).any(|window| window == data));
}

fn run_delta(input: &[u8]) {
    let Some((&length, rest)) = input.split_first() else { return };
    let (base, target) = rest.split_at(usize::from(length).min(rest.len()));
    let made = delta::create(base, target);
    assert!(made.len() <= target.len() + DELTA_OVERHEAD_BYTES_MAX);
    assert_eq!(delta::apply(base, &made, target.len()).as_deref(), Ok(target));
    if str::from_utf8(target).is_ok() {
        assert!(str::from_utf8(&made).is_ok(), "a delta to text is text");
    }
    if let Ok(applied) = delta::apply(base, target, TARGET_BYTES_MAX) {
        assert!(applied.len() <= TARGET_BYTES_MAX);
    }
}
