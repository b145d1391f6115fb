//! `Reconnecting`, with servers that disappear.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use echoring_async::reconnect::{Event, Reason};
use echoring_async::{DialError, Listener, Message, Upgrader};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ports;
use super::support::{PATIENCE, canned_server, dialer, echo, url};
use super::tls::{Authority, tls_echo_server};

/// The events as text, and the waits.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn hook(&self) -> impl FnMut(Event<'_>) + Send + use<> {
        let log = Arc::clone(&self.0);
        move |event| {
            let word = match event {
                Event::Dialling { attempt } => format!("dialling {attempt}"),
                Event::Connected => "connected".to_owned(),
                Event::Failed(_) => "failed".to_owned(),
                Event::Waiting { delay, attempt } => format!("waiting {} for {attempt}", delay.as_millis()),
                Event::Lost(_) => "lost".to_owned(),
                other => format!("{other:?}"),
            };
            log.lock().expect("unpoisoned").push(word);
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("unpoisoned"))
    }
}

/// A server that sends `greeting` to each client and then echoes, until the set is dropped.
async fn greeting_server(listener: Listener, greeting: &'static str) -> JoinSet<()> {
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut incoming = listener.incoming(&Upgrader::new());
        let mut clients = JoinSet::new();
        loop {
            let mut conn = incoming.next().await.expect("a listener that works");
            clients.spawn(async move {
                if conn.write(greeting).await.is_ok() {
                    echo(conn).await;
                }
            });
        }
    });
    server
}

#[tokio::test]
async fn a_server_that_dies_twice_is_found_again_at_its_port() {
    let [address] = ports::free();
    let listener = Listener::bind(address).await.expect("a listener");
    let mut server = greeting_server(listener, "one").await;
    let log = Log::default();
    let mut record = log.hook();
    let (failed, mut failures) = tokio::sync::mpsc::unbounded_channel();
    let mut conn = dialer()
        .reconnecting(url(address))
        .initial_delay(Duration::from_millis(20))
        .max_delay(Duration::from_millis(40))
        .on_event(move |event| {
            if let Event::Failed(_) = &event {
                let _ = failed.send(());
            }
            record(event);
        });
    assert_eq!(conn.read().await.expect("a greeting"), Message::from("one"));
    assert_eq!(log.take(), ["dialling 1", "connected"]);

    for greeting in ["two", "three"] {
        // Ends the tasks, and with them the listener and its connections.
        server.shutdown().await;
        // The server returns only after an attempt has failed.
        let revived = async {
            failures.recv().await.expect("an attempt that fails");
            greeting_server(Listener::bind(address).await.expect("the same port"), greeting).await
        };
        let (greeted, revived) = tokio::join!(conn.read(), revived);
        assert_eq!(greeted.expect("a new connection"), Message::from(greeting));
        server = revived;
        while failures.try_recv().is_ok() {}
        conn.write("again").await.expect("written");
        assert_eq!(conn.read().await.expect("the echo"), Message::from("again"));
        let log = log.take();
        assert_eq!(log.first().map(String::as_str), Some("lost"), "{greeting}: {log:?}");
        assert_eq!(log.last().map(String::as_str), Some("connected"), "{greeting}: {log:?}");
        assert!(log.iter().any(|word| word == "failed"), "{greeting}: {log:?}");
        assert_eq!(log.iter().filter(|word| *word == "connected").count(), 1, "{greeting}: {log:?}");
    }
}

/// A URL on which nothing listens.
fn nowhere() -> String {
    let [free] = ports::free();
    url(free)
}

