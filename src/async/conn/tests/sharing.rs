//! Several tasks on one connection: halves, senders, controls; and that nothing is left once all are dropped.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_tasks_over_a_tiny_stream_do_not_deadlock() {
    for bytes in [1, 2, 3, 17] {
        let settings = Settings { queue_bytes: 64, ..Settings::default() };
        let (server, client) = pair_with(bytes, &settings);
        let ends = [server, client].map(|end| {
            let (mut reader, mut writer) = end.split();
            let writing = tokio::spawn(async move {
                for n in 0..200_usize {
                    writer.write(vec![n as u8; n]).await.expect("sent");
                    if n % 10 == 0 {
                        writer.ping(b"are you there?").await.expect("sent");
                    }
                }
                writer
            });
            let (all_read, done) = tokio::sync::oneshot::channel();
            let reading = tokio::spawn(async move {
                for n in 0..200_usize {
                    assert_eq!(reader.read().await.expect("a message"), vec![n as u8; n].into());
                }
                all_read.send(()).expect("awaited");
                // Only pongs are still in flight, and the other end waits until they are read.
                reader.discard_reads().await
            });
            (writing, done, reading)
        });
        let both = async {
            let mut halves = Vec::new();
            for (writing, done, reading) in ends {
                halves.push((writing.await.expect("written"), reading));
                done.await.expect("read");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), both).await.expect("no deadlock");
    }
}

#[tokio::test]
async fn many_senders_share_a_bounded_queue_and_each_keeps_its_order() {
    let (server, client) = pair_with(256, &Settings::default());
    let (mut from_server, _to_server) = client.split();
    let (_reader, writer) = server.split();
    let (sender, send_task) = writer.into_sender(4);
    let send_task = tokio::spawn(send_task);
    for task in 0..10 {
        let sender = sender.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                sender.send(format!("{task} {n}")).await.expect("queued");
            }
        });
    }
    drop(sender);
    let mut next = [0; 10];
    for _ in 0..500 {
        let message = from_server.read().await.expect("a message").into_text().expect("a text");
        let (task, n) = message.split_once(' ').expect("two numbers");
        let (task, n): (usize, usize) = (task.parse().expect("one"), n.parse().expect("one"));
        assert_eq!(n, next[task]);
        next[task] += 1;
    }
    send_task.await.expect("joined").expect("all was sent");
}

#[tokio::test]
async fn a_full_queue_and_an_ended_connection_are_reported() {
    let (server, client) = pair_with(64, &Settings::default());
    let (mut reader, writer) = server.split();
    let (sender, send_task) = writer.into_sender(2);
    sender.try_send("1").expect("room");
    sender.try_send("2").expect("room");
    assert_eq!(sender.try_send("3"), Err(TrySendError::Full("3".into())));
    let send_task = tokio::spawn(send_task);
    drop(client);
    assert!(reader.read().await.is_err());
    assert!(send_task.await.expect("joined").is_err());
    assert!(sender.is_closed());
    assert_eq!(sender.try_send("4"), Err(TrySendError::Closed("4".into())));
    assert!(matches!(sender.send("5").await, Err(Error::Closing)));
}

#[tokio::test]
async fn an_idle_send_task_ends_with_the_connection() {
    let (server, mut client) = pair();
    let (mut reader, writer) = server.split();
    let (sender, send_task) = writer.into_sender(2);
    let send_task = tokio::spawn(send_task);
    sender.send("before it idles").await.expect("queued");
    assert_eq!(client.read().await.expect("a message"), "before it idles".into());
    let closing = tokio::spawn(async move { client.close(CloseCode::NORMAL, "").await });
    assert!(reader.read().await.expect_err("the end").is_clean());
    send_task.await.expect("joined").expect("a clean end");
    sender.closed().await;
    closing.await.expect("joined").expect("closed");
}

#[tokio::test]
async fn a_sender_closes_behind_what_is_queued() {
    let (server, mut client) = pair();
    let (_reader, writer) = server.split();
    let (sender, send_task) = writer.into_sender(8);
    for n in 0..5 {
        sender.send(n.to_string()).await.expect("queued");
    }
    sender.close(CloseCode(4002), "that was all").await.expect("queued");
    assert!(matches!(sender.send("never sent").await, Err(Error::Closing)));
    let send_task = tokio::spawn(send_task);
    for n in 0..5 {
        assert_eq!(client.read().await.expect("a message"), n.to_string().into());
    }
    assert!(client.read().await.expect_err("the end").is_close(&[CloseCode(4002)]));
    send_task.await.expect("joined").expect("a clean end");
}

