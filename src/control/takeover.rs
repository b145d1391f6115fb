//! Taking a server's place: the successor tells the predecessor, which stops listening, tells everyone 1012 and drains.
//!
//! Both share their ports for as long as that takes, and neither knows the other's topics. So the predecessor is told
//! before the successor accepts its first connection: who is subscribed there hears of it at once and comes back here,
//! where another epoch says what was lost. Nobody publishes on one side what subscribers of the other would have to see.
//!
//! They meet at a Unix socket in the abstract namespace, which belongs to the network namespace as ports do, one for each
//! TCP address: `echoring/takeover/ADDR:PORT`. Either believes only its own user and root. One line asks and one answers.
//!
//! Never: telling a predecessor to go before everything that a start can fail for has been tried.

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
use crate::server::retry_busy;

const REQUEST: &str = "echoring takeover 1";
const DONE: &str = "done";
/// Bytes of a line, at most.
const LINE_BYTES_MAX: u64 = 64;

/// Tells the server that listens on `address` that its place is taken. When this returns it listens nowhere, and everyone
/// connected to it is being told. `false`: no server of this kind and user is there.
///
/// # Errors
/// When it does not answer, or not as it should; it may have been told.
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

/// What a server learns that waits for its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A successor is there. When the call with this returns, nothing of ours listens any more.
    Asked,
    /// It knows that we are done. The thread has nothing more to do, and need not return.
    Answered,
    /// No successor will be heard any more, for this reason.
    Broken(&'a str),
}

/// Waits for a successor to the server that listens on these addresses, on threads that do not keep the process alive, one
/// for each. `on` is called with what happens. After the first successor of an address this never answers again.
///
/// # Errors
/// When an address has such a socket already although its port was free, or no thread can be started.
pub fn wait_for_successor(
    addresses: impl IntoIterator<Item = IpAddress>,
    on: impl Fn(Event<'_>) + Send + Sync + 'static,
) -> io::Result<()> {
    let on = Arc::new(on);
    for address in addresses {
        let name = name(address)?;
        // The predecessor's is closed when it has answered, which may be a moment later.
        let listener = retry_busy(|| UnixListener::bind_addr(&name))?;
        let on = Arc::clone(&on);
        thread::Builder::new().name("takeover".to_owned()).spawn(move || {
            // Whatever happens, an end is never silent.
            if catch_unwind(AssertUnwindSafe(|| wait(listener, &*on))).is_err() {
                on(Event::Broken("the thread that waits for a successor panicked"));
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
                on(Event::Asked);
                // The successor waits for this name, and does not believe that we are done before it has heard so.
                drop(listener);
                let _ = stream.write_all(format!("{DONE}\n").as_bytes());
                drop(stream);
                return on(Event::Answered);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "a request to hand over came to nothing");
                // Out of descriptors, perhaps: not again at once.
                thread::sleep(Duration::from_nanos(TAKEOVER_REQUEST_TIMEOUT));
            }
        }
    }
}

/// Whether a successor is at the other end, and asks.
fn is_asked(stream: &UnixStream) -> io::Result<bool> {
    if !is_trusted(stream)? {
        tracing::warn!("a process of another user asked to take over, and is not heard");
        return Ok(false);
    }
    stream.set_read_timeout(Some(Duration::from_nanos(TAKEOVER_REQUEST_TIMEOUT)))?;
    stream.set_write_timeout(Some(Duration::from_nanos(TAKEOVER_REQUEST_TIMEOUT)))?;
    Ok(line(stream)? == REQUEST)
}

/// Whether the other end belongs to our user or to root: anybody may take a name in the abstract namespace.
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
        move |event| _ = taken.fetch_add(usize::from(event == Event::Asked), Ordering::SeqCst)
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
