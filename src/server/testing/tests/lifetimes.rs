//! Connections that are silent, have no messages, or have lasted for long.

use std::time::Duration;

use super::{Member, SECOND, StreamingEcho, echo, rooms};
use crate::node::server::Server;
use crate::routes::route::Route;
use crate::testing::{TestClient, TestServer};
use echoring_proto::connection::{Cause, MessageKind};

const MINUTE: Duration = Duration::from_secs(60);
const GONE: u16 = 1001;

fn ended(client: &TestClient) -> Option<(u16, String)> {
    let closed = client.closed()?;
    Some((closed.code.0, closed.peer_close.map(|close| close.reason).unwrap_or_default()))
}

fn idle() -> Option<(u16, String)> {
    Some((GONE, "no messages for too long".to_owned()))
}

fn life_over() -> Option<(u16, String)> {
    Some((GONE, "connection lifetime is over".to_owned()))
}

/// Connections of the server that ended by this cause.
fn ends_by(server: &TestServer, cause: &Cause) -> u64 {
    let snapshots = server.handle().snapshots().expect("no shard");
    snapshots.iter().map(|shard| shard.counters.causes().get(cause.name()).copied().unwrap_or(0)).sum()
}

#[test]
fn a_connection_without_messages_ends_and_pings_are_none() {
    let server = TestServer::new(echo().idle_timeout(MINUTE));
    let (silent, pinging, talking) =
        (server.connect("/").unwrap(), server.connect("/").unwrap(), server.connect("/").unwrap());
    let mut ended_after = [None; 3];
    for second in 1..=200 {
        server.advance(SECOND);
        pinging.ping(b"here");
        if second % 55 == 0 && second < 120 {
            talking.send_text("still here");
        }
        for (client, ended_after) in [&silent, &pinging, &talking].into_iter().zip(&mut ended_after) {
            *ended_after = ended_after.or(ended(client).is_some().then_some(second));
        }
    }
    let [Some(silent_after), Some(pinging_after), Some(talking_after)] = ended_after else {
        panic!("{ended_after:?}")
    };
    assert!((60..=61).contains(&silent_after) && (60..=61).contains(&pinging_after), "{ended_after:?}");
    // From the last message at 110, and up to a quarter of the time more.
    assert!((170..=186).contains(&talking_after), "{talking_after}");
    assert!([&silent, &pinging, &talking].into_iter().all(|client| ended(client) == idle()));
    assert_eq!(ends_by(&server, &Cause::Idle), 3);
}

#[test]
fn a_reload_does_not_forget_the_messages_since_the_last_look() {
    let builder = echo().idle_timeout(MINUTE);
    let mut config = builder.config().clone();
    let server = TestServer::new(builder);
    let client = server.connect("/").unwrap();
    server.advance(10 * SECOND);
    client.send_text("here");
    server.advance(2 * SECOND);
    config.lifetime.max_lifetime = 1_000 * MINUTE.as_nanos() as u64;
    server.handle().reconfigure(&config).expect("no shard");
    server.advance(57 * SECOND);
    assert!(client.is_open(), "its message is 59 s old");
    server.advance(20 * SECOND);
    assert_eq!(ended(&client), idle());
}

#[test]
fn what_a_subscriber_is_sent_keeps_it_from_being_idle() {
    let server = TestServer::new(rooms(2).idle_timeout(MINUTE));
    let (listening, silent) = (server.connect("/busy").unwrap(), server.connect("/still").unwrap());
    for _ in 0..20 {
        server.advance(40 * SECOND);
        server.handle().publish("busy", "news").unwrap();
    }
    assert_eq!(listening.take_texts().len(), 20);
    assert!(listening.is_open());
    assert_eq!(ended(&silent), idle());
}

