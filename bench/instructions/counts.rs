//! Instruction counts of the protocol's hot functions, under valgrind's callgrind: figures that noise cannot move.
//!
//! `scripts/check-instructions` compares them with `baseline.json`, and updates it with `--update`.
//!
//! Known bias: each count includes the call of the bench function and its return, which `nothing` measures. valgrind
//! hides AVX-512 from the program, so the wide kernels counted here are the AVX2 ones.

#![allow(missing_docs, reason = "the macros make items, and a bench has no readers of its API")]

mod frames;

use std::hint::black_box;

use gungraun::prelude::*;

use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::{
    Codecs, Connection, ConnectionConfig, Delivery, Entropy, Env, SpanCursor, Step, echo_short, echo_single,
};
use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header, Opcode};
use echoring_proto::{Role, Utf8, handshake, mask, utf8};
use frames::{KEY, client_frame, client_frames, leak};

fn payload(payload_bytes: usize) -> &'static mut [u8] {
    &mut client_frame(payload_bytes)[frame::header_bytes(payload_bytes as u64, true)..]
}

fn letters(bytes: usize) -> &'static mut [u8] {
    let text = payload(bytes);
    mask::apply(text, KEY);
    text
}

fn room_in_front(payload_bytes: usize) -> &'static mut [u8] {
    leak(&[&[0; HEADER_BYTES_MAX], &*payload(payload_bytes)].concat())
}

fn server_header(payload_bytes: u64) -> &'static (Header, [u8; HEADER_BYTES_MAX]) {
    let header = Header { opcode: Opcode::Text, fin: true, compressed: false, mask: None, payload_bytes };
    Box::leak(Box::new((header, [0; HEADER_BYTES_MAX])))
}

#[library_benchmark]
#[benches::of(args = [16], setup = payload)]
fn nothing(bytes: &'static mut [u8]) {
    black_box(bytes);
}

#[library_benchmark]
#[benches::of(args = [0, 4, 16, 32, 64, 125, 1024, 16384], setup = payload)]
fn unmask(bytes: &'static mut [u8]) {
    mask::apply(black_box(bytes), KEY);
}

#[library_benchmark]
#[benches::of(args = [16, 125, 1024, 16384], setup = room_in_front)]
fn unmask_moving(bytes: &'static mut [u8]) {
    let len = bytes.len() - HEADER_BYTES_MAX;
    mask::shift(black_box(bytes), HEADER_BYTES_MAX, HEADER_BYTES_MAX - 4, len, KEY);
}

#[library_benchmark]
#[benches::of(args = [16, 64, 125, 1024, 16384], setup = letters)]
fn validate(text: &'static mut [u8]) -> bool {
    utf8::is_valid(black_box(text))
}

#[library_benchmark]
#[benches::of(args = [16, 125, 1024, 16384], setup = letters)]
fn validate_piece(text: &'static mut [u8]) -> (Utf8, bool) {
    let mut utf8 = Utf8::new();
    let good = utf8.push(black_box(text)).is_ok();
    (utf8, good)
}

#[library_benchmark]
#[benches::of(args = [16, 1024, 1048576], setup = client_frame)]
fn parse_header(bytes: &'static mut [u8]) -> usize {
    match frame::decode(black_box(bytes), Role::Server, false) {
        Ok(Some((header, header_bytes))) => header_bytes + header.payload_bytes as usize,
        _ => 0,
    }
}

#[library_benchmark]
#[benches::of(args = [16, 1024, 1048576], setup = server_header)]
fn encode_header((header, out): &'static (Header, [u8; HEADER_BYTES_MAX])) -> [u8; HEADER_BYTES_MAX] {
    let mut out = *out;
    frame::encode(black_box(header), &mut out);
    out
}

// The protocol's share of an echoed text message: parse, unmask, validate, write the reply's header.
#[library_benchmark]
#[benches::of(args = [16, 125, 1024, 16384], setup = client_frame)]
fn echo_protocol(bytes: &'static mut [u8]) -> Option<usize> {
    echo_in_place(black_box(bytes))
}

