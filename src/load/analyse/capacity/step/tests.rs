//! Knees of curves, and evaluations of runs with known parts of response times.

use std::time::Duration;

use super::*;
use crate::measure::{Quantiles, Tally, encode};
use crate::plan::workload::tests::workload;
use crate::plan::{MAX_LATENESS_DEFAULT, Mode, Pace};
use crate::record::tests::{outcome, record};
use crate::record::time_series::TimeSeries;

fn step(rate: u64, p99_ns: u64, limit: Option<Limit>) -> SearchStep {
    let held = limit.is_none();
    SearchStep {
        rate,
        messages_per_s: rate as f64,
        held,
        p50_ns: 1,
        p99_ns,
        p999_ns: p99_ns,
        limit,
        ..SearchStep::default()
    }
}

#[test]
fn the_knee_is_the_rate_above_which_the_tail_grows() {
    // The p99 of a single server with exponential arrivals and service times (M/M/1) at half its capacity is twice that
    // without load.
    let curve: Vec<SearchStep> =
        (1..20).map(|at| step(at * 500, 4_605_000_000 / (10_000 - at * 500), None)).collect();
    // 1 / (10,000 - r) is twice 1 / 9,500 at r = 5,250.
    assert_eq!(knee(&curve), Some(5_000));
    // A hockey stick: flat, slightly slower at low load, and steep at the end. A rate that was tried twice counts once.
    let stick = [
        step(1_000, 900, None),
        step(2_000, 500, None),
        step(4_000, 510, None),
        step(8_000, 2_000, Some(Limit::Objective)),
        step(8_000, 700, None),
        step(16_000, 90_000, Some(Limit::Objective)),
        step(16_000, 80_000, Some(Limit::Objective)),
        step(12_000, 990, None),
        step(14_000, 1_000, None),
    ];
    assert_eq!(knee(&stick), Some(12_000));
    // Lost messages do not count as fast.
    let lossy = [step(10, 500, None), step(20, 500, None), step(40, 400, Some(Limit::Rate))];
    assert_eq!(knee(&lossy), Some(20));
}

#[test]
fn a_curve_that_does_not_bend_has_no_knee() {
    assert_eq!(knee(&[]), None);
    assert_eq!(knee(&[step(10, 500, None)]), None);
    assert_eq!(knee(&[step(10, 500, None), step(20, 600, None), step(40, 999, None)]), None);
    assert_eq!(knee(&[step(10, 500, Some(Limit::Rate)), step(5, 500, Some(Limit::Integrity))]), None);
    let late = [step(10, 500, None), step(20, 90_000, Some(Limit::Generator))];
    assert_eq!(knee(&late), None, "the generator's lateness is not the server's");
}

#[test]
fn a_published_message_is_due_at_every_reading_subscriber() {
    assert!((workload(Mode::Echo).deliveries_per_message() - 1.0).abs() < 1e-12);
    // Topic 0 has 2 publishers and 4 subscribers, topic 1 has 1 and 3.
    let load = workload(Mode::Broadcast);
    assert!((load.deliveries_per_message() - 11.0 / 3.0).abs() < 1e-12);
    let load = Workload { stalled: 2, ..load };
    assert!((load.deliveries_per_message() - 8.0 / 3.0).abs() < 1e-12);
}

#[test]
fn a_rate_is_kept_if_nearly_all_of_it_arrives() {
    let even = workload(Mode::Echo);
    assert!(is_kept(991.0, 1_000.0, 1.0, &even) && !is_kept(989.0, 1_000.0, 1.0, &even));
    let poisson = Workload { arrivals: Arrivals::Poisson, ..even };
    // Four standard deviations of 1,000 are 126.
    assert!(is_kept(870.0, 1_000.0, 1.0, &poisson) && !is_kept(850.0, 1_000.0, 1.0, &poisson));
    assert!(!is_kept(970.0, 1_000.0, 100.0, &poisson));
}

/// The parts of a message's response time, in milliseconds.
#[derive(Clone, Copy)]
struct Parts {
    /// Lateness of the generator.
    late: u64,
    /// Wait for room in the connection.
    waited: u64,
    /// Service time.
    service: u64,
}

