//! Real sockets as peers, and the tests that need real sockets.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use echoring_proto::limits::{MILLISECOND, SECOND};
use echoring_runtime::driver::uring::Uring;
use echoring_runtime::driver::{
    Event, Features, Operations, Options, RemoteAddress, SendTimes, Source, TcpInfo, Token, has_kernel_times,
};
use socket2::{Domain, SockAddr, Socket, Type};

#[allow(unused_imports, reason = "not every test binary runs the suite")]
pub use super::taking_back::{
    a_peer_that_fell_behind_has_little_in_the_kernel, a_quick_reader_waits_for_the_owner_too,
    stamps_of_short_sends_hold_up_nobody,
};
use super::world::{Echo, Heard, Kit, Peer, Seen, World, assert_same, options, pattern};

/// How a driver under test is made.
#[derive(Debug)]
pub struct Make<D> {
    make: fn(&Options) -> io::Result<D>,
    without: Features,
    stamps_every: u32,
}

impl<D> Clone for Make<D> {
    fn clone(&self) -> Make<D> {
        *self
    }
}

impl<D> Copy for Make<D> {}

impl<D> Make<D> {
    pub fn new(make: fn(&Options) -> io::Result<D>) -> Make<D> {
        Make { make, without: Features::NONE, stamps_every: 0 }
    }

    /// With the kernel's times of about one in so many sends.
    pub fn stamping(self, every: u32) -> Make<D> {
        Make { stamps_every: every, ..self }
    }

    fn call(&self, options: &Options) -> D {
        let options = Options { without: self.without, stamps_every: self.stamps_every, ..options.clone() };
        (self.make)(&options).expect("the driver can be made")
    }
}

/// The ring driver with all available features, without each single one, and without any.
/// None if io_uring is denied.
pub fn uring() -> Vec<Make<Uring>> {
    if let Err(error) = Uring::new(&options()) {
        eprintln!("not tested, io_uring is not to be had here: {error}");
        return Vec::new();
    }
    let every = Features(u32::MAX);
    let single = (0..u32::BITS).map(|bit| Features(1 << bit)).filter(|feature| feature.names().count() > 0);
    let masks = [Features::NONE].into_iter().chain(single).chain([every]);
    let stamping = [1, 3].map(|every| Make::new(Uring::new).stamping(every));
    let masked = masks.map(|without| Make { without, ..Make::new(Uring::new) });
    masked.chain(stamping).collect()
}

/// A driver behind a listener on loopback or on a unix socket.
pub struct SocketKit<D> {
    make: Make<D>,
    unix: Option<PathBuf>,
    address: Option<SockAddr>,
}

impl<D: Operations> SocketKit<D> {
    pub fn tcp(make: Make<D>) -> SocketKit<D> {
        SocketKit { make, unix: None, address: None }
    }

    pub fn unix(make: Make<D>) -> SocketKit<D> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("echoring-{}-{number}.sock", std::process::id()));
        SocketKit { make, unix: Some(path), address: None }
    }

    fn address(&self) -> &SockAddr {
        self.address.as_ref().expect("the driver was made first")
    }
}

