//! The driver against real sockets, on every degraded path.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use echoring_proto::limits::{MILLISECOND, RECEIVE_CREDIT_BYTES};

/// Number of the listener, which each accepted connection is reported with.
const LISTENER: u8 = 7;

/// Each feature alone, and all together, switched off.
fn masks() -> Vec<Features> {
    let mut masks = vec![Features::NONE, features::KNOWN];
    masks.extend((0..32).map(|bit| Features(1 << bit)).filter(|&one| features::KNOWN.has(one)));
    masks
}

fn options(without: Features) -> Options {
    Options { connections: 256, without, ..Options::default() }
}

#[test]
fn a_ring_that_is_denied_is_cured_by_what_denies_it() {
    for (errno, cured_by) in [
        (libc::ENOMEM, "ulimit -l, LimitMEMLOCK="),
        (libc::EMFILE, "ulimit -n, LimitNOFILE="),
        (libc::ENFILE, "ulimit -n, LimitNOFILE="),
        (libc::EPERM, "kernel.io_uring_disabled=0, a seccomp profile"),
        (libc::EACCES, "kernel.io_uring_disabled=0, a seccomp profile"),
        (libc::ENOSYS, "Linux 6.1 or later with io_uring"),
        (libc::EINVAL, "Linux 6.1 or later"),
    ] {
        let error = io::Error::from_raw_os_error(errno);
        let hint = hint(&error);
        assert!(hint.contains(cured_by), "{error}: {hint}");
        // Each tells one thing.
        let all = ["ulimit -l", "ulimit -n", "seccomp profile that"];
        assert!(all.iter().filter(|other| hint.contains(**other)).count() <= 1, "{error}: {hint}");
    }
}

/// A table of direct descriptors may be as long as the process may have descriptors.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
}

/// A driver with what a shard would have around it.
struct Rig {
    driver: Uring,
    pool: Pool,
    events: VecDeque<Event>,
    give_up_at: Nanos,
}

impl Rig {
    fn new(options: &Options) -> Rig {
        let driver = Uring::new(options).unwrap();
        let give_up_at = driver.now() + 20 * SECOND;
        Rig { driver, pool: Pool::standalone(), events: VecDeque::new(), give_up_at }
    }

    fn listen(&mut self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        self.driver.listen(listener.into(), LISTENER).unwrap();
        address
    }

    /// The next event. Between two calls the bytes of the first one's span stay.
    fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            assert!(self.driver.now() < self.give_up_at, "nothing happened for too long");
            self.tick(Some(self.give_up_at));
        }
    }

    fn tick(&mut self, deadline: Option<Nanos>) {
        let mut events = Vec::new();
        self.driver.tick(&mut self.pool, deadline, &mut events).unwrap();
        self.events.extend(events);
    }

    fn accept(&mut self) -> Token {
        loop {
            if let Event::Accepted { token, listener: LISTENER } = self.next() {
                return token;
            }
        }
    }

    fn pooled(&mut self, bytes: &[u8]) -> Source {
        let mut buffer = self.pool.get(bytes.len()).unwrap();
        buffer.append(bytes);
        Source::Pooled(buffer)
    }

    /// Collects what `token` sends until its stream ends.
    fn read_to_end(&mut self, token: Token) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.next() {
                Event::Received { token: from, span } if from == token => {
                    all.extend_from_slice(self.driver.received(span));
                }
                Event::Ended { token: from } if from == token => return all,
                Event::Failed { token: from, error } if from == token => panic!("failed: {error}"),
                _ => {}
            }
        }
    }

    /// Waits for clients, and goes on turning: where a worker of the kernel sent the last bytes, the ring has to be entered
    /// once more before the socket that it was told to close is let go.
    fn join(&mut self, clients: impl IntoIterator<Item = thread::JoinHandle<()>>) {
        for client in clients {
            while !client.is_finished() {
                assert!(self.driver.now() < self.give_up_at, "a client waits for too long");
                self.tick(Some(self.driver.now() + MILLISECOND));
            }
            client.join().unwrap();
        }
    }

    /// Closes, and waits until nothing is left of the connection.
    fn close(&mut self, token: Token) {
        self.driver.close(token);
        loop {
            match self.next() {
                Event::Closed { token: closed } if closed == token => return,
                Event::Received { token: from, .. } | Event::Failed { token: from, .. } if from == token => {
                    panic!("heard of a connection that was closed");
                }
                _ => {}
            }
        }
    }
}