/// A run of 10,000 messages in a second, with these parts by message number.
fn measured(parts: impl Fn(u64) -> Parts, max_lateness: Duration) -> Outcome {
    const MS: u64 = 1_000_000;
    let mut tally = Tally::default();
    for number in 0..10_000 {
        let Parts { late, waited, service } = parts(number);
        tally.latency.whole.lateness.record(late * MS).expect("within bounds");
        tally.latency.whole.service.record(service * MS).expect("within bounds");
        tally.latency.whole.response.record((late + waited + service) * MS).expect("within bounds");
    }
    let mut record = record();
    record.duration_s = 1.0;
    record.messages_per_s = 10_000.0;
    record.response_ns = Quantiles::of(&tally.latency.whole.response);
    record.service_ns = Quantiles::of(&tally.latency.whole.service);
    record.response_histogram = Some(encode(&tally.latency.whole.response));
    record.service_histogram = Some(encode(&tally.latency.whole.service));
    record.generator = crate::record::Generator::of(&tally, max_lateness);
    record.generator.threads = vec![crate::record::GeneratorThread { cpu_share: 0.99, ..idle_thread() }];
    Outcome { response: tally.latency.whole.response.into(), ..outcome(record) }
}

fn idle_thread() -> crate::record::GeneratorThread {
    crate::record::GeneratorThread::of(&Tally::default(), None)
}

fn evaluated(outcome: &Outcome, objective: &str) -> SearchStep {
    let objective: Objective = objective.parse().expect(objective);
    let load = Workload { pace: Pace::Rate(10_000), ..workload(Mode::Echo) };
    let step = evaluate(outcome, &load, Vec::new(), &objective);
    assert_eq!((step.held, step.why.is_none()), (step.limit.is_none(), step.limit.is_none()), "{step:?}");
    step
}

#[test]
fn a_step_that_meets_the_objective_passes_however_late_the_generator_was() {
    let late = |_| Parts { late: 5, waited: 0, service: 1 };
    let outcome = measured(late, MAX_LATENESS_DEFAULT);
    assert!(outcome.record.generator.saturated);
    for objective in ["p99<10ms", "p97.5<7ms && max<7ms", "lost==0", "p99<10ms && service.p99<2ms"] {
        let step = evaluated(&outcome, objective);
        assert_eq!((step.held, step.limit), (true, None), "{objective}: {step:?}");
        assert!((6_000_000..6_010_000).contains(&step.p99_ns), "its lateness is in it: {step:?}");
    }
}

#[test]
fn the_limit_follows_from_the_parts_of_the_response_time() {
    let bound = MAX_LATENESS_DEFAULT;
    let late = |_| Parts { late: 5, waited: 0, service: 1 };
    let sometimes_late =
        |number: u64| Parts { late: 5 * u64::from(number.is_multiple_of(50)), waited: 0, service: 1 };
    let slow = |_| Parts { late: 5, waited: 0, service: 30 };
    let no_room = |_| Parts { late: 5, waited: 500, service: 1 };
    let no_room_for_some =
        |number: u64| Parts { waited: 500 * u64::from(number.is_multiple_of(10)), ..late(number) };
    for (name, outcome, objective, limit) in [
        ("late", measured(late, bound), "p99<2ms", Limit::Generator),
        ("late, at any percentile", measured(late, bound), "p97.5<2ms", Limit::Generator),
        ("late, at the mean", measured(late, bound), "mean<2ms", Limit::Generator),
        ("late, and something else fails", measured(late, bound), "p99<2ms && messages<9", Limit::Objective),
        ("now and then late", measured(sometimes_late, bound), "p99<2ms", Limit::Generator),
        ("as late as it may", measured(late, Duration::from_millis(20)), "p99<2ms", Limit::Objective),
        ("a slow server", measured(slow, bound), "p99<10ms", Limit::Objective),
        ("a slow server and late", measured(slow, bound), "p99<20ms", Limit::Objective),
        ("a server that takes no more", measured(no_room, bound), "p99<10ms", Limit::Objective),
        ("one that takes some no more", measured(no_room_for_some, bound), "p97.5<10ms", Limit::Objective),
        ("one that takes some no more", measured(no_room_for_some, bound), "p50<2ms", Limit::Generator),
    ] {
        let step = evaluated(&outcome, objective);
        assert_eq!(step.limit, Some(limit), "{name}: {objective}: {step:?}");
        let why = step.why.expect("it is told");
        assert_eq!(why.contains("because the generator was 5.0"), limit == Limit::Generator, "{name}: {why}");
    }
}

#[test]
fn a_missed_rate_is_the_generators_fault_if_its_lateness_explains_it() {
    let arrived = |late_ms: u64, share: f64| {
        let parts = move |_| Parts { late: late_ms, waited: 0, service: 1 };
        let mut outcome = measured(parts, MAX_LATENESS_DEFAULT);
        outcome.record.messages_per_s = 10_000.0 * share;
        evaluated(&outcome, "p99<10s")
    };
    for (late_ms, share, limit) in [
        (0, 0.995, None),
        (300, 0.995, None),
        (0, 0.9, Some(Limit::Rate)),
        // 300 ms of lateness in a second explain a missing tenth, 5 ms do not.
        (300, 0.9, Some(Limit::Generator)),
        (5, 0.9, Some(Limit::Rate)),
        (300, 0.5, Some(Limit::Rate)),
    ] {
        let step = arrived(late_ms, share);
        assert_eq!(step.limit, limit, "{late_ms} ms late, {share}: {step:?}");
        let text = step.why.unwrap_or_default();
        assert_eq!(text.contains("/s of 10,000/s arrived"), limit.is_some(), "{text}");
        assert_eq!(text.contains("and the generator was"), limit == Some(Limit::Generator), "{text}");
    }
}

