//! Which charts a page has, and what is in them.

use super::axis::{Axis, nines};
use super::comparison;
use super::run::Run;
use super::svg::{Chart, Line, NOBODY, Stroke};
use echoring_load::record::comparison::{Comparison, PairsGoal, RatioLook};
use echoring_load::record::search::{SearchResult, SearchStep};
use echoring_load::record::until::{QuantileLook, Reached};
use echoring_load::record::{HERD_INTERVAL, Interval, Quantiles, Record};
use hdrhistogram::Histogram;

/// Steps of a distribution's line for each halving of the distance to 100 %.
const STEPS: u32 = 12;

/// A figure of an interval, and one of a step of a search.
type OfInterval = fn(&Interval) -> u64;
type OfStep = fn(&SearchStep) -> u64;
/// A figure of a look at a quantile, and one at a ratio.
type OfQuantile = fn(&QuantileLook) -> u64;
type OfRatio = fn(&RatioLook) -> f64;

/// All charts that the runs have data for, the main one of this kind of run first.
pub(super) fn all(runs: &[Run]) -> Vec<Chart> {
    // The timeline has the rates of runs with slices.
    let throughput = throughput(runs).filter(|_| runs.iter().any(|run| run.slices.is_none()));
    let charts =
        [knee(runs), herd(runs), percentiles(runs), goals(runs), latency_over_time(runs), throughput];
    let mut charts: Vec<Chart> = charts.into_iter().flatten().collect();
    let main = main_chart(runs);
    charts.sort_by_key(|chart| chart.name != main);
    charts
}

/// The chart that answers the question of a run: the highest rate, the return after a storm, latency by rate, or
/// latency at one load.
fn main_chart(runs: &[Run]) -> &'static str {
    if runs.iter().any(|run| run.record.search.is_some()) {
        "knee"
    } else if runs.iter().any(|run| run.record.storm.is_some()) {
        "herd"
    } else if runs.iter().any(|run| run.record.stages.len() > 1) {
        "latency-over-time"
    } else {
        "percentiles"
    }
}

pub(super) fn names<'a>(runs: impl Iterator<Item = (usize, &'a Run)>) -> Vec<(usize, String)> {
    runs.map(|(at, run)| (at, run.name.clone())).collect()
}

/// Response and service time by percentile.
fn percentiles(runs: &[Run]) -> Option<Chart> {
    let sides = sides(runs);
    let drawn: Vec<Curves<'_>> = match &sides {
        Some(sides) => sides.iter().map(Side::curves).collect(),
        None => runs.iter().map(Curves::of).collect(),
    };
    let mut lines = Vec::new();
    let mut count = 0_u64;
    for (at, curves) in drawn.iter().enumerate() {
        let stamped_ns = curves.server_and_network.map(Quantiles::of).unwrap_or_default();
        for (stroke, whole, quantiles) in [
            (Stroke::Solid, curves.response, &curves.response_ns),
            (Stroke::Dashed, curves.service, &curves.service_ns),
            (Stroke::Dotted, curves.server_and_network, &stamped_ns),
        ] {
            count = count.max(quantiles.count);
            let points = match whole {
                Some(histogram) if !histogram.is_empty() => distribution(histogram),
                _ if quantiles.count > 0 => few(quantiles),
                _ => continue,
            };
            lines.push(Line::new(at, stroke, vec![points]));
        }
    }
    let values = lines.iter().flat_map(|line| &line.pieces).flatten().map(|(_, log)| 10_f64.powf(*log));
    let y = Axis::latency("latency", values);
    let mut caption =
        "Each additional nine is one step to the right, towards the slowest messages. Response time counts from \
         the intended send, service time from the actual send. They differ where messages waited to be sent."
            .to_owned();
    let mut strokes = vec![(Stroke::Solid, "response time"), (Stroke::Dashed, "service time")];
    if lines.iter().any(|line| line.stroke == Stroke::Dotted) {
        strokes.push((Stroke::Dotted, "server and network"));
        caption += " Server and network is the time between the kernel's timestamps.";
    }
    let x = Axis::percentiles(count as f64);
    (!lines.is_empty()).then(|| Chart {
        runs: drawn.iter().map(|curves| curves.name.clone()).enumerate().collect(),
        strokes,
        lines,
        ..Chart::new("percentiles", "Latency by percentile", caption, x, y)
    })
}

