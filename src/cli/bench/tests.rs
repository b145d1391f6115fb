//! The flags of `bench`, read and refused.

use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _};

use super::target::Lookup;
use super::*;
use echoring_load::{Pace, Target, Template};

#[derive(Debug, clap::Parser)]
struct Bench {
    #[command(flatten)]
    args: Args,
}

const URL: &str = "ws://127.0.0.1:9001";

fn plan(words: &[&str]) -> Result<Plan, String> {
    job(words).map(|job| job.plan)
}

fn job(words: &[&str]) -> Result<Job, String> {
    let words = std::iter::once("bench").chain(words.iter().copied());
    let typed = Bench::command().try_get_matches_from(words).map_err(|error| error.to_string())?;
    let Bench { args } = Bench::from_arg_matches(&typed).expect("parsed");
    match args.validate(&typed, Arc::default(), 20_000) {
        Ok(job) => Ok(job),
        Err(Failure::Usage(line) | Failure::Environment(line)) => Err(line),
    }
}

#[test]
fn without_a_url_two_runs_are_made_on_an_embedded_server() {
    let plan = plan(&[]).expect("all flags have defaults");
    assert!(matches!(plan.target, Target::Embedded(_)));
    let modes: Vec<echoring_load::Mode> = plan.workloads.iter().map(|load| load.mode).collect();
    assert_eq!(modes, [echoring_load::Mode::Echo, echoring_load::Mode::Broadcast]);
    let (mine, other) = (&plan.resources.cpus, &plan.resources.server_cpus);
    assert!(!mine.iter().any(|cpu| other.contains(cpu)), "{mine:?} {other:?}");
}

/// Flags with values, and flags that contradict the one that they need: clap drops `requires` then.
const WITHOUT_EFFECT: &[&[&str]] = &[
    &["--replay-rule", "json", "-c", "2"],
    &["--replay-speed", "2", "--rate", "5"],
    &["--replay-copies", "2", "--mode", "echo"],
    &["--replay-ignore", "/ts", "--depth", "2"],
    &["--param", "a=b", "--message", "hi"],
    &["--fail-on", "worse"],
    &["--against-pid", "1"],
    &["--time-unit", "us", "--replay", "a.jsonl"],
    &["--time-unit", "us", "--mode", "push"],
    &["--data-order", "shuffled"],
    &["--tls-cert", "a.pem"],
    &["--tls-key", "a.pem"],
    &["--max-duration", "9s"],
    &["--slow-how", "trickle", "--mode", "broadcast"],
    &["--trickle", "1KiB/s", "--mode", "broadcast"],
    &["--nats", "nats://127.0.0.1"],
    &["--agents-timeout", "9s"],
    &["--nats-prefix", "a"],
    &["--nats-token-file", "a"],
    &["--nats-credentials-file", "a"],
    &["--nats-tls-ca", "a"],
    &["--agents", "2"],
];
const WITHOUT_URL: &[&[&str]] = &[
    &["--replay", "a.jsonl"],
    &["--agents", "2", "--nats", "nats://127.0.0.1"],
    &["--server-pid", "1"],
    &["--all-addresses"],
    &["--proxy", "env"],
    &["--unix-socket", "a"],
    &["--against", "ws://127.0.0.1:9", "--repeat", "3"],
];

#[test]
fn a_flag_without_the_one_that_it_needs_is_refused() {
    let mut refused = std::collections::BTreeSet::new();
    for (words, url) in WITHOUT_EFFECT
        .iter()
        .map(|words| (words, &[URL][..]))
        .chain(WITHOUT_URL.iter().map(|words| (words, &[][..])))
    {
        let line = job(&[url, words].concat()).map(|_| ()).expect_err(words[0]);
        assert!(line.starts_with(&format!("{}: only with ", words[0])), "{words:?}: {line}");
        let example = line.split_once(", such as ").map(|(_, example)| example).expect("an example");
        assert!(example.split(' ').any(|word| word == words[0]), "{words:?}: {line}");
        refused.insert(words[0].trim_start_matches('-').replace('-', "_"));
    }
    let listed = needs::NEEDS.iter().flat_map(|(flags, ..)| *flags).map(|(flag, _)| (*flag).to_owned());
    assert_eq!(refused, listed.collect(), "each flag of the table has a case");
    // clap's own does not hold.
    for arg in Bench::command().get_arguments() {
        assert!(!format!("{arg:?}").contains("requires: [("), "{arg:?}");
    }
}

