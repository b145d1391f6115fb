//! Questions of a successor about open connections, and the answers, as JSON.
//!
//! A question with anything that this version does not know is not understood, and nothing is done: a filter that is ignored would
//! close too many. Unknown parts of an answer are skipped.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use echoring_auth::{AppData, Info, ServerSubscription};
use echoring_broker::publications::OwnedPublication;
use echoring_proto::CloseCode;
use echoring_runtime::admission::AddressBlock;
use echoring_runtime::driver::Token;
use echoring_topics::{ClientId, Content};
use echoring_wire::centrifuge::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::connections::{
    Candidates, ConnectionFilter, ConnectionId, ConnectionReport, OperatorClose, RankBy, ScanAction,
    ScanReport,
};
use crate::limits::{ADMIN_CONNECTIONS_LISTED_MAX, HANDOVER_ANSWER_BYTES};

/// A question to one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Counts the questions.
    pub(crate) number: u32,
    pub(crate) shard: usize,
    pub(crate) filter: ConnectionFilter,
    pub(crate) action: ScanAction,
    pub(crate) candidates: Candidates,
}

/// The answer to the question with a number.
#[derive(Debug, PartialEq)]
pub(crate) enum QuestionAnswer {
    Report(ScanReport),
    /// The shard did not answer in time.
    Silent,
    /// The question was not understood.
    NotUnderstood,
}

impl Question {
    pub(crate) fn write(&self) -> Vec<u8> {
        let Question { number, shard, filter, action, candidates } = self;
        let form = QuestionForm {
            number: *number,
            shard: *shard,
            filter: FilterForm::of(filter),
            action: ActionForm::of(action),
            candidates: CandidatesForm::of(candidates),
        };
        json(&form)
    }

    /// Reads a question. `Err` has its number, if it is not understood; without a number it is no question.
    pub(crate) fn read(json: &[u8]) -> Result<Question, Option<u32>> {
        let number = serde_json::from_slice::<Numbered>(json).ok().map(|numbered| numbered.number);
        let form: QuestionForm = serde_json::from_slice(json).map_err(|_| number)?;
        form.question().ok_or(number)
    }
}

