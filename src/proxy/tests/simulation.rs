//! The proxy between hostile peers, in a simulation: streams in memory, a virtual clock, and choices drawn from a seed.
//!
//! Bytes arrive in pieces of any size, with pauses of up to minutes. Peers stall, stop reading, reset, end their stream
//! inside a frame, and send bytes that are not a frame. The proxy must end each connection in bounded time, hold a
//! bounded number of bytes, forward whole frames in order, and send a Close frame to peers that still read.
//!
//! Every test runs 1,000 seeds; `SIMULATION_SEEDS` sets another number, and `SIMULATION_SEED` runs a single one.

mod requests;
#[allow(dead_code, reason = "not every simulation uses all of it")]
#[path = "../../../tests/support/seeds.rs"]
mod seeds;

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use crate::forwarder::{Activity, Format, MaskingKeys};
use crate::relay::{Peer, RelayOptions, relay};
use echoring_proto::connection::Seed;
use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header};
use echoring_proto::limits::{CLOSE_TIMEOUT, SECOND};
use echoring_proto::random::SplitMix64;
use echoring_proto::{Opcode, Role, mask};

pub(crate) use requests::connect;

/// Longer than any pause of the peers plus the proxy's deadlines.
const SIMULATION_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// Buffer size of the stream between a peer and the proxy.
const STREAM_BYTES: usize = 8 * 1024;
/// Maximum message size that a peer sends.
const MESSAGE_BYTES_MAX: usize = 200_000;
/// Maximum bytes in flight in one direction: in both streams, and in the proxy one frame of maximum length, read and to
/// be written, with the bytes of one more read.
const HELD_BYTES_MAX: u64 = 2 * (STREAM_BYTES + 64 * 1024 + HEADER_BYTES_MAX + 32 * 1024) as u64;

/// The random choices of one run.
#[derive(Clone, Debug)]
struct Random(SplitMix64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(SplitMix64::new(seed))
    }

    fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Mostly zero, sometimes longer than the proxy's deadlines.
    fn pause(&mut self) -> Duration {
        match self.below(60) {
            0 => Duration::from_secs(self.next() % 400),
            1..=4 => Duration::from_millis(self.next() % 5_000),
            _ => Duration::ZERO,
        }
    }
}

/// Runs `test` with each seed, each on its own clock.
fn for_each_seed(name: &str, test: impl AsyncFn(Random)) {
    seeds::for_each(&format!("-p echoring-proxy --lib simulation::{name}"), |seed| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        LocalSet::new().block_on(&runtime, test(Random::new(seed)));
    });
}

/// A peer's last action, after all its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// Sends a Close frame.
    Close,
    /// Sends nothing, and closes when it receives a Close frame.
    Wait,
    /// Sends the beginning of a frame, then nothing.
    Cut,
    /// Sends bytes that are not a frame.
    Nonsense,
    /// Ends its stream, and continues to read.
    End,
    /// Disconnects.
    Reset,
}

/// How a peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// At once.
    Eager,
    /// With pauses.
    Slow,
    /// Stops reading after this number of bytes.
    StopAfter(usize),
    /// Disconnects after this number of bytes.
    ResetAfter(usize),
}

#[derive(Clone, Copy, Debug)]
struct Behaviour {
    last: Last,
    reading: Reading,
    pauses: bool,
}

impl Behaviour {
    fn hostile(random: &mut Random) -> Behaviour {
        let bytes = random.below(300_000);
        Behaviour {
            last: random.of(&[Last::Close, Last::Wait, Last::Cut, Last::Nonsense, Last::End, Last::Reset]),
            reading: match random.below(6) {
                0..=2 => Reading::Eager,
                3 => Reading::Slow,
                4 => Reading::StopAfter(bytes),
                _ => Reading::ResetAfter(bytes),
            },
            pauses: random.one_in(2),
        }
    }
}

/// A message, complete or as far as it has arrived.
type Message = (Opcode, Vec<u8>);

/// State that both halves of a peer share, and the test reads.
#[derive(Debug, Default)]
struct Seen {
    received: RefCell<Vec<u8>>,
    /// Messages that were sent completely.
    sent: RefCell<Vec<Message>>,
    sent_bytes: Cell<u64>,
    received_bytes: Cell<u64>,
    /// A Close frame was received.
    close_received: Notify,
    is_close_received: Cell<bool>,
}

/// One peer of a relayed connection.
struct HostilePeer {
    role: Role,
    behaviour: Behaviour,
    random: Random,
    /// Messages to send.
    messages: Vec<Message>,
    seen: Rc<Seen>,
    /// The state of the other peer.
    other: Rc<Seen>,
}

