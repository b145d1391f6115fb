//! The opening handshake in both roles, driven by hand.

use super::*;

#[test]
fn a_dribbled_head_ends_at_its_absolute_deadline() {
    let mut echo = Echo::new(Config::default());
    for byte in &REQUEST[..49] {
        echo.receive(&[*byte]);
        echo.pass(100 * MILLISECOND);
    }
    assert_eq!(echo.fate, None);
    echo.pass(100 * MILLISECOND);
    assert_eq!(echo.fate, Some(Fate::Close));
    assert_eq!(echo.connection.closed().map(|closed| closed.cause.clone()), Some(Cause::HandshakeTimeout));
}

#[test]
fn heads_that_cannot_become_good_are_refused_at_once() {
    for (bytes, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], "400"),
        (&[b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; 17_000]].concat(), "431"),
    ] {
        let mut echo = Echo::new(Config::default());
        bytes.chunks(5_000).for_each(|chunk| echo.receive(chunk));
        let answer = String::from_utf8_lossy(&echo.sent).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(echo.fate, Some(Fate::Shutdown));
    }
}

#[test]
fn data_pipelined_behind_a_good_handshake_is_read() {
    let mut echo = Echo::new(Config::default());
    echo.receive(&[REQUEST, &client_frame(Opcode::Text, true, b"early")].concat());
    let head = echo.sent.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(frames(&echo.sent[head..]), [(Opcode::Text, true, b"early".to_vec())]);
}

#[test]
fn what_arrives_while_the_application_decides_is_kept_for_later() {
    let mut echo = Echo::new(Config::default());
    let frame = client_frame(Opcode::Text, true, b"patient");
    let mut bytes = [REQUEST, &frame[..5]].concat();
    let (connection, mut env) = echo.env();
    let mut run = Run::new();
    let Step::Head(head) = connection.poll(&mut run, &mut bytes, &mut env) else { panic!("a head") };
    env.pool.put(head);
    connection.decide_later(*b"AAAAAAAAAAAAAAAAAAAAAA==");
    assert!(matches!(connection.poll(&mut run, &mut bytes, &mut env), Step::Idle));
    assert_eq!(connection.pause_wanted(env.config), Some(true));
    let mut rest = frame[5..].to_vec();
    assert!(matches!(connection.poll(&mut Run::new(), &mut rest, &mut env), Step::Idle));
    assert!(connection.take_parked(env.config).is_none(), "nothing is decided");
    connection.accept(None, None, &[], false, &mut env).unwrap();
    let parked = connection.take_parked(env.config).expect("both pieces were kept");
    assert_eq!(parked.as_slice(), frame);
    assert_eq!(connection.pause_wanted(env.config), Some(false));
}

#[test]
fn a_handshake_that_comes_to_nothing_gives_its_memory_back() {
    let ends: [fn(&mut Echo); 4] = [
        |echo| echo.pass(5 * SECOND),
        |echo| echo.connection.ended(echo.now),
        |echo| echo.connection.failed(std::io::ErrorKind::ConnectionReset),
        |echo| {
            let (connection, mut env) = echo.env();
            connection.close(CloseCode::GOING_AWAY, "", &mut env);
        },
    ];
    for end in ends {
        for deciding in [false, true] {
            let mut echo = Echo::new(Config::default());
            if deciding {
                let (connection, mut env) = echo.env();
                connection.decide_later(*b"AAAAAAAAAAAAAAAAAAAAAA==");
                let mut early = client_frame(Opcode::Text, true, b"early");
                assert!(matches!(connection.poll(&mut Run::new(), &mut early, &mut env), Step::Idle));
            } else {
                echo.receive(&REQUEST[..50]);
            }
            assert!(echo.pool.used_bytes() > 0);
            end(&mut echo);
            assert!(echo.connection.is_ending());
            echo.connection.release(&mut echo.pool, &mut echo.codecs);
            while echo.pool.trim() {}
            assert_eq!(echo.pool.used_bytes(), 0, "deciding: {deciding}");
        }
    }
}

