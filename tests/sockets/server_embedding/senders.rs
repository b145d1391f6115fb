//! Other threads: what they send and publish, where they may wait, and which CPUs they share with shards.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use echoring_proto::CloseCode;
use echoring_proto::limits::MESSAGE_BYTES_DEFAULT;
use echoring_server::{
    Builder, Disposition, DriverChoice, Handle, Handler, Message, OwnedPublication, PublishError, Refused,
    Remote, RemoteSender, Result, SendError, Server,
};

use super::{PATIENCE, Peer, address};

/// Gives its sender away, and publishes its messages with `?`, from where errors of any sort may come.
struct Giver {
    senders: mpsc::Sender<RemoteSender>,
    handle: Arc<OnceLock<Handle>>,
}

impl Giver {
    fn fail(text: &str) -> anyhow::Result<()> {
        let _: u32 = text.parse().context("no number")?;
        anyhow::bail!("a number")
    }

    fn fail_boxed() -> Result<(), Box<dyn Error + Send + Sync>> {
        Err("boxed".into())
    }
}

impl Handler for Giver {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        self.senders.send(remote.sender())?;
        Ok(remote.subscribe("room")?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        match message.text() {
            Some("anyhow") => Giver::fail("x")?,
            Some("boxed") => Giver::fail_boxed()?,
            Some("full") => Err(anyhow::Error::from(SendError::Full).context("cannot answer"))?,
            Some("block") => {
                let handle = self.handle.get().expect("set before clients come");
                assert_eq!(handle.publish("room", "blocked"), Err(PublishError::OnShard));
                let time = Duration::from_nanos(1);
                assert_eq!(handle.publish_timeout("room", "blocked", time), Err(PublishError::OnShard));
                assert_eq!(handle.publish_all("room", ["blocked"]), Err(PublishError::OnShard));
                let pending = handle.try_publish("room", "not blocked")?;
                assert_eq!(pending.wait(), Err(PublishError::OnShard));
                // A full sender of its own connection would wait for this call for ever.
                let sender = remote.sender();
                while sender.send_binary(vec![0; 10_000]).is_ok() {}
                assert_eq!(sender.send_binary(vec![0; 10_000]), Err(SendError::Full));
            }
            Some("batch") => {
                let long = vec![0; MESSAGE_BYTES_DEFAULT as usize + 1];
                let batch: [&[u8]; 4] = [b"first", b"second", &long, b"unpublished"];
                let published = remote.publish_all("room", batch);
                assert_eq!(published, Err((2, PublishError::Refused(Refused::TooLarge))));
                assert_eq!(remote.publish_all("room", ["third", "fourth"]), Ok(2));
            }
            _ => remote.publish("room", message)?,
        }
        Ok(Disposition::Done)
    }
}

fn with_givers(builder: Builder) -> (Builder, mpsc::Receiver<RemoteSender>, Arc<OnceLock<Handle>>) {
    let (senders, given) = mpsc::channel();
    let handle = Arc::<OnceLock<Handle>>::default();
    let shared = Arc::clone(&handle);
    let make = move || Giver { senders: senders.clone(), handle: Arc::clone(&shared) };
    (builder.handle("/ws", make), given, handle)
}

fn givers_on_both_drivers(shards: usize, test: impl Fn(&Server, SocketAddr, &mpsc::Receiver<RemoteSender>)) {
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        let builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(shards).driver(driver);
        let (builder, given, handle) = with_givers(builder.queue_bytes(64 * 1024));
        let server = builder.start().expect("the server starts");
        handle.set(server.handle()).expect("once");
        test(&server, address(&server), &given);
        server.shutdown(PATIENCE).expect("it ends in order");
    }
}

fn given(given: &mpsc::Receiver<RemoteSender>) -> RemoteSender {
    given.recv_timeout(PATIENCE).expect("a connection opens")
}

#[test]
fn other_threads_send_in_order_and_wait_for_room() {
    const MESSAGES: usize = 2_000;
    givers_on_both_drivers(2, |_, address, senders| {
        let mut peer = Peer::open(address, "/ws");
        let sender = given(senders);
        // Together more than the queue and the socket hold, so they wait for the peer.
        let threads: Vec<_> = (0..2_u8)
            .map(|thread| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for number in 0..MESSAGES {
                        let mut payload = vec![thread; 4_000];
                        payload[1..9].copy_from_slice(&number.to_be_bytes());
                        sender.send_binary(payload).expect("the connection is open");
                    }
                })
            })
            .collect();
        let mut next = [0, 0];
        for _ in 0..2 * MESSAGES {
            let (first, payload) = peer.frame();
            assert_eq!(first, 0x82);
            let number = usize::from_be_bytes(payload[1..9].try_into().expect("eight bytes"));
            let thread = usize::from(payload[0]);
            assert_eq!(number, next[thread], "in the order of each thread");
            next[thread] += 1;
        }
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert!(sender.close(CloseCode::NORMAL, "bye"));
        assert_eq!(peer.close(), (1000, "bye".to_owned()));
    });
}

#[test]
fn who_waits_for_room_is_woken_when_the_connection_or_the_server_ends() {
    givers_on_both_drivers(1, |server, address, senders| {
        for ends_server in [false, true] {
            let peer = Peer::open(address, "/ws");
            let sender = given(senders);
            let fill = {
                let sender = sender.clone();
                // The peer reads nothing, so at some point this waits.
                thread::spawn(move || while sender.send_binary(vec![0; 50_000]).is_ok() {})
            };
            let until = Instant::now() + PATIENCE;
            while sender.try_send(vec![0; 60_000]) != Err(SendError::Full) {
                assert!(Instant::now() < until, "never full");
            }
            if ends_server {
                server.handle().stop();
            }
            drop(peer);
            fill.join().expect("no panic");
            assert_eq!(sender.try_send("late"), Err(SendError::Closed));
            assert!(sender.is_closed());
        }
    });
}

