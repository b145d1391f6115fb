//! Measures libraries that permessage-deflate could be built on, to choose among them.
//!
//! ```text
//! cargo run --release -- time [ROUNDS]               all candidates, interleaved; JSON on stdout
//! cargo run --release -- one KIND NAME BYTES COUNT   one candidate, for callgrind; KIND is deflate or inflate
//! ```
//!
//! Known bias: hot loops over one context, whose tables stay in the cache; in a server other work evicts them, which
//! costs large contexts more. The input of inflaters was deflated by stock zlib at level 6.

mod codecs;
mod messages;

use std::time::Instant;

use codecs::{CDeflate, Candidate, Codec, DEFLATERS, INFLATERS};
use messages::{Random, json};
use serde_json::{Value, json as value};

const SIZES: [usize; 4] = [64, 1 << 10, 16 << 10, 64 << 10];
const MESSAGES: usize = 64;
/// Minimum time of one candidate in one round.
const ROUND_NS: u128 = 1_500_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["time"] => println!("{:#}", time(41)),
        ["time", rounds] => println!("{:#}", time(rounds.parse().expect("a number of rounds"))),
        ["one", kind, name, bytes, count] => {
            one(kind, name, bytes.parse().expect("bytes"), count.parse().expect("a count"));
        }
        _ => panic!("usage: compression time [ROUNDS] | compression one KIND NAME BYTES COUNT"),
    }
}

fn time(rounds: usize) -> Value {
    let mut rows = Vec::new();
    for bytes in SIZES {
        for (kind, candidates) in [("deflate", DEFLATERS), ("inflate", INFLATERS)] {
            for takeover in [false, true] {
                let group: Vec<&Candidate> = candidates.iter().filter(|c| c.takeover == takeover).collect();
                rows.extend(time_group(kind, &group, bytes, rounds));
            }
        }
    }
    value!({ "rounds": rounds, "messages": MESSAGES, "rows": rows })
}

/// All candidates over the same messages, in a new order each round.
fn time_group(kind: &str, group: &[&Candidate], bytes: usize, rounds: usize) -> Vec<Value> {
    let mut out = vec![0; bytes * 2 + 1024];
    let inputs = inputs(kind, bytes, group[0].takeover);
    let mut codecs: Vec<Box<dyn Codec>> = Vec::new();
    let mut memory = Vec::new();
    let mut produced = Vec::new();
    for candidate in group {
        let before = allocated_bytes();
        let mut codec = (candidate.make)();
        produced.push(inputs.iter().map(|input| codec.code(input, &mut out)).sum::<usize>());
        memory.push(allocated_bytes() - before);
        codecs.push(codec);
    }
    let mut passes = vec![1; group.len()];
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); group.len()];
    let mut random = Random(0x5eed);
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..group.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i as u64 + 1) as usize);
        }
        for index in order {
            let start = Instant::now();
            for _ in 0..passes[index] {
                for input in &inputs {
                    std::hint::black_box(codecs[index].code(input, &mut out));
                }
            }
            let elapsed = start.elapsed().as_nanos();
            if round == 0 {
                // With takeover, too: the streams repeat, and no candidate refers to what is not in its window.
                passes[index] = (ROUND_NS / elapsed.max(1)).max(1);
            } else {
                times[index].push(elapsed as f64 / (passes[index] * MESSAGES as u128) as f64);
            }
        }
    }
    let plain: usize = bytes * MESSAGES;
    (0..group.len())
        .map(|index| {
            let ratios: Vec<f64> =
                times[index].iter().zip(&times[0]).map(|(own, first)| own / first).collect();
            let (low, high) = interval(&ratios);
            value!({
                "kind": kind,
                "candidate": group[index].name,
                "takeover": group[index].takeover,
                "bytes": bytes,
                "ns_median": round(median(&times[index])),
                "ns_best": round(times[index].iter().copied().fold(f64::MAX, f64::min)),
                "against": group[0].name,
                "ratio": round3(median(&ratios)),
                "ratio_low": round3(low),
                "ratio_high": round3(high),
                "compressed_to": if kind == "deflate" {
                    value!(round3(produced[index] as f64 / plain as f64))
                } else {
                    Value::Null
                },
                "context_bytes": memory[index],
            })
        })
        .collect()
}

fn one(kind: &str, name: &str, bytes: usize, count: usize) {
    let candidates = if kind == "deflate" { DEFLATERS } else { INFLATERS };
    let candidate = candidates.iter().find(|c| c.name == name).expect("a candidate's name");
    let inputs = inputs(kind, bytes, candidate.takeover);
    let mut out = vec![0; bytes * 2 + 1024];
    let mut codec = (candidate.make)();
    for input in inputs.iter().cycle().take(count) {
        std::hint::black_box(codec.code(input, &mut out));
    }
}

/// Plain messages, or compressed ones.
fn inputs(kind: &str, bytes: usize, takeover: bool) -> Vec<Vec<u8>> {
    let plain = (0..MESSAGES as u64).map(|seed| json(bytes, seed + 1));
    if kind == "deflate" {
        return plain.collect();
    }
    let mut deflater = CDeflate::new(6, 8, takeover);
    let mut out = vec![0; bytes * 2 + 1024];
    plain
        .map(|message| {
            let compressed_bytes = deflater.code(&message, &mut out);
            out[..compressed_bytes].to_vec()
        })
        .collect()
}

/// Bytes allocated by the C library, for Rust and C alike.
fn allocated_bytes() -> usize {
    // SAFETY: it reads counters.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// 95 % interval of the medians of resampled rounds.
fn interval(values: &[f64]) -> (f64, f64) {
    let mut random = Random(0xb007);
    let mut medians: Vec<f64> = (0..1000)
        .map(|_| {
            let sample: Vec<f64> =
                values.iter().map(|_| values[random.below(values.len() as u64) as usize]).collect();
            median(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[25], medians[974])
}

fn round(value: f64) -> f64 {
    value.round()
}

fn round3(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
