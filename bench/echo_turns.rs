//! One shard on io_uring and its clients in one thread, for counting the shard's instructions.
//!
//! `scripts/count-instructions` runs this under callgrind, collecting only inside [`Shard::tick`], for two
//! numbers of rounds; the difference over the messages between them is the cost of one message.
//!
//! Usage: `echo_turns ROUNDS CONNECTIONS PAYLOAD_BYTES DEPTH`

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use echoring_proto::connection;
use echoring_proto::limits::{MESSAGE_BYTES_DEFAULT, QUEUE_BYTES_DEFAULT};
use echoring_runtime::driver::uring::Uring;
use echoring_runtime::driver::{Driver, Options};
use echoring_runtime::shard::{Allowance, Mailboxes, Shard, ShardConfig};
use echoring_server::Service;

#[path = "../tests/support/service.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod service;

const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
const KEY: [u8; 4] = [0x12, 0x80, 0x7f, 0xfe];

fn main() {
    let arguments: Vec<usize> =
        std::env::args().skip(1).map(|word| word.parse().expect("four numbers")).collect();
    let [rounds, connections, payload_bytes, depth] = arguments[..] else {
        panic!("usage: echo_turns ROUNDS CONNECTIONS PAYLOAD_BYTES DEPTH");
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let options = Options { connections: 1024, ..Options::default() };
    let driver = Driver::Uring(Uring::new(&options).expect("io_uring"));
    let config = ShardConfig {
        connection: connection::ConnectionConfig::default(),
        connections: 1024,
        security: Default::default(),
        seed: 1.into(),
    };
    let mailboxes = Mailboxes::connect(1, 0).remove(0);
    let service = service::service(MESSAGE_BYTES_DEFAULT, QUEUE_BYTES_DEFAULT);
    let mut shard = Shard::new(driver, service, config, Allowance::standalone(1024), mailboxes);
    shard.listen(listener.into()).expect("listening");

    let mut clients: Vec<TcpStream> = (0..connections)
        .map(|_| {
            let mut client = TcpStream::connect(address).expect("connect");
            client.set_nodelay(true).expect("nodelay");
            client.set_nonblocking(true).expect("nonblocking");
            client.write_all(REQUEST).expect("request");
            client
        })
        .collect();
    let frame = text_frame(payload_bytes).repeat(depth);
    let reply_bytes = (text_frame(payload_bytes).len() - 4) * depth;
    for client in &mut clients {
        await_head(client, || drive(&mut shard));
    }
    let mut buffer = vec![0; reply_bytes];
    for _ in 0..rounds {
        for client in &mut clients {
            client.write_all(&frame).expect("the socket takes a message");
        }
        for client in &mut clients {
            await_bytes(client, &mut buffer, || drive(&mut shard));
        }
    }
    println!("{}", rounds * connections * depth);
}

#[inline(never)]
fn drive(shard: &mut Shard<Service>) {
    assert!(shard.tick(Some(0)).expect("the driver works"));
}

fn text_frame(payload_bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x81];
    match payload_bytes {
        0..126 => frame.push(0x80 | payload_bytes as u8),
        126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&KEY);
    frame.extend((0..payload_bytes).map(|at| b'a' ^ KEY[at % 4]));
    frame
}

fn await_head(client: &mut TcpStream, mut otherwise: impl FnMut()) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match client.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) => panic!("the server closed"),
            Err(_) => otherwise(),
        }
    }
}

fn await_bytes(client: &mut TcpStream, buffer: &mut [u8], mut otherwise: impl FnMut()) {
    let mut filled = 0;
    while filled < buffer.len() {
        match client.read(&mut buffer[filled..]) {
            Ok(0) => panic!("the server closed"),
            Ok(bytes) => filled += bytes,
            Err(_) => otherwise(),
        }
    }
}
