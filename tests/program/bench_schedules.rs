//! The schedule of `echoring bench`, end to end: stages, ramps, bursts, the drain. The number of messages follows
//! exactly from the flags, so it is compared exactly.

use crate::support::program;
use program::Run;
use serde_json::{Value, json};

/// A run on an embedded server, whose generator may be late because the machine may be busy.
fn bench(words: &[&str]) -> (Run, Value) {
    let always = ["bench", "--allow-saturated", "--json", "-"];
    let run = Run::from(program::command(&[&always[..], words].concat()).output().expect("the binary runs"));
    assert_eq!(run.code, Some(0), "{words:?}: {run}");
    let record = run.json()["runs"][0].take();
    (run, record)
}

fn count(record: &Value, pointer: &str) -> u64 {
    record.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {record}"))
}

#[test]
fn each_stage_has_as_many_messages_as_its_rate_comes_to() {
    let stages =
        ["--stage", "500ms@1k", "--stage", "300ms@0", "--stage", "500ms@1k..3k", "--stage", "200ms@500"];
    for arrivals in ["even", "poisson"] {
        let flags =
            ["--mode", "echo", "-c", "7", "--threads", "2", "--warmup", "100ms", "--arrivals", arrivals];
        let (run, record) = bench(&[&flags[..], &stages].concat());
        let asked = json!([
            {"seconds": 0.5, "from": 1_000, "to": 1_000},
            {"seconds": 0.3, "from": 0, "to": 0},
            {"seconds": 0.5, "from": 1_000, "to": 3_000},
            {"seconds": 0.2, "from": 500, "to": 500},
        ]);
        assert_eq!(record["config"]["stages"], asked, "{run}");
        assert_eq!(
            (&record["config"]["rate"], &record["config"]["depth"]),
            (&Value::Null, &Value::Null),
            "{run}"
        );
        assert_eq!(record["duration_s"], 1.5, "{run}");
        let timed = |stage: usize| count(&record, &format!("/stages/{stage}/response_ns/count"));
        let counts = [0, 1, 2, 3].map(timed);
        match arrivals {
            "even" => assert_eq!(counts, [500, 0, 1_000, 100], "{run}"),
            // Far beyond what chance does.
            _ => assert!(
                (300..700).contains(&counts[0]) && counts[1] == 0 && (700..1_300).contains(&counts[2]),
                "{run}"
            ),
        }
        assert_eq!(counts.iter().sum::<u64>(), count(&record, "/response_ns/count"), "{run}");
        for (at, timed) in counts.into_iter().enumerate() {
            let stage = &record["stages"][at];
            assert_eq!(stage["from"], asked[at]["from"], "{run}");
            assert_eq!(count(stage, "/service_ns/count"), timed, "{run}");
            assert!(count(stage, "/response_ns/max") <= count(&record, "/response_ns/max"), "{run}");
        }
        let arrived = (0..4).map(|at| count(&record, &format!("/stages/{at}/messages")));
        assert_eq!(arrived.sum::<u64>(), count(&record, "/messages"), "{run}");
    }
}

#[test]
fn stages_are_shown_to_people_a_row_each() {
    let flags = ["bench", "--mode", "echo", "-c", "2", "--warmup", "0s", "--allow-saturated"];
    let stages = ["--stage", "200ms@1k", "--stage", "200ms@1k..4k", "--burst", "10"];
    let run = Run::from(program::command(&[&flags[..], &stages].concat()).output().expect("the binary runs"));
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.stdout.contains("2 stages in bursts of 10"), "{run}");
    for row in ["| 1 (0.2 s)", "| 2 (0.2 s)", "1,000 to 4,000", "offered messages/s", "lateness p99"] {
        assert!(run.stdout.contains(row), "{row}: {run}");
    }
}

#[test]
fn the_ramp_is_the_beginning_of_the_warm_up_and_is_not_measured() {
    // 200 while it rises, 100 in the rest of the warm-up, 500 that count. Publishers tell of all they sent.
    let flags = ["--mode", "broadcast", "-c", "3", "--rate", "1k", "-d", "500ms"];
    let (run, record) = bench(&[&flags[..], &["--ramp", "400ms", "--warmup", "500ms"]].concat());
    assert_eq!(count(&record, "/broadcast/published"), 800, "{run}");
    assert_eq!(count(&record, "/response_ns/count"), 2 * 500, "{run}");
    assert_eq!(
        (&record["config"]["ramp_s"], &record["config"]["warmup_s"]),
        (&json!(0.4), &json!(0.5)),
        "{run}"
    );
    // A ramp that is longer than the warm-up would be is the warm-up.
    let (run, record) = bench(&[&flags[..], &["--ramp", "1200ms"]].concat());
    assert_eq!(record["config"]["warmup_s"], 1.2, "{run}");
    assert_eq!(count(&record, "/broadcast/published"), 600 + 500, "{run}");
}