#[test]
fn any_error_closes_with_its_code_and_nothing_blocks_a_shard() {
    givers_on_both_drivers(1, |_, address, _| {
        for (text, code) in [("anyhow", 1011), ("boxed", 1011), ("full", 4008)] {
            let mut peer = Peer::open(address, "/ws");
            peer.text(text);
            assert_eq!(peer.close().0, code, "{text}");
        }
        let mut peer = Peer::open(address, "/ws");
        peer.text("block");
        let mut heard = peer.frame();
        while heard.0 == 0x82 {
            heard = peer.frame();
        }
        assert_eq!(heard, (0x81, b"not blocked".to_vec()));
    });
}

#[test]
fn other_threads_publish_and_await_positions() {
    givers_on_both_drivers(2, |server, address, _| {
        let mut peers: Vec<Peer> = (0..4).map(|_| Peer::open(address, "/ws")).collect();
        // Each hears itself, so from then on it subscribes.
        let until = Instant::now() + PATIENCE;
        let subscribed = || {
            let reports = server.handle().topic("room").expect("no shard");
            reports
                .iter()
                .filter_map(|(_, report)| report.as_ref())
                .map(|report| report.subscribers)
                .sum::<u64>()
        };
        while subscribed() < 4 {
            assert!(Instant::now() < until, "they do not subscribe");
        }
        let texts = |from: usize| (from..from + 2).map(|number| number.to_string());
        let handle = server.handle();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let all = [
            handle.try_publish_all("room", texts(0)).expect("room").wait(),
            runtime.block_on(handle.publish_all_async("room", texts(2))),
            handle.publish_all("room", texts(4)),
        ];
        let offsets = all
            .into_iter()
            .flat_map(|all| all.expect("in time"))
            .map(|result| result.expect("accepted").offset);
        assert!(offsets.eq(1..=6));
        let one = [
            handle.try_publish("room", "6").expect("room").wait(),
            runtime.block_on(handle.publish_async("room", "7".to_owned())),
            server.publish("room", OwnedPublication::text("8")),
            handle.publish_timeout("room", "9", PATIENCE),
        ];
        assert!(one.into_iter().map(|position| position.expect("accepted").offset).eq(7..=10));
        peers[0].text("by a member");
        for peer in &mut peers {
            (0..10).for_each(|number| peer.hears(&number.to_string()));
            peer.hears("by a member");
        }
        assert_eq!(server.publish("", "x"), Err(PublishError::BadTopic));
        let long = OwnedPublication::binary(vec![0; MESSAGE_BYTES_DEFAULT as usize + 1]);
        assert_eq!(server.publish("room", long), Err(PublishError::Refused(Refused::TooLarge)));
    });
}

#[test]
fn a_batch_of_a_handler_ends_at_the_first_message_that_is_refused() {
    givers_on_both_drivers(2, |server, address, _| {
        let mut peer = Peer::open(address, "/ws");
        peer.text("batch");
        for expected in ["first", "second", "third", "fourth"] {
            assert_eq!(peer.frame().1, expected.as_bytes());
        }
        let mut counted = (0, 0, 0);
        for snapshot in server.handle().snapshots().expect("no shard") {
            let publications = snapshot.application.publications;
            counted.0 += publications.published;
            counted.1 += publications.accepted;
            counted.2 += publications.refused;
        }
        assert_eq!(counted, (5, 4, 1), "what is behind a refused message was not published");
    });
}

#[test]
fn a_server_that_drains_or_has_ended_says_so_to_publishers() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    givers_on_both_drivers(1, |server, address, _| {
        // The server waits for the answer of this peer.
        let peer = Peer::open(address, "/ws");
        let handle = server.handle();
        let publish = || [handle.publish("room", "m"), runtime.block_on(handle.publish_async("room", "m"))];
        assert!(publish().iter().all(Result::is_ok));
        handle.drain();
        assert_eq!(publish(), [Err(PublishError::Refused(Refused::Draining)); 2]);
        assert_eq!(handle.publish_all("room", ["m"; 3]), Ok(vec![Err(Refused::Draining); 3]));
        drop(peer);
        let until = Instant::now() + PATIENCE;
        while publish() != [Err(PublishError::Ended); 2] {
            assert!(Instant::now() < until, "the server does not end");
        }
    });
}

/// Tells its peer which CPUs the thread of its shard may use.
struct TellsCpus;

impl Handler for TellsCpus {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.send_text(&own_cpus())?)
    }
}

/// The CPUs that this thread may use, as the kernel writes them.
fn own_cpus() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("procfs");
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    cpus.expect("a list").trim().to_owned()
}

#[test]
fn shards_beside_other_threads_are_pinned_only_if_asked() {
    let told_with = |build: fn(Builder) -> Builder| {
        let builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(2).handle("/ws", || TellsCpus);
        let server = build(builder).start().expect("the server starts");
        let (_, told) = Peer::open(address(&server), "/ws").frame();
        server.shutdown(PATIENCE).expect("it ends");
        String::from_utf8(told).expect("text")
    };
    assert_eq!(told_with(|builder| builder), own_cpus(), "as the kernel schedules");
    let pinned = told_with(|builder| builder.pin(true));
    assert!(!pinned.contains(['-', ',']), "one CPU: {pinned}");
}
