//! The simulated network: byte streams with bounded buffers between drivers and the clients of a test. It owns the
//! clock and the seed.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::random::{Faults, Random};
use super::{Options, Sim};
use echoring_proto::limits::Nanos;

/// Bytes that one direction of a connection holds; each connection draws its own.
const BUFFER_BYTES: std::ops::RangeInclusive<usize> = 2 * 1024..=192 * 1024;

/// A network shared by simulated drivers and a test, all on one thread. Clones name the same network.
#[derive(Clone)]
pub struct Network(Rc<RefCell<NetworkState>>);

/// A connection's end that the test controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(usize);

/// The result of a client's read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing has arrived.
    Nothing,
    /// Bytes were appended.
    Bytes,
    /// The stream has ended in order.
    End,
    /// The connection was reset.
    Reset,
}

/// Called with a driver's number while it has nothing to report and its deadline is in the future: other drivers run
/// here and time passes. Returns whether the driver must poll again; otherwise its tick ends without an event.
type WhileWaiting = Rc<dyn Fn(usize) -> bool>;

pub(super) struct NetworkState {
    pub(super) random: Random,
    pub(super) faults: Faults,
    now: Nanos,
    wires: Vec<Wire>,
    pub(super) nodes: Vec<Node>,
    while_waiting: Option<WhileWaiting>,
    given_up: Vec<GivenUp>,
}

/// A side of a wire that one driver has given up and none has taken up yet. A socket stands for it, which is closed with its last
/// duplicate.
struct GivenUp {
    wire: usize,
    side: usize,
    /// The other end of that socket.
    end: UnixStream,
}

/// A driver in the network's table.
#[derive(Default)]
pub(super) struct Node {
    pub(super) listening: bool,
    /// Wires that wait to be accepted.
    pub(super) backlog: VecDeque<usize>,
    pub(super) woken: Arc<AtomicBool>,
    /// Something of this driver has changed since its last tick.
    pub(super) touched: bool,
    /// The driver has deferred something to its next tick.
    pub(super) busy: bool,
    /// Deadline of its latest tick's wait.
    pub(super) deadline: Option<Nanos>,
}

/// A connection: the unread bytes of each side. Side 0 dialled.
struct Wire {
    sides: [Side; 2],
}

struct Side {
    /// The driver that is notified of changes; `None` for a client.
    node: Option<usize>,
    /// Sent by the other side and not yet read.
    inbox: VecDeque<u8>,
    inbox_bytes_max: usize,
    /// The other side has sent FIN.
    ended: bool,
    reset: bool,
    /// Closed by its owner.
    gone: bool,
}

/// Unread bytes of a side.
pub(super) struct Inbound {
    pub(super) bytes: usize,
    pub(super) ended: bool,
    pub(super) reset: bool,
}

impl Inbound {
    fn heard(&self) -> Heard {
        match self {
            Inbound { bytes: 1.., .. } => Heard::Bytes,
            Inbound { reset: true, .. } => Heard::Reset,
            Inbound { ended: true, .. } => Heard::End,
            Inbound { .. } => Heard::Nothing,
        }
    }
}

