//! Messages of a declared protocol: answers, deliveries, pushes and heartbeats, as its rules distinguish them.

use super::agenda::Due;
use super::connection::Flow;
use super::echo::candidates;
use super::replaced::settle_replaced;
use super::session::scope;
use super::slots::AttemptStage;
use super::{Client, Link};
use crate::engine::trace::TraceEvent;
use crate::measure::track::Arrival;
use crate::measure::{MessageName, SampleOutcome, Times};
use crate::plan::message as shown;
use crate::plan::payload::Id;
use crate::plan::protocol::CompiledProtocol;
use crate::plan::protocol::compiled::CompiledRequest;
use crate::plan::protocol::rules::{AnswerRule, Extractor, Meaning, ParsedMessage};
use crate::plan::template::Scope;
use crate::record::failures::{ENDLESS_MESSAGE, ERROR_ANSWER, UNEXPECTED_MESSAGE};
use echoring_proto::CloseCode;
use echoring_proto::connection::Chunk;
use echoring_proto::limits::Nanos;
use echoring_proto::random::{SplitMix64, mix};

/// Maximum bytes of a value that people see.
const SHOWN_BYTES_MAX: usize = 100;
/// Maximum bytes of a message that spans WebSocket messages: as much as one of these may have.
const STREAM_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How an answer relates to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contents {
    Right,
    Wrong,
    /// The application answers that the request failed.
    Error,
}

impl Contents {
    fn outcome(self) -> SampleOutcome {
        match self {
            Contents::Right => SampleOutcome::Ok,
            Contents::Wrong => SampleOutcome::Corrupted,
            Contents::Error => SampleOutcome::Error,
        }
    }
}

/// A message that a rule calls an answer.
struct Answer<'a> {
    protocol: &'a CompiledProtocol,
    /// The name of the rule.
    entry: &'a str,
    rule: &'a AnswerRule,
    message: &'a ParsedMessage<'a>,
}

/// The request that an answer is for.
#[derive(Clone, Copy)]
struct Matched {
    /// Its place in the protocol.
    request: usize,
    sequence: u64,
    contents: Contents,
}

/// The fault of an answer: the compared value, its place, and the expected value. Its request may have
/// a payload.
fn wrong(
    rule: &AnswerRule,
    request: &CompiledRequest,
    payload: Option<&Vec<u8>>,
    message: &ParsedMessage<'_>,
    scope: &Scope<'_>,
) -> String {
    let text = |value: &[u8]| format!("`{}`", shown(value, SHOWN_BYTES_MAX));
    if let (Some(extractor), Some(payload)) = (&rule.payload, payload) {
        let place = &rule.payload_shown;
        match extractor.value(message) {
            None => return format!("nothing is at {place}, where the payload {} should be", text(payload)),
            Some(value) if *value != **payload => {
                return format!(
                    "{} is at {place}, where the payload {} should be",
                    text(&value),
                    text(payload)
                );
            }
            Some(_) => {}
        }
    }
    match rule.expect.failing(message, scope).or_else(|| request.expect.failing(message, scope)) {
        Some((condition, Some(value))) => format!("{} is where {condition} should hold", text(&value)),
        Some((condition, None)) => format!("nothing is where {condition} should hold"),
        None => "the answer is not the message that was sent".to_owned(),
    }
}

