//! Sessions of users, and protocols, in the record of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::Quantiles;
use crate::measure::merge::Merge as _;
use crate::measure::tally::protocol::{ProtocolTally, RequestTally};
use crate::measure::tally::sessions::SessionTally;
use crate::plan::{Protocol, Workload};
use crate::record::{self, Request};

/// Sessions of users that were due in the measured time. Those that started are completed, failed or unfinished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    /// Sessions that found no free slot; they are among the unsent.
    pub refused: u64,
    /// Sessions that began.
    pub started: u64,
    /// Sessions whose last request was answered.
    pub completed: u64,
    /// Sessions that ended before, by cause.
    pub failed: BTreeMap<String, u64>,
    /// Sessions that the end of the run cut off.
    pub unfinished: u64,
    /// From the time at which a session was due until its conversation was open; `null` if none was opened.
    pub setup_ns: Option<Quantiles>,
    /// From the time at which a session was due until its last answer, of completed ones; `null` if there are none.
    pub duration_ns: Option<Quantiles>,
}

/// One of several protocols of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProtocolShare {
    /// Its name.
    pub name: String,
    /// Its share of the connections or sessions.
    pub weight: u32,
    /// Conversations that were opened, over the whole run.
    pub conversations: u64,
    /// Requests that were sent, over the whole run.
    pub sent: u64,
    /// Answers, right or wrong.
    pub answered: u64,
    /// Answers that report an error.
    pub errors: u64,
    /// Response times of requests that were due in the measured time; `null` if there were none.
    pub response_ns: Option<Quantiles>,
    /// Service times of the same.
    pub service_ns: Option<Quantiles>,
}

/// The protocols of a load with the requests of each.
fn requests_by_protocol<'a>(
    load: &'a Workload,
    found: &'a ProtocolTally,
) -> impl Iterator<Item = (&'a Protocol, &'a [RequestTally])> {
    let mut rest = found.requests.as_slice();
    load.protocols().map(move |protocol| {
        let (own, others) = rest.split_at(protocol.request_names().count().min(rest.len()));
        rest = others;
        (protocol, own)
    })
}

/// Each protocol of several.
pub(super) fn describe_protocols(load: &Workload, found: &ProtocolTally) -> Vec<ProtocolShare> {
    if load.more_protocols.is_empty() {
        return Vec::new();
    }
    let describe = |(place, (protocol, requests)): (usize, (&Protocol, &[RequestTally]))| {
        let mut all = RequestTally::default();
        requests.iter().for_each(|request| all.merge(request));
        ProtocolShare {
            name: protocol.name.clone(),
            weight: protocol.weight,
            conversations: found.conversations.get(place).copied().unwrap_or(0),
            sent: all.sent,
            answered: all.answered,
            errors: all.errors,
            response_ns: Quantiles::of_some(&all.times.response),
            service_ns: Quantiles::of_some(&all.times.service),
        }
    };
    requests_by_protocol(load, found).enumerate().map(describe).collect()
}

pub(super) fn describe_protocol(load: &Workload, found: &ProtocolTally) -> record::Protocol {
    let named = requests_by_protocol(load, found).flat_map(|(protocol, requests)| {
        protocol.request_names().zip(requests).map(move |it| (protocol, it))
    });
    let requests = named.map(|(protocol, (name, found))| Request {
        name: name.to_owned(),
        protocol: (!load.more_protocols.is_empty()).then(|| protocol.name.clone()),
        sent: found.sent,
        answered: found.answered,
        errors: found.errors,
        response_ns: Quantiles::of_some(&found.times.response),
        service_ns: Quantiles::of_some(&found.times.service),
    });
    record::Protocol {
        requests: requests.collect(),
        opening_ns: Quantiles::of_some(&found.opening),
        heartbeats_answered: found.heartbeats_answered,
        heartbeats_sent: found.heartbeats_sent,
        unexpected: found.unexpected,
    }
}

pub(super) fn describe_sessions(found: &SessionTally) -> Sessions {
    Sessions {
        refused: found.refused,
        started: found.started,
        completed: found.completed,
        failed: found.failed.clone(),
        unfinished: found.unfinished,
        setup_ns: Quantiles::of_some(&found.setup),
        duration_ns: Quantiles::of_some(&found.duration),
    }
}

/// The name of the protocol, or of each with its weight.
pub(super) fn describe_names(load: &Workload) -> Option<String> {
    let is_several = !load.more_protocols.is_empty();
    let name = |Protocol { name, weight, .. }: &Protocol| match is_several {
        true => format!("{name}={weight}"),
        false => name.clone(),
    };
    let names: Vec<String> = load.protocols().map(name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