impl HostilePeer {
    fn new(role: Role, behaviour: Behaviour, mut random: Random, seen: &[Rc<Seen>; 2]) -> HostilePeer {
        let messages = (0..random.below(12))
            .map(|_| {
                let bytes =
                    random.of(&[0, 1, 5, 125, 126, 300, 4_096, 65_535, 65_536, 65_537, MESSAGE_BYTES_MAX]);
                let first = random.next();
                let payload = (0..bytes as u64).map(|at| (first.wrapping_add(at * 7)) as u8).collect();
                (random.of(&[Opcode::Text, Opcode::Binary, Opcode::Ping]), payload)
            })
            .map(|(opcode, payload): Message| {
                let control = opcode == Opcode::Ping;
                (opcode, if control { payload.into_iter().take(125).collect() } else { payload })
            })
            .collect();
        let (own, other) = if role == Role::Client { (0, 1) } else { (1, 0) };
        HostilePeer {
            role,
            behaviour,
            random,
            messages,
            seen: Rc::clone(&seen[own]),
            other: Rc::clone(&seen[other]),
        }
    }

    /// Runs until the peer disconnects, or the other side's stream ends.
    async fn run(self, stream: DuplexStream) {
        let (reader, writer) = split(stream);
        let (behaviour, seen, role) = (self.behaviour, Rc::clone(&self.seen), self.role);
        let random = Random::new(!self.random.clone().next());
        tokio::select! {
            () = self.write(writer) => {}
            () = read(reader, behaviour, random, &seen, role) => {}
        }
    }

    /// Resolves when the peer disconnects by itself.
    async fn write(mut self, mut writer: WriteHalf<DuplexStream>) {
        for (opcode, payload) in std::mem::take(&mut self.messages) {
            if self.seen.is_close_received.get() {
                break;
            }
            if !self.send_message(&mut writer, opcode, &payload).await {
                return pending().await;
            }
            self.seen.sent.borrow_mut().push((opcode, payload));
        }
        match self.behaviour.last {
            Last::Close => {}
            Last::Wait => {
                while !self.seen.is_close_received.get() {
                    self.seen.close_received.notified().await;
                }
            }
            Last::Cut => {
                let whole = self.frame(Opcode::Binary, true, &[7; 1_000]);
                let cut = 1 + self.random.below(whole.len() - 1);
                self.send(&mut writer, &whole[..cut]).await;
                return pending().await;
            }
            Last::Nonsense => {
                let nonsense: &[u8] =
                    self.random.of(&[b"\x83\x80\0\0\0\0", b"\xf1\x80\0\0\0\0", b"\x89\xfe\x01\0"]);
                self.send(&mut writer, nonsense).await;
                return pending().await;
            }
            Last::End => {
                let _ = writer.shutdown().await;
                return pending().await;
            }
            Last::Reset => return,
        }
        let close = self.frame(Opcode::Close, true, &1000_u16.to_be_bytes());
        self.send(&mut writer, &close).await;
        pending().await
    }

    /// Sends a message in one frame or several. Returns whether the stream accepted all of it.
    async fn send_message(
        &mut self,
        writer: &mut WriteHalf<DuplexStream>,
        opcode: Opcode,
        payload: &[u8],
    ) -> bool {
        let frames = if opcode == Opcode::Ping { 1 } else { 1 + self.random.below(3) };
        let mut rest = payload;
        for number in 1..=frames {
            let last = number == frames;
            let bytes = if last { rest.len() } else { self.random.below(rest.len() + 1) };
            let (part, behind) = rest.split_at(bytes);
            rest = behind;
            let opcode = if number == 1 { opcode } else { Opcode::Continuation };
            let frame = self.frame(opcode, last, part);
            if !self.send(writer, &frame).await {
                return false;
            }
        }
        true
    }

    fn frame(&mut self, opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
        let key = (self.role == Role::Client).then(|| (self.random.next() as u32).to_ne_bytes());
        let mut bytes = vec![0; HEADER_BYTES_MAX];
        let header_bytes = frame::encode(&Header::new(opcode, fin, key, payload.len()), &mut bytes);
        bytes.truncate(header_bytes);
        mask::append(&mut bytes, payload, key.unwrap_or_default());
        bytes
    }

