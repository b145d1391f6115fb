//! The proxy between hostile ends: streams in memory, a clock that stands still while there is something to do, everything
//! drawn from a seed.
//!
//! Bytes go in pieces of any size, with pauses of up to minutes; ends stall, stop reading, reset, end their stream in the
//! middle of a frame, and send what is none. Whatever they do, the proxy is done with them in a bounded time, holds a
//! bounded number of bytes, passes on nothing but whole frames in order, and tells who listens.
//!
//! Every test runs 1,000 seeds; `ECHORING_SEEDS` says another number, and `ECHORING_SEED` runs a single one.

mod requests;
#[allow(dead_code, reason = "not every simulation uses all of it")]
#[path = "../../tests/support/seeds.rs"]
mod seeds;

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::pump::{Format, MaskingKeys};
use super::relay::{Peer, Plan, relay};
use crate::connection::Seed;
use crate::limits::{CLOSE_TIMEOUT, SECOND};
use crate::protocol::frame::{self, HEADER_BYTES_MAX, Header};
use crate::protocol::{Opcode, Role, mask};

pub(super) use requests::connect;

/// Longer than everything that ends do by themselves, and the proxy's deadlines behind it.
const FOR_EVER: Duration = Duration::from_secs(24 * 3_600);
/// Bytes that the stream between an end and the proxy holds.
const STREAM_BYTES: usize = 8 * 1024;
/// Bytes of one direction that may be under way: in both streams, and in the proxy a frame that is not cut, read and
/// to be written, with what one more read brings.
const HELD_BYTES_MAX: u64 = 2 * (STREAM_BYTES + 64 * 1024 + HEADER_BYTES_MAX + 32 * 1024) as u64;

/// A sequence of numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
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

    /// Mostly none, now and then longer than the proxy's deadlines.
    fn pause(&mut self) -> Duration {
        match self.below(60) {
            0 => Duration::from_secs(self.next() % 400),
            1..=4 => Duration::from_millis(self.next() % 5_000),
            _ => Duration::ZERO,
        }
    }
}

/// Runs `test` with each seed, each with a clock of its own.
fn for_each_seed(name: &str, test: impl AsyncFn(Random)) {
    seeds::for_each(&format!("--lib proxy::simulation::{name}"), |seed| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        LocalSet::new().block_on(&runtime, test(Random(seed)));
    });
}

/// What an end does when it has sent all its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// Sends a Close frame.
    Close,
    /// Nothing: it closes when it is told to.
    Wait,
    /// Sends the beginning of a frame, and nothing more.
    Cut,
    /// Sends what is no frame.
    Nonsense,
    /// Ends its stream, and goes on reading.
    End,
    /// Is gone.
    Reset,
}

/// How an end reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// At once.
    Eager,
    /// With pauses.
    Slow,
    /// No further than so many bytes.
    DeafAfter(usize),
    /// It is gone after so many bytes.
    ResetAfter(usize),
}

#[derive(Clone, Copy, Debug)]
struct Manner {
    last: Last,
    reading: Reading,
    pauses: bool,
}

impl Manner {
    fn hostile(random: &mut Random) -> Manner {
        let bytes = random.below(300_000);
        Manner {
            last: random.of(&[Last::Close, Last::Wait, Last::Cut, Last::Nonsense, Last::End, Last::Reset]),
            reading: match random.below(6) {
                0..=2 => Reading::Eager,
                3 => Reading::Slow,
                4 => Reading::DeafAfter(bytes),
                _ => Reading::ResetAfter(bytes),
            },
            pauses: random.one_in(2),
        }
    }
}

/// A message as it is sent, or how much of it arrived.
type Message = (Opcode, Vec<u8>);

/// What both halves of an end share, and the test looks at.
#[derive(Debug, Default)]
struct Seen {
    received: RefCell<Vec<u8>>,
    /// Messages that were sent whole.
    sent: RefCell<Vec<Message>>,
    sent_bytes: Cell<u64>,
    received_bytes: Cell<u64>,
    /// A Close frame was received.
    told: Notify,
    is_told: Cell<bool>,
}

/// One end of a relayed connection.
struct End {
    role: Role,
    manner: Manner,
    random: Random,
    /// What it is to send.
    messages: Vec<Message>,
    seen: Rc<Seen>,
    /// The other end's.
    other: Rc<Seen>,
}

