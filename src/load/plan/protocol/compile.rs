//! Looks up the names of a protocol and checks its expressions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::compiled::{CompiledProtocol, CompiledRequest, CompiledStep, SessionPlan};
use super::definition::{self, Conditions, Definition, Extract, Kind, Step};
use super::ids::IdSequence;
use super::json::Pointers;
use super::pattern::Pattern;
use super::rules::{AnswerRule, Condition, ConditionList, Extractor, Meaning, Rule, Test};
use super::split::Split;
use crate::plan::listening::TimeUnit;
use crate::plan::template::{BoundTemplate, Names, Template, number_bytes};
use crate::plan::units::parse_time;
use echoring_proto::connection::MessageKind;
use echoring_proto::limits::Nanos;

/// Maximum number of requests of all protocols of a run: each has distributions of its own.
pub(in crate::plan) const REQUESTS_MAX: usize = 32;
/// Maximum number of requests of a session.
const SESSION_REQUESTS_MAX: u32 = 10_000;
/// Time limit of a step that names none.
const STEP_TIME_DEFAULT: Duration = Duration::from_secs(5);

struct Compiler<'a> {
    columns: &'a [String],
    kind: Kind,
    /// Names of the captures so far.
    captures: Vec<String>,
    pointers: Pointers,
    rules: Vec<Rule>,
}

pub(super) fn compile(definition: &Definition, columns: &[String]) -> Result<CompiledProtocol, String> {
    let mut compiler = Compiler {
        columns,
        kind: definition.kind,
        captures: Vec::new(),
        pointers: Pointers::default(),
        rules: Vec::new(),
    };
    let open = compiler.steps("open", &definition.open, false)?;
    let Topics { subscribe, resume, publish } = compiler.topics(definition)?;
    let requests = compiler.requests(&definition.request)?;
    let session = session(definition.session.as_ref(), &requests)?;
    let ids = IdSequence::new(definition.id)?;
    compiler.add_rules(definition)?;
    let time = compiler.push_time(definition)?;
    let heartbeat = compiler.heartbeat(definition)?;
    let close = compiler.steps("close", &definition.close, false)?;
    let split = split(definition.split.as_deref())?;
    let uses_request = |rule: &Rule| match &rule.meaning {
        Meaning::Answer(answer) => answer.expect.uses_request() || answer.error.uses_request(),
        _ => false,
    };
    let compares_requests = compiler.rules.iter().any(uses_request)
        || requests.iter().any(|request| request.expect.uses_request());
    check_subprotocols(&definition.subprotocols)?;
    Ok(CompiledProtocol {
        kind: match definition.kind {
            Kind::Text => MessageKind::Text,
            Kind::Binary => MessageKind::Binary,
        },
        split,
        in_order: definition.order == definition::AnswerOrder::Sent,
        ids,
        open,
        subscribe,
        resume,
        publishers_subscribe: definition.topics.as_ref().is_some_and(|topics| topics.publishers_subscribe),
        publish,
        close,
        weights: requests.iter().map(|request| request.weight).sum(),
        requests,
        session,
        first_request: 0,
        takes_turns: false,
        rules: compiler.rules,
        pointers: compiler.pointers,
        captures: compiler.captures.len(),
        heartbeat,
        compares_requests,
        time,
    })
}

fn session(
    session: Option<&definition::Session>,
    requests: &[CompiledRequest],
) -> Result<SessionPlan, String> {
    let Some(session) = session else { return Ok(SessionPlan::Listed((0..requests.len()).collect())) };
    let wrong = || format!("session: expected requests or count, of 1 to {SESSION_REQUESTS_MAX}");
    match (&session.count, session.requests.as_slice()) {
        (Some(count), []) => {
            let (least, most) = count.split_once("..").unwrap_or((count, count));
            let bounds = least.trim().parse().ok().zip(most.trim().parse().ok());
            let is_possible = |(least, most): &(u32, u32)| {
                (1..=*most).contains(least) && *most <= SESSION_REQUESTS_MAX && !requests.is_empty()
            };
            bounds.filter(is_possible).map(|(least, most)| SessionPlan::Drawn(least, most)).ok_or_else(wrong)
        }
        (None, names) if !names.is_empty() && names.len() <= SESSION_REQUESTS_MAX as usize => {
            let place = |name: &String| {
                let place = requests.iter().position(|request| request.name == *name);
                place.ok_or_else(|| format!("session.requests: there is no request {name}"))
            };
            names.iter().map(place).collect::<Result<_, _>>().map(SessionPlan::Listed)
        }
        _ => Err(wrong()),
    }
}

