//! The curves of latency by percentile.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::run::{Run, side_of};
use echoring_load::record::Quantiles;

/// Steps of a curve for each halving of the distance to 100 %.
const STEPS: u32 = 12;

/// Points of a curve: how many nines a percentile has (90 % has 1, 99.9 % has 3), and its latency in nanoseconds.
type Curve = Vec<(f64, u64)>;

/// The curves of a run, or of all runs of a side.
#[derive(Debug, Serialize)]
pub(super) struct Curves {
    pub(super) name: String,
    pub(super) response: Curve,
    pub(super) service: Curve,
    pub(super) server_and_network: Curve,
}

/// The curves of each run, or of the two sides of a comparison.
pub(super) fn all(runs: &[Run]) -> Vec<Curves> {
    sides(runs).map_or_else(|| runs.iter().map(of_run).collect(), Vec::from)
}

fn of_run(run: &Run) -> Curves {
    let curve = |whole: &Option<Histogram<u64>>, quantiles: &Quantiles| {
        whole.as_ref().filter(|whole| !whole.is_empty()).map_or_else(|| few(quantiles), distribution)
    };
    Curves {
        name: run.name.clone(),
        response: curve(&run.response, &run.record.response_ns),
        service: curve(&run.service, &run.record.service_ns),
        server_and_network: curve(&run.server_and_network, &Quantiles::default()),
    }
}

/// The two sides of a comparison of several runs of one load, if all have whole distributions: these are added up,
/// because the sides of many curves could not be told apart.
fn sides(runs: &[Run]) -> Option<[Curves; 2]> {
    let is_b = side_of(runs)?;
    let mode = &runs.first()?.record.config.mode;
    if runs.len() <= 2 || runs.iter().any(|run| run.record.config.mode != *mode) {
        return None;
    }
    let side = |letter: &str, wants_b: bool| {
        let side: Vec<&Run> = runs.iter().filter(|run| is_b(run) == wants_b).collect();
        let sum = |of: fn(&Run) -> &Option<Histogram<u64>>| {
            let mut sum = of(side.first()?).clone()?;
            for run in &side[1..] {
                sum.add(of(run).as_ref()?).ok()?;
            }
            Some(distribution(&sum))
        };
        let name = &side.first()?.record.target;
        let runs = if side.len() == 1 { "run" } else { "runs" };
        Some(Curves {
            name: format!("{letter}: {name} ({} {runs})", side.len()),
            response: sum(|run| &run.response)?,
            service: sum(|run| &run.service)?,
            server_and_network: Curve::new(),
        })
    };
    Some([side("A", false)?, side("B", true)?])
}

/// A whole distribution, up to one message of all.
fn distribution(histogram: &Histogram<u64>) -> Curve {
    let end = (histogram.len() as f64).log10();
    let mut points = vec![(0.0, histogram.min())];
    for step in histogram.iter_quantiles(STEPS) {
        let at = nines(step.quantile_iterated_to()).min(end);
        let ns = step.value_iterated_to().min(histogram.max());
        match points.last_mut() {
            Some(last) if last.0 == at => last.1 = ns,
            _ => points.push((at, ns)),
        }
    }
    points
}

/// The same where only some quantiles are known.
fn few(quantiles: &Quantiles) -> Curve {
    let Quantiles { p50, p90, p99, p999, p9999, max, count, .. } = *quantiles;
    if count == 0 {
        return Curve::new();
    }
    let end = (count as f64).log10();
    let known = [(0.5, p50), (0.9, p90), (0.99, p99), (0.999, p999), (0.9999, p9999)];
    let known = known.into_iter().map(|(quantile, ns)| (nines(quantile), ns));
    known.filter(|(nines, _)| *nines < end).chain([(end, max)]).collect()
}

/// How many nines a quantile has, to three digits.
fn nines(quantile: f64) -> f64 {
    let nines = -(1.0 - quantile).max(1e-15).log10();
    (nines * 1e3).round() / 1e3
}