    /// Sends in pieces, with pauses. Returns whether the stream accepted all of it.
    async fn send(&mut self, writer: &mut WriteHalf<DuplexStream>, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let most = self.random.of(&[1, 3, 100, 5_000, 70_000]);
            let (piece, rest) = bytes.split_at(bytes.len().min(1 + self.random.below(most)));
            bytes = rest;
            if self.behaviour.pauses {
                sleep(self.random.pause()).await;
            }
            if writer.write_all(piece).await.is_err() {
                return false;
            }
            self.seen.sent_bytes.set(self.seen.sent_bytes.get() + piece.len() as u64);
            let held = self.seen.sent_bytes.get().saturating_sub(self.other.received_bytes.get());
            // Nothing is forwarded behind a Close frame (RFC 6455, 5.5.1): the proxy discards it.
            assert!(
                held <= HELD_BYTES_MAX || self.other.is_close_received.get(),
                "{held} bytes are under way"
            );
        }
        true
    }
}

/// Resolves at the stream's end, or when the peer disconnects by itself.
async fn read(
    mut reader: ReadHalf<DuplexStream>,
    behaviour: Behaviour,
    mut random: Random,
    seen: &Seen,
    role: Role,
) {
    let (mut buffer, mut looked_at) = ([0; 10_000], 0);
    loop {
        let so_far = seen.received.borrow().len();
        match behaviour.reading {
            Reading::StopAfter(bytes) if so_far >= bytes => return pending().await,
            Reading::ResetAfter(bytes) if so_far >= bytes => return,
            Reading::Slow => sleep(random.pause()).await,
            _ => {}
        }
        let most = 1 + random.below(buffer.len());
        let Ok(read @ 1..) = reader.read(&mut buffer[..most]).await else { return };
        seen.received.borrow_mut().extend_from_slice(&buffer[..read]);
        seen.received_bytes.set(seen.received_bytes.get() + read as u64);
        if !seen.is_close_received.get() && is_closed(&seen.received.borrow(), &mut looked_at, role) {
            seen.is_close_received.set(true);
            seen.close_received.notify_waiters();
        }
    }
}

/// Whether there is a Close frame among the bytes from `at` on. `at` is a frame boundary, and moves to the first
/// incomplete frame.
fn is_closed(bytes: &[u8], at: &mut usize, role: Role) -> bool {
    while let Some((header, header_bytes)) = frame::decode(&bytes[*at..], role, false).expect("a frame") {
        let end = *at + header_bytes + header.payload_bytes as usize;
        if end > bytes.len() {
            return false;
        }
        *at = end;
        if header.opcode == Opcode::Close {
            return true;
        }
    }
    false
}

/// Received bytes, parsed into messages.
#[derive(Debug, Default)]
struct Parsed {
    messages: Vec<Message>,
    /// The incomplete message.
    begun: Option<Message>,
    close: Option<u16>,
    /// Bytes of an incomplete frame.
    rest: usize,
}

/// # Panics
/// If they violate the protocol.
fn parsed(mut bytes: &[u8], role: Role) -> Parsed {
    let mut parsed = Parsed::default();
    while let Some((header, header_bytes)) = frame::decode(bytes, role, false).expect("a frame") {
        assert_eq!(parsed.close, None, "a frame behind a Close frame");
        let Some(payload) = bytes[header_bytes..].get(..header.payload_bytes as usize) else { break };
        bytes = &bytes[header_bytes + payload.len()..];
        let mut payload = payload.to_vec();
        mask::apply(&mut payload, header.mask.unwrap_or_default());
        match header.opcode {
            Opcode::Close => {
                parsed.close =
                    Some(payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code)));
            }
            Opcode::Ping | Opcode::Pong => parsed.messages.push((header.opcode, payload)),
            Opcode::Text | Opcode::Binary => {
                assert_eq!(parsed.begun, None, "a message inside another");
                parsed.begun = Some((header.opcode, payload));
            }
            Opcode::Continuation => parsed.begun.as_mut().expect("a message").1.extend_from_slice(&payload),
        }
        if header.fin && !header.opcode.is_control() {
            parsed.messages.extend(parsed.begun.take());
        }
    }
    parsed.rest = bytes.len();
    parsed
}

