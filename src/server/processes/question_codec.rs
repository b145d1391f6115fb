//! Questions of a successor about open connections, its commands, and the answers.
//!
//! A question that is not well formed is not understood, and nothing is done: a filter that is ignored would close too many.

use echoring_proto::{Plain, plain};

use crate::commands::connections::{
    Candidates, ConnectionFilter, ConnectionReport, OperatorClose, RankBy, ScanAction, ScanReport,
};
use crate::commands::node_order::{ClientCount, NodeOrder};
use crate::limits::{ADMIN_CONNECTIONS_LISTED_MAX, PROCESS_ANSWER_BYTES};

plain! {
    /// A question.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct Question {
        /// Counts the questions.
        pub(crate) number: u32,
        pub(crate) asked: Asked,
    }
}

plain! {
    /// What a successor asks for.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) enum Asked {
        /// Something about the open connections of one shard.
        Connections(Inspection),
        /// All shards carry a command out.
        Order(NodeOrder),
        /// The number of its clients.
        Count,
    }
}

plain! {
    /// A question to one shard about its open connections.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct Inspection {
        pub(crate) shard: usize,
        pub(crate) filter: ConnectionFilter,
        pub(crate) action: ScanAction,
        pub(crate) candidates: Candidates,
    } where |asked| {
        let most = match &asked.action {
            ScanAction::List(most) | ScanAction::Rank(most, _) => *most,
            _ => 0,
        };
        let these = if let Candidates::These(tokens) = &asked.candidates { tokens.len() } else { 0 };
        most.max(these) <= ADMIN_CONNECTIONS_LISTED_MAX
    }
}

plain! {
    /// The answer to the question with a number.
    #[derive(Debug, PartialEq)]
    pub(crate) enum QuestionAnswer {
        Report(ScanReport),
        /// The command was carried out.
        Done,
        /// It was not, for this reason.
        Refused(String),
        Count(ClientCount),
        /// A shard did not answer in time.
        Silent,
        /// The question was not understood.
        NotUnderstood,
    }
}

plain! {
    for ConnectionFilter { address, identity, topic, client, kept_clients }
    for enum ScanAction {
        List(most),
        Rank(most, by),
        Close(close),
        Subscribe(subscription),
        Unsubscribe(topic),
        Refresh(expire_at),
        Send(message),
    }
    for OperatorClose { code, reason }
    for enum RankBy { Queued, Lag }
    for enum Candidates { From(index), These(tokens), Kept(id) }
    for ScanReport { connections, ranked, changed, failed, busy, ended, next }
}

/// As its index, and as the JSON that operators get.
impl Plain<'_> for ConnectionReport {
    fn put(&self, out: &mut Vec<u8>) {
        // Plain data cannot fail.
        (self.index, serde_json::to_string(self).unwrap_or_default()).put(out);
    }

    fn take(from: &mut &[u8]) -> Option<ConnectionReport> {
        let (index, json) = <(u32, &str)>::take(from)?;
        Some(ConnectionReport { index, ..serde_json::from_str(json).ok()? })
    }
}

impl Question {
    /// Reads a question. `Err` has its number, if it is not understood; without a number it is no question.
    pub(crate) fn read(mut bytes: &[u8]) -> Result<Question, Option<u32>> {
        let number = u32::take(&mut bytes).ok_or(None)?;
        let asked = Asked::decode(bytes).ok_or(Some(number))?;
        Ok(Question { number, asked })
    }
}

impl QuestionAnswer {
    /// Writes the answer to the question `number`. A list ends before it has more than [`PROCESS_ANSWER_BYTES`], and
    /// tells where to continue.
    pub(crate) fn write(mut self, number: u32) -> Vec<u8> {
        if let QuestionAnswer::Report(ScanReport { connections, next, .. }) = &mut self {
            let mut bytes = 0;
            let fits = |connection: &&ConnectionReport| {
                bytes += connection.encode().len();
                bytes <= PROCESS_ANSWER_BYTES
            };
            let listed = connections.iter().take_while(fits).count().max(1);
            *next = connections.get(listed).map_or(*next, |first| Some(first.index));
            connections.truncate(listed);
        }
        (number, self).encode()
    }

