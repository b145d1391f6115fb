//! Sessions of users, and protocols, in the record of a run.

use std::collections::BTreeMap;

use crate::measure::Quantiles;
use crate::measure::merge::Merge as _;
use crate::measure::tally::protocol::{ProtocolTally, RequestTally};
use crate::measure::tally::sessions::SessionTally;
use crate::plan::declared::part;
use crate::plan::{Protocol as Plan, Workload};

part! {
    /// The conversations of a declared protocol, over the whole run.
    Protocol of(load: &Workload, found: &ProtocolTally) {
        /// Its requests.
        requests: Vec<Request> = requests(load, found),
        /// From the upgrade to the end of the opening steps; `null` if no conversation was opened.
        opening_ns: Option<Quantiles> = Quantiles::of_some(&found.opening),
        /// Heartbeats of the application that were answered.
        heartbeats_answered: u64 = found.heartbeats_answered,
        /// Heartbeats that the generator sent.
        heartbeats_sent: u64 = found.heartbeats_sent,
        /// Messages that no rule knows; they are among the errors too.
        unexpected: u64 = found.unexpected,
    }
}

part! {
    /// A request of a protocol.
    Request of(request: &str, of: Option<&Plan>, found: &RequestTally) {
        /// Its name.
        name: String = request.to_owned(),
        /// The name of its protocol, if there are several.
        protocol: Option<String> = of.map(|protocol| protocol.name.clone()),
        /// How often it was sent.
        sent: u64 = found.sent,
        /// Answers, right or wrong.
        answered: u64 = found.answered,
        /// Answers that report an error.
        errors: u64 = found.errors,
        /// Response times of requests that were due in the measured time; `null` if the protocol has only one request, whose
        /// times are those of the run.
        response_ns: Option<Quantiles> = Quantiles::of_some(&found.times.response),
        /// Service times of the same.
        service_ns: Option<Quantiles> = Quantiles::of_some(&found.times.service),
    }
}

part! {
    /// One of several protocols of a run.
    ProtocolShare of(protocol: &Plan, opened: u64, all: &RequestTally) {
        /// Its name.
        name: String = protocol.name.clone(),
        /// Its share of the connections or sessions.
        weight: u32 = protocol.weight,
        /// Conversations that were opened, over the whole run.
        conversations: u64 = opened,
        /// Requests that were sent, over the whole run.
        sent: u64 = all.sent,
        /// Answers, right or wrong.
        answered: u64 = all.answered,
        /// Answers that report an error.
        errors: u64 = all.errors,
        /// Response times of requests that were due in the measured time; `null` if there were none.
        response_ns: Option<Quantiles> = Quantiles::of_some(&all.times.response),
        /// Service times of the same.
        service_ns: Option<Quantiles> = Quantiles::of_some(&all.times.service),
    }
}

part! {
    /// Sessions of users that were due in the measured time. Those that started are completed, failed or unfinished.
    Sessions of(found: &SessionTally) {
        /// Sessions that found no free slot; they are among the unsent.
        refused: u64 = found.refused,
        /// Sessions that began.
        started: u64 = found.started,
        /// Sessions whose last request was answered.
        completed: u64 = found.completed,
        /// Sessions that ended before, by cause.
        failed: BTreeMap<String, u64> = found.failed.clone(),
        /// Sessions that the end of the run cut off.
        unfinished: u64 = found.unfinished,
        /// From the time at which a session was due until its conversation was open; `null` if none was opened.
        setup_ns: Option<Quantiles> = Quantiles::of_some(&found.setup),
        /// From the time at which a session was due until its last answer, of completed ones; `null` if there are none.
        duration_ns: Option<Quantiles> = Quantiles::of_some(&found.duration),
    }
}

/// The protocols of a load with the requests of each.
fn requests_by_protocol<'a>(
    load: &'a Workload,
    found: &'a ProtocolTally,
) -> impl Iterator<Item = (&'a Plan, &'a [RequestTally])> {
    let mut rest = found.requests.as_slice();
    load.protocols().map(move |protocol| {
        let (own, others) = rest.split_at(protocol.request_names().count().min(rest.len()));
        rest = others;
        (protocol, own)
    })
}

/// Each protocol of several.
pub(super) fn protocols(load: &Workload, found: &ProtocolTally) -> Vec<ProtocolShare> {
    if load.more_protocols.is_empty() {
        return Vec::new();
    }
    let describe = |(place, (protocol, requests)): (usize, (&Plan, &[RequestTally]))| {
        let mut all = RequestTally::default();
        requests.iter().for_each(|request| all.merge(request));
        ProtocolShare::of(protocol, found.conversations.get(place).copied().unwrap_or(0), &all)
    };
    requests_by_protocol(load, found).enumerate().map(describe).collect()
}

fn requests(load: &Workload, found: &ProtocolTally) -> Vec<Request> {
    let is_several = !load.more_protocols.is_empty();
    let each = requests_by_protocol(load, found).flat_map(|(protocol, requests)| {
        let of = is_several.then_some(protocol);
        protocol.request_names().zip(requests).map(move |(name, found)| Request::of(name, of, found))
    });
    each.collect()
}

/// The name of the protocol, or of each with its weight.
pub(super) fn protocol_names(load: &Workload) -> Option<String> {
    let is_several = !load.more_protocols.is_empty();
    let name = |Plan { name, weight, .. }: &Plan| match is_several {
        true => format!("{name}={weight}"),
        false => name.clone(),
    };
    let names: Vec<String> = load.protocols().map(name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
