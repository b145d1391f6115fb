//! A reconnecting client over streams in memory, on a paused clock, whose futures are dropped at every await.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use proptest::prelude::*;
use tokio::io::DuplexStream;
use tokio::time::sleep;

use super::*;
use crate::limits::RETRY_AFTER_MAX;
use crate::{DialError, Opened, Settings};
use bytes::Bytes;
use echoring_proto::handshake::BadHandshake;
use echoring_proto::{CloseCode, Role};

/// The server's reaction to an attempt. Times are in milliseconds.
#[derive(Clone, Debug)]
enum Script {
    /// The dial fails after so long.
    Refuse(u64),
    /// The server responds with 503, and asks to wait for so many seconds.
    RetryAfter(u64),
    /// Answers the callback of `on_open` with a close.
    CloseAtOnce,
    /// Accepts after `delay`, sends so many messages with `pause` between them, and ends in a way.
    Serve { delay: u64, messages: u8, pause: u64, end: End },
}

#[derive(Clone, Copy, Debug)]
enum End {
    Cut,
    Close(u16),
    /// With this reason.
    Ask(&'static str),
}

/// The result of a run: messages, events, and why it ended.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    messages: Vec<String>,
    events: Vec<String>,
    failure: String,
    elapsed: Duration,
}

type Client = Reconnecting<DuplexStream>;

/// A client of a server that follows `scripts`, and then refuses for good.
fn client(scripts: Vec<Script>) -> (Client, Arc<Mutex<Vec<String>>>) {
    let mut attempt = 0;
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let client = Reconnecting::new("memory", move || {
        attempt += 1;
        let script = scripts.get(attempt - 1).cloned();
        async move {
            let Some(script) = script else {
                return Err(DialError::BadUrl(echoring_proto::url::BadUrl::Host));
            };
            if let Script::Refuse(delay) = script {
                sleep(Duration::from_millis(delay)).await;
                return Err(DialError::Closed);
            }
            if let Script::RetryAfter(seconds) = script {
                let response = http::Response::builder().status(503).header("Retry-After", seconds);
                let response = Some(Box::new(response.body(Bytes::new()).expect("a response")));
                return Err(DialError::BadHandshake { why: BadHandshake::Status(503), response });
            }
            let (near, far) = tokio::io::duplex(16);
            tokio::spawn(serve(far, attempt, script));
            Ok(Conn::new(near, &Settings::default(), Opened::new(Role::Client)))
        }
    })
    .jitter(false)
    .initial_delay(Duration::from_millis(100))
    .max_delay(Duration::from_secs(2))
    .settled_after(Duration::from_secs(3600))
    .on_open(|mut conn| async move {
        conn.write("a subscription that does not fit the stream's buffer").await?;
        match conn.read().await? {
            answer if answer == "subscribed".into() => Ok(conn),
            other => Err(format!("{other:?}").into()),
        }
    })
    .on_event(move |event| {
        let text = match event {
            Event::Waiting { delay, attempt } => format!("waiting {delay:?} for {attempt}"),
            Event::Lost(error) => format!("lost: {error}"),
            Event::Failed(failure) => format!("failed: {failure}"),
            other => format!("{other:?}"),
        };
        log.lock().expect("no panic").push(text);
    });
    (client, events)
}

async fn serve(stream: DuplexStream, attempt: usize, script: Script) {
    let mut conn = Conn::new(stream, &Settings::default(), Opened::new(Role::Server));
    let Ok(subscribe) = conn.read().await else { return };
    assert_eq!(subscribe.as_bytes().len(), 52);
    let Script::Serve { delay, messages, pause, end } = script else {
        let _ = conn.close(CloseCode(1013), "busy").await;
        return;
    };
    sleep(Duration::from_millis(delay)).await;
    let _ = conn.write("subscribed").await;
    for message in 0..messages {
        sleep(Duration::from_millis(pause)).await;
        let _ = conn.write(format!("message {message} of connection {attempt}")).await;
    }
    match end {
        End::Cut => {}
        End::Close(code) => drop(conn.close(CloseCode(code), "").await),
        End::Ask(reason) => drop(conn.close(CloseCode::GOING_AWAY, reason).await),
    }
}

/// How often a future is polled before it is dropped, and for how many milliseconds nobody polls then.
type Cancellations = Vec<(u8, u64)>;

