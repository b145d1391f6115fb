//! The connections of a recording, with the messages of their clients and the answers.
//!
//! A [`ScriptBuilder`] takes the events of a recording in its order and makes a [`Script`]. It relates each answer to the
//! message that it is timed from.
//!
//! Never: more memory than [`REPLAY_BYTES_MAX`], or a message that the recording does not have whole.

use std::collections::HashMap;
use std::ops::Range;

use super::comparison::{AnswerComparison, ComparisonRule, Digest};
use echoring_proto::close::CloseCode;
use echoring_proto::connection::MessageKind;
use echoring_proto::limits::Nanos;

/// Maximum size of a script in bytes: the payloads of its messages, and `ENTRY_BYTES` for each of them and each
/// connection. It is kept in memory.
pub const REPLAY_BYTES_MAX: u64 = 1 << 30;
/// Memory of a message or a connection besides its payload, rounded up.
const ENTRY_BYTES: u64 = 96;

/// The connections of a recording.
#[derive(Debug, PartialEq, Eq)]
pub struct Script {
    /// The name of the recording.
    pub name: String,
    /// How answers are compared.
    pub(crate) comparison: AnswerComparison,
    /// All payloads.
    bytes: Vec<u8>,
    /// The connections, at least one, in the order in which they were opened.
    pub(crate) dialogues: Vec<Dialogue>,
    /// The time of the last event.
    pub(crate) length: Nanos,
    /// Number of messages of the clients.
    pub messages: u64,
    /// Number of messages of the servers.
    pub answers: u64,
    /// The sizes of the smallest and the largest message of the clients; 0 without any.
    pub message_bytes: (usize, usize),
    /// The size of the largest message of the servers.
    pub(crate) answer_bytes_max: usize,
    /// Why the recording is not complete, if it is not.
    pub truncated: Option<String>,
}

/// One connection of a recording. Times count from the opening of the first connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dialogue {
    /// Its number in the recording.
    pub(crate) number: u64,
    pub(crate) opened_at: Nanos,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) subprotocol: Option<String>,
    /// The client's messages, in order.
    pub(crate) actions: Vec<Action>,
    /// The server's messages, in order.
    pub(crate) answers: Vec<Answer>,
    /// Answers that came before the client closed; the others need not come.
    pub(crate) owed: u32,
    /// How it ended, and when; `None` if the recording ended before.
    pub(crate) end: Option<(Nanos, RecordedEnd)>,
    /// The answers that have an id, grouped by it and sorted by the digest of the id.
    pub(crate) groups: Vec<IdGroup>,
    /// The members of the groups, as indices of answers in their order.
    pub(crate) members: Vec<u32>,
}

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) at: Nanos,
    pub(crate) kind: ActionKind,
    payload: Range<usize>,
    /// Whether an answer is timed from it.
    pub(crate) is_timed: bool,
}

/// The kind of a client's action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActionKind {
    Message(MessageKind),
    Ping,
}

/// A server's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) at: Nanos,
    pub(crate) kind: MessageKind,
    payload: Range<usize>,
    pub(crate) digest: Digest,
    /// Actions that were recorded before it.
    pub(crate) after: u32,
    /// The action that it is timed from.
    pub(crate) request: Option<u32>,
}

/// The answers with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdGroup {
    pub(crate) id: u64,
    /// Their places among the members.
    pub(crate) from: u32,
    pub(crate) until: u32,
}

/// How a recorded connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedEnd {
    /// The client sent a Close frame; [`CloseCode::NO_STATUS`] stands for an empty one.
    Close(CloseCode, String),
    /// The client left without a Close frame.
    Abort,
    /// The server ended it, with this code; 1006 without a Close frame.
    ByServer(CloseCode),
}

impl Script {
    /// The payload of a client's message.
    #[inline]
    pub(crate) fn sent(&self, action: &Action) -> &[u8] {
        &self.bytes[action.payload.clone()]
    }

    /// The payload of an answer.
    #[inline]
    pub(crate) fn answered(&self, answer: &Answer) -> &[u8] {
        &self.bytes[answer.payload.clone()]
    }
}

