//! Connections that are made at the moment of a takeover are answered, by whichever process has them.
//!
//! The sizes come from the environment (`TAKEOVERS`, `TAKEOVER_CLIENTS`); without it they suit a test. `TAKEOVERS=1000` runs very many.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::program::command;
use super::{Addresses, Server, request};

/// Far more than an answer takes on a busy machine, and less than a client waits for.
const SOON: Duration = Duration::from_secs(8);

/// Ends the clients when it goes out of scope, also where a server does not start.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A size of the tests.
fn size(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Servers take over from one another while clients connect, one connection after the other, and each is answered soon. With few clients,
/// because each connection wakes the server for those before it, too.
fn answers_while_servers_change(driver: &str, clients: usize) {
    let at = Addresses::free();
    let (listen, flags) = (at.listen.to_string(), ["--driver", driver, "--drain", "1s", "--shards", "1"]);
    let start = || {
        let words = ["serve", "--listen", &listen, "--admin", "off", "--log", "warn", "--takeover"];
        let mut process =
            command(&[&words[..], &flags].concat()).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert!(line.starts_with("listening "), "{line}");
        Server(process)
    };
    let takeovers = size("TAKEOVERS", 8);
    let (is_over, started) = (AtomicBool::new(false), Instant::now());
    let mut server = start();
    thread::scope(|scope| {
        let over = Over(&is_over);
        let connecting = |_| {
            scope.spawn(|| {
                let mut late = Vec::new();
                let mut count = 0_u64;
                while !is_over.load(Ordering::Acquire) {
                    let began = Instant::now();
                    // A server that drains may end the connection instead, which is soon, too.
                    let end = request(at).read_to_end(&mut Vec::new()).map_err(|error| error.kind());
                    assert!(end != Err(ErrorKind::WouldBlock), "not accepted within {:?}", began.elapsed());
                    count += 1;
                    if began.elapsed() > SOON {
                        late.push(format!("at {:?}: {:?}", began - started, began.elapsed()));
                    }
                }
                (count, late)
            })
        };
        let connecting: Vec<_> = (0..clients).map(connecting).collect();
        for _ in 0..takeovers {
            let successor = start();
            assert_eq!(server.ended(), Some(0));
            server = successor;
        }
        drop(over);
        let (mut count, mut late) = (0, Vec::new());
        for client in connecting {
            let (answered, own) = client.join().expect("every connection is accepted");
            count += answered;
            late.extend(own);
        }
        println!(
            "{takeovers} takeovers on {driver}, {clients} clients: {count} answers, {} late",
            late.len()
        );
        assert!(late.is_empty(), "{late:#?}");
    });
}

#[test]
fn connections_made_while_servers_change_are_answered_on_io_uring() {
    if let Err(error) = echoring_async::ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        return;
    }
    answers_while_servers_change("uring", size("TAKEOVER_CLIENTS", 1));
}

#[test]
fn connections_made_while_servers_change_are_answered_on_epoll() {
    answers_while_servers_change("epoll", size("TAKEOVER_CLIENTS", 1));
}