/// Awaits `make()`, but drops it and makes it anew as `cancellations` says, over and over. Never cancels if it is empty.
async fn cancelled<C, T>(
    client: &mut C,
    cancellations: &mut impl Iterator<Item = (u8, u64)>,
    mut make: impl AsyncFnMut(&mut C) -> T,
) -> T {
    loop {
        let Some((polls, pause)) = cancellations.next() else { return make(client).await };
        {
            let mut future = pin!(make(client));
            for _ in 0..polls {
                let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
                if let Poll::Ready(done) = polled {
                    return done;
                }
                // The other tasks run, and time passes if none of them can.
                sleep(Duration::from_millis(1)).await;
            }
        }
        sleep(Duration::from_millis(pause)).await;
    }
}

/// Reads until the client gives up.
async fn run(scripts: Vec<Script>, cancellations: Cancellations) -> Seen {
    let (mut client, events) = client(scripts);
    let begin = Instant::now();
    let mut cancellations = cancellations.iter().copied().cycle();
    let mut messages = Vec::new();
    let failure = loop {
        match cancelled(&mut client, &mut cancellations, async |client| client.read().await).await {
            Ok(message) => messages.push(message.as_text().expect("a text").to_owned()),
            Err(error) => break error,
        }
    };
    let events = events.lock().expect("no panic").clone();
    let failure = format!("{}: {}", failure, failure.failure().expect("it gave up"));
    Seen { messages, events, failure, elapsed: begin.elapsed() }
}

fn scripts() -> impl Strategy<Value = Vec<Script>> {
    let end = prop_oneof![Just(End::Cut), prop::sample::select(vec![1000, 1001, 1011]).prop_map(End::Close)];
    let script = prop_oneof![
        (0..50_u64).prop_map(Script::Refuse),
        Just(Script::CloseAtOnce),
        (0..20_u64, 0..4_u8, 0..30_u64, end).prop_map(|(delay, messages, pause, end)| Script::Serve {
            delay,
            messages,
            pause,
            end
        }),
    ];
    prop::collection::vec(script, 1..6)
}

fn on_a_paused_clock<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is dropped, and wherever: the same messages, attempts and delays, each once.
    #[test]
    fn a_client_whose_futures_are_dropped_sees_the_same(
        scripts in scripts(),
        cancellations in prop::collection::vec((0..4_u8, 0..8_u64), 1..12)
            .prop_filter("somebody polls", |all| all.iter().any(|(polls, _)| *polls > 0)),
    ) {
        let whole = on_a_paused_clock(run(scripts.clone(), Vec::new()));
        let torn = on_a_paused_clock(run(scripts.clone(), cancellations));
        prop_assert_eq!(&whole.messages, &torn.messages);
        prop_assert_eq!(&whole.events, &torn.events);
        prop_assert_eq!(&whole.failure, &torn.failure);
        // Delays neither restart nor end early. Whoever does not poll loses time, here at most 8 ms at each of its steps.
        let steps = whole.events.len() + whole.messages.len() + 20 * scripts.len();
        prop_assert!(torn.elapsed >= whole.elapsed, "{:?} and {:?}", torn.elapsed, whole.elapsed);
        let latest = whole.elapsed + Duration::from_millis(100) * steps as u32;
        prop_assert!(torn.elapsed <= latest, "{:?} instead of {:?}", torn.elapsed, whole.elapsed);
    }
}

fn serve_one(end: End) -> Script {
    Script::Serve { delay: 0, messages: 1, pause: 0, end }
}

#[test]
fn a_close_that_refuses_the_client_is_final_and_stays_final() {
    on_a_paused_clock(async {
        for code in [1008, 4000] {
            let (mut client, _) = client(vec![serve_one(End::Close(code)), serve_one(End::Cut)]);
            client.read().await.expect("the first message");
            for _ in 0..2 {
                let error = client.read().await.expect_err("a final close");
                let ReconnectError::GaveUp(gave_up) = &error else { panic!("{error:?}") };
                assert_eq!((gave_up.reason(), gave_up.attempts()), (Reason::Permanent, 1));
                assert_eq!(error.failure().and_then(Failure::close_code), Some(CloseCode(code)));
                assert!(matches!(client.state(), State::Failed(_)));
            }
            client.restart();
            let message = client.read().await.expect("the second connection");
            assert_eq!(message, "message 0 of connection 2".into());
        }
    });
}

#[test]
fn a_program_decides_which_closes_are_final() {
    on_a_paused_clock(async {
        let scripts = vec![serve_one(End::Close(4000)), serve_one(End::Close(1000)), serve_one(End::Cut)];
        let (client, _) = client(scripts);
        let mut client = client.retry_if(|failure| failure.close_code() != Some(CloseCode::NORMAL));
        for _ in 0..2 {
            client.read().await.expect("a message");
        }
        let error = client.read().await.expect_err("a final close");
        assert_eq!(error.failure().and_then(Failure::close_code), Some(CloseCode::NORMAL));
    });
}

