//! Validation of loads, and their serialised form.

use proptest::prelude::*;

use super::*;
use crate::plan::churn::STORM_BACKOFF_DEFAULT;
use crate::plan::listening::{TimeField, TimeUnit};

pub(crate) fn workload(mode: Mode) -> Workload {
    Workload {
        mode,
        connections: 10,
        publishers: if mode == Mode::Broadcast { 3 } else { 0 },
        topics: if mode == Mode::Broadcast { 2 } else { 0 },
        duration: Duration::from_secs(1),
        seed: 0x1234_5678_9abc_def0,
        churn: Churn {
            reconnect: (mode == Mode::Storm).then_some(STORM_BACKOFF_DEFAULT),
            ..Churn::default()
        },
        ..Workload::default()
    }
}

fn staged(stages: &[(u64, u64, u64)]) -> Workload {
    let stage = |&(seconds, from, to)| RateStage { time: Duration::from_secs(seconds), from, to };
    let stages: Vec<RateStage> = stages.iter().map(stage).collect();
    let duration = stages.iter().map(|stage| stage.time).sum();
    Workload { pace: Pace::Stages(stages), duration, ..workload(Mode::Echo) }
}

#[test]
fn the_rate_follows_the_stages() {
    let load = staged(&[(10, 100, 200), (5, 0, 0), (5, 50, 50)]);
    assert_eq!(load.check(), Ok(()));
    let at = |seconds| load.pace.rate_at(Duration::from_secs(seconds));
    assert_eq!(
        [at(0), at(5), at(10), at(15), at(20)].map(|rate| rate.unwrap_or(-1.0)),
        [100.0, 150.0, 0.0, 50.0, 0.0]
    );
    assert_eq!(Pace::Depth(1).rate_at(Duration::ZERO), None);
}

#[test]
fn the_warm_up_has_the_ramp_and_then_the_first_rate() {
    let second = Duration::from_secs(1);
    let load = Workload { ramp: 2 * second, warmup: 3 * second, ..staged(&[(1, 100, 100), (1, 0, 100)]) };
    assert_eq!(load.check(), Ok(()));
    let profile = load.profile().expect("an open loop");
    let whole = [(2, 0, 100), (1, 100, 100), (1, 100, 100), (1, 0, 100)];
    let whole = whole.map(|(seconds, from, to)| RateStage { time: seconds * second, from, to });
    assert_eq!(profile, Profile::new(whole, None));
    let steady = Workload { pace: Pace::Rate(7), warmup: second, ..workload(Mode::Echo) };
    assert_eq!(steady.profile(), Some(Profile::constant(7)));
    assert_eq!(workload(Mode::Echo).profile(), None);
}

#[test]
fn a_contradiction_names_its_flag() {
    let echo = workload(Mode::Echo);
    let broadcast = workload(Mode::Broadcast);
    assert_eq!(echo.check(), Ok(()));
    assert_eq!(broadcast.check(), Ok(()));
    for (load, flag) in [
        (Workload { connections: 0, ..echo.clone() }, "--connections"),
        (Workload { connections: CONNECTIONS_MAX + 1, ..echo.clone() }, "--connections"),
        (Workload { duration: Duration::ZERO, ..echo.clone() }, "--duration"),
        (Workload { pace: Pace::Depth(0), ..echo.clone() }, "--depth"),
        (Workload { pace: Pace::Depth(DEPTH_MAX + 1), ..echo.clone() }, "--depth"),
        (Workload { pace: Pace::Rate(0), ..echo.clone() }, "--rate"),
        (Workload { pace: Pace::Stages(vec![]), ..echo.clone() }, "--stage"),
        (staged(&[(0, 5, 5), (1, 5, 5)]), "--stage"),
        (staged(&[(1, 0, 0)]), "--stage"),
        (staged(&[(1, 0, RATE_MAX + 1)]), "--stage"),
        (staged(&[(86_400, 1, 1), (1, 1, 1)]), "--stage"),
        (Workload { ramp: Duration::from_secs(1), ..staged(&[(1, 0, 5)]) }, "--ramp"),
        (Workload { ramp: Duration::from_secs(1), warmup: Duration::from_secs(1), ..echo.clone() }, "--ramp"),
        (Workload { burst: 2, ..echo.clone() }, "--burst"),
        (Workload { burst: 0, pace: Pace::Rate(1), ..echo.clone() }, "--burst"),
        (Workload { drain: 2 * STAGE_TIME_MAX, ..echo.clone() }, "--drain"),
        (Workload { late_after: Some(Duration::ZERO), ..echo.clone() }, "--late-after"),
        (Workload { message_bytes: (65, 64), ..echo.clone() }, "--message-bytes"),
        (Workload { message_bytes: (1, 1 << 40), ..echo.clone() }, "--message-bytes"),
        (Workload { message_bytes: (20, 20), style: Style::Json, ..echo }, "--message-bytes"),
        (Workload { message_bytes: (16, 16), ..broadcast.clone() }, "--message-bytes"),
        (Workload { topics: 4, ..broadcast.clone() }, "--publishers"),
        (Workload { publishers: 9, ..broadcast.clone() }, "--connections"),
        (Workload { stalled: 6, ..broadcast.clone() }, "--slow"),
        (Workload { stalled: 1, trickle: Some(0), ..broadcast.clone() }, "--trickle"),
        (Workload { topics: 0, ..broadcast }, "--topics"),
    ] {
        assert_eq!(load.check().map_err(|wrong| wrong.flag), Err(flag), "{load:?}");
    }
}

