//! Drivers leak no descriptors, and survive running out of them.
//!
//! Descriptors are counted per process, so each test runs in a child process of its own.

use std::time::{Duration, Instant};

use crate::conformance::sockets::{Make, SocketKit, uring};
use crate::conformance::world::{Kit, Peer, Seen, World, options};
use crate::support::alone::alone;
use bytes::Bytes;
use echoring_proto::limits::MILLISECOND;
use echoring_runtime::driver::epoll::Epoll;
use echoring_runtime::driver::{Event, Operations, Options, Source};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs is mounted").count()
}

/// Two thousand connections, ended in every possible way.
fn churn<D: Operations>(make: Make<D>) {
    let before = open_descriptors();
    let options = Options { connections: 64, ..options() };
    let mut world = World::with_options(SocketKit::tcp(make), &options);
    let with_driver = open_descriptors();
    for round in 0..50 {
        let mut pairs: Vec<_> = (0..40).map(|_| world.accept()).collect();
        for (i, (token, peer)) in pairs.iter_mut().enumerate() {
            peer.write(b"something");
            match i % 5 {
                0 => world.driver.close(*token),
                1 => world.driver.abort(*token),
                2 => {
                    world
                        .driver
                        .send(*token, Source::Shared(Bytes::from_static(b"bye").into()))
                        .expect("open");
                    world.driver.shutdown(*token);
                }
                _ => peer.fin(),
            }
        }
        let kept = pairs.split_off(if round % 2 == 0 { 20 } else { 30 });
        pairs.into_iter().for_each(|(_, peer)| peer.reset());
        drop(kept);
        world.until_with(
            "all connections are over",
            |driver, _, event| {
                if let Event::Ended { token } | Event::Failed { token, .. } = event {
                    driver.close(*token);
                }
            },
            |world| world.seen.iter().filter(|seen| matches!(seen, Seen::Closed(_))).count() == 40,
        );
        assert_eq!(open_descriptors(), with_driver, "nothing is left of round {round}");
        world.seen.clear();
    }
    drop(world);
    assert_eq!(open_descriptors(), before, "the driver itself leaves nothing");
}

/// Without descriptors, accepting reports it once, retries without spinning, and resumes by itself.
fn exhaustion<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    let (token, mut peer) = world.accept();
    let mut waiting = world.kit.dial();
    waiting.write(b"in the queue");
    let mut hoard: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    world.until("the failure is told", |world| world.has(&Seen::AcceptFailed));
    assert_eq!(world.accepted().len(), 1);

    let (begun, mut ticks) = (Instant::now(), 0);
    let mut events = Vec::new();
    while begun.elapsed() < Duration::from_millis(400) {
        let deadline = world.driver.now() + 100 * MILLISECOND;
        world.driver.tick(&mut world.pool, Some(deadline), &mut events).expect("the driver works");
        ticks += 1;
    }
    assert!(ticks <= 20, "{ticks} ticks in 0.4 s");
    assert!(events.is_empty(), "one episode is told once: {events:?}");

    world.write(&mut peer, b"still served");
    world.until("those that are here are served", |world| world.received(token) == b"still served");
    hoard.truncate(hoard.len() / 2);
    world.until("the waiting one is taken", |world| world.accepted().len() == 2);
    let taken = world.accepted()[1];
    world.until("and read", |world| world.received(taken) == b"in the queue");
}

#[test]
fn epoll_leaks_no_descriptor() {
    if alone(module_path!(), "epoll_leaks_no_descriptor", 500) {
        churn(Make::new(Epoll::new));
    }
}

#[test]
fn epoll_survives_running_out_of_descriptors() {
    if alone(module_path!(), "epoll_survives_running_out_of_descriptors", 100) {
        exhaustion(Make::new(Epoll::new));
    }
}

#[test]
fn the_ring_leaks_no_descriptor() {
    if alone(module_path!(), "the_ring_leaks_no_descriptor", 500) {
        uring().into_iter().for_each(churn);
    }
}
