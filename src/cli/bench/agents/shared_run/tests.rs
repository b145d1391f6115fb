//! The coordinator's view of a run, on a virtual clock.

use super::*;
use echoring_load::{Mode, Pace, Workload};
use echoring_proto::limits::SECOND;

fn load() -> Workload {
    Workload {
        mode: Mode::Broadcast,
        connections: 31,
        publishers: 2,
        topics: 2,
        pace: Pace::Rate(100),
        ..Workload::default()
    }
}

/// A run of three agents, with the ids 1 to 3, that begins at a second.
fn run() -> SharedRun {
    let agents: Vec<ChosenAgent> =
        (1..=3).map(|id| ChosenAgent { id, name: format!("agent-{id}") }).collect();
    let assignment = Assignment {
        segment: Segment::WHOLE,
        load: load(),
        urls: Vec::new(),
        lookup: super::super::super::target::Lookup::default(),
    };
    let (run, outgoing) = SharedRun::new(&agents, &assignment, SECOND);
    let segments: Vec<(u64, (u32, u32))> = outgoing
        .iter()
        .map(|message| match message {
            Outgoing::One(agent, Order::Open(assignment)) => (*agent, assignment.segment.into()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(segments, [(1, (0, 3)), (2, (1, 3)), (3, (2, 3))]);
    run
}

fn orders(outgoing: Vec<Outgoing>) -> Vec<Order> {
    let order = |message| match message {
        Outgoing::All(order) => order,
        Outgoing::One(_, order) => order,
    };
    outgoing.into_iter().map(order).filter(|order| !matches!(order, Order::Alive)).collect()
}

fn settle(run: &mut SharedRun, now: Nanos) {
    for agent in 1..=3 {
        assert!(!run.handle(agent, Report::Settled { subscribers: vec![agent as u32, 5] }, now));
    }
}

#[test]
fn the_load_begins_once_all_agents_have_settled_and_concludes_once_none_sends() {
    let mut run = run();
    for agent in [1, 2] {
        run.handle(agent, Report::Settled { subscribers: vec![agent as u32, 5] }, 2 * SECOND);
    }
    assert!(orders(run.poll(2 * SECOND, false)).is_empty());
    run.handle(3, Report::Settled { subscribers: vec![3, 5] }, 3 * SECOND);
    let begun = orders(run.poll(3 * SECOND, false));
    assert!(
        matches!(&begun[..], [Order::Begin { start, audiences }] if *start == 3 * SECOND + AGENT_START_LEAD && *audiences == [6, 15]),
        "{begun:?}"
    );
    let from = 3 * SECOND + AGENT_START_LEAD;
    assert_eq!(run.window(), Some((from, from + 10 * SECOND)));
    for (agent, published) in [(1, vec![40, 0]), (2, vec![0, 70])] {
        run.handle(agent, Report::StoppedSending { published }, 4 * SECOND);
    }
    assert!(orders(run.poll(4 * SECOND, false)).is_empty());
    run.handle(3, Report::StoppedSending { published: vec![0, 0] }, 5 * SECOND);
    let concluded = orders(run.poll(5 * SECOND, false));
    assert!(
        matches!(&concluded[..], [Order::Conclude { published }] if *published == [40, 70]),
        "{concluded:?}"
    );
    assert!(orders(run.poll(5 * SECOND, false)).is_empty(), "each is told once");
}

#[test]
fn an_agent_that_is_silent_before_the_load_begins_ends_the_run() {
    let mut run = run();
    for agent in [1, 3] {
        run.handle(agent, Report::Settled { subscribers: vec![0, 0] }, 9 * SECOND);
    }
    assert!(orders(run.poll(SECOND + AGENT_TIMEOUT - 1, false)).is_empty());
    let stopped = orders(run.poll(SECOND + AGENT_TIMEOUT, false));
    assert!(matches!(&stopped[..], [Order::Stop, ..]), "{stopped:?}");
    for agent in [1, 3] {
        run.handle(agent, Report::Refused { why: "stopped".to_owned() }, 12 * SECOND);
    }
    assert!(run.is_over() && run.is_lost(2));
    let End::Refused(why) = run.end() else { panic!("it was no run") };
    assert!(why.contains("agent-2: silent for 10s"), "{why}");
}

#[test]
fn an_agent_that_is_lost_later_is_not_waited_for() {
    let mut run = run();
    settle(&mut run, 2 * SECOND);
    run.poll(2 * SECOND, false);
    for agent in [1, 2] {
        run.handle(agent, Report::StoppedSending { published: vec![agent, agent] }, 13 * SECOND);
    }
    let concluded = orders(run.poll(13 * SECOND, false));
    assert!(
        matches!(&concluded[..], [Order::Conclude { published }] if *published == [2, 2]),
        "{concluded:?}"
    );
    assert!(run.is_lost(3) && !run.is_lost(1) && !run.is_over());
    for agent in [1, 2] {
        run.handle(agent, Report::Finished { result: "no result".to_owned() }, 14 * SECOND);
    }
    assert!(run.is_over(), "a result that cannot be read is none");
    assert!(matches!(run.end(), End::Refused(_)));
}

#[test]
fn an_agent_that_has_failed_is_lost_with_its_reason() {
    let mut run = run();
    settle(&mut run, 2 * SECOND);
    run.poll(2 * SECOND, false);
    let failed = || Report::Failed { why: "panicked: planned".to_owned() };
    run.handle(2, failed(), 3 * SECOND);
    assert!(run.is_lost(2) && !run.is_over());
    assert!(orders(run.poll(3 * SECOND, false)).is_empty(), "the others go on");
    for agent in [1, 3] {
        run.handle(agent, Report::StoppedSending { published: vec![agent, agent] }, 4 * SECOND);
    }
    assert!(matches!(&orders(run.poll(4 * SECOND, false))[..], [Order::Conclude { .. }]));
    for agent in [1, 3] {
        run.handle(agent, failed(), 5 * SECOND);
    }
    let End::Refused(why) = run.end() else { panic!("nobody has results") };
    assert!(why.contains("agent agent-2: panicked: planned"), "{why}");
}

#[test]
fn an_agent_that_fails_before_the_load_begins_ends_the_run() {
    let mut run = run();
    run.handle(3, Report::Failed { why: "panicked: planned".to_owned() }, SECOND);
    assert!(matches!(&orders(run.poll(SECOND, false))[..], [Order::Stop]));
    for agent in [1, 2] {
        run.handle(agent, Report::Refused { why: "stopped".to_owned() }, 2 * SECOND);
    }
    assert!(run.is_over());
    assert!(matches!(run.end(), End::Refused(why) if why == "agent agent-3: panicked: planned"));
}

#[test]
fn the_user_and_any_agent_can_end_the_run() {
    let mut run = run();
    settle(&mut run, 2 * SECOND);
    run.poll(2 * SECOND, false);
    assert!(run.handle(2, Report::Interrupted, 3 * SECOND));
    assert!(matches!(&orders(run.poll(3 * SECOND, true))[..], [Order::Stop]));
    assert!(orders(run.poll(3 * SECOND, true)).is_empty(), "told once");
    assert!(!run.handle(77, Report::Interrupted, 3 * SECOND), "none of its agents");
}

fn progress(stage: RunStage) -> Report {
    Report::Progress(Box::new(AgentProgress {
        stage,
        open: 10,
        failed: 0,
        messages: 0,
        live: LiveResults::default(),
        clock: None,
    }))
}

#[test]
fn agents_are_awaited_that_are_behind_the_others_or_the_clock() {
    let mut run = run();
    assert_eq!(run.awaited(9 * SECOND), [""; 0], "all are as far");
    run.handle(1, Report::Settled { subscribers: vec![0, 0] }, 9 * SECOND);
    assert_eq!(run.awaited(9 * SECOND + AGENT_LATE_AFTER - 1), [""; 0]);
    assert_eq!(run.awaited(9 * SECOND + AGENT_LATE_AFTER), ["agent-2", "agent-3"]);
    settle(&mut run, 10 * SECOND);
    assert_eq!(run.awaited(20 * SECOND), [""; 0]);
    run.poll(10 * SECOND, false);
    let (from, until) = run.window().expect("begun");
    for agent in 1..=3 {
        run.handle(agent, progress(RunStage::WarmingUp), from - SECOND);
        run.handle(agent, progress(RunStage::Measuring), from);
    }
    assert_eq!(run.awaited(until - 1), [""; 0]);
    run.handle(2, progress(RunStage::Draining), until);
    assert_eq!(run.awaited(until + AGENT_LATE_AFTER - 1), [""; 0]);
    assert_eq!(run.awaited(until + AGENT_LATE_AFTER), ["agent-1", "agent-3"]);
    assert_eq!(run.stage(), RunStage::Measuring, "which is over");
    // One that is lost is not waited for.
    run.handle(3, Report::Failed { why: "panicked".to_owned() }, until);
    assert_eq!(run.awaited(until + AGENT_LATE_AFTER), ["agent-1"]);
    run.handle(1, progress(RunStage::Draining), until);
    assert_eq!(run.awaited(until + AGENT_LATE_AFTER), [""; 0]);
}

#[test]
fn nobody_is_behind_an_agent_that_is_lost() {
    let mut run = run();
    run.handle(1, Report::Settled { subscribers: vec![0, 0] }, 9 * SECOND);
    run.handle(1, Report::Failed { why: "panicked".to_owned() }, 9 * SECOND);
    assert_eq!(run.awaited(9 * SECOND + AGENT_LATE_AFTER), [""; 0]);
}

#[test]
fn coordinators_tell_that_they_are_there() {
    let mut run = run();
    let alive = |outgoing: Vec<Outgoing>| {
        outgoing.iter().filter(|it| matches!(it, Outgoing::All(Order::Alive))).count()
    };
    assert_eq!(alive(run.poll(SECOND, false)), 1);
    assert_eq!(alive(run.poll(SECOND + 1, false)), 0);
    assert_eq!(alive(run.poll(SECOND + AGENT_ALIVE_INTERVAL, false)), 1);
}
