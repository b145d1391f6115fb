//! Against another implementation, and two connections against each other in random scenarios.

use std::net::{TcpListener, TcpStream};
use std::thread;

use proptest::prelude::*;
use tungstenite::protocol::{Role as TheirRole, WebSocket, frame::CloseFrame as TheirCloseFrame};
use tungstenite::{Error as TheirError, Message as Theirs};

use super::*;
use echoring_proto::connection::Compression;
use echoring_proto::deflate;

/// Both ends of a TCP connection: ours, and a blocking one.
fn sockets() -> (tokio::net::TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let theirs = TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
    let (ours, _) = listener.accept().expect("accepted");
    ours.set_nonblocking(true).expect("set");
    (tokio::net::TcpStream::from_std(ours).expect("registered"), theirs)
}

fn settings() -> Settings {
    Settings { max_message: 4 << 20, ..Settings::default() }
}

fn bodies() -> Vec<Theirs> {
    let text = "grüße 🦀 ".repeat(10_000);
    vec![Theirs::text(""), Theirs::text(text), Theirs::binary(vec![0xff; 1 << 20]), Theirs::binary(vec![])]
}

#[tokio::test]
async fn another_implementation_is_echoed_in_both_roles() {
    for (role, their_role) in [(Role::Server, TheirRole::Client), (Role::Client, TheirRole::Server)] {
        let (ours, theirs) = sockets();
        let peer = thread::spawn(move || {
            let mut peer = WebSocket::from_raw_socket(theirs, their_role, None);
            for body in bodies() {
                peer.send(body.clone()).expect("sent");
                assert_eq!(peer.read().expect("the echo"), body);
            }
            peer.send(Theirs::Ping("are you there?".into())).expect("sent");
            assert_eq!(peer.read().expect("the pong"), Theirs::Pong("are you there?".into()));
            let goodbye = TheirCloseFrame { code: 4000.into(), reason: "enough".into() };
            peer.close(Some(goodbye)).expect("sent");
            let mut last = None;
            loop {
                match peer.read() {
                    Ok(message) => last = Some(message),
                    Err(TheirError::ConnectionClosed) => return last,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let mut conn = conn(ours, role, &settings());
        let error = loop {
            match conn.read().await {
                Ok(message) => conn.write(message).await.expect("sent"),
                Err(error) => break error,
            }
        };
        let Error::Closed(frame) = error else { panic!("{error}") };
        assert_eq!((frame.code.0, frame.reason.as_str()), (4000, "enough"));
        drop(conn);
        let last = peer.join().expect("no panic");
        assert!(
            matches!(last, Some(Theirs::Close(Some(frame))) if u16::from(frame.code) == 4000),
            "{role:?}"
        );
    }
}

#[tokio::test]
async fn another_implementation_reads_our_fragments_and_our_close() {
    for (role, their_role) in [(Role::Server, TheirRole::Client), (Role::Client, TheirRole::Server)] {
        let (ours, theirs) = sockets();
        let peer = thread::spawn(move || {
            let mut peer = WebSocket::from_raw_socket(theirs, their_role, None);
            let mut read = Vec::new();
            while let Ok(message) = peer.read() {
                read.push(message);
            }
            read
        });
        let mut conn = conn(ours, role, &settings());
        let mut writer = conn.next_writer(MessageKind::Text);
        writer.write_all("é".repeat(50_000).as_bytes()).await.expect("written");
        writer.finish().await.expect("finished");
        conn.ping(b"ping").await.expect("sent");
        let answer = conn.close(CloseCode(4001), "that was all").await.expect("closed");
        assert_eq!(answer.code, CloseCode(4001));
        drop(conn);
        let read = peer.join().expect("no panic");
        assert_eq!(read[..2], [Theirs::text("é".repeat(50_000)), Theirs::Ping("ping".into())]);
        let Theirs::Close(Some(close)) = &read[2] else { panic!("{:?}", read[2]) };
        assert_eq!((u16::from(close.code), close.reason.as_str()), (4001, "that was all"));
    }
}

/// A random scenario: what is sent, in which pieces, through which buffers.
#[derive(Clone, Debug)]
struct Scenario {
    messages: Vec<(bool, Vec<u8>)>,
    stream_bytes: usize,
    read_buffer_bytes: usize,
    write_buffer_bytes: usize,
    piece_bytes: usize,
    compresses: bool,
    client_sends: bool,
    pooled: bool,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        (any::<u8>(), 0..20_000_usize).prop_map(|(byte, bytes)| vec![byte; bytes]),
    ];
    let messages = proptest::collection::vec((any::<bool>(), body), 1..8);
    let sizes = (1..3000_usize, 1..3000_usize, 1..3000_usize, 1..5000_usize);
    (messages, sizes, any::<[bool; 3]>()).prop_map(|(messages, sizes, [compresses, client_sends, pooled])| {
        Scenario {
            messages,
            stream_bytes: sizes.0,
            read_buffer_bytes: sizes.1,
            write_buffer_bytes: sizes.2,
            piece_bytes: sizes.3,
            compresses,
            client_sends,
            pooled,
        }
    })
}

async fn play(scenario: &Scenario) {
    let settings = Settings {
        read_buffer_bytes: scenario.read_buffer_bytes,
        write_buffer_bytes: scenario.write_buffer_bytes,
        buffers: scenario.pooled.then(BufferPool::new),
        ..Settings::default()
    };
    let agreement = scenario.compresses.then(|| {
        let mut preferences = Compression::default().preferences;
        preferences.server.context_takeover = true;
        deflate::agree([&b"permessage-deflate"[..]].into_iter(), &preferences).expect("a good offer")
    });
    let (ours, theirs) = duplex(scenario.stream_bytes);
    let end = |stream, role| Conn::new(stream, &settings, Opened { agreement, ..Opened::new(role) });
    let (server, client) = (end(ours, Role::Server), end(theirs, Role::Client));
    let (mut to, mut from) = if scenario.client_sends { (client, server) } else { (server, client) };
    let sending = async {
        for (streamed, body) in &scenario.messages {
            if *streamed {
                let mut writer = to.next_writer(MessageKind::Binary);
                for piece in body.chunks(scenario.piece_bytes) {
                    writer.write_all(piece).await.expect("written");
                }
                writer.finish().await.expect("finished");
            } else {
                to.write_binary(body).await.expect("sent");
            }
        }
        to.close(CloseCode::NORMAL, "").await.expect("closed");
    };
    let reading = async {
        for (streamed, body) in &scenario.messages {
            if *streamed {
                assert_eq!(from.read().await.expect("a message").as_bytes(), body);
            } else {
                let mut read = Vec::new();
                let mut reader = from.next_reader().await.expect("a message");
                reader.read_to_end(&mut read).await.expect("bytes");
                assert_eq!(read, *body);
            }
        }
        assert!(from.read().await.expect_err("the end").is_clean());
        drop(from);
    };
    tokio::join!(sending, reading);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn messages_arrive_with_any_buffers_and_pieces(scenario in scenario()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(play(&scenario));
    }
}
