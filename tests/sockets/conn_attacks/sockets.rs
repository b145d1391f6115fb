//! Attacks that need sockets: resets, half-closed connections, and floods of connections at a listener.

use std::time::Duration;

use echoring::{Conn, Dialer, Listener, Opened, Role, Settings, Upgrader};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::floods::told;
use super::head::read_head;
use super::peer::{BINARY, CONTINUATION, FIN, Frames, PING, REQUEST, ROLES, TEXT};

/// Longer than anything here takes, so that a hang fails.
const PATIENCE: Duration = Duration::from_secs(60);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("no hang") });
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.expect("connected"), far.expect("accepted").0)
}

/// The attacker sends these bytes and resets the connection.
#[test]
fn a_reset_anywhere_in_a_frame_ends_the_connection_with_its_error() {
    run(async {
        for role in ROLES {
            let frames = Frames(role);
            let whole = frames.frame(FIN | TEXT, b"whole");
            let attacks = [
                ("between messages", Vec::new()),
                ("inside a header", frames.header(FIN | BINARY, 1_000)[..3].to_vec()),
                ("inside a payload", [frames.header(FIN | BINARY, 1_000), vec![7; 500]].concat()),
                ("between fragments", frames.frame(TEXT, b"begun")),
                (
                    "inside a fragment",
                    [frames.frame(TEXT, b"begun"), frames.header(CONTINUATION, 9)].concat(),
                ),
                ("inside a ping", frames.frame(FIN | PING, b"p")[..3].to_vec()),
            ];
            for (name, bytes) in attacks {
                let (near, mut far) = sockets().await;
                let mut conn = Conn::new(near, &Settings::default(), Opened::new(role));
                far.write_all(&[&whole[..], &bytes].concat()).await.expect("sent");
                // What came before the reset is read; the kernel would drop it if the reset came first.
                assert_eq!(conn.read().await.expect("a message"), "whole".into());
                socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).expect("set");
                drop(far);
                assert_eq!(
                    told(&conn.read().await.expect_err("the end")),
                    "io ConnectionReset",
                    "{role:?} {name}"
                );
                assert!(conn.write("x").await.is_err());
                assert_eq!(told(&conn.read().await.expect_err("the same end")), "io ConnectionReset");
            }
        }
    });
}

/// A peer that reads nothing, then sends a reset, while this end writes.
#[test]
fn a_reset_of_a_peer_that_does_not_read_ends_the_write() {
    run(async {
        for role in ROLES {
            let (near, far) = sockets().await;
            let mut conn = Conn::new(near, &Settings::default(), Opened::new(role));
            conn.set_write_deadline(Some(tokio::time::Instant::now() + Duration::from_millis(50)));
            loop {
                match conn.write(vec![7; 1 << 20]).await {
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(told(&error), "the message was not sent before the deadline", "{role:?}");
                        break;
                    }
                }
            }
            conn.set_write_deadline(None);
            socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).expect("set");
            let (end, ()) = tokio::join!(conn.write("x"), async { drop(far) });
            assert_eq!(told(&end.expect_err("the end")), "io ConnectionReset", "{role:?}");
        }
    });
}

/// A peer that reads nothing, and a connection whose writes have a time limit.
#[test]
fn a_peer_that_does_not_read_ends_the_connection_after_the_write_timeout() {
    run(async {
        for role in ROLES {
            let (near, mut far) = sockets().await;
            let settings = Settings::default().write_timeout(Duration::from_millis(50));
            let mut conn = Conn::new(near, &settings, Opened::new(role));
            let error = loop {
                if let Err(error) = conn.write(vec![7; 1 << 20]).await {
                    break error;
                }
            };
            assert_eq!(told(&error), "the peer did not read what was sent to it", "{role:?}");
            assert_eq!(
                told(&conn.read().await.expect_err("the same end")),
                "the peer did not read what was sent to it",
                "{role:?}"
            );
            drop(conn);
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.expect("what the kernel holds, and the end");
            assert!(!got.is_empty());
        }
    });
}

/// The peer half-closes, and then reads what it is still owed.
#[test]
fn a_peer_that_half_closes_gets_what_was_written_before() {
    run(async {
        for role in ROLES {
            let (near, mut far) = sockets().await;
            let mut conn = Conn::new(near, &Settings::default(), Opened::new(role));
            far.write_all(&Frames(role).frame(FIN | TEXT, b"ask")).await.expect("sent");
            far.shutdown().await.expect("shut down");
            let message = conn.read().await.expect("a message");
            conn.write(message).await.expect("answered");
            assert_eq!(told(&conn.read().await.expect_err("the end")), "broken");
            drop(conn);
            let mut answer = Vec::new();
            far.read_to_end(&mut answer).await.expect("the answer and the end");
            assert!(answer.len() >= 5, "{role:?}: {answer:x?}");
        }
    });
}

/// More connections than a listener has handshakes at once, none of which sends a byte, and an honest client behind them.
#[test]
fn silent_connections_do_not_keep_others_out_for_longer_than_the_handshakes_deadline() {
    const SILENT: usize = 1_100;
    run(async {
        let listener = Listener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let upgrader = Upgrader::new().handshake_timeout(Duration::from_millis(500));
        let serving = tokio::spawn(async move {
            let mut incoming = listener.incoming(&upgrader);
            loop {
                let mut conn = incoming.next().await.expect("a listener that works");
                tokio::spawn(async move {
                    while let Ok(message) = conn.read().await {
                        conn.write(message).await.expect("echoed");
                    }
                });
            }
        });
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            silent.push(TcpStream::connect(address).await.expect("connected"));
        }
        // Some of them have begun a head.
        for stream in silent.iter_mut().step_by(3) {
            let _ = stream.write_all(&REQUEST.as_bytes()[..20]).await;
        }
        let dialer = Dialer::new().handshake_timeout(PATIENCE);
        let mut conn = dialer.dial(&format!("ws://{address}/")).await.expect("a connection");
        conn.write("honest").await.expect("sent");
        assert_eq!(conn.read().await.expect("the echo"), "honest".into());
        // Those that were accepted are told, and gone.
        let mut first = silent.swap_remove(0);
        assert!(read_head(&mut first).await.starts_with("HTTP/1.1 408 "));
        serving.abort();
    });
}

/// A connection of which the peer takes one byte at a time from a small receive buffer.
#[test]
fn a_peer_that_reads_byte_by_byte_gets_all_of_it() {
    run(async {
        let (near, mut far) = sockets().await;
        socket2::SockRef::from(&near).set_send_buffer_size(4_096).expect("set");
        socket2::SockRef::from(&far).set_recv_buffer_size(4_096).expect("set");
        let mut conn = Conn::new(near, &Settings::default(), Opened::new(Role::Server));
        let payload: Vec<u8> = (0..30_000_u32).map(|at| at as u8).collect();
        let writing = async {
            conn.write(payload.clone()).await.expect("sent");
            drop(conn);
        };
        let reading = async {
            let mut all = Vec::new();
            while let Ok(byte) = far.read_u8().await {
                all.push(byte);
            }
            all
        };
        let ((), all) = tokio::join!(writing, reading);
        assert_eq!(all[all.len() - payload.len()..], payload);
    });
}