#[tokio::test(start_paused = true)]
async fn waits_grow_to_their_most_and_the_last_failure_is_told() {
    let log = Log::default();
    let mut conn = dialer()
        .connect_timeout(None)
        .handshake_timeout(None)
        .reconnecting(nowhere())
        .initial_delay(Duration::from_secs(1))
        .max_delay(Duration::from_secs(5))
        .jitter(false)
        .max_attempts(6)
        .on_event(log.hook());
    let before = Instant::now();
    let error = conn.next().await.expect_err("nobody listens");
    assert!(
        matches!(error.failure().dial(), Some(DialError::Connect(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
    );
    let log: Vec<String> = log.take().into_iter().filter(|word| word.starts_with("waiting")).collect();
    let expected = ["1000 for 2", "2000 for 3", "4000 for 4", "5000 for 5", "5000 for 6"];
    assert_eq!(log, expected.map(|word| format!("waiting {word}")));
    // 1 + 2 + 4 + 5 + 5 s, on a paused clock that only waiting advances. Connection attempts that all fail add no wait.
    assert_eq!(before.elapsed().as_secs(), 17);
}

#[tokio::test(start_paused = true)]
async fn with_jitter_waits_differ_and_stay_below_their_most() {
    let log = Log::default();
    let mut conn = dialer()
        .connect_timeout(None)
        .handshake_timeout(None)
        .reconnecting(nowhere())
        .initial_delay(Duration::from_secs(1000))
        .max_delay(Duration::from_secs(1000))
        .max_attempts(21)
        .on_event(log.hook());
    conn.next().await.expect_err("nobody listens");
    let mut waits: Vec<u64> = log
        .take()
        .iter()
        .filter_map(|word| word.strip_prefix("waiting ")?.split(' ').next()?.parse().ok())
        .collect();
    assert!(waits.iter().all(|&wait| wait < 1_000_000), "{waits:?}");
    let count = waits.len();
    waits.sort_unstable();
    waits.dedup();
    // Twenty of a million milliseconds: two are equal, or one is zero, once in several thousand runs.
    assert!(count >= 19 && waits.len() >= 19, "{waits:?}");
}

/// A server that answers its first client only when it is released.
async fn slow_server(may: tokio::sync::oneshot::Receiver<()>) -> (std::net::SocketAddr, JoinSet<()>) {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut server = JoinSet::new();
    server.spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        may.await.expect("a word");
        let mut conn = Upgrader::new().accept_tcp(stream).await.expect("that client, still");
        conn.write("at last").await.expect("written");
        echo(conn).await;
    });
    (address, server)
}

#[tokio::test]
async fn an_attempt_in_a_select_that_is_lost_again_and_again_comes_to_its_end() {
    let (say, may) = tokio::sync::oneshot::channel();
    let (address, _server) = slow_server(may).await;
    let log = Log::default();
    let mut conn = dialer().reconnecting(url(address)).on_event(log.hook());
    let (mut say, mut lost) = (Some(say), 0);
    let reading = async {
        loop {
            tokio::select! {
                biased;
                message = conn.read() => return message.expect("a greeting"),
                () = tokio::task::yield_now() => lost += 1,
            }
            if lost == 1_000
                && let Some(say) = say.take()
            {
                say.send(()).expect("a server that waits");
            }
        }
    };
    let message = tokio::time::timeout(PATIENCE, reading).await.expect("one attempt is enough");
    assert_eq!(message, Message::from("at last"));
    assert_eq!(log.take(), ["dialling 1", "connected"]);
}

#[tokio::test]
async fn a_write_that_is_given_up_while_it_connects_leaves_the_attempt_to_the_next_call() {
    let (say, may) = tokio::sync::oneshot::channel();
    let (address, _server) = slow_server(may).await;
    let log = Log::default();
    let mut conn = dialer().reconnecting(url(address)).on_event(log.hook());
    for _ in 0..10 {
        tokio::select! { biased; _ = conn.write("lost") => panic!("nobody answered"), () = tokio::task::yield_now() => {} }
    }
    say.send(()).expect("a server that waits");
    conn.write("kept").await.expect("written");
    assert_eq!(conn.read().await.expect("a greeting"), Message::from("at last"));
    assert_eq!(conn.read().await.expect("the echo"), Message::from("kept"));
    assert_eq!(log.take(), ["dialling 1", "connected"]);
}

#[tokio::test]
async fn a_certificate_that_is_not_believed_is_not_tried_again() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (address, _server) = tls_echo_server(authority.certificate("localhost")).await;
    for (trust, name) in [(other.trusted(), "localhost"), (authority.trusted(), "127.0.0.1")] {
        let log = Log::default();
        let url = format!("wss://{name}:{}/", address.port());
        let mut conn = dialer().tls(trust).reconnecting(url).on_event(log.hook());
        let error = tokio::time::timeout(PATIENCE, conn.read()).await.expect("no second attempt");
        let error = error.expect_err("no trust");
        let dial = error.dial();
        assert!(matches!(dial, Some(DialError::Tls(cause)) if cause.is_untrusted()), "{error:?}");
        assert_eq!(log.take(), ["dialling 1", "failed"]);
    }
}

