//! Questions of a successor about the connections of its predecessor, and its commands, while that one drains.
//!
//! They have a socket of their own, which the predecessor makes and passes with its listeners. So they neither wait for mail nor hold
//! it up, and the bridge goes on when they fail. One question is asked at a time, and the answers come in the same order.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::question_codec::{Asked, Inspection, Question, QuestionAnswer};
use super::wire::{FRAME_HEAD_BYTES, FrameKind, append_frame, invalid, read_head, receive, send};
use crate::commands::connections::{Candidates, ConnectionFilter, ScanAction, ScanReport};
use crate::commands::node_order::{ClientCount, NodeOrder, OrderError};
use crate::limits::PROCESS_ANSWER_BYTES_MAX;
use crate::node::handle::Handle;
use echoring_broker::broadcast::Ids;
use echoring_broker::limits::SNAPSHOT_TIMEOUT;
use echoring_proto::Plain as _;

/// The server before this one, for questions about its connections.
#[derive(Debug)]
pub struct PreviousServer {
    /// The number of its first shard, and of its shards.
    numbers: (u8, u16),
    ids: Ids,
    is_gone: AtomicBool,
    /// `None` once it is gone or has broken the protocol.
    channel: Mutex<Option<Channel>>,
}

/// Why the connections of the previous server are not reported.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// It did not answer in time.
    #[error("the previous server, which is draining, did not answer in time")]
    Silent,
    /// It does not answer this question.
    #[error("the previous server, which is draining, has a version that does not answer this question")]
    Unsupported,
}

echoring_proto::error_debug!(
    enum Missing {
        Silent,
        Unsupported,
    }
);

impl PreviousServer {
    /// A server whose first shard has the first of these numbers, and which has as many shards as the second says. `socket` is that for
    /// questions, which every one passes; tests leave it out.
    pub(crate) fn new(numbers: (u8, u16), ids: Ids, socket: Option<OwnedFd>) -> PreviousServer {
        let channel = socket.map(|socket| Channel::new(socket.into()));
        PreviousServer { numbers, ids, is_gone: AtomicBool::new(false), channel: Mutex::new(channel) }
    }

    /// One that answers no questions, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn numbered(first: u8, shards: u16, ids: Ids) -> PreviousServer {
        PreviousServer::new((first, shards), ids, None)
    }

    /// The number of its first shard.
    pub fn first_number(&self) -> u8 {
        self.numbers.0
    }

    /// The number of its shards.
    pub fn shards(&self) -> usize {
        self.numbers.1.into()
    }

    /// The ids of its connections.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Whether it has ended, and has no connections left.
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    /// It has ended, and has no connections left.
    pub fn set_gone(&self) {
        self.is_gone.store(true, Ordering::Release);
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Asks one of its shards. Blocks for as long as a shard of this process would be waited for.
    ///
    /// # Errors
    /// If it does not answer. One that has ended does.
    pub fn ask(
        &self,
        shard: usize,
        filter: &ConnectionFilter,
        action: ScanAction,
        candidates: Candidates,
    ) -> Result<ScanReport, Missing> {
        let patience = action.patience();
        let inspection = Inspection { shard, filter: filter.clone(), action, candidates };
        match self.answer_to(Asked::Connections(inspection), patience)? {
            None => Ok(ScanReport::default()),
            Some(QuestionAnswer::Report(report)) => Ok(report),
            Some(answer) => Err(missing(&answer)),
        }
    }

    /// Has all its shards carry a command out. Blocks for a bounded time.
    ///
    /// # Errors
    /// If it does not. One that has ended needs not.
    pub(crate) fn order(&self, order: NodeOrder) -> Result<(), OrderError> {
        let patience = order.patience();
        let reason = match self.answer_to(Asked::Order(order), patience) {
            Ok(None | Some(QuestionAnswer::Done)) => return Ok(()),
            Ok(Some(QuestionAnswer::Refused(reason))) => reason,
            Ok(Some(answer)) => missing(&answer).to_string(),
            Err(missing) => missing.to_string(),
        };
        Err(OrderError::Previous(reason))
    }

    /// The number of its clients. Blocks for a bounded time.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) fn count(&self) -> Result<ClientCount, Missing> {
        match self.answer_to(Asked::Count, COUNT_PATIENCE)? {
            None => Ok(ClientCount::default()),
            Some(QuestionAnswer::Count(count)) => Ok(count),
            Some(answer) => Err(missing(&answer)),
        }
    }

    /// The answer to a question; `None` if it has ended.
    fn answer_to(&self, asked: Asked, patience: Duration) -> Result<Option<QuestionAnswer>, Missing> {
        // Includes the time in which others ask.
        let until = Instant::now() + patience;
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_gone() {
            return Ok(None);
        }
        let Some(open) = channel.as_mut() else { return Err(Missing::Unsupported) };
        match open.ask(asked, until) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if is_timeout(&error) => Err(Missing::Silent),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "no longer asking the previous server about its connections");
                *channel = None;
                Err(Missing::Unsupported)
            }
            Err(error) => {
                tracing::debug!(%error, "the previous server has ended");
                *channel = None;
                self.is_gone.store(true, Ordering::Release);
                Ok(None)
            }
        }
    }
}

