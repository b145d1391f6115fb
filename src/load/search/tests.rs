//! Searches of servers whose limits are known, and runs whose response times have known parts, judged.

use super::*;
use crate::load::distribution::encode;
use crate::load::plan::tests::workload;
use crate::load::record::Quantiles;
use crate::load::record::tests::{outcome, record};
use crate::load::statistics::Random;
use crate::load::tally::Tally;
use crate::load::{report, run};

/// p99 of the response time of a server that takes `capacity` messages a second one after the other, arrivals and
/// service times being exponential (M/M/1): exponential itself, with the mean 1 / (capacity - rate).
fn p99_s(rate: u64, capacity: f64) -> f64 {
    let spare = capacity - rate as f64;
    if spare <= 0.0 { f64::INFINITY } else { 100_f64.ln() / spare }
}

/// Searches a server, of which `judge` says what keeps a rate from being held.
fn search(mut search: Search, mut judge: impl FnMut(u64) -> Option<Limit>) -> (Search, usize) {
    let mut runs = 0;
    while let Some(rate) = search.next_rate() {
        search.tell(rate, judge(rate));
        runs += 1;
    }
    (search, runs)
}

#[test]
fn the_highest_rate_is_found_within_the_precision_and_in_few_runs() {
    let mut random = Random::new(11);
    for _ in 0..2_000 {
        let capacity = 10_f64.powf(2.0 + 6.0 * random.unit());
        let bound_s = 100_f64.ln() / capacity * (1.2 + 50.0 * random.unit());
        let start = 10_f64.powf(8.0 * random.unit()) as u64;
        let precision = 0.01 + 0.2 * random.unit();
        let exact = capacity - 100_f64.ln() / bound_s;
        let begun = Search::new(start, (1, RATE_MAX), precision);
        let (over, runs) =
            search(begun, |rate| (p99_s(rate, capacity) > bound_s).then_some(Limit::Objective));
        let found = over.max_rate().expect("some rate holds") as f64;
        assert!(found <= exact * (1.0 + 1e-9), "{found} of {exact}");
        assert!(found * (1.0 + precision) + 1.0 >= exact - 1.0, "{found} of {exact}, {precision}");
        assert_eq!(over.limited_by(), Limit::Objective);
        // Doublings or halvings, these repeated, and the bisection with its repetitions.
        let far = (exact / start as f64).log2().abs().ceil();
        let most = 2.0 * far + 4.0 + 2.0 * (1.0 / precision).log2().ceil();
        assert!(runs as f64 <= most && runs < STEPS_MAX, "{runs} runs of {most}");
    }
}

#[test]
fn one_bad_run_is_not_believed() {
    let mut random = Random::new(12);
    for _ in 0..500 {
        let exact = 1_000 + random.below(1_000_000) as u64;
        let mut disturbed = None;
        let (over, _) = search(Search::new(1_000, (1, RATE_MAX), 0.05), |rate| {
            // The machine is busy elsewhere in every third run, but not twice in a row.
            if random.below(3) == 0 && disturbed != Some(rate) {
                disturbed = Some(rate);
                return Some(Limit::Objective);
            }
            disturbed = None;
            (rate > exact).then_some(Limit::Objective)
        });
        let found = over.max_rate().expect("some rate holds");
        assert!(found <= exact && found as f64 * 1.05 + 1.0 >= exact as f64, "{found} of {exact}");
    }
}

#[test]
fn a_generator_that_is_too_late_ends_the_search_upward_and_is_named() {
    let (over, _) =
        search(Search::new(1_000, (1, RATE_MAX), 0.05), |rate| (rate > 70_000).then_some(Limit::Generator));
    assert_eq!(over.limited_by(), Limit::Generator);
    assert!(over.max_rate().is_some_and(|rate| (66_000..=70_000).contains(&rate)), "{over:?}");
}