#[test]
fn each_connection_ends_within_the_last_tenth_of_the_longest_life_and_not_soon_in_a_message() {
    const AMID: usize = 20;
    let server = TestServer::new(echo().max_lifetime(100 * SECOND).message_progress(0, SECOND));
    let clients: Vec<_> = (0..100).map(|_| server.connect("/").unwrap()).collect();
    // The messages of these end at second 97, when most lives are over, and that of the last one never ends.
    let (amid, endless) = (&clients[..AMID], AMID);
    for client in &clients[..=endless] {
        client.send_fragment(MessageKind::Text, true, false, b"half of ");
    }
    let mut lasted = vec![None; clients.len()];
    for second in 1..=130 {
        server.advance(SECOND);
        for (number, client) in clients.iter().enumerate() {
            if lasted[number].is_none() && ended(client).is_some() {
                lasted[number] = Some(second);
                assert_eq!(ended(client), life_over());
            } else if lasted[number].is_none() && number > endless {
                client.send_text("busy");
            }
        }
        if second == 97 {
            for client in amid {
                assert!(client.is_open());
                client.send_fragment(MessageKind::Text, false, true, b"a message");
                assert_eq!(client.take_texts(), ["half of a message"]);
            }
        }
    }
    let lasted: Vec<u64> = lasted.iter().map(|lasted| lasted.expect("it ended")).collect();
    assert!(lasted[..AMID].iter().all(|lasted| (97..=101).contains(lasted)), "{lasted:?}");
    assert!((98..=109).contains(&lasted[endless]), "{lasted:?}");
    let rest = &lasted[endless + 1..];
    assert!(rest.iter().all(|lasted| (90..=101).contains(lasted)), "{rest:?}");
    let (first, last) = (rest.iter().min().unwrap(), rest.iter().max().unwrap());
    assert!(last - first >= 8, "they end at different times: {rest:?}");
    assert_eq!(ends_by(&server, &Cause::LifeOver), 100);
}

#[test]
fn a_subscriber_gets_everything_before_the_end_of_its_life_and_a_stalled_one_is_not_waited_for() {
    let server = TestServer::new(rooms(1).max_lifetime(100 * SECOND));
    let (reading, stalled) = (server.connect("/room").unwrap(), server.connect("/room").unwrap());
    stalled.stall();
    let mut published = 0;
    while reading.is_open() {
        server.handle().publish("room", format!("{published}").as_str()).unwrap();
        published += 1;
        server.advance(SECOND / 2);
        assert!(published < 300);
    }
    let texts = reading.take_texts();
    let sent: Vec<String> = (0..texts.len()).map(|number| number.to_string()).collect();
    assert_eq!((texts, ended(&reading)), (sent, life_over()));
    server.advance(MINUTE);
    assert_eq!(server.connections(), 0, "its send makes no progress");
}

#[test]
fn a_shard_ends_at_most_a_thousand_lives_a_second() {
    let server = TestServer::new(echo().max_lifetime(SECOND));
    let clients: Vec<_> = (0..300).map(|_| server.connect("/").unwrap()).collect();
    let mut open = clients.len();
    // All are over within the last tenth of the second.
    while open > 0 {
        server.advance(SECOND / 100);
        let now = clients.iter().filter(|client| client.is_open()).count();
        assert!(open - now <= 11 && server.now() < 2 * SECOND, "{open}, {now}, {:?}", server.now());
        open = now;
    }
    assert!(server.now() >= SECOND * 12 / 10, "{:?}", server.now());
}

#[test]
fn routes_have_times_of_their_own_and_a_reload_changes_those_of_the_others() {
    let builder = Server::builder()
        .idle_timeout(MINUTE)
        .pings(10 * SECOND, 5 * SECOND)
        .handle("/default", || StreamingEcho)
        .route(
            Route::new("/patient", || StreamingEcho).idle_timeout(Duration::ZERO).pings(30 * SECOND, SECOND),
        )
        .route(Route::new("/short", || Member("t".to_owned())).max_lifetime(20 * SECOND));
    let mut config = builder.config().clone();
    let server = TestServer::new(builder);
    let [default, patient, short] =
        ["/default", "/patient", "/short"].map(|path| server.connect(path).unwrap());
    server.advance(29 * SECOND);
    let pings = [&default, &patient].map(|client| client.take_pings().len());
    assert_eq!((pings, ended(&short)), ([2, 0], life_over()));
    server.advance(2 * SECOND);
    assert_eq!(patient.take_pings().len(), 1);
    // For the connections that are open, too.
    config.lifetime.idle_timeout = 10 * MINUTE.as_nanos() as u64;
    config.connection.ping_interval = SECOND.as_nanos() as u64;
    server.handle().reconfigure(&config).expect("no shard");
    server.advance(10 * SECOND);
    let pings = [&default, &patient].map(|client| client.take_pings().len());
    assert!(pings[0] >= 9 && pings[1] == 0, "{pings:?}");
    server.advance(5 * MINUTE);
    assert!(default.is_open() && patient.is_open());
    server.advance(8 * MINUTE);
    assert_eq!(ended(&default), idle());
    assert!(patient.is_open());
}