#[test]
fn with_a_url_the_mode_is_echo_unless_said() {
    let echo = plan(&[URL]).expect("a URL is enough");
    assert_eq!(echo.workloads.len(), 1);
    assert_eq!(echo.workloads[0].mode, echoring_load::Mode::Echo);
    assert_eq!(echo.workloads[0].pace, Pace::Depth(1));
    let flags = [URL, "--mode", "broadcast", "-c", "20", "--topics", "3", "--rate", "500"];
    let broadcast = &plan(&flags).expect("these agree").workloads[0];
    assert_eq!((broadcast.publishers, broadcast.topics, broadcast.stalled), (3, 3, 0));
    assert_eq!((&broadcast.pace, broadcast.arrivals), (&Pace::Rate(500), echoring_load::Arrivals::Even));
    let flags =
        [URL, "--mode", "broadcast", "-c", "20", "--slow", "5", "--rate", "9", "--arrivals", "poisson"];
    let stalling = &plan(&flags).expect("these agree").workloads[0];
    assert_eq!((stalling.stalled, stalling.arrivals), (5, echoring_load::Arrivals::Poisson));
}

#[test]
fn a_rate_may_have_stages_a_ramp_and_trains() {
    let flags =
        [URL, "--stage", "2s@1k", "--stage", "3s@1k..0", "--ramp", "4s", "--burst", "7", "--drain", "0s"];
    let load = plan(&flags).expect("these agree").workloads.remove(0);
    assert_eq!((load.duration, load.warmup), (Duration::from_secs(5), Duration::from_secs(4)));
    assert_eq!((load.ramp, load.burst, load.drain), (Duration::from_secs(4), 7, Duration::ZERO));
    let rates: Vec<(u64, u64)> = load.pace.stages().iter().map(|stage| (stage.from, stage.to)).collect();
    assert_eq!(rates, [(1_000, 1_000), (1_000, 0)]);
    let load = plan(&[URL, "--rate", "10k", "--late-after", "20ms", "--allow-saturated", "--allow", "late"])
        .expect("these agree")
        .workloads
        .remove(0);
    assert_eq!((load.pace, load.drain), (Pace::Rate(10_000), echoring_load::DRAIN_DEFAULT));
    assert_eq!((load.late_after, load.allow_saturated), (Some(Duration::from_millis(20)), true));
    assert_eq!(load.allow, [echoring_load::Flaw::Late]);
    assert_eq!(load.max_lateness, echoring_load::MAX_LATENESS_DEFAULT);
    let load =
        plan(&[URL, "--rate", "9", "--max-lateness", "20ms"]).expect("these agree").workloads.remove(0);
    assert_eq!(load.max_lateness, Duration::from_millis(20));
}

#[test]
fn compression_is_offered_by_all_runs_in_the_words_that_were_typed() {
    assert_eq!(plan(&[URL]).expect("valid").workloads[0].compress, echoring_load::Compress::off());
    let words = "server_max_window_bits=10; memory=4MiB";
    for load in plan(&["--compress", words]).expect("valid").workloads {
        assert_eq!((load.compress.words.as_str(), load.compress.context_bytes), (words, 4 << 20));
        let offered = load.compress.compression.expect("not off").preferences;
        assert_eq!((offered.server.window_bits, offered.client.window_bits), (10, 15));
    }
}

#[test]
fn the_default_size_fits_what_a_message_has_to_tell() {
    for kind in ["text", "binary", "json"] {
        let flags = ["--kind", kind, "-c", "10"];
        for load in plan(&flags).expect("the default size fits").workloads {
            assert!(load.message_bytes.0 >= echoring_load::min_bytes(load.style, load.mode));
        }
    }
}

#[test]
fn messages_are_what_their_flags_say() {
    let load = |flags: &[&str]| plan(&[&[URL][..], flags].concat()).expect("these agree").workloads.remove(0);
    let plain = load(&[]);
    assert_eq!(
        (plain.style, plain.spread, plain.lines),
        (echoring_load::Style::Text, echoring_load::Spread::Even, None)
    );
    assert_eq!((plain.message_bytes, plain.allow), ((64, 64), vec![]));
    let binary = load(&["--kind", "binary", "--message-bytes", "zipf:16..4096"]);
    assert_eq!((binary.style, binary.spread), (echoring_load::Style::Binary, echoring_load::Spread::Zipf));
    assert_eq!(binary.message_bytes, (16, 4_096));
    let lines = load(&["--payload-file", "Cargo.toml"]).lines.expect("of a file");
    assert_eq!(lines.name(), "Cargo.toml");
    assert!(lines.count() > 10 && lines.bytes().0 == 0, "a blank line is an empty message");
    let allowing = load(&["--allow", "closed,lost"]).allow;
    assert_eq!(allowing, [echoring_load::Flaw::Lost, echoring_load::Flaw::Closed]);
    let broadcast = ["--mode", "broadcast", "-c", "1001"];
    let slow = |flags: &[&str]| {
        let load = load(&[&broadcast[..], flags].concat());
        (load.stalled, load.trickle)
    };
    assert_eq!(slow(&[]), (0, None));
    assert_eq!(slow(&["--slow", "7"]), (7, None));
    assert_eq!(slow(&["--slow", "1%"]), (10, None));
    assert_eq!(slow(&["--slow", "1%", "--slow-how", "stop"]), (10, None));
    assert_eq!(slow(&["--slow", "2", "--slow-how", "trickle"]), (2, Some(16 * 1_024)));
    let trickle = ["--slow", "2", "--slow-how", "trickle", "--trickle", "1KiB/s"];
    assert_eq!(slow(&trickle), (2, Some(1_024)));
}

