//! permessage-deflate on a connection: what is agreed, what comes back, and what a hostile peer gets of it.

use super::*;
use crate::limits::INFLATED_BYTES_PER_TURN;
use crate::protocol::deflate::{self, Deflater, Direction, Inflater, Preferences};

const SHARED: Direction = Direction { takeover: false, window_bits: 15 };
const KEPT: Direction = Direction { takeover: true, window_bits: 15 };

fn compression(server: Direction, client: Direction) -> Compression {
    Compression { preferences: Preferences { server, client }, ..Compression::default() }
}

fn config(server: Direction, client: Direction) -> Config {
    Config { compression: Some(compression(server, client)), ..Config::default() }
}

impl Echo {
    /// A server that has agreed on what `offer` asks for.
    fn compressed(config: Config, offer: &[u8]) -> Echo {
        let mut echo = Echo::new(config);
        echo.agree_on = Some(offer.to_vec());
        echo.receive(REQUEST);
        assert!(echo.sent.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&echo.sent));
        echo.head = std::mem::take(&mut echo.sent);
        echo
    }

    fn extension(&self) -> String {
        let head = String::from_utf8(self.head.clone()).unwrap();
        let line = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
        line.unwrap_or("none").to_owned()
    }
}

fn shared_echo() -> Echo {
    Echo::compressed(config(SHARED, SHARED), b"permessage-deflate")
}

fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = Deflater::new(SHARED, 6).deflate(payload, &mut out);
    out.truncate(bytes);
    out
}

fn inflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = Inflater::new(SHARED).inflate(payload, &mut out, 1 << 26).expect("we deflate well");
    out.truncate(bytes);
    out
}

fn compressed_frame(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let header = Header { compressed: true, ..Header::new(opcode, fin, Some(KEY), payload.len()) };
    let mut head = [0; 14];
    let head_bytes = frame::encode(&header, &mut head);
    let mut bytes = head[..head_bytes].to_vec();
    mask::append(&mut bytes, payload, KEY);
    bytes
}

/// The data messages in what a server sent: whether they were compressed, and what they say.
fn answers(mut bytes: &[u8]) -> Vec<(bool, Vec<u8>)> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let (header, at) = frame::decode(bytes, Role::Client, true).unwrap().expect("whole frames were sent");
        let payload = &bytes[at..at + header.payload_bytes as usize];
        if !header.opcode.is_control() {
            assert!(header.fin);
            let payload = if header.compressed { inflated(payload) } else { payload.to_vec() };
            answers.push((header.compressed, payload));
        }
        bytes = &bytes[at + header.payload_bytes as usize..];
    }
    answers
}

fn text(bytes: usize) -> Vec<u8> {
    br#"{"id":17,"symbol":"ECHO","bid":101.25,"ask":101.27},"#.iter().copied().cycle().take(bytes).collect()
}

#[test]
fn what_comes_compressed_goes_back_compressed_and_what_comes_plain_plain() {
    let mut echo = shared_echo();
    assert_eq!(
        echo.extension(),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    );
    for message in [text(1_000), text(60_000), b"short".to_vec(), Vec::new()] {
        echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
        // A short one is not worth it.
        let worth_it = message.len() >= echo.config.compression.unwrap().threshold_bytes as usize;
        assert_eq!(answers(&echo.sent), [(worth_it, message.clone())]);
        echo.sent.clear();
        echo.receive(&client_frame(Opcode::Text, true, &message));
        assert_eq!(answers(&echo.sent), [(false, message)]);
        echo.sent.clear();
    }
}

#[test]
fn a_compressed_message_may_come_in_fragments_and_pieces_with_pings_between() {
    let message = text(5_000);
    let payload = deflated(&message);
    let (first, rest) = payload.split_at(100);
    let (second, third) = rest.split_at(1);
    let stream = [
        compressed_frame(Opcode::Binary, false, first),
        client_frame(Opcode::Ping, true, b"?"),
        client_frame(Opcode::Continuation, false, second),
        client_frame(Opcode::Continuation, true, third),
        client_frame(Opcode::Text, true, b"next"),
    ]
    .concat();
    for piece in [1, 7, 150, stream.len()] {
        let mut echo = shared_echo();
        for bytes in stream.chunks(piece) {
            echo.receive(bytes);
        }
        assert_eq!(answers(&echo.sent), [(true, message.clone()), (false, b"next".to_vec())]);
    }
}