#[test]
fn the_end_of_a_connection_that_was_given_away_counts_too() {
    on_a_paused_clock(async {
        let (mut client, _) = client(vec![serve_one(End::Close(1008)), serve_one(End::Cut)]);
        let mut conn = client.next().await.expect("a connection");
        conn.read().await.expect("a message");
        client.ended(conn.read().await.expect_err("the close"));
        assert!(client.next().await.is_err());
    });
}

#[test]
fn attempts_and_time_are_bounds() {
    on_a_paused_clock(async {
        let refusals = |delay| vec![Script::Refuse(delay); 100];
        // Attempts: short-lived connections count.
        let (client_of, _) = client(vec![serve_one(End::Cut), serve_one(End::Cut), serve_one(End::Cut)]);
        let mut limited = client_of.max_attempts(2);
        limited.read().await.expect("a message");
        limited.read().await.expect("a message");
        let error = limited.read().await.expect_err("two attempts");
        let ReconnectError::GaveUp(gave_up) = &error else { panic!("{error:?}") };
        assert_eq!((gave_up.reason(), gave_up.attempts()), (Reason::Attempts, 2));
        assert!(matches!(gave_up.failure(), Failure::Lost(Error::Broken)), "{gave_up:?}");

        // Time: delays of 100, 200, 400, 800 and 1,600 ms; the next one, of 2 s, would end behind the limit.
        let begin = Instant::now();
        let mut limited = client(refusals(0)).0.give_up_after(Duration::from_secs(5));
        let error = limited.read().await.expect_err("no server");
        let ReconnectError::GaveUp(gave_up) = &error else { panic!("{error:?}") };
        assert_eq!((gave_up.reason(), gave_up.attempts()), (Reason::Time, 6));
        assert_eq!(begin.elapsed(), Duration::from_millis(3_100));

        // A pending attempt ends at the limit.
        let begin = Instant::now();
        let mut limited = client(refusals(60_000)).0.give_up_after(Duration::from_secs(5));
        let error = limited.read().await.expect_err("no server");
        assert!(matches!(error.failure(), Some(Failure::Timeout)), "{error:?}");
        assert_eq!(begin.elapsed(), Duration::from_secs(5));
    });
}

/// The delays before attempts, in milliseconds.
fn delays(events: &Mutex<Vec<String>>) -> Vec<u128> {
    let events = events.lock().expect("no panic");
    let delay = |event: &String| {
        let delay = event.strip_prefix("waiting ")?.split(" for ").next()?.to_owned();
        match delay.strip_suffix("ms") {
            Some(ms) => ms.parse().ok(),
            None => delay.strip_suffix('s')?.parse().ok().map(|seconds: f64| (seconds * 1e3) as u128),
        }
    };
    events.iter().filter_map(delay).collect()
}

#[test]
fn a_server_that_accepts_and_closes_at_once_is_asked_ever_more_rarely_and_within_the_limits() {
    on_a_paused_clock(async {
        let at_once = Script::Serve { delay: 0, messages: 0, pause: 0, end: End::Close(1000) };
        // A message, such as one that says why, does not make the connection a stable one.
        for script in [at_once, serve_one(End::Close(1011)), serve_one(End::Cut)] {
            let begin = Instant::now();
            let (limited, events) = client(vec![script.clone(); 100]);
            let mut limited = limited.give_up_after(Duration::from_secs(5));
            let error = loop {
                if let Err(error) = limited.read().await {
                    break error;
                }
            };
            let ReconnectError::GaveUp(gave_up) = &error else { panic!("{error:?}") };
            assert_eq!((gave_up.reason(), gave_up.attempts()), (Reason::Time, 6), "{script:?}");
            assert!(matches!(gave_up.failure(), Failure::Lost(_)), "{gave_up:?}");
            assert_eq!(begin.elapsed(), Duration::from_millis(3_100), "{script:?}");
            assert_eq!(delays(&events), [100, 200, 400, 800, 1_600], "{script:?}");

            let (limited, _) = client(vec![script.clone(); 100]);
            let mut limited = limited.max_attempts(3);
            let error = loop {
                if let Err(error) = limited.read().await {
                    break error;
                }
            };
            let ReconnectError::GaveUp(gave_up) = &error else { panic!("{error:?}") };
            assert_eq!((gave_up.reason(), gave_up.attempts()), (Reason::Attempts, 3), "{script:?}");
        }
    });
}

