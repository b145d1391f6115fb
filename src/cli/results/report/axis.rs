//! Axes of charts: their ranges, and the names of their ticks.

/// An axis with a linear scale. Callers that want another scale pass logarithms.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// Its title, with the unit where its ticks have none.
    pub(super) label: String,
    pub(super) from: f64,
    pub(super) until: f64,
    /// Places with their names, rising.
    pub(super) ticks: Vec<(f64, String)>,
}

/// Names on an axis at most: more would run into one another.
const TICKS_MAX: usize = 12;
/// Steps of an axis that begins at zero.
const STEPS: f64 = 8.0;

impl Axis {
    /// Times in nanoseconds, as powers of ten, that span all of `values` above 0.
    pub(super) fn latency(label: &str, values: impl Iterator<Item = f64>) -> Axis {
        let (least, most) = values
            .filter(|value| *value > 0.0)
            .fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
        let (least, most) = if most > 0.0 { (least, most) } else { (1e3, 1e6) };
        // One, two and five of each power of ten; ends are such steps themselves.
        let steps: Vec<f64> =
            (0..=13).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power))).collect();
        let first = steps.iter().rposition(|step| *step <= least).unwrap_or(0);
        let last = steps.iter().position(|step| *step >= most).unwrap_or(steps.len() - 1);
        let last = if last > first { last } else { (first + 1).min(steps.len() - 1) };
        let spanned = &steps[first..=last];
        let is_power = |step: &&f64| (step.log10() - step.log10().round()).abs() < 1e-9;
        let named: Vec<f64> = if spanned.len() > TICKS_MAX {
            spanned.iter().filter(is_power).copied().collect()
        } else {
            spanned.to_vec()
        };
        Axis {
            label: format!("{label} (logarithmic)"),
            from: spanned[0].log10(),
            until: spanned[spanned.len() - 1].log10(),
            ticks: named.into_iter().map(|ns| (ns.log10(), time(ns))).collect(),
        }
    }

    /// From 0 to at least `most`, in round steps.
    pub(super) fn from_zero(label: &str, most: f64) -> Axis {
        Axis::in_steps(label, most, STEPS)
    }

    /// From so far below 0 to as far above, in round steps.
    pub(super) fn around_zero(label: &str, most: f64) -> Axis {
        let half = Axis::in_steps(label, most, STEPS / 2.0);
        let below = half.ticks.iter().skip(1).rev().map(|(at, name)| (-at, format!("−{name}")));
        let ticks = below.chain(half.ticks.iter().cloned()).collect();
        Axis { from: -half.until, ticks, ..half }
    }

    /// The same as [`from_zero`](Axis::from_zero), in about so many steps.
    pub(super) fn in_steps(label: &str, most: f64, steps: f64) -> Axis {
        let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
        let step = round_step(most / steps);
        let steps = (most / step - 1e-9).ceil().max(1.0) as usize;
        let ticks = (0..=steps).map(|number| number as f64 * step);
        Axis {
            label: label.to_owned(),
            from: 0.0,
            until: steps as f64 * step,
            ticks: ticks.map(|value| (value, number(value, step))).collect(),
        }
    }

    /// The part of an axis that spans `values`, in round steps.
    pub(super) fn spanning(label: &str, values: impl Iterator<Item = f64>) -> Axis {
        let (least, most) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        let (least, most) = if least < most { (least, most) } else { (0.0, most.max(1.0)) };
        let step = round_step((most - least) / STEPS);
        let [first, last] = [(least / step + 1e-9).floor(), (most / step - 1e-9).ceil()];
        let ticks = (first as i64..=last as i64).map(|count| count as f64 * step);
        Axis {
            label: label.to_owned(),
            from: first * step,
            until: last * step,
            ticks: ticks.map(|value| (value, number(value, step))).collect(),
        }
    }

    /// Percentiles by their nines: 0, 90, 99, 99.9 % … are equally far apart, up to one in `count`.
    pub(super) fn percentiles(count: f64) -> Axis {
        let until = nines(1.0 - 1.0 / count.max(10.0));
        let mut ticks = vec![(0.0, "0 %".to_owned()), (nines(0.5), "50 %".to_owned())];
        for digits in 1..=(until + 1e-9) as i32 {
            let decimals = (digits - 2).max(0) as usize;
            let percent = 100.0 * (1.0 - 10_f64.powi(-digits));
            ticks.push((f64::from(digits), format!("{percent:.decimals$} %")));
        }
        Axis { label: "percentile (logarithmic)".to_owned(), from: 0.0, until: until + 0.02, ticks }
    }

    /// The same axis with only as many names as fit beside one another on `pixels`, where each character takes `character`
    /// of them.
    pub(super) fn thinned(&self, pixels: u32, character: u32) -> Axis {
        let scale = f64::from(pixels) / (self.until - self.from);
        let half = |name: &str| f64::from(character) * (name.chars().count() as f64 + 1.0) / 2.0;
        let mut free = f64::NEG_INFINITY;
        let fits = |(at, name): &&(f64, String)| {
            let centre = (at - self.from) * scale;
            let fits = centre - half(name) >= free;
            if fits {
                free = centre + half(name);
            }
            fits
        };
        let ticks = self.ticks.iter().filter(fits).cloned().collect();
        Axis { ticks, ..self.clone() }
    }

    /// A value within the axis.
    pub(super) fn clamp(&self, value: f64) -> f64 {
        value.clamp(self.from, self.until)
    }

    /// The name of the place `at`, if it has one.
    pub(super) fn name(&self, at: f64) -> String {
        let named = self.ticks.iter().find(|(tick, _)| (tick - at).abs() < 1e-9);
        named.map(|(_, name)| name.clone()).unwrap_or_default()
    }
}

