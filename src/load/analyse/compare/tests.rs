//! Comparisons of synthetic records with known differences.

use serde_json::json;

use super::*;
use crate::analyse::statistics::tests::normal;
use crate::measure::{encode, histogram};
use echoring_proto::random::SplitMix64;

/// A run that started at this second, with this p99 in milliseconds and this CPU time per message in nanoseconds.
fn run(at_s: usize, p99_ms: f64, cpu_ns: f64) -> Value {
    json!({
        "target": "ws://127.0.0.1:1", "started_at": format!("2026-11-20T10:{:02}:{:02}.000Z", at_s / 60, at_s % 60),
        "interrupted": false, "messages": 1_000, "messages_per_s": 100.0, "bytes_per_s": 6_400.0,
        "config": {"mode": "echo", "connections": 10, "rate": 100, "seed": at_s, "duration_s": 10.0},
        "environment": {"cpu": "a", "kernel": "6.1", "optimized": true},
        "response_ns": {"p50": 1e5, "p99": p99_ms * 1e6, "p999": 2e6 * p99_ms, "count": 1_000},
        "server": {"cpu_ns_per_message": cpu_ns},
        "integrity": {"lost": 0}, "errors": {}, "generator": {"saturated": false},
        "intervals": [],
    })
}

fn shown() -> Vec<Metric> {
    metrics(&METRICS).expect("these exist")
}

fn options() -> CompareOptions {
    CompareOptions { metrics: shown(), threshold: THRESHOLD_DEFAULT }
}

fn compared(a: &[Value], b: &[Value]) -> Comparison {
    one_of(compare(a, b, &options()))
}

fn single(a: &Value, b: &Value) -> Comparison {
    compared(std::slice::from_ref(a), std::slice::from_ref(b))
}

fn one_of(found: Result<Vec<Comparison>, String>) -> Comparison {
    let mut all = found.expect("the same mode");
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn word(comparison: &Comparison, metric: &str) -> ComparisonVerdict {
    finding(comparison, metric).verdict.expect("two targets")
}

/// The verdict that the interval would support if its basis decided.
fn supported(comparison: &Comparison, metric: &str) -> ComparisonVerdict {
    let MetricComparison { ratio, ratio_low, ratio_high, more_is_better, .. } = *finding(comparison, metric);
    let (Some(value), Some(low), Some(high)) = (ratio, ratio_low, ratio_high) else {
        return ComparisonVerdict::Undecided;
    };
    verdict_of(Estimate { value, low, high }, comparison.threshold, more_is_better)
}

fn finding<'a>(comparison: &'a Comparison, metric: &str) -> &'a MetricComparison {
    comparison.metrics.iter().find(|finding| finding.metric == metric).expect("known of one")
}

/// `pairs` alternating runs of each target on a machine whose speed changes all the time; B takes `factor` times as
/// long.
fn in_turn(pairs: usize, factor: f64, seed: u64) -> (Vec<Value>, Vec<Value>) {
    let mut random = SplitMix64::new(seed);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let machine = normal(&mut random).exp();
        let mut noisy = |scale: f64| scale * machine * (0.01 * normal(&mut random)).exp();
        let (of_a, of_b) = (noisy(1.0), noisy(factor));
        // The order changes from pair to pair.
        let (first, second) = (20 * pair, 20 * pair + 10);
        let (at_a, at_b) = if pair % 2 == 0 { (first, second) } else { (second, first) };
        a.push(run(at_a, of_a, 1_000.0 * of_a));
        b.push(run(at_b, of_b, 1_000.0 * of_b));
    }
    (a, b)
}

#[test]
fn alternating_runs_reveal_a_difference_that_the_machine_hides() {
    for (factor, expected) in [
        (1.2, ComparisonVerdict::Worse),
        (0.8, ComparisonVerdict::Better),
        (1.0, ComparisonVerdict::Same),
        (1.03, ComparisonVerdict::SlightlyWorse),
        (1.05, ComparisonVerdict::SlightlyWorse),
        (0.96, ComparisonVerdict::SlightlyBetter),
    ] {
        let (a, b) = in_turn(12, factor, 5);
        let found = compared(&a, &b);
        assert_eq!(found.basis, Basis::Pairs);
        assert_eq!((word(&found, "p99"), word(&found, "cpu_per_message")), (expected, expected), "{factor}");
        assert_eq!(word(&found, "messages_per_s"), ComparisonVerdict::Same);
        let ratio = finding(&found, "p99").ratio.expect("known of both");
        assert!((ratio / factor - 1.0).abs() < 0.02, "{ratio} for {factor}");
        assert_eq!(
            worse(&found, &metrics(&JUDGED).expect("these exist")).next().is_some(),
            expected == ComparisonVerdict::Worse
        );
        assert!(worse(&found, &metrics(&["messages_per_s"]).expect("it exists")).next().is_none());
        assert!(found.warnings.is_empty() && found.differences.is_empty(), "{found:?}");
    }
}

