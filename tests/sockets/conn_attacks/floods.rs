//! Peers that send without end, or that make this end send without end: memory stays bounded, and other connections of the
//! same thread go on.
//!
//! The clock stands still, because the neighbours are never idle: all pings of a flood are of one second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use echoring::{CloseCode, Compression, Conn, Error, Role, Settings, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::counting::{held_bytes, peak_bytes, restart_peak};
use super::deflate::bomb;
use super::peer::{
    Attacks, BINARY, CLOSE, CONTINUATION, FIN, Frames, PING, PONG, ROLES, RSV1, TEXT, open, read_frame,
};

const KIB: usize = 1024;
const MIB: i64 = 1 << 20;
/// Bytes of the pipe between the attacker and the connection, in each direction.
const PIPE: usize = 64 * KIB;
/// Most payload that an application gets between two turns of its neighbours.
const PAYLOAD_PER_TURN_MAX: u64 = 1 << 20;

/// What the application does with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum App {
    Read,
    Discard,
    Stream,
    Echo,
    /// Queues its answers, which leave when nothing more is to be read.
    Feed,
    Close,
}

struct Flood {
    name: &'static str,
    settings: Settings,
    app: App,
    /// A part of the flood.
    burst: Vec<u8>,
    bursts: usize,
    /// The attacker reads what it is sent.
    reads: bool,
    /// The last bytes, after which the attacker waits for the end, if it reads.
    last: Vec<u8>,
    /// How the connection ends.
    told: &'static str,
    peak_bytes_max: i64,
}