/// The smallest round step that is not below `raw`.
fn round_step(raw: f64) -> f64 {
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().map(|times| times * power).find(|step| *step >= raw);
    step.unwrap_or(10.0 * power)
}

/// How many nines a quantile has: 0.9 has 1, 0.999 has 3.
pub(super) fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-15).log10()
}

/// A round time in nanoseconds, with its unit.
fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        _ if ns < 1e3 => (ns, "ns"),
        _ if ns < 1e6 => (ns / 1e3, "µs"),
        _ if ns < 1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{value:.0} {unit}")
}

/// A number with as many digits as steps of `step` need.
fn number(value: f64, step: f64) -> String {
    match value.abs() {
        large if large >= 1e6 => format!("{:.*} M", decimals(step / 1e6), value / 1e6),
        large if large >= 1e4 => format!("{:.*} k", decimals(step / 1e3), value / 1e3),
        _ => format!("{value:.*}", decimals(step)),
    }
}

fn decimals(step: f64) -> usize {
    if step <= 0.0 { 0 } else { (-(step + 1e-12).log10().floor()).clamp(0.0, 9.0) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn times_are_spanned_by_round_ones() {
        let axis = Axis::latency("t", [30_000.0, 180_000.0, 0.0].into_iter());
        assert_eq!(names(&axis), ["20 µs", "50 µs", "100 µs", "200 µs"]);
        let wide = Axis::latency("t", [1_500.0, 7e9].into_iter());
        assert_eq!(names(&wide), ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]);
        assert!(wide.from <= 1_500_f64.log10() && wide.until >= 7e9_f64.log10());
        let one = Axis::latency("t", [1e6].into_iter());
        assert!(one.from < one.until, "{one:?}");
        let none = Axis::latency("t", std::iter::empty());
        assert!(none.from < none.until && none.ticks.len() > 1);
    }

    #[test]
    fn counts_begin_at_zero_and_have_round_steps() {
        assert_eq!(names(&Axis::from_zero("n", 9.5)), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(names(&Axis::from_zero("n", 1.0)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        let axis = Axis::from_zero("n", 130_000.0);
        assert_eq!(names(&axis)[..2], ["0", "20 k"]);
        assert_eq!(axis.until, 140_000.0);
        assert_eq!(names(&Axis::from_zero("n", 3e6)).last(), Some(&"3.0 M"));
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Axis::from_zero("n", odd).until, 1.0, "{odd}");
        }
    }

    #[test]
    fn names_that_would_overlap_are_left_out() {
        let axis = Axis::from_zero("n", 9.5);
        assert_eq!(axis.thinned(1_000, 7), axis);
        assert_eq!(names(&axis.thinned(60, 7)), ["0", "4", "8"]);
        assert_eq!(names(&axis.thinned(1, 7)), ["0"]);
    }

    #[test]
    fn percentiles_end_at_one_message_of_all() {
        let axis = Axis::percentiles(100_000.0);
        assert_eq!(names(&axis), ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]);
        assert_eq!(names(&Axis::percentiles(3.0)), ["0 %", "50 %", "90 %"]);
        assert!((nines(0.999) - 3.0).abs() < 1e-9 && nines(1.0) < 16.0);
        assert_eq!((axis.name(2.0), axis.name(2.5)), ("99 %".to_owned(), String::new()));
    }

    #[test]
    fn a_part_of_an_axis_spans_its_values_in_round_steps() {
        let axis = Axis::spanning("B / A", [0.952, 1.24, 1.05].into_iter());
        assert!((axis.from - 0.95).abs() < 1e-9 && (axis.until - 1.25).abs() < 1e-9, "{axis:?}");
        assert_eq!(names(&axis)[..3], ["0.95", "1.00", "1.05"]);
        for odd in [vec![], vec![3.0], vec![3.0, 3.0]] {
            let axis = Axis::spanning("ms", odd.iter().copied());
            assert!(axis.from < axis.until && axis.ticks.len() > 1, "{odd:?}: {axis:?}");
        }
    }
}