#[test]
fn the_same_runs_one_after_the_other_are_undecided_with_a_reason() {
    let (a, mut b) = in_turn(10, 1.2, 5);
    // B's runs were made after all of A's.
    for (at, run) in b.iter_mut().enumerate() {
        run["started_at"] = json!(format!("2026-11-20T11:00:{at:02}.000Z"));
    }
    let found = compared(&a, &b);
    assert_eq!((found.basis, word(&found, "p99")), (Basis::Runs, ComparisonVerdict::Undecided));
    assert!(found.warnings[0].contains("--against"), "{found:?}");
}

#[test]
fn an_interval_across_the_threshold_is_undecided() {
    let at = |low, high| Estimate { value: f64::midpoint(low, high), low, high };
    for (low, high, lower_is_better, higher_is_better) in [
        (1.06, 1.2, ComparisonVerdict::Worse, ComparisonVerdict::Better),
        (1.04, 1.2, ComparisonVerdict::SlightlyWorse, ComparisonVerdict::SlightlyBetter),
        (1.01, 1.04, ComparisonVerdict::SlightlyWorse, ComparisonVerdict::SlightlyBetter),
        (0.99, 1.2, ComparisonVerdict::Undecided, ComparisonVerdict::Undecided),
        (0.9, 1.2, ComparisonVerdict::Undecided, ComparisonVerdict::Undecided),
        (0.96, 1.04, ComparisonVerdict::Same, ComparisonVerdict::Same),
        (0.8, 0.94, ComparisonVerdict::Better, ComparisonVerdict::Worse),
        (0.8, 0.96, ComparisonVerdict::SlightlyBetter, ComparisonVerdict::SlightlyWorse),
    ] {
        assert_eq!(verdict_of(at(low, high), 0.05, false), lower_is_better, "{low} {high}");
        assert_eq!(verdict_of(at(low, high), 0.05, true), higher_is_better, "{low} {high}");
    }
    assert_eq!(verdict_of(at(1.001, 1.002), 0.0, false), ComparisonVerdict::Worse);
    assert_eq!(verdict_of(at(1.0, 1.0), 0.0, false), ComparisonVerdict::Same);
}

#[test]
fn too_few_pairs_are_always_undecided() {
    // Each of the five common metrics may err in one case of a hundred.
    let (a, b) = in_turn(7, 3.0, 8);
    let found = compared(&a, &b);
    assert_eq!((found.basis, word(&found, "p99")), (Basis::Pairs, ComparisonVerdict::Undecided));
    assert_eq!(
        finding(&found, "p99").why.as_deref(),
        Some("a confidence interval needs 8 pairs, but there are 7")
    );
    assert!(finding(&found, "p99").ratio.is_some_and(|ratio| ratio > 2.5));
}

#[test]
fn the_median_is_judged_by_default_and_more_metrics_need_more_pairs() {
    let slower_at_p50 = |pairs: usize, metrics: &[&str]| {
        let (mut a, mut b) = in_turn(pairs, 1.0, 7);
        for (one, p50_ns) in a.iter_mut().map(|one| (one, 1.0e5)).chain(b.iter_mut().map(|one| (one, 1.2e5)))
        {
            one["response_ns"]["p50"] = json!(p50_ns);
            one["search"] = json!({"low": 5_000});
            one["server_and_network_ns"] = json!({"p99": 9.0e5, "count": 1_000});
        }
        let metrics = super::metrics(metrics).expect("these exist");
        one_of(compare(&a, &b, &CompareOptions { metrics, ..options() }))
    };
    assert!(METRICS.contains(&"p50") && JUDGED.contains(&"p50"));
    let evaluated = metrics(&JUDGED).expect("these exist");
    // Both sides have all seven metrics. A single one needs six pairs, all together need nine.
    for (pairs, asked, decides) in [
        (9, &METRICS[..], true),
        (8, &METRICS, false),
        (6, &METRICS, false),
        (6, &["p50"], true),
        (5, &["p50"], false),
    ] {
        let found = slower_at_p50(pairs, asked);
        assert_eq!(found.metrics.len(), asked.len(), "{found:?}");
        let expected = if decides { ComparisonVerdict::Worse } else { ComparisonVerdict::Undecided };
        assert_eq!(word(&found, "p50"), expected, "{pairs} pairs of {asked:?}");
        assert_eq!(worse(&found, &evaluated).next().is_some(), decides, "{pairs} pairs of {asked:?}");
    }
}