impl<D> Drop for SocketKit<D> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("without {:?}", self.make.without.names().collect::<Vec<_>>());
        }
        if let Some(path) = &self.unix {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl<D: Operations> Kit for SocketKit<D> {
    type Driver = D;
    type Peer = Socket;

    fn driver(&mut self, options: &Options) -> D {
        let mut driver = self.make.call(options);
        let address = match &self.unix {
            Some(path) => SockAddr::unix(path).expect("a short path"),
            None => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into(),
        };
        let listener = Socket::new(address.domain(), Type::STREAM, None).expect("a socket");
        listener.bind(&address).expect("a free address");
        listener.listen(1024).expect("a listener");
        self.address = Some(listener.local_addr().expect("bound"));
        driver.listen(listener.into(), 0).expect("the driver listens");
        driver
    }

    fn beside(&self, options: &Options) -> (SocketKit<D>, D) {
        (SocketKit { make: self.make, unix: None, address: None }, self.make.call(options))
    }

    fn dial(&mut self) -> Socket {
        let socket = Socket::new(self.address().domain(), Type::STREAM, None).expect("a socket");
        socket.connect(self.address()).expect("the listener's queue has room");
        socket.set_nonblocking(true).expect("a socket");
        socket
    }
}

impl Peer for Socket {
    fn write(&mut self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        match self.send(bytes) {
            Ok(sent) => sent,
            Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
            Err(e) => panic!("a peer cannot write: {e}"),
        }
    }

    fn read(&mut self, into: &mut Vec<u8>) -> Heard {
        let mut chunk = [0; 64 * 1024];
        match io::Read::read(self, &mut chunk) {
            Ok(0) => Heard::End,
            Ok(bytes) => {
                into.extend_from_slice(&chunk[..bytes]);
                Heard::Bytes
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Heard::Nothing,
            Err(_) => Heard::Reset,
        }
    }

    fn fin(&mut self) {
        self.shutdown(std::net::Shutdown::Write).expect("connected");
    }

    fn reset(self) {
        self.set_linger(Some(Duration::ZERO)).expect("a socket");
    }
}

/// TCP segments that a socket has received since it was connected (`tcpi_segs_in`).
fn segments_in(socket: &Socket) -> u32 {
    const AT: usize = 140;
    let mut info = [0u8; 256];
    let mut bytes = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes of `struct tcp_info` to memory that is that long.
    let result = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    assert!(result == 0 && bytes as usize >= AT + 4, "a TCP socket tells about itself");
    u32::from_ne_bytes(info[AT..AT + 4].try_into().expect("four bytes"))
}

pub fn an_end_goes_with_the_last_bytes<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    for pieces in [1, 3] {
        let (token, mut peer) = world.accept();
        let before = segments_in(&peer);
        for _ in 0..pieces {
            world.driver.send(token, Source::Shared(Bytes::from_static(b"short").into())).expect("open");
        }
        world.driver.close(token);
        assert_eq!(world.read_to_end(&mut peer), b"short".repeat(pieces));
        assert_eq!(segments_in(&peer) - before, 1, "{pieces} pieces and the end are one segment");
        world.until("closed", |world| world.has(&Seen::Closed(token)));
    }
    // What was received goes back in the same way.
    let (token, mut peer) = world.accept();
    world.write(&mut peer, b"over");
    world.until_with(
        "the bytes",
        |driver, _, event| {
            if let Event::Received { token, span } = event {
                driver.send(*token, Source::Received(*span)).expect("open");
                driver.close(*token);
            }
        },
        |world| world.received_bytes(token) > 0,
    );
    let before = segments_in(&peer);
    assert_eq!(world.read_to_end(&mut peer), b"over");
    assert!(segments_in(&peer) - before <= 1, "the bytes and the end are one segment");
    world.until("closed", |world| world.has(&Seen::Closed(token)));
}

impl<D: Operations> World<SocketKit<D>> {
    /// A peer with a receive buffer of its own, on a connection with a send buffer of its own.
    pub fn accept_with(&mut self, receive_bytes: usize, send_bytes: usize) -> (Token, Socket) {
        let (listener, address) = listener();
        listener.set_send_buffer_size(send_bytes).expect("a socket");
        self.driver.listen(listener.into(), 0).expect("the driver listens");
        self.accept_by(|_| {
            let peer = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            peer.set_recv_buffer_size(receive_bytes).expect("a socket");
            peer.connect(&address.into()).expect("the listener's queue has room");
            peer.set_nonblocking(true).expect("a socket");
            peer
        })
    }
}

fn listener() -> (Socket, SocketAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    listener.listen(16).expect("a listener");
    let address = listener.local_addr().expect("bound").as_socket().expect("an internet address");
    (listener, address)
}

fn connected<D: Operations>(
    world: &mut World<SocketKit<D>>,
    address: SocketAddr,
    source: Option<SocketAddr>,
) -> Token {
    let token = world.driver.connect(&address.into(), source).expect("ports and descriptors are free");
    world.until("connected", |world| world.has(&Seen::Connected(token)));
    token
}

pub fn a_dialled_connection_works_like_an_accepted_one<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    let (listener, address) = listener();
    let sources = [None, Some(SocketAddr::from(([127, 0, 0, 2], 0)))];
    for source in sources {
        let token = connected(&mut world, address, source);
        let (mut peer, from) = listener.accept().expect("the driver dialled");
        peer.set_nonblocking(true).expect("a socket");
        let from = from.as_socket().expect("an internet address");
        assert_eq!(from.ip(), source.map_or(Ipv4Addr::LOCALHOST.into(), |source| source.ip()));
        world.driver.send(token, Source::Shared(Bytes::from_static(b"hello").into())).expect("open");
        assert_eq!(world.read(&mut peer, 5), b"hello");
        world.write(&mut peer, b"welcome");
        world.until("the answer", |world| world.received(token) == b"welcome");
        let staged = world.fill(token);
        let heard = world.read(&mut peer, staged.len());
        assert_same(&heard, &staged);
        world.until("unblocked", |world| !world.is_blocked(token));
        world.driver.close(token);
        assert_eq!(world.read_to_end(&mut peer), b"");
        world.until("closed", |world| world.has(&Seen::Closed(token)));
    }
}