#[test]
fn a_run_may_end_by_its_results_and_find_its_warm_up() {
    let load = |flags: &[&str]| plan(&[&[URL], flags].concat()).expect("these agree").workloads.remove(0);
    assert_eq!(load(&["--until", "p99±5%"]).duration, Duration::from_secs(600));
    let flags = ["--until", "p50+-5%", "--until", "p99+-5%", "--max-duration", "90s", "--repeat", "3"];
    assert_eq!(load(&flags).duration, Duration::from_secs(90));
    let found = load(&["--warmup", "auto", "--rate", "10", "--ramp", "5s"]);
    assert_eq!((found.warmup, found.finds_warmup), (Duration::from_secs(65), true));
    let given = load(&["--warmup", "2s"]);
    assert_eq!((given.warmup, given.finds_warmup), (Duration::from_secs(2), false));
}

#[test]
fn a_wrong_argument_is_explained_in_one_line_that_names_it() {
    for (words, named) in [
        (&["http://127.0.0.1"][..], "URL"),
        (&["wss://no_such host"], "URL"),
        (&["wss://127.0.0.1", "--ca-file", "/nowhere/ca.pem"], "/nowhere/ca.pem"),
        (&["wss://127.0.0.1", "--ca-file", "x", "--insecure"], "--insecure"),
        (&[URL, "--insecure"], "--insecure"),
        (&["--ca-file", "x"], "--ca-file"),
        (&[URL, "--depth", "0"], "--depth"),
        (&[URL, "--rate", "0"], "--rate"),
        (&[URL, "--depth", "2", "--rate", "5"], "--rate"),
        (&[URL, "--stage", "5s@10", "-d", "5s"], "--duration: not with --stage"),
        (&[URL, "--stage", "5s@10", "--rate", "10"], "e.g. --stage 30s@10k"),
        (&[URL, "--stage", "5s@10", "--depth", "1"], "--depth: not with --stage"),
        (&[URL, "--stage", "5s"], "30s@1k..10k"),
        (&[URL, "--stage", "5s@0"], "--stage"),
        (&[URL, "--ramp", "5s"], "--rate 10k --ramp 5s"),
        (&[URL, "--rate", "5", "--ramp", "5s", "--warmup", "4s"], "--ramp 5s --warmup 6s"),
        (&[URL, "--stage", "5s@0..9", "--ramp", "5s"], "--ramp"),
        (&[URL, "--burst", "5"], "--rate 10k --burst 20"),
        (&[URL, "--rate", "9", "--burst", "0"], "--burst"),
        (&[URL, "--drain", "25h"], "--drain 10s"),
        (&[URL, "--late-after", "0s"], "--late-after 100ms"),
        (&[URL, "-c", "0"], "--connections"),
        (&[URL, "-d", "0s"], "--duration"),
        (&[URL, "-d", "25h"], "--duration"),
        (&[URL, "-d", "5"], "--duration"),
        (&[URL, "--message-bytes", "9..3"], "--message-bytes"),
        (&[URL, "--message-bytes", "many"], "--message-bytes"),
        (&[URL, "--kind", "json", "--message-bytes", "33"], "--message-bytes"),
        (&[URL, "--mode", "broadcast", "--message-bytes", "16"], "--message-bytes"),
        (&[URL, "--publishers", "2"], "--publishers"),
        (&[URL, "--mode", "ping", "--kind", "binary"], "--kind"),
        (&[URL, "--mode", "ping", "--message", "hi"], "--message"),
        (&[URL, "--mode", "ping", "--verify", "off"], "--verify"),
        (&[URL, "--mode", "push", "--kind", "binary"], "--kind"),
        (&[URL, "--mode", "push", "--message", "hi"], "--message"),
        (&[URL, "--mode", "push", "--verify", "off"], "--verify"),
        (&[URL, "--mode", "push", "--late-after", "1s"], "--late-after"),
        (&[URL, "--mode", "storm", "--kind", "binary"], "--kind"),
        (&[URL, "--mode", "storm", "--message", "hi"], "--message"),
        (&[URL, "--mode", "storm", "--verify", "off"], "--verify"),
        (&[URL, "--mode", "storm", "--late-after", "1s"], "--late-after"),
        (&[URL, "--weights", "1"], "--weights"),
        (&[URL, "--topics", "2"], "--topics"),
        (&[URL, "--slow", "2"], "--slow"),
        (&[URL, "--slow", "1%"], "--slow"),
        (&[URL, "--mode", "broadcast", "-c", "10", "--slow", "9"], "--slow"),
        (&[URL, "--mode", "broadcast", "-c", "10", "--slow", "100%"], "--slow"),
        (&[URL, "--mode", "broadcast", "--slow", "101%"], "--slow"),
        (&[URL, "--mode", "broadcast", "--slow-how", "trickle"], "--slow-how"),
        (&[URL, "--mode", "broadcast", "--slow", "2", "--slow-how", "often"], "--slow-how"),
        (&[URL, "--mode", "broadcast", "--slow", "2", "--trickle", "1KiB/s"], "--trickle"),
        (&[URL, "--mode", "broadcast", "--slow", "2", "--trickle", "0/s"], "--trickle"),
        (&[URL, "--trickle", "1KiB/s"], "--trickle"),
        (&[URL, "--message-bytes", "zipf:64"], "--message-bytes"),
        (&[URL, "--message-bytes", "zipf:64..16"], "--message-bytes"),
        (&[URL, "--payload-file", "/nowhere/lines"], "/nowhere/lines"),
        (&[URL, "--payload-file", "/dev/null"], "--payload-file"),
        (&[URL, "--payload-file", "/dev/zero", "--kind", "binary"], "--payload-file"),
        (&[URL, "--payload-file", "Cargo.toml", "--kind", "json"], "--payload-file"),
        (&[URL, "--payload-file", "Cargo.toml", "--message-bytes", "64"], "--message-bytes"),
        (&[URL, "--payload-file", "Cargo.toml", "--mode", "broadcast"], "--payload-file"),
        (&[URL, "--allow", "lost,broken"], "--allow"),
        (&[URL, "--allow", ""], "--allow"),
        (&[URL, "--arrivals", "poisson"], "--rate"),
        (&[URL, "--rate", "9", "--arrivals", "often"], "--arrivals"),
        (&["ws://127.0.0.1:1/one", "--mode", "broadcast", "--topics", "2"], "--topics"),
        (&[URL, "--threads", "0"], "--threads"),
        (&[URL, "--cpus", "1023"], "--cpus"),
        (&[URL, "--source-addr", "127.0.0.9-127.0.0.2"], "--source-addr"),
        (&[URL, "--source-addr", "::1"], "--source-addr"),
        (&[URL, "--compress", "maybe"], "--compress"),
        (&[URL, "--compress", "level=11"], "--compress"),
        (&[URL, "--server-pid", "4194999"], "--server-pid"),
        (&["--server-pid", "1"], "URL"),
        (&[URL, "--json", "/nowhere/to/be/found.json"], "--json"),
        (&[URL, "--hgrm", "/nowhere/to/be/found.hgrm"], "--hgrm"),
        (&[URL, "--hlog", "/nowhere/to/be/found.hlog"], "--hlog"),
        (&[URL, "--csv", "/nowhere/to/be/found.csv"], "--csv"),
        (&[URL, "--csv", ".."], "--csv run.txt"),
        (&[URL, "--prometheus", "9464"], "--prometheus"),
        (&[URL, "--mode", "dance"], "--mode"),
        (&[URL, "--fail-if", "p9x>2ms"], "unknown metric `p9x`"),
        (&[URL, "--fail-if", "lost"], "--fail-if"),
        (&[URL, "--fail-if", "reach<1"], "--mode broadcast"),
        (&[URL, "--fail-if", "cpu_per_message>5us"], "--server-pid 4711"),
        (&[URL, "--repeat", "9", "--against", URL, "--fail-if", "cpu_per_message>5us"], "--server-pid 4711"),
        (&[URL, "--fail-if", "lateness.p99>1ms"], "--rate 5000"),
        (&[URL, "--fail-if", "max_rate<5k"], "echoring capacity"),
        (&[URL, "--repeat", "1"], "must be from 2 to 1000"),
        (&[URL, "--repeat", "0"], "must be from 2 to 1000"),
        (&[URL, "--against", URL], "--repeat 10"),
        (&["--repeat", "3", "--against", URL], "--against ws://"),
        (&[URL, "--against-pid", "1"], "--against ws://"),
        (&[URL, "--repeat", "2", "--against", URL, "--against-pid", "4194999"], "4194999"),
        (&[URL, "--repeat", "2", "--against", "http://x"], "--against"),
        (
            &[
                URL,
                "--mode",
                "broadcast",
                "--topics",
                "2",
                "--repeat",
                "2",
                "--against",
                "ws://127.0.0.1:1/x",
            ],
            "--against",
        ),
    ] {
        let line = plan(words).map(|_| ()).expect_err("these are wrong");
        assert!(line.contains(named), "{words:?}: {line}");
    }
}