#[test]
fn errors_and_interruptions_take_precedence_over_the_objective() {
    let mut outcome = measured(|_| Parts { late: 5, waited: 0, service: 1 }, MAX_LATENESS_DEFAULT);
    outcome.record.integrity.lost = 3;
    (outcome.record.generator.unsent, outcome.record.generator.unsent_gone) = (1_200, 1_200);
    let step = evaluated(&outcome, "p99<2ms");
    assert_eq!((step.limit, step.why.as_deref()), (Some(Limit::Integrity), Some("3 lost, 1,200 unsent")));
    outcome.record.interrupted = true;
    assert_eq!(evaluated(&outcome, "p99<10ms").limit, Some(Limit::Interrupted));
    // A server that takes too little is not broken: the rate is too high for it.
    (outcome.record.interrupted, outcome.record.integrity.lost) = (false, 0);
    outcome.record.generator.unsent_gone = 0;
    let step = evaluated(&outcome, "p99<10ms");
    assert_eq!((step.limit, step.why.as_deref()), (Some(Limit::Rate), Some("1,200 unsent")));
}

#[test]
fn one_burst_of_losses_does_not_decide_a_load() {
    let mut outcome = measured(|_| Parts { late: 0, waited: 0, service: 1 }, MAX_LATENESS_DEFAULT);
    outcome.record.timeline = Some(TimeSeries {
        arrived: vec![1; BLOCKS],
        response_histograms: vec![None; BLOCKS],
        ..TimeSeries::default()
    });
    outcome.record.integrity.lost = 3;
    let load = Workload { pace: Pace::Rate(10_000), ..workload(Mode::Echo) };
    for (objective, limit) in [("p99<10ms", Limit::Integrity), ("p99<10ms, lost=0", Limit::Integrity)] {
        let objective: Objective = objective.parse().expect("an objective");
        let step = evaluate(&outcome, &load, Vec::new(), &objective);
        assert_eq!(step.limit, Some(limit));
        let found = evidence(&outcome, &load, &step, &objective);
        let mut search = super::super::search::CapacitySearch::new(10_000, (10_000, 10_000), 0.05);
        let full = super::super::search::NextStep { load: 10_000, times: Some(1) };
        search.tell(full, &found);
        assert_eq!(search.high(), None, "one step");
        search.tell(full, &found);
        assert_eq!(search.high(), Some(10_000), "a second one");
    }
}

#[test]
fn a_generator_that_is_late_without_work_was_not_given_a_cpu() {
    let mut outcome = measured(|_| Parts { late: 5, waited: 0, service: 1 }, MAX_LATENESS_DEFAULT);
    outcome.record.generator.threads = vec![idle_thread()];
    assert_eq!(evaluated(&outcome, "p99<2ms").limit, Some(Limit::Host));
    assert_eq!(evaluated(&outcome, "p99<10ms").limit, None, "it held nevertheless");
    let load = Workload { pace: Pace::Rate(10_000), ..workload(Mode::Echo) };
    let stolen = vec![CpuUse { cpu: 0, busy: 0.5, stolen: 0.2 }];
    let slow = measured(|_| Parts { late: 0, waited: 0, service: 30 }, MAX_LATENESS_DEFAULT);
    let objective: Objective = "p99<10ms".parse().expect("an objective");
    let step = evaluate(&slow, &load, stolen, &objective);
    assert_eq!(step.limit, Some(Limit::Host));
    assert!(evidence(&slow, &load, &step, &objective).blocks.is_empty(), "it says nothing");
}

#[test]
fn a_queue_that_grows_is_not_steady() {
    let blocks =
        |share: fn(f64) -> f64| -> Vec<f64> { (0..12).map(|at| share(f64::from(at)).ln()).collect() };
    assert!(is_rising(&blocks(|at| 0.1 + 0.05 * at)), "soon it is beyond the objective");
    assert!(!is_rising(&blocks(|at| 0.1 + 0.001 * at)), "not so soon");
    assert!(!is_rising(&blocks(|at| 0.5 + 0.1 * (at % 3.0))), "it goes up and down");
    assert!(!is_rising(&blocks(|at| 0.9 - 0.05 * at)) && !is_rising(&[]));
}