/// Makes a script of the events of a recording, in the order of the recording.
#[derive(Debug, Default)]
pub struct ScriptBuilder {
    name: String,
    comparison: AnswerComparison,
    bytes: Vec<u8>,
    drafts: Vec<Draft>,
    /// The place of each connection among the drafts, by its number.
    places: HashMap<u64, usize>,
    /// Payloads and entries, in bytes.
    size: u64,
}

/// A connection that is being read. Times are those of the recording.
#[derive(Debug)]
struct Draft {
    dialogue: Dialogue,
    is_closed: bool,
    /// The latest action of each id.
    requests: HashMap<u64, u32>,
}

impl ScriptBuilder {
    /// A script without connections of the recording `name`.
    pub fn new(name: String, comparison: AnswerComparison) -> ScriptBuilder {
        ScriptBuilder { name, comparison, ..ScriptBuilder::default() }
    }

    /// A connection was opened.
    ///
    /// # Errors
    /// As all methods: why the event cannot be part of a script.
    pub fn opened(
        &mut self,
        number: u64,
        at: Nanos,
        path: String,
        subprotocol: Option<String>,
    ) -> Result<(), String> {
        if !path.starts_with('/') {
            return Err(format!("connection {number} has the path {path:?}, which does not begin with /"));
        }
        self.take((path.len() + subprotocol.as_ref().map_or(0, String::len)) as u64)?;
        if self.places.insert(number, self.drafts.len()).is_some() {
            return Err(format!("connection {number} is opened twice"));
        }
        let dialogue = Dialogue { number, opened_at: at, path, subprotocol, ..Dialogue::default() };
        self.drafts.push(Draft { dialogue, is_closed: false, requests: HashMap::new() });
        Ok(())
    }

    /// The client of a connection sent a message.
    ///
    /// # Errors
    /// If the connection is unknown, or the script becomes too large.
    pub fn sent(&mut self, number: u64, at: Nanos, kind: MessageKind, payload: &[u8]) -> Result<(), String> {
        let id = match &self.comparison.rule {
            ComparisonRule::JsonById(_) => self.comparison.digest(kind, payload).id,
            _ => None,
        };
        self.act(number, at, ActionKind::Message(kind), payload, id)
    }

    /// The client of a connection sent a ping.
    ///
    /// # Errors
    /// As [`sent`](ScriptBuilder::sent).
    pub fn pinged(&mut self, number: u64, at: Nanos, payload: &[u8]) -> Result<(), String> {
        self.act(number, at, ActionKind::Ping, payload, None)
    }

    fn act(
        &mut self,
        number: u64,
        at: Nanos,
        kind: ActionKind,
        payload: &[u8],
        id: Option<u64>,
    ) -> Result<(), String> {
        let payload = self.keep(payload)?;
        let draft = self.draft(number)?;
        if draft.is_closed {
            return Ok(());
        }
        let actions = &mut draft.dialogue.actions;
        if let Some(id) = id {
            draft.requests.insert(id, index(actions.len())?);
        }
        actions.push(Action { at, kind, payload, is_timed: false });
        Ok(())
    }

    /// The server of a connection sent a message.
    ///
    /// # Errors
    /// As [`sent`](ScriptBuilder::sent).
    pub fn answered(
        &mut self,
        number: u64,
        at: Nanos,
        kind: MessageKind,
        payload: &[u8],
    ) -> Result<(), String> {
        let digest = self.comparison.digest(kind, payload);
        let payload = self.keep(payload)?;
        let draft = self.draft(number)?;
        let Dialogue { actions, answers, owed, .. } = &mut draft.dialogue;
        // Of several answers to one request the first is timed.
        let request = digest.id.and_then(|id| draft.requests.remove(&id));
        index(answers.len())?;
        answers.push(Answer { at, kind, payload, digest, after: index(actions.len())?, request });
        if !draft.is_closed {
            *owed = index(answers.len())?;
        }
        Ok(())
    }

    /// A connection ended, or its client closed it. Only the first end counts; the client sends nothing after it.
    ///
    /// # Errors
    /// If the connection is unknown.
    pub fn ended(&mut self, number: u64, at: Nanos, end: RecordedEnd) -> Result<(), String> {
        let draft = self.draft(number)?;
        draft.is_closed = true;
        draft.dialogue.end.get_or_insert((at, end));
        Ok(())
    }

