//! The loads of steps, and the words of answers.

use super::*;
use crate::plan::Mode;
use crate::plan::workload::tests::workload;

fn options(objective: &str, axis: Axis) -> CapacityOptions {
    CapacityOptions {
        objective: objective.parse().expect(objective),
        axis,
        precision: PRECISION_DEFAULT,
        max_duration: SEARCH_TIME_DEFAULT,
        connections_max: 500,
    }
}

#[test]
fn steps_are_long_enough_for_the_quantile() {
    let load = Workload { duration: STEP_TIME_DEFAULT, ..workload(Mode::Echo) };
    let length = |words: &str, rate, times| options(words, Axis::Rate).at(&load, rate, times).duration;
    assert_eq!(length("p99<2ms", 1_000, Some(1)), STEP_TIME_DEFAULT);
    assert_eq!(length("p99<2ms", 1_000, Some(2)), 2 * STEP_TIME_DEFAULT);
    assert_eq!(length("p99.9<2ms", 1_000, Some(1)), Duration::from_secs(20));
    assert_eq!(length("p99.99<2ms", 10, Some(1)), STEP_TIME_MAX);
    assert_eq!(length("p99<2ms", 10_000, None), QUICK);
    assert_eq!(length("p99<2ms", 500, None), Duration::from_secs(2));
    assert_eq!(options("p99.9<2ms", Axis::Rate).least_start(), 84);
}

#[test]
fn an_axis_varies_one_thing_and_keeps_the_others() {
    let load = Workload { pace: Pace::Rate(2_000), connections: 100, ..workload(Mode::Echo) };
    let at = |axis, value| {
        let step = options("p99<2ms", axis).at(&load, value, None);
        (step.pace.rate(), step.connections)
    };
    assert_eq!(at(Axis::Rate, 3_000), (Some(3_000), 100));
    assert_eq!(at(Axis::Connections, 250), (Some(5_000), 250), "each with the same rate");
    let load = Workload { pace: Pace::Rate(2_000), ..workload(Mode::Broadcast) };
    let step = options("p99<2ms", Axis::Subscribers).at(&load, 50, None);
    assert_eq!((step.pace.rate(), step.connections), (Some(2_000), 50 + load.publishers + load.stalled));
}

fn answer(limit: Option<Limit>, step: SearchStep, target: &str) -> SearchResult {
    let calm = step.cpus.iter().map(|cpu| CpuUse { busy: 0.9 * cpu.busy, ..*cpu }).collect();
    let server_cpu = step.server_cpu.map(|share| 0.9 * share);
    contrasted(limit, &SearchStep { cpus: calm, server_cpu, ..step.clone() }, &step, target)
}

/// The answer of a search whose steps were like these.
fn contrasted(limit: Option<Limit>, below: &SearchStep, step: &SearchStep, target: &str) -> SearchResult {
    let options = options("p99<50ms, lost=0", Axis::Rate);
    let mut search = CapacitySearch::new(18_437, (1, RATE_MAX), 0.05);
    // Everything above 19,030 fails.
    let mut steps = Vec::new();
    while let Some(next) = search.next_step() {
        let held = next.load <= 19_030;
        let limit = step.limit.filter(|_| !held);
        let blocks = vec![if held { -1.0 } else { 1.0 }; BLOCKS];
        search.tell(next, &search::Evidence { blocks, held: Some(held), limit });
        let like = if held { below } else { step };
        steps.push(SearchStep { rate: next.load, held, limit, ..like.clone() });
    }
    options.answer(&search, steps, limit, target)
}

#[test]
fn an_answer_is_one_sentence_with_its_doubt_and_its_reason() {
    let cpu = |cpu, busy| CpuUse { cpu, busy, stolen: 0.0 };
    let slow = SearchStep {
        limit: Some(Limit::Objective),
        why: Some("p99 is 80.0 ms".to_owned()),
        cpus: vec![cpu(0, 0.99), cpu(1, 0.4)],
        ..SearchStep::default()
    };
    let (local, remote) = ("ws://127.0.0.1:9001", "wss://example.org/");
    let found = answer(None, slow.clone(), local);
    assert_eq!(
        found.sentence("echo"),
        "this server holds 18,400 to 19,300 messages a second at p99<50ms, lost=0 (95 %); beyond that, CPU 0 is full"
    );
    assert_eq!(
        (found.next.as_deref(), found.limited_by, found.failure_text()),
        (None, Limit::Objective, None)
    );
    let beyond = |step: SearchStep, target| answer(None, step, target).beyond.expect("a reason");
    let with = |busy: [f64; 2]| SearchStep { cpus: vec![cpu(0, busy[0]), cpu(1, busy[1])], ..slow.clone() };
    assert_eq!(beyond(with([0.99, 0.97]), local), "all CPUs of this host are full");
    assert_eq!(
        beyond(with([0.5, 0.5]), local),
        "no CPU is full and p99 is 80.0 ms: the server waits for something else"
    );
    assert_eq!(beyond(with([0.99, 0.97]), remote), "p99 is 80.0 ms");
    let beside = SearchStep { server_cpu: Some(0.3), ..with([0.99, 0.97]) };
    assert_eq!(beyond(beside, local), "p99 is 80.0 ms, while other programs take 1.7 CPUs");
    let single = SearchStep { server_cpu: Some(0.99), ..with([0.9, 0.5]) };
    assert_eq!(
        beyond(single.clone(), local),
        "the server's process takes 1.0 CPUs, all that its threads can use"
    );
    // What was so at the highest load that held does not explain why a higher one fails.
    for same in
        [with([0.99, 0.97]), with([1.0, 0.3]), SearchStep { server_cpu: Some(2.0), ..with([1.0, 1.0]) }]
    {
        let found = contrasted(None, &same, &same, local).beyond.expect("a reason");
        assert!(
            found.ends_with(
                "no fuller than at the highest load that held: the server waits for something else"
            ),
            "{found}"
        );
    }
}

#[test]
fn a_full_generator_gives_no_upper_end_and_the_next_experiment() {
    let late = SearchStep { limit: Some(Limit::Generator), ..SearchStep::default() };
    let found = answer(None, late, "ws://127.0.0.1:9001");
    let sentence = found.sentence("echo");
    assert!(sentence.starts_with("this server holds at least 18,400 messages a second at "), "{sentence}");
    assert!(sentence.ends_with("; beyond that, the generator is full"), "{sentence}");
    assert!(found.next.as_ref().is_some_and(|next| next.contains("--agents")), "{found:?}");
    assert_eq!((found.high, found.limited_by), (None, Limit::Generator));
    assert!(found.failure_text().is_some_and(|text| text.contains("more than 18,400")));
}
