//! Runs that are watched, without a clock: their progress is that of known messages.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::measure::LiveResults;
use crate::plan::mode::Mode;
use crate::plan::workload::tests::workload;
use echoring_proto::limits::{MILLISECOND, SECOND};

/// Shows a moment of a run to the watch. Returns whether the run is to end.
fn show(watch: &mut UntilWatch, stage: RunStage, elapsed_ms: u64, live: &LiveResults) -> bool {
    let (load, end) = (workload(Mode::Echo), AtomicBool::new(false));
    watch.observe(&RunProgress {
        load: &load,
        target: "ws://h",
        stage,
        elapsed: Duration::from_millis(elapsed_ms),
        open: 1,
        failed: 0,
        messages: 0,
        live,
        awaited: &[],
        end: Some(&end),
        traced: &[],
    });
    end.into_inner()
}

/// A second more: 1,000 messages between 1 and 2 ms, all values alike.
fn add_second(live: &mut LiveResults) {
    (0..1_000).for_each(|message| live.settled.saturating_record(MILLISECOND + message * 1_000));
}

fn watch(goals: &[&str]) -> UntilWatch {
    UntilWatch::new(goals.iter().map(|goal| goal.parse().expect("a goal")).collect())
}

#[test]
fn a_run_ends_at_the_first_look_at_which_all_goals_are_reached() {
    let (mut watch, mut live) = (watch(&["p50±5%", "p99 +- 1 %"]), LiveResults::default());
    show(&mut watch, RunStage::WarmingUp, 900, &live);
    for second in 1..=60 {
        add_second(&mut live);
        let is_over = show(&mut watch, RunStage::Measuring, second * 1_000 + 500, &live);
        assert_eq!(is_over, second == 60, "{second}");
    }
    add_second(&mut live);
    show(&mut watch, RunStage::Draining, 100, &live);
    show(&mut watch, RunStage::Done, 0, &live);
    let [done] = &watch.done[..] else { panic!("one run: {watch:?}") };
    assert_eq!((done.unreached, done.at_s, done.blocks, done.looks), (0, 60, 30, 1));
    let [median, high] = &done.goals[..] else { panic!("two goals") };
    assert_eq!((median.expression.as_str(), high.expression.as_str()), ("p50±5%", "p99 +- 1 %"));
    for (goal, truth) in [(median, 1_500_000_u64), (high, 1_990_000)] {
        let (low, high) = (goal.low_ns.expect("known"), goal.high_ns.expect("known"));
        assert!(low <= truth + 2_000 && truth <= high + 2_000, "{goal:?}");
        let [look] = &goal.course[..] else { panic!("one look: {goal:?}") };
        assert_eq!((look.at_s, Some(look.low_ns), Some(look.high_ns)), (60, goal.low_ns, goal.high_ns));
        assert!(goal.reached && goal.width.is_some_and(|width| width < 0.01), "{goal:?}");
    }
}

#[test]
fn a_run_goes_on_while_outstanding_messages_may_be_the_slow_ones() {
    let (mut watch, mut live) = (watch(&["p50±5%"]), LiveResults::default());
    for second in 1..=76 {
        add_second(&mut live);
        // More than all others together, at the first look only.
        live.outstanding.reset();
        live.outstanding.saturating_record_n(SECOND, if second == 60 { 70_000 } else { 0 });
        let is_over = show(&mut watch, RunStage::Measuring, second * 1_000 + 500, &live);
        assert_eq!(is_over, second == 76, "{second}");
    }
}

#[test]
fn a_run_that_is_too_short_has_no_interval_and_the_next_begins_anew() {
    let mut watch = watch(&["p99±5%"]);
    for _ in 0..2 {
        show(&mut watch, RunStage::Connecting, 10, &LiveResults::default());
        let mut live = LiveResults::default();
        for second in 1..=6 {
            add_second(&mut live);
            assert!(!show(&mut watch, RunStage::Measuring, second * 1_000 + 500, &live));
        }
        show(&mut watch, RunStage::Done, 0, &live);
    }
    assert_eq!(watch.done.len(), 2);
    for done in &watch.done {
        assert_eq!(
            (done.unreached, done.at_s, done.goals[0].value_ns, done.goals[0].reached),
            (1, 6, None, false)
        );
    }
}

#[test]
fn long_runs_have_longer_blocks() {
    let (mut sequence, mut block) = (Sequence::default(), crate::measure::histogram());
    (0..1_000).for_each(|message| block.saturating_record(MILLISECOND + message * 1_000));
    let mut looks = 0;
    while sequence.seconds < 4_800 {
        assert!(sequence.blocks() < 600);
        if sequence.add(&block) {
            looks = sequence.looks + 1;
            sequence.look();
        }
    }
    assert_eq!((sequence.seconds, looks), (4_800, 20));
    let found = sequence.quantile(0.9, 0.001).expect("enough blocks");
    assert!((found.value / 1_900_000.0 - 1.0).abs() < 2e-3 && width(&found) < 2e-3, "{found:?}");
}

#[test]
fn a_goal_is_a_quantile_and_a_width() {
    for (words, share, wide) in
        [("p99±5%", 0.99, 0.05), ("response.p99.9+-12.5%", 0.999, 0.125), ("p97.5 ± 1 %", 0.975, 0.01)]
    {
        let goal: Goal = words.parse().expect(words);
        assert_eq!((goal.share_below, goal.to_string().as_str()), (Some(share), words));
        assert!((goal.width - wide).abs() < 1e-12, "{words}");
    }
    for wrong in [
        "p99",
        "p99±",
        "p99±5",
        "±5%",
        "p99±0.4%",
        "p99±51%",
        "p99±-5%",
        "lost±5%",
        "reach±5%",
        "max_rate±5%",
    ] {
        assert!(wrong.parse::<Goal>().is_err(), "{wrong}");
    }
    for words in ["max±5%", "mean±5%", "service.p99±5%", "p0±5%", "messages_per_s±5%"] {
        assert!(!words.parse::<Goal>().expect(words).is_of_one_run(), "only pairs have an interval: {words}");
    }
}