#[test]
fn a_head_ends_at_its_first_empty_line_however_it_is_cut() {
    let bytes = [REQUEST, b"\r\n\r\n"].concat();
    for cut in 1..REQUEST.len() {
        let mut echo = Echo::new(Config::default());
        let (connection, mut env) = echo.env();
        let (mut first, mut second) = (bytes[..cut].to_vec(), bytes[cut..].to_vec());
        let mut run = Run::new();
        assert!(matches!(connection.poll(&mut run, &mut first, &mut env), Step::Idle));
        let mut run = Run::new();
        let Step::Head(head) = connection.poll(&mut run, &mut second, &mut env) else { panic!("a head") };
        assert_eq!((head.as_slice(), run.position()), (REQUEST, REQUEST.len() - cut), "cut at {cut}");
        env.pool.put(head);
    }
}

#[test]
fn memory_that_is_spent_in_the_middle_of_a_head_is_given_back() {
    for deciding in [false, true] {
        let mut echo = Echo::new(Config::default());
        echo.pool = Pool::new(Budget::new(1_500));
        let (connection, mut env) = echo.env();
        if deciding {
            connection.decide_later(*b"AAAAAAAAAAAAAAAAAAAAAA==");
        }
        for bytes in [200, 3_000] {
            let mut part = vec![b'a'; bytes];
            assert!(matches!(connection.poll(&mut Run::new(), &mut part, &mut env), Step::Idle));
        }
        assert_eq!(connection.closed().map(|closed| closed.cause.clone()), Some(Cause::OutOfMemory));
        echo.connection.release(&mut echo.pool, &mut echo.codecs);
        while echo.pool.trim() {}
        assert_eq!(echo.pool.used_bytes(), 0, "deciding: {deciding}");
    }
}

#[test]
fn a_client_whose_request_nobody_reads_is_cut_in_the_end() {
    let dial = Dial { host: "a".into(), path: "/".into(), ..Dial::default() };
    let mut echo = Echo::new(Config { dial: Some(dial), ..Config::default() });
    let (connection, mut env) = echo.env();
    *connection = Connection::client(&mut env, false).unwrap();
    connection.blocked(100);
    echo.pass(5 * SECOND);
    assert_eq!(echo.fate, None, "what is queued may still leave");
    assert_eq!(echo.connection.deadline(&echo.config), echo.now + echo.config.close_timeout);
    echo.pass(echo.config.close_timeout);
    assert_eq!(echo.fate, Some(Fate::Abort));
}

#[test]
fn client_and_server_understand_each_other() {
    let dial =
        Dial { host: "a".into(), path: "/echo".into(), origin: None, subprotocols: vec![], headers: vec![] };
    let config = Config { dial: Some(dial), ..Config::default() };
    let mut server = Echo::new(Config::default());
    let (mut pool, mut entropy) = (Pool::standalone(), Entropy::new(7));
    let mut codecs = codecs(&config);
    let mut env =
        Env { pool: &mut pool, codecs: &mut codecs, config: &config, now: 1, entropy: &mut entropy };
    let mut client = Connection::client(&mut env, true).unwrap();
    let to_server = |client: &mut Connection, server: &mut Echo| {
        while let Some(buffer) = client.pop() {
            server.receive(buffer.as_slice());
        }
    };
    let request = client.pop().unwrap();
    let key_at = request.as_slice().windows(5).position(|bytes| bytes == b"-Key:").unwrap() + 6;
    let key: [u8; 24] = request.as_slice()[key_at..key_at + 24].try_into().unwrap();
    let mut response = Vec::new();
    crate::protocol::handshake::write_accept(&mut response, &key, None, None, []);
    server.receive(request.as_slice());
    server.sent.clear();
    let mut run = Run::new();
    assert!(matches!(client.poll(&mut run, &mut response, &mut env), Step::Opened(_)));
    for size in [0, 1, 125, 126, 65_535, 65_536] {
        client.send(Kind::Binary, &vec![9; size], &mut env).unwrap();
        to_server(&mut client, &mut server);
        let mut back = std::mem::take(&mut server.sent);
        let mut run = Run::new();
        let Step::Chunk(marks, Piece::Run(at)) = client.poll(&mut run, &mut back, &mut env) else {
            panic!("the echo of {size} bytes")
        };
        assert_eq!((marks.first, marks.last, &back[at]), (true, true, &vec![9; size][..]));
    }
    client.close(CloseCode::NORMAL, "", &mut env);
    to_server(&mut client, &mut server);
    assert_eq!(server.fate, Some(Fate::Close));
    let mut back = std::mem::take(&mut server.sent);
    client.poll(&mut Run::new(), &mut back, &mut env);
    assert_eq!(client.take_fate(), None, "the client waits for the server to close");
    client.ended(Nanos::MAX);
    assert_eq!(client.take_fate(), Some(Fate::Close));
}

