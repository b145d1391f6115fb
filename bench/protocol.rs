//! Wall-clock benches of the wire formats: `cargo bench --bench protocol [-- FILTER]`.
//!
//! Known bias: everything is hot in cache, on one core, with one caller; a real echo finds its payload where the kernel
//! wrote it. A pass over bytes that the previous round has just written at shifted positions waits for those stores:
//! low "moving" and "in place" figures show that, not the pass itself. Noise-free counts are in `bench/instructions`.

#![allow(missing_docs, reason = "the macros make items, and a bench has no readers of its API")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use echoring_proto::deflate::{self, Deflater, Direction, Inflater, Preferences};
use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header, Opcode};
use echoring_proto::{Role, Utf8, handshake, mask, utf8};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const SIZES: [usize; 7] = [16, 64, 125, 1 << 10, 16 << 10, 64 << 10, 1 << 20];
const NONCE: [u8; 16] = *b"the sample nonce";

/// The request of headless Chromium, without cookies.
const BROWSER_REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\n\
    Host: localhost:9001\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: http://localhost:9001\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-US,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// `len` bytes of Latin, Greek, Chinese and emoji in turn, cut at a character boundary and padded.
fn mixed(len: usize) -> Vec<u8> {
    let mut text: String = "plain words, κόσμε, 你好世界, 🦀🌍. ".chars().cycle().take(len).collect();
    let mut end = len;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    let mut bytes = text.into_bytes();
    bytes.resize(len, b'.');
    bytes
}

fn masking(c: &mut Criterion) {
    let mut group = c.benchmark_group("unmask");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("in place", size), &size, |b, &size| {
            let mut bytes = vec![0x5a; size];
            b.iter(|| mask::apply(black_box(&mut bytes), black_box(KEY)));
        });
        // As an echo does it: from behind the client's header to behind the reply's, 4 bytes forward.
        group.bench_with_input(BenchmarkId::new("moving", size), &size, |b, &size| {
            let mut bytes = vec![0x5a; size + 14];
            b.iter(|| mask::shift(black_box(&mut bytes), 14, 10, size, black_box(KEY)));
        });
        group.bench_with_input(BenchmarkId::new("appending", size), &size, |b, &size| {
            let bytes = vec![0x5a; size];
            let mut out = Vec::with_capacity(size);
            b.iter(|| {
                out.clear();
                mask::append(black_box(&mut out), black_box(&bytes), black_box(KEY));
            });
        });
    }
    group.finish();
}

fn validating(c: &mut Criterion) {
    let mut group = c.benchmark_group("utf8");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        for (kind, text) in [("ascii", vec![b'a'; size]), ("mixed", mixed(size))] {
            group.bench_with_input(BenchmarkId::new(kind, size), &text, |b, text| {
                b.iter(|| utf8::is_valid(black_box(text)));
            });
        }
        if size >= 1 << 10 {
            // Pieces of an odd size, so that most cuts fall inside a character.
            group.bench_with_input(
                BenchmarkId::new("mixed in pieces of 1,021", size),
                &mixed(size),
                |b, text| {
                    b.iter(|| {
                        let mut utf8 = Utf8::new();
                        let good = black_box(text).chunks(1021).all(|piece| utf8.push(piece).is_ok());
                        good && utf8.finish().is_ok()
                    });
                },
            );
        }
    }
    group.finish();
}

fn framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    for payload_bytes in [16, 1 << 10, 1 << 20] {
        let header =
            Header { opcode: Opcode::Text, fin: true, compressed: false, mask: Some(KEY), payload_bytes };
        let mut bytes = [0; HEADER_BYTES_MAX];
        frame::encode(&header, &mut bytes);
        group.bench_function(BenchmarkId::new("parse, server", payload_bytes), |b| {
            b.iter(|| frame::decode(black_box(&bytes), Role::Server, false));
        });
        let header = Header { mask: None, ..header };
        group.bench_function(BenchmarkId::new("encode, server", payload_bytes), |b| {
            b.iter(|| frame::encode(black_box(&header), black_box(&mut bytes)));
        });
    }
    group.finish();
}

