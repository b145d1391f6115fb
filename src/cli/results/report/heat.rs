//! A heat map of latency over time: cells of a time and a range of latencies, coloured by their number of messages.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::axis::Axis;
use super::svg::Plot;

/// Colours of cells.
pub(super) const LEVELS: usize = 8;
/// Rows of a map at most: with more, a cell would be too flat to be pointed at.
const ROWS_MAX: u32 = 64;
/// Columns of a narrow drawing at most.
pub(super) const NARROW_COLUMNS_MAX: usize = 150;

/// Messages by latency in nanoseconds.
pub(super) type Counts = BTreeMap<u64, u64>;

/// The rows of all maps of a page: parts of each doubling of the latency. They meet where buckets of HdrHistogram do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// Parts of a doubling, a power of two.
    parts: u32,
    /// Number of the first row.
    first: usize,
    count: usize,
}

impl Rows {
    /// Rows that span the axis.
    pub(super) fn spanning(axis: &Axis) -> Rows {
        let [from, until] = [axis.from, axis.until].map(|log| 10_f64.powf(log).max(1.0));
        let doublings = (until.log2().ceil() - from.log2().floor()).max(1.0) as u32;
        let parts = [16, 8, 4, 2].into_iter().find(|parts| parts * doublings <= ROWS_MAX).unwrap_or(1);
        let rows = Rows { parts, first: 0, count: usize::MAX };
        let (first, last) = (rows.number(from as u64), rows.number(until as u64));
        Rows { parts, first, count: last - first + 1 }
    }

    fn number(&self, ns: u64) -> usize {
        let ns = ns.max(1);
        let doubling = ns.ilog2();
        let beyond = u128::from(ns) - (1 << doubling);
        (doubling * self.parts) as usize + ((beyond * u128::from(self.parts)) >> doubling) as usize
    }

    /// The row of a latency; the nearest one beyond the axis.
    pub(super) fn of(&self, ns: u64) -> usize {
        self.number(ns).clamp(self.first, self.first + self.count - 1) - self.first
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// From where to where a row goes, in nanoseconds.
    pub(super) fn bounds(&self, row: usize) -> (f64, f64) {
        let parts = f64::from(self.parts);
        let bound = |number: usize| {
            let (doubling, part) = (number / self.parts as usize, number % self.parts as usize);
            2_f64.powi(doubling as i32) * (1.0 + part as f64 / parts)
        };
        (bound(self.first + row), bound(self.first + row + 1))
    }
}

/// The map of one run.
#[derive(Clone, Debug)]
pub(super) struct HeatMap {
    /// Width of a column in seconds.
    pub(super) step_s: f64,
    pub(super) rows: Rows,
    /// For each column, rows with their counts.
    pub(super) columns: Vec<BTreeMap<usize, u64>>,
    /// The largest count of all maps with the same colours.
    pub(super) most: u64,
}

impl HeatMap {
    /// A map of these columns, whose own largest count is `most`.
    pub(super) fn new<'a>(step_s: f64, rows: Rows, columns: impl Iterator<Item = &'a Counts>) -> HeatMap {
        let column = |counts: &Counts| {
            let mut cells = BTreeMap::new();
            for (&ns, &count) in counts {
                *cells.entry(rows.of(ns)).or_default() += count;
            }
            cells
        };
        let columns: Vec<BTreeMap<usize, u64>> = columns.map(column).collect();
        let most = columns.iter().flat_map(BTreeMap::values).copied().max().unwrap_or(0);
        HeatMap { step_s, rows, columns, most }
    }

    /// The same with at most so many columns.
    pub(super) fn with_columns(&self, most: usize) -> HeatMap {
        let together = self.columns.len().div_ceil(most).max(1);
        let sum = |columns: &[BTreeMap<usize, u64>]| {
            let mut sum = BTreeMap::new();
            for (row, count) in columns.iter().flatten() {
                *sum.entry(*row).or_default() += *count;
            }
            sum
        };
        HeatMap {
            step_s: self.step_s * together as f64,
            rows: self.rows.clone(),
            columns: self.columns.chunks(together).map(sum).collect(),
            most: self.most.saturating_mul(together as u64),
        }
    }