#[test]
fn a_frame_says_that_it_is_compressed_only_where_it_may() {
    let payload = deflated(b"anything");
    for frames in [
        compressed_frame(Opcode::Ping, true, b""),
        compressed_frame(Opcode::Close, true, b""),
        compressed_frame(Opcode::Continuation, true, &payload),
        [compressed_frame(Opcode::Text, false, &payload), compressed_frame(Opcode::Continuation, true, b"")]
            .concat(),
    ] {
        let mut echo = shared_echo();
        echo.receive(&frames);
        assert_eq!(echo.close_code(), Some(1002));
    }
    let mut plain = Echo::open();
    plain.receive(&compressed_frame(Opcode::Text, true, &payload));
    assert_eq!(plain.close_code(), Some(1002));
}

#[test]
fn what_does_not_inflate_or_is_no_text_is_1007() {
    for (opcode, payload) in [
        (Opcode::Binary, vec![0xff; 20]),
        (Opcode::Binary, deflated(&text(500))[..40].to_vec()),
        (Opcode::Text, deflated(b"not \xff text")),
        (Opcode::Text, deflated(b"cut \xe2\x82")),
    ] {
        let mut echo = shared_echo();
        echo.receive(&compressed_frame(opcode, true, &payload));
        assert_eq!(echo.close_code(), Some(1007), "{payload:x?}");
    }
}

#[test]
fn a_message_of_the_limit_is_taken_and_one_byte_more_is_1009() {
    let limit = Config::default().message_bytes_max as usize;
    let noise: Vec<u8> = {
        let mut entropy = Entropy::new(3);
        (0..limit).map(|_| entropy.next() as u8).collect()
    };
    for message in [vec![b'a'; limit], noise] {
        let mut echo = shared_echo();
        echo.receive(&compressed_frame(Opcode::Binary, true, &deflated(&message)));
        assert_eq!(answers(&echo.sent).len(), 1);
    }
    let mut echo = shared_echo();
    echo.receive(&compressed_frame(Opcode::Binary, true, &deflated(&vec![b'a'; limit + 1])));
    assert_eq!(echo.close_code(), Some(1009));
    // From the header alone: no compressed form of a message that is allowed is that long.
    let mut echo = shared_echo();
    let header = Header { compressed: true, ..Header::new(Opcode::Binary, true, Some(KEY), 2 * limit) };
    let mut head = [0; 14];
    let head_bytes = frame::encode(&header, &mut head);
    echo.receive(&head[..head_bytes]);
    assert_eq!(echo.close_code(), Some(1009));
}

#[test]
fn messages_that_multiply_wait_for_their_turn_and_for_the_peer() {
    let message = vec![b'a'; 60_000];
    let frame = compressed_frame(Opcode::Binary, true, &deflated(&message));
    let count = 300;
    let run: Vec<u8> = frame.iter().copied().cycle().take(count * frame.len()).collect();
    assert!(run.len() < 64 * 1024, "{} bytes come in one run", run.len());

    let mut echo = shared_echo();
    // Answers that cannot leave, and are not compressed: what comes in multiplies a thousandfold.
    echo.config.queue_bytes = 256 * 1024;
    echo.answer_plain = true;
    echo.connection.blocked(1);
    echo.receive(&run);
    let queued = echo.connection.queued_bytes() as usize;
    assert!(queued < 256 * 1024 + 2 * message.len(), "{queued} bytes are queued");
    assert_eq!(echo.connection.pause_wanted(&echo.config), Some(true));
    // What was under way still comes; it is kept as it is.
    echo.receive(&run[..3 * frame.len()]);
    assert_eq!(echo.connection.queued_bytes() as usize, queued);

    let now = echo.now;
    echo.connection.unblocked(now);
    let mut turns = 0;
    loop {
        let before = answers(&echo.sent).len();
        echo.flush();
        let Some(parked) = echo.take_parked() else { break };
        echo.receive(&parked);
        turns += 1;
        let more = answers(&echo.sent).len() - before;
        assert!(more * message.len() <= INFLATED_BYTES_PER_TURN + 6 * message.len(), "{more} in one turn");
        assert!(turns <= count);
    }
    let answers = answers(&echo.sent);
    assert_eq!(answers.len(), count + 3);
    assert!(answers.iter().all(|(_, answer)| *answer == message));
    assert_eq!(echo.connection.pause_wanted(&echo.config), Some(false));
    assert!(turns > 20, "{turns} turns");
}

