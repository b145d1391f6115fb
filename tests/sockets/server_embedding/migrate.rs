//! Handlers that move: between the shards of a server, and to the next release of their program.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use echoring_server::limits::MIGRATE_STATE_BYTES_MAX;
use echoring_server::{
    Builder, Disposition, DriverChoice, Handler, Message, Migrate, PacedDrain, Remote, RemoteSender,
    Requirements, Response, Result, Route, SendError, Server, StartErrorKind, ThawContext,
};

use super::balance::{counts, fill_first_shard};
use super::{PATIENCE, Peer, address};

type Senders = mpsc::Sender<RemoteSender>;

/// Counts the messages of its client, and gives a sender of its connection away if it is asked to.
struct Counter {
    count: u64,
    senders: Senders,
}

impl Handler for Counter {
    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        self.count += 1;
        if message.text() == Some("give") {
            self.senders.send(remote.sender())?;
        }
        remote.send_text(&self.count.to_string())?;
        Ok(Disposition::Done)
    }
}

impl Migrate for Counter {
    fn freeze(&self) -> Option<Vec<u8>> {
        Some(self.count.to_le_bytes().to_vec())
    }

    fn thaw(state: &[u8], here: &ThawContext<'_>) -> Option<Counter> {
        let count = u64::from_le_bytes(state.try_into().ok()?);
        Some(Counter { count, senders: here.state::<Senders>()?.clone() })
    }

    fn thawed(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.send_text("moved")?)
    }

    fn requires(required: &mut Requirements) {
        required.state::<Senders>();
    }
}

/// Its state is that of another version.
struct Foreign;

impl Handler for Foreign {}

impl Migrate for Foreign {
    fn freeze(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn thaw(_: &[u8], _: &ThawContext<'_>) -> Option<Foreign> {
        None
    }
}

/// It does not move at all.
struct Rooted;

impl Handler for Rooted {}

/// Has no state that can move, and counts how often it is asked for it.
struct Stuck {
    asked: Arc<AtomicUsize>,
    state: fn() -> Option<Vec<u8>>,
}

impl Handler for Stuck {}

impl Migrate for Stuck {
    fn freeze(&self) -> Option<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        (self.state)()
    }

    fn thaw(_: &[u8], _: &ThawContext<'_>) -> Option<Stuck> {
        None
    }
}

#[test]
fn a_handler_that_panics_or_has_too_much_state_is_asked_once() {
    fn panics() -> Option<Vec<u8>> {
        panic!("there is no state")
    }
    fn is_too_long() -> Option<Vec<u8>> {
        Some(vec![0; MIGRATE_STATE_BYTES_MAX + 1])
    }
    for state in [panics as fn() -> Option<Vec<u8>>, is_too_long] {
        let asked = Arc::new(AtomicUsize::new(0));
        let drain = PacedDrain { time: Duration::from_secs(2), per_second_max: 1_000 };
        let program = || {
            let asked = Arc::clone(&asked);
            let route = Route::new("/stuck", move || Stuck { asked: Arc::clone(&asked), state });
            Server::builder().rebalance(false).route(route.migrates::<Stuck>()).takeover(drain).shards(1)
        };
        let first = program().listen(([127, 0, 0, 1], 0)).start().expect("the first release starts");
        let address = address(&first);
        let mut peers: Vec<Peer> = (0..3).map(|_| Peer::open(address, "/stuck")).collect();
        let second = program().listen(address).start().expect("the second release starts");
        for peer in &mut peers {
            assert_eq!(peer.close().0, 1012);
        }
        drop(peers);
        first.join().expect("the first release ends in order");
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        second.shutdown(PATIENCE).expect("it ends in order");
    }
}

#[test]
fn a_route_that_migrates_another_type_does_not_start() {
    let start = |route| Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).route(route).start();
    let error = start(Route::new("/rooted", || Rooted).migrates::<Foreign>()).expect_err("another type");
    assert_eq!(error.kind(), StartErrorKind::Route);
    assert!(error.to_string().contains("/rooted: its handlers are not of the type"), "{error}");
    let may_refuse = || if false { Err(Response::text(404, "")) } else { Ok(Foreign) };
    start(Route::new("/foreign", may_refuse).migrates::<Foreign>()).expect("its type");
}