#[test]
fn data_that_no_template_uses_are_refused() {
    let file = tempfile::Builder::new().suffix(".csv").tempfile().expect("a file");
    std::fs::write(&file, "name,token\none,1\ntwo,2\n").expect("written");
    let data = ["--data", file.path().to_str().expect("text")];
    let used: [&[&str]; 6] = [
        &[URL, "--header", "X-Token: {{data.token}}"],
        &[URL, "--cookie", "name={{data.name}}"],
        &[URL, "--origin", "https://{{data.name}}.example"],
        &[URL, "--message", "{{data.name}}"],
        &["ws://127.0.0.1:1/{{data.name}}"],
        &["ws://127.0.0.1:1/", "--repeat", "2", "--against", "ws://127.0.0.1:2/{{data.name}}"],
    ];
    for words in used {
        plan(&[words, &data].concat()).unwrap_or_else(|line| panic!("{words:?}: {line}"));
    }
    for words in [&[URL][..], &[URL, "--header", "X-Token: 1"], &[URL, "--protocol", "json-rpc"]] {
        let line = plan(&[words, &data].concat()).map(|_| ()).expect_err("nobody reads them");
        assert!(line.starts_with("--data: no template"), "{line}");
    }
}

#[test]
fn repetitions_take_a_rival() {
    let own = std::process::id().to_string();
    let words = [URL, "--repeat", "4", "--against", "ws://127.0.0.1:9/x", "--against-pid", &own];
    let Experiment::Repeat { times, against: Some(rival) } = job(&words).expect("valid").experiment else {
        panic!("repetitions with a rival")
    };
    assert_eq!((times, rival.server_pid), (4, Some(std::process::id())));
    let Target::Urls(rivals) = rival.target else { panic!("URLs") };
    assert_eq!(rivals[0].path, Some(Template::parse("/x").expect("a path")));
    let paired =
        [URL, "--against", "ws://127.0.0.1:9101", "--until", "messages_per_s±3%", "--max-duration", "7m"];
    let compared = job(&paired).expect("valid");
    assert_eq!(compared.plan.workloads[0].duration, Duration::from_secs(2), "of each run");
    let Experiment::Compare(pairs) = compared.experiment else { panic!("a comparison") };
    assert_eq!((pairs.longest, pairs.goals.len()), (Duration::from_secs(420), 1));
    // Each of a number of runs ends by its own results.
    let repeated = [&paired[..3], &["--until", "p99±3%", "--repeat", "2"]].concat();
    assert!(matches!(job(&repeated).expect("valid").experiment, Experiment::Repeat { times: 2, .. }));
    assert!(matches!(job(&[URL]).expect("valid").experiment, Experiment::Once));
    let both = ["--fail-if", "last.p99>5ms", "--fail-if", "cpu_per_message>1ms"];
    assert_eq!(
        job(&both).expect("broadcast and the embedded server have these").args.verdicts.fail_if.len(),
        2
    );
}

#[test]
fn the_path_of_the_url_is_kept_only_when_it_is_there() {
    let lookup = Lookup { insecure: true, ..Lookup::default() };
    let template = |text: &str| Template::parse(text).expect("a path");
    let path = |text| lookup.endpoint(text).map(|endpoint| endpoint.path).map_err(|_| ());
    assert_eq!(path("ws://127.0.0.1:1"), Ok(None));
    assert_eq!(path("wss://127.0.0.1:1"), Ok(None));
    assert_eq!(path("ws://127.0.0.1:1/"), Ok(Some(template("/"))));
    assert_eq!(path("ws://127.0.0.1:1/a?b=c"), Ok(Some(template("/a?b=c"))));
}