#[test]
fn every_topic_has_its_share_of_publishers_and_subscribers() {
    let load = Workload { connections: 20, publishers: 5, topics: 3, ..workload(Mode::Broadcast) };
    for topic in 0..3 {
        let publishers = (0..5).filter(|&number| load.topic(number) == topic).count();
        assert_eq!(publishers as u32, load.publishers_of(topic));
        assert_eq!((5..20).filter(|&number| load.topic(number) == topic).count(), 5);
    }
    let load = Workload { stalled: 6, ..load };
    assert_eq!(load.check(), Ok(()));
    for topic in 0..3 {
        let stalled = |number: &u32| load.topic(*number) == topic && load.is_stalled(*number);
        assert_eq!((0..20).filter(stalled).count(), 2);
    }
}

#[test]
fn paths_follow_the_url() {
    let path = |text: &str| Template::parse(text).expect("a template");
    assert_eq!(workload(Mode::Echo).default_path(None), path("/echo"));
    assert_eq!(workload(Mode::Push).default_path(None), path("/push"));
    let load = workload(Mode::Broadcast);
    assert_eq!(
        (load.default_path(None), load.topic_name(1)),
        (path(TOPIC_PATH).for_url(), "bench-9abcdef0-1".to_owned())
    );
    assert!(load.check_path(None).is_ok());
    assert!(load.check_path(Some(&path("/t/{{topic}}"))).is_ok());
    assert_eq!(load.check_path(Some(&path("/t"))).map_err(|wrong| wrong.flag), Err("--topics"));
    assert!(Workload { topics: 1, ..load }.check_path(Some(&path("/t"))).is_ok());
    for unknown in ["/{{data.token}}", "/{{payload}}"] {
        let wrong = workload(Mode::Echo).check_path(Some(&path(unknown)));
        assert_eq!(wrong.map_err(|wrong| wrong.flag), Err("URL"), "{unknown}");
    }
}

fn compress() -> impl Strategy<Value = Compress> {
    let compression = (any::<bool>(), 8..16_u8, 1..10_u8, any::<u32>());
    let compression = compression.prop_map(|(context_takeover, window_bits, level, threshold_bytes)| {
        let mut compression = Compression::default().level(level).threshold_bytes(threshold_bytes);
        compression.preferences.server.window_bits = window_bits;
        compression.preferences.client.context_takeover = context_takeover;
        compression
    });
    (".{0,20}", prop::option::of(compression), any::<u64>())
        .prop_map(|(words, compression, context_bytes)| Compress { words, compression, context_bytes })
}

fn pace() -> impl Strategy<Value = Pace> {
    // No stage is longer.
    let stage = (0..=STAGE_TIME_MAX.as_nanos() as u64, any::<u64>(), any::<u64>());
    let stage = stage.prop_map(|(time, from, to)| RateStage { time: Duration::from_nanos(time), from, to });
    prop_oneof![
        any::<u32>().prop_map(Pace::Depth),
        any::<u64>().prop_map(Pace::Rate),
        prop::collection::vec(stage, 0..5).prop_map(Pace::Stages),
    ]
}