#[test]
fn runs_that_differ_in_whose_timestamps_they_used_are_of_one_load() {
    let (mut a, mut b) = in_turn(8, 1.0, 7);
    a.iter_mut().for_each(|one| one["config"]["timestamps"] = json!("kernel"));
    b.iter_mut().for_each(|one| one["config"]["timestamps"] = json!("program"));
    let found = compared(&a, &b);
    assert_eq!((found.basis, found.differences.len()), (Basis::Pairs, 0));
    assert!(found.warnings.iter().any(|line| line.starts_with("timestamps is \"kernel\"")), "{found:?}");
}

#[test]
fn an_unfinished_last_pair_is_ignored() {
    let (a, b) = in_turn(10, 1.3, 6);
    let found = compared(&a, &b[..9]);
    assert_eq!(found.basis, Basis::Pairs);
    assert_eq!(word(&found, "p99"), ComparisonVerdict::Worse);
    let mut interrupted = b;
    interrupted[9]["interrupted"] = json!(true);
    let found = compared(&a, &interrupted);
    assert_eq!((found.basis, found.b.as_ref().map(|side| side.runs)), (Basis::Pairs, Some(9)));
    assert!(found.warnings[0].contains("interrupted"), "{found:?}");
}

/// One run with this number of intervals of 1,000 messages around this p50; the level drifts as on a real machine. The
/// messages of stalled seconds take 463 ms.
fn with_intervals(intervals: usize, p50_ms: f64, stalled: &[usize], seed: u64) -> Value {
    let mut random = SplitMix64::new(seed);
    let mut one = run(seed as usize, 0.0, 1_000.0);
    let (mut all, mut level, mut each) = (histogram(), 0.0, Vec::new());
    for at in 0..intervals {
        level = 0.5 * level + 0.004 * normal(&mut random);
        let mut own = histogram();
        for _ in 0..1_000 {
            let usual = p50_ms * f64::exp(level + 0.3 * normal(&mut random));
            let ms = if stalled.contains(&at) { 463.0 } else { usual };
            own.record((1e6 * ms) as u64).expect("within bounds");
        }
        all.add(&own).expect("of the same bounds");
        each.push(json!({"at_s": at, "duration_s": 1.0, "messages": 1_000, "bytes": 64_000,
            "response_histogram": encode(&own), "p99_ns": own.value_at_quantile(0.99)}));
    }
    // The remainder of a run is not a complete interval.
    each.push(json!({"at_s": intervals, "duration_s": 0.2, "messages": 1, "bytes": 64}));
    let at = |quantile| all.value_at_quantile(quantile);
    one["response_ns"] = json!({"p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "count": all.len()});
    one["messages_per_s"] = json!(1_000.0);
    one["intervals"] = Value::Array(each);
    one
}

#[test]
fn single_runs_decide_nothing() {
    let (a, b) = (with_intervals(30, 1.0, &[], 1), with_intervals(30, 3.0, &[], 2));
    let found = single(&a, &b);
    assert_eq!(found.basis, Basis::Slices);
    assert!(
        found.metrics.iter().all(|finding| finding.verdict == Some(ComparisonVerdict::Undecided)),
        "{found:?}"
    );
    assert!(
        finding(&found, "p99").ratio_low.is_some_and(|low| low > 2.5),
        "the values are reported: {found:?}"
    );
    assert_eq!(
        (supported(&found, "p50"), supported(&found, "p99")),
        (ComparisonVerdict::Worse, ComparisonVerdict::Worse),
        "{found:?}"
    );
    assert!(found.warnings[0].contains("--against"), "{found:?}");
}

#[test]
fn single_runs_are_compared_by_their_merged_distributions() {
    for (p50_ms, expected) in
        [(1.5, ComparisonVerdict::Worse), (0.5, ComparisonVerdict::Better), (1.0, ComparisonVerdict::Same)]
    {
        let found = single(&with_intervals(60, 1.0, &[], 1), &with_intervals(60, p50_ms, &[], 2));
        assert_eq!((supported(&found, "p50"), supported(&found, "p99")), (expected, expected), "{found:?}");
        assert_eq!(finding(&found, "messages_per_s").a.map(|of_a| of_a.least), Some(1_000.0));
        // Metrics that intervals do not have are known from one run each, which decides nothing.
        let cpu = finding(&found, "cpu_per_message");
        assert_eq!((cpu.verdict, cpu.ratio), (Some(ComparisonVerdict::Undecided), Some(1.0)));
        assert_eq!(cpu.why.as_deref(), Some("available for whole runs only"));
    }
    let short = single(&with_intervals(23, 1.0, &[], 1), &with_intervals(23, 9.0, &[], 2));
    assert_eq!(supported(&short, "p99"), ComparisonVerdict::Undecided);
    assert_eq!(
        finding(&short, "p99").why.as_deref(),
        Some("a confidence interval needs 24 slices, but there are 23")
    );
}

#[test]
fn p99_is_computed_over_the_run_and_not_over_its_median_second() {
    // A quarter of the seconds stall, which the median second does not show.
    let stalled: Vec<usize> = (0..40).step_by(4).collect();
    let (a, b) = (with_intervals(40, 10.0, &[], 3), with_intervals(40, 10.0, &stalled, 4));
    let found = single(&a, &b);
    let p99 = finding(&found, "p99");
    assert!(p99.b.is_some_and(|of_b| (460e6..470e6).contains(&of_b.median)), "{p99:?}");
    assert_eq!(supported(&found, "p99"), ComparisonVerdict::Worse, "{found:?}");
    // The stalled seconds move the median as well, by 14 %.
    assert_eq!(supported(&found, "p50"), ComparisonVerdict::SlightlyWorse, "{found:?}");
    // One stalled second may be due to the machine: it is visible, and decides nothing.
    let found = single(&a, &with_intervals(40, 10.0, &[20], 4));
    let p99 = finding(&found, "p99");
    assert!(p99.b.is_some_and(|of_b| (460e6..470e6).contains(&of_b.median)), "{p99:?}");
    assert_eq!(supported(&found, "p99"), ComparisonVerdict::Undecided, "{p99:?}");
}

#[test]
fn records_without_interval_histograms_report_why_there_is_no_interval() {
    let without = |seed| {
        let mut one = with_intervals(24, 1.0, &[], seed);
        for interval in one["intervals"].as_array_mut().expect("intervals") {
            interval.as_object_mut().expect("an object").remove("response_histogram");
        }
        one
    };
    let found = single(&without(1), &without(2));
    assert_eq!(finding(&found, "p99").why.as_deref(), Some("the records have no histograms per interval"));
    assert_eq!(
        (supported(&found, "p99"), supported(&found, "messages_per_s")),
        (ComparisonVerdict::Undecided, ComparisonVerdict::Same)
    );
}

/// The number of 200 comparisons of ten pairs each, on machines whose speed changes, that report a difference in some
/// metric.
fn count_differences(factor: f64) -> usize {
    let is_told = |seed: &u64| {
        let (a, b) = in_turn(10, factor, 9_000 + seed);
        let found = compared(&a, &b);
        found.metrics.iter().any(|finding| {
            !matches!(finding.verdict, Some(ComparisonVerdict::Same | ComparisonVerdict::Undecided))
        })
    };
    (0..200).filter(is_told).count()
}

#[test]
fn equal_targets_differ_in_at_most_one_comparison_of_twenty() {
    // Three standard deviations above the expected number.
    let times = count_differences(1.0);
    assert!(times <= 20, "{times} of 200");
    assert_eq!(count_differences(1.05), 200);
}

#[test]
fn allowed_flaws_are_not_part_of_the_load() {
    let (a, mut b) = (run(0, 1.0, 1.0), run(10, 1.0, 1.0));
    for (name, value) in
        [("allow_saturated", json!(true)), ("allow", json!(["lost"])), ("max_lateness_s", json!(0.1))]
    {
        b["config"][name] = value;
    }
    let mut a = a;
    for (name, value) in
        [("allow_saturated", json!(false)), ("allow", json!([])), ("max_lateness_s", json!(0.001))]
    {
        a["config"][name] = value;
    }
    assert!(compared(&[a], &[b]).differences.is_empty());
}

#[test]
fn differences_of_options_and_environment_are_reported() {
    let (a, b) = (run(0, 1.0, 1.0), run(10, 1.0, 1.0));
    let mut other = b.clone();
    other["config"]["connections"] = json!(20);
    other["config"]["duration_s"] = json!(20.0);
    other["environment"]["kernel"] = json!("6.2");
    let found = compared(std::slice::from_ref(&a), &[other]);
    assert_eq!(found.differences, ["connections is 10 in A and 20 in B"]);
    let text = found.warnings.join("\n");
    assert!(text.contains("kernel is \"6.1\"") && text.contains("duration_s is 10.0"), "{text}");
    let mut newer = b.clone();
    newer["config"]["burst"] = json!(null);
    let found = compared(std::slice::from_ref(&a), &[newer]);
    assert!(found.differences.is_empty(), "additional members are not a difference: {found:?}");
    let mut late = b.clone();
    late["generator"]["saturated"] = json!(true);
    late["integrity"]["lost"] = json!(2);
    let text = compared(std::slice::from_ref(&a), &[late]).warnings.join("\n");
    assert!(text.contains("1 of 1 runs of B measured a generator that was saturated"), "{text}");
    assert!(text.contains("lost or damaged"), "{text}");
    let mut broadcast = b;
    broadcast["config"]["mode"] = json!("broadcast");
    let refused = compare(&[a], &[broadcast], &options()).expect_err("other modes");
    assert_eq!(refused, "nothing to compare: A has echo, B broadcast");
}

#[test]
fn loads_are_compared_each_with_its_own() {
    let mut runs = Vec::new();
    for (at, mode) in ["echo", "broadcast"].into_iter().enumerate() {
        let mut one = run(at, 1.0 + at as f64, 1.0);
        one["config"]["mode"] = json!(mode);
        runs.push(one);
    }
    let all = compare(&runs, &runs[1..], &options()).expect("broadcast is in both");
    assert_eq!((all.len(), all[0].mode.as_str()), (1, "broadcast"));
    assert!(all[0].warnings.iter().any(|line| line.contains("only A has runs of this load: echo")));
}

#[test]
fn a_metric_of_one_side_only_decides_nothing() {
    let (a, mut b) = in_turn(8, 1.0, 6);
    for one in &mut b {
        one["server"] = json!(null);
    }
    let found = compared(&a, &b);
    let cpu = finding(&found, "cpu_per_message");
    assert_eq!((cpu.verdict, cpu.b), (Some(ComparisonVerdict::Undecided), None));
    assert_eq!(cpu.why.as_deref(), Some("only A has this metric"));
    let nobody: Vec<Value> = a
        .iter()
        .cloned()
        .map(|mut one| {
            one["server"] = json!(null);
            one
        })
        .collect();
    assert!(compared(&nobody, &b).metrics.iter().all(|finding| finding.metric != "cpu_per_message"));
}

#[test]
fn repetitions_of_one_target_report_their_spread() {
    let runs: Vec<Value> = (0..7).map(|at| run(at, 1.0 + at as f64, 500.0)).collect();
    let all = spread(&runs, &shown());
    let [found] = &all[..] else { panic!("{all:?}") };
    assert_eq!((found.a.runs, found.b.is_none()), (7, true));
    let p99 = finding(found, "p99").a.expect("known");
    assert_eq!((p99.least, p99.median, p99.most), (1e6, 4e6, 7e6));
    assert!(p99.low.is_some_and(|low| (1e6..4e6).contains(&low)));
    assert!(p99.high.is_some_and(|high| high > 4e6 && high <= 7e6));
    assert_eq!(finding(found, "p99").verdict, None);
    assert!(spread(&runs[..1], &shown()).is_empty());
    let few = spread(&runs[..3], &shown());
    assert_eq!(
        finding(&few[0], "p99").why.as_deref(),
        Some("a confidence interval needs 6 runs, but there are 3")
    );
}

/// A run at the lower end of a search with this answer.
fn search(at_s: usize, low: Option<u64>, high: Option<u64>) -> Value {
    let mut one = run(at_s, 1.0 + at_s as f64, 1_000.0);
    one["config"]["rate"] = json!(low.or(high));
    one["search"] = json!({"objective": "p99<2ms", "axis": "rate", "low": low, "high": high, "max_rate": low, "confidence": 0.95});
    one
}

#[test]
fn searches_are_compared_by_the_intervals_of_their_answers() {
    let of = |a: (Option<u64>, Option<u64>), b: (Option<u64>, Option<u64>)| {
        compared(&[search(0, a.0, a.1)], &[search(10, b.0, b.1)])
    };
    let judged = metrics(&JUDGED).expect("these exist");
    let both = |low, high| (Some(low), Some(high));
    for (a, b, verdict) in [
        (both(18_400, 19_300), both(9_000, 9_400), ComparisonVerdict::Worse),
        (both(9_000, 9_400), both(18_400, 19_300), ComparisonVerdict::Better),
        // The middles differ by a fifth, and the intervals overlap.
        (both(10_000, 12_200), both(12_000, 14_600), ComparisonVerdict::Undecided),
        (both(10_000, 10_100), both(9_800, 9_950), ComparisonVerdict::SlightlyWorse),
        (both(10_000, 10_100), both(10_050, 10_150), ComparisonVerdict::Same),
        // The generator was the limit of one, or no load held.
        ((Some(20_000), None), both(5_000, 5_100), ComparisonVerdict::Worse),
        ((Some(20_000), None), both(20_100, 20_200), ComparisonVerdict::Undecided),
        (both(5_000, 5_100), (None, Some(1_000)), ComparisonVerdict::Worse),
        (both(5_000, 5_100), (Some(20_000), None), ComparisonVerdict::Better),
        ((Some(5_000), None), (Some(9_000), None), ComparisonVerdict::Undecided),
        ((None, None), both(1, 2), ComparisonVerdict::Undecided),
    ] {
        let found = of(a, b);
        assert_eq!(
            (found.basis, word(&found, "capacity")),
            (Basis::Searches, verdict),
            "{a:?} {b:?}: {found:?}"
        );
        assert!((found.confidence - 0.9).abs() < 1e-9, "both may be wrong");
        let is_worse = worse(&found, &judged).any(|finding| finding.metric == "capacity");
        assert_eq!(is_worse, verdict == ComparisonVerdict::Worse);
        let capacity = finding(&found, "capacity");
        let is_closed = capacity.ratio_low.is_some() && capacity.ratio_high.is_some();
        assert_eq!(capacity.why.is_none(), is_closed, "{capacity:?}");
    }
    let found = of(both(18_400, 19_300), both(9_000, 9_400));
    assert_eq!(finding(&found, "capacity").worse_by().as_deref(), Some("0.466 to 0.511 times that of"));
    let found = of((Some(20_000), None), both(5_000, 5_100));
    assert_eq!(finding(&found, "capacity").worse_by().as_deref(), Some("at most 0.255 times that of"));
}

#[test]
fn figures_at_the_lower_ends_of_searches_are_shown_and_decide_nothing() {
    // Its p99 is eleven times as high, at three times the load.
    let (a, b) = (search(0, Some(5_000), Some(5_200)), search(10, Some(15_000), Some(15_500)));
    let found = single(&a, &b);
    assert!(found.differences.is_empty(), "the rate is the answer: {found:?}");
    assert_eq!(
        (word(&found, "p99"), word(&found, "capacity")),
        (ComparisonVerdict::Undecided, ComparisonVerdict::Better)
    );
    assert!(finding(&found, "p99").ratio.is_some_and(|ratio| ratio > 10.0), "{found:?}");
    assert!(worse(&found, &metrics(&JUDGED).expect("these exist")).next().is_none());
    for (field, value) in [("objective", "p99<1ms"), ("axis", "connections")] {
        let mut other = b.clone();
        other["search"][field] = json!(value);
        let found = compared(std::slice::from_ref(&a), &[other]);
        assert_eq!(found.differences.len(), 1, "{field}: {found:?}");
    }
    // Connections are the load of such a search.
    let (mut a, mut b) = (a, b);
    for (one, connections) in [(&mut a, 100), (&mut b, 300)] {
        one["search"]["axis"] = json!("connections");
        one["config"]["connections"] = json!(connections);
    }
    assert!(compared(&[a], &[b]).differences.is_empty());
}