/// Echoes everything, pausing whoever does not read, until `connections` streams have ended and were closed.
struct Echo {
    waiting: HashMap<Token, Vec<u8>>,
    ended: HashSet<Token>,
    blocked: usize,
}

impl Echo {
    fn run(rig: &mut Rig, connections: usize, mut on_blocked: impl FnMut()) -> usize {
        let mut echo = Echo { waiting: HashMap::new(), ended: HashSet::new(), blocked: 0 };
        let mut closed = 0;
        while closed < connections {
            match rig.next() {
                Event::Received { token, span } => {
                    let waiting = echo.waiting.get_mut(&token);
                    if let Some(waiting) = waiting {
                        waiting.extend_from_slice(rig.driver.received(span));
                    } else if rig.driver.send(token, Source::Received(span)).is_err() {
                        panic!("a connection that is not blocked takes a send");
                    }
                }
                Event::Blocked { token, unsent } => {
                    assert!(unsent > 0);
                    echo.waiting.insert(token, Vec::new());
                    echo.blocked += 1;
                    rig.driver.pause(token);
                    on_blocked();
                }
                Event::Unblocked { token } => {
                    let waiting = echo.waiting.remove(&token).unwrap();
                    if !waiting.is_empty() {
                        let source = rig.pooled(&waiting);
                        rig.driver.send(token, source).unwrap();
                    }
                    rig.driver.resume(token);
                    if echo.ended.contains(&token) {
                        rig.driver.close(token);
                    }
                }
                Event::Ended { token } => {
                    echo.ended.insert(token);
                    if !echo.waiting.contains_key(&token) {
                        rig.driver.close(token);
                    }
                }
                Event::Closed { .. } => closed += 1,
                Event::Failed { error, .. } => panic!("failed: {error}"),
                Event::AcceptFailed { errno } => panic!("accept failed: {errno}"),
                Event::Accepted { .. }
                | Event::HalfClosed { .. }
                | Event::Released { .. }
                | Event::Kept { .. }
                | Event::Connected { .. }
                | Event::Addressed { .. }
                | Event::Acknowledged { .. }
                | Event::Arrived { .. }
                | Event::Woken => {}
            }
        }
        echo.blocked
    }
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at.wrapping_mul(31).wrapping_add(at >> 8).wrapping_add(seed * 7)) as u8).collect()
}

/// Writes `bytes` in one thread and reads as many in this one.
fn exchange(address: SocketAddr, bytes: Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == bytes, "{} bytes went and {} came, or others", bytes.len(), back.len());
}

#[test]
fn echoes_many_connections_on_every_path() {
    for without in masks() {
        let mut rig = Rig::new(&options(without));
        let address = rig.listen();
        let clients: Vec<_> = (0..20)
            .map(|seed| thread::spawn(move || exchange(address, pattern(1 + seed * seed * 977, seed))))
            .collect();
        Echo::run(&mut rig, clients.len(), || {});
        rig.join(clients);
        assert_eq!(rig.driver.describe().degraded, without, "{without:?}");
    }
}

#[test]
fn a_multishot_accept_is_used_while_there_is_room() {
    let mut rig = Rig::new(&Options { connections: 9000, ..options(Features::NONE) });
    let address = rig.listen();
    let clients: Vec<_> =
        (0..50).map(|seed| thread::spawn(move || exchange(address, pattern(1000, seed)))).collect();
    Echo::run(&mut rig, clients.len(), || {});
    rig.join(clients);
}