fn style() -> impl Strategy<Value = Style> {
    prop::sample::select(vec![Style::Text, Style::Binary, Style::Json])
}

fn listening() -> impl Strategy<Value = Listening> {
    let unit = prop::sample::select(vec![TimeUnit::Nanoseconds, TimeUnit::Seconds]);
    let time = ("[a-z]{1,9}([.][a-z]{1,9})?", unit).prop_map(|(name, unit)| TimeField::new(&name, unit));
    (any::<Option<String>>(), prop::option::of(time)).prop_map(|(hello, time)| Listening { hello, time })
}

prop_compose! {
    fn any_workload()(
        mode in prop::sample::select(vec![Mode::Echo, Mode::Broadcast, Mode::Connect, Mode::Push]),
        (connections, publishers, topics, stalled) in any::<(u32, u32, u32, u32)>(),
        (trickle, seed, burst) in any::<(Option<u64>, u64, u32)>(),
        (duration, warmup, ramp, drain, late_after) in any::<(Duration, Duration, Duration, Duration, Option<Duration>)>(),
        message_bytes in any::<(usize, usize)>(),
        spread in prop::sample::select(vec![Spread::Even, Spread::Zipf]),
        arrivals in prop::sample::select(vec![Arrivals::Even, Arrivals::Poisson]),
        (pace, style, compress) in (pace(), style(), compress()),
        (rate, timeout, hold, resumes, first_message) in any::<(Option<u64>, Duration, Duration, bool, bool)>(),
        listening in listening(),
        (verify, allow_saturated, max_lateness) in any::<(bool, bool, Duration)>(),
        allow in prop::sample::subsequence(Flaw::WORDS.iter().map(|it| it.2).collect::<Vec<_>>(), 0..Flaw::WORDS.len()),
    ) -> Workload {
        Workload {
            mode, connections, publishers, topics, stalled, trickle, duration, warmup, message_bytes, spread, style, pace,
            arrivals, burst, ramp, drain, late_after, allow_saturated, max_lateness, compress, connecting: ConnectOptions { rate, timeout, resumes, hold, first_message, ..ConnectOptions::default() }, listening, verify, allow, seed,
            ..Workload::default()
        }
    }
}

proptest! {
    #[test]
    fn a_serialised_load_is_deserialised_unchanged(load in any_workload()) {
        let text = serde_json::to_string(&load).expect("data");
        prop_assert_eq!(serde_json::from_str::<Workload>(&text).expect("just written"), load);
    }
}

#[test]
fn missing_fields_of_a_load_have_defaults() {
    let load: Workload = serde_json::from_str(r#"{"connections": 7, "pace": {"rate": 500}}"#).expect("valid");
    assert_eq!(load, Workload { connections: 7, pace: Pace::Rate(500), ..Workload::default() });
    assert_eq!(load.check(), Ok(()));
    let lines = Lines::read("Cargo.toml".as_ref(), Style::Text).expect("lines");
    let load = Workload { lines: Some(lines), ..load };
    let text = serde_json::to_string(&load).expect("data");
    assert_eq!(serde_json::from_str::<Workload>(&text).expect("just written"), load);
}

#[test]
fn a_replay_is_a_load_of_its_own() {
    let replay = Replay {
        script: std::sync::Arc::new(crate::plan::replay::script::tests::echoes(3, 2)),
        speed: crate::plan::replay::speed::Speed::default(),
        copies: 2,
    };
    let load = Workload { connections: 6, replay: Some(replay), ..workload(Mode::Replay) };
    assert_eq!(load.check(), Ok(()));
    assert!(load.is_open_loop() && load.senders() == 0);
    let lifetime = Some("1s".parse().expect("a time"));
    for (wrong, flag) in [
        (Workload { replay: None, ..load.clone() }, "--replay"),
        (Workload { mode: Mode::Echo, ..load.clone() }, "--replay"),
        (Workload { connections: 3, ..load.clone() }, "--connections"),
        (Workload { pace: Pace::Rate(5), ..load.clone() }, "--rate"),
        (Workload { churn: Churn { lifetime, ..Churn::default() }, ..load.clone() }, "--lifetime"),
    ] {
        assert_eq!(wrong.check().map_err(|wrong| wrong.flag), Err(flag));
    }
}