/// The drawing of the percentiles of a run, or of all runs of a target.
struct Curves<'a> {
    name: String,
    response: Option<&'a Histogram<u64>>,
    service: Option<&'a Histogram<u64>>,
    server_and_network: Option<&'a Histogram<u64>>,
    response_ns: Quantiles,
    service_ns: Quantiles,
}

impl Curves<'_> {
    fn of(run: &Run) -> Curves<'_> {
        let Record { response_ns, service_ns, .. } = run.record;
        let (response, service) = (run.response.as_ref(), run.service.as_ref());
        let server_and_network = run.server_and_network.as_ref();
        Curves { name: run.name.clone(), response, service, server_and_network, response_ns, service_ns }
    }
}

/// One side of a comparison.
struct Side {
    name: String,
    response: Histogram<u64>,
    service: Histogram<u64>,
}

impl Side {
    fn curves(&self) -> Curves<'_> {
        let (response, service) = (&self.response, &self.service);
        let (response_ns, service_ns) = (Quantiles::of(response), Quantiles::of(service));
        let name = self.name.clone();
        Curves {
            name,
            response: Some(response),
            service: Some(service),
            server_and_network: None,
            response_ns,
            service_ns,
        }
    }
}

/// The two sides of a comparison of several runs of one load, if all have whole distributions: these are added up,
/// because the sides of many curves could not be told apart.
fn sides(runs: &[Run]) -> Option<[Side; 2]> {
    let is_b = comparison::side_of(runs)?;
    let mode = &runs.first()?.record.config.mode;
    if runs.len() <= 2 || runs.iter().any(|run| run.record.config.mode != *mode) {
        return None;
    }
    let side = |letter: &str, wants_b: bool| {
        let mut side: Option<Side> = None;
        let mut count = 0;
        for run in runs.iter().filter(|run| is_b(run) == wants_b) {
            let (response, service) = (run.response.as_ref()?, run.service.as_ref()?);
            count += 1;
            let Some(sum) = &mut side else {
                let (response, service) = (response.clone(), service.clone());
                side = Some(Side { name: run.record.target.clone(), response, service });
                continue;
            };
            sum.response.add(response).ok()?;
            sum.service.add(service).ok()?;
        }
        let Side { name, response, service } = side?;
        let runs = if count == 1 { "run" } else { "runs" };
        Some(Side { name: format!("{letter}: {name} ({count} {runs})"), response, service })
    };
    Some([side("A", false)?, side("B", true)?])
}

/// A whole distribution, as nines and powers of ten.
fn distribution(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let end = (histogram.len() as f64).log10();
    let mut points = vec![(0.0, log(histogram.min() as f64))];
    for step in histogram.iter_quantiles(STEPS) {
        let value = step.value_iterated_to().min(histogram.max());
        points.push((nines(step.quantile_iterated_to()).min(end), log(value as f64)));
    }
    points
}

/// The same where only some quantiles are known.
fn few(quantiles: &Quantiles) -> Vec<(f64, f64)> {
    let Quantiles { p50, p90, p99, p999, p9999, max, count, .. } = *quantiles;
    let end = (count as f64).log10();
    let known =
        [(0.5, p50), (0.9, p90), (0.99, p99), (0.999, p999), (0.9999, p9999)].map(|(q, ns)| (nines(q), ns));
    let known = known.into_iter().filter(|(nines, _)| *nines <= end);
    known.chain([(end, max)]).map(|(nines, ns)| (nines, log(ns as f64))).collect()
}

fn log(ns: f64) -> f64 {
    ns.max(1.0).log10()
}

