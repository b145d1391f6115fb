//! The result of a calibration: the latency above which, and the rate up to which, quantiles are credible.
//!
//! The server of a calibration keeps each message for a known time. What the generator measures beyond that is the error: the
//! work and the waits of both processes, of the kernel, and of the host. It is added to the delay, whatever the delay is.
//! So a quantile of latencies above ten times its error is right to within a tenth. Where an error is larger in one step
//! than in another, the larger one counts.
//!
//! Never: a clock, I/O, a run.

use crate::record::calibration::{Believed, CalibrationStep, QuantilePair, QuantilePairs};

/// Error that a believed quantile has at most, as its reciprocal: a tenth.
const BELIEVED_PART: u64 = 10;
/// A rate counts only if its error is at most this many times the smallest one of all rates. Beyond that, the generator or the
/// server is close to its limit.
const ERROR_GROWTH_MAX: u64 = 4;
/// Messages beyond a quantile that are needed, so that a single slow one does not decide it.
pub(crate) const MESSAGES_BEYOND: u64 = 10;

/// One of the quantiles of a step.
type Quantile = fn(&QuantilePairs) -> Option<QuantilePair>;
/// Those of the response time, or of a part of it.
type Pairs = fn(&CalibrationStep) -> &QuantilePairs;

/// The result of these steps.
pub fn believed(steps: &[CalibrationStep]) -> Believed {
    believed_of(steps, |step| &step.response)
}

/// The same for the time of server and network by the kernel's timestamps. `None` if no step has them.
pub(crate) fn believed_by_the_kernel(steps: &[CalibrationStep]) -> Option<Believed> {
    steps.iter().any(|step| step.kernel.p50.is_some()).then(|| believed_of(steps, |step| &step.kernel))
}

fn believed_of(steps: &[CalibrationStep], pairs: Pairs) -> Believed {
    let Some(rate_max) = rate_max(steps, pairs) else { return Believed::default() };
    let above = |quantile: Quantile| {
        let within = steps.iter().filter(|step| step.why.is_none() && step.rate <= rate_max);
        let error_ns = within.filter_map(|step| quantile(pairs(step))).map(|pair| pair.error_ns()).max()?;
        Some(error_ns.saturating_mul(BELIEVED_PART))
    };
    Believed {
        p50_above_ns: above(|pairs| pairs.p50),
        p99_above_ns: above(|pairs| pairs.p99),
        p999_above_ns: above(|pairs| pairs.p999),
        rate_max: Some(rate_max),
    }
}