    /// The script. `truncated` is the reason why the recording is incomplete, if it is.
    ///
    /// # Errors
    /// If the recording has no connection.
    pub fn finish(self, truncated: Option<String>) -> Result<Script, String> {
        let ScriptBuilder { name, comparison, mut bytes, drafts, .. } = self;
        let Some(origin) = drafts.iter().map(|draft| draft.dialogue.opened_at).min() else {
            return Err("the recording has no connection".to_owned());
        };
        bytes.shrink_to_fit();
        let by_id = matches!(comparison.rule, ComparisonRule::JsonById(_));
        let mut dialogues: Vec<Dialogue> =
            drafts.into_iter().map(|draft| draft.dialogue.completed(origin, by_id)).collect();
        dialogues.sort_by_key(|dialogue| (dialogue.opened_at, dialogue.number));
        let messages = || {
            let actions = dialogues.iter().flat_map(|dialogue| &dialogue.actions);
            actions.filter(|action| action.kind != ActionKind::Ping).map(|action| action.payload.len())
        };
        let answers = || dialogues.iter().flat_map(|dialogue| &dialogue.answers);
        Ok(Script {
            length: dialogues.iter().map(Dialogue::last_at).max().unwrap_or(0),
            messages: messages().count() as u64,
            answers: answers().count() as u64,
            message_bytes: (messages().min().unwrap_or(0), messages().max().unwrap_or(0)),
            answer_bytes_max: answers().map(|answer| answer.payload.len()).max().unwrap_or(0),
            name,
            comparison,
            bytes,
            dialogues,
            truncated,
        })
    }

    fn draft(&mut self, number: u64) -> Result<&mut Draft, String> {
        let place = self.places.get(&number).ok_or_else(|| format!("connection {number} is not open"))?;
        Ok(&mut self.drafts[*place])
    }

    fn keep(&mut self, payload: &[u8]) -> Result<Range<usize>, String> {
        self.take(payload.len() as u64)?;
        let from = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        Ok(from..self.bytes.len())
    }

    /// Reserves an entry with this number of bytes.
    fn take(&mut self, bytes: u64) -> Result<(), String> {
        self.size += bytes + ENTRY_BYTES;
        if self.size > REPLAY_BYTES_MAX {
            return Err(format!(
                "the messages up to here take more than {} MiB of memory; record for a shorter time",
                REPLAY_BYTES_MAX >> 20
            ));
        }
        Ok(())
    }
}

/// An index that fits its type; the size of a script does not allow others.
fn index(at: usize) -> Result<u32, String> {
    u32::try_from(at).map_err(|_| "a connection has too many messages".to_owned())
}

impl Dialogue {
    /// The time of its last event.
    fn last_at(&self) -> Nanos {
        let sent = self.actions.last().map(|action| action.at);
        let answered = self.answers.last().map(|answer| answer.at);
        let ended = self.end.as_ref().map(|(at, _)| *at);
        [sent, answered, ended].into_iter().flatten().max().unwrap_or(self.opened_at)
    }

    /// The connection with times from `origin` on, and with its answers related to its messages.
    fn completed(mut self, origin: Nanos, by_id: bool) -> Dialogue {
        if by_id {
            self.group();
        }
        // Those without an id, where answers have one, are few and are timed as far as the messages before them say it.
        if by_id || !self.pair() {
            self.relate_to_latest();
        }
        for answer in &self.answers {
            if let Some(request) = answer.request {
                self.actions[request as usize].is_timed = true;
            }
        }
        // A file may be edited: no event is before its connection.
        self.opened_at -= origin;
        let shifted = |times: &mut dyn Iterator<Item = &mut Nanos>| {
            times.fold(self.opened_at, |latest, at| {
                *at = latest.max(at.saturating_sub(origin));
                *at
            })
        };
        let last_sent = shifted(&mut self.actions.iter_mut().map(|action| &mut action.at));
        shifted(&mut self.answers.iter_mut().map(|answer| &mut answer.at));
        if let Some((at, _)) = &mut self.end {
            *at = at.saturating_sub(origin).max(last_sent);
        }
        self
    }