fn handshaking(c: &mut Criterion) {
    let mut group = c.benchmark_group("handshake");
    let mut out = Vec::with_capacity(1024);
    group.bench_function("server: parse, check and accept a browser's request", |b| {
        b.iter(|| {
            out.clear();
            handshake::with_request(black_box(BROWSER_REQUEST), |request, _| {
                if let Ok(Some(upgrade)) = request.upgrade() {
                    handshake::write_accept(&mut out, &upgrade.key, None, None, []);
                }
            })
        });
    });
    let direction = Direction { context_takeover: false, window_bits: 15 };
    let preferences = Preferences { server: direction, client: direction };
    let offer = &b"permessage-deflate; client_max_window_bits"[..];
    group.bench_function("server: agree on compression with a browser", |b| {
        b.iter(|| {
            out.clear();
            if let Some(agreement) = deflate::agree([black_box(offer)].into_iter(), &preferences) {
                deflate::write_response(&mut out, &agreement);
            }
        });
    });
    let dial = handshake::Dial { host: "localhost:9001".into(), path: "/echo".into(), ..Default::default() };
    group.bench_function("client: write the request", |b| {
        b.iter(|| {
            out.clear();
            handshake::write_request(&mut out, black_box(&dial), black_box(NONCE), None);
        });
    });
    let mut answer = Vec::new();
    handshake::write_accept(&mut answer, b"dGhlIHNhbXBsZSBub25jZQ==", None, None, []);
    group.bench_function("client: parse and check the answer", |b| {
        b.iter(|| handshake::parse_response(black_box(&answer), black_box(NONCE), None));
    });
    group.finish();
}

/// `bytes` bytes of JSON with repeated keys and varying values; each `seed` gives another text.
fn json(bytes: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut text = String::from("[");
    while text.len() < bytes {
        let side = ["buy", "sell"][number() as usize & 1];
        text += &format!(
            "{{\"type\":\"trade\",\"id\":{},\"symbol\":\"BTC-USD\",\"price\":\"{}.{:02}\",\"size\":\"0.{:06}\",\
             \"side\":\"{side}\"}},",
            number(),
            number() % 90_000,
            number() % 100,
            number() % 1_000_000
        );
    }
    text.truncate(bytes);
    text.into_bytes()
}

fn compressing(c: &mut Criterion) {
    let mut group = c.benchmark_group("deflate");
    for bytes in [64, 1 << 10, 64 << 10] {
        group.throughput(Throughput::Bytes(bytes as u64));
        // Several messages, so that the branches of none are learnt by heart.
        let messages: Vec<Vec<u8>> = (0..16).map(|seed| json(bytes, seed)).collect();
        for context_takeover in [false, true] {
            let direction = Direction { context_takeover, window_bits: 15 };
            let window = if context_takeover { ", window kept" } else { "" };
            let mut out = Vec::new();
            for level in [1, 6] {
                let mut deflater = Deflater::new(direction, level);
                let mut next = messages.iter().cycle();
                group.bench_function(
                    BenchmarkId::new(format!("deflate, level {level}{window}"), bytes),
                    |b| {
                        b.iter(|| {
                            deflater.deflate(black_box(next.next().map_or(&[], Vec::as_slice)), &mut out)
                        });
                    },
                );
            }
            let mut deflater = Deflater::new(direction, 6);
            let payloads: Vec<Vec<u8>> = messages
                .iter()
                .map(|message| {
                    let bytes = deflater.deflate(message, &mut out);
                    out[..bytes].to_vec()
                })
                .collect();
            let mut inflater = Inflater::new(direction);
            let mut next = payloads.iter().cycle();
            group.bench_function(BenchmarkId::new(format!("inflate{window}"), bytes), |b| {
                b.iter(|| {
                    let payload = black_box(next.next().map_or(&[][..], Vec::as_slice));
                    inflater.inflate(payload, &mut out, 1 << 20)
                });
            });
        }
    }
    group.finish();
}

fn configuration() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
}

criterion_group!(name = benches; config = configuration(); targets = masking, validating, framing, handshaking, compressing);
criterion_main!(benches);