#[test]
fn a_search_has_an_end_in_every_case() {
    let (over, runs) = search(Search::new(1_000, (1, RATE_MAX), 0.05), |_| None);
    assert_eq!((over.max_rate(), over.limited_by()), (Some(RATE_MAX), Limit::Bound));
    assert!(runs <= 21, "{runs}");
    let (over, runs) = search(Search::new(1_000, (84, RATE_MAX), 0.05), |_| Some(Limit::Rate));
    assert_eq!((over.max_rate(), over.limited_by()), (None, Limit::Rate));
    assert!(runs <= 10, "{runs}");
    // Noise that follows nothing.
    let mut random = Random::new(13);
    for _ in 0..200 {
        let start = 1 + random.below(RATE_MAX as usize) as u64;
        let limit = |yes: bool| yes.then_some(Limit::Objective);
        let (_, runs) = search(Search::new(start, (1, RATE_MAX), 0.005), |_| limit(random.below(2) == 0));
        assert!(runs <= STEPS_MAX);
    }
}

fn step(rate: u64, p99_ns: u64, limit: Option<Limit>) -> Step {
    let held = limit.is_none();
    Step { rate, messages_per_s: rate as f64, held, p50_ns: 1, p99_ns, p999_ns: p99_ns, limit, why: None }
}

#[test]
fn the_knee_is_where_the_tail_begins_to_grow() {
    // An M/M/1 server's p99 is twice that of no load at half of what it takes.
    let curve: Vec<Step> =
        (1..20).map(|at| step(at * 500, (p99_s(at * 500, 10_000.0) * 1e9) as u64, None)).collect();
    // 1 / (10,000 - r) is twice 1 / 9,500 at r = 5,250.
    assert_eq!(knee(&curve), Some(5_000));
    // A hockey stick: flat, somewhat slower while hardly used, and steep at the end. Twice tried counts once.
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
    // Messages that did not come back are not fast.
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
fn steps_are_long_enough_for_the_quantile() {
    let terms = |words: &str| Terms {
        objective: words.parse().expect(words),
        start: START_DEFAULT,
        precision: PRECISION_DEFAULT,
    };
    let asked = Duration::from_secs(5);
    assert_eq!(terms("p99<2ms").step_time(asked, 1_000), asked);
    assert_eq!(terms("p99.9<2ms").step_time(asked, 1_000), Duration::from_secs(10));
    assert_eq!(terms("p99.9<2ms").step_time(asked, 334), Duration::from_secs_f64(10_000.0 / 334.0));
    assert_eq!((terms("p99.9<2ms").least_rate(), terms("p99.9<2ms").least_start()), (334, 84));
    assert_eq!(terms("p99.99<2ms").step_time(asked, 10), STEP_TIME_MAX);
    assert_eq!((terms("p50<2ms").least_rate(), terms("p50<2ms").least_start()), (31, 1));
    let low = Terms { start: 100, ..terms("p99.9<2ms") };
    assert_eq!(low.least_rate(), 100, "there is no time for less");
}

#[test]
fn a_published_message_is_due_at_every_subscriber_that_reads() {
    assert!((workload(Mode::Echo).deliveries_per_message() - 1.0).abs() < 1e-12);
    // Topic 0 has 2 publishers and 4 subscribers, topic 1 has 1 and 3.
    let load = workload(Mode::Broadcast);
    assert!((load.deliveries_per_message() - 11.0 / 3.0).abs() < 1e-12);
    let load = Workload { stalled: 2, ..load };
    assert!((load.deliveries_per_message() - 8.0 / 3.0).abs() < 1e-12);
}

#[test]
fn a_rate_is_kept_when_next_to_all_of_it_arrives() {
    let even = workload(Mode::Echo);
    assert!(is_kept(991.0, 1_000.0, 1.0, &even) && !is_kept(989.0, 1_000.0, 1.0, &even));
    let poisson = Workload { arrivals: Arrivals::Poisson, ..even };
    // Four standard deviations of 1,000 are 126.
    assert!(is_kept(870.0, 1_000.0, 1.0, &poisson) && !is_kept(850.0, 1_000.0, 1.0, &poisson));
    assert!(!is_kept(970.0, 1_000.0, 100.0, &poisson));
}

/// Of what a message's response time is made, in milliseconds.
#[derive(Clone, Copy)]
struct Parts {
    /// By how much the generator came too late.
    late: u64,
    /// How long it waited for room in its connection.
    waited: u64,
    /// From when it was sent on.
    service: u64,
}

/// A run of 10,000 messages in a second, which are made of these parts by their numbers.
fn measured(parts: impl Fn(u64) -> Parts, max_lateness: Duration) -> Outcome {
    const MS: u64 = 1_000_000;
    let mut tally = Tally::new();
    for number in 0..10_000 {
        let Parts { late, waited, service } = parts(number);
        tally.lateness.record(late * MS).expect("within bounds");
        tally.service.record(service * MS).expect("within bounds");
        tally.response.record((late + waited + service) * MS).expect("within bounds");
    }
    let mut record = record();
    record.duration_s = 1.0;
    record.messages_per_s = 10_000.0;
    record.response_ns = Quantiles::of(&tally.response);
    record.service_ns = Quantiles::of(&tally.service);
    record.response_histogram = Some(encode(&tally.response));
    record.service_histogram = Some(encode(&tally.service));
    record.generator = report::describe_generator(&tally, max_lateness);
    Outcome { response: tally.response, ..outcome(record) }
}

fn judged(outcome: &Outcome, objective: &str) -> Step {
    let objective: Objective = objective.parse().expect(objective);
    let step = Step::judge(outcome, &workload(Mode::Echo), 10_000, &objective);
    assert_eq!((step.held, step.why.is_none()), (step.limit.is_none(), step.limit.is_none()), "{step:?}");
    step
}

#[test]
fn a_step_whose_response_times_meet_the_objective_is_proven_however_late_the_generator_was() {
    let late = |_| Parts { late: 5, waited: 0, service: 1 };
    let outcome = measured(late, run::MAX_LATENESS_DEFAULT);
    assert!(outcome.record.generator.saturated);
    for objective in ["p99<10ms", "p97.5<7ms && max<7ms", "lost==0", "p99<10ms && service.p99<2ms"] {
        let step = judged(&outcome, objective);
        assert_eq!((step.held, step.limit), (true, None), "{objective}: {step:?}");
        assert!((6_000_000..6_010_000).contains(&step.p99_ns), "its lateness is in it: {step:?}");
    }
}

#[test]
fn what_failed_is_named_by_what_the_response_time_is_made_of() {
    let bound = run::MAX_LATENESS_DEFAULT;
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
        let step = judged(&outcome, objective);
        assert_eq!(step.limit, Some(limit), "{name}: {objective}: {step:?}");
        let why = step.why.expect("it is told");
        assert_eq!(
            why.contains("because the generator came 5.0"),
            limit == Limit::Generator,
            "{name}: {why}"
        );
    }
}