fn floods(frames: Frames) -> Vec<Flood> {
    let clean = frames.close(1000, b"");
    let unlimited = Settings::default().pings_per_second_max(u32::MAX);
    let compressed = Settings::default().compression(Compression::default());
    let plain = || Flood {
        name: "",
        settings: Settings::default(),
        app: App::Read,
        burst: Vec::new(),
        bursts: 1,
        reads: true,
        last: clean.clone(),
        told: "closed 1000",
        peak_bytes_max: MIB,
    };
    let many = |frame: Vec<u8>, times: usize| frame.repeat(times);
    let end = [frames.frame(FIN | CONTINUATION, b"end"), clean.clone()].concat();
    let empty = many(frames.frame(CONTINUATION, b""), 8 * KIB);
    let tiny = many(frames.frame(CONTINUATION, b"x"), KIB);
    let bombs = many(frames.frame(FIN | RSV1 | BINARY, &bomb(64 * KIB)), 100);
    let begun = |kind: u8, burst: &[u8]| [frames.frame(kind, b""), burst.to_vec()].concat();
    vec![
        Flood { name: "empty fragments", burst: empty.clone(), bursts: 20, ..plain() },
        Flood { name: "empty fragments, streamed", app: App::Stream, burst: empty, bursts: 20, ..plain() },
        Flood { name: "fragments of a byte, up to the limit", burst: tiny.clone(), bursts: 60, ..plain() },
        Flood {
            name: "fragments of a byte, past the limit",
            burst: tiny.clone(),
            bursts: 100,
            told: "offence message too big",
            ..plain()
        },
        Flood {
            name: "fragments of a byte, past the limit, streamed",
            app: App::Stream,
            burst: tiny,
            bursts: 100,
            told: "offence message too big",
            ..plain()
        },
        Flood {
            name: "pings",
            burst: many(frames.frame(FIN | PING, &[7; 125]), 400),
            bursts: 20,
            told: "offence too many pings",
            ..plain()
        },
        Flood {
            name: "pings of a peer that does not read",
            settings: unlimited.clone(),
            burst: many(frames.frame(FIN | PING, &[7; 125]), 400),
            bursts: 200,
            reads: false,
            ..plain()
        },
        Flood {
            name: "pings of a peer that does not read, inside a message",
            settings: unlimited,
            app: App::Stream,
            burst: begun(TEXT, &[])
                .into_iter()
                .chain(many(frames.frame(FIN | PING, &[7; 125]), 400))
                .collect(),
            bursts: 1,
            reads: false,
            ..plain()
        },
        Flood {
            name: "pongs that nobody asked for",
            burst: many(frames.frame(FIN | PONG, &[7; 125]), 400),
            bursts: 200,
            ..plain()
        },
        Flood {
            name: "empty messages",
            burst: many(frames.frame(FIN | TEXT, b""), 8 * KIB),
            bursts: 20,
            ..plain()
        },
        Flood {
            name: "empty messages, echoed",
            app: App::Echo,
            burst: many(frames.frame(FIN | TEXT, b""), 2 * KIB),
            bursts: 10,
            ..plain()
        },
        Flood {
            name: "messages to an echo of a peer that does not read",
            app: App::Feed,
            burst: many(frames.frame(FIN | BINARY, &[7; 1000]), 60),
            bursts: 100,
            reads: false,
            // The echo waits for the peer, and the pipe is full: the attacker leaves.
            told: "io BrokenPipe",
            ..plain()
        },
        Flood {
            name: "bombs within the limit",
            settings: compressed.clone(),
            burst: bombs.clone(),
            bursts: 10,
            ..plain()
        },
        Flood {
            name: "bombs within the limit, discarded",
            settings: compressed.clone(),
            app: App::Discard,
            burst: bombs.clone(),
            bursts: 10,
            ..plain()
        },
        Flood {
            name: "bombs within the limit, echoed",
            settings: compressed.clone(),
            app: App::Echo,
            burst: bombs.clone(),
            bursts: 3,
            ..plain()
        },
        Flood {
            name: "bombs within the limit, queued for a peer that does not read",
            settings: compressed,
            app: App::Feed,
            burst: bombs.clone(),
            bursts: 100,
            reads: false,
            told: "io BrokenPipe",
            ..plain()
        },
        Flood {
            name: "messages while this end closes",
            app: App::Close,
            burst: many(frames.frame(FIN | BINARY, &[7; 1000]), 60),
            bursts: 200,
            ..plain()
        },
        Flood {
            name: "bytes behind a violation",
            burst: [frames.frame(FIN | 0x70 | TEXT, b""), vec![0xff; 50 * KIB]].concat(),
            bursts: 200,
            told: "offence reserved bit set",
            ..plain()
        },
        Flood {
            name: "bytes behind a Close frame",
            burst: [clean.clone(), vec![0xff; 50 * KIB]].concat(),
            bursts: 200,
            ..plain()
        },
        Flood {
            name: "a length of 1 GiB that is announced, with a KiB of it",
            settings: Settings::default().max_message(2 << 30),
            burst: [frames.header(FIN | BINARY, 1 << 30), vec![7; KIB]].concat(),
            last: Vec::new(),
            told: "broken",
            peak_bytes_max: 400 << 10,
            ..plain()
        },
        Flood {
            name: "a message of 64 MiB, streamed",
            settings: Settings::default().max_message(2 << 30),
            app: App::Stream,
            burst: frames.frame(CONTINUATION, &[7; 60 * KIB]),
            bursts: 1_000,
            last: end.clone(),
            ..plain()
        },
        Flood {
            name: "a message of 64 MiB, discarded",
            settings: Settings::default().max_message(2 << 30),
            app: App::Discard,
            burst: frames.frame(CONTINUATION, &[7; 60 * KIB]),
            bursts: 1_000,
            last: end,
            ..plain()
        },
    ]
}

/// Whether the bursts are continuations of a message that the attacker begins.
fn continues(flood: &Flood) -> bool {
    flood.burst.first().is_some_and(|first| first & 0x0f == CONTINUATION)
}

/// A name for the end of a connection.
pub fn told(error: &Error) -> String {
    match error {
        Error::Closed(frame) => format!("closed {}", frame.code.0),
        Error::ProtocolError(offence) => format!("offence {offence}"),
        Error::Broken => "broken".to_owned(),
        Error::Io(error) => format!("io {:?}", error.kind()),
        other => other.to_string(),
    }
}