impl Client {
    /// Writes a request, or a publication, and sends it. False if the connection has no room for it.
    pub(super) fn send_request(&mut self, link: &mut Link<'_>, position: usize, id: &Id) -> bool {
        let Some(protocol) = self.protocol_of(position) else { return true };
        let request = match self.connections[position].flow {
            Flow::Broadcast(_) => None,
            _ => Some(self.request_of(&protocol, position, id.sequence)),
        };
        let Client { shared, connections, clock_offset, message, payload, .. } = self;
        let connection = &connections[position];
        let template = match request {
            Some(request) => Some(&protocol.requests[request].send),
            None => protocol.publish.as_ref(),
        };
        let Some(template) = template else { return true };
        if request.is_none_or(|request| protocol.requests[request].has_payload) {
            shared.payloads.write(id, payload);
        }
        let scope = Scope {
            sequence: id.sequence,
            id: protocol.ids.id(id.sequence),
            payload,
            ..scope(shared, connection, clock_offset.unix_ns(link.now()))
        };
        message.clear();
        template.expand(&scope, message);
        if !link.send(protocol.kind, message) {
            return false;
        }
        if let Some(request) = request {
            self.tally.protocol.requests[protocol.first_request + request].sent += 1;
        }
        if self.shared.traces {
            let entry = request.map_or("topics.publish".to_owned(), |request| {
                format!("request {}", protocol.requests[request].name)
            });
            self.trace(position, TraceEvent::Sent { entry, message: self.message.clone() });
        }
        true
    }

    /// A message of a protocol arrived, which may consist of several.
    #[inline]
    pub(super) fn protocol_arrived(&mut self, link: &mut Link<'_>, position: usize, chunk: &Chunk<'_>) {
        // Each thread has a protocol of its own, so that no other thread writes to the count of references.
        let Some(protocol) = self.protocol_of(position) else { return };
        if protocol.split.is_stream() {
            return self.stream_arrived(&protocol, link, position, chunk.payload);
        }
        let mut rest = Some(&*chunk.payload);
        while let Some(part) = protocol.split.next(&mut rest) {
            self.part_arrived(&protocol, link, position, part);
        }
    }

    /// The next bytes of the stream of messages arrived. An incomplete message is kept until the rest arrives.
    fn stream_arrived(
        &mut self,
        protocol: &CompiledProtocol,
        link: &mut Link<'_>,
        position: usize,
        bytes: &[u8],
    ) {
        let Some(session) = &mut self.connections[position].session else { return };
        let mut stream = std::mem::take(&mut session.stream);
        let is_new = stream.is_empty();
        if !is_new {
            stream.extend_from_slice(bytes);
        }
        let all = if is_new { bytes } else { &stream };
        let mut rest = all;
        while let Some((part, behind)) = protocol.split.first(rest) {
            self.part_arrived(protocol, link, position, part);
            rest = behind;
        }
        let complete = all.len() - rest.len();
        if is_new {
            stream.extend_from_slice(&bytes[complete..]);
        } else {
            stream.drain(..complete);
        }
        if stream.len() > STREAM_BYTES_MAX {
            self.tally.connections.error(ENDLESS_MESSAGE);
            link.close(CloseCode::TOO_BIG, "");
            stream.clear();
        }
        if let Some(session) = &mut self.connections[position].session {
            session.stream = stream;
        }
    }

    fn part_arrived(
        &mut self,
        protocol: &CompiledProtocol,
        link: &mut Link<'_>,
        position: usize,
        part: &[u8],
    ) {
        let message = protocol.read(part);
        let now = link.now();
        if self.step_arrived(protocol, link, position, &message) {
            return;
        }
        let now_ns = self.clock_offset.unix_ns(now);
        let rule = protocol.rule(&message, &scope(&self.shared, &self.connections[position], now_ns));
        let Some(rule) = rule else { return self.unexpected(protocol, position, part) };
        if self.shared.load.churn.is_some()
            && let Some(session) = &mut self.connections[position].session
        {
            session.keep(&rule.capture, &message);
        }
        let what = match &rule.meaning {
            Meaning::Answer(answer) => {
                let answer = Answer { protocol, entry: &rule.name, rule: answer, message: &message };
                return self.answer_arrived(link, position, &answer);
            }
            Meaning::Heartbeat(reply) => {
                self.send_control(link, position, reply, &rule.name);
                self.tally.protocol.heartbeats_answered += 1;
                "a heartbeat"
            }
            Meaning::Delivery(payload) => {
                match payload {
                    None => self.payload_delivered(link, position, part, true),
                    Some(extractor) => {
                        let payload = extractor.value(&message).unwrap_or_default();
                        self.payload_delivered(link, position, &payload, true);
                    }
                }
                "a delivery"
            }
            Meaning::Push => {
                let time = protocol.time.as_ref().and_then(|(extractor, unit)| {
                    extractor.value(&message).and_then(|value| unit.time(&value))
                });
                self.push_timed(link, position, part.len(), protocol.time.as_ref().map(|_| time));
                "a push"
            }
            Meaning::Nothing => "ignored",
        };
        self.trace_arrived(position, &rule.name, part, what);
    }