    /// Where each message has one answer, each in its turn, the answers are timed from their messages. Returns whether
    /// that is so.
    fn pair(&mut self) -> bool {
        let messages = || (0..).zip(&self.actions).filter(|(_, action)| action.kind != ActionKind::Ping);
        let is_paired = messages().count() == self.answers.len()
            && messages().zip(&self.answers).all(|((at, _), answer)| answer.after > at);
        if is_paired {
            let requests: Vec<u32> = messages().map(|(at, _)| at).collect();
            for (answer, request) in self.answers.iter_mut().zip(requests) {
                answer.request = Some(request);
            }
        }
        is_paired
    }

    /// Otherwise the first answer behind a message is timed from it, and those behind that answer are not timed.
    fn relate_to_latest(&mut self) {
        let mut taken = vec![false; self.actions.len()];
        for answer in &self.answers {
            if let Some(request) = answer.request {
                taken[request as usize] = true;
            }
        }
        for answer in self.answers.iter_mut().filter(|answer| answer.request.is_none()) {
            let before = &self.actions[..answer.after as usize];
            let latest = before.iter().rposition(|action| action.kind != ActionKind::Ping);
            if let Some(latest) = latest.filter(|latest| !std::mem::replace(&mut taken[*latest], true)) {
                answer.request = Some(latest as u32);
            }
        }
    }