#[test]
fn a_peer_that_does_not_read_gets_everything_later() {
    for without in masks() {
        let mut rig = Rig::new(&options(without));
        let address = rig.listen();
        let (blocked, go) = mpsc::channel();
        let bytes = pattern(12 << 20, 3);
        let expected = bytes.clone();
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let writing = thread::spawn(move || {
                writer.write_all(&bytes).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            go.recv_timeout(Duration::from_secs(20)).unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            writing.join().unwrap();
            assert!(back == expected, "{without:?}");
        });
        let times = Echo::run(&mut rig, 1, || blocked.send(()).unwrap_or_default());
        assert!(times > 0);
        rig.join([client]);
        assert!(rig.pool.used_bytes() < 4 << 20, "buffers of rests come back");
    }
}

#[test]
fn partial_submission_keeps_the_order_and_the_bytes() {
    let mut rig = Rig::new(&options(Features::NONE));
    rig.driver.ring.offer_max = 1;
    let address = rig.listen();
    let clients: Vec<_> =
        (0..30).map(|seed| thread::spawn(move || exchange(address, pattern(50_000, seed)))).collect();
    Echo::run(&mut rig, clients.len(), || {});
    rig.join(clients);
}

#[test]
fn scarce_receive_memory_delays_and_loses_nothing() {
    for without in masks() {
        let mut rig = Rig::new(&Options { receive_bytes: 32 * 1024, ..options(without) });
        let address = rig.listen();
        let clients: Vec<_> =
            (0..40).map(|seed| thread::spawn(move || exchange(address, pattern(200_000, seed)))).collect();
        Echo::run(&mut rig, clients.len(), || {});
        rig.join(clients);
    }
}

#[test]
fn more_connections_than_slots_wait_their_turn() {
    for without in [Features::NONE, Features::DIRECT] {
        let mut rig = Rig::new(&Options { connections: 3, ..options(without) });
        let address = rig.listen();
        let clients: Vec<_> =
            (0..24).map(|seed| thread::spawn(move || exchange(address, pattern(3000, seed)))).collect();
        Echo::run(&mut rig, clients.len(), || {});
        rig.join(clients);
    }
}

#[test]
fn sources_of_every_kind_leave_in_order_as_one_send() {
    let mut rig = Rig::new(&options(Features::NONE));
    let address = rig.listen();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"received").unwrap();
    let token = rig.accept();
    let span = loop {
        if let Event::Received { span, .. } = rig.next() {
            break span;
        }
    };
    let one = rig.pooled(b"<pooled>");
    rig.driver.send(token, one).unwrap();
    rig.driver.send(token, Source::Received(span)).unwrap();
    rig.driver.send(token, Source::Shared(Bytes::from_static(b"<shared>").into())).unwrap();
    rig.driver.close(token);
    assert!(rig.driver.send(token, Source::Received(span)).is_err(), "a closing connection takes no send");
    while !matches!(rig.next(), Event::Closed { .. }) {}
    let mut back = String::new();
    client.read_to_string(&mut back).unwrap();
    assert_eq!(back, "<pooled>received<shared>");
}

#[test]
fn a_paused_connection_brings_no_more_than_its_credit() {
    for without in [Features::NONE, Features::RECEIVE_TOTAL] {
        let mut rig = Rig::new(&options(without));
        let address = rig.listen();
        let bytes = pattern(2 << 20, 5);
        let expected = bytes.clone();
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        let token = rig.accept();
        rig.driver.pause(token);
        let mut all = Vec::new();
        // What was under way still comes; then silence.
        let quiet_at = rig.driver.now() + 200 * MILLISECOND;
        while rig.driver.now() < quiet_at {
            rig.tick(Some(quiet_at));
            while let Some(event) = rig.events.pop_front() {
                if let Event::Received { span, .. } = event {
                    all.extend_from_slice(rig.driver.received(span));
                }
            }
        }
        if rig.driver.describe().features.has(Features::RECEIVE_TOTAL) {
            assert!(all.len() <= RECEIVE_CREDIT_BYTES as usize);
        }
        assert!(all.len() < expected.len());
        rig.driver.resume(token);
        all.extend(rig.read_to_end(token));
        assert!(all == expected);
        rig.close(token);
        client.join().unwrap();
    }
}

