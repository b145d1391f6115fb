//! A run over time: its intervals, and messages, connections and the server in each slice of the measured time.

use std::time::Duration;

use super::segment::SegmentResult;
pub use crate::measure::meter::ServerSamples;
use crate::measure::tally::slices::Slice;
use crate::measure::{Quantiles, Timeline, TimelineInterval, distribution};
use crate::plan::declared::part;
use crate::plan::schedule::profile::{MESSAGE, Volume};
use crate::plan::{Mode, Workload};
use echoring_proto::limits::Nanos;

part! {
    /// The measured time in slices of equal length. Each list has an entry for each slice, in order.
    #[derive(Default)]
    TimeSeries of(load: &Workload, result: &SegmentResult)
    where {
        let slices = &result.tally.slices.slices;
        let counts = |count: fn(&Slice) -> u64| slices.iter().map(count).collect();
    } {
        /// Length of a slice: 0.1, or more if that would be more than 1,200 slices. The last slice may be shorter.
        slice_s: f64 = result.tally.slices.slice_ns as f64 / 1e9,
        /// Messages that were due, according to the rate; open loop only, and not in session mode. With random arrivals it is the mean.
        due: Option<Vec<u64>> = due(load, result),
        /// Messages that were sent.
        sent: Vec<u64> = counts(|slice| slice.sent),
        /// Messages that arrived; in broadcast mode each delivery is one.
        arrived: Vec<u64> = counts(|slice| slice.arrived),
        /// Connections that were open at the end of the slice.
        open: Vec<u64> = counts(|slice| slice.open),
        /// Connections that opened.
        opened: Vec<u64> = counts(|slice| slice.opened),
        /// Failures of connections and messages, as in `errors`, and attempts to connect again that failed.
        errors: Vec<u64> = counts(|slice| slice.errors),
        /// Connections that ended, as in `closes`.
        closed: Vec<u64> = counts(|slice| slice.closed),
        /// The distribution of the response times of the messages that arrived, exact to one digit; `null` if none was timed.
        response_histograms: Vec<Option<String>> = histograms(slices),
        /// Samples of the server, about one for each slice, if its process is known.
        server: Option<ServerSamples> = Some(&result.server_samples).filter(|samples| !samples.at_s.is_empty()).cloned(),
    }
}

/// There may be many.
fn histograms(slices: &[Slice]) -> Vec<Option<String>> {
    let mut encoder = distribution::Encoder::default();
    let responses = slices.iter().map(Slice::response);
    responses.map(|response| (!response.is_empty()).then(|| encoder.encode(&response))).collect()
}

/// Messages that were due in each slice of an open loop. How many those of sessions are depends on the answers.
fn due(load: &Workload, result: &SegmentResult) -> Option<Vec<u64>> {
    if load.mode == Mode::Session {
        return None;
    }
    let tally = &result.tally;
    let warmup = result.warm_up.map_or(load.warmup, |found| Duration::from_secs_f64(found.seconds));
    let begun_at = tally.window.from.saturating_sub(warmup.as_nanos() as Nanos);
    let profile = load.profile()?;
    let message = MESSAGE * Volume::from(load.rate_period_s.max(1));
    let due_by = |slices: u64| {
        let at = (tally.window.from + slices * tally.slices.slice_ns).min(tally.window.until);
        profile.volume_at(at - begun_at) / message
    };
    let number = tally.slices.slices.len() as u64;
    Some((0..number).map(|slice| (due_by(slice + 1) - due_by(slice)) as u64).collect())
}

part! {
    /// An interval of the measured time: a second, or more in runs of more than ten minutes. Exact to three digits.
    Interval of(interval: &TimelineInterval)
    where {
        let found = |wanted: &str| interval.distributions.iter().find(|(name, _)| *name == wanted).map(|it| &it.1);
        let quantiles = |wanted: &str| found(wanted).map(Quantiles::of).unwrap_or_default();
        let histogram = |wanted: &str| found(wanted).map(distribution::encode);
        let (response, service) = (quantiles("response"), quantiles("service"));
    } {
        /// Its beginning, from the start of the measured time.
        at_s: f64 = interval.at.as_secs_f64(),
        /// Its length.
        duration_s: f64 = interval.duration.as_secs_f64(),
        /// Messages that arrived in it.
        messages: u64 = interval.messages,
        /// Payload bytes of those.
        bytes: u64 = interval.bytes,
        /// Response time of those: median.
        p50_ns: u64 = response.p50,
        /// 99 %.
        p99_ns: u64 = response.p99,
        /// Largest.
        max_ns: u64 = response.max,
        /// Response time: 90 %.
        p90_ns: Option<u64> = Some(response.p90),
        /// 99.9 %.
        p999_ns: Option<u64> = Some(response.p999),
        /// Service time of the same messages: median.
        service_p50_ns: Option<u64> = Some(service.p50),
        /// 90 %.
        service_p90_ns: Option<u64> = Some(service.p90),
        /// 99 %.
        service_p99_ns: Option<u64> = Some(service.p99),
        /// 99.9 %.
        service_p999_ns: Option<u64> = Some(service.p999),
        /// Largest.
        service_max_ns: Option<u64> = Some(service.max),
        /// The distribution of the response time.
        response_histogram: Option<String> = histogram("response"),
        /// The distribution of the service time.
        service_histogram: Option<String> = histogram("service"),
        /// The distribution of the time of server and network; only if messages were stamped.
        server_and_network_histogram: Option<String> = histogram("server_and_network"),
    }
}

/// The measured time in intervals.
pub(crate) fn intervals(timeline: &Timeline) -> Vec<Interval> {
    timeline.intervals().map(|interval| Interval::of(&interval)).collect()
}