#[inline(always)]
fn echo_in_place(bytes: &mut [u8]) -> Option<usize> {
    let (header, header_bytes) = frame::decode(bytes, Role::Server, false).ok()??;
    let payload = bytes.get_mut(header_bytes..)?.get_mut(..header.payload_bytes as usize)?;
    mask::apply(payload, header.mask?);
    if header.opcode == Opcode::Text && !utf8::is_valid(payload) {
        return None;
    }
    let reply_at = header_bytes - frame::header_bytes(header.payload_bytes, false);
    frame::encode(&Header { mask: None, ..header }, bytes.get_mut(reply_at..)?);
    Some(reply_at)
}

// A span that is one short message, as the shard answers it.
#[library_benchmark]
#[benches::of(args = [16], setup = client_frame)]
fn answer_lone(bytes: &'static mut [u8]) -> bool {
    echo_single(black_box(bytes))
}

// A span of several short messages.
#[library_benchmark]
#[benches::of(args = [16, 125], setup = client_frames)]
fn answer_short(bytes: &'static mut [u8]) -> u64 {
    echo_short(&mut SpanCursor::new(), black_box(bytes), u64::MAX)
}

/// An open server connection with everything that its calls borrow, and a received span for it.
struct Served {
    connection: Connection,
    pool: Pool,
    codecs: Codecs,
    config: ConnectionConfig,
    entropy: Entropy,
    bytes: &'static mut [u8],
}

fn served(payload_bytes: usize) -> &'static mut Served {
    let (mut pool, mut entropy, config) = (Pool::standalone(), Entropy::new(1), ConnectionConfig::default());
    let mut codecs = Codecs::new(config.compression, Lease::new(Budget::new(0), 0));
    let mut env =
        Env { pool: &mut pool, codecs: &mut codecs, config: &config, now: 1, entropy: &mut entropy };
    let opened = Connection::opened(Role::Server, None, Delivery::Frames, &mut env);
    let connection = opened.expect("no window is kept");
    Box::leak(Box::new(Served {
        connection,
        pool,
        codecs,
        config,
        entropy,
        bytes: client_frame(payload_bytes),
    }))
}

// A message that takes the general path: polled, echoed where it lies, its block ended.
#[library_benchmark]
#[benches::of(args = [16, 1024, 16384], setup = served)]
fn answer_polled(served: &'static mut Served) -> usize {
    let Served { connection, pool, codecs, config, entropy, bytes } = black_box(served);
    let mut env = Env { pool, codecs, config, now: 2, entropy };
    let mut cursor = SpanCursor::new();
    connection.begin_span(env.now);
    while let Step::Chunk(flags, piece) = connection.poll(&mut cursor, bytes, &mut env) {
        let _ = connection.echo(&mut cursor, bytes, flags, piece, &mut env);
    }
    let block = connection.end_span(&cursor, bytes, &mut env);
    connection.replies_sent();
    block.ok().flatten().map_or(0, |block| block.len())
}

fn upgrade_request() -> (&'static mut [u8], Vec<u8>) {
    let request =
        b"GET /echo HTTP/1.1\r\nHost: localhost:9001\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // httparse looks up the processor's features at its first use.
    let _ = handshake::with_request(request, |_, _| ());
    (leak(request), Vec::with_capacity(512))
}

#[library_benchmark]
#[bench::smallest(setup = upgrade_request)]
fn accept_upgrade((request, mut out): (&'static mut [u8], Vec<u8>)) -> Vec<u8> {
    let _ = handshake::with_request(black_box(request), |request, _| {
        if let Ok(Some(upgrade)) = request.upgrade() {
            handshake::write_accept(&mut out, &upgrade.key, None, None, []);
        }
    });
    out
}

library_benchmark_group!(
    name = protocol,
    benchmarks = [
        nothing,
        unmask,
        unmask_moving,
        validate,
        validate_piece,
        parse_header,
        encode_header,
        echo_protocol,
        answer_lone,
        answer_short,
        answer_polled,
        accept_upgrade
    ]
);

main!(library_benchmark_groups = protocol);