pub fn a_unix_socket_is_dialled<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    let path =
        std::env::temp_dir().join(format!("dial-{}-{:?}", std::process::id(), std::thread::current().id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a free name");
    let address = RemoteAddress::Unix(path.clone());
    let source = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let refused = world.driver.connect(&address, source).expect_err("no local address");
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    let token = world.driver.connect(&address, None).expect("a socket can be made");
    world.until("connected", |world| world.has(&Seen::Connected(token)));
    let (peer, _) = listener.accept().expect("the driver dialled");
    peer.set_nonblocking(true).expect("a socket");
    let mut peer = Socket::from(std::os::fd::OwnedFd::from(peer));
    world.driver.send(token, Source::Shared(Bytes::from_static(b"hello").into())).expect("open");
    assert_eq!(world.read(&mut peer, 5), b"hello");
    world.write(&mut peer, b"welcome");
    world.until("the answer", |world| world.received(token) == b"welcome");
    world.driver.close(token);
    assert_eq!(world.read_to_end(&mut peer), b"");
    world.until("closed", |world| world.has(&Seen::Closed(token)));

    // With a full queue, connects wait.
    let listener = Socket::from(std::os::fd::OwnedFd::from(listener));
    listener.listen(0).expect("a shorter queue");
    let tokens: Vec<Token> =
        (0..4).map(|_| world.driver.connect(&address, None).expect("a socket")).collect();
    world.until("one is in the queue", |world| world.has(&Seen::Connected(tokens[0])));
    world.settle();
    let connected = |world: &World<_>, token: &Token| world.has(&Seen::Connected(*token));
    assert!(!tokens.iter().all(|token| connected(&world, token)), "the queue is not that long");
    world.driver.abort(tokens[3]);
    listener.set_nonblocking(true).expect("a socket");
    let mut peers = Vec::new();
    world.until("all others are connected", |world| {
        peers.extend(listener.accept());
        tokens[..3].iter().all(|token| connected(world, token))
    });
    for token in &tokens[..3] {
        world.driver.abort(*token);
    }
    world.until("all are closed", |world| tokens.iter().all(|token| world.has(&Seen::Closed(*token))));

    drop(listener);
    std::fs::remove_file(&path).expect("it is there");
    let gone = world.driver.connect(&address, None).expect("a socket can be made");
    world.until("the failure", |world| world.has(&Seen::Failed(gone, ErrorKind::NotFound)));
    world.driver.close(gone);
    world.until("closed", |world| world.has(&Seen::Closed(gone)));
}

pub fn a_refused_dial_is_a_failure<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    let (listener, address) = listener();
    drop(listener);
    let token = world.driver.connect(&address.into(), None).expect("a socket can be made");
    let failed = Seen::Failed(token, ErrorKind::ConnectionRefused);
    world.until("the refusal", |world| world.has(&failed));
    assert!(world.driver.send(token, Source::Shared(Bytes::from_static(b"x").into())).is_err());
    world.driver.close(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
    assert_eq!(world.of(token).count(), 2);
}

/// A dial may be cancelled before it completes.
pub fn a_dial_can_be_aborted<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    let (_listener, address) = listener();
    let token = world.driver.connect(&address.into(), None).expect("a socket can be made");
    world.driver.abort(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
    world.settle();
    assert_eq!(world.of(token).collect::<Vec<_>>(), [&Seen::Closed(token)]);
}

pub fn a_wake_from_another_thread_ends_the_wait<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    for _ in 0..100 {
        let waker = world.driver.waker();
        let thread = std::thread::spawn(move || waker.wake());
        let begun = Instant::now();
        let mut events = Vec::new();
        while !events.iter().any(|event| matches!(event, Event::Woken)) {
            let deadline = world.driver.now() + 20 * SECOND;
            world.driver.tick(&mut world.pool, Some(deadline), &mut events).expect("the driver works");
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "woken, not timed out");
        thread.join().expect("the waker does not panic");
    }
}