/// Why there is no answer of the expected kind.
fn missing(answer: &QuestionAnswer) -> Missing {
    match answer {
        QuestionAnswer::Silent => Missing::Silent,
        _ => Missing::Unsupported,
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The end of the server that asks.
#[derive(Debug)]
struct Channel {
    stream: UnixStream,
    /// The part of a frame that has arrived.
    received: Vec<u8>,
    /// The part of a question that is still to be sent.
    unsent: Vec<u8>,
    asked: u32,
    answered: u32,
}

impl Channel {
    fn new(stream: UnixStream) -> Channel {
        Channel { stream, received: Vec::new(), unsent: Vec::new(), asked: 0, answered: 0 }
    }

    /// Asks, and waits for the answer.
    fn ask(&mut self, asked: Asked, until: Instant) -> io::Result<QuestionAnswer> {
        // Without the answers to those before, it would not be heard either: they do not pile up where nobody reads them.
        while self.answered != self.asked {
            self.answer(until)?;
        }
        left(until)?;
        self.asked = self.asked.wrapping_add(1);
        let question = Question { number: self.asked, asked };
        append_frame(&mut self.unsent, FrameKind::ASK, |frame| question.put(frame));
        self.answer(until)
    }

    /// The next answer.
    fn answer(&mut self, until: Instant) -> io::Result<QuestionAnswer> {
        self.send(until)?;
        let body = self.body(until)?;
        let (number, answer) = QuestionAnswer::read(&body).ok_or_else(|| invalid("a malformed answer"))?;
        self.answered = self.answered.wrapping_add(1);
        if number != self.answered {
            return Err(invalid("an answer to something else"));
        }
        Ok(answer)
    }

    fn send(&mut self, until: Instant) -> io::Result<()> {
        while !self.unsent.is_empty() {
            self.stream.set_write_timeout(Some(left(until)?))?;
            match self.stream.write(&self.unsent) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The body of the next answer. The received part of it is kept if the rest does not arrive in time.
    fn body(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        const BLOCK_BYTES: usize = 64 * 1024;
        loop {
            if let Some((head, rest)) = self.received.split_first_chunk::<FRAME_HEAD_BYTES>() {
                let (kind, length) = read_head(*head, PROCESS_ANSWER_BYTES_MAX)?;
                if kind != FrameKind::ANSWER {
                    return Err(invalid("an unexpected frame"));
                }
                if let Some(body) = rest.get(..length) {
                    let body = body.to_vec();
                    self.received.drain(..FRAME_HEAD_BYTES + length);
                    return Ok(body);
                }
            }
            self.stream.set_read_timeout(Some(left(until)?))?;
            let start = self.received.len();
            self.received.resize(start + BLOCK_BYTES, 0);
            let read = self.stream.read(&mut self.received[start..]);
            self.received.truncate(start + read.as_ref().map_or(0, |bytes| *bytes));
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
    }
}

/// The shards of the predecessor are asked as those of this process are.
const COUNT_PATIENCE: Duration = Duration::from_nanos(SNAPSHOT_TIMEOUT);

/// The time that is left. A zero time-out would be no limit for a socket.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Answers the successor on a thread of its own, which ends with the socket.
pub(crate) fn answer_on_thread(server: Handle, stream: UnixStream) -> io::Result<()> {
    // Its end tells the successor that nothing is left here: a successor that does not read an answer gets it later.
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    let answering = move || {
        let error = answer_all(&stream, |question| {
            let answered = match question.asked {
                Asked::Connections(Inspection { shard, filter, action, candidates }) => {
                    let report = server.commands.scan(shard, &filter, action, candidates);
                    report.map(QuestionAnswer::Report)
                }
                Asked::Order(order) => Some(match server.carry_out(order) {
                    Ok(()) => QuestionAnswer::Done,
                    Err(error) => QuestionAnswer::Refused(error.to_string()),
                }),
                Asked::Count => server.clients().map(QuestionAnswer::Count),
            };
            answered.unwrap_or(QuestionAnswer::Silent)
        });
        if error.kind() == io::ErrorKind::InvalidData {
            tracing::warn!(%error, "no longer answering questions of the successor about connections");
            let _ = io::copy(&mut &stream, &mut io::sink());
        }
    };
    thread::Builder::new().name("questions".to_owned()).spawn(answering)?;
    Ok(())
}

/// Answers until the successor stops asking, as the error tells.
fn answer_all(mut stream: &UnixStream, answer: impl Fn(Question) -> QuestionAnswer) -> io::Error {
    let mut body = Vec::new();
    loop {
        match receive(&mut stream, &mut body) {
            Ok(FrameKind::ASK) => {}
            Ok(_) => return invalid("an unexpected frame"),
            Err(error) => return error,
        }
        let (number, answer) = match Question::read(&body) {
            Ok(question) => (question.number, answer(question)),
            Err(Some(number)) => (number, QuestionAnswer::NotUnderstood),
            Err(None) => return invalid("a malformed question"),
        };
        if let Err(error) = send(stream, FrameKind::ANSWER, &answer.write(number)) {
            return error;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::connections::ConnectionFilter;
    use crate::commands::node_order::ProgramOrder;
    use echoring_auth::{Block, Blocked};
    use echoring_proto::connection::Entropy;
    use echoring_runtime::driver::Token;

    const COUNT: ClientCount = ClientCount { connections: 3, subscriptions: 4 };

    fn block() -> NodeOrder {
        NodeOrder::Block(Block { who: Blocked::subject("a").expect("short"), until: None })
    }

    fn predecessor(socket: Option<OwnedFd>) -> PreviousServer {
        PreviousServer::new((5, 2), Ids::new(None, &mut Entropy::new(1)), socket)
    }

    fn ranked(rank: u64) -> ScanReport {
        ScanReport { ranked: vec![(rank, Token { index: 1, generation: 1 })], ..ScanReport::default() }
    }

    fn pair() -> (PreviousServer, UnixStream) {
        let (here, there) = UnixStream::pair().expect("a pair");
        (predecessor(Some(here.into())), there)
    }

    fn ask(predecessor: &PreviousServer, shard: usize) -> Result<ScanReport, Missing> {
        predecessor.ask(shard, &ConnectionFilter::default(), ScanAction::List(1), Candidates::From(0))
    }

    /// The same with this much patience.
    fn ask_for(channel: &mut Channel, time: Duration) -> io::Result<QuestionAnswer> {
        channel.ask(Asked::Count, Instant::now() + time)
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(5);

    #[test]
    fn each_question_gets_its_answer() {
        let (predecessor, there) = pair();
        thread::scope(|scope| {
            scope.spawn(|| {
                let end = answer_all(&there, |question| match question.asked {
                    Asked::Connections(Inspection { shard: 2, .. }) => QuestionAnswer::Silent,
                    Asked::Connections(Inspection { shard: 3, .. }) => QuestionAnswer::NotUnderstood,
                    Asked::Connections(Inspection { shard, .. }) => {
                        QuestionAnswer::Report(ranked(shard as u64))
                    }
                    Asked::Order(NodeOrder::Program(ProgramOrder::Reload)) => {
                        QuestionAnswer::Refused("wrong".to_owned())
                    }
                    Asked::Order(_) => QuestionAnswer::Done,
                    Asked::Count => QuestionAnswer::Count(COUNT),
                });
                assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof, "{end}");
            });
            let asking: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for shard in [0, 1, 0] {
                            assert_eq!(ask(&predecessor, shard), Ok(ranked(shard as u64)));
                        }
                        assert_eq!(ask(&predecessor, 2), Err(Missing::Silent));
                        assert_eq!(ask(&predecessor, 3), Err(Missing::Unsupported));
                    })
                })
                .collect();
            asking.into_iter().for_each(|asked| asked.join().expect("answered"));
            assert_eq!((predecessor.order(block()), predecessor.count()), (Ok(()), Ok(COUNT)));
            let reload = NodeOrder::Program(ProgramOrder::Reload);
            assert_eq!(predecessor.order(reload), Err(OrderError::Previous("wrong".to_owned())));
            predecessor.set_gone();
            assert_eq!(ask(&predecessor, 0), Ok(ScanReport::default()));
            assert_eq!(
                (predecessor.order(block()), predecessor.count()),
                (Ok(()), Ok(ClientCount::default()))
            );
        });
    }

    #[test]
    fn a_predecessor_that_cannot_be_asked_is_unsupported_until_it_is_gone() {
        let predecessor = predecessor(None);
        assert_eq!(ask(&predecessor, 0), Err(Missing::Unsupported));
        assert!(matches!(predecessor.order(block()), Err(OrderError::Previous(_))));
        assert_eq!(predecessor.count(), Err(Missing::Unsupported));
        predecessor.set_gone();
        assert_eq!(ask(&predecessor, 0), Ok(ScanReport::default()));
    }

    #[test]
    fn one_that_has_ended_has_no_connections() {
        let (predecessor, there) = pair();
        drop(there);
        for _ in 0..2 {
            assert_eq!(ask(&predecessor, 0), Ok(ScanReport::default()));
        }
    }

    #[test]
    fn what_is_no_answer_ends_the_questions() {
        for (kind, body) in [
            (FrameKind::ANSWER, &b"{}"[..]),
            (FrameKind::ANSWER, br#"{"number":2,"outcome":"silent"}"#),
            (FrameKind::MAIL, b"{}"),
        ] {
            let (predecessor, there) = pair();
            send(&there, kind, body).expect("sent");
            for _ in 0..2 {
                assert_eq!(ask(&predecessor, 0), Err(Missing::Unsupported));
            }
        }
        let (predecessor, mut there) = pair();
        there.write_all(&(PROCESS_ANSWER_BYTES_MAX as u32 + 1).to_le_bytes()).expect("sent");
        there.write_all(&[FrameKind::ANSWER.0]).expect("sent");
        assert_eq!(ask(&predecessor, 0), Err(Missing::Unsupported));
    }

    #[test]
    fn a_late_answer_is_not_taken_for_that_to_another_question() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let mut channel = Channel::new(here);
        let silent = ask_for(&mut channel, SHORT).expect_err("nobody answers");
        assert!(is_timeout(&silent), "{silent}");
        let mut body = Vec::new();
        assert_eq!(receive(&mut &there, &mut body).expect("a question"), FrameKind::ASK);
        let question = Question::read(&body).expect("a question");
        assert_eq!(question.number, 1);
        // The answer comes in two parts.
        let mut late = Vec::new();
        append_frame(&mut late, FrameKind::ANSWER, |frame| {
            frame.extend(QuestionAnswer::Report(ranked(1)).write(1));
        });
        let (first, second) = late.split_at(20);
        (&there).write_all(first).expect("sent");
        for _ in 0..2 {
            let silent = ask_for(&mut channel, SHORT).expect_err("not the whole answer");
            assert!(is_timeout(&silent), "{silent}");
        }
        (&there).write_all(second).expect("sent");
        thread::scope(|scope| {
            scope.spawn(|| {
                answer_all(&there, |question| QuestionAnswer::Report(ranked(question.number.into())))
            });
            // Those that were not heard before were not sent.
            for number in 2..5 {
                let answer = ask_for(&mut channel, LONG).expect("an answer");
                assert_eq!(answer, QuestionAnswer::Report(ranked(number)));
            }
            drop(channel);
        });
    }

    #[test]
    fn a_question_that_is_malformed_ends_the_answers() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let answered = |_| QuestionAnswer::Silent;
        send(&here, FrameKind::ASK, b"\x03\0\0\0something else").expect("sent");
        send(&here, FrameKind::ASK, b"no").expect("sent");
        let end = answer_all(&there, answered);
        assert_eq!(end.kind(), io::ErrorKind::InvalidData);
        let mut body = Vec::new();
        assert_eq!(receive(&mut &here, &mut body).expect("an answer"), FrameKind::ANSWER);
        assert_eq!(QuestionAnswer::read(&body), Some((3, QuestionAnswer::NotUnderstood)));
        send(&here, FrameKind::BEGIN, &[]).expect("sent");
        assert_eq!(answer_all(&there, answered).kind(), io::ErrorKind::InvalidData);
    }
}