/// Quantiles of response time, second by second.
fn latency_over_time(runs: &[Run]) -> Option<Chart> {
    let mut strokes: Vec<(Stroke, &'static str, OfInterval)> = vec![
        (Stroke::Solid, "99 %", |interval| interval.p99_ns),
        (Stroke::Dashed, "50 %", |interval| interval.p50_ns),
    ];
    // With many runs, maxima hide everything else.
    if runs.len() == 1 {
        strokes.push((Stroke::Dotted, "maximum", |interval| interval.max_ns));
    }
    let mut lines = Vec::new();
    for (run, drawn) in runs.iter().enumerate() {
        for (stroke, _, value) in &strokes {
            let pieces = pieces(drawn, |interval| {
                let ns = value(interval);
                (interval.messages > 0 && ns > 0).then(|| log(ns as f64))
            });
            if !pieces.is_empty() {
                lines.push(Line { marked: true, ..Line::new(run, *stroke, pieces) });
            }
        }
    }
    let values = lines.iter().flat_map(|line| &line.pieces).flatten().map(|(_, log)| 10_f64.powf(*log));
    let y = Axis::latency("response time", values);
    let caption = "Response time of the messages that arrived in each interval. A gap in a line is an interval without messages.";
    (!lines.is_empty()).then(|| Chart {
        runs: names(runs.iter().enumerate()),
        strokes: strokes.into_iter().map(|(stroke, name, _)| (stroke, name)).collect(),
        lines,
        ..Chart::new("latency-over-time", "Latency over time", caption, time_axis(runs), y)
    })
}

/// How exactly the quantiles that were to be known were, look by look.
fn goals(runs: &[Run]) -> Option<Chart> {
    let several = runs.len() > 1;
    let of_run = |run: &Run| {
        let goals = run.record.until.iter().flat_map(|until| &until.goals).cloned();
        let named = |goal: Reached| match several {
            true => (format!("{}: {}", run.name, goal.expression), goal.course),
            false => (goal.expression.clone(), goal.course),
        };
        goals.map(named).filter(|(_, course)| !course.is_empty()).collect::<Vec<_>>()
    };
    let courses: Vec<(String, Vec<_>)> = runs.iter().flat_map(of_run).collect();
    let ms = |ns: u64| ns as f64 / 1e6;
    let ends: [(Stroke, OfQuantile); 3] = [
        (Stroke::Solid, |look| look.value_ns),
        (Stroke::Dashed, |look| look.low_ns),
        (Stroke::Dashed, |look| look.high_ns),
    ];
    let mut lines = Vec::new();
    for (at, (_, course)) in courses.iter().enumerate() {
        for (stroke, end) in ends {
            let piece = course.iter().map(|look| (look.at_s as f64, ms(end(look)))).collect();
            lines.push(Line { marked: true, ..Line::new(at, stroke, vec![piece]) });
        }
    }
    let looks = || courses.iter().flat_map(|(_, course)| course);
    let last = looks().map(|look| look.at_s).max().unwrap_or(0) as f64;
    let x = Axis::from_zero("seconds of the measured time", last);
    let y =
        Axis::spanning("response time (ms)", looks().flat_map(|look| [ms(look.low_ns), ms(look.high_ns)]));
    let caption = "Each quantile of --until, with its interval, at every look at the run. All intervals of a run contain the true \
                   value together, with the stated confidence, so the run may end by them.";
    (!lines.is_empty()).then(|| Chart {
        runs: courses.iter().map(|(name, _)| name.clone()).enumerate().collect(),
        strokes: vec![(Stroke::Solid, "quantile"), (Stroke::Dashed, "ends of its interval")],
        lines,
        ..Chart::new("goals", "Goals", caption, x, y)
    })
}

/// The charts of pairs that ended by their results: the ratio, and the distributions of all runs of each side.
pub(super) fn of_pairs(runs: &[Run], ended: &[Comparison]) -> Vec<Chart> {
    [pairs(ended), percentiles(runs)].into_iter().flatten().collect()
}

