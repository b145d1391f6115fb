//! Connections leave nothing behind when they end.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use echoring_async::Listener;
use tungstenite::{Message, client};

use super::echo;

const CYCLES: usize = 10_000;
/// Number of concurrent clients.
const CLIENTS: usize = 4;

#[test]
fn ten_thousand_connections_leave_no_task_and_no_descriptor() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let listener = runtime.block_on(Listener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("its address");
    runtime.spawn(async { echo::serve(listener).await.map_err(|error| error.to_string()) });
    // The first connection allocates resources that stay; they are not a leak.
    connect_and_close(address, 0);
    let tasks = || runtime.metrics().num_alive_tasks();
    until("tasks behind the first connection", tasks, &1);
    let before = sockets();

    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope
                .spawn(move || (client..CYCLES).step_by(CLIENTS).for_each(|n| connect_and_close(address, n)));
        }
    });
    until("tasks, of which one is the server's own", tasks, &1);
    until("sockets", || sockets().difference(&before).cloned().collect(), &Vec::new());
}

/// Most clients close with a Close frame, some after an echoed message; others disconnect without one.
fn connect_and_close(address: SocketAddr, n: usize) {
    let stream = std::net::TcpStream::connect(address).expect("a connection");
    let (mut socket, _) = client(format!("ws://{address}/wshandler"), stream).expect("an upgrade");
    if n.is_multiple_of(100) {
        return;
    }
    if n % 100 == 1 {
        socket.send(Message::text("hello")).expect("sent");
        assert_eq!(socket.read().expect("an echo"), Message::text("hello"));
    }
    socket.close(None).expect("a Close frame");
    while socket.read().is_ok() {}
}

/// Open descriptors of this process, except those that other tests may open meanwhile.
fn sockets() -> BTreeSet<PathBuf> {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("Linux");
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).collect()
}

/// Polls, because the server notices the end of a connection a little after its client.
fn until<T: Debug + PartialEq>(what: &str, found: impl Fn() -> T, wanted: &T) {
    let patience = Instant::now() + Duration::from_secs(30);
    while found() != *wanted {
        assert!(Instant::now() < patience, "{what}: not {wanted:?} but {:?} after 30 s", found());
        std::thread::yield_now();
    }
}