#[test]
fn a_stable_connection_resets_delays_and_bounds_and_time_with_a_connection_does_not_count() {
    on_a_paused_clock(async {
        let lasting = |pause| Script::Serve { delay: 0, messages: 1, pause, end: End::Cut };
        let bounds = |client: Client| {
            client
                .settled_after(Duration::from_secs(30))
                .give_up_after(Duration::from_secs(1))
                .max_attempts(4)
        };
        // Delays of 100, 200 and 100 ms: the third connection was stable.
        let scripts = vec![lasting(29_000), Script::Refuse(0), lasting(31_000), lasting(0)];
        let (client_of, events) = client(scripts);
        let mut bounded = bounds(client_of);
        for _ in 0..3 {
            bounded.read().await.expect("a message");
        }
        assert_eq!(delays(&events), [100, 200, 100]);
        let events = events.lock().expect("no panic").clone();
        assert_eq!(events.last().map(String::as_str), Some("Connected"));
        assert!(events.contains(&"Dialling { attempt: 3 }".to_owned()), "{events:?}");
        assert!(events[events.len() - 2].ends_with("{ attempt: 1 }"), "{events:?}");

        // 100 + 200 + 400 ms without a connection, and 60 s with one.
        let (client_of, events) = client(vec![lasting(20_000); 9]);
        let mut bounded = bounds(client_of).max_attempts(None);
        for _ in 0..4 {
            bounded.read().await.expect("a message");
        }
        assert_eq!(delays(&events), [100, 200, 400]);
        let error = bounded.read().await.expect_err("800 ms more would be too long");
        assert!(matches!(&error, ReconnectError::GaveUp(gave_up) if gave_up.reason() == Reason::Time));
    });
}

#[test]
fn a_server_that_asks_to_wait_is_waited_for() {
    on_a_paused_clock(async {
        let scripts = vec![Script::RetryAfter(7), Script::RetryAfter(u64::MAX), serve_one(End::Cut)];
        let (mut patient, events) = client(scripts.clone());
        patient.read().await.expect("a message");
        // Nobody is asked to wait for ever.
        let most = u128::from(RETRY_AFTER_MAX / 1_000_000);
        assert_eq!(delays(&events), [7_100, most + 200]);

        let (impatient, _) = client(scripts);
        let error = impatient.give_up_after(Duration::from_secs(5)).read().await.expect_err("too long");
        let ReconnectError::GaveUp(gave_up) = &error else { panic!("{error:?}") };
        assert_eq!((gave_up.reason(), gave_up.attempts()), (Reason::Time, 1));
    });
}

#[test]
fn a_server_that_closes_and_asks_to_wait_is_waited_for() {
    on_a_paused_clock(async {
        let asks = |reason| serve_one(End::Ask(reason));
        let scripts = vec![asks("drain; retry after 7000 ms"), asks("retry after all"), serve_one(End::Cut)];
        let (mut client, events) = client(scripts);
        for _ in 0..3 {
            client.read().await.expect("a message");
        }
        assert_eq!(delays(&events), [7_100, 200]);
    });
}

#[test]
fn a_function_that_connects_fails_with_errors_of_its_own() {
    on_a_paused_clock(async {
        let mut calls = 0;
        let mut client = Reconnecting::<DuplexStream>::new("memory", move || {
            calls += 1;
            async move {
                match calls {
                    1 => Err(BoxError::from("no token")),
                    _ => Err(DialError::BadUrl(echoring_proto::url::BadUrl::Host).into()),
                }
            }
        })
        .on_event(|event| {
            if let Event::Failed(Failure::Connect(error)) = event {
                assert_eq!(error.to_string(), "no token");
            }
        });
        let error = client.read().await.expect_err("a bad URL");
        let ReconnectError::GaveUp(gave_up) = &error else { panic!("{error:?}") };
        assert_eq!((gave_up.reason(), gave_up.attempts()), (Reason::Permanent, 2));
        assert!(matches!(error.dial(), Some(DialError::BadUrl(_))), "{error:?}");
    });
}

/// Sends the numbers after the one that a client has, so many over each connection, up to `last`.
async fn serve_numbers(stream: DuplexStream, last: u64, count: u64) {
    let mut conn = Conn::new(stream, &Settings::default(), Opened::new(Role::Server));
    let Ok(request) = conn.read().await else { return };
    let reached: u64 = request.as_text().and_then(|text| text.parse().ok()).expect("a position");
    if conn.write("subscribed").await.is_err() {
        return;
    }
    for number in (reached + 1..=last).take(count as usize) {
        if conn.write(number.to_string()).await.is_err() {
            return;
        }
    }
}