    /// The colour of a count: equal ratios of counts are equally far apart.
    pub(super) fn level(&self, count: u64) -> usize {
        let share = (count.max(1) as f64).ln() / (self.most.max(2) as f64).ln();
        ((share * LEVELS as f64) as usize).min(LEVELS - 1)
    }

    /// The cells of each level, as the data of an SVG path. Neighbours in a row are one rectangle.
    pub(super) fn paths(&self, plot: Plot, x: &Axis, y: &Axis) -> [String; LEVELS] {
        let scale = (plot.right - plot.left) / (x.until - x.from);
        let across = |column: usize| plot.left + scale * (column as f64 * self.step_s - x.from);
        let down = |ns: f64| {
            let share = (y.clamp(ns.log10()) - y.from) / (y.until - y.from);
            plot.bottom - share * (plot.bottom - plot.top)
        };
        let mut paths: [String; LEVELS] = Default::default();
        for row in 0..self.rows.count() {
            let (low, high) = self.rows.bounds(row);
            let (bottom, top) = (down(low), down(high));
            let levels = self.columns.iter().map(|cells| cells.get(&row).map(|count| self.level(*count)));
            let levels: Vec<Option<usize>> = levels.collect();
            let mut begin = 0;
            for same in levels.chunk_by(|one, other| one == other) {
                let end = begin + same.len();
                if let Some(level) = same[0] {
                    let (left, right) = (across(begin), across(end).min(plot.right));
                    // Absolute places: rectangles that meet are rounded to the same number.
                    let _ = write!(paths[level], "M{left:.1} {top:.1}H{right:.1}V{bottom:.1}H{left:.1}z");
                }
                begin = end;
            }
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_meet_and_cover_the_axis() {
        for (from, until) in [(30_000.0, 40_000.0), (1_000.0, 7e9), (1.0, 3.6e12)] {
            let axis = Axis::latency("t", [from, until].into_iter());
            let rows = Rows::spanning(&axis);
            assert!(rows.count() <= ROWS_MAX as usize + 1, "{rows:?}");
            assert!(rows.bounds(0).0 <= from && rows.bounds(rows.count() - 1).1 >= until, "{rows:?}");
            for row in 0..rows.count() {
                let (low, high) = rows.bounds(row);
                assert_eq!(rows.of(low.ceil() as u64), row, "{low}");
                assert_eq!(rows.of((high.ceil() as u64 - 1).max(low.ceil() as u64)), row, "{high}");
                assert!(row == 0 || rows.bounds(row - 1).1 == low);
            }
        }
    }

    fn map() -> HeatMap {
        let axis = Axis::latency("t", [1e5, 2e5].into_iter());
        let columns: [Counts; 3] =
            [[(110_000, 1)].into(), [(110_000, 1), (150_000, 100)].into(), [(150_000, 7)].into()];
        HeatMap::new(0.5, Rows::spanning(&axis), columns.iter())
    }

    #[test]
    fn equal_neighbours_are_one_rectangle() {
        let map = map();
        let y = Axis::latency("t", [1e5, 2e5].into_iter());
        let plot = Plot { left: 10.0, right: 110.0, top: 0.0, bottom: 50.0 };
        let paths = map.paths(plot, &Axis::from_zero("s", 2.0), &y);
        assert_eq!(paths[0].matches('M').count(), 1, "{paths:?}");
        assert!(paths[0].starts_with("M10.0 ") && paths[0].contains("H60.0"), "{paths:?}");
        assert!(paths[LEVELS - 1].starts_with("M35.0 ") && paths[LEVELS - 1].contains("H60.0"), "{paths:?}");
        assert_eq!(paths.iter().filter(|path| !path.is_empty()).count(), 3);
    }

    #[test]
    fn fewer_columns_have_the_same_messages() {
        let whole = map();
        let half = whole.with_columns(2);
        let sum = |map: &HeatMap| map.columns.iter().flat_map(BTreeMap::values).sum::<u64>();
        assert_eq!((half.columns.len(), half.step_s, sum(&half)), (2, 1.0, sum(&whole)));
        assert_eq!(whole.with_columns(3).columns, whole.columns);
        assert_eq!((whole.level(1), whole.level(100), whole.level(10)), (0, LEVELS - 1, LEVELS / 2));
    }
}