#[test]
fn a_rate_that_was_not_kept_is_the_generators_where_it_came_too_late_for_it() {
    let arrived = |late_ms: u64, share: f64| {
        let parts = move |_| Parts { late: late_ms, waited: 0, service: 1 };
        let mut outcome = measured(parts, run::MAX_LATENESS_DEFAULT);
        outcome.record.messages_per_s = 10_000.0 * share;
        judged(&outcome, "p99<10s")
    };
    for (late_ms, share, limit) in [
        (0, 0.995, None),
        (300, 0.995, None),
        (0, 0.9, Some(Limit::Rate)),
        // Of a second 300 ms explain that a tenth is missing, and 5 ms do not.
        (300, 0.9, Some(Limit::Generator)),
        (5, 0.9, Some(Limit::Rate)),
        (300, 0.5, Some(Limit::Rate)),
    ] {
        let step = arrived(late_ms, share);
        assert_eq!(step.limit, limit, "{late_ms} ms late, {share}: {step:?}");
        let told = step.why.unwrap_or_default();
        assert_eq!(told.contains("/s of 10,000/s arrived"), limit.is_some(), "{told}");
        assert_eq!(told.contains("and the generator came"), limit == Some(Limit::Generator), "{told}");
    }
}

#[test]
fn what_went_wrong_and_an_interruption_go_before_the_objective() {
    let mut outcome = measured(|_| Parts { late: 5, waited: 0, service: 1 }, run::MAX_LATENESS_DEFAULT);
    outcome.record.integrity.lost = 3;
    outcome.record.generator.unsent_gone = 1_200;
    let step = judged(&outcome, "p99<2ms");
    assert_eq!((step.limit, step.why.as_deref()), (Some(Limit::Integrity), Some("3 lost, 1,200 unsent")));
    outcome.record.interrupted = true;
    assert_eq!(judged(&outcome, "p99<10ms").limit, Some(Limit::Interrupted));
}
