//! Calls that wait: refused at once on the threads of shards, and bounded at the end of a server.

use std::fmt::Debug;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use echoring_server::{
    Builder, Disposition, Handle, Handler, JoinError, Message, OnShard, PublishError, Remote, Response,
    Result, Server, Snapshot, State,
};

use super::{Peer, address, on_both_drivers};

/// Time for clients, which answer no Close.
const LEAVE: Duration = Duration::from_millis(100);

/// What the functions on a shard can reach.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Option<Server>>>);

impl Shared {
    fn take(&self) -> Option<Server> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, server: Server) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }

    fn handle(&self) -> Handle {
        let server = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        server.as_ref().map(Server::handle).expect("set before clients come")
    }
}

/// Calls everything of a handle that waits. Returns those that were not refused.
fn accepted(handle: &Handle) -> Vec<&'static str> {
    fn is_refused<T: Debug>(answer: Result<T, OnShard>) -> bool {
        answer.is_err()
    }
    let calls = [
        ("snapshots", is_refused(handle.snapshots())),
        ("topics", is_refused(handle.topics())),
        ("topic", is_refused(handle.topic("t"))),
        ("stalled_shards", is_refused(handle.stalled_shards())),
        ("rebalance", is_refused(handle.rebalance())),
        ("publish", handle.publish("t", "") == Err(PublishError::OnShard)),
        ("publish_all", handle.publish_all("t", [""]) == Err(PublishError::OnShard)),
    ];
    calls.into_iter().filter(|(_, is_refused)| !is_refused).map(|(name, _)| name).collect()
}

/// Ends the server as `how` says. The answer is what the call says.
fn end(shared: &Shared, how: &str) -> String {
    let Some(server) = shared.take() else { return "ended before".to_owned() };
    let said = |answer: Result<Vec<Snapshot>, JoinError>| match answer {
        Ok(_) => "ended".to_owned(),
        Err(refused) => refused.to_string(),
    };
    match how {
        "shutdown" => said(server.shutdown(LEAVE)),
        "join" => {
            server.handle().drain_within(LEAVE);
            said(server.join())
        }
        _ => {
            drop(server);
            "dropped".to_owned()
        }
    }
}

struct Asking(Shared);

impl Handler for Asking {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.send_text(&format!("{:?}", accepted(&self.0.handle())))?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.send_text(&end(&self.0, message.text().unwrap_or_default()))?;
        Ok(Disposition::Done)
    }
}

fn routes(builder: Builder, shared: &Shared) -> Builder {
    let builder = builder.state(shared.clone());
    let builder = builder.handle("/ws", |State(shared): State<Shared>| Asking(shared));
    let builder = builder.get("/asked", |State(shared): State<Shared>| {
        Response::text(200, format!("{:?}", accepted(&shared.handle())))
    });
    ["shutdown", "join", "drop"].into_iter().fold(builder, |builder, how| {
        builder.get(&format!("/{how}"), move |State(shared): State<Shared>| {
            Response::text(200, end(&shared, how))
        })
    })
}

fn started(shards: usize) -> (Shared, Handle, SocketAddr) {
    let shared = Shared::default();
    let builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(shards);
    let server = routes(builder, &shared).start().expect("the server starts");
    let (handle, address) = (server.handle(), address(&server));
    shared.put(server);
    (shared, handle, address)
}

#[test]
fn calls_that_wait_are_refused_in_handlers_and_plain_routes() {
    for shards in [1, 2] {
        let (_shared, _, address) = started(shards);
        Peer::open(address, "/ws").hears("[]");
        let (peer, _) = Peer::request(address, "/asked", "");
        assert_eq!(peer.body(), "[]", "{shards} shards");
    }
}

#[test]
fn a_server_that_is_ended_on_its_own_shard_ends_without_a_wait() {
    for (how, shards) in [("shutdown", 1), ("shutdown", 2), ("join", 1), ("drop", 1), ("drop", 2)] {
        let (shared, handle, address) = started(shards);
        let mut peer = Peer::open(address, "/ws");
        peer.hears("[]");
        peer.text(how);
        // A server without a drain cuts what it has not sent.
        if how != "drop" {
            peer.hears("blocking calls are not allowed on the thread of a shard: the server ends, but its end is not waited for");
        }
        while !matches!(handle.try_publish("t", ""), Err(PublishError::Ended)) {}
        assert!(shared.take().is_none(), "{how}");

        let (_shared, handle, address) = started(shards);
        let mut stream = TcpStream::connect(address).expect("connected");
        write!(stream, "GET /{how} HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        while !matches!(handle.try_publish("t", ""), Err(PublishError::Ended)) {}
    }
}

/// Says that it has begun, and waits until the test lets it end.
struct Blocked(mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>);

impl Handler for Blocked {
    fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
        self.0.send(())?;
        // The test ends it by closing the channel.
        let _ = self.1.lock().unwrap_or_else(PoisonError::into_inner).recv();
        Ok(Disposition::Done)
    }
}

#[test]
fn the_end_of_a_server_does_not_wait_for_a_handler_that_blocks() {
    type Ends = fn(Server) -> Result<Vec<Snapshot>, JoinError>;
    let ends: [(Ends, bool); 2] = [
        (|server| server.shutdown(Duration::from_millis(100)), true),
        (
            |server| {
                drop(server);
                Ok(Vec::new())
            },
            false,
        ),
    ];
    for (end, tells) in ends {
        let (release, released) = mpsc::channel::<()>();
        let (begins, begun) = mpsc::channel();
        let released = Arc::new(Mutex::new(released));
        let server = Server::builder()
            .listen(([127, 0, 0, 1], 0))
            .shards(2)
            .handle("/ws", move || Blocked(begins.clone(), Arc::clone(&released)))
            .start()
            .expect("the server starts");
        let mut peer = Peer::open(address(&server), "/ws");
        peer.text("block");
        begun.recv().expect("the handler is called");
        // It is released only afterwards.
        let ended = end(server);
        drop(release);
        match tells {
            true => assert!(ended.is_err_and(|error| error.to_string().contains("have not ended in time"))),
            false => assert!(ended.is_ok()),
        }
    }
}

/// On other threads, where waiting harms nobody, the calls are carried out.
#[test]
fn the_same_calls_wait_on_other_threads() {
    on_both_drivers(
        |builder| builder,
        |server, _| {
            let handle = server.handle();
            assert_eq!(handle.snapshots().map(|all| all.len()), Ok(1));
            assert_eq!(handle.topics().map(|all| all.len()), Ok(1));
            assert_eq!(handle.topic("t"), Ok(vec![(0, None)]));
            assert_eq!(handle.stalled_shards(), Ok(vec![]));
            assert_eq!(handle.rebalance().map(|balanced| balanced.moved), Ok(0));
        },
    );
}