#[test]
fn pausing_and_resuming_at_once_loses_nothing() {
    for without in [Features::NONE, Features::RECEIVE_TOTAL] {
        let mut rig = Rig::new(&options(without));
        let address = rig.listen();
        let bytes = pattern(1 << 20, 6);
        let expected = bytes.clone();
        let client = thread::spawn(move || TcpStream::connect(address).unwrap().write_all(&bytes).unwrap());
        let token = rig.accept();
        let mut all = Vec::new();
        loop {
            match rig.next() {
                Event::Received { span, .. } => {
                    all.extend_from_slice(rig.driver.received(span));
                    rig.driver.pause(token);
                    if all.len() % 2 == 0 {
                        rig.tick(Some(0));
                        // The tick ended the span; what it brought is still to be handled.
                    }
                    rig.driver.resume(token);
                }
                Event::Ended { .. } => break,
                _ => {}
            }
        }
        assert!(all == expected);
        client.join().unwrap();
    }
}

#[test]
fn half_closing_sends_what_was_staged_and_still_receives() {
    for without in [Features::NONE, Features::FD_INSTALL, Features::DIRECT] {
        let mut rig = Rig::new(&options(without));
        let address = rig.listen();
        let mut client = TcpStream::connect(address).unwrap();
        let token = rig.accept();
        let source = rig.pooled(b"goodbye");
        rig.driver.send(token, source).unwrap();
        rig.driver.shutdown(token);
        let source = rig.pooled(b"too late");
        assert!(rig.driver.send(token, source).is_err());
        let reading = thread::spawn(move || {
            let mut back = String::new();
            client.read_to_string(&mut back).unwrap();
            assert_eq!(back, "goodbye");
            client.write_all(b"and the answer").unwrap();
        });
        assert_eq!(rig.read_to_end(token), b"and the answer");
        reading.join().unwrap();
        rig.close(token);
    }
}

#[test]
fn addresses_are_found_where_they_are_asked_for() {
    for (without, finds_addresses, is_found) in [
        (Features::NONE, false, true),
        (Features::DIRECT, false, true),
        (Features::FD_INSTALL, true, true),
        (Features::FD_INSTALL, false, false),
    ] {
        let mut rig = Rig::new(&Options { finds_addresses, ..options(without) });
        let address = rig.listen();
        let client = TcpStream::connect(address).unwrap();
        let token = rig.accept();
        rig.driver.find_address(token);
        while !matches!(rig.next(), Event::Addressed { .. }) {}
        let found = rig.driver.address(token);
        assert_eq!(found, is_found.then(|| client.local_addr().unwrap()), "{without:?} {finds_addresses}");
        rig.close(token);
    }
}

#[test]
fn closing_waits_for_a_slow_reader_and_aborting_does_not() {
    for (without, abort) in [(Features::NONE, false), (Features::SKIP_SUCCESS, false), (Features::NONE, true)]
    {
        let mut rig = Rig::new(&options(without));
        let address = rig.listen();
        let mut client = TcpStream::connect(address).unwrap();
        let token = rig.accept();
        let bytes = Bytes::from(pattern(16 << 20, 9));
        rig.driver.send(token, Source::Shared(bytes.clone().into())).unwrap();
        while !matches!(rig.next(), Event::Blocked { .. }) {}
        assert!(rig.driver.send(token, Source::Shared(bytes.clone().into())).is_err(), "blocked");
        if abort {
            rig.driver.abort(token);
            while !matches!(rig.next(), Event::Closed { .. }) {}
            let mut back = Vec::new();
            // The end may show as a reset.
            let _ = client.read_to_end(&mut back);
            assert!(back.len() < bytes.len() && bytes.starts_with(&back));
        } else {
            let expected = bytes.clone();
            let reading = thread::spawn(move || {
                let mut back = Vec::new();
                client.read_to_end(&mut back).unwrap();
                assert!(back == expected);
            });
            rig.close(token);
            reading.join().unwrap();
        }
    }
}