/// A client that offered `offered`, whose server answers `before` and then a 101 that names `chosen`, in runs of
/// `run_bytes`.
fn dialled(offered: &[&str], before: &str, chosen: Option<&str>, run_bytes: usize) -> Connection {
    let subprotocols = offered.iter().map(|name| (*name).to_owned()).collect();
    let dial = Dial { host: "a".into(), path: "/".into(), subprotocols, ..Dial::default() };
    let config = Config { dial: Some(dial), ..Config::default() };
    let (mut pool, mut entropy) = (Pool::standalone(), Entropy::new(7));
    let mut codecs = codecs(&config);
    let mut env =
        Env { pool: &mut pool, codecs: &mut codecs, config: &config, now: 1, entropy: &mut entropy };
    let mut client = Connection::client(&mut env, true).unwrap();
    let request = client.pop().unwrap();
    let key_at = request.as_slice().windows(5).position(|bytes| bytes == b"-Key:").unwrap() + 6;
    let mut answer = before.as_bytes().to_vec();
    let key = request.as_slice()[key_at..key_at + 24].try_into().unwrap();
    crate::protocol::handshake::write_accept(&mut answer, &key, chosen, None, []);
    for run in answer.chunks_mut(run_bytes) {
        client.poll(&mut Run::new(), run, &mut env);
    }
    client
}

#[test]
fn interim_responses_do_not_end_the_wait_for_the_101() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    for run_bytes in [1, 7, 50, 10_000] {
        assert!(dialled(&[], interim, None, run_bytes).is_open(), "runs of {run_bytes}");
    }
}

#[test]
fn a_subprotocol_that_was_not_offered_fails_the_clients_connection() {
    assert!(dialled(&["chat"], "", Some("chat"), 1_000).is_open());
    assert!(dialled(&["chat"], "", None, 1_000).is_open());
    let failed = dialled(&["chat"], "", Some("superchat"), 1_000);
    assert_eq!(failed.closed().unwrap().cause, Cause::BadHandshake(BadHandshake::UnknownSubprotocol));
    assert!(!dialled(&[], "", Some("chat"), 1_000).is_open());
}

#[test]
fn a_dribbled_head_is_refused_long_before_its_end_when_it_cannot_become_good() {
    let fields: String = (0..101).map(|at| format!("x{at}:\r\n")).collect();
    for head in
        [format!("GET / HTTP/1.1\r\n{fields}"), format!("GET / HTTP/1.1\r\nA b\r\n{}", "x: y\r\n".repeat(90))]
    {
        let mut echo = Echo::new(Config::default());
        for byte in head.bytes().chain(std::iter::repeat_n(b'x', head.len())) {
            echo.receive(&[byte]);
        }
        assert!(matches!(echo.connection.closed().map(|closed| &closed.cause), Some(Cause::Refused(_))));
    }
}