    fn trace_arrived(&self, position: usize, entry: &str, message: &[u8], what: &str) {
        if self.shared.traces {
            self.trace(
                position,
                TraceEvent::Arrived {
                    entry: entry.to_owned(),
                    message: message.to_vec(),
                    what: what.to_owned(),
                },
            );
        }
    }

    #[cold]
    fn unexpected(&mut self, protocol: &CompiledProtocol, position: usize, message: &[u8]) {
        self.tally.counts.unsolicited += 1;
        self.tally.protocol.unexpected += 1;
        self.tally.connections.error(UNEXPECTED_MESSAGE);
        if self.shared.traces {
            let rules = protocol.rule_names().map(str::to_owned).collect();
            self.trace(position, TraceEvent::Unexpected { message: message.to_vec(), rules });
        }
    }

    /// An answer arrived: it is matched with its request, compared and timed, and makes room for the next request.
    fn answer_arrived(&mut self, link: &mut Link<'_>, position: usize, answer: &Answer<'_>) {
        let &Answer { protocol, rule, message, .. } = answer;
        let now = link.now();
        let connection = &self.connections[position];
        let id = rule.id.as_ref().map(|extractor| extractor.number(message));
        let sequence = match &connection.flow {
            Flow::Echo(awaited) => match id {
                None => Some(awaited.expected()),
                Some(id) => id.and_then(|id| protocol.ids.sequence(id, awaited.next())),
            },
            Flow::Attempt(attempt) => {
                let own = protocol.ids.id(attempt.sequence);
                (id.is_none() || id == Some(Some(own))).then_some(attempt.sequence)
            }
            Flow::Broadcast(_) | Flow::Push(_) | Flow::Replay(_) => {
                return self.publication_answered(position, answer);
            }
        };
        let Some(sequence) = sequence else {
            self.tally.integrity.corrupted += 1;
            return self.trace_arrived(position, answer.entry, message.bytes, "the answer to no request");
        };
        let (sequence, contents) = match self.compare(answer, position, sequence, now) {
            Contents::Wrong if rule.id.is_none() => self.match_by_contents(answer, position, sequence, now),
            contents => (sequence, contents),
        };
        let request = self.request_of(protocol, position, sequence);
        let matched = Matched { request, sequence, contents };
        if let Flow::Attempt(attempt) = &self.connections[position].flow {
            if let AttemptStage::Awaiting(times) = attempt.stage {
                self.answered(protocol, matched, times, now);
            }
            self.trace_answer(answer, position, matched, "");
            return self.attempt_compared(link, position, contents.outcome(), message.bytes.len());
        }
        if contents == Contents::Wrong && rule.id.is_none() {
            return self.unidentified(link, position, answer, sequence);
        }
        self.request_answered(link, position, answer, matched);
    }

    /// The answer to a publication, which is not measured: deliveries are.
    fn publication_answered(&mut self, position: usize, answer: &Answer<'_>) {
        let Answer { entry, rule, message, .. } = answer;
        if !rule.error.is_empty() && rule.error.hold(message, &Scope::default()) {
            self.tally.connections.error(ERROR_ANSWER);
        }
        self.trace_arrived(position, entry, message.bytes, "an answer");
    }

