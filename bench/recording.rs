//! The load generator's own cost per message: `cargo bench --bench recording [-- FILTER]`.
//!
//! Recording is everything that is done with the times of an arrived message: two distributions of the whole run and
//! two of the interval; with stages, those of a stage instead of the first two. Sending a message costs the next time
//! of the schedule and the lateness.
//!
//! Known bias: one thread, nothing else between two messages, so the distributions stay in cache as far as they fit; a
//! run accesses them after its own sends and receives.

#![allow(missing_docs, reason = "the macros make items, and a bench has no readers of its API")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use echoring_load::measure::{MessageName, Tally, Times, Window};
use echoring_load::plan::{Arrivals, Cursor, Profile, RateStage, Schedule};

const SECOND: u64 = 1_000_000_000;
const CONNECTIONS: u32 = 100;

/// Response times like those of a run: most close together, some far away, from a random number generator.
struct Latencies(u64);

impl Latencies {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = self.0 >> 33;
        if random.is_multiple_of(1_000) { 5_000_000 + random % 50_000_000 } else { 50_000 + random % 200_000 }
    }
}

fn stages() -> [RateStage; 3] {
    let stage = |from, to| RateStage { time: Duration::from_secs(8 * 3_600), from, to };
    [stage(1_000_000, 1_000_000), stage(1_000_000, 2_000_000), stage(2_000_000, 2_000_000)]
}

fn recording(c: &mut Criterion) {
    let mut group = c.benchmark_group("record a message");
    group.throughput(Throughput::Elements(1));
    for (name, staged) in [("interval and whole run", false), ("with stages", true)] {
        group.bench_function(name, |b| {
            let mut tally = Tally::default();
            tally.open(Window { from: SECOND, until: 24 * 3_600 * SECOND });
            if staged {
                tally.open_stages(&stages());
            }
            let (mut latencies, mut now) = (Latencies(1), 2 * SECOND);
            b.iter(|| {
                now += 1_000;
                let response = latencies.next();
                let times = Times { intended: now - response, sent: now - response + 300 };
                tally.arrived(black_box(now), MessageName::default(), times, 64);
            });
        });
    }
    // To be subtracted: what making the numbers costs.
    group.bench_function("nothing", |b| {
        let (mut latencies, mut now) = (Latencies(1), 2 * SECOND);
        b.iter(|| {
            now += 1_000;
            black_box((black_box(now), now - latencies.next()))
        });
    });
    group.bench_function("lateness", |b| {
        let mut tally = Tally::default();
        tally.open(Window { from: SECOND, until: 24 * 3_600 * SECOND });
        let mut now = 2 * SECOND;
        b.iter(|| {
            now += 1_000;
            tally.late(black_box(now), now - (now & 0xffff));
        });
    });
    group.finish();
}

fn coming_to_a_message(c: &mut Criterion) {
    let mut group = c.benchmark_group("the next message");
    group.throughput(Throughput::Elements(1));
    let schedules = |arrivals| {
        [
            ("constant", Schedule::new(0, 1_000_000, CONNECTIONS, arrivals, 1)),
            ("stages", Schedule::of(0, Profile::new(stages(), Some(1)), CONNECTIONS, arrivals, 1)),
            ("trains", Schedule::new(0, 1_000_000, CONNECTIONS, arrivals, 1).in_bursts(20)),
        ]
    };
    for arrivals in [Arrivals::Even, Arrivals::Poisson] {
        for (name, schedule) in schedules(arrivals) {
            group.bench_function(BenchmarkId::new(arrivals.name(), name), |b| {
                let senders = (0..CONNECTIONS).collect();
                let mut cursor = Cursor::new(schedule.clone(), senders).expect("has senders");
                b.iter(|| black_box(cursor.due(black_box(u64::MAX - 1))));
            });
        }
    }
    group.bench_function("a ramp", |b| {
        let rising = RateStage { time: Duration::from_secs(24 * 3_600), from: 0, to: 1_000_000 };
        let schedule = Schedule::of(0, Profile::new([rising], Some(1)), CONNECTIONS, Arrivals::Even, 1);
        let mut cursor = Cursor::new(schedule, (0..CONNECTIONS).collect()).expect("has senders");
        b.iter(|| black_box(cursor.due(black_box(u64::MAX - 1))));
    });
    group.finish();
}

/// Once a second: the first message of an interval packs the one before it, of 10,000 messages.
fn packing(c: &mut Criterion) {
    const INTERVALS: u64 = 600;
    let window = Window { from: SECOND, until: (INTERVALS + 1) * SECOND };
    let fresh = || {
        let mut tally = Tally::default();
        tally.open(window);
        tally
    };
    c.bench_function("pack an interval", |b| {
        b.iter_custom(|times| {
            let (mut tally, mut begins, mut latencies) = (fresh(), window.from, Latencies(1));
            let mut took = Duration::ZERO;
            for _ in 0..times {
                if begins + SECOND == window.until {
                    (tally, begins) = (fresh(), window.from);
                }
                for message in 1..10_000 {
                    let (now, response) = (begins + message, latencies.next());
                    let times = Times { intended: now - response, sent: now - response + 300 };
                    tally.arrived(now, MessageName::default(), times, 64);
                }
                begins += SECOND;
                let since = Instant::now();
                let times = Times { intended: begins, sent: begins };
                tally.arrived(black_box(begins), MessageName::default(), times, 64);
                took += since.elapsed();
            }
            took
        });
    });
}

criterion_group!(benches, recording, packing, coming_to_a_message);
criterion_main!(benches);