impl Network {
    /// A network in which everything follows from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Network {
        Network(Rc::new(RefCell::new(NetworkState {
            random: Random::new(seed),
            faults,
            // Not zero, so that an uninitialised time is visible.
            now: 1_000_000_000,
            wires: Vec::new(),
            nodes: Vec::new(),
            while_waiting: None,
            given_up: Vec::new(),
        })))
    }

    /// A driver on this network; drivers are numbered from 0 in the order in which they are made.
    pub fn sim(&self, options: &Options) -> Sim {
        let number = self.state().nodes.len();
        // Its first tick is due.
        self.state().nodes.push(Node { touched: true, ..Node::default() });
        Sim::new(self.clone(), number, options)
    }

    /// Stands for a listening socket where [`Driver::listen`](crate::driver::Driver::listen) asks for one:
    /// the network itself leads every dialler to a driver that listens.
    ///
    /// # Errors
    /// When no descriptor is free.
    pub fn listener(&self) -> io::Result<OwnedFd> {
        Ok(File::open("/dev/null")?.into())
    }

    /// Now, on the clock of this network.
    pub fn now(&self) -> Nanos {
        self.state().now
    }

    /// Advances the clock. The other sides see what was given up and dropped meanwhile.
    pub fn advance(&self, by: Nanos) {
        let mut state = self.state();
        state.now += by;
        state.close_abandoned();
    }

    /// Sets the frequencies of faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Calls `run` with the driver's number while a driver would wait. Without it such a tick returns at once. `run`
    /// may tick other drivers of this network, whose waits then nest in this one, and must
    /// let time pass when nothing else can happen.
    pub fn while_waiting(&self, run: impl Fn(usize) -> bool + 'static) {
        self.state().while_waiting = Some(Rc::new(run));
    }

    /// Whether a tick of driver `number` would have something to do now.
    pub fn is_runnable(&self, number: usize) -> bool {
        let state = self.state();
        let node = &state.nodes[number];
        node.touched
            || node.busy
            || node.woken.load(Ordering::Acquire)
            || node.deadline.is_some_and(|deadline| deadline <= state.now)
    }

    /// The first deadline of any driver's latest wait.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.state().nodes.iter().filter_map(|node| node.deadline).min()
    }

    /// A driver makes no further tick: its deadline no longer counts.
    pub fn retire(&self, number: usize) {
        self.state().nodes[number].deadline = None;
    }

    /// Connects a client to a listening driver that the seed selects. Without any, the connection is broken.
    pub fn connect(&self) -> ClientId {
        ClientId(self.state().dial(None, None))
    }

    /// The same, with buffers of this many bytes in each direction.
    pub fn connect_with(&self, buffer_bytes: usize) -> ClientId {
        ClientId(self.state().dial(None, Some(buffer_bytes)))
    }

    /// Sends as much of `bytes` as the driver's side has room for, and returns how much.
    pub fn client_write(&self, client: ClientId, bytes: &[u8]) -> usize {
        self.state().write(client.0, 0, bytes)
    }

    /// Bytes that [`client_write`](Network::client_write) would accept now; 0 on a broken connection.
    pub fn client_room(&self, client: ClientId) -> usize {
        let state = self.state();
        if state.is_broken(client.0, 0) { 0 } else { state.room(client.0, 0) }
    }

    /// Whether the other end is gone, or the connection is reset: writes are answered by a reset.
    pub fn is_broken(&self, client: ClientId) -> bool {
        self.state().is_broken(client.0, 0)
    }

    /// The result of [`client_read`](Network::client_read) at this moment.
    pub fn client_news(&self, client: ClientId) -> Heard {
        self.state().inbound(client.0, 0).heard()
    }

    /// Appends up to `bytes_max` of the received bytes to `into`.
    pub fn client_read(&self, client: ClientId, bytes_max: usize, into: &mut Vec<u8>) -> Heard {
        let mut state = self.state();
        let inbound = state.inbound(client.0, 0);
        let bytes = inbound.bytes.min(bytes_max);
        state.read(client.0, 0, bytes, |part| into.extend_from_slice(part));
        inbound.heard()
    }

    /// Sends FIN; reading continues.
    pub fn client_fin(&self, client: ClientId) {
        self.state().end(client.0, 0);
    }

    /// Breaks the connection.
    pub fn client_reset(&self, client: ClientId) {
        self.state().reset(client.0);
        self.state().wires[client.0].sides[0].gone = true;
    }

    /// Closes as a program that exits does: with FIN if everything was read, otherwise with a reset.
    pub fn client_close(&self, client: ClientId) {
        self.state().close(client.0, 0);
    }

    pub(super) fn state(&self) -> RefMut<'_, NetworkState> {
        self.0.borrow_mut()
    }

    pub(super) fn waiting(&self) -> Option<WhileWaiting> {
        self.0.borrow().while_waiting.clone()
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.borrow();
        f.debug_struct("Network").field("now", &state.now).field("wires", &state.wires.len()).finish()
    }
}

impl NetworkState {
    /// A new wire from `node` (none for a client) to a listening driver; broken without one.
    pub(super) fn dial(&mut self, node: Option<usize>, buffer_bytes: Option<usize>) -> usize {
        let listening: Vec<usize> = (0..self.nodes.len()).filter(|&at| self.nodes[at].listening).collect();
        let sides = [node, listening.get(self.random.below(listening.len())).copied()].map(|node| Side {
            node,
            inbox: VecDeque::new(),
            inbox_bytes_max: buffer_bytes
                .unwrap_or_else(|| self.random.between(*BUFFER_BYTES.start(), *BUFFER_BYTES.end())),
            ended: false,
            reset: listening.is_empty(),
            gone: false,
        });
        let wire = self.wires.len();
        if let Some(acceptor) = sides[1].node {
            self.nodes[acceptor].backlog.push_back(wire);
            self.nodes[acceptor].touched = true;
        }
        self.wires.push(Wire { sides });
        wire
    }

    /// A driver that listened no more had not accepted this wire: another one accepts it, as the holders of one socket do, or it breaks.
    pub(super) fn requeue(&mut self, wire: usize) {
        let Some(other) = self.nodes.iter().position(|node| node.listening) else { return self.reset(wire) };
        self.wires[wire].sides[1].node = Some(other);
        self.nodes[other].backlog.push_back(wire);
        self.nodes[other].touched = true;
    }

    pub(super) fn now(&self) -> Nanos {
        self.now
    }