pub fn a_deadline_is_kept_and_never_early<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    let mut events = Vec::new();
    for wait in [MILLISECOND / 10, MILLISECOND, 30 * MILLISECOND] {
        let deadline = world.driver.now() + wait;
        let mut ticks = 0;
        while world.driver.now() < deadline {
            world.driver.tick(&mut world.pool, Some(deadline), &mut events).expect("the driver works");
            ticks += 1;
        }
        assert!(ticks <= 3, "{ticks} ticks for one deadline: the wait ends early");
        assert!(world.driver.now() < deadline + 2 * SECOND);
    }
    let begun = Instant::now();
    for _ in 0..100 {
        world.driver.tick(&mut world.pool, Some(0), &mut events).expect("the driver works");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "a past deadline only looks");
    assert!(events.is_empty());
}

/// The address is the peer's, for either kind of connection, unless it has none or the kernel cannot tell.
pub fn an_address_is_the_peers<D: Operations>(make: Make<D>) {
    let addressed = |seen: &Seen, of: Token| match seen {
        Seen::Addressed(token, address) if *token == of => Some(*address),
        _ => None,
    };
    let mut world = World::new(SocketKit::tcp(make));
    let features = world.driver.describe().features;
    let can_tell = !features.has(Features::DIRECT) || features.has(Features::FD_INSTALL);
    let (token, peer) = world.accept();
    let (listener, address) = listener();
    let dialled = connected(&mut world, address, None);
    for (token, expected) in
        [(token, peer.local_addr().expect("bound").as_socket()), (dialled, Some(address))]
    {
        world.driver.find_address(token);
        world.until("the address", |world| world.seen.iter().any(|seen| addressed(seen, token).is_some()));
        let told = world.seen.iter().find_map(|seen| addressed(seen, token));
        assert_eq!(told, Some(expected.filter(|_| can_tell)));
    }
    drop(listener);

    let mut world = World::new(SocketKit::unix(make));
    let (token, _peer) = world.accept();
    world.driver.find_address(token);
    world.until("an answer", |world| world.has(&Seen::Addressed(token, None)));
}