    /// Groups the answers by their ids.
    fn group(&mut self) {
        let mut members: Vec<(u64, u32)> =
            (0..).zip(&self.answers).filter_map(|(at, answer)| Some((answer.digest.id?, at))).collect();
        members.sort_unstable();
        for group in members.chunk_by(|one, other| one.0 == other.0) {
            let from = self.members.len() as u32;
            self.members.extend(group.iter().map(|(_, at)| at));
            self.groups.push(IdGroup { id: group[0].0, from, until: self.members.len() as u32 });
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use echoring_proto::limits::MILLISECOND;

    pub(crate) fn builder(rule: &str) -> ScriptBuilder {
        let comparison =
            AnswerComparison::new(rule.parse().expect("a rule"), Vec::new()).expect("no pointers");
        ScriptBuilder::new("recording.jsonl".to_owned(), comparison)
    }

    /// This number of connections with this number of echoes each.
    pub(crate) fn echoes(connections: u64, messages: u64) -> Script {
        let mut builder = builder("exact");
        for number in 1..=connections {
            builder.opened(number, number * MILLISECOND, "/echo".to_owned(), None).expect("opened");
            for message in 0..messages {
                let at = (number + message + 1) * MILLISECOND;
                let text = format!("{number} {message}");
                builder.sent(number, at, MessageKind::Text, text.as_bytes()).expect("sent");
                builder.answered(number, at + 9, MessageKind::Text, text.as_bytes()).expect("answered");
            }
        }
        builder.finish(None).expect("connections")
    }

    /// One connection: `>` is a message of the client, `<` one of the server, each with its text.
    fn conversation(rule: &str, events: &[&str]) -> Script {
        let mut builder = builder(rule);
        builder.opened(1, 5, "/".to_owned(), None).expect("opened");
        for (at, event) in (10..).zip(events) {
            let (from, text) = event.split_at(1);
            match from {
                ">" => builder.sent(1, at, MessageKind::Text, text.as_bytes()),
                "<" => builder.answered(1, at, MessageKind::Text, text.as_bytes()),
                "p" => builder.pinged(1, at, text.as_bytes()),
                _ => builder.ended(1, at, RecordedEnd::Close(CloseCode::NORMAL, String::new())),
            }
            .expect("valid");
        }
        builder.finish(None).expect("a connection")
    }

    fn requests(script: &Script) -> Vec<Option<u32>> {
        script.dialogues[0].answers.iter().map(|answer| answer.request).collect()
    }

    #[test]
    fn each_message_with_one_answer_is_its_request() {
        assert_eq!(
            requests(&conversation("exact", &[">a", ">b", "<1", ">c", "<2", "<3"])),
            [0, 1, 2].map(Some)
        );
        assert_eq!(requests(&conversation("exact", &["p", ">a", "p", "<1"])), [Some(1)]);
    }

    #[test]
    fn otherwise_the_first_answer_behind_a_message_is_timed() {
        let script = conversation("exact", &["<hello", ">a", ">b", "<1", "<2", ">c", "p", "<3"]);
        assert_eq!(requests(&script), [None, Some(1), None, Some(2)]);
        let timed: Vec<bool> = script.dialogues[0].actions.iter().map(|action| action.is_timed).collect();
        assert_eq!(timed, [false, true, true, false]);
        assert_eq!(
            requests(&conversation("exact", &["<1", ">a"])),
            [None],
            "an answer is behind its message"
        );
    }

    #[test]
    fn ids_relate_answers_to_messages_in_any_order() {
        let script = conversation(
            "json:/id",
            &[
                r#">{"id":1}"#,
                r#">{"id":2}"#,
                r#"<{"id":2}"#,
                r#"<{"id":1}"#,
                r#"<{"id":1,"more":1}"#,
                "<push",
            ],
        );
        // The push is behind a message whose answer is known.
        assert_eq!(requests(&script), [Some(1), Some(0), None, None]);
        let dialogue = &script.dialogues[0];
        let mut groups: Vec<&[u32]> = Vec::new();
        for group in &dialogue.groups {
            groups.push(&dialogue.members[group.from as usize..group.until as usize]);
        }
        groups.sort_unstable();
        assert_eq!(groups, [&[0][..], &[1, 2]]);
    }

    #[test]
    fn times_count_from_the_first_connection() {
        let mut builder = builder("exact");
        // Lines of different connections may be out of order.
        builder.opened(2, 2_000, "/b?x=1".to_owned(), Some("chat".to_owned())).expect("opened");
        builder.opened(1, 1_000, "/a".to_owned(), None).expect("opened");
        builder.sent(1, 1_500, MessageKind::Binary, b"xyz").expect("sent");
        builder.ended(1, 4_000, RecordedEnd::Abort).expect("ended");
        builder.ended(1, 5_000, RecordedEnd::ByServer(CloseCode::NORMAL)).expect("ended");
        let script = builder.finish(Some("line 9".to_owned())).expect("connections");
        let [one, two] = &script.dialogues[..] else { panic!("{script:?}") };
        assert_eq!((one.number, one.opened_at, one.actions[0].at), (1, 0, 500));
        assert_eq!((two.number, two.opened_at, two.subprotocol.as_deref()), (2, 1_000, Some("chat")));
        assert_eq!(
            (&one.end, script.length),
            (&Some((3_000, RecordedEnd::Abort)), 3_000),
            "the first end counts"
        );
        assert_eq!(
            (script.messages, script.message_bytes, script.truncated.as_deref()),
            (1, (3, 3), Some("line 9"))
        );
        assert_eq!(script.sent(&one.actions[0]), b"xyz");
    }

    #[test]
    fn nothing_is_sent_behind_the_close_and_answers_behind_it_may_be_missing() {
        let script = conversation("exact", &[">a", "<1", "close", ">b", "<2"]);
        let dialogue = &script.dialogues[0];
        assert_eq!((dialogue.actions.len(), dialogue.answers.len(), dialogue.owed), (1, 2, 1));
    }

    #[test]
    fn what_cannot_be_replayed_is_refused() {
        assert!(builder("exact").finish(None).is_err(), "no connection");
        let mut unknown = builder("exact");
        assert!(unknown.sent(7, 1, MessageKind::Text, b"x").is_err_and(|why| why.contains("7")));
        unknown.opened(7, 1, "/".to_owned(), None).expect("opened");
        assert!(unknown.opened(7, 1, "/".to_owned(), None).is_err(), "twice");
        assert!(unknown.opened(8, 1, "x".to_owned(), None).is_err(), "no path");
    }

    #[test]
    fn a_script_is_bounded() {
        let mut builder = builder("none");
        builder.opened(1, 0, "/".to_owned(), None).expect("opened");
        builder.size = REPLAY_BYTES_MAX - 2 * ENTRY_BYTES - 8;
        builder.sent(1, 1, MessageKind::Text, b"12345678").expect("room");
        let why = builder.sent(1, 1, MessageKind::Text, b"x").expect_err("full");
        assert!(why.contains("1024 MiB"), "{why}");
    }
}