/// The ratio of two servers, pair by pair.
fn pairs(ended: &[Comparison]) -> Option<Chart> {
    let of =
        |found: &Comparison| found.until.iter().flat_map(|until| until.goals.clone()).collect::<Vec<_>>();
    let goals: Vec<PairsGoal> = ended.iter().flat_map(of).filter(|goal| !goal.course.is_empty()).collect();
    let margin = ended.first()?.threshold;
    let margins = [1.0 / (1.0 + margin), 1.0 + margin];
    let looks = || goals.iter().flat_map(|goal| &goal.course);
    // Of the first intervals only the part within: they may be a hundred times as wide as the last.
    let last = || goals.iter().filter_map(|goal| goal.course.last()).flat_map(|look| [look.low, look.high]);
    let x = Axis::from_zero("pairs of runs", f64::from(looks().map(|look| look.pairs).max()?));
    let y = Axis::spanning("B / A", looks().map(|look| look.ratio).chain(last()).chain(margins));
    let ends: [(Stroke, OfRatio); 3] = [
        (Stroke::Solid, |look| look.ratio),
        (Stroke::Dashed, |look| look.low),
        (Stroke::Dashed, |look| look.high),
    ];
    let mut lines = Vec::new();
    for (at, goal) in goals.iter().enumerate() {
        for (stroke, end) in ends {
            let piece = goal.course.iter().map(|look| (f64::from(look.pairs), y.clamp(end(look)))).collect();
            lines.push(Line { marked: true, ..Line::new(at, stroke, vec![piece]) });
        }
    }
    for bound in margins {
        lines.push(Line::new(NOBODY, Stroke::Dotted, vec![vec![(x.from, bound), (x.until, bound)]]));
    }
    let caption = "The ratio of the second server to the first after each pair of runs, with its interval, which may begin beyond the \
                   chart. The horizontal lines are the margin: the verdict is known once the interval lies within it or beyond it. \
                   All intervals contain the true ratio together, with the stated confidence.";
    Some(Chart {
        runs: goals.into_iter().map(|goal| goal.metric).enumerate().collect(),
        strokes: vec![(Stroke::Solid, "ratio"), (Stroke::Dashed, "ends of its interval")],
        lines,
        ..Chart::new("pairs", "Ratio by pairs of runs", caption, x, y)
    })
}

/// Messages that arrived, second by second.
fn throughput(runs: &[Run]) -> Option<Chart> {
    let mut lines = Vec::new();
    let mut most = 0.0_f64;
    for (run, drawn) in runs.iter().enumerate() {
        let pieces = pieces(drawn, |interval| {
            (interval.duration_s > 0.0).then(|| interval.messages as f64 / interval.duration_s)
        });
        most = pieces.iter().flatten().fold(most, |most, (_, per_s)| most.max(*per_s));
        if !pieces.is_empty() {
            lines.push(Line { marked: true, ..Line::new(run, Stroke::Solid, pieces) });
        }
    }
    let caption = "Messages that arrived in each interval, per second. In a broadcast each delivery counts.";
    let y = Axis::from_zero("messages per second", most);
    (!lines.is_empty()).then(|| Chart {
        runs: names(runs.iter().enumerate()),
        lines,
        ..Chart::new("throughput", "Throughput over time", caption, time_axis(runs), y)
    })
}

/// Connections that are away after a storm, and the attempts to come back.
fn herd(runs: &[Run]) -> Option<Chart> {
    let storms = || runs.iter().enumerate().filter(|(_, run)| run.record.storm.is_some());
    let (mut lines, mut last, mut most) = (Vec::new(), 0.0_f64, 0.0_f64);
    for (at, run) in storms() {
        let intervals = run.record.storm.iter().flat_map(|storm| &storm.over_time);
        let (mut away, mut points, mut attempts) = (0_i64, vec![(0.0, 0.0)], Vec::new());
        for (number, interval) in intervals.enumerate() {
            let until = (number as u64 + 1) as f64 * HERD_INTERVAL as f64 / 1e9;
            away += i64::from(interval.ended) - i64::from(interval.back);
            points.push((until, away.max(0) as f64));
            attempts.push((until, f64::from(interval.attempts)));
        }
        last = points.last().map_or(last, |(until, _)| last.max(*until));
        most = points.iter().chain(&attempts).fold(most, |most, (_, number)| most.max(*number));
        for (stroke, points) in [(Stroke::Solid, points), (Stroke::Dashed, attempts)] {
            if !points.is_empty() {
                lines.push(Line::new(at, stroke, vec![points]));
            }
        }
    }
    let caption =
        "Connections that were down at the end of each 100 ms, and attempts to reopen one within it.";
    let (x, y) =
        (Axis::from_zero("seconds of the measured time", last), Axis::from_zero("connections", most));
    (!lines.is_empty()).then(|| Chart {
        runs: names(storms()),
        strokes: vec![(Stroke::Solid, "away"), (Stroke::Dashed, "attempts in 100 ms")],
        lines,
        ..Chart::new("herd", "Connections after the cut", caption, x, y)
    })
}

