//! What applications other than an echo ask of a connection: handshakes done elsewhere, pings and Close frames that
//! they answer themselves, messages in the pieces they came in, frames that overtake.

use super::*;

/// A server's end of a connection that is open from its first byte.
struct End {
    connection: Connection,
    pool: Pool,
    codecs: Codecs,
    config: Config,
    entropy: Entropy,
}

/// What was seen in a run.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Chunk(bool, bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

impl End {
    fn new(config: Config) -> End {
        let (mut pool, mut entropy) = (Pool::standalone(), Entropy::new(5));
        let mut codecs = codecs(&config);
        let mut env =
            Env { pool: &mut pool, codecs: &mut codecs, config: &config, now: SECOND, entropy: &mut entropy };
        let opened = Connection::opened(Role::Server, None, Delivery::Chunks, &mut env);
        End { connection: opened.expect("memory"), pool, codecs, config, entropy }
    }

    fn act<R>(&mut self, act: impl FnOnce(&mut Connection, &mut Env<'_>) -> R) -> R {
        let End { connection, pool, codecs, config, entropy } = self;
        act(connection, &mut Env { pool, codecs, config, now: SECOND, entropy })
    }

    fn read(&mut self, bytes: &[u8]) -> Vec<Seen> {
        let mut bytes = bytes.to_vec();
        self.act(|connection, env| {
            let (mut run, mut seen) = (Run::new(), Vec::new());
            connection.begin_run(env.now);
            loop {
                let step = connection.poll(&mut run, &mut bytes, env);
                let mut take = |piece| match piece {
                    Piece::Run(at) => bytes[at].to_vec(),
                    Piece::Held(buffer) => {
                        let taken = buffer.as_slice().to_vec();
                        env.pool.put(buffer);
                        taken
                    }
                };
                seen.push(match step {
                    Step::Idle => break,
                    Step::Chunk(marks, piece) => Seen::Chunk(marks.first, marks.last, take(piece)),
                    Step::Ping(piece) => Seen::Ping(take(piece)),
                    Step::Pong(piece) => Seen::Pong(take(piece)),
                    step => panic!("{step:?}"),
                });
            }
            if let Ok(Some(_)) = connection.end_run(&run, &bytes, env) {
                connection.copy_block(&run, &bytes, env).expect("memory");
            }
            seen
        })
    }

    fn sent(&mut self) -> Vec<(Opcode, bool, Vec<u8>)> {
        let mut sent = Vec::new();
        while let Some(buffer) = self.connection.pop() {
            sent.extend_from_slice(buffer.as_slice());
            self.pool.put(buffer);
        }
        frames(&sent)
    }
}

#[test]
fn pings_are_shown_to_whom_asks_and_answered_as_it_asks() {
    for (pings, pongs, shown) in
        [(Pings::Answered, 3, 0), (Pings::AnsweredAndShown, 3, 3), (Pings::Shown, 0, 3)]
    {
        let mut end = End::new(Config { pings, ..Config::default() });
        let ping = |n: u8| client_frame(Opcode::Ping, true, &[b'p', n]);
        // Two in one run, so that the second reply lies behind the first, and one that spans two.
        let mut seen = end.read(&[ping(0), ping(1)].concat());
        let (head, tail) = (ping(2)[..7].to_vec(), ping(2)[7..].to_vec());
        seen.extend(end.read(&head));
        seen.extend(end.read(&tail));
        let expected: Vec<Seen> = (0..shown).map(|n| Seen::Ping(vec![b'p', n])).collect();
        assert_eq!(seen, expected, "{pings:?}");
        let expected: Vec<_> = (0..pongs).map(|n| (Opcode::Pong, true, vec![b'p', n])).collect();
        assert_eq!(end.sent(), expected, "{pings:?}");
    }
}

#[test]
fn an_application_that_answers_pings_is_not_flooded_either() {
    let mut end = End::new(Config { pings: Pings::Shown, pings_per_second_max: 2, ..Config::default() });
    let seen = end.read(&client_frame(Opcode::Ping, true, b"").repeat(3));
    assert_eq!(seen.len(), 2);
    let closed = end.connection.closed().expect("the end has begun");
    assert_eq!(closed.cause, Cause::Offence(Offence::PingFlood));
}

#[test]
fn an_application_may_answer_a_close_frame_with_a_code_of_its_own() {
    let mut end = End::new(Config { answers_closes: false, ..Config::default() });
    end.read(&client_frame(Opcode::Close, true, b"\x03\xe9leaving"));
    assert!(end.sent().is_empty());
    let said = end.connection.closed().and_then(|closed| closed.peer_close.clone());
    assert_eq!(said, Some(CloseFrame { code: CloseCode::GOING_AWAY, reason: "leaving".to_owned() }));
    end.act(|connection, env| connection.answer_close(CloseCode(4000), "bye", env));
    assert_eq!(end.sent(), [(Opcode::Close, true, b"\x0f\xa0bye".to_vec())]);
    assert_eq!(end.connection.take_fate(), Some(Fate::Close));
}

#[test]
fn the_answer_to_our_close_is_kept() {
    let mut end = End::new(Config::default());
    end.act(|connection, env| connection.close(CloseCode::NORMAL, "done", env));
    end.read(&client_frame(Opcode::Close, true, b"\x0f\xa1me too"));
    let closed = end.connection.closed().expect("the end has begun");
    assert_eq!((closed.code, &closed.cause), (CloseCode::NORMAL, &Cause::Local));
    let said = closed.peer_close.as_ref().map(|said| (said.code.0, said.reason.as_str()));
    assert_eq!(said, Some((4001, "me too")));
}

#[test]
fn a_close_that_overtakes_drops_what_is_queued_and_waits_for_its_answer() {
    let mut end = End::new(Config::default());
    end.act(|connection, env| connection.send(Kind::Text, b"queued", env)).expect("memory");
    let dropped = end.act(|connection, env| connection.close_overtaking(CloseCode::NORMAL, "", env));
    assert_eq!(dropped, 8);
    assert_eq!(end.sent(), [(Opcode::Close, true, vec![0x03, 0xe8])]);
    assert_eq!(end.connection.take_fate(), None);
    end.read(&client_frame(Opcode::Close, true, b"\x03\xe8"));
    assert_eq!(end.connection.take_fate(), Some(Fate::Close));
}

#[test]
fn chunks_are_shown_as_they_come_whatever_the_frame_announced() {
    let mut end = End::new(Config::default());
    let message: Vec<u8> = (0..1000_u32).map(|n| n as u8).collect();
    let frame = client_frame(Opcode::Binary, true, &message);
    let mut shown = Vec::new();
    for run in frame.chunks(100) {
        for seen in end.read(run) {
            let Seen::Chunk(first, last, bytes) = seen else { panic!("{seen:?}") };
            assert_eq!(first, shown.is_empty());
            shown.extend_from_slice(&bytes);
            assert_eq!(last, shown.len() == message.len());
        }
        assert!(end.connection.owns_memory() == end.connection.assembly.is_some());
        assert!(end.connection.assembly.is_none(), "nothing is collected");
    }
    assert_eq!(shown, message);
}

#[test]
fn fragments_take_control_frames_between_them() {
    let mut end = End::new(Config::default());
    end.act(|connection, env| {
        connection.send_fragment(Kind::Text, true, false, b"one ", env).expect("memory");
        connection.ping(b"alive?", env).expect("memory");
        connection.pong(b"by itself", env).expect("memory");
        connection.send_fragment(Kind::Text, false, true, b"two", env).expect("memory");
    });
    let (data, pongs) = messages(&end.sent());
    assert_eq!(data, [(Opcode::Text, b"one two".to_vec())]);
    assert_eq!(pongs, [b"by itself".to_vec()]);
}