/// The highest rate that was held, without much larger errors than the best rate at the highest quantile that all steps
/// have; below it, every rate was held by one of its steps.
fn rate_max(steps: &[CalibrationStep], pairs: Pairs) -> Option<u64> {
    let held = |step: &&CalibrationStep| step.why.is_none();
    // Short steps have too few messages for p99.9.
    let quantiles: [Quantile; 3] = [|pairs| pairs.p999, |pairs| pairs.p99, |pairs| pairs.p50];
    let is_known =
        |quantile: &Quantile| steps.iter().filter(held).all(|step| quantile(pairs(step)).is_some());
    let quantile = quantiles.into_iter().find(is_known)?;
    let error = |step: &CalibrationStep| quantile(pairs(step)).map(|pair| pair.error_ns());
    let bound = steps.iter().filter(held).filter_map(error).min()?.saturating_mul(ERROR_GROWTH_MAX);
    let mut rates: Vec<u64> = steps.iter().map(|step| step.rate).collect();
    rates.sort_unstable();
    rates.dedup();
    let is_good = |rate: &u64| {
        let mut tried = steps.iter().filter(held).filter(|step| step.rate == *rate);
        tried.any(|step| error(step).is_some_and(|error_ns| error_ns <= bound))
    };
    rates.into_iter().take_while(is_good).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A step whose errors at p50, p99 and p99.9 are these, in microseconds.
    fn step(rate: u64, errors_us: [u64; 3]) -> CalibrationStep {
        let pair = |error: u64| Some(QuantilePair { planted_ns: MS, measured_ns: MS + error * 1_000 });
        let [p50, p99, p999] = errors_us.map(pair);
        let (delays, response) = ("1.00 ms".to_owned(), QuantilePairs { p50, p99, p999 });
        let kernel = QuantilePairs::default();
        CalibrationStep { rate, delays, messages_per_s: rate as f64, why: None, response, kernel }
    }

    fn failed(rate: u64) -> CalibrationStep {
        CalibrationStep { why: Some("too late".to_owned()), ..step(rate, [90_000; 3]) }
    }

    #[test]
    fn a_quantile_is_believed_above_ten_times_its_largest_error() {
        let steps = [step(5_000, [30, 90, 300]), step(5_000, [40, 80, 200]), step(10_000, [35, 110, 250])];
        let expected = Believed {
            p50_above_ns: Some(400_000),
            p99_above_ns: Some(1_100_000),
            p999_above_ns: Some(3 * MS),
            rate_max: Some(10_000),
        };
        assert_eq!(believed(&steps), expected);
        // Errors have no sign.
        let mut early = steps;
        early[1].response.p50 = Some(QuantilePair { planted_ns: MS, measured_ns: MS - 70_000 });
        assert_eq!(believed(&early).p50_above_ns, Some(700_000));
    }

    #[test]
    fn rates_that_failed_or_have_much_larger_errors_are_not_believed() {
        let good = [step(5_000, [30, 90, 300]), step(10_000, [30, 90, 300]), step(20_000, [30, 90, 1_200])];
        let with = |more: &[CalibrationStep]| believed(&[&good[..], more].concat());
        assert_eq!((with(&[]).rate_max, with(&[]).p999_above_ns), (Some(20_000), Some(12 * MS)));
        assert_eq!(with(&[failed(40_000)]), with(&[]));
        assert_eq!(with(&[step(40_000, [30, 90, 1_201])]), with(&[]));
        // Nor is what lies above a failure.
        assert_eq!(with(&[failed(40_000), step(80_000, [30, 90, 300])]), with(&[]));
        // A rate that failed once and was held then was held.
        assert_eq!(with(&[failed(40_000), step(40_000, [30, 90, 300])]).rate_max, Some(40_000));
        // One bad step at a rate does not lower the rate, and its error counts.
        let doubted = with(&[step(10_000, [30, 90, 5_000])]);
        assert_eq!((doubted.rate_max, doubted.p999_above_ns), (Some(20_000), Some(50 * MS)));
    }

    #[test]
    fn the_kernels_times_have_a_result_of_their_own() {
        let with = |response: [u64; 3], kernel: [u64; 3]| CalibrationStep {
            kernel: step(5_000, kernel).response,
            ..step(5_000, response)
        };
        let steps = [with([30, 900, 3_000], [10, 40, 100]), with([40, 800, 2_000], [20, 30, 200])];
        let found = believed_by_the_kernel(&steps).expect("it has them");
        assert_eq!((found.p50_above_ns, found.p99_above_ns), (Some(200_000), Some(400_000)));
        assert_eq!(believed(&steps).p99_above_ns, Some(9 * MS));
        assert_eq!(believed_by_the_kernel(&[step(5_000, [30, 90, 300])]), None);
    }

    #[test]
    fn what_was_not_measured_is_not_believed() {
        assert_eq!(believed(&[]), Believed::default());
        assert_eq!(believed(&[failed(5_000)]), Believed::default());
        let without_p999 = |mut step: CalibrationStep| {
            step.response.p999 = None;
            step
        };
        let short = without_p999(step(5_000, [30, 90, 0]));
        let found = believed(&[short]);
        assert_eq!(
            (found.p999_above_ns, found.p99_above_ns, found.rate_max),
            (None, Some(900_000), Some(5_000))
        );
        // Where one step has no p99.9, p99 decides about the rate.
        let short = without_p999(step(5_000, [30, 90, 0]));
        assert_eq!(believed(&[short, step(10_000, [30, 90, 9_000])]).rate_max, Some(10_000));
        let empty = CalibrationStep { response: QuantilePairs::default(), ..step(5_000, [0; 3]) };
        assert_eq!(believed(&[empty]), Believed::default());
    }
}