/// Relays between a client and an upstream that behave in these ways, and checks the relay's guarantees. Returns the
/// received and sent bytes of each.
async fn relayed(mut random: Random, behaviours: [Behaviour; 2]) -> [(Parsed, Vec<Message>); 2] {
    let (client, front) = duplex(STREAM_BYTES);
    let (back, upstream) = duplex(STREAM_BYTES);
    let seen = [Rc::new(Seen::default()), Rc::new(Seen::default())];
    let ends = [Role::Client, Role::Server].map(|role| {
        let behaviour = behaviours[usize::from(role == Role::Server)];
        HostilePeer::new(role, behaviour, Random::new(random.next()), &seen)
    });
    let planned = [ends[0].messages.clone(), ends[1].messages.clone()];
    let [one, other] = ends;
    let running = [spawn_local(one.run(client)), spawn_local(other.run(upstream))];

    let idle_timeout = (!random.one_in(4)).then(|| Duration::from_secs(300));
    let drained_at = Instant::now() + Duration::from_secs(1 + random.next() % 20_000);
    let compression = false;
    let options = RelayOptions {
        from_client: Format::Passthrough { compression },
        from_upstream: Format::Passthrough { compression },
        tap: None,
        keys: MaskingKeys::new(Seed::Fixed(7)),
        idle_timeout,
        activity: Activity::now(&Arc::default()),
    };
    let peer = |stream| Peer { stream, read_ahead: BytesMut::new() };
    let relaying = relay(peer(front), peer(back), options, tokio::time::sleep_until(drained_at));
    timeout(SIMULATION_TIMEOUT, relaying).await.expect("the relay ends");
    let latest = drained_at + Duration::from_nanos(CLOSE_TIMEOUT + SECOND);
    assert!(Instant::now() <= latest, "{:?} late", Instant::now() - latest);

    // Both streams have ended: readers see the end.
    for (end, behaviour) in running.into_iter().zip(behaviours) {
        if matches!(behaviour.reading, Reading::StopAfter(_)) {
            end.abort();
        } else {
            timeout(SIMULATION_TIMEOUT, end).await.expect("the peer sees the end").expect("no panic");
        }
    }
    let of = |at: usize, role| parsed(&seen[at].received.borrow(), role);
    let all = [(of(0, Role::Client), 1), (of(1, Role::Server), 0)];
    all.map(|(parsed, from)| {
        let own = 1 - from;
        // Pings may overtake the rest of a fragmented message; these peers send them between messages only.
        for (got, sent) in parsed.messages.iter().zip(&planned[from]) {
            assert!(got == sent, "another message");
        }
        assert!(parsed.messages.len() <= planned[from].len(), "more than was sent");
        if let Some((_, begun)) = &parsed.begun
            && let Some((_, whole)) = planned[from].get(parsed.messages.len())
        {
            assert!(whole.starts_with(begun), "another beginning");
        }
        if behaviours[own].reading == Reading::Eager
            && !matches!(behaviours[own].last, Last::Reset | Last::End)
        {
            assert_eq!(parsed.rest, 0, "a frame that is not whole");
        }
        let sent = seen[own].sent.borrow().clone();
        (parsed, sent)
    })
}

#[test]
fn frames_between_hostile_peers_pass_whole_and_the_client_is_told_the_end() {
    for_each_seed(
        "frames_between_hostile_peers_pass_whole_and_the_client_is_told_the_end",
        async |mut random| {
            let behaviours = [Behaviour::hostile(&mut random), Behaviour::hostile(&mut random)];
            let [(client, _), _] = relayed(random, behaviours).await;
            // A client that reads and has not disconnected gets a Close frame, whatever the upstream does.
            let stays = matches!(behaviours[0].last, Last::Close | Last::Wait | Last::Nonsense | Last::Cut);
            if behaviours[0].reading == Reading::Eager && stays {
                assert!(client.close.is_some(), "{behaviours:?}");
            }
        },
    );
}

/// A peer that has ended its stream without a Close frame still reads, and the other one still sends.
#[test]
fn a_peer_that_has_ended_its_stream_gets_what_the_other_one_sends() {
    for_each_seed("a_peer_that_has_ended_its_stream_gets_what_the_other_one_sends", async |mut random| {
        let first = random.below(2);
        let second = random.of(&[Last::End, Last::Wait]);
        let behaviours = [0, 1].map(|at| Behaviour {
            last: if at == first { Last::End } else { second },
            reading: Reading::Eager,
            pauses: false,
        });
        let [(client, from_client), (upstream, from_upstream)] = relayed(random, behaviours).await;
        assert!(client.messages == from_upstream, "{behaviours:?}: to the client");
        assert!(upstream.messages == from_client, "{behaviours:?}: to the upstream");
    });
}

#[test]
fn all_messages_of_orderly_peers_arrive() {
    for_each_seed("all_messages_of_orderly_peers_arrive", async |mut random| {
        let first = random.below(2);
        let behaviours = [0, 1].map(|at| Behaviour {
            last: if at == first { Last::Close } else { Last::Wait },
            reading: Reading::Eager,
            pauses: false,
        });
        let [(client, from_client), (upstream, from_upstream)] = relayed(random, behaviours).await;
        assert!(client.messages == from_upstream && upstream.messages == from_client, "{behaviours:?}");
        assert_eq!((client.close, upstream.close), (Some(1000), Some(1000)));
    });
}