    /// An answer without an id is not that of the request `sequence`: such answers are recognised by their contents. If
    /// it answers no request, it takes the place of an unanswered one, if there is one.
    fn match_by_contents(
        &mut self,
        answer: &Answer<'_>,
        position: usize,
        sequence: u64,
        now: Nanos,
    ) -> (u64, Contents) {
        let mismatch = std::mem::take(&mut self.mismatch);
        let connection = &self.connections[position];
        let due = Id { connection: connection.number, sequence, ..Id::default() };
        let others = match &connection.flow {
            Flow::Echo(awaited) => {
                candidates(due, awaited).map(|candidate| candidate.sequence).collect::<Vec<_>>()
            }
            _ => Vec::new(),
        };
        let found = others
            .into_iter()
            .find(|candidate| self.compare(answer, position, *candidate, now) == Contents::Right);
        self.mismatch = mismatch;
        match (found, &self.connections[position].flow) {
            (Some(found), _) => (found, Contents::Right),
            (None, Flow::Echo(awaited)) if sequence >= awaited.next() => (awaited.oldest(), Contents::Wrong),
            (None, _) => (sequence, Contents::Wrong),
        }
    }

    /// The answer to a request arrived.
    #[inline]
    fn request_answered(
        &mut self,
        link: &mut Link<'_>,
        position: usize,
        answer: &Answer<'_>,
        matched: Matched,
    ) {
        let &Answer { protocol, rule, message, .. } = answer;
        let Matched { request, sequence, contents } = matched;
        let now = link.now();
        let connection = &mut self.connections[position];
        let name = MessageName::of(connection.number, sequence);
        let Flow::Echo(awaited) = &mut connection.flow else { return };
        let arrival = awaited.arrived(sequence);
        let place = match arrival {
            Arrival::InOrder(_) => "",
            Arrival::Late(_) if protocol.in_order => ", after a later one",
            Arrival::Late(_) => "",
            Arrival::Again => ", again",
            Arrival::Unknown => ", which was not sent",
        };
        self.trace_answer(answer, position, matched, place);
        let tally = &mut self.tally;
        match arrival {
            Arrival::InOrder(times) | Arrival::Late(times) => {
                if protocol.in_order && matches!(arrival, Arrival::Late(_)) {
                    tally.integrity.reordered += 1;
                }
                if contents == Contents::Wrong {
                    tally.integrity.corrupted += 1;
                    tally.damaged(now, name, times, SampleOutcome::Corrupted);
                } else {
                    tally.arrived_as(now, name, times, message.bytes.len(), contents.outcome());
                }
                self.answered(protocol, matched, times, now);
                self.think(protocol, position, request, sequence, now);
                self.send_allowed(link, position, now);
            }
            Arrival::Again => tally.integrity.duplicated += 1,
            Arrival::Unknown => {
                // Without an id it is one answer too many.
                let flaw = match rule.id {
                    Some(_) => &mut tally.integrity.corrupted,
                    None => &mut tally.integrity.duplicated,
                };
                *flaw += 1;
            }
        }
    }

    /// An unexpected answer without an id takes the place of the request `sequence`, unless the answer to that one
    /// arrives.
    #[cold]
    fn unidentified(&mut self, link: &mut Link<'_>, position: usize, answer: &Answer<'_>, sequence: u64) {
        let protocol = answer.protocol;
        let now = link.now();
        let Client { shared, connections, tally, .. } = self;
        let number = connections[position].number;
        let Flow::Echo(awaited) = &mut connections[position].flow else { return };
        let (is_replaced, over) = awaited.replace(sequence, now);
        // With nothing awaited it is one answer too many.
        let flaw = if is_replaced { &mut tally.integrity.corrupted } else { &mut tally.integrity.duplicated };
        *flaw += 1;
        if let Some(over) = over {
            settle_replaced(tally, Some((protocol, shared.load.seed)), number, over);
        }
        let request = protocol.request(self.shared.load.seed, number, sequence);
        self.trace_answer(answer, position, Matched { request, sequence, contents: Contents::Wrong }, "");
        if is_replaced {
            self.think(protocol, position, request, sequence, now);
            self.send_allowed(link, position, now);
        }
    }

    fn answered(
        &mut self,
        protocol: &CompiledProtocol,
        Matched { request, contents, .. }: Matched,
        times: Times,
        now: Nanos,
    ) {
        if contents == Contents::Error {
            self.tally.protocol.requests[protocol.first_request + request].errors += 1;
            let name = &protocol.requests[request].name;
            self.tally.connections.error(&format!("{ERROR_ANSWER} to {name}"));
        }
        let in_window = self.tally.window.contains(times.intended);
        self.tally.protocol.answered(protocol.first_request + request, times, now, in_window);
    }

