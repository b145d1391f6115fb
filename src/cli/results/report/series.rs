//! The slices of the runs, merged into columns of one width for all runs of a page, and the cells of their heat maps.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::run::Run;
use echoring_load::measure;
use echoring_load::record::Record;
use echoring_load::record::time_series::{ServerSamples, TimeSeries};

/// Slices of a record at most: ten times as many as `bench` writes.
const SLICES_MAX: usize = 12_000;

/// Columns of a chart at most, each at least two pixels wide.
const COLUMNS_MAX: usize = 400;
/// Heat maps of a page at most.
const MAPS_MAX: usize = 8;
/// Rows of a heat map at most: with more, a cell would be too flat to be pointed at.
const ROWS_MAX: usize = 64;

/// Messages by latency in nanoseconds.
type Counts = BTreeMap<u64, u64>;

/// The runs that have slices, over time.
#[derive(Debug, Serialize)]
pub(super) struct Timeline {
    /// Width of a column in seconds.
    step_s: f64,
    /// Bounds of the rows of all heat maps, in nanoseconds, rising.
    edges: Vec<u64>,
    runs: Vec<Series>,
}

/// The columns of a run.
#[derive(Debug, Serialize)]
pub(super) struct Series {
    /// Position of the run on the page.
    run: usize,
    /// The values of each figure, column by column.
    #[serde(flatten)]
    figures: BTreeMap<&'static str, Vec<Option<f64>>>,
    /// The cells of the heat map, column by column: rows with their messages. Empty if the run has no map.
    cells: Vec<Vec<(usize, u64)>>,
}