/// The steps and the template that topics need.
#[derive(Default)]
struct Topics {
    subscribe: Vec<CompiledStep>,
    resume: Vec<CompiledStep>,
    publish: Option<BoundTemplate>,
}

fn split(separator: Option<&str>) -> Result<Split, String> {
    Ok(match separator {
        None => Split::None,
        Some("mqtt") => Split::Mqtt,
        Some("stomp") => Split::Stomp,
        Some("") => {
            return Err("split: expected a separator such as \"\\n\", or mqtt or stomp".to_owned());
        }
        Some(separator) => Split::At(separator.into()),
    })
}

fn check_subprotocols(subprotocols: &[String]) -> Result<(), String> {
    match subprotocols.iter().find(|name| !echoring_proto::handshake::is_subprotocol(name)) {
        Some(name) => Err(format!("subprotocols: {name} is not a token (RFC 6455, 4.1)")),
        None => Ok(()),
    }
}

/// Puts the name of an entry in front of an error.
fn at(entry: &str) -> impl Fn(String) -> String {
    move |why| format!("{entry}: {why}")
}

impl Compiler<'_> {
    fn template(&self, text: &str) -> Result<Template, String> {
        match self.kind {
            Kind::Text => Template::parse(text),
            Kind::Binary => Template::parse_binary(text),
        }
    }

    fn bind(&self, template: &Template, requests: bool, topics: bool) -> Result<BoundTemplate, String> {
        let Compiler { columns, captures, .. } = self;
        template.bind(&Names { columns, captures, requests, topics, answers: false })
    }

    /// The template of an entry's message.
    fn message(
        &self,
        entry: &str,
        text: &str,
        requests: bool,
        topics: bool,
    ) -> Result<BoundTemplate, String> {
        let bound = self.template(text).and_then(|template| self.bind(&template, requests, topics));
        bound.map_err(at(entry))
    }

    fn steps(&mut self, entry: &str, steps: &[Step], topics: bool) -> Result<Vec<CompiledStep>, String> {
        let mut compiled = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let name = format!("{entry}[{}]", index + 1);
            if step.send.is_none() && step.awaits.0.is_empty() {
                return Err(format!("{name}: expected send or await"));
            }
            let send = step.send.as_ref().map(|text| self.message(&name, text, false, topics)).transpose()?;
            let awaits = self.conditions(&step.awaits, topics).map_err(at(&name))?;
            if awaits.is_empty() && !step.capture.is_empty() {
                return Err(format!("{name}: capture needs await"));
            }
            let capture = self.captures(&name, &step.capture)?;
            let timeout = match &step.timeout {
                Some(text) => parse_time(text).map_err(at(&name))?,
                None => STEP_TIME_DEFAULT,
            };
            compiled.push(CompiledStep { name, send, awaits, timeout: timeout.as_nanos() as Nanos, capture });
        }
        Ok(compiled)
    }

    /// The place of a variable among the captures.
    fn place_of(&mut self, variable: &str) -> usize {
        self.captures.iter().position(|known| known == variable).unwrap_or_else(|| {
            self.captures.push(variable.to_owned());
            self.captures.len() - 1
        })
    }

    fn topics(&mut self, definition: &Definition) -> Result<Topics, String> {
        let Some(topics) = &definition.topics else { return Ok(Topics::default()) };
        let subscribe = self.steps("topics.subscribe", &topics.subscribe, true)?;
        let of_deliveries = topics.delivery.iter().flat_map(|delivery| delivery.capture.keys());
        let of_others = definition.ignore.iter().flat_map(|ignore| ignore.capture.keys());
        for name in of_deliveries.chain(of_others) {
            self.place_of(name);
        }
        let resume = self.steps("topics.resume", &topics.resume, true)?;
        let publish = self.message("topics.publish", &topics.publish, true, true)?;
        if !publish.uses_payload() {
            return Err("topics.publish: expected {{payload}}, by which deliveries are recognised".to_owned());
        }
        if topics.delivery.is_empty() {
            return Err("topics.delivery: expected at least one".to_owned());
        }
        Ok(Topics { subscribe, resume, publish: Some(publish) })
    }

    /// Where a push has its time.
    fn push_time(&mut self, definition: &Definition) -> Result<Option<(Extractor, TimeUnit)>, String> {
        let Some(push) = &definition.push else { return Ok(None) };
        let Some(extract) = &push.time else { return Ok(None) };
        let unit = TimeUnit::named(push.unit.as_deref().unwrap_or("ms"));
        let unit = unit.ok_or("push.unit: expected ns, us, ms or s")?;
        Ok(Some((self.extractor(extract).map_err(at("push.time"))?, unit)))
    }

    /// The heartbeat that clients send, and how often.
    fn heartbeat(&self, definition: &Definition) -> Result<Option<(Nanos, BoundTemplate)>, String> {
        let Some(heartbeat) = &definition.heartbeat else { return Ok(None) };
        let every = parse_time(&heartbeat.every).map_err(at("heartbeat.every"))?;
        if every.is_zero() {
            return Err("heartbeat.every: expected a time above 0".to_owned());
        }
        let bound = self.message("heartbeat.send", &heartbeat.send, false, false)?;
        Ok(Some((every.as_nanos() as Nanos, bound)))
    }

    fn requests(&mut self, requests: &[definition::Request]) -> Result<Vec<CompiledRequest>, String> {
        if requests.len() > REQUESTS_MAX {
            return Err(format!("request: expected at most {REQUESTS_MAX}"));
        }
        let mut compiled: Vec<CompiledRequest> = Vec::new();
        for request in requests {
            let name = format!("request {}", request.name);
            if compiled.iter().any(|other| other.name == request.name) {
                return Err(format!("{name}: there are two of this name"));
            }
            if request.weight == 0 {
                return Err(format!("{name}: expected a weight of at least 1"));
            }
            let send = self.message(&name, &request.send, true, false)?;
            let expect = self.conditions(&request.expect, true).map_err(at(&name))?;
            let think = request.think.as_deref().map(str::parse).transpose();
            compiled.push(CompiledRequest {
                name: request.name.clone(),
                weight: request.weight.into(),
                has_payload: send.uses_payload(),
                expect,
                send,
                think: think.map_err(at(&format!("{name}: think")))?,
            });
        }
        Ok(compiled)
    }

    fn add_rules(&mut self, definition: &Definition) -> Result<(), String> {
        for (index, reply) in definition.reply.iter().enumerate() {
            let name = format!("reply[{}]", index + 1);
            let send = self.message(&name, &reply.send, false, false)?;
            self.add_rule(name, &reply.when, Meaning::Heartbeat(send), None)?;
        }
        for (index, answer) in definition.answer.iter().enumerate() {
            let name = format!("answer[{}]", index + 1);
            let rule = AnswerRule {
                id: self.some_extractor(&name, answer.id.as_ref())?,
                payload: self.some_extractor(&name, answer.payload.as_ref())?,
                payload_shown: answer.payload.as_ref().map_or(String::new(), shown),
                same: answer.same,
                expect: self.conditions(&answer.expect, true).map_err(at(&name))?,
                error: self.conditions(&answer.error, true).map_err(at(&name))?,
            };
            self.add_rule(name, &answer.when, Meaning::Answer(rule), None)?;
        }
        let deliveries = definition.topics.iter().flat_map(|topics| &topics.delivery);
        for (index, delivery) in deliveries.enumerate() {
            let name = format!("topics.delivery[{}]", index + 1);
            let payload = self.some_extractor(&name, delivery.payload.as_ref())?;
            self.add_rule(name, &delivery.when, Meaning::Delivery(payload), Some(&delivery.capture))?;
        }
        if let Some(push) = &definition.push {
            self.add_rule("push".to_owned(), &push.when, Meaning::Push, None)?;
        }
        for (index, ignore) in definition.ignore.iter().enumerate() {
            let name = format!("ignore[{}]", index + 1);
            self.add_rule(name, &ignore.when, Meaning::Nothing, Some(&ignore.capture))?;
        }
        Ok(())
    }

    fn add_rule(
        &mut self,
        name: String,
        when: &Conditions,
        meaning: Meaning,
        captured: Option<&BTreeMap<String, Extract>>,
    ) -> Result<(), String> {
        // The conditions of what is an answer to which request are those of `expect`.
        let when = self.conditions(when, false).map_err(at(&name))?;
        let capture = self.captures(&name, captured.unwrap_or(&BTreeMap::new()))?;
        self.rules.push(Rule { when, meaning, name, capture });
        Ok(())
    }

    /// The places and names of an entry's variables, and where their values are.
    fn captures(
        &mut self,
        entry: &str,
        captured: &BTreeMap<String, Extract>,
    ) -> Result<Vec<(usize, String, Extractor)>, String> {
        let mut captures = Vec::new();
        for (variable, extract) in captured {
            let extractor = self.extractor(extract).map_err(at(&format!("{entry}.capture")))?;
            captures.push((self.place_of(variable), variable.clone(), extractor));
        }
        Ok(captures)
    }

    fn some_extractor(
        &mut self,
        entry: &str,
        extract: Option<&Extract>,
    ) -> Result<Option<Extractor>, String> {
        extract.map(|extract| self.extractor(extract)).transpose().map_err(at(entry))
    }

    fn conditions(&mut self, conditions: &Conditions, requests: bool) -> Result<ConditionList, String> {
        let conditions = conditions.0.iter();
        conditions
            .map(|condition| self.condition(condition, requests))
            .collect::<Result<_, _>>()
            .map(ConditionList)
    }

    fn condition(&mut self, condition: &definition::Condition, requests: bool) -> Result<Condition, String> {
        let extract = condition.extract();
        let value = self.extractor(&extract)?;
        let what = shown(&extract);
        let definition::Condition { equals, one_of, matches, exists, .. } = condition;
        let tests = [equals.is_some(), one_of.is_some(), matches.is_some(), exists.is_some()];
        if tests.into_iter().filter(|is_given| *is_given).count() > 1 {
            return Err(format!("{what}: expected one of equals, one_of, matches and exists"));
        }
        let (test, shown) = if let Some(text) = equals {
            let text = text.text();
            let template = self.template(&text)?;
            let Compiler { columns, captures, .. } = self;
            // Only an answer has a request.
            let names = Names { columns, captures, requests, topics: requests, answers: requests };
            (Test::Equals(template.bind(&names)?), format!("{what} = {text}"))
        } else if let Some(texts) = one_of {
            let texts: Vec<String> = texts.iter().map(definition::Text::text).collect();
            let shown = format!("{what} is one of {}", texts.join(", "));
            (Test::OneOf(texts.into_iter().map(String::into_bytes).collect()), shown)
        } else if let Some(pattern) = matches {
            (Test::Matches(Pattern::new(pattern)?), format!("{what} matches {pattern}"))
        } else {
            let wanted = exists.unwrap_or(true);
            (Test::Exists(wanted), format!("{what} {}", if wanted { "exists" } else { "is absent" }))
        };
        Ok(Condition { value, test, shown })
    }

    fn extractor(&mut self, extract: &Extract) -> Result<Extractor, String> {
        let Extract { json, regex: pattern, at, bytes, number } = extract;
        match (json, pattern, at) {
            (Some(pointer), None, None) if bytes.is_none() && number.is_none() => {
                self.pointers.add(pointer).map(Extractor::Json)
            }
            (None, Some(pattern), None) if bytes.is_none() && number.is_none() => {
                Pattern::new(pattern).map(Extractor::Regex)
            }
            (None, None, Some(at)) => match (bytes, number.as_deref()) {
                (bytes, None) => Ok(Extractor::Bytes(*at, *bytes)),
                (None, Some(number)) => {
                    let bytes = number_bytes(number).ok_or("number: expected u8, u16, u32 or u64")?;
                    Ok(Extractor::Number(*at, bytes.into()))
                }
                _ => Err("expected bytes or number".to_owned()),
            },
            _ => Err("expected one of json = \"/pointer\", regex = \"…\" and at = OFFSET".to_owned()),
        }
    }
}

fn shown(extract: &Extract) -> String {
    match extract {
        Extract { json: Some(pointer), .. } => {
            if pointer.is_empty() {
                "the JSON value".to_owned()
            } else {
                pointer.clone()
            }
        }
        Extract { regex: Some(pattern), .. } => format!("/{pattern}/"),
        Extract { at: Some(at), .. } => format!("bytes at {at}"),
        _ => "nothing".to_owned(),
    }
}