#[test]
fn windows_are_kept_as_agreed_in_both_directions() {
    for server in [SHARED, KEPT, Direction { takeover: true, window_bits: 9 }] {
        for client in [SHARED, KEPT, Direction { takeover: true, window_bits: 10 }] {
            let config = config(server, client);
            let mut echo = Echo::compressed(
                config,
                b"permessage-deflate; client_max_window_bits; server_max_window_bits=15",
            );
            let mut deflater = Deflater::new(client, 6);
            let mut inflater = Inflater::new(server);
            let (mut out, mut back) = (Vec::new(), Vec::new());
            let mut sent_bytes = Vec::new();
            for round in 0..20 {
                let message = text(1_000 + round * 37);
                let bytes = deflater.deflate(&message, &mut out);
                echo.receive(&compressed_frame(Opcode::Text, true, &out[..bytes]));
                let (header, at) = frame::decode(&echo.sent, Role::Client, true).unwrap().unwrap();
                assert!(header.compressed);
                let bytes = inflater.inflate(&echo.sent[at..], &mut back, 1 << 20).unwrap();
                assert!(back[..bytes] == message);
                sent_bytes.push(echo.sent.len());
                echo.sent.clear();
            }
            // Only a kept window that reaches back to the last message makes the next one tiny.
            assert_eq!(server == KEPT, sent_bytes[10] < 40, "{sent_bytes:?}");
            let window_bytes = echo.codecs.done().context_bytes;
            assert_eq!(window_bytes > 0, server.takeover || client.takeover);
            let Echo { mut connection, mut pool, mut codecs, .. } = echo;
            connection.release(&mut pool, &mut codecs);
        }
    }
}

#[test]
fn a_window_of_8_bits_is_answered_by_plain_messages() {
    let mut echo = Echo::compressed(config(KEPT, KEPT), b"permessage-deflate; server_max_window_bits=8");
    let message = text(1_000);
    echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
    assert_eq!(answers(&echo.sent), [(false, message)]);
}

#[test]
fn without_room_in_the_budget_no_window_is_kept() {
    let mut echo = Echo::new(config(KEPT, KEPT));
    echo.codecs = Codecs::new(echo.config.compression, Lease::new(Budget::new(1_000), 100));
    echo.agree_on = Some(b"permessage-deflate".to_vec());
    echo.receive(REQUEST);
    echo.head = std::mem::take(&mut echo.sent);
    assert_eq!(
        echo.extension(),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    );
    assert_eq!(echo.codecs.done().declined, 1);
    let message = text(1_000);
    for _ in 0..3 {
        echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
    }
    assert_eq!(answers(&echo.sent), vec![(true, message); 3]);
}

#[test]
fn contexts_of_closed_connections_serve_new_ones_and_no_byte_is_lost_from_the_lease() {
    let config = config(KEPT, KEPT);
    let mut kept = codecs(&config);
    let message = text(1_000);
    for _ in 0..30 {
        let mut echo = Echo::new(config.clone());
        std::mem::swap(&mut echo.codecs, &mut kept);
        echo.agree_on = Some(b"permessage-deflate".to_vec());
        echo.receive(REQUEST);
        echo.sent.clear();
        echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
        assert_eq!(answers(&echo.sent), [(true, message.clone())]);
        echo.connection.release(&mut echo.pool, &mut echo.codecs);
        std::mem::swap(&mut echo.codecs, &mut kept);
    }
    // The deflater is spare; windows are not worth keeping.
    assert_eq!(kept.done().context_bytes, Deflater::memory_bytes(KEPT) as u64);
    assert_eq!(kept.done().declined, 0);
}