    /// Reads an answer and the number of its question.
    pub(crate) fn read(bytes: &[u8]) -> Option<(u32, QuestionAnswer)> {
        Plain::decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use echoring_auth::{AppData, Block, Blocked, Info, ServerSubscription};
    use echoring_broker::publications::OwnedPublication;
    use echoring_runtime::driver::Token;
    use echoring_topics::ClientId;
    use echoring_wire::centrifuge::ErrorCode;

    use super::*;
    use crate::commands::connections::{TcpReport, address_block};
    use crate::commands::node_order::ProgramOrder;

    fn question(action: ScanAction, candidates: Candidates) -> Question {
        let filter = ConnectionFilter {
            address: Some(address_block("10.0.0.0/8").expect("a block")),
            identity: Some("alice \"\u{e4}\"".into()),
            topic: Some("a/b".into()),
            client: Some(ClientId { node: u64::MAX, number: 1 << 63 }),
            kept_clients: [ClientId::local(7), ClientId { node: 1, number: 2 }].into(),
        };
        let inspection = Inspection { shard: 3, filter, action, candidates };
        Question { number: 7, asked: Asked::Connections(inspection) }
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
            id: "9c".to_owned(),
            index,
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
            (ScanAction::Rank(1, RankBy::Queued), Candidates::Kept("9c".into())),
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
            assert_eq!(Question::read(&asked.encode()), Ok(asked));
        }
        let (filter, action) = (ConnectionFilter::default(), subscription(None));
        let all = Inspection { shard: 0, filter, action, candidates: Candidates::From(1) };
        let [user, token] = [Blocked::subject, Blocked::token_id].map(|of| of("a").expect("short"));
        for asked in [
            Asked::Connections(all),
            Asked::Order(NodeOrder::Block(Block { who: user.clone(), until: None })),
            Asked::Order(NodeOrder::Block(Block { who: token, until: Some(7) })),
            Asked::Order(NodeOrder::Unblock(user)),
            Asked::Order(NodeOrder::Program(ProgramOrder::Reload)),
            Asked::Order(NodeOrder::Program(ProgramOrder::LogLevel("warn,a=debug".to_owned()))),
            Asked::Count,
        ] {
            let question = Question { number: 1, asked };
            assert_eq!(Question::read(&question.encode()), Ok(question));
        }
    }

    #[test]
    fn a_question_with_something_unknown_is_not_understood() {
        let asked = question(ScanAction::Unsubscribe("t".into()), Candidates::From(0)).encode();
        // An action, and a part of the filter, that do not exist; a byte more.
        let mut unknown = asked.clone();
        let action = asked.len() - (1 + 4 + 1) - (1 + 4);
        unknown[action] = 7;
        assert_eq!(Question::read(&unknown), Err(Some(7)));
        unknown[action] = asked[action];
        let filter = 4 + 1 + 8;
        unknown[filter] = 2;
        assert_eq!(Question::read(&unknown), Err(Some(7)));
        assert_eq!(Question::read(&[&asked[..], &[0]].concat()), Err(Some(7)));
        let block = asked.windows(10).position(|bytes| bytes == b"10.0.0.0/8").expect("the filter");
        unknown[filter] = asked[filter];
        unknown[block + 9] = b'x';
        assert_eq!(Question::read(&unknown), Err(Some(7)));
        // Longer than a page.
        for action in [ScanAction::List(1_001), ScanAction::Rank(1_001, RankBy::Lag)] {
            assert_eq!(Question::read(&question(action, Candidates::From(0)).encode()), Err(Some(7)));
        }
        let these = Candidates::These(vec![Token { index: 1, generation: 2 }; 1_001]);
        assert_eq!(Question::read(&question(ScanAction::List(1), these).encode()), Err(Some(7)));
        for end in 0..asked.len() {
            assert_eq!(Question::read(&asked[..end]), Err((end >= 4).then_some(7)), "{end}");
        }
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let report = || ScanReport {
            connections: vec![
                // The index is not told.
                ConnectionReport { index: 0, ..connection(1, "a \"\u{e4}\"") },
                ConnectionReport {
                    index: 0,
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
            || QuestionAnswer::Done,
            || QuestionAnswer::Refused("why".to_owned()),
            || QuestionAnswer::Count(ClientCount { connections: 1, subscriptions: 2 }),
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
    }

    #[test]
    fn a_long_list_is_cut_and_says_where_it_goes_on() {
        let topic = "t".repeat(PROCESS_ANSWER_BYTES / 2);
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
            connections: vec![connection(1, &"t".repeat(2 * PROCESS_ANSWER_BYTES))],
            ..ScanReport::default()
        };
        let answer = QuestionAnswer::read(&QuestionAnswer::Report(longest).write(1));
        let Some((1, QuestionAnswer::Report(read))) = answer else { panic!("{answer:?}") };
        assert_eq!((read.connections.len(), read.next), (1, None));
    }
}