#[test]
fn an_abort_drops_what_was_staged() {
    let mut rig = Rig::new(&options(Features::NONE));
    let address = rig.listen();
    let mut client = TcpStream::connect(address).unwrap();
    let token = rig.accept();
    let source = rig.pooled(b"never");
    rig.driver.send(token, source).unwrap();
    rig.driver.abort(token);
    while !matches!(rig.next(), Event::Closed { .. }) {}
    let mut back = Vec::new();
    client.read_to_end(&mut back).unwrap();
    assert!(back.is_empty());
}

#[test]
fn a_reset_is_reported_once_and_closing_ends_it() {
    let mut rig = Rig::new(&options(Features::NONE));
    let address = rig.listen();
    let client = TcpStream::connect(address).unwrap();
    let token = rig.accept();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let error = loop {
        if let Event::Failed { error, .. } = rig.next() {
            break error;
        }
    };
    assert_eq!(error, io::ErrorKind::ConnectionReset);
    let source = rig.pooled(b"nobody there");
    assert!(rig.driver.send(token, source).is_err());
    rig.close(token);
}

#[test]
fn connects_from_a_chosen_source_and_speaks() {
    for without in [Features::NONE, Features::DIRECT] {
        let mut rig = Rig::new(&options(without));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let source = "127.0.0.2:0".parse().unwrap();
        let token = rig.driver.connect(&address.into(), Some(source)).unwrap();
        while !matches!(rig.next(), Event::Connected { token: connected } if connected == token) {}
        let (mut peer, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), "127.0.0.2");
        peer.write_all(b"hello").unwrap();
        drop(peer);
        assert_eq!(rig.read_to_end(token), b"hello");
        rig.close(token);
        assert!(rig.driver.connections.slots.get(token).is_none());
    }
}

#[test]
fn a_refused_connect_fails() {
    let mut rig = Rig::new(&options(Features::NONE));
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let token = rig.driver.connect(&gone.into(), None).unwrap();
    let error = loop {
        if let Event::Failed { token: failed, error } = rig.next() {
            assert_eq!(failed, token);
            break error;
        }
    };
    assert_eq!(error, io::ErrorKind::ConnectionRefused);
    rig.close(token);
}

#[test]
fn a_connect_that_hangs_can_be_aborted() {
    let mut rig = Rig::new(&options(Features::NONE));
    // A listener whose queue is full does not answer.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let tokens: Vec<_> = (0..4).map(|_| rig.driver.connect(&address.into(), None).unwrap()).collect();
    let hanging = *tokens.last().unwrap();
    while !matches!(rig.next(), Event::Connected { .. }) {}
    rig.driver.abort(hanging);
    while !matches!(rig.next(), Event::Closed { token } if token == hanging) {}
}

#[test]
fn dialled_and_accepted_connections_share_one_table() {
    for without in [Features::NONE, Features::DIRECT] {
        let mut rig = Rig::new(&Options { connections: 150, ..options(without) });
        let early =
            rig.driver.connect(&TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().into(), None);
        let address = rig.listen();
        let mut dialled = vec![early.unwrap()];
        dialled.extend((0..60).map(|_| rig.driver.connect(&address.into(), None).unwrap()));
        let (mut accepted, mut connected) = (HashSet::new(), 0);
        while accepted.len() < 60 || connected < 60 {
            match rig.next() {
                Event::Accepted { token, listener: LISTENER } => assert!(accepted.insert(token)),
                Event::Connected { .. } => connected += 1,
                _ => {}
            }
        }
        for token in dialled.iter().chain(&accepted) {
            rig.driver.close(*token);
        }
        let mut closed = 0;
        while closed < dialled.len() + accepted.len() {
            closed += usize::from(matches!(rig.next(), Event::Closed { .. }));
        }
        assert_eq!(rig.driver.connections.slots.room(), 150);
    }
}