/// The state of TCP is told with the address to who asks for it, unless there is none or the kernel cannot tell.
pub fn the_state_of_tcp_is_told<D: Operations>(make: Make<D>) {
    let look = |world: &mut World<SocketKit<D>>, token| {
        let before = world.seen.len();
        world.driver.find_tcp_info(token);
        world.until("an answer", |world| {
            world.seen[before..].iter().any(|seen| matches!(seen, Seen::Addressed(of, _) if *of == token))
        });
        world.driver.tcp_info(token)
    };
    let mut world = World::new(SocketKit::tcp(make));
    let features = world.driver.describe().features;
    let can_tell = !features.has(Features::DIRECT) || features.has(Features::FD_INSTALL);
    let (token, mut peer) = world.accept();
    for messages in 1..=3 {
        world.driver.send(token, Source::Shared(Bytes::from_static(b"data").into())).expect("open");
        assert_eq!(world.read(&mut peer, 4), b"data");
        let told = look(&mut world, token);
        assert_eq!(told.is_some(), can_tell);
        if let Some(TcpInfo { round_trip, segments_sent, segments_retransmitted, .. }) = told {
            assert!((1..10 * SECOND).contains(&round_trip), "{round_trip}");
            assert_eq!(segments_sent - segments_retransmitted, messages);
        }
    }
    world.settle();
    assert_eq!(world.driver.tcp_info(token), None, "forgotten with the tick that told it");
    world.driver.find_address(token);
    world.until("the address", |world| matches!(world.seen.last(), Some(Seen::Addressed(..))));
    assert_eq!(world.driver.tcp_info(token), None, "nobody asked for it");

    let mut world = World::new(SocketKit::unix(make));
    let (token, _peer) = world.accept();
    assert_eq!(look(&mut world, token), None);
}

/// The time of an acknowledgement is told, of a connection that is read and of one that is paused, and is no failure of either.
pub fn an_acknowledgement_is_told_of<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    let (token, mut peer) = world.accept();
    assert!(!world.driver.stamp(token), "nothing is staged");
    for (round, is_paused) in [(0, false), (1, true), (2, true), (3, false)] {
        match is_paused {
            true => world.driver.pause(token),
            false => world.driver.resume(token),
        }
        world.settle();
        let pieces = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        pieces
            .into_iter()
            .for_each(|piece| world.driver.send(token, Source::Shared(piece.into())).expect("open"));
        let asked = world.driver.now();
        if !world.driver.stamp(token) {
            let driver = world.driver.describe();
            assert!(driver.name == "uring" && !driver.features.has(Features::SOCKET_OPTIONS), "{driver:?}");
            return;
        }
        assert!(!world.driver.stamp(token), "one at a time");
        assert_eq!(world.read(&mut peer, 6), b"onetwo");
        let read = world.driver.now();
        let told = |world: &World<SocketKit<D>>| {
            let times = world.of(token).filter_map(|seen| match seen {
                Seen::Acknowledged(_, at) => Some(*at),
                _ => None,
            });
            times.collect::<Vec<_>>()
        };
        world.until("the acknowledgement", |world| told(world).len() > round);
        // The two clocks are read one after the other.
        let (at, slack) = (told(&world)[round], 5 * MILLISECOND);
        assert!((asked - slack..read + slack).contains(&at), "{at} between {asked} and {read}");
    }
    world.write(&mut peer, b"still here");
    world.until("bytes", |world| world.received(token) == b"still here");
    assert!(!world.of(token).any(|seen| matches!(seen, Seen::Failed(..) | Seen::HalfClosed(_))));
    world.driver.send(token, Source::Shared(Bytes::from_static(b"bye").into())).expect("open");
    assert!(world.driver.stamp(token));
    world.driver.pause(token);
    world.settle();
    peer.reset();
    world.until("the failure", |world| world.of(token).any(|seen| matches!(seen, Seen::Failed(..))));
    world.driver.close(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
}