/// The intervals of a run that have a value, connected where they follow one another.
fn pieces(run: &Run, value: impl Fn(&Interval) -> Option<f64>) -> Vec<Vec<(f64, f64)>> {
    let mut pieces = vec![Vec::new()];
    for interval in &run.record.intervals {
        match (value(interval), pieces.last_mut()) {
            (Some(value), Some(piece)) => piece.push((interval.at_s + interval.duration_s / 2.0, value)),
            _ => pieces.push(Vec::new()),
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

fn time_axis(runs: &[Run]) -> Axis {
    let ends =
        runs.iter().flat_map(|run| &run.record.intervals).map(|interval| interval.at_s + interval.duration_s);
    Axis::from_zero("seconds of the measured time", ends.fold(0.0, f64::max))
}

/// Latency by rate, of runs that looked for the highest.
fn knee(runs: &[Run]) -> Option<Chart> {
    let searched: Vec<(usize, &Run, &SearchResult)> = runs
        .iter()
        .enumerate()
        .filter_map(|(at, run)| Some((at, run, run.record.search.as_ref()?)))
        .collect();
    let steps = || searched.iter().flat_map(|(_, _, search)| &search.steps);
    let values = steps().flat_map(|step| [step.p50_ns as f64, step.p99_ns as f64, step.p999_ns as f64]);
    let y = Axis::latency("response time", values);
    let mut lines = Vec::new();
    for (run, _, search) in &searched {
        let mut tried: Vec<&SearchStep> = search.steps.iter().collect();
        tried.sort_by_key(|step| step.rate);
        let drawn: [(Stroke, OfStep); 3] = [
            (Stroke::Dashed, |step| step.p50_ns),
            (Stroke::Solid, |step| step.p99_ns),
            (Stroke::Dotted, |step| step.p999_ns),
        ];
        for (stroke, ns) in drawn {
            let known = || tried.iter().filter(|step| ns(step) > 0);
            let point = |step: &&SearchStep| (step.rate as f64, log(ns(step) as f64));
            let crossed = known().filter(|step| !step.held).map(point).collect();
            let piece: Vec<(f64, f64)> = known().map(point).collect();
            if !piece.is_empty() {
                lines.push(Line { run: *run, stroke, pieces: vec![piece], crossed, marked: true });
            }
        }
        if let Some(rate) = search.max_rate {
            let pieces = vec![vec![(rate as f64, y.from), (rate as f64, y.until)]];
            lines.push(Line::new(NOBODY, Stroke::Dashed, pieces));
        }
    }
    let most = steps().map(|step| step.rate).max().unwrap_or(0) as f64;
    let objectives: Vec<&str> = searched.iter().map(|(_, _, search)| search.objective.as_str()).collect();
    let caption = format!(
        "Rates that were tried in the search for the highest one that holds {}. A cross marks a rate that did not \
         hold, the vertical line the highest that did.",
        objectives.join(" and ")
    );
    let x = Axis::from_zero("due messages per second", most);
    (!lines.is_empty()).then(|| Chart {
        runs: names(searched.iter().map(|(at, run, _)| (*at, *run))),
        strokes: vec![(Stroke::Dashed, "50 %"), (Stroke::Solid, "99 %"), (Stroke::Dotted, "99.9 %")],
        lines,
        ..Chart::new("knee", "Latency by rate", caption, x, y)
    })
}
