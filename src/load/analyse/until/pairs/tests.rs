//! How often the verdict at the moment of stopping is wrong, in simulated comparisons of targets whose ratio is known. The
//! figures are in results/intervals.md.

use echoring_proto::random::{SplitMix64, mix};

use super::*;
use crate::analyse::statistics::tests::{Machine, NOISES};

/// Simulated comparisons of each kind in every test.
const TRIALS: u64 = 60;
const PAIRS_MAX: usize = 150;
const MARGIN: f64 = 0.03;

fn paired(words: &str) -> PairedGoal {
    PairedGoal::new(words.parse().expect("a goal"), ERROR_SHARE)
}

/// The percentage of comparisons with a wrong verdict, of those with a verdict, and the mean number of pairs.
fn ended(trials: u64, noise: crate::analyse::statistics::tests::Noise, factor: f64) -> (f64, f64, f64) {
    let (mut wrong, mut decided, mut pairs) = (0, 0, 0);
    for trial in 0..trials {
        let mut machine = Machine::new(noise, SplitMix64::new(mix(70_000 + trial)));
        let mut paired = paired("p99±3%");
        while paired.found.is_none() && paired.logs.len() < PAIRS_MAX {
            let (a, b) = machine.pair(factor);
            paired.add((b / a).ln());
        }
        pairs += paired.logs.len();
        let found = paired.found.map(|(region, _)| region);
        decided += u64::from(found.is_some());
        // A ratio at the margin itself is neither beyond it nor within.
        wrong += u64::from(found.is_some_and(|region| match region {
            Region::Above => factor <= 1.0 + MARGIN,
            Region::Within => factor >= 1.0 + MARGIN,
            Region::Below => true,
        }));
    }
    let percent = |count: u64| 100.0 * count as f64 / trials as f64;
    (percent(wrong), percent(decided), pairs as f64 / trials as f64)
}

/// `PAIRS_TRIALS` is another number of comparisons of each kind: 1,000 for the figures of results/intervals.md.
#[test]
fn error_rate_of_the_verdict_by_which_a_comparison_ends() {
    let many = std::env::var("PAIRS_TRIALS").ok().map(|text| text.parse().expect("a number"));
    let trials = many.unwrap_or(TRIALS);
    for noise in NOISES {
        for factor in [1.0, 1.0 + MARGIN, 1.1] {
            let (wrong, decided, pairs) = ended(trials, noise, factor);
            println!(
                "{noise:?} × {factor}: {wrong:.1} % wrong, {decided:.1} % decided, {pairs:.0} pairs of {trials}"
            );
            // Three standard deviations of so many trials.
            let tolerance = 300.0 * (ERROR_SHARE * (1.0 - ERROR_SHARE) / trials as f64).sqrt();
            assert!(wrong <= 100.0 * ERROR_SHARE + tolerance, "{noise:?} × {factor}: {wrong} %");
        }
    }
}

#[test]
fn a_verdict_is_known_as_soon_as_its_bounds_are_rejected() {
    for (words, log, verdict) in [
        ("p99±3%", 0.2, ComparisonVerdict::Worse),
        ("p99±3%", -0.2, ComparisonVerdict::Better),
        ("p99±3%", 0.0, ComparisonVerdict::Same),
        ("messages_per_s±3%", 0.2, ComparisonVerdict::Better),
        ("messages_per_s±3%", -0.2, ComparisonVerdict::Worse),
    ] {
        let mut paired = paired(words);
        let known = (1..50).find(|_| {
            paired.add(log);
            paired.look();
            paired.found.is_some()
        });
        assert!(known.is_some_and(|pairs| pairs <= 12), "{words}: {known:?}");
        assert_eq!(paired.verdict(), verdict, "{words}");
        let found = paired.estimate().expect("an interval");
        assert!((found.value.ln() - log).abs() < 1e-9 && found.low <= found.value, "{found:?}");
        assert!(found.value <= found.high, "{found:?}");
        assert_eq!(verdict_of(found, MARGIN - 1e-9, paired.goal.metric.more_is_better), verdict, "{words}");
    }
}

#[test]
fn pairs_without_a_ratio_tell_nothing() {
    let goals: Vec<Goal> = ["p50±3%", "p99±3%"].map(|goal| goal.parse().expect("a goal")).into();
    let mut all = PairedGoals::new(&goals);
    for _ in 0..20 {
        all.add(|goal| match goal.metric.name.as_str() {
            "p50" => Some((2.0, 4.0)),
            _ => Some((0.0, 4.0)),
        });
    }
    assert!(!all.is_decided());
    assert!(all.line().contains("p50 B / A 2.000 (") && all.line().contains("p99 has no interval yet"));
    let [p50, p99] = &all.ends()[..] else { panic!("two goals") };
    assert!(p50.known_after.is_some_and(|pairs| pairs <= 12) && p50.course.len() > 8, "{p50:?}");
    assert_eq!((p99.known_after, p99.course.len()), (None, 0));
}