fn program(driver: DriverChoice, senders: Senders) -> Builder {
    let given = senders.clone();
    Server::builder()
        .driver(driver)
        .rebalance(false)
        .state(senders)
        .route(
            Route::new("/count", move || Counter { count: 0, senders: given.clone() }).migrates::<Counter>(),
        )
        .route(Route::new("/foreign", || Foreign).migrates::<Foreign>())
        .route(Route::new("/rooted", || Rooted))
}

fn on_each_driver(test: impl Fn(DriverChoice)) {
    [DriverChoice::Auto, DriverChoice::Epoll].into_iter().for_each(test);
}

#[test]
fn handlers_move_between_shards_unless_somebody_has_their_sender() {
    on_each_driver(|driver| {
        let (senders, given) = mpsc::channel();
        let server = program(driver, senders).listen(([127, 0, 0, 1], 0)).shards(2).start();
        let server = server.expect("the server starts");
        let (handle, address) = (server.handle(), address(&server));
        let mut counters = fill_first_shard(&handle, address, "/count", 20);
        for (number, peer) in counters.iter_mut().enumerate() {
            peer.text(if number < 15 { "give" } else { "keep" });
            peer.hears("1");
        }
        let kept: Vec<RemoteSender> = given.try_iter().collect();
        assert_eq!(kept.len(), 15);
        assert_eq!((handle.rebalance().expect("no shard").moved, counts(&handle)), (5, vec![15, 5]));
        for (number, peer) in counters.iter_mut().enumerate() {
            if number >= 15 {
                peer.hears("moved");
            }
            peer.text("keep");
            peer.hears("2");
        }
        assert!(kept.iter().all(|sender| sender.send_text("from outside").is_ok()));
        counters[..15].iter_mut().for_each(|peer| peer.hears("from outside"));
        drop(kept);
        assert_eq!((handle.rebalance().expect("no shard").moved, counts(&handle)), (5, vec![10, 10]));
        drop(counters);
        server.shutdown(PATIENCE).expect("it ends in order");
    });
}

#[test]
fn handlers_move_to_the_next_release_of_their_program() {
    on_each_driver(|driver| {
        let ((senders, given), (senders_there, given_there)) = (mpsc::channel(), mpsc::channel());
        let drain = PacedDrain { time: Duration::from_secs(2), per_second_max: 1_000 };
        let first = program(driver, senders).takeover(drain).listen(([127, 0, 0, 1], 0)).shards(2).start();
        let first = first.expect("the first release starts");
        let address = address(&first);
        let mut counters: Vec<Peer> = (0..10).map(|_| Peer::open(address, "/count")).collect();
        for peer in &mut counters {
            peer.text("give");
            peer.hears("1");
        }
        let (mut foreign, mut rooted) = (Peer::open(address, "/foreign"), Peer::open(address, "/rooted"));
        let old: Vec<RemoteSender> = (0..10).map(|_| given.recv_timeout(PATIENCE).expect("given")).collect();
        assert!(old.iter().all(|sender| sender.try_send("before").is_ok()));

        let second = program(driver, senders_there).takeover(drain).listen(address).shards(1).start();
        let second = second.expect("the second release starts");
        for peer in &mut counters {
            peer.hears("before");
            peer.hears("moved");
            peer.text("give");
            peer.hears("2");
        }
        assert!(
            old.iter().all(|sender| sender.send("after") == Err(SendError::Closed) && sender.unsent() == 0)
        );
        assert!(!old[0].close(echoring_proto::CloseCode::NORMAL, "it is elsewhere"));
        for _ in &counters {
            let sender = given_there.recv_timeout(PATIENCE).expect("given by the second release");
            sender.send_text("from there").expect("it is open");
        }
        counters.iter_mut().for_each(|peer| peer.hears("from there"));
        assert_eq!(foreign.close().0, 1012);
        assert_eq!(rooted.close().0, 1012);
        drop((foreign, rooted));
        first.join().expect("the first release ends in order");
        counters[0].text("keep");
        counters[0].hears("3");
        drop(counters);
        second.shutdown(PATIENCE).expect("it ends in order");
    });
}
