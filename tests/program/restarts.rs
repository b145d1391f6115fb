//! A server that was just stopped, in order or killed, can be restarted at once on the same two ports, with clients
//! connected: the real binary, on both drivers.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::{ports, program};
use program::{command, listening};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(30);
const CYCLES: usize = 200;

/// Starts a program that must listen, or returns its output.
fn start(words: &[&str]) -> Result<Child, String> {
    let mut process = command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let (_, address) = listening(&mut BufReader::new(process.stdout.take().expect("piped")));
    if address.is_some() {
        return Ok(process);
    }
    let mut said = String::new();
    let _ = process.stderr.take().expect("piped").read_to_string(&mut said);
    let _ = process.wait();
    Err(said)
}

/// An open WebSocket.
fn open(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = "GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a response");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Stops and restarts it, every third time by SIGKILL. Returns how many starts failed, and the first line of the last
/// one.
fn cycle(words: &[&str], address: SocketAddr, cycles: usize) -> (usize, String) {
    let (mut failed, mut last) = (0, String::new());
    let mut process = start(words).expect("the first start");
    for round in 0..cycles {
        let mut client = open(address);
        let signal = if round % 3 == 2 { Signal::KILL } else { Signal::TERM };
        program::signal(&process, signal);
        if signal == Signal::TERM {
            let mut close = [0; 4];
            client.read_exact(&mut close).expect("a Close frame");
            assert_eq!((close[0], &close[2..]), (0x88, &1001_u16.to_be_bytes()[..]));
            client.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]).expect("answered");
        }
        process.wait().expect("a child");
        process = match start(words) {
            Ok(process) => process,
            Err(said) => {
                failed += 1;
                last = said;
                std::thread::sleep(Duration::from_millis(100));
                start(words).expect("later")
            }
        };
        drop(client);
    }
    let _ = process.kill();
    let _ = process.wait();
    (failed, last)
}

fn serve(driver: &str) {
    let [address, admin] = ports::free();
    let (listen, admin) = (address.to_string(), admin.to_string());
    let words = [
        "serve", "--listen", &listen, "--admin", &admin, "--driver", driver, "--shards", "1", "--log",
        "error",
    ];
    let (failed, last) = cycle(&words, address, CYCLES);
    assert_eq!(failed, 0, "of {CYCLES} starts, the last with {last}");
}

#[test]
fn serve_on_io_uring_starts_at_once_after_it_was_stopped_or_killed() {
    if let Err(error) = echoring_async::ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        return;
    }
    serve("uring");
}

#[test]
fn serve_on_epoll_starts_at_once_after_it_was_stopped_or_killed() {
    serve("epoll");
}

#[test]
fn the_proxy_starts_at_once_after_it_was_stopped_or_killed() {
    let [upstream_address, address] = ports::free();
    let (upstream, listen) = (upstream_address.to_string(), address.to_string());
    let mut server =
        start(&["serve", "--listen", &upstream, "--admin", "off", "--shards", "1", "--log", "error"])
            .expect("a server");
    let upstream = format!("ws://{upstream}");
    let words = ["proxy", "--upstream", &upstream, "--listen", &listen, "--shards", "1", "--log", "error"];
    let (failed, last) = cycle(&words, address, 30);
    let _ = server.kill();
    let _ = server.wait();
    assert_eq!(failed, 0, "of 30 starts, the last with {last}");
}
