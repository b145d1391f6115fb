//! Searches of simulated histories with a known regression, on machines that disturb their runs.

use super::*;
use crate::analyse::statistics::tests::{Machine, NOISES, Noise};
use crate::analyse::statistics::{signed_rank, walsh_averages};
use echoring_proto::random::SplitMix64;

const OPTIONS: BisectOptions =
    BisectOptions { threshold: 0.05, error: 0.05, pairs_max: PAIRS_MAX_DEFAULT, more_is_worse: true };
const COMMITS: usize = 64;

/// Searches a history whose commits from `first_bad` on take `factor` times as long.
fn searched(
    machine: &mut Machine,
    first_bad: usize,
    factor: f64,
    options: BisectOptions,
) -> (Ending, Bisection) {
    let mut search = Bisection::new(COMMITS, options);
    loop {
        match search.next_pair() {
            NextPair::Measure { commit } => {
                let (good, other) = machine.pair(if commit >= first_bad { factor } else { 1.0 });
                search.record(good, other);
            }
            NextPair::Ended(ending) => return (ending, search),
        }
    }
}

fn pairs_of(search: &Bisection) -> usize {
    search.steps().iter().map(|step| step.pairs).sum()
}

/// The number of pairs with which a test of fixed size (Wilcoxon's signed-rank test) has the error rates of a step for a
/// regression of this size: it takes a good commit for a bad one, and a bad one for a good one, in at most a share `error`.
fn fixed_pairs(noise: Noise, factor: f64, error: f64) -> usize {
    const TRIALS: u64 = 1_000;
    let has_power = |pairs: usize| {
        let Some(rank) = signed_rank(pairs, 2.0 * error) else { return false };
        let is_missed = |trial: &u64| {
            let mut machine = Machine::new(noise, SplitMix64::new(90_000 + trial));
            let pair = |_| machine.pair(factor);
            let logs: Vec<f64> = (0..pairs).map(pair).map(|(a, b)| (b / a).ln()).collect();
            *walsh_averages(&logs).select_nth_unstable_by(rank - 1, f64::total_cmp).1 <= 0.0
        };
        (0..TRIALS).filter(is_missed).count() as f64 <= TRIALS as f64 * error
    };
    let (mut too_few, mut enough) = (1, 8);
    while !has_power(enough) {
        (too_few, enough) = (enough, 2 * enough);
    }
    while enough - too_few > 1 {
        let between = usize::midpoint(too_few, enough);
        *(if has_power(between) { &mut enough } else { &mut too_few }) = between;
    }
    enough
}

#[test]
fn one_thousand_searches_name_a_wrong_commit_less_often_than_stated() {
    const FACTORS: [f64; 4] = [1.08, 1.12, 1.2, 1.4];
    let (mut wrong, mut undecided, mut sequential, mut fixed) = (0, 0, 0, 0);
    let mut lines = String::new();
    let mut largest_fixed = 0;
    for noise in NOISES {
        for factor in FACTORS {
            let (mut wrong_here, mut undecided_here, mut pairs_here) = (0, 0, 0);
            for trial in 0..50 {
                let mut random = SplitMix64::new(1_000 * trial + (100.0 * factor) as u64 + noise as u64);
                let first_bad = random.below(COMMITS as u64) as usize;
                let mut machine = Machine::new(noise, random);
                let (ending, search) = searched(&mut machine, first_bad, factor, OPTIONS);
                pairs_here += pairs_of(&search);
                match ending {
                    Ending::Found { commit, or } => {
                        assert!(or.is_empty());
                        wrong_here += usize::from(commit != first_bad);
                    }
                    Ending::NoDifference => wrong_here += 1,
                    Ending::Undecided { .. } => undecided_here += 1,
                }
            }
            let fixed_here = fixed_pairs(noise, factor, OPTIONS.error / 7.0);
            largest_fixed = largest_fixed.max(fixed_here);
            lines += &format!(
                "{noise:?} × {factor}: {wrong_here} wrong, {undecided_here} undecided of 50, {:.1} pairs a search, a test of fixed size {}\n",
                pairs_here as f64 / 50.0,
                7 * fixed_here,
            );
            wrong += wrong_here;
            undecided += undecided_here;
            sequential += pairs_here;
            fixed += 50 * 7 * fixed_here;
        }
    }
    println!(
        "{lines}1,000 searches: {wrong} wrong, {undecided} undecided, {:.1} pairs a search; of fixed size, planned with the noise and \
         the regression known, {:.1}; planned for the worst of both, {}",
        sequential as f64 / 1_000.0,
        fixed as f64 / 1_000.0,
        7 * largest_fixed,
    );
    assert!(wrong as f64 <= 1_000.0 * OPTIONS.error, "{wrong} of 1000 are wrong\n{lines}");
    assert!(undecided <= 50, "{undecided} of 1000 are undecided\n{lines}");
    assert!(sequential < 1_000 * 7 * largest_fixed, "{lines}");
}

#[test]
fn equal_commits_have_no_difference_except_as_often_as_stated() {
    for noise in NOISES {
        let (mut found, mut none) = (0, 0);
        for trial in 0..200 {
            let mut machine = Machine::new(noise, SplitMix64::new(70_000 + trial));
            match searched(&mut machine, COMMITS, 1.0, OPTIONS).0 {
                Ending::NoDifference => none += 1,
                Ending::Found { .. } => found += 1,
                Ending::Undecided { .. } => {}
            }
        }
        println!("{noise:?}: {found} of 200 found a difference, {none} none");
        assert!(
            found as f64 <= 200.0 * OPTIONS.error && none >= 190,
            "{noise:?}: {found} found, {none} none"
        );
    }
}