    fn trace_answer(&self, answer: &Answer<'_>, position: usize, matched: Matched, place: &str) {
        if !self.shared.traces {
            return;
        }
        let &Answer { protocol, entry, message, .. } = answer;
        let Matched { request, sequence, contents } = matched;
        let name = &protocol.requests[request].name;
        let told = match contents {
            Contents::Right => "as expected",
            Contents::Wrong => "with wrong contents",
            Contents::Error => "with an error",
        };
        let id = protocol.ids.id(sequence);
        let what = format!("answers request {name} with id {id}, {told}{place}");
        self.trace_arrived(position, entry, message.bytes, &what);
        let event = match contents {
            Contents::Right => TraceEvent::Answered { request: name.clone() },
            Contents::Wrong | Contents::Error => {
                let why = format!("request {name}: {}", self.mismatch);
                TraceEvent::Failed { entry: entry.to_owned(), why }
            }
        };
        self.trace(position, event);
    }

    /// Compares an answer with the request `sequence`.
    fn compare(&mut self, answer: &Answer<'_>, position: usize, sequence: u64, now: Nanos) -> Contents {
        let &Answer { protocol, rule, message, .. } = answer;
        let request = &protocol.requests[self.request_of(protocol, position, sequence)];
        let Client { shared, connections, clock_offset, message: sent, payload, mismatch, .. } = self;
        let connection = &connections[position];
        let id = Id { connection: connection.number, sequence, ..Id::default() };
        let compares_all = rule.same || !rule.expect.is_empty() || !request.expect.is_empty();
        payload.clear();
        if request.has_payload && compares_all {
            shared.payloads.write(&id, payload);
        }
        let mut scope = Scope {
            sequence,
            id: protocol.ids.id(sequence),
            payload,
            ..scope(shared, connection, clock_offset.unix_ns(now))
        };
        if protocol.compares_requests {
            sent.clear();
            request.send.expand(&scope, sent);
            scope.request = sent;
        }
        if !rule.error.is_empty() && rule.error.hold(message, &scope) {
            if shared.traces {
                *mismatch = format!("the answer is an error, as {}", rule.error.shown());
            }
            return Contents::Error;
        }
        if !shared.load.verify {
            return Contents::Right;
        }
        let has_payload = |extractor: &Extractor| {
            extractor.value(message).is_some_and(|value| shared.payloads.matches(&id, &value))
        };
        let is_right = rule.payload.as_ref().filter(|_| request.has_payload).is_none_or(has_payload)
            && (!rule.same || request.send.matches(&scope, message.bytes))
            && rule.expect.hold(message, &scope)
            && request.expect.hold(message, &scope);
        if !is_right && shared.traces {
            let mut expected = Vec::new();
            shared.payloads.write(&id, &mut expected);
            *mismatch = wrong(rule, request, request.has_payload.then_some(&expected), message, &scope);
        }
        if is_right { Contents::Right } else { Contents::Wrong }
    }

    /// The connection pauses after the answer to a request: in a closed loop, and in sessions of users. Returns false if it does not.
    pub(super) fn think(
        &mut self,
        protocol: &CompiledProtocol,
        position: usize,
        request: usize,
        sequence: u64,
        now: Nanos,
    ) -> bool {
        let Some(think) = protocol.requests[request].think else { return false };
        if self.pacer.is_open_loop() && !self.is_visited(position) {
            return false;
        }
        let connection = &mut self.connections[position];
        let seed = mix(self.shared.load.seed ^ u64::from(connection.number) << 40 ^ !sequence);
        let until = now + think.draw(SplitMix64::new(seed).unit()).max(1);
        if let Some(session) = &mut connection.session {
            session.pause_until = until;
        }
        self.enter(until, position, Due::Request);
        true
    }
}