/// Reads `last` numbers from servers that end after so many messages each, over and over.
async fn read_numbers(last: u64, counts: Vec<u64>, cancellations: Cancellations) -> Vec<u64> {
    let position = Arc::new(Mutex::new(0_u64));
    let (restored, mut connections) = (Arc::clone(&position), 0);
    let mut client = Reconnecting::new("memory", move || {
        let (near, far) = tokio::io::duplex(16);
        tokio::spawn(serve_numbers(far, last, counts[connections % counts.len()]));
        connections += 1;
        async { Ok::<_, DialError>(Conn::new(near, &Settings::default(), Opened::new(Role::Client))) }
    })
    .initial_delay(Duration::from_millis(10))
    .max_delay(Duration::from_millis(10))
    .on_open(move |mut conn| {
        let position = *restored.lock().expect("no panic");
        async move {
            conn.write(position.to_string()).await?;
            match conn.read().await? {
                answer if answer == "subscribed".into() => Ok(conn),
                other => Err(format!("{other:?}").into()),
            }
        }
    });
    let mut cancellations = cancellations.iter().copied().cycle();
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        let read = cancelled(&mut client, &mut cancellations, async |client| client.read().await).await;
        let number = read.expect("a number").as_text().and_then(|text| text.parse().ok()).expect("a number");
        *position.lock().expect("no panic") = number;
        numbers.push(number);
    }
    numbers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Connections end anywhere, and futures are dropped anywhere: nothing is lost, and nothing comes twice.
    #[test]
    fn a_callback_resumes_each_connection_from_the_position_that_was_reached(
        counts in prop::collection::vec(0..6_u64, 1..8)
            .prop_filter("somebody sends", |all| all.iter().any(|count| *count > 0)),
        cancellations in prop::collection::vec((0..4_u8, 0..4_u64), 0..8)
            .prop_filter("somebody polls", |all| all.is_empty() || all.iter().any(|(polls, _)| *polls > 0)),
    ) {
        let numbers = on_a_paused_clock(read_numbers(40, counts, cancellations));
        prop_assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
    }
}

#[test]
fn a_callback_that_never_ends_is_cut_off() {
    on_a_paused_clock(async {
        let (client, _) = client(vec![serve_one(End::Cut)]);
        let mut client = client.on_open(|_| std::future::pending()).max_attempts(1);
        let begin = Instant::now();
        let error = client.read().await.expect_err("it never ends");
        assert!(matches!(error.failure(), Some(Failure::Timeout)), "{error:?}");
        assert_eq!(begin.elapsed(), Duration::from_nanos(ON_OPEN_TIMEOUT));
    });
}

#[test]
fn the_state_is_visible_while_it_changes() {
    on_a_paused_clock(async {
        let (mut client, _) = client(vec![Script::Refuse(10), serve_one(End::Close(1008))]);
        let mut states = client.watch();
        let watching = tokio::spawn(async move {
            let mut seen = vec![];
            loop {
                let state = states.borrow_and_update().clone();
                seen.push(match &state {
                    State::Waiting { attempt, .. } => format!("waiting for {attempt}"),
                    State::Failed(gave_up) => format!("failed: {}", gave_up.failure()),
                    other => format!("{other:?}"),
                });
                if matches!(state, State::Failed(_)) || states.changed().await.is_err() {
                    return seen;
                }
            }
        });
        tokio::task::yield_now().await;
        assert!(matches!(client.state(), State::Idle));
        client.read().await.expect("a message");
        client.read().await.expect_err("a final close");
        let seen = watching.await.expect("no panic");
        let states =
            ["Idle", "Connecting { attempt: 1 }", "waiting for 2", "Connecting { attempt: 2 }", "Open"];
        assert_eq!(seen[..5], states);
        assert!(seen[5].starts_with("failed: closed by the peer"), "{seen:?}");
    });
}

#[test]
fn errors_that_leave_the_connection_open_are_returned() {
    on_a_paused_clock(async {
        let script = Script::Serve { delay: 0, messages: 2, pause: 1_000, end: End::Cut };
        let (mut client, _) = client(vec![script]);
        let error = client.read_json::<u64>().await.expect_err("a text that is no number");
        assert!(matches!(error, ReconnectError::Conn(Error::Json(_))), "{error:?}");
        client.current().expect("a connection").set_read_deadline(Some(Instant::now()));
        let error = client.read().await.expect_err("a deadline");
        assert!(matches!(error, ReconnectError::Conn(Error::ReadTimeout)), "{error:?}");
        client.current().expect("the same connection").set_read_deadline(None);
        assert_eq!(client.read().await.expect("a message"), "message 1 of connection 1".into());
    });
}