/// Two connections that echo to each other without pause, and the number of their echoes.
fn neighbours(tasks: &mut JoinSet<()>) -> Arc<AtomicU64> {
    let echoes = Arc::new(AtomicU64::new(0));
    let (near, far) = tokio::io::duplex(KIB);
    let ends = [(near, Role::Server), (far, Role::Client)];
    for (stream, role) in ends {
        let counted = Arc::clone(&echoes);
        tasks.spawn(async move {
            let mut conn = Conn::new(stream, &Settings::default(), echoring::Opened::new(role));
            if role == Role::Client {
                conn.write("a message").await.expect("sent");
            }
            while let Ok(message) = conn.read().await {
                conn.write(message).await.expect("echoed");
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    echoes
}

/// Checks that the neighbours get their turns: how much payload an application had since their last echo.
struct Turns {
    echoes: Arc<AtomicU64>,
    last: u64,
    payload_bytes: u64,
    longest: u64,
}

impl Turns {
    fn new(echoes: Arc<AtomicU64>) -> Turns {
        Turns { echoes, last: 0, payload_bytes: 0, longest: 0 }
    }

    fn had(&mut self, bytes: usize) {
        let now = self.echoes.load(Ordering::Relaxed);
        if now != self.last {
            (self.last, self.payload_bytes) = (now, 0);
        }
        self.payload_bytes += bytes as u64;
        self.longest = self.longest.max(self.payload_bytes);
    }
}

async fn apply<S: Transport>(conn: &mut Conn<S>, app: App, turns: &mut Turns) -> Error {
    let mut part = vec![0; 16 * KIB];
    loop {
        let done = match app {
            App::Close => match conn.close(CloseCode::NORMAL, "").await {
                Ok(frame) => Err(Error::Closed(frame)),
                Err(error) => Err(error),
            },
            App::Discard => Err(conn.discard_reads().await),
            App::Stream => match conn.next_reader().await {
                Err(end) => Err(end),
                Ok(mut reader) => loop {
                    match reader.read(&mut part).await {
                        Ok(0) => break Ok(()),
                        Ok(read) => turns.had(read),
                        Err(error) => break Err(error.downcast().expect("an error of the connection")),
                    }
                },
            },
            App::Read | App::Echo | App::Feed => match conn.read().await {
                Err(end) => Err(end),
                Ok(message) => {
                    turns.had(message.len());
                    match app {
                        App::Echo => conn.write(message).await,
                        App::Feed => conn.feed(message).await,
                        _ => Ok(()),
                    }
                }
            },
        };
        if let Err(end) = done {
            return end;
        }
    }
}

async fn check(role: Role, flood: Flood) {
    let mut tasks = JoinSet::new();
    let echoes = neighbours(&mut tasks);
    while echoes.load(Ordering::Relaxed) < 100 {
        tokio::task::yield_now().await;
    }
    let (mut conn, far) = open(role, flood.settings.clone(), PIPE, &[]).await;
    let held = held_bytes();
    restart_peak();
    let (mut from, mut to) = tokio::io::split(far);
    let reads = flood.reads;
    let begins = continues(&flood);
    let app = flood.app;
    let bytes_per_byte = if flood.settings.compression.is_some() { 100 } else { 1 };
    let written = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&written);
    let attacking = tokio::spawn(async move {
        let flooding = async {
            if begins {
                to.write_all(&Frames(role).frame(BINARY, b"")).await?;
            }
            for _ in 0..flood.bursts {
                to.write_all(&flood.burst).await?;
                counted.fetch_add(flood.burst.len() as u64, Ordering::Relaxed);
            }
            if begins && flood.last.first().is_some_and(|first| first & 0x0f == CLOSE) {
                to.write_all(&Frames(role).frame(FIN | CONTINUATION, b"")).await?;
            }
            to.write_all(&flood.last).await?;
            // A server ends the stream first (RFC 6455, 7.1.1).
            if role == Role::Client { to.shutdown().await } else { Ok(()) }
        };
        if reads {
            let reading = async { while read_frame(&mut from).await.is_some() {} };
            if flood.told == "broken" {
                // Leaves in the middle of a frame.
                flooding.await.expect("sent");
            } else {
                let _ = tokio::join!(flooding, reading);
            }
        } else {
            // Until the pipe is full and nobody takes anything from it.
            let flooded = async { drop(flooding.await) };
            let stuck = async {
                for _ in 0..500 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! { () = flooded => {}, () = stuck => {} }
        }
        drop((from, to));
    });
    let turning = Arc::clone(&echoes);
    let applying = tokio::spawn(async move {
        let mut turns = Turns::new(turning);
        let before = turns.echoes.load(Ordering::Relaxed);
        let end = apply(&mut conn, app, &mut turns).await;
        let echoed = turns.echoes.load(Ordering::Relaxed) - before;
        (end, turns.longest, echoed)
    });
    let (end, longest, echoed) = applying.await.expect("no panic");
    attacking.await.expect("no panic");
    let peak = peak_bytes() - held;
    assert_eq!(told(&end), flood.told);
    assert!(peak <= flood.peak_bytes_max, "{peak} bytes");
    assert!(longest <= PAYLOAD_PER_TURN_MAX, "the neighbours waited for {longest} bytes");
    // They also had their turns where the application sees nothing of the flood.
    let payload_bytes = written.load(Ordering::Relaxed) * bytes_per_byte;
    assert!(echoed >= payload_bytes / PAYLOAD_PER_TURN_MAX, "{echoed} echoes during {payload_bytes} bytes");
    // They still do.
    let so_far = echoes.load(Ordering::Relaxed);
    while echoes.load(Ordering::Relaxed) < so_far + 10 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn floods_cost_bounded_memory_and_leave_others_their_turns() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let mut attacks = Attacks::default();
    for role in ROLES {
        for flood in floods(Frames(role)) {
            let name = format!("{role:?}: {}", flood.name);
            attacks.run(&name, || runtime.block_on(check(role, flood)));
        }
    }
}

/// A thousand connections in the middle of a message, each of which announced 64 KiB, and what they leave behind.
#[test]
fn many_unfinished_messages_cost_what_has_arrived_and_leave_nothing() {
    const CONNECTIONS: usize = 1_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        for role in ROLES {
            let announced = [&Frames(role).header(FIN | BINARY, 64 * KIB as u64)[..], b"some"].concat();
            let before = held_bytes();
            let mut open_ones = Vec::new();
            for _ in 0..CONNECTIONS {
                let (mut conn, mut far) = open(role, Settings::default(), KIB, &[]).await;
                let (sent, read) = tokio::join!(far.write_all(&announced), async {
                    tokio::time::timeout(std::time::Duration::from_millis(1), conn.read()).await
                });
                sent.expect("sent");
                assert!(read.is_err(), "the message is not complete");
                open_ones.push((conn, far));
            }
            let each = (held_bytes() - before) / CONNECTIONS as i64;
            // The pipe's two kibibytes included.
            assert!(each < 12 * KIB as i64, "{role:?}: {each} bytes for each");
            drop(open_ones);
            let left = held_bytes() - before;
            assert!(left < 2 * MIB, "{role:?}: {left} bytes left");
        }
    });
}

/// The application keeps all messages of a peer that sends very short ones in long segments: each keeps its own bytes, not
/// the segment's.
#[test]
fn short_messages_that_are_kept_do_not_keep_what_came_with_them() {
    const MESSAGES: usize = 20_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        for role in ROLES {
            // Every hundredth stays; what is between is as long as the segment allows.
            let burst =
                [Frames(role).frame(FIN | BINARY, b"kept"), Frames(role).frame(FIN | BINARY, &[7; 4 * KIB])];
            let burst = burst.concat();
            let (mut conn, mut far) = open(role, Settings::default(), PIPE, &[]).await;
            let before = held_bytes();
            let sending = async {
                for _ in 0..MESSAGES / 2 {
                    far.write_all(&burst).await.expect("sent");
                }
            };
            let keeping = async {
                let mut kept = Vec::with_capacity(MESSAGES);
                for _ in 0..MESSAGES {
                    let message = conn.read().await.expect("a message");
                    if message.len() == 4 {
                        kept.push(message);
                    }
                }
                (held_bytes() - before, kept)
            };
            let ((), (held, kept)) = tokio::join!(sending, keeping);
            assert_eq!(kept.len(), MESSAGES / 2);
            let each = held / kept.len() as i64;
            assert!(each < 256, "{role:?}: {each} bytes for each kept message of 4");
        }
    });
}