#[test]
fn thousands_of_closes_at_once_take_few_turns() {
    const PAIRS: usize = 2000;
    raise_descriptor_limit();
    for without in [Features::NONE, Features::SKIP_SUCCESS.with(Features::RECEIVE_TOTAL)] {
        let mut rig = Rig::new(&Options { connections: 2 * PAIRS as u32 + 64, ..options(without) });
        let address = rig.listen();
        let (mut tokens, mut dialled, mut opened) = (Vec::new(), 0, 0);
        // Both ends are the driver's, so that no end is closed by the other.
        while tokens.len() < 2 * PAIRS || opened < PAIRS {
            while dialled - opened < 64 && dialled < PAIRS {
                tokens.push(rig.driver.connect(&address.into(), None).unwrap());
                dialled += 1;
            }
            match rig.next() {
                Event::Accepted { token, listener: LISTENER } => tokens.push(token),
                Event::Connected { .. } => opened += 1,
                event => panic!("{event:?} of a quiet connection"),
            }
        }
        tokens.iter().for_each(|&token| rig.driver.close(token));
        let (mut closed, mut ticks) = (0, 0);
        while closed < tokens.len() {
            rig.tick(Some(rig.give_up_at));
            closed += rig.events.drain(..).filter(|event| matches!(event, Event::Closed { .. })).count();
            ticks += 1;
            // The kernel ends some twenty operations in a trip. What is found once is not looked for again.
            assert!(ticks < tokens.len() / 5, "{closed} of {} closed in {ticks} ticks", tokens.len());
            assert!(rig.driver.now() < rig.give_up_at, "{closed} of {} closed in time", tokens.len());
        }
        assert_eq!(rig.driver.connections.slots.iter().count(), 0);
    }
}

#[test]
fn a_waker_ends_the_wait_from_another_thread() {
    for without in masks() {
        let mut rig = Rig::new(&options(without));
        for _ in 0..3 {
            let waker = rig.driver.waker();
            let other = thread::spawn(move || waker.wake());
            while !matches!(rig.next(), Event::Woken) {}
            other.join().unwrap();
        }
    }
}

#[test]
fn a_driver_wakes_another_by_its_ring_and_survives_its_end() {
    let (send, receive) = mpsc::channel();
    let other = thread::spawn(move || {
        let mut rig = Rig::new(&options(Features::NONE));
        send.send(rig.driver.waker()).unwrap();
        while !matches!(rig.next(), Event::Woken) {}
    });
    let waker = receive.recv().unwrap();
    let mut rig = Rig::new(&options(Features::NONE));
    rig.driver.wake(&waker);
    rig.tick(Some(0));
    other.join().unwrap();
    for _ in 0..3 {
        rig.driver.wake(&waker);
        rig.tick(Some(0));
    }
    assert!(rig.events.is_empty());
}

#[test]
fn a_deadline_ends_the_wait() {
    for without in [Features::NONE, Features::ABSOLUTE_TIMEOUT] {
        let mut rig = Rig::new(&options(without));
        let deadline = rig.driver.now() + 20 * MILLISECOND;
        while rig.driver.now() < deadline {
            rig.tick(Some(deadline));
        }
        assert!(rig.driver.now() < deadline + 5 * SECOND);
        rig.tick(Some(1));
        rig.tick(Some(0));
    }
}

#[test]
fn listening_can_stop_and_start_again() {
    let mut rig = Rig::new(&options(Features::NONE));
    let first = rig.listen();
    let mut client = TcpStream::connect(first).unwrap();
    let token = rig.accept();
    rig.driver.stop_listening();
    let second = rig.listen();
    let _more = TcpStream::connect(second).unwrap();
    rig.accept();
    while TcpStream::connect(first).is_ok() {
        assert!(rig.driver.now() < rig.give_up_at, "the first listener is not closed");
        let soon = rig.driver.now() + MILLISECOND;
        rig.tick(Some(soon));
    }
    client.write_all(b"still here").unwrap();
    drop(client);
    assert_eq!(rig.read_to_end(token), b"still here");
}