#[test]
fn a_shared_message_may_go_between_others() {
    let mut echo = Echo::compressed(config(KEPT, SHARED), b"permessage-deflate");
    let mut inflater = Inflater::new(KEPT);
    let mut out = Vec::new();
    let mut heard = |echo: &mut Echo| {
        let (header, at) = frame::decode(&echo.sent, Role::Client, true).unwrap().unwrap();
        let bytes = inflater.inflate(&echo.sent[at..], &mut out, 1 << 20).unwrap();
        assert!(header.compressed);
        echo.sent.clear();
        out[..bytes].to_vec()
    };
    let message = text(900);
    echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
    assert_eq!(heard(&mut echo), message);
    // A message for many: from now on none refers to an earlier one.
    assert_eq!(echo.connection.share_window(&mut echo.codecs), Some(15));
    let for_all = echo.codecs.deflate_for_all(15, &text(2_000)).expect("it shrinks").to_vec();
    let header = Header { compressed: true, ..Header::new(Opcode::Text, true, None, for_all.len()) };
    let mut head = [0; 14];
    let head_bytes = frame::encode(&header, &mut head);
    echo.sent = [&head[..head_bytes], &for_all].concat();
    assert_eq!(heard(&mut echo), text(2_000));
    echo.receive(&compressed_frame(Opcode::Text, true, &deflated(&message)));
    assert_eq!(heard(&mut echo), message);
}

#[test]
fn a_compressing_client_and_server_understand_each_other() {
    for (server, client) in [(SHARED, SHARED), (KEPT, KEPT), (KEPT, SHARED)] {
        let dial =
            Dial { host: "a".into(), path: "/".into(), origin: None, subprotocols: vec![], headers: vec![] };
        let config = Config { dial: Some(dial), ..config(server, client) };
        let (mut pool, mut entropy, mut own) = (Pool::standalone(), Entropy::new(7), codecs(&config));
        let mut env =
            Env { pool: &mut pool, codecs: &mut own, config: &config, now: 1, entropy: &mut entropy };
        let mut connection = Connection::client(&mut env, true).unwrap();
        let request = connection.pop().unwrap().as_slice().to_vec();
        let request = String::from_utf8(request).unwrap();
        let offer = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ")).unwrap();
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let agreement =
            deflate::agree([offer.as_bytes()].into_iter(), &compression(server, client).preferences);
        let mut response = Vec::new();
        let key = key.as_bytes().try_into().unwrap();
        crate::protocol::handshake::write_accept(&mut response, &key, None, agreement.as_ref(), []);
        let mut run = Run::new();
        assert!(matches!(connection.poll(&mut run, &mut response, &mut env), Step::Opened(_)));
        let mut echo = Echo::compressed(Config { dial: None, ..config.clone() }, offer.as_bytes());
        for bytes in [10, 300, 20_000, 60_000] {
            let message = text(bytes);
            connection.send(Kind::Text, &message, &mut env).unwrap();
            while let Some(buffer) = connection.pop() {
                assert!(bytes < 128 || buffer.len() < bytes / 3, "{} bytes", buffer.len());
                echo.receive(buffer.as_slice());
            }
            let mut answer = std::mem::take(&mut echo.sent);
            let mut run = Run::new();
            let Step::Chunk(marks, piece) = connection.poll(&mut run, &mut answer, &mut env) else {
                panic!("an answer to {bytes} bytes")
            };
            let heard = match piece {
                Piece::Run(at) => answer[at].to_vec(),
                Piece::Held(buffer) => buffer.as_slice().to_vec(),
            };
            assert!(marks.first && marks.last && heard == message);
        }
    }
}

#[test]
fn a_compressed_message_of_many_small_fragments_is_copied_a_few_times_and_not_once_for_each() {
    let message: Vec<u8> = {
        let mut entropy = Entropy::new(3);
        (0..2 << 20).map(|_| entropy.next() as u8).collect()
    };
    let mut echo = shared_echo();
    echo.config.message_bytes_max = message.len() as u64;
    let payload = deflated(&message);
    let fragments: Vec<&[u8]> = payload.chunks(256).collect();
    let (mut grown, mut capacity) = (0, 0);
    for (number, fragment) in fragments.iter().enumerate() {
        let last = number == fragments.len() - 1;
        echo.receive(&match number {
            0 => compressed_frame(Opcode::Binary, last, fragment),
            _ => client_frame(Opcode::Continuation, last, fragment),
        });
        if let Some(assembly) = &echo.connection.assembly {
            let now = assembly.len() + assembly.room();
            grown += usize::from(now != capacity);
            capacity = now;
        }
    }
    // It does not shrink, so it comes back plain.
    assert_eq!(answers(&echo.sent), [(false, message)]);
    assert!(grown < 16, "the assembly grew {grown} times");
}