#[test]
fn trains_do_not_change_how_many_messages_there_are() {
    for (mode, connections, copies) in [("echo", "4", 1), ("broadcast", "4", 3)] {
        let flags = [
            "--mode",
            mode,
            "-c",
            connections,
            "--rate",
            "2k",
            "--burst",
            "100",
            "-d",
            "1s",
            "--warmup",
            "0s",
        ];
        let (run, record) = bench(&flags);
        assert_eq!(record["config"]["burst"], 100, "{run}");
        assert_eq!(count(&record, "/response_ns/count"), 2_000 * copies, "{run}");
        assert_eq!(count(&record, "/generator/lateness_ns/count"), 2_000, "{run}");
    }
}

#[test]
fn less_than_a_message_a_second_is_sent_when_it_is_due() {
    // At 0 and 2 s, by one connection each.
    let (run, record) =
        bench(&["--mode", "echo", "-c", "3", "--rate", "0.5", "-d", "2500ms", "--warmup", "0s"]);
    assert_eq!(record["config"]["rate"], 0.5, "{run}");
    for pointer in ["/messages", "/response_ns/count", "/generator/lateness_ns/count"] {
        assert_eq!(count(&record, pointer), 2, "{pointer}: {run}");
    }
    let at: Vec<u64> = record["intervals"]
        .as_array()
        .expect("intervals")
        .iter()
        .map(|interval| count(interval, "/messages"))
        .collect();
    // A machine that is busy elsewhere may answer the second one a little later.
    assert!(at[0] == 1 && at.iter().sum::<u64>() == 2, "{at:?}: {run}");
    assert_eq!(count(&record, "/generator/unsent"), 0, "{run}");
}

#[test]
fn the_generator_tells_of_its_threads() {
    let (run, record) =
        bench(&["--mode", "echo", "-c", "4", "--threads", "2", "--rate", "2k", "-d", "500ms"]);
    assert!(count(&record, "/generator/lateness_ns/count") > 0, "{run}");
    let threads = record["generator"]["threads"].as_array().expect("threads");
    assert_eq!(threads.len(), 2, "{run}");
    for thread in threads {
        assert!(thread["cpu_share"].as_f64().is_some_and(|share| (0.0..=1.1).contains(&share)), "{run}");
        assert!(count(thread, "/lateness_ns_max") <= count(&record, "/generator/lateness_ns/max"), "{run}");
    }
    let latest = threads.iter().map(|thread| count(thread, "/lateness_ns_max")).max();
    assert_eq!(latest, Some(count(&record, "/generator/lateness_ns/max")), "{run}");
}

#[test]
fn a_generator_that_is_too_late_is_exit_code_4_unless_that_is_allowed() {
    // Far more than one thread can send in any build.
    let flags = ["bench", "--mode", "echo", "-c", "2", "--threads", "1", "--rate", "100M", "-d", "100ms"];
    let more = ["--warmup", "0s", "--json", "-", "--allow", "lost"];
    for (allowed, code) in [(&[][..], 4), (&["--allow-saturated"], 0)] {
        let words = [&flags[..], &more, allowed].concat();
        let run = Run::from(program::command(&words).output().expect("the binary runs"));
        assert_eq!(run.code, Some(code), "{run}");
        let record = run.json()["runs"][0].take();
        assert_eq!(record["generator"]["saturated"], true, "{run}");
        assert_eq!(record["config"]["allow_saturated"], code == 0, "{run}");
        assert_eq!(run.stderr.contains("late at p99"), code == 4, "{run}");
    }
}

#[test]
fn contradictions_are_refused_before_the_first_connection() {
    // Nobody listens there: a run would end with 3.
    const URL: &str = "ws://127.0.0.1:1";
    for (words, told) in [
        (&["--stage", "5s@10", "--duration", "5s"][..], "--duration: not with --stage"),
        (&["--stage", "5s@10", "--rate", "10"], "--rate: not with --stage"),
        (&["--stage", "5s@10", "--depth", "2"], "--depth: not with --stage"),
        (&["--stage", "5s@fast"], "--stage"),
        (&["--stage", "0s@10"], "such as --stage 30s@10k"),
        (&["--ramp", "2s"], "such as --rate 10k --ramp 5s"),
        (&["--rate", "10", "--ramp", "2s", "--warmup", "1s"], "--ramp"),
        (&["--burst", "2"], "such as --rate 10k --burst 20"),
        (&["--rate", "10", "--burst", "16385"], "--burst"),
        (&["--late-after", "0s"], "--late-after"),
        (&["--arrivals", "poisson"], "e.g. --rate 5000 --arrivals poisson"),
    ] {
        let words = [&["bench", URL][..], words].concat();
        let run = Run::from(program::command(&words).output().expect("the binary runs"));
        assert_eq!((run.code, run.stderr.lines().count()), (Some(2), 1), "{words:?}: {run}");
        assert!(run.stderr.contains(told), "{words:?}: {run}");
    }
}
