//! Where a successor and its predecessor meet.
//!
//! Any user may connect to a socket in the abstract namespace. So the server first hears what a connection wants, of many at once, and
//! serves only one that has sent the request: nobody else keeps a successor waiting, or is told anything, logged or counted.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::REQUEST_WORDS;
use crate::limits::{MEETING_NEWCOMERS_MAX, PROCESS_END_TIMEOUT, PROCESS_STEP_TIMEOUT};
use crate::node::listen_address::ListenAddress;
use crate::node::listeners::remove_stale;
use echoring_runtime::listening::retry_busy;

/// Maximum bytes of a line.
const LINE_BYTES_MAX: u64 = 256;
/// Bytes of a name in the abstract namespace.
const NAME_BYTES_MAX: usize = 107;

/// The events of a server that waits for a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A successor is about to take over. This server must accept nothing when the call returns: later connections are
    /// the successor's.
    Leaving,
    /// It did not take over; this server continues.
    Staying,
    /// A successor has taken over. This server must listen nowhere when the call returns.
    TakenOver,
    /// The connections that could move have moved. The others drain from now on.
    Drains,
    /// The server can no longer be taken over, for this reason.
    Broken(&'a str),
}

/// A Unix socket at which a server waits for its successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeetingPoint {
    /// In the abstract namespace, which belongs to the network namespace as ports do.
    Abstract(Vec<u8>),
    /// A file, for network namespaces of their own.
    File(PathBuf),
}

impl fmt::Display for MeetingPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MeetingPoint::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            MeetingPoint::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl MeetingPoint {
    /// The meeting point of the server that listens on `address`; none for port 0.
    pub fn of(address: &ListenAddress) -> Option<MeetingPoint> {
        let mut name = b"echoring/takeover/".to_vec();
        match address {
            ListenAddress::Tcp(address) if address.port() == 0 => return None,
            ListenAddress::Tcp(address) => name.extend_from_slice(address.to_string().as_bytes()),
            ListenAddress::Unix(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let bytes = path.as_os_str().as_bytes();
                // The end of a long path tells sockets apart; which addresses the other has shows later.
                name.extend_from_slice(b"unix:");
                name.extend_from_slice(&bytes[bytes.len().saturating_sub(NAME_BYTES_MAX - name.len())..]);
            }
        }
        Some(MeetingPoint::Abstract(name))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        match self {
            MeetingPoint::Abstract(name) => SocketAddr::from_abstract_name(name),
            MeetingPoint::File(path) => SocketAddr::from_pathname(path),
        }
    }