/// A figure of a column, and its value if it is known.
type Figure = (&'static str, fn(&Column) -> Option<f64>);

const FIGURES: [Figure; 12] = [
    ("target_per_s", |column| column.per_s(column.due?)),
    ("sent_per_s", |column| column.per_s(column.sent)),
    ("received_per_s", |column| column.per_s(column.arrived)),
    ("p50_ns", |column| column.quantile(0.5)),
    ("p99_ns", |column| column.quantile(0.99)),
    ("max_ns", |column| column.quantile(1.0)),
    ("open", |column| column.open.map(|open| open as f64)),
    ("opened", |column| Some(column.opened as f64)),
    ("closed", |column| Some(column.closed as f64)),
    ("errors", |column| Some(column.errors as f64)),
    ("cpu_cores", |column| column.cpu_cores),
    ("rss_bytes", |column| column.rss_bytes.map(|resident| resident as f64)),
];

/// A part of the measured time.
#[derive(Clone, Debug, Default)]
struct Column {
    /// The time that its slices cover.
    seconds: f64,
    due: Option<u64>,
    sent: u64,
    arrived: u64,
    /// At its end.
    open: Option<u64>,
    opened: u64,
    closed: u64,
    errors: u64,
    response: Counts,
    /// CPU time of the server, divided by the time in which it was used.
    cpu_cores: Option<f64>,
    /// At its end.
    rss_bytes: Option<u64>,
}

impl Column {
    /// A count per second; `None` for the rest of a slice, in which chance decides.
    fn per_s(&self, count: u64) -> Option<f64> {
        const SECONDS_MIN: f64 = 0.02;
        (self.seconds >= SECONDS_MIN).then(|| hundredths(count as f64 / self.seconds))
    }

    /// The response time that this share of the messages did not exceed, exact to one digit.
    fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.response.values().sum();
        let wanted = ((all as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        self.response.iter().find_map(|(ns, count)| {
            seen += count;
            (seen >= wanted).then_some(*ns as f64)
        })
    }
}

/// More digits would only make the page larger.
fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The slices of a record with their distributions.
#[derive(Clone, Debug)]
pub(super) struct Slices {
    slice_s: f64,
    duration_s: f64,
    series: TimeSeries,
    response: Vec<Counts>,
}

impl Slices {
    /// Takes the slices of a record; `None` if it has none.
    ///
    /// # Errors
    /// If they are not such as `bench` writes.
    pub(super) fn take(record: &mut Record) -> Result<Option<Slices>, String> {
        let Some(series) = record.timeline.take() else { return Ok(None) };
        let TimeSeries { slice_s, .. } = series;
        let count = series.sent.len();
        if !(slice_s.is_finite() && slice_s >= 1e-3) || count > SLICES_MAX {
            return Err(format!("timeline: {count} slices of {slice_s} s"));
        }
        let lengths = [&series.arrived, &series.open, &series.opened, &series.errors, &series.closed];
        let due = series.due.as_ref().map_or(count, Vec::len);
        if lengths.iter().any(|list| list.len() != count)
            || [due, series.response_histograms.len()] != [count; 2]
        {
            return Err("timeline: its lists have different lengths".to_owned());
        }
        if let Some(ServerSamples { at_s, cpu_ns, rss_bytes }) = &series.server
            && (at_s.len() != cpu_ns.len() || !(rss_bytes.is_empty() || rss_bytes.len() == at_s.len()))
        {
            return Err("timeline: the lists of its server have different lengths".to_owned());
        }
        let counts = |text: &Option<String>| text.as_deref().map_or(Ok(Counts::new()), decoded);
        let response = series.response_histograms.iter().map(counts).collect::<Result<_, _>>()?;
        Ok(Some(Slices { slice_s, duration_s: record.duration_s, series, response }))
    }

    /// The time from the beginning to the end of the last slice, in seconds.
    fn seconds(&self) -> f64 {
        self.series.sent.len() as f64 * self.slice_s
    }

    /// Columns of `step_s` seconds, which is at least a slice.
    fn columns(&self, step_s: f64) -> Vec<Column> {
        let series = &self.series;
        let mut columns: Vec<Column> = Vec::new();
        for at in 0..series.sent.len() {
            let begins = at as f64 * self.slice_s;
            // A sum of tenths may be a little less than it should be.
            let column = ((begins + 1e-6) / step_s) as usize;
            columns.resize_with(columns.len().max(column + 1), Column::default);
            let column = &mut columns[column];
            column.seconds += (self.duration_s - begins).clamp(0.0, self.slice_s);
            if let Some(due) = &series.due {
                *column.due.get_or_insert(0) += due[at];
            }
            column.sent += series.sent[at];
            column.arrived += series.arrived[at];
            column.open = Some(series.open[at]);
            column.opened += series.opened[at];
            column.closed += series.closed[at];
            column.errors += series.errors[at];
            for (ns, count) in &self.response[at] {
                *column.response.entry(*ns).or_default() += count;
            }
        }
        if let Some(server) = &series.server {
            for (at, column) in columns.iter_mut().enumerate() {
                let (begins, ends) = (at as f64 * step_s, (at + 1) as f64 * step_s);
                column.cpu_cores = cpu_cores(server, begins, ends);
                column.rss_bytes = rss_bytes(server, ends);
            }
        }
        columns
    }
}

fn decoded(text: &str) -> Result<Counts, String> {
    let histogram: Histogram<u64> = measure::decode(text).map_err(|error| format!("timeline: {error}"))?;
    let recorded = histogram.iter_recorded();
    Ok(recorded
        .map(|step| (histogram.median_equivalent(step.value_iterated_to()), step.count_at_value()))
        .collect())
}

/// CPU time between two moments divided by the time between them, where samples surround at least a part of it.
fn cpu_cores(server: &ServerSamples, begins: f64, ends: f64) -> Option<f64> {
    let (first, last) = (*server.at_s.first()?, *server.at_s.last()?);
    let (begins, ends) = (begins.max(first), ends.min(last));
    let used = cpu_at(server, ends)? - cpu_at(server, begins)?;
    // Less than that is the rest of a slice.
    const SECONDS_MIN: f64 = 0.02;
    (ends - begins >= SECONDS_MIN).then(|| hundredths(used.max(0.0) / 1e9 / (ends - begins)))
}

/// The CPU time at a moment, between two samples in proportion.
fn cpu_at(server: &ServerSamples, at: f64) -> Option<f64> {
    let after = server.at_s.partition_point(|sample| *sample < at);
    let sample = |index: usize| Some((*server.at_s.get(index)?, *server.cpu_ns.get(index)? as f64));
    let Some((late, cpu_after)) = sample(after) else {
        return sample(after.checked_sub(1)?).map(|(_, cpu)| cpu);
    };
    let Some((early, cpu_before)) = after.checked_sub(1).and_then(sample) else { return Some(cpu_after) };
    let share = if late > early { (at - early) / (late - early) } else { 1.0 };
    Some(cpu_before + share * (cpu_after - cpu_before))
}

/// The last sample before a moment.
fn rss_bytes(server: &ServerSamples, until: f64) -> Option<u64> {
    let after = server.at_s.partition_point(|sample| *sample <= until);
    server.rss_bytes.get(after.checked_sub(1)?).copied()
}

/// The runs over time; `None` if none has slices.
pub(super) fn timeline(runs: &[Run]) -> Option<Timeline> {
    let step_s = step_s(runs, COLUMNS_MAX)?;
    let with_slices = runs.iter().enumerate().filter_map(|(at, run)| Some((at, run.slices.as_ref()?)));
    let columns: Vec<(usize, Vec<Column>)> =
        with_slices.map(|(at, slices)| (at, slices.columns(step_s))).collect();
    let rows = Rows::spanning(columns.iter().flat_map(|(_, columns)| columns));
    let series = |(at, (run, columns)): (usize, &(usize, Vec<Column>))| Series {
        run: *run,
        figures: FIGURES.map(|(name, of)| (name, columns.iter().map(of).collect())).into(),
        cells: columns.iter().filter(|_| at < MAPS_MAX).map(|column| rows.cells(&column.response)).collect(),
    };
    Some(Timeline { step_s, runs: columns.iter().enumerate().map(series).collect(), edges: rows.edges() })
}

/// The rows of all heat maps of a page: parts of each doubling of the latency. They meet where buckets of HdrHistogram do.
struct Rows {
    /// Parts of a doubling, a power of two.
    parts: usize,
    /// Numbers of the first and the last row.
    first: usize,
    last: usize,
}

impl Rows {
    fn spanning<'a>(columns: impl Iterator<Item = &'a Column> + Clone) -> Rows {
        let latencies = || columns.clone().flat_map(|column| column.response.keys()).copied();
        let (least, most) = (latencies().min().unwrap_or(1).max(1), latencies().max().unwrap_or(1).max(1));
        let doublings = (most.ilog2() - least.ilog2() + 1) as usize;
        let parts = [16, 8, 4, 2].into_iter().find(|parts| parts * doublings <= ROWS_MAX).unwrap_or(1);
        Rows { parts, first: number(least, parts), last: number(most, parts) }
    }

    fn cells(&self, counts: &Counts) -> Vec<(usize, u64)> {
        let mut cells = BTreeMap::new();
        for (&ns, &count) in counts {
            *cells.entry(number(ns, self.parts) - self.first).or_default() += count;
        }
        cells.into_iter().collect()
    }

    /// Where the rows begin, and where the last one ends.
    fn edges(&self) -> Vec<u64> {
        let begins = |number: usize| {
            let (doubling, part) = (number / self.parts, number % self.parts);
            let ns = (1_u128 << doubling) * (self.parts + part) as u128;
            ns.div_ceil(self.parts as u128) as u64
        };
        (self.first..=self.last + 1).map(begins).collect()
    }
}

/// The number of the row of a latency.
fn number(ns: u64, parts: usize) -> usize {
    let ns = ns.max(1);
    let doubling = ns.ilog2();
    let beyond = u128::from(ns) - (1 << doubling);
    doubling as usize * parts + ((beyond * parts as u128) >> doubling) as usize
}

/// The width of a column in seconds with which no run has more than `most` columns: a slice, or one, two or five times a
/// power of ten. `None` if no run has slices.
fn step_s(runs: &[Run], most: usize) -> Option<f64> {
    let slices = || runs.iter().filter_map(|run| run.slices.as_ref());
    let longest = slices().map(|slices| slices.slice_s).max_by(f64::total_cmp)?;
    let whole = slices().map(Slices::seconds).fold(0.0, f64::max);
    let least = longest.max(whole / most as f64) - 1e-9;
    let steps = (-3..=9).flat_map(|power| [1.0, 2.0, 5.0].map(|times| times * 10_f64.powi(power)));
    Some(steps.into_iter().find(|step| *step >= least).unwrap_or(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ServerSamples {
        ServerSamples {
            at_s: vec![0.0, 1.0, 3.0],
            cpu_ns: vec![0, 500_000_000, 2_500_000_000],
            rss_bytes: vec![7, 8, 9],
        }
    }

    #[test]
    fn cpu_time_is_divided_among_the_columns_between_two_samples() {
        let cores = |begins, ends| cpu_cores(&server(), begins, ends);
        assert_eq!((cores(0.0, 1.0), cores(1.0, 2.0), cores(2.0, 3.0)), (Some(0.5), Some(1.0), Some(1.0)));
        assert_eq!(cores(0.5, 1.5), Some(0.75));
        assert_eq!((cores(2.5, 3.5), cores(3.0, 4.0)), (Some(1.0), None), "nothing is known after the last");
        assert_eq!(cpu_cores(&ServerSamples::default(), 0.0, 1.0), None);
        assert_eq!([0.5, 1.0, 2.9, 9.0].map(|until| rss_bytes(&server(), until)), [7, 8, 8, 9].map(Some));
    }

    #[test]
    fn rows_meet_and_cover_all_latencies() {
        for (least, most) in [(30_000, 40_000), (1_000, 7_000_000_000), (1, 3_600_000_000_000), (5, 5)] {
            let column = Column { response: [(least, 3), (most, 4)].into(), ..Column::default() };
            let rows = Rows::spanning([&column].into_iter());
            let edges = rows.edges();
            assert!(
                edges.len() <= ROWS_MAX + 1 && edges[0] <= least && edges[edges.len() - 1] > most,
                "{edges:?}"
            );
            for (row, bounds) in edges.windows(2).enumerate() {
                let [low, high] = [bounds[0], bounds[1].max(bounds[0] + 1) - 1];
                assert_eq!(
                    [low, high].map(|ns| number(ns, rows.parts) - rows.first),
                    [row, row],
                    "{bounds:?}"
                );
            }
            let cells = rows.cells(&column.response);
            assert_eq!(cells.iter().map(|(_, count)| count).sum::<u64>(), if least == most { 4 } else { 7 });
        }
    }

    #[test]
    fn quantiles_of_a_column_are_those_of_its_messages() {
        let column = Column { response: [(10, 98), (20, 1), (30, 1)].into(), ..Column::default() };
        assert_eq!([0.5, 0.99, 1.0].map(|share| column.quantile(share)), [10.0, 20.0, 30.0].map(Some));
        assert_eq!(Column::default().quantile(0.5), None);
        assert_eq!(Column { seconds: 0.001, ..Column::default() }.per_s(5), None);
    }
}