/// Two processes share a socket in a takeover. The second must not wait at it before the first has stopped: a wake-up that goes to a
/// ring which is about to cancel is lost.
#[test]
fn a_connection_that_comes_while_a_ring_stops_is_the_next_ones() {
    for _ in 0..20 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (mut first, mut second) =
            (Rig::new(&options(Features::NONE)), Rig::new(&options(Features::NONE)));
        first.driver.listen(listener.try_clone().unwrap().into(), LISTENER).unwrap();
        first.tick(Some(0));
        let _client = TcpStream::connect(address).unwrap();
        first.driver.stop_listening();
        while first.driver.is_listening() {
            first.tick(Some(first.give_up_at));
        }
        second.driver.listen(listener.into(), LISTENER).unwrap();
        if !first.events.iter().any(|event| matches!(event, Event::Accepted { .. })) {
            second.accept();
        }
    }
}

/// The kernel wakes one of the rings at a socket for each connection. It may be one that has ended, and is not taken down yet.
#[test]
fn a_connection_that_woke_a_ring_which_does_nothing_is_found_by_another() {
    raise_descriptor_limit();
    // With single accepts, and with a multishot one.
    for connections in [256, 20_000] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let options = Options { connections, ..options(Features::NONE) };
        let (mut first, mut second) = (Rig::new(&options), Rig::new(&options));
        first.driver.listen(listener.try_clone().unwrap().into(), LISTENER).unwrap();
        first.tick(Some(0));
        second.driver.listen(listener.into(), LISTENER).unwrap();
        second.tick(Some(0));
        for clients in [1, 3] {
            let _clients: Vec<_> = (0..clients).map(|_| TcpStream::connect(address).unwrap()).collect();
            for _ in 0..clients {
                second.accept();
            }
        }
    }
}

#[test]
fn running_out_of_the_budget_fails_the_connection_whose_rest_does_not_fit() {
    let mut rig = Rig::new(&options(Features::NONE));
    let address = rig.listen();
    let mut client = TcpStream::connect(address).unwrap();
    let token = rig.accept();
    rig.pool = Pool::new(echoring_proto::buffer::Budget::new(0));
    let writing = thread::spawn(move || {
        let bytes = pattern(1 << 20, 1);
        while client.write_all(&bytes).is_ok() {}
    });
    let error = loop {
        match rig.next() {
            Event::Received { token, span } => drop(rig.driver.send(token, Source::Received(span))),
            Event::Failed { error, .. } => break error,
            Event::Blocked { .. } => panic!("there is no memory for a rest"),
            _ => {}
        }
    };
    assert_eq!(error, io::ErrorKind::OutOfMemory);
    rig.close(token);
    writing.join().unwrap();
}

#[test]
fn dropping_a_busy_driver_ends_its_connections() {
    for without in [Features::NONE, Features::DIRECT] {
        let mut rig = Rig::new(&options(without));
        let address = rig.listen();
        let mut clients: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
        for _ in 0..10 {
            let token = rig.accept();
            rig.driver.send(token, Source::Shared(Bytes::from(vec![1; 8 << 20]).into())).unwrap();
        }
        while !matches!(rig.next(), Event::Blocked { .. }) {}
        drop(rig.driver);
        for client in &mut clients {
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let end = client.read_to_end(&mut Vec::new());
            assert!(end.is_ok() || end.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
        }
    }
}

#[test]
fn full_queues_are_survived() {
    for without in [Features::NONE, Features::INCREMENTAL.with(Features::SKIP_SUCCESS)] {
        let mut rig = Rig::new(&options(without));
        rig.driver = Uring::with_queues(&options(without), 4, 4).unwrap();
        let address = rig.listen();
        let clients: Vec<_> =
            (0..60).map(|seed| thread::spawn(move || exchange(address, pattern(100_000, seed)))).collect();
        Echo::run(&mut rig, clients.len(), || {});
        rig.join(clients);
        assert!(rig.driver.work().overflows > 0);
    }
}
