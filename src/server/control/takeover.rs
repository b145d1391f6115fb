//! Takeover: a successor tells its predecessor, which stops listening, closes with 1012 and drains.
//!
//! Both share their ports meanwhile, and neither knows the other's topics. The predecessor is therefore told before the
//! successor accepts its first connection. Its subscribers reconnect to the successor, whose new epoch shows that
//! messages were lost. Subscribers on one side miss no publication of the other.
//!
//! They use a Unix socket in the abstract namespace for each TCP address, `echoring/takeover/ADDR:PORT`. The namespace
//! belongs to the network namespace, as ports do. Each side trusts its own user and root only. The protocol is one line
//! in each direction.
//!
//! A predecessor is told only after everything else that can fail in a start has succeeded.

#![forbid(unsafe_code)]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr as IpAddress;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;

use crate::limits::{TAKEOVER_REPLY_TIMEOUT, TAKEOVER_REQUEST_TIMEOUT};
use echoring_runtime::listening::retry_busy;

const REQUEST: &str = "echoring takeover 1";
const DONE: &str = "done";
/// Maximum bytes of a line.
const LINE_BYTES_MAX: u64 = 64;

/// Tells the server that listens on `address` to hand over. When this returns it no longer listens, and its clients are
/// being closed. `false`: there is no such server of this user.
///
/// # Errors
/// If the server does not answer, or answers wrongly. It may have begun to hand over.
pub fn tell(address: IpAddress) -> io::Result<bool> {
    let mut stream = match UnixStream::connect_addr(&name(address)?) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(false),
        Err(error) => return Err(error),
    };
    if !is_trusted(&stream)? {
        return Ok(false);
    }
    stream.set_read_timeout(Some(Duration::from_nanos(TAKEOVER_REPLY_TIMEOUT)))?;
    stream.set_write_timeout(Some(Duration::from_nanos(TAKEOVER_REQUEST_TIMEOUT)))?;
    stream.write_all(format!("{REQUEST}\n").as_bytes())?;
    match line(&stream)?.as_str() {
        DONE => Ok(true),
        other => Err(io::Error::other(format!("it answered {other:?}"))),
    }
}

/// The events of a server that waits for a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A successor requests the takeover. When the call returns, this server must no longer listen.
    Requested,
    /// The successor has the answer. The thread is done, and the call need not return.
    Answered,
    /// The server can no longer be taken over, for this reason.
    Broken(&'a str),
}

/// Waits for a successor to the server that listens on these addresses, with one thread for each, which do not keep the
/// process alive. `on` is called with each event. After the first successor of an address its thread answers no further
/// one.
///
/// # Errors
/// If an address has such a socket already although its port was free, or no thread can be started.
pub fn wait_for_successor(
    addresses: impl IntoIterator<Item = IpAddress>,
    on: impl Fn(Event<'_>) + Send + Sync + 'static,
) -> io::Result<()> {
    let on = Arc::new(on);
    for address in addresses {
        let name = name(address)?;
        // The predecessor closes its socket after it has answered, which may be a moment later.
        let listener = retry_busy(|| UnixListener::bind_addr(&name))?;
        let on = Arc::clone(&on);
        thread::Builder::new().name("takeover".to_owned()).spawn(move || {
            // An end is always reported.
            if catch_unwind(AssertUnwindSafe(|| wait(listener, &*on))).is_err() {
                on(Event::Broken("the takeover thread panicked"));
            }
        })?;
    }
    Ok(())
}

fn wait(listener: UnixListener, on: &dyn Fn(Event<'_>)) {
    for stream in listener.incoming() {
        let asked = stream.and_then(|stream| if is_asked(&stream)? { Ok(Some(stream)) } else { Ok(None) });
        match asked {
            Ok(Some(mut stream)) => {
                on(Event::Requested);
                // The successor waits for this name to disappear, which tells it that we are done.
                drop(listener);
                let _ = stream.write_all(format!("{DONE}\n").as_bytes());
                drop(stream);
                return on(Event::Answered);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "a takeover request failed");
                // Descriptors may be exhausted: pause before the next attempt.
                thread::sleep(Duration::from_nanos(TAKEOVER_REQUEST_TIMEOUT));
            }
        }
    }
}

/// Reads the request of a successor.
fn is_asked(stream: &UnixStream) -> io::Result<bool> {
    if !is_trusted(stream)? {
        tracing::warn!("ignored a takeover request of another user");
        return Ok(false);
    }
    stream.set_read_timeout(Some(Duration::from_nanos(TAKEOVER_REQUEST_TIMEOUT)))?;
    stream.set_write_timeout(Some(Duration::from_nanos(TAKEOVER_REQUEST_TIMEOUT)))?;
    Ok(line(stream)? == REQUEST)
}

/// Whether the peer belongs to our user or to root. Any user may take a name in the abstract namespace.
fn is_trusted(stream: &UnixStream) -> io::Result<bool> {
    let peer = socket_peercred(stream)?.uid;
    Ok(peer.is_root() || peer == rustix::process::geteuid())
}

fn line(stream: &UnixStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn name(address: IpAddress) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("echoring/takeover/{address}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// An address that no other test has: its port is ours for as long as the listener lives.
    fn address() -> (std::net::TcpListener, IpAddress) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        (listener, address)
    }

    /// Counts successors.
    fn counting(taken: Arc<AtomicUsize>) -> impl Fn(Event<'_>) + Send + Sync {
        move |event| _ = taken.fetch_add(usize::from(event == Event::Requested), Ordering::SeqCst)
    }

    #[test]
    fn one_successor_after_the_other_is_told_when_the_place_is_free() {
        let (_port, address) = address();
        assert!(!tell(address).expect("nobody is there"));
        let taken = Arc::new(AtomicUsize::new(0));
        for round in 1..=20 {
            let counted = Arc::clone(&taken);
            wait_for_successor([address], counting(counted)).expect("free");
            assert!(tell(address).expect("told"));
            assert_eq!(taken.load(Ordering::SeqCst), round);
        }
        assert!(!tell(address).expect("nobody is left"));
    }

    #[test]
    fn what_is_no_request_takes_nothing() {
        let (_port, address) = address();
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&taken);
        wait_for_successor([address], counting(counted)).expect("free");
        for words in ["", "echoring takeover 2\n", "\n", &"x".repeat(1_000)] {
            let mut stream = UnixStream::connect_addr(&name(address).expect("a name")).expect("connected");
            // It may be gone before all is written.
            let _ = stream.write_all(words.as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            assert_eq!(answer, "", "{words:.20}");
        }
        assert_eq!(taken.load(Ordering::SeqCst), 0);
        assert!(tell(address).expect("told"));
        assert_eq!(taken.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_thread_that_panics_says_so() {
        let (_port, address) = address();
        let (broken, reasons) = std::sync::mpsc::channel();
        wait_for_successor([address], move |event| match event {
            Event::Broken(reason) => broken.send(reason.to_owned()).expect("the test waits"),
            _ => panic!("planted"),
        })
        .expect("free");
        tell(address).expect_err("it is not done");
        let reason = reasons.recv().expect("it is told");
        assert!(reason.ends_with("panicked"), "{reason}");
    }
}