/// The kernel's times of sends and receives are between the program's, and are those of the right bytes.
pub fn the_kernels_times_are_those_of_the_bytes<D: Operations>(make: Make<D>) {
    if !has_kernel_times() {
        return eprintln!("not tested, this kernel has no such times");
    }
    // One in 128: each second send of the first of 64 connections.
    let kit = SocketKit::tcp(make.stamping(128));
    let mut world = World::with_options(kit, &Options { connections: 64, ..options() });
    let (listener, address) = listener();
    let token = connected(&mut world, address, None);
    let (mut peer, _) = listener.accept().expect("the driver dialled");
    peer.set_nonblocking(true).expect("a socket");
    let other = connected(&mut world, address, None);
    let (mut peer_of_other, _) = listener.accept().expect("the driver dialled");
    peer_of_other.set_nonblocking(true).expect("a socket");
    let arrivals = |world: &World<SocketKit<D>>| {
        let times = world.of(token).filter_map(|seen| match seen {
            Seen::Arrived(_, at) => *at,
            _ => None,
        });
        times.collect::<Vec<_>>()
    };
    // The kernel begins to stamp receives a moment after a socket asks for that.
    let mut greetings = 0;
    world.until("the first time of a receive", |world| {
        greetings += peer.write(b"!");
        !arrivals(world).is_empty()
    });
    world.until("the greetings", |world| world.received_bytes(token) == greetings);
    let mut before = world.driver.now();
    for round in 1..=20_usize {
        let handed_at = world.driver.now();
        let bytes = pattern(round, 10 * round);
        for piece in bytes.chunks(7 * round) {
            world.driver.send(token, Source::Shared(Bytes::copy_from_slice(piece).into())).expect("open");
        }
        assert_same(&world.read(&mut peer, bytes.len()), &bytes);
        let answered = world.driver.now();
        world.write(&mut peer, &bytes);
        world.until("the answer", |world| world.received_bytes(token) >= greetings + round * (round + 1) * 5);
        let read = world.driver.now();
        let arrived = *arrivals(&world).last().expect("the time of the answer");
        // The clocks are read one after the other.
        let slack = 5 * MILLISECOND;
        assert!((answered - slack..read + slack).contains(&arrived), "{answered} {arrived} {read}");
        let earlier = world.driver.send_times(token, before);
        assert_eq!(earlier.is_some(), round % 2 == 1 && round > 1, "those of the send before");
        before = handed_at;
        let times = world.driver.send_times(token, handed_at);
        assert_eq!(times.is_some(), round % 2 == 0, "each second send");
        let Some(SendTimes { accepted, left, acknowledged, bytes: sent }) = times else { continue };
        assert_eq!(sent as usize, bytes.len());
        let stages = [accepted, left, acknowledged].map(|at| at.expect("an answered send was acknowledged"));
        assert!(stages.is_sorted(), "{stages:?}");
        assert!(handed_at - slack < stages[0] && stages[2] < read + slack, "{handed_at} {stages:?} {read}");
    }
    world.driver.send(other, Source::Shared(Bytes::from_static(b"hello").into())).expect("open");
    assert_same(&world.read(&mut peer_of_other, 5), b"hello");
    world.write(&mut peer_of_other, b"hello");
    world.until("an answer without a time", |world| world.received_bytes(other) == 5);
    assert!(!world.of(other).any(|seen| matches!(seen, Seen::Arrived(..))));
    assert_eq!(world.driver.send_times(other, before), None);
    world.driver.close(token);
    world.until("closed", |world| world.has(&Seen::Closed(token)));
    assert_eq!(world.driver.send_times(token, before), None);
}

/// A Unix socket would refuse a stamped send.
pub fn a_unix_socket_has_no_acknowledgements<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::unix(make));
    let (token, mut peer) = world.accept();
    world.driver.send(token, Source::Shared(Bytes::from_static(b"hello").into())).expect("open");
    assert!(!world.driver.stamp(token));
    world.driver.set_notsent_lowat(token);
    assert_eq!(world.read(&mut peer, 5), b"hello");
    assert!(!world.of(token).any(|seen| matches!(seen, Seen::Failed(..))));
}

/// A large stream both ways at once through one connection.
pub fn a_long_echo_arrives_whole<D: Operations>(make: Make<D>) {
    let mut world = World::new(SocketKit::tcp(make));
    let (token, mut peer) = world.accept();
    let sent = pattern(0, 24 << 20);
    let (mut written, mut heard) = (0, Vec::new());
    let mut echo = Echo::default();
    world.until_with(
        "the whole echo",
        |driver, _, event| echo.handle(driver, event, |_| {}),
        |_| {
            written += peer.write(&sent[written..(written + 50_000).min(sent.len())]);
            peer.read(&mut heard);
            heard.len() == sent.len()
        },
    );
    assert_same(&heard, &sent);
    assert!(!world.is_blocked(token));
}