fn head(status: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn an_answer_that_asks_for_patience_is_tried_again() {
    for status in ["429 Many", "500 Oh", "502 Gone", "503 Full", "504 Slow"] {
        let (address, _server) = canned_server(head(status), true).await;
        let log = Log::default();
        let client = dialer().reconnecting(url(address)).initial_delay(Duration::ZERO);
        // The second attempt finds no server.
        let error = client.max_attempts(2).on_event(log.hook()).next().await.expect_err("no server");
        assert_eq!(error.reason(), Reason::Attempts, "{status}: {error:?}");
        assert_eq!(log.take(), ["dialling 1", "failed", "dialling 2", "failed"], "{status}");
    }
}

#[tokio::test]
async fn any_other_answer_but_101_is_not_tried_again() {
    let statuses = ["200 OK", "302 Found", "401 No", "403 No", "404 No", "408 Late", "501 Never"];
    let nonsense = [b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), b"HTTP/1.1 101 But\r\n\r\n".to_vec()];
    for response in statuses.map(head).into_iter().chain(nonsense) {
        let shown = String::from_utf8_lossy(&response).into_owned();
        let (address, _server) = canned_server(response, true).await;
        let log = Log::default();
        let mut conn = dialer().reconnecting(url(address)).on_event(log.hook());
        let error = tokio::time::timeout(PATIENCE, conn.read()).await.expect("no second attempt");
        let error = error.expect_err("refused");
        assert!(matches!(error.dial(), Some(DialError::BadHandshake { .. })), "{shown}: {error:?}");
        assert_eq!(log.take(), ["dialling 1", "failed"], "{shown}");
    }
}

/// Collects the log records of this thread: level, message, and fields.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Logged {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("echoring")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!(" {}={value:?}", field.name());
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().expect("unpoisoned").push(line.0);
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn what_is_tried_again_is_logged_without_the_secrets_of_its_url() {
    let logged = Logged::default();
    let _guard = tracing::subscriber::set_default(logged.clone());
    let [nobody] = ports::free();
    let mut conn = dialer()
        .connect_timeout(None)
        .handshake_timeout(None)
        .reconnecting(format!("{}?token=secret", url(nobody)))
        .initial_delay(Duration::from_secs(1))
        .jitter(false)
        .max_attempts(3);
    conn.next().await.expect_err("nobody listens");
    let mut lines = logged.0.lock().expect("unpoisoned").clone();
    assert!(lines.iter().all(|line| !line.contains("secret")), "{lines:?}");
    // Each attempt has a line at the level DEBUG. The third failure is not retried but returned.
    lines.retain(|line| !line.starts_with("DEBUG "));
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, wait) in lines.iter().zip([1000, 2000]) {
        assert!(line.starts_with("WARN ") && line.contains(&nobody.to_string()), "{line}");
        assert!(
            line.contains("Connection refused") && line.contains(&format!("retry_in_ms={wait}")),
            "{line}"
        );
    }
}

#[tokio::test]
async fn what_is_not_temporary_is_not_tried_again() {
    let refusal = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n".to_vec();
    let (address, _server) = canned_server(refusal, true).await;
    let log = Log::default();
    let mut conn = dialer().reconnecting(url(address)).on_event(log.hook());
    let error = conn.read().await.expect_err("refused");
    assert_eq!(error.dial().and_then(DialError::response).expect("a response").status(), 401);
    assert_eq!(log.take(), ["dialling 1", "failed"]);

    let mut conn = dialer().reconnecting("http://a/");
    for _ in 0..2 {
        let error = conn.next().await.expect_err("not the scheme of a WebSocket");
        assert!(matches!(error.failure().dial(), Some(DialError::BadUrl(_))), "{error:?}");
    }

    // Unless the program allows it.
    let refusal = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n".to_vec();
    let (address, _server) = canned_server(refusal, true).await;
    let mut conn = dialer()
        .reconnecting(url(address))
        .initial_delay(Duration::from_millis(1))
        .retry_if(|failure| failure.dial().and_then(DialError::response).is_some())
        .on_event(log.hook());
    // The second attempt finds no server.
    let error = conn.next().await.expect_err("no server");
    assert!(matches!(error.failure().dial(), Some(DialError::Connect(_) | DialError::Closed)), "{error:?}");
    assert_eq!(log.take().iter().filter(|word| *word == "failed").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_was_given_up_goes_on() {
    let log = Log::default();
    let mut conn = dialer()
        .connect_timeout(None)
        .handshake_timeout(None)
        .reconnecting(nowhere())
        .initial_delay(Duration::from_secs(10))
        .jitter(false)
        .max_attempts(2)
        .on_event(log.hook());
    let before = Instant::now();
    tokio::time::timeout(Duration::from_secs(4), conn.next()).await.expect_err("a wait of ten seconds");
    conn.next().await.expect_err("nobody listens");
    assert_eq!(before.elapsed().as_secs(), 10);
    let log = log.take();
    assert_eq!(
        log,
        ["dialling 1", "failed", "waiting 10000 for 2", "dialling 2", "failed"],
        "a wait is told once, however often it is taken up again"
    );
}