#[tokio::test]
async fn control_frames_pass_queued_data_and_a_close_drops_it() {
    let (ours, mut peer) = duplex(100);
    let server = conn(ours, Role::Server, &Settings::default());
    let control = server.control();
    let (mut reader, mut writer) = server.split();
    // The first message is accepted in part, the second waits.
    let first = vec![1; 200];
    tokio::select! { biased; _ = writer.write(first) => panic!("no room"), () = yield_now() => {} }
    tokio::select! { biased; _ = writer.write(vec![2; 200]) => panic!("no room"), () = yield_now() => {} }
    let pinging = tokio::spawn({
        let control = control.clone();
        async move { control.ping(b"first").await }
    });
    yield_now().await;
    let closing = tokio::spawn(async move { control.close(CloseCode::GOING_AWAY, "now").await });
    yield_now().await;
    let reading = tokio::spawn(async move { reader.read().await });
    assert_eq!(frame_of(&mut peer).await.1, [1; 200]);
    let (header, payload) = frame_of(&mut peer).await;
    assert_eq!((header.opcode, &payload[..2]), (Opcode::Close, &1001_u16.to_be_bytes()[..]));
    peer.write_all(&masked(Opcode::Close, true, b"\x03\xe9")).await.expect("sent");
    // The second message, and the ping.
    assert_eq!(closing.await.expect("joined").expect("closed"), 202 + 2 + 7);
    assert!(pinging.await.expect("joined").is_err());
    assert!(reading.await.expect("joined").expect_err("the end").is_clean());
}

#[tokio::test]
async fn a_control_does_not_keep_a_connection_open() {
    let (server, mut client) = pair();
    let control = server.control();
    drop(server);
    assert!(matches!(client.read().await, Err(Error::Broken)));
    assert!(matches!(control.ping(b"").await, Err(Error::Closing)));
    assert!(matches!(control.close(CloseCode::NORMAL, "").await, Err(Error::Closing)));
}

#[tokio::test]
async fn arguments_that_are_wrong_are_refused_by_their_names() {
    let (mut server, mut client) = pair();
    assert!(matches!(server.ping(&[0; 126]).await, Err(Error::ControlTooLong)));
    assert!(matches!(server.set_compression_level(77), Err(Error::CompressionLevel(77))));
    server.ping(&[0; 125]).await.expect("sent");
    server.pong(b"unasked").await.expect("sent");
    server.write("then").await.expect("sent");
    assert_eq!(client.read().await.expect("a message"), "then".into());
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("a list").count()
}

async fn one_life<S: Transport>(server: Conn<S>, mut client: Conn<S>) {
    let (mut reader, mut writer) = server.split();
    let control = writer_control(&reader);
    let echo = async {
        while let Ok(message) = reader.read().await {
            writer.write(message).await.expect("sent");
        }
    };
    let talk = async {
        client.write("hello").await.expect("sent");
        assert_eq!(client.read().await.expect("the echo"), "hello".into());
        client.close(CloseCode::NORMAL, "").await.expect("closed");
    };
    tokio::join!(echo, talk);
    drop((reader, writer, client));
    assert!(control.ping(b"").await.is_err());
}

fn writer_control<S: Transport>(reader: &Reader<S>) -> Control<S> {
    Control::new(&reader.shared)
}

#[tokio::test]
async fn ten_thousand_connections_leave_no_task_and_no_descriptor() {
    let metrics = tokio::runtime::Handle::current().metrics();
    for _ in 0..10_000 {
        let (server, client) = pair_with(256, &Settings::default());
        one_life(server, client).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    // Other tests run at the same time with descriptors of their own, so only the growth counts.
    let before = open_descriptors();
    for _ in 0..1_000 {
        let (accepted, dialled) = tokio::join!(listener.accept(), TcpStream::connect(address));
        let server = conn(accepted.expect("accepted").0, Role::Server, &Settings::default());
        one_life(server, conn(dialled.expect("connected"), Role::Client, &Settings::default())).await;
    }
    let after = open_descriptors();
    assert!(after < before + 200, "{before} descriptors became {after}");
    assert_eq!(metrics.num_alive_tasks(), 0, "nothing was spawned");
}

/// On tokio-uring's runtime, if io_uring is allowed.
#[cfg(all(feature = "uring", target_os = "linux", not(target_env = "musl")))]
#[test]
fn a_connection_works_on_tokio_uring() {
    if let Err(error) = crate::ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        eprintln!("io_uring is denied here ({error}): nothing to test");
        return;
    }
    tokio_uring::start(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let listener = tokio_uring::net::TcpListener::from_std(listener);
        let (accepted, dialled) =
            tokio::join!(listener.accept(), tokio_uring::net::TcpStream::connect(address));
        let settings = Settings { max_message: 1 << 20, ..Settings::default() };
        let end = |stream, role| conn(crate::UringStream::new(stream), role, &settings);
        let mut server = end(accepted.expect("accepted").0, Role::Server);
        let mut client = end(dialled.expect("connected"), Role::Client);
        let echo = async {
            loop {
                match server.read().await {
                    Ok(message) => server.write(message).await.expect("sent"),
                    Err(error) => return error,
                }
            }
        };
        let talk = async {
            for bytes in [0, 1, 1000, 300_000] {
                client.write(vec![7; bytes]).await.expect("sent");
                assert_eq!(client.read().await.expect("the echo"), vec![7; bytes].into());
            }
            client.set_read_deadline(Some(Instant::now() + Duration::from_millis(20)));
            assert!(matches!(client.read().await, Err(Error::ReadTimeout)));
            client.close(CloseCode::NORMAL, "done").await.expect("closed")
        };
        let (end, answer) = tokio::join!(echo, talk);
        assert!(end.is_clean());
        assert_eq!(answer.code, CloseCode::NORMAL);
    });
}