impl End {
    fn new(role: Role, manner: Manner, mut random: Random, seen: &[Rc<Seen>; 2]) -> End {
        let messages = (0..random.below(12))
            .map(|_| {
                let bytes = random.of(&[0, 1, 5, 125, 126, 300, 4_096, 65_535, 65_536, 65_537, 200_000]);
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
        End { role, manner, random, messages, seen: Rc::clone(&seen[own]), other: Rc::clone(&seen[other]) }
    }

    /// Until it is gone, or the other side's stream ends.
    async fn run(self, stream: DuplexStream) {
        let (reader, writer) = split(stream);
        let (manner, seen, role) = (self.manner, Rc::clone(&self.seen), self.role);
        let random = Random(!self.random.0);
        tokio::select! {
            () = self.write(writer) => {}
            () = read(reader, manner, random, &seen, role) => {}
        }
    }

    /// Resolves when the end is gone by its own wish.
    async fn write(mut self, mut writer: WriteHalf<DuplexStream>) {
        for (opcode, payload) in std::mem::take(&mut self.messages) {
            if self.seen.is_told.get() {
                break;
            }
            if !self.send_message(&mut writer, opcode, &payload).await {
                return pending().await;
            }
            self.seen.sent.borrow_mut().push((opcode, payload));
        }
        match self.manner.last {
            Last::Close => {}
            Last::Wait => {
                while !self.seen.is_told.get() {
                    self.seen.told.notified().await;
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

    /// In one frame or several. Whether the stream took all of it.
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

    /// In pieces, with pauses. Whether the stream took all.
    async fn send(&mut self, writer: &mut WriteHalf<DuplexStream>, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let most = self.random.of(&[1, 3, 100, 5_000, 70_000]);
            let (piece, rest) = bytes.split_at(bytes.len().min(1 + self.random.below(most)));
            bytes = rest;
            if self.manner.pauses {
                sleep(self.random.pause()).await;
            }
            if writer.write_all(piece).await.is_err() {
                return false;
            }
            self.seen.sent_bytes.set(self.seen.sent_bytes.get() + piece.len() as u64);
            let held = self.seen.sent_bytes.get().saturating_sub(self.other.received_bytes.get());
            assert!(held <= HELD_BYTES_MAX, "{held} bytes are under way");
        }
        true
    }
}

/// Resolves at the stream's end, or when the end is gone by its own wish.
async fn read(
    mut reader: ReadHalf<DuplexStream>,
    manner: Manner,
    mut random: Random,
    seen: &Seen,
    role: Role,
) {
    let (mut buffer, mut looked_at) = ([0; 10_000], 0);
    loop {
        let so_far = seen.received.borrow().len();
        match manner.reading {
            Reading::DeafAfter(bytes) if so_far >= bytes => return pending().await,
            Reading::ResetAfter(bytes) if so_far >= bytes => return,
            Reading::Slow => sleep(random.pause()).await,
            _ => {}
        }
        let most = 1 + random.below(buffer.len());
        let Ok(read @ 1..) = reader.read(&mut buffer[..most]).await else { return };
        seen.received.borrow_mut().extend_from_slice(&buffer[..read]);
        seen.received_bytes.set(seen.received_bytes.get() + read as u64);
        if !seen.is_told.get() && is_closed(&seen.received.borrow(), &mut looked_at, role) {
            seen.is_told.set(true);
            seen.told.notify_waiters();
        }
    }
}

/// Whether there is a Close frame among the bytes from `at` on, a frame's beginning, which goes on to the next that is not whole.
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

/// What received bytes are, frame by frame.
#[derive(Debug, Default)]
struct Taken {
    messages: Vec<Message>,
    /// The message that has begun and not ended.
    begun: Option<Message>,
    close: Option<u16>,
    /// Bytes of a frame that is not whole.
    rest: usize,
}

/// # Panics
/// When they break the protocol.
fn taken(mut bytes: &[u8], role: Role) -> Taken {
    let mut taken = Taken::default();
    while let Some((header, header_bytes)) = frame::decode(bytes, role, false).expect("a frame") {
        assert_eq!(taken.close, None, "a frame behind a Close frame");
        let Some(payload) = bytes[header_bytes..].get(..header.payload_bytes as usize) else { break };
        bytes = &bytes[header_bytes + payload.len()..];
        let mut payload = payload.to_vec();
        mask::apply(&mut payload, header.mask.unwrap_or_default());
        match header.opcode {
            Opcode::Close => {
                taken.close = Some(payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code)));
            }
            Opcode::Ping | Opcode::Pong => taken.messages.push((header.opcode, payload)),
            Opcode::Text | Opcode::Binary => {
                assert_eq!(taken.begun, None, "a message inside another");
                taken.begun = Some((header.opcode, payload));
            }
            Opcode::Continuation => taken.begun.as_mut().expect("a message").1.extend_from_slice(&payload),
        }
        if header.fin && !header.opcode.is_control() {
            taken.messages.extend(taken.begun.take());
        }
    }
    taken.rest = bytes.len();
    taken
}

/// Relays between a client and a server of these manners, and holds the relay to what it promises of any ends. What each
/// was sent by the other, and sent itself.
async fn relayed(mut random: Random, manners: [Manner; 2]) -> [(Taken, Vec<Message>); 2] {
    let (client, front) = duplex(STREAM_BYTES);
    let (back, upstream) = duplex(STREAM_BYTES);
    let seen = [Rc::new(Seen::default()), Rc::new(Seen::default())];
    let ends = [Role::Client, Role::Server].map(|role| {
        let manner = manners[usize::from(role == Role::Server)];
        End::new(role, manner, Random(random.next()), &seen)
    });
    let planned = [ends[0].messages.clone(), ends[1].messages.clone()];
    let [one, other] = ends;
    let running = [spawn_local(one.run(client)), spawn_local(other.run(upstream))];

    let idle_timeout = (!random.one_in(4)).then(|| Duration::from_secs(300));
    let drained_at = Instant::now() + Duration::from_secs(1 + random.next() % 20_000);
    let compression = false;
    let plan = Plan {
        from_client: Format::AsTheyAre { compression },
        from_upstream: Format::AsTheyAre { compression },
        log: None,
        keys: MaskingKeys::new(Seed::Fixed(7)),
        idle_timeout,
    };
    let peer = |stream| Peer { stream, early: BytesMut::new() };
    let relaying = relay(peer(front), peer(back), plan, tokio::time::sleep_until(drained_at));
    timeout(FOR_EVER, relaying).await.expect("it ends");
    let latest = drained_at + Duration::from_nanos(CLOSE_TIMEOUT + SECOND);
    assert!(Instant::now() <= latest, "{:?} too late", Instant::now() - latest);

    // Both streams are over: who reads hears of it.
    for (end, manner) in running.into_iter().zip(manners) {
        if matches!(manner.reading, Reading::DeafAfter(_)) {
            end.abort();
        } else {
            timeout(FOR_EVER, end).await.expect("it hears of the end").expect("no panic");
        }
    }
    let of = |at: usize, role| taken(&seen[at].received.borrow(), role);
    let all = [(of(0, Role::Client), 1), (of(1, Role::Server), 0)];
    all.map(|(taken, from)| {
        let own = 1 - from;
        // Pings may overtake the rest of a fragmented message: here they stand between messages only.
        for (got, sent) in taken.messages.iter().zip(&planned[from]) {
            assert!(got == sent, "another message");
        }
        assert!(taken.messages.len() <= planned[from].len(), "more than was sent");
        if let Some((_, begun)) = &taken.begun
            && let Some((_, whole)) = planned[from].get(taken.messages.len())
        {
            assert!(whole.starts_with(begun), "another beginning");
        }
        if manners[own].reading == Reading::Eager && !matches!(manners[own].last, Last::Reset | Last::End) {
            assert_eq!(taken.rest, 0, "a frame that is not whole");
        }
        let sent = seen[own].sent.borrow().clone();
        (taken, sent)
    })
}

#[test]
fn frames_between_hostile_ends_pass_whole_and_the_end_is_told() {
    for_each_seed("frames_between_hostile_ends_pass_whole_and_the_end_is_told", async |mut random| {
        let manners = [Manner::hostile(&mut random), Manner::hostile(&mut random)];
        let [(client, _), _] = relayed(random, manners).await;
        // A client that listens, and has not left, is told why it is over, whatever the server does.
        let stays = matches!(manners[0].last, Last::Close | Last::Wait | Last::Nonsense | Last::Cut);
        if manners[0].reading == Reading::Eager && stays {
            assert!(client.close.is_some(), "{manners:?}");
        }
    });
}

#[test]
fn everything_that_orderly_ends_sent_arrives() {
    for_each_seed("everything_that_orderly_ends_sent_arrives", async |mut random| {
        let first = random.below(2);
        let manners = [0, 1].map(|at| Manner {
            last: if at == first { Last::Close } else { Last::Wait },
            reading: Reading::Eager,
            pauses: false,
        });
        let [(client, from_client), (upstream, from_upstream)] = relayed(random, manners).await;
        assert!(client.messages == from_upstream && upstream.messages == from_client, "{manners:?}");
        assert_eq!((client.close, upstream.close), (Some(1000), Some(1000)));
    });
}
