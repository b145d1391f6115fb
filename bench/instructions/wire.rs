//! Instruction counts of Centrifuge's protocol: what a broadcast writes once for all subscribers, and what each publish command costs.

#![allow(missing_docs, reason = "the macros make items, and a bench has no readers of its API")]

use std::hint::black_box;

use gungraun::prelude::*;

use echoring_wire::centrifuge::{Body, Command, Encoding, Payload, Publication, Publish, Request, Texts};
use echoring_wire::centrifuge::{decode, encode, push};

const DATA: &[u8] = br#"{"bid":"1.0864","ask":"1.0866"}"#;

fn room(encoding: Encoding) -> (Encoding, Vec<u8>) {
    (encoding, Vec::with_capacity(512))
}

fn publish(encoding: Encoding) -> (Encoding, Vec<u8>) {
    let publish = Publish { channel: "rates:EURUSD".into(), data: DATA, ..Publish::default() };
    let (_, mut frame) = room(encoding);
    encode(encoding, &mut frame, &Command { id: 7, request: Request::Publish(publish) });
    (encoding, frame)
}

// The push of a message to a channel.
#[library_benchmark]
#[benches::of(args = [Encoding::Json, Encoding::Protobuf], setup = room)]
fn write_publication((encoding, mut out): (Encoding, Vec<u8>)) -> Vec<u8> {
    let body = Body::Plain(Payload::Json(black_box(DATA)));
    let publication = Publication { body, offset: 1_234_567, info: None, key: "", tags: Texts::NONE };
    push::publication(encoding, &mut out, "rates:EURUSD", &publication);
    out
}

#[library_benchmark]
#[benches::of(args = [Encoding::Json, Encoding::Protobuf], setup = publish)]
fn read_publish((encoding, frame): (Encoding, Vec<u8>)) -> (bool, Vec<u8>) {
    let is_read = decode(encoding, black_box(&frame)).all(|command| command.is_ok());
    (is_read, frame)
}

library_benchmark_group!(name = wire, benchmarks = [write_publication, read_publish]);

main!(library_benchmark_groups = wire);
