//! The event loop of a raw server with `--driver epoll`: readiness, one hot buffer, and one send per receive. It
//! relates to the raw servers on io_uring as `src/runtime/driver/epoll` does to `src/runtime/driver/uring`, and does as
//! little: it has no bounds, so data for a peer that does not read accumulates in memory.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;

/// Maximum bytes per receive, as on the ring.
const RECEIVE_BYTES: usize = super::RECEIVE_BYTES as usize;
const EVENTS: usize = 1024;
/// The listener's number among connections.
const LISTENER: u64 = u64::MAX;

/// A server's reaction to received bytes. Connections are numbered by their descriptors.
pub trait Service {
    fn accepted(&mut self, connection: u32);
    /// `run` was received, and may be modified.
    fn received(&mut self, connection: u32, run: &mut [u8], output: &mut Output);
    /// Everything that was ready has been received.
    fn turned(&mut self, output: &mut Output);
    fn closed(&mut self, connection: u32);
}

/// Serves until the process ends.
pub fn serve(listener: &TcpListener, service: &mut impl Service) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut output = Output { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, sockets: Vec::new() };
    epoll::add(&output.epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut buffer = vec![0; RECEIVE_BYTES];
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        match epoll::wait(&output.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            waited => waited?,
        };
        for event in &events {
            let (number, ready) = (event.data.u64(), event.flags);
            if number == LISTENER {
                output.accept_all(listener, service)?;
                continue;
            }
            let connection = number as u32;
            if ready.contains(EventFlags::OUT) {
                output.send_rest(connection);
            }
            if ready.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                output.receive(connection, &mut buffer, service);
            }
        }
        service.turned(&mut output);
    }
}

/// A connection's socket, and the bytes that it did not accept at once.
struct Socket {
    stream: TcpStream,
    rest: Vec<u8>,
    /// Ends its half as soon as the rest has left.
    ending: bool,
}

/// All connections, as far as something is sent to them.
pub struct Output {
    epoll: OwnedFd,
    sockets: Vec<Option<Socket>>,
}

impl Output {
    /// Sends what the socket accepts at once, and the rest when it is writable.
    pub fn send(&mut self, connection: u32, bytes: &[u8]) {
        let Some(socket) = &mut self.sockets[connection as usize] else { return };
        let taken = if socket.rest.is_empty() { written(&mut socket.stream, bytes) } else { 0 };
        if taken < bytes.len() {
            socket.rest.extend_from_slice(&bytes[taken..]);
            self.await_room(connection, true);
        }
    }

    /// Closes a connection after its unsent bytes.
    pub fn end(&mut self, connection: u32) {
        if let Some(socket) = &mut self.sockets[connection as usize] {
            socket.ending = true;
            if socket.rest.is_empty() {
                // Its peer's end brings the next event, which closes it.
                let _ = socket.stream.shutdown(std::net::Shutdown::Write);
            }
        }
    }

    fn send_rest(&mut self, connection: u32) {
        let Some(socket) = &mut self.sockets[connection as usize] else { return };
        let taken = written(&mut socket.stream, &socket.rest);
        socket.rest.drain(..taken);
        if socket.rest.is_empty() {
            let ending = socket.ending;
            self.await_room(connection, false);
            if ending {
                self.end(connection);
            }
        }
    }

    fn await_room(&self, connection: u32, awaited: bool) {
        let Some(socket) = &self.sockets[connection as usize] else { return };
        let wanted = if awaited { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        // It fails only where the socket is gone, which its next receive notices.
        let _ = epoll::modify(&self.epoll, &socket.stream, EventData::new_u64(u64::from(connection)), wanted);
    }

    fn accept_all(&mut self, listener: &TcpListener, service: &mut impl Service) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    eprintln!("accept: {error}");
                    return Ok(());
                }
            };
            stream.set_nonblocking(true)?;
            let connection = stream.as_raw_fd() as u32;
            epoll::add(&self.epoll, &stream, EventData::new_u64(u64::from(connection)), EventFlags::IN)?;
            if self.sockets.len() <= connection as usize {
                self.sockets.resize_with(connection as usize + 1, || None);
            }
            self.sockets[connection as usize] = Some(Socket { stream, rest: Vec::new(), ending: false });
            service.accepted(connection);
        }
    }

    fn receive(&mut self, connection: u32, buffer: &mut [u8], service: &mut impl Service) {
        let Some(socket) = &mut self.sockets[connection as usize] else { return };
        match socket.stream.read(buffer) {
            Ok(count @ 1..) => service.received(connection, &mut buffer[..count], self),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            _ => {
                self.sockets[connection as usize] = None;
                service.closed(connection);
            }
        }
    }
}

/// How much a socket accepts at once. A closed one accepts nothing; its next receive reports the end.
fn written(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.write(bytes).unwrap_or(0)
}