/// The part of a question that every version has.
#[derive(Debug, Deserialize)]
struct Numbered {
    number: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuestionForm {
    number: u32,
    shard: usize,
    filter: FilterForm,
    action: ActionForm,
    candidates: CandidatesForm,
}

impl QuestionForm {
    fn question(self) -> Option<Question> {
        let QuestionForm { number, shard, filter, action, candidates } = self;
        let (filter, action) = (filter.filter()?, action.action()?);
        Some(Question { number, shard, filter, action, candidates: candidates.candidates()? })
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterForm {
    address: Option<String>,
    identity: Option<Box<str>>,
    topic: Option<Box<str>>,
    client: Option<ClientForm>,
    kept_clients: Vec<ClientForm>,
}

/// The node and the number.
type ClientForm = (u64, u64);

impl FilterForm {
    fn of(filter: &ConnectionFilter) -> FilterForm {
        let ConnectionFilter { address, identity, topic, client, kept_clients } = filter;
        let id = |client: &ClientId| (client.node, client.number);
        FilterForm {
            address: address.map(|block| block.to_string()),
            identity: identity.clone(),
            topic: topic.clone(),
            client: client.as_ref().map(id),
            kept_clients: kept_clients.iter().map(id).collect(),
        }
    }

    fn filter(self) -> Option<ConnectionFilter> {
        let FilterForm { address, identity, topic, client, kept_clients } = self;
        let address = match address {
            Some(text) => Some(AddressBlock::around(&text).ok()?),
            None => None,
        };
        let id = |(node, number): ClientForm| ClientId { node, number };
        let (client, kept_clients) = (client.map(id), kept_clients.into_iter().map(id).collect());
        Some(ConnectionFilter { address, identity, topic, client, kept_clients })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ActionForm {
    List {
        most: usize,
    },
    RankByQueued {
        most: usize,
    },
    RankByLag {
        most: usize,
    },
    Close {
        code: u16,
        reason: Box<str>,
    },
    Subscribe {
        channel: Box<str>,
        data: Option<DataForm>,
        /// Older versions do not have it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        info: Option<Box<str>>,
        expire_at: Option<u64>,
    },
    Unsubscribe {
        topic: Box<str>,
    },
    Refresh {
        expire_at: Option<u64>,
    },
    Send {
        content: u8,
        payload: String,
    },
}

/// Data in base64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DataForm {
    Json(String),
    Bytes(String),
}

impl ActionForm {
    fn of(action: &ScanAction) -> ActionForm {
        match action {
            ScanAction::List(most) => ActionForm::List { most: *most },
            ScanAction::Rank(most, RankBy::Queued) => ActionForm::RankByQueued { most: *most },
            ScanAction::Rank(most, RankBy::Lag) => ActionForm::RankByLag { most: *most },
            ScanAction::Close(OperatorClose { code, reason }) => {
                ActionForm::Close { code: code.0, reason: reason.clone() }
            }
            ScanAction::Subscribe(ServerSubscription { channel, data, info, expire_at }) => {
                let data = data.as_ref().map(|data| match data {
                    AppData::Json(bytes) => DataForm::Json(BASE64.encode(bytes)),
                    AppData::Bytes(bytes) => DataForm::Bytes(BASE64.encode(bytes)),
                });
                let info = Some(info.text()).filter(|text| !text.is_empty()).map(Into::into);
                ActionForm::Subscribe { channel: channel.clone(), data, info, expire_at: *expire_at }
            }
            ScanAction::Unsubscribe(topic) => ActionForm::Unsubscribe { topic: topic.clone() },
            ScanAction::Refresh(expire_at) => ActionForm::Refresh { expire_at: *expire_at },
            ScanAction::Send(message) => {
                ActionForm::Send { content: message.content as u8, payload: BASE64.encode(&message.payload) }
            }
        }
    }

    fn action(self) -> Option<ScanAction> {
        let is_bounded = |most: &usize| *most <= ADMIN_CONNECTIONS_LISTED_MAX;
        let most = |most| Some(most).filter(is_bounded);
        Some(match self {
            ActionForm::List { most: listed } => ScanAction::List(most(listed)?),
            ActionForm::RankByQueued { most: ranked } => ScanAction::Rank(most(ranked)?, RankBy::Queued),
            ActionForm::RankByLag { most: ranked } => ScanAction::Rank(most(ranked)?, RankBy::Lag),
            ActionForm::Close { code, reason } => {
                ScanAction::Close(OperatorClose { code: CloseCode(code), reason })
            }
            ActionForm::Subscribe { channel, data, info, expire_at } => {
                let data = match data {
                    Some(DataForm::Json(text)) => Some(AppData::Json(BASE64.decode(text).ok()?)),
                    Some(DataForm::Bytes(text)) => Some(AppData::Bytes(BASE64.decode(text).ok()?)),
                    None => None,
                };
                let info = Info::of_text(&info.unwrap_or_default())?;
                ScanAction::Subscribe(ServerSubscription { channel, data, info, expire_at })
            }
            ActionForm::Unsubscribe { topic } => ScanAction::Unsubscribe(topic),
            ActionForm::Refresh { expire_at } => ScanAction::Refresh(expire_at),
            ActionForm::Send { content, payload } => {
                let mut message = OwnedPublication::binary(BASE64.decode(payload).ok()?);
                message.content = Content::from_number(content)?;
                ScanAction::Send(Arc::new(message))
            }
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CandidatesForm {
    From(u32),
    These(Vec<TokenForm>),
}

/// The index and the generation.
type TokenForm = (u32, u32);

impl CandidatesForm {
    fn of(candidates: &Candidates) -> CandidatesForm {
        match candidates {
            Candidates::From(index) => CandidatesForm::From(*index),
            Candidates::These(tokens) => {
                CandidatesForm::These(tokens.iter().map(|token| (token.index, token.generation)).collect())
            }
        }
    }

    fn candidates(self) -> Option<Candidates> {
        match self {
            CandidatesForm::From(index) => Some(Candidates::From(index)),
            CandidatesForm::These(tokens) if tokens.len() <= ADMIN_CONNECTIONS_LISTED_MAX => {
                Some(Candidates::These(tokens.into_iter().map(token).collect()))
            }
            CandidatesForm::These(_) => None,
        }
    }
}

fn token((index, generation): TokenForm) -> Token {
    Token { index, generation }
}

impl QuestionAnswer {
    /// Writes the answer to the question `number`. A list ends before it has more than [`HANDOVER_ANSWER_BYTES`], and
    /// tells where to continue.
    pub(crate) fn write(self, number: u32) -> Vec<u8> {
        let outcome = match self {
            QuestionAnswer::Report(report) => OutcomeForm::Report(ReportForm::of(report)),
            QuestionAnswer::Silent => OutcomeForm::Silent,
            QuestionAnswer::NotUnderstood => OutcomeForm::NotUnderstood,
        };
        json(&AnswerForm { number, outcome })
    }

    /// Reads an answer and the number of its question.
    pub(crate) fn read(json: &[u8]) -> Option<(u32, QuestionAnswer)> {
        let AnswerForm { number, outcome } = serde_json::from_slice(json).ok()?;
        let answer = match outcome {
            OutcomeForm::Report(report) => QuestionAnswer::Report(report.report()?),
            OutcomeForm::Silent => QuestionAnswer::Silent,
            OutcomeForm::NotUnderstood => QuestionAnswer::NotUnderstood,
        };
        Some((number, answer))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct AnswerForm {
    number: u32,
    outcome: OutcomeForm,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeForm {
    Report(ReportForm),
    Silent,
    NotUnderstood,
}

#[derive(Debug, Serialize, Deserialize)]
struct ReportForm {
    connections: Vec<Box<RawValue>>,
    ranked: Vec<(u64, TokenForm)>,
    changed: usize,
    failed: Option<u32>,
    #[serde(default)]
    busy: usize,
    #[serde(default)]
    ended: usize,
    next: Option<u32>,
}

impl ReportForm {
    fn of(report: ScanReport) -> ReportForm {
        let ScanReport { connections, ranked, changed, failed, busy, ended, mut next } = report;
        let (mut listed, mut bytes) = (Vec::new(), 0);
        for connection in connections {
            // Plain data cannot fail.
            let Ok(form) = to_raw_value(&connection) else { continue };
            bytes += form.get().len();
            if bytes > HANDOVER_ANSWER_BYTES
                && !listed.is_empty()
                && let Ok(ConnectionId { token, .. }) = connection.id.parse()
            {
                next = Some(token.index);
                break;
            }
            listed.push(form);
        }
        let ranked = ranked.into_iter().map(|(rank, token)| (rank, (token.index, token.generation)));
        ReportForm {
            connections: listed,
            ranked: ranked.collect(),
            changed,
            failed: failed.map(ErrorCode::code),
            busy,
            ended,
            next,
        }
    }

    fn report(self) -> Option<ScanReport> {
        let ReportForm { connections, ranked, changed, failed, busy, ended, next } = self;
        let connection = |form: Box<RawValue>| serde_json::from_str::<ConnectionReport>(form.get()).ok();
        Some(ScanReport {
            connections: connections.into_iter().map(connection).collect::<Option<_>>()?,
            ranked: ranked.into_iter().map(|(rank, form)| (rank, token(form))).collect(),
            changed,
            // One of another version is a failure in any case.
            failed: failed.map(|code| {
                ErrorCode::ALL.into_iter().find(|known| known.code() == code).unwrap_or(ErrorCode::Internal)
            }),
            busy,
            ended,
            next,
        })
    }
}

fn json(form: &impl Serialize) -> Vec<u8> {
    // Plain data cannot fail; an empty text is understood by nobody.
    serde_json::to_vec(form).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::{TcpReport, address_block};

    fn question(action: ScanAction, candidates: Candidates) -> Question {
        let filter = ConnectionFilter {
            address: Some(address_block("10.0.0.0/8").expect("a block")),
            identity: Some("alice \"\u{e4}\"".into()),
            topic: Some("a/b".into()),
            client: Some(ClientId { node: u64::MAX, number: 1 << 63 }),
            kept_clients: [ClientId::local(7), ClientId { node: 1, number: 2 }].into(),
        };
        Question { number: 7, shard: 3, filter, action, candidates }
    }

    fn subscription(data: Option<AppData>) -> ScanAction {
        ScanAction::Subscribe(ServerSubscription {
            channel: "c".into(),
            data,
            info: Info::of_text("[1]").expect("valid"),
            expire_at: Some(u64::MAX),
        })
    }

    fn connection(index: u32, topic: &str) -> ConnectionReport {
        ConnectionReport {
            id: format!("1-{index}-5"),
            shard: 1,
            process: None,
            address: Some("192.0.2.7:51514".to_owned()),
            identity: Some("alice".into()),
            route: "session".into(),
            path: Some("/broadcast".to_owned()),
            subprotocol: Some("echoring.v1.json".into()),
            topics: vec![topic.into()],
            topic_count: 1,
            open_s: Some(0.1),
            queued_bytes: u32::MAX,
            lag_bytes: Some(u64::MAX),
            is_tls: true,
            tcp: Some(TcpReport { round_trip_us: 1, segments_sent: u32::MAX, segments_retransmitted: 3 }),
        }
    }

    #[test]
    fn questions_are_read_as_they_were_written() {
        let these = Candidates::These(vec![Token { index: 1, generation: 2 }; ADMIN_CONNECTIONS_LISTED_MAX]);
        for (action, candidates) in [
            (ScanAction::List(1_000), Candidates::From(u32::MAX)),
            (ScanAction::List(0), these),
            (ScanAction::Rank(10, RankBy::Queued), Candidates::From(0)),
            (ScanAction::Rank(10, RankBy::Lag), Candidates::From(0)),
            (ScanAction::Close(OperatorClose::default()), Candidates::These(Vec::new())),
            (subscription(None), Candidates::From(0)),
            (subscription(Some(AppData::Json(b"{\"a\": 1.10}".to_vec()))), Candidates::From(0)),
            (subscription(Some(AppData::Bytes(vec![0, 0xff]))), Candidates::From(0)),
            (ScanAction::Unsubscribe("t".into()), Candidates::From(0)),
            (ScanAction::Refresh(Some(1_900_000_000)), Candidates::From(0)),
            (ScanAction::Send(Arc::new(OwnedPublication::text("gr\u{fc}n"))), Candidates::From(0)),
            (ScanAction::Send(Arc::new(OwnedPublication::binary(vec![0, 0xff]))), Candidates::From(0)),
        ] {
            let asked = question(action, candidates);
            assert_eq!(Question::read(&asked.write()), Ok(asked));
        }
        let all = Question {
            filter: ConnectionFilter::default(),
            ..question(subscription(None), Candidates::From(1))
        };
        assert_eq!(Question::read(&all.write()), Ok(all));
    }

    #[test]
    fn a_question_with_something_unknown_is_not_understood() {
        let asked = question(ScanAction::Unsubscribe("t".into()), Candidates::From(0)).write();
        let text = std::str::from_utf8(&asked).expect("JSON");
        for (known, unknown) in [
            ("\"topic\":\"a/b\"", "\"topic\":\"a/b\",\"room\":\"a\""),
            ("\"unsubscribe\"", "\"mute\""),
            ("\"shard\":3", "\"shard\":3,\"until\":1"),
            ("{\"topic\":\"t\"}", "{\"topic\":\"t\",\"code\":1}"),
            ("\"from\":0", "\"behind\":0"),
            ("10.0.0.0/8", "10.0.0.0/64"),
        ] {
            assert_eq!(text.matches(known).count(), 1, "{known} in {text}");
            assert_eq!(Question::read(text.replace(known, unknown).as_bytes()), Err(Some(7)), "{unknown}");
        }
        // Longer than a page.
        for action in [ScanAction::List(1_001), ScanAction::Rank(1_001, RankBy::Lag)] {
            assert_eq!(Question::read(&question(action, Candidates::From(0)).write()), Err(Some(7)));
        }
        let these = Candidates::These(vec![Token { index: 1, generation: 2 }; 1_001]);
        assert_eq!(Question::read(&question(ScanAction::List(1), these).write()), Err(Some(7)));
        for end in 0..asked.len() {
            assert_eq!(Question::read(&asked[..end]), Err(None), "{end}");
        }
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let report = || ScanReport {
            connections: vec![
                connection(1, "a \"\u{e4}\""),
                ConnectionReport {
                    address: None,
                    identity: None,
                    path: None,
                    subprotocol: None,
                    open_s: None,
                    lag_bytes: None,
                    topics: Vec::new(),
                    ..connection(2, "")
                },
            ],
            ranked: vec![(u64::MAX, Token { index: 1, generation: 2 })],
            changed: 3,
            failed: Some(ErrorCode::PermissionDenied),
            busy: 5,
            ended: 6,
            next: Some(4),
        };
        for answer in [
            || QuestionAnswer::Report(ScanReport::default()),
            || QuestionAnswer::Silent,
            || QuestionAnswer::NotUnderstood,
        ] {
            assert_eq!(QuestionAnswer::read(&answer().write(9)), Some((9, answer())));
        }
        let written = QuestionAnswer::Report(report()).write(u32::MAX);
        assert_eq!(QuestionAnswer::read(&written), Some((u32::MAX, QuestionAnswer::Report(report()))));
        for end in 0..written.len() {
            assert_eq!(QuestionAnswer::read(&written[..end]), None, "{end}");
        }
        // A later version says more.
        let text = std::str::from_utf8(&written).expect("JSON");
        let more = text.replace("\"is_tls\":true", "\"is_tls\":true,\"is_new\":1").replace("103", "999");
        let failed = Some(ErrorCode::Internal);
        let expected = QuestionAnswer::Report(ScanReport { failed, ..report() });
        assert_eq!(QuestionAnswer::read(more.as_bytes()), Some((u32::MAX, expected)));
        // An earlier one says less.
        let less = text.replace("\"busy\":5,\"ended\":6,", "");
        let expected = QuestionAnswer::Report(ScanReport { busy: 0, ended: 0, ..report() });
        assert_eq!(QuestionAnswer::read(less.as_bytes()), Some((u32::MAX, expected)));
    }

    #[test]
    fn a_long_list_is_cut_and_says_where_it_goes_on() {
        let topic = "t".repeat(HANDOVER_ANSWER_BYTES / 2);
        let report = |next| ScanReport {
            connections: (0..3).map(|at| connection(10 + at, &topic)).collect(),
            next,
            ..ScanReport::default()
        };
        for next in [None, Some(20)] {
            let answer = QuestionAnswer::read(&QuestionAnswer::Report(report(next)).write(1));
            let Some((1, QuestionAnswer::Report(read))) = answer else { panic!("{answer:?}") };
            assert_eq!((read.connections.len(), read.next), (1, Some(11)));
        }
        // One that is longer alone is told in any case.
        let longest = ScanReport {
            connections: vec![connection(1, &"t".repeat(2 * HANDOVER_ANSWER_BYTES))],
            ..ScanReport::default()
        };
        let answer = QuestionAnswer::read(&QuestionAnswer::Report(longest).write(1));
        let Some((1, QuestionAnswer::Report(read))) = answer else { panic!("{answer:?}") };
        assert_eq!((read.connections.len(), read.next), (1, None));
    }
}
