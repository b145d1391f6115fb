//! Back ends of routes.

use super::super::family::Families;
use echoring_auth::{BackendEvent, BackendFigures};

pub(super) fn collect(out: &mut Families, backends: &[BackendFigures]) {
    let events = backends.iter().flat_map(|backend| {
        BackendEvent::ALL.into_iter().zip(&backend.events).flat_map(|(event, counts)| {
            let results = [
                ("answered", counts.answered),
                ("refused", counts.refused),
                ("failed", counts.failed),
                ("rejected", counts.rejected),
            ];
            results.map(|(result, count)| {
                let labels = [("path", &*backend.path), ("event", event.word()), ("result", result)]
                    .map(|(name, value)| (name, value.to_owned()));
                (labels.to_vec(), count)
            })
        })
    });
    out.counters("echoring_backend_events_total").samples(events).help(
        "Events for back ends of [[backends]], by path, event and result: answered, refused (a connect with a status from 400 to 499), \
             failed (no usable answer after all attempts), rejected (not sent, because too much waited). Messages that failed or were \
             rejected are lost.",
    );
    let by_path = |figure: fn(&BackendFigures) -> u64| {
        backends.iter().map(move |backend| (backend.path.clone(), figure(backend)))
    };
    out.counters("echoring_backend_retries_total")
        .by("path", by_path(|backend| backend.retries))
        .help("Requests to back ends that were sent again.");
    out.gauges("echoring_backend_requests")
        .by("path", by_path(|backend| backend.requests))
        .help("Current requests to back ends.");
    out.gauges("echoring_backend_queued_bytes")
        .by("path", by_path(|backend| backend.queued_bytes))
        .help("Bytes of the events that wait for back ends, those of current requests included.");
}