    pub(super) fn inbound(&self, wire: usize, side: usize) -> Inbound {
        let Side { inbox, ended, reset, .. } = &self.wires[wire].sides[side];
        Inbound { bytes: inbox.len(), ended: *ended, reset: *reset }
    }

    /// Free bytes in the other side's buffer.
    pub(super) fn room(&self, wire: usize, side: usize) -> usize {
        let other = &self.wires[wire].sides[1 - side];
        other.inbox_bytes_max.saturating_sub(other.inbox.len())
    }

    /// From now on `side` may send only while fewer than `bytes` of it are unread.
    pub(super) fn limit(&mut self, wire: usize, side: usize, bytes: usize) {
        let other = &mut self.wires[wire].sides[1 - side];
        other.inbox_bytes_max = other.inbox_bytes_max.min(bytes);
    }

    /// From now on `side` is that of another driver.
    /// Gives a side up: a driver with the socket can take it up again.
    pub(super) fn give_up(&mut self, wire: usize, side: usize) -> OwnedFd {
        let (socket, end) = UnixStream::pair().expect("a pair of sockets");
        for each in [&socket, &end] {
            each.set_nonblocking(true).expect("a socket that does not block");
        }
        (&end)
            .write_all(&wire.to_le_bytes())
            .and_then(|()| (&end).write_all(&side.to_le_bytes()))
            .expect("room");
        self.given_up.push(GivenUp { wire, side, end });
        socket.into()
    }

    /// The side of the wire that a socket stands for, which is one of driver `node` from now on.
    pub(super) fn take_up(&mut self, socket: OwnedFd, node: usize) -> (usize, usize) {
        let mut socket = UnixStream::from(socket);
        let [wire, side] = [(); 2].map(|()| {
            let mut number = 0usize.to_le_bytes();
            socket.read_exact(&mut number).expect("a socket that no other driver has taken up");
            usize::from_le_bytes(number)
        });
        self.given_up.retain(|other| (other.wire, other.side) != (wire, side));
        self.wires[wire].sides[side].node = Some(node);
        self.touch(wire, side);
        (wire, side)
    }

    /// Closes what was given up and whose sockets are closed.
    fn close_abandoned(&mut self) {
        let is_open = |given_up: &GivenUp| {
            let read = (&given_up.end).read(&mut [0]);
            read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        let (open, abandoned): (Vec<_>, Vec<_>) = self.given_up.drain(..).partition(is_open);
        self.given_up = open;
        for GivenUp { wire, side, .. } in abandoned {
            self.close(wire, side);
        }
    }

    /// Whether sends of `side` are answered by a reset.
    pub(super) fn is_broken(&self, wire: usize, side: usize) -> bool {
        self.wires[wire].sides[side].reset || self.wires[wire].sides[1 - side].gone
    }

    /// Moves as much of `bytes` as fits to the other side's buffer.
    pub(super) fn write(&mut self, wire: usize, side: usize, bytes: &[u8]) -> usize {
        if self.is_broken(wire, side) {
            self.wires[wire].sides[side].reset = true;
            return 0;
        }
        let count = bytes.len().min(self.room(wire, side));
        self.wires[wire].sides[1 - side].inbox.extend(&bytes[..count]);
        self.touch(wire, 1 - side);
        count
    }

    /// Passes the first `bytes` of a side's buffer to `take`, in up to two parts.
    pub(super) fn read(&mut self, wire: usize, side: usize, bytes: usize, mut take: impl FnMut(&[u8])) {
        let inbox = &mut self.wires[wire].sides[side].inbox;
        let (first, second) = inbox.as_slices();
        let split = first.len().min(bytes);
        take(&first[..split]);
        take(&second[..bytes - split]);
        inbox.drain(..bytes);
        self.touch(wire, 1 - side);
    }

    /// Sends FIN.
    pub(super) fn end(&mut self, wire: usize, side: usize) {
        self.wires[wire].sides[1 - side].ended = true;
        self.touch(wire, 1 - side);
    }

    /// Closes a side: with FIN, or with a reset if something is unread.
    pub(super) fn close(&mut self, wire: usize, side: usize) {
        let own = &mut self.wires[wire].sides[side];
        let unread = !own.inbox.is_empty();
        own.gone = true;
        own.inbox = VecDeque::new();
        let other = &mut self.wires[wire].sides[1 - side];
        other.reset |= unread;
        other.ended = true;
        self.touch(wire, 1 - side);
    }

    /// Breaks a wire for both sides.
    pub(super) fn reset(&mut self, wire: usize) {
        for side in 0..2 {
            self.wires[wire].sides[side].reset = true;
            self.touch(wire, side);
        }
    }

    fn touch(&mut self, wire: usize, side: usize) {
        if let Some(node) = self.wires[wire].sides[side].node {
            self.nodes[node].touched = true;
        }
    }
}
