//! Every setting of a builder at its extremes: it is refused by its name, or the server works.

use std::time::Duration;

use echoring_server::{
    Builder, ConnectionTimes, Disposition, Handler, Message, Remote, Result, Route, Server, StartErrorKind,
    TopicOptions,
};

use super::{Peer, address};

/// The times without and with an end.
const TIMES: [Duration; 3] = [Duration::ZERO, Duration::from_nanos(1 << 63), Duration::MAX];

struct Echo;

impl Handler for Echo {
    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.send(message)?;
        Ok(Disposition::Done)
    }
}

/// Starts a server, and has an echo if it starts. Otherwise the error names the setting.
fn works_or_is_refused(name: &'static str, set: &impl Fn(Builder) -> Builder) {
    let builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).handle("/ws", || Echo);
    match set(builder).start() {
        Ok(server) => {
            let mut peer = Peer::open(address(&server), "/ws");
            peer.text("x");
            peer.hears("x");
        }
        Err(error) => assert_eq!(error.setting(), Some(name), "{error}"),
    }
}

#[test]
fn every_number_of_a_builder_is_in_its_range_or_refused_by_name() {
    type Set = fn(Builder, u64) -> Builder;
    // Values below and above the range; `None` where the type ends before.
    let settings: [(&str, Set, Option<u64>, Option<u64>); 10] = [
        ("shards", |it, n| it.shards(n as usize), Some(0), Some(1_025)),
        ("max_header", |it, n| it.max_header(n as usize), Some(1_023), Some(64 * 1024 + 1)),
        ("max_message", |it, n| it.max_message(n), Some(0), Some((1 << 31) + 1)),
        ("max_connections", |it, n| it.max_connections(n as u32), Some(0), Some((1 << 24) + 1)),
        ("max_topics", |it, n| it.max_topics(n as u32), Some(0), Some((1 << 24) + 1)),
        ("max_subscriptions", |it, n| it.max_subscriptions(n as u32), Some(0), Some((1 << 20) + 1)),
        ("pings_per_second_max", |it, n| it.pings_per_second_max(n as u32), Some(0), None),
        ("queue_bytes", |it, n| it.queue_bytes(n as u32), Some(4_095), Some((1 << 30) + 1)),
        ("memory_budget", |it, n| it.memory_budget(n), Some((16 << 20) - 1), Some((1 << 47) + 1)),
        ("notsent_lowat", |it, n| it.notsent_lowat(n as u32), None, Some((1 << 30) + 1)),
    ];
    for (name, set, below, above) in settings {
        for outside in [below, above].into_iter().flatten() {
            let builder = set(Server::builder().listen(([127, 0, 0, 1], 0)), outside);
            let error = builder.start().expect_err(name);
            assert_eq!((error.kind(), error.setting()), (StartErrorKind::Range, Some(name)), "{error}");
        }
        // As many shards as are allowed are too many for a test.
        let most = if name == "shards" { 32 } else { above.map_or(u64::from(u32::MAX), |above| above - 1) };
        for inside in [below.map_or(0, |below| below + 1), most] {
            works_or_is_refused(name, &|it| set(it, inside));
        }
        let largest =
            if matches!(name, "max_message" | "memory_budget") { u64::MAX } else { u32::MAX.into() };
        works_or_is_refused(name, &|it| set(it, largest));
    }
}

#[test]
fn every_time_of_a_builder_may_be_zero_or_the_longest() {
    type Set = fn(Builder, Duration) -> Builder;
    let settings: [(&str, Set); 10] = [
        ("send_timeout", |it, time| it.send_timeout(time)),
        ("message_progress", |it, time| it.message_progress(u32::MAX, time)),
        ("pings", |it, time| it.pings(time, time)),
        ("idle_timeout", |it, time| it.idle_timeout(time)),
        ("max_lifetime", |it, time| it.max_lifetime(time)),
        ("reconnect_delay", |it, time| it.reconnect_delay(time)),
        ("takeover_grace", |it, time| it.takeover_grace(time)),
        ("times", |it, time| {
            let times = ConnectionTimes::default().path("/ws").idle_timeout(time).max_lifetime(time);
            it.times(times.pings(time, time).message_progress(u32::MAX, time))
        }),
        ("topics", |it, time| {
            it.topics("*", TopicOptions::new().lag(time).history(u32::MAX, usize::MAX, time))
        }),
        ("route", |it, time| {
            it.route(Route::new("/other", || Echo).pings(time, time).idle_timeout(time).max_lifetime(time))
        }),
    ];
    for (name, set) in settings {
        TIMES.iter().for_each(|time| works_or_is_refused(name, &|it| set(it, *time)));
    }
    // Without time for a handshake there is none.
    TIMES[1..]
        .iter()
        .for_each(|time| works_or_is_refused("handshake_timeout", &|it| it.handshake_timeout(*time)));
}

/// A drain may have any time, too.
#[test]
fn a_server_ends_in_any_time() {
    for time in TIMES {
        let server = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).start().expect("it starts");
        server.handle().drain_within(time);
        server.shutdown(time).expect("it ends in order");
    }
}

/// A handler's reservation is refused if it exceeds the budget.
#[test]
fn a_reservation_beyond_every_budget_is_refused() {
    struct Greedy;

    impl Handler for Greedy {
        fn open(&mut self, remote: &mut Remote<'_>) -> Result {
            let reserved = [usize::MAX, usize::MAX - 1, 1 << 62].map(|bytes| remote.reserve(bytes));
            let one = remote.reserve(1);
            Ok(remote.send_text(&format!("{reserved:?} {one}"))?)
        }
    }

    let builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).handle("/ws", || Greedy);
    let server = builder.start().expect("it starts");
    Peer::open(address(&server), "/ws").hears("[false, false, false] true");
}