    /// Connects to the server that waits here, and returns its user. `None` without a server of `user` or of root.
    pub(super) fn connect(&self, user: u32) -> io::Result<Option<(UnixStream, u32)>> {
        match UnixStream::connect_addr(&self.address()?) {
            Ok(stream) => {
                let owner = user_of(&stream)?;
                Ok((owner == 0 || owner == user).then_some((stream, owner)))
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits here for successors. A predecessor leaves its place a moment after it was taken over.
    pub(super) fn listen(&self) -> io::Result<UnixListener> {
        retry_busy(|| {
            if let MeetingPoint::File(path) = self {
                remove_stale(path)?;
            }
            let listener = UnixListener::bind_addr(&self.address()?)?;
            if let MeetingPoint::File(path) = self {
                // Who may connect is checked as well.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            }
            Ok(listener)
        })
    }
}

/// The process that waited at a meeting point, whose end can be seen.
#[derive(Debug)]
pub(super) struct PeerProcess {
    pid: Pid,
    handle: OwnedFd,
}

impl PeerProcess {
    /// The process that waited for this connection. `None` if it cannot be seen from here, as one in another namespace of processes.
    pub(super) fn of(stream: &UnixStream) -> Option<PeerProcess> {
        let pid = socket_peercred(stream.as_fd()).ok()?.pid;
        // If another process has the number by now, this one has ended as well.
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(PeerProcess { pid, handle })
    }

    /// Whether it is the process of this number.
    pub(super) fn is(&self, pid: u32) -> bool {
        u32::try_from(self.pid.as_raw_nonzero().get()) == Ok(pid)
    }

    /// Whether the process has ended, and not only its socket.
    pub(super) fn has_ended(&self) -> bool {
        let time = Timespec { tv_sec: PROCESS_END_TIMEOUT.as_secs() as i64, tv_nsec: 0 };
        let mut polled = [PollFd::new(&self.handle, PollFlags::IN)];
        retry_on_intr(|| poll(&mut polled, Some(&time))).is_ok_and(|ended| ended == 1)
    }
}

/// The user of the peer. Any user may take a name in the abstract namespace, and connect to one.
fn user_of(stream: &UnixStream) -> io::Result<u32> {
    Ok(socket_peercred(stream.as_fd())?.uid.as_raw())
}

/// The open meeting points of a server, and those who have connected there and have not asked for anything.
pub(super) struct Meeting {
    listeners: Vec<UnixListener>,
    /// The user whose processes are heard, besides root.
    user: u32,
    /// The oldest first. A further one takes the place of the oldest.
    newcomers: VecDeque<Newcomer>,
}

struct Newcomer {
    stream: UnixStream,
    heard: Vec<u8>,
    until: Instant,
}

/// What a newcomer is.
enum Heard {
    /// It has not said enough.
    Nothing,
    /// It asks with this line.
    Asks(String),
    /// It has hung up, or says something else.
    Nonsense,
}

impl Newcomer {
    fn hear(&mut self) -> Heard {
        loop {
            // Byte by byte: frames may follow the line.
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(0) => return Heard::Nonsense,
                Ok(_) => self.heard.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
                Err(_) => return Heard::Nonsense,
            }
            let known = self.heard.len().min(REQUEST_WORDS.len());
            let is_request = self.heard[..known] == REQUEST_WORDS.as_bytes()[..known];
            if !is_request || self.heard.len() as u64 > LINE_BYTES_MAX {
                return Heard::Nonsense;
            }
            if let Some(line) = self.heard.strip_suffix(b"\n") {
                return Heard::Asks(String::from_utf8_lossy(line).into_owned());
            }
        }
    }
}

impl Meeting {
    /// Meets at these listeners.
    pub(super) fn new(listeners: Vec<UnixListener>) -> io::Result<Meeting> {
        listeners.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
        let user = rustix::process::geteuid().as_raw();
        Ok(Meeting { listeners, user, newcomers: VecDeque::new() })
    }

    /// Waits for somebody who asks, and returns the line. Everybody else is closed in silence.
    ///
    /// # Errors
    /// If it cannot wait.
    pub(super) fn next(&mut self) -> io::Result<(UnixStream, String)> {
        loop {
            self.accept();
            let now = Instant::now();
            let mut at = 0;
            while let Some(newcomer) = self.newcomers.get_mut(at) {
                match newcomer.hear() {
                    Heard::Nothing if newcomer.until > now => at += 1,
                    Heard::Nothing | Heard::Nonsense => drop(self.newcomers.remove(at)),
                    Heard::Asks(line) => {
                        let asking = self.newcomers.remove(at).map(|newcomer| newcomer.stream);
                        if let Some(stream) = asking.filter(|stream| stream.set_nonblocking(false).is_ok()) {
                            return Ok((stream, line));
                        }
                    }
                }
            }
            self.wait(now)?;
        }
    }

    /// Accepts those who wait, of the users that are heard.
    fn accept(&mut self) {
        for listener in &self.listeners {
            for _ in 0..MEETING_NEWCOMERS_MAX {
                let stream = match listener.accept() {
                    Ok((stream, _)) => stream,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        // Descriptors may be exhausted: those of the silent make room.
                        self.newcomers.clear();
                        thread::sleep(ACCEPT_PAUSE);
                        break;
                    }
                };
                let is_heard = user_of(&stream).is_ok_and(|user| user == 0 || user == self.user);
                if is_heard && stream.set_nonblocking(true).is_ok() {
                    if self.newcomers.len() == MEETING_NEWCOMERS_MAX {
                        self.newcomers.pop_front();
                    }
                    let until = Instant::now() + Duration::from_nanos(PROCESS_STEP_TIMEOUT);
                    self.newcomers.push_back(Newcomer { stream, heard: Vec::new(), until });
                }
            }
        }
    }

    /// Waits until somebody connects or says something, or the time of the oldest is over.
    ///
    /// # Errors
    /// If it cannot wait.
    fn wait(&self, now: Instant) -> io::Result<()> {
        let listeners = self.listeners.iter().map(AsFd::as_fd);
        let streams = self.newcomers.iter().map(|newcomer| newcomer.stream.as_fd());
        let mut watched: Vec<PollFd<'_>> =
            listeners.chain(streams).map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)).collect();
        let left = self.newcomers.front().map(|oldest| oldest.until.saturating_duration_since(now));
        let left = left.and_then(|left| left.try_into().ok());
        match poll(&mut watched, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a line to everybody who waits and is heard, and closes all of them.
    pub(super) fn dismiss(mut self, line: &str) {
        // A bound, because others may connect again and again.
        for _ in 0..DISMISSALS_MAX {
            for Newcomer { stream, .. } in self.newcomers.drain(..) {
                // Who does not wait any more finds out otherwise.
                let _ = send_line(&stream, line);
            }
            self.accept();
            if self.newcomers.is_empty() {
                return;
            }
        }
    }
}

/// How often those who wait are told that they come too late, each time so many as are heard at once.
const DISMISSALS_MAX: usize = 16;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

pub(super) fn send_line(mut stream: &UnixStream, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\n").as_bytes())
}

/// Reads a line and nothing behind it. Data without an end in time is not a line.
pub(super) fn line(stream: &UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    // Byte by byte: frames may follow the line.
    BufReader::with_capacity(1, stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
