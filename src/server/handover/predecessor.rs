//! The predecessor's side of a takeover.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::connections::{GivenConnections, Room, give};
use super::meeting::{self, Event, Meeting, MeetingPoint};
use super::{ACCEPTED, Hello, Offer, REQUEST, SHARDS_MAX, SUCCEEDED, failed};
use crate::cluster::ClusterNode;
use crate::commands::ShardCommand;
use crate::commands::node_order::CarryOut;
use crate::limits::{
    CLUSTER_OPEN_TIMEOUT, CLUSTER_SUSPEND_TIMEOUT, LOST_DRAIN_TIMEOUT, ORDER_STOP_TIMEOUT,
    PROCESS_BATCH_BYTES, PROCESS_COUNT_INTERVAL, PROCESS_START_TIMEOUT, PROCESS_STEP_TIMEOUT,
};
use crate::node::config::mailbox_bytes;
use crate::node::handle::{Handle, PacedDrain};
use crate::node::identity::NodeIdentity;
use crate::node::listeners::InheritedListener;
use crate::processes::carrier::{Carrier, CarrierEnd, Route, Told, Translate, WriterThread};
use crate::processes::questions::answer_on_thread;
use crate::processes::wire::{FrameKind, invalid, receive, send, send_sockets, unexpected};
use echoring_async::tls::Tickets;
use echoring_broker::broadcast::StateCursor;
pub use echoring_broker::broadcast::shard_mail::ShardMail;
use echoring_proto::Plain as _;
use echoring_runtime::driver::monotonic_now;
use echoring_runtime::shard::{Bridge, ControlMessage, DrainPlan, FarEnd, Goodbye, Lane};
use echoring_topics::HubReport;

/// A server's offer to its successor, and the settings of its drain then.
#[derive(Debug)]
pub struct Offering {
    /// Where successors meet it.
    pub points: Vec<MeetingPoint>,
    /// Its admin listener.
    pub admin: Option<InheritedListener>,
    /// Its TLS tickets.
    pub tickets: Option<Arc<Tickets>>,
    /// Its drain.
    pub drain: PacedDrain,
    /// How long it stays as it was, and serves again if another process that has taken over ends.
    pub grace: Duration,
    /// Carries out the commands to the program that the successor passes on.
    pub program: Option<CarryOut>,
}

struct Waiting {
    server: Handle,
    offer: Offer,
    points: Vec<MeetingPoint>,
    admin: Mutex<Option<InheritedListener>>,
    tickets: Option<Arc<Tickets>>,
    drain: PacedDrain,
    grace: Duration,
    listeners: Mutex<Vec<UnixListener>>,
    on: Box<dyn Fn(Event<'_>) + Send + Sync>,
}

/// A successor that has taken over.
struct Successor {
    /// In which of the attempts.
    round: u32,
    /// Its end within this time gives everything back.
    grace: Duration,
    /// For the mail to its topics.
    topics: CarrierParts,
    /// Where it asks about connections.
    questions: UnixStream,
    /// Where it takes connections, and its room for them.
    connections: Option<(UnixStream, Room)>,
}

/// Ends of sockets that have their other ends in the successor.
struct Sockets {
    questions: UnixStream,
    connections: Option<UnixStream>,
}

/// Waits for a successor at the points of `offering`, with one thread for each, which do not keep the process alive.
pub(crate) fn wait_for_successor(
    server: Handle,
    offering: Offering,
    on: impl Fn(Event<'_>) + Send + Sync + 'static,
) -> io::Result<()> {
    let Offering { points, admin, tickets, drain, grace, program } = offering;
    if let Some(program) = program {
        // The first one stays.
        let _ = server.link.program.set(program);
    }
    let NodeIdentity { first_number, ids, digest_seed, .. } = server.identity;
    let listeners = server.kept();
    let offer = Offer {
        node: server.cluster.as_ref().map(|cluster| cluster.id()),
        shards: server.remotes.len() as u16,
        max_message: server.limits.message_bytes_most,
        pid: std::process::id(),
        first_number,
        ids,
        digest_seed,
        tickets: Vec::new(),
        listeners: listeners.iter().map(counted).collect(),
        admin: admin.as_ref().map(counted),
        settles: false,
        open: 0,
    };
    let waiting = Arc::new(Waiting {
        server,
        offer,
        points,
        admin: Mutex::new(admin),
        tickets,
        drain,
        grace,
        listeners: Mutex::default(),
        on: Box::new(on),
    });
    waiting.meet(0)
}

/// The number of its sockets, and whether the server removes its file.
fn counted(listener: &InheritedListener) -> (u16, bool) {
    (listener.sockets().len() as u16, listener.removes_file())
}

impl Waiting {
    /// Waits at the meeting points, after so many attempts.
    fn meet(self: &Arc<Waiting>, rounds: u32) -> io::Result<()> {
        let listen = |point: &MeetingPoint| {
            let listener = point.listen().map_err(failed(&point.to_string()))?;
            Ok((listener.try_clone()?, listener))
        };
        let (kept, listening): (Vec<_>, Vec<_>) =
            self.points.iter().map(listen).collect::<io::Result<Vec<_>>>()?.into_iter().unzip();
        let meeting = Meeting::new(listening)?;
        *self.listeners.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        let waiting = Arc::clone(self);
        thread::Builder::new().name("takeover".to_owned()).spawn(move || {
            // An end is always reported.
            if catch_unwind(AssertUnwindSafe(|| waiting.wait(meeting, rounds))).is_err() {
                (waiting.on)(Event::Broken("the takeover thread panicked"));
            }
        })?;
        Ok(())
    }

    fn wait(self: &Arc<Waiting>, mut meeting: Meeting, mut round: u32) {
        loop {
            let (stream, line) = match meeting.next() {
                Ok(asked) => asked,
                Err(error) => {
                    return tracing::warn!(%error, "no other server can take over any more");
                }
            };
            round += 1;
            match self.serve(stream, &line, round) {
                Ok(Some(successor)) => {
                    // The successor waits for the names.
                    meeting.dismiss(SUCCEEDED);
                    return self.taken_over(successor);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a successor did not take over; this server continues");
                }
            }
        }
    }

    fn note_failure(&self) {
        self.server.link.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Serves one successor, which asks with this line. `None` if the peer was no successor, or gave up before anything had changed.
    fn serve(&self, stream: UnixStream, asked: &str, round: u32) -> io::Result<Option<Successor>> {
        let step = Some(Duration::from_nanos(PROCESS_STEP_TIMEOUT));
        stream.set_read_timeout(step)?;
        stream.set_write_timeout(step)?;
        if asked != REQUEST {
            let words = format!("the running server expects the request: {REQUEST}");
            // Who does not wait any more finds out otherwise.
            let _ = meeting::send_line(&stream, &words);
            return Ok(None);
        }
        let mut body = Vec::new();
        let greeted =
            meeting::send_line(&stream, ACCEPTED).and_then(|()| expect(&stream, &mut body, FrameKind::HELLO));
        // Whoever says no more than this was no successor.
        let Some(hello) = greeted.ok().and_then(|()| Hello::decode(&body)) else { return Ok(None) };
        self.wait_for_own_predecessor(&stream)?;
        let grace = self.grace();
        let Sockets { questions, connections } = self.offer(&stream, hello, !grace.is_zero())?;
        // It starts everything that can fail.
        stream.set_read_timeout(Some(Duration::from_nanos(PROCESS_START_TIMEOUT)))?;
        match receive(&mut &stream, &mut body) {
            Ok(FrameKind::BEGIN) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Ok(_) => return Err(invalid("an unexpected frame")),
            Err(error) => return Err(error),
        }
        let paths = Vec::<String>::decode(&body).ok_or_else(|| invalid("malformed paths of back ends"))?;
        let topics = self.hand_over(stream, hello, round)?;
        let connections = connections.map(|stream| (stream, (hello.takes as usize, paths.into())));
        Ok(Some(Successor { round, grace, topics, questions, connections }))
    }

    /// How long the end of a successor gives everything back.
    fn grace(&self) -> Duration {
        if self.server.cluster().is_some() { Duration::ZERO } else { self.grace }
    }

    /// A server is linked to one other at a time.
    fn wait_for_own_predecessor(&self, stream: &UnixStream) -> io::Result<()> {
        while !self.server.link.wait_for_end(Duration::from_secs(1)) {
            let words = "the running server is still draining its predecessor; waiting";
            send(stream, FrameKind::WAIT, words.as_bytes())?;
        }
        Ok(())
    }

    /// Offers everything. Returns the ends of the sockets whose other ends are passed.
    fn offer(&self, stream: &UnixStream, hello: Hello, settles: bool) -> io::Result<Sockets> {
        let (questions, asking) = UnixStream::pair()?;
        let (connections, taking) = (hello.takes > 0).then(UnixStream::pair).transpose()?.unzip();
        // They change from time to time.
        let tickets = self.tickets.as_ref().map(|tickets| tickets.export()).unwrap_or_default();
        let open = self.server.count_staying().total();
        let offer = Offer { tickets, settles, open, ..self.offer.clone() };
        send(stream, FrameKind::OFFER, &offer.encode())?;
        let listeners = self.server.kept();
        if listeners.iter().map(counted).ne(self.offer.listeners.iter().copied()) {
            return Err(io::Error::other("this server drains"));
        }
        let sockets = listeners.iter().flat_map(InheritedListener::sockets).map(OwnedFd::as_fd);
        let admin = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
        let admin = admin.iter().flat_map(InheritedListener::sockets).map(OwnedFd::as_fd);
        let passed = [&asking].into_iter().chain(&taking).map(UnixStream::as_fd);
        send_sockets(stream, &sockets.chain(admin).chain(passed).collect::<Vec<_>>())?;
        Ok(Sockets { questions, connections })
    }

    /// Hands the topics over. On every error this server orders them again.
    fn hand_over(&self, stream: UnixStream, hello: Hello, round: u32) -> io::Result<CarrierParts> {
        if usize::from(hello.shards) + self.server.remotes.len() > SHARDS_MAX {
            return Err(invalid("too many shards"));
        }
        let has_stopped = Cell::new(false);
        let stop = |done| ControlMessage::Command(ShardCommand::StopOrdering { round, done });
        let handed = self.check_node().and_then(|()| {
            self.ask_all(stop)?;
            let node = self.suspend_node()?;
            self.send_topics(&stream, node.as_deref())?;
            let parts = self.prepare(&stream, hello)?;
            self.let_go(&stream, &has_stopped).map(|()| parts)
        });
        if handed.is_err() {
            // A successor that ends earlier, such as for a wrong configuration, has changed nothing.
            self.note_failure();
        }
        match handed {
            // It may have started, and may be slow: two servers must not order the same topics.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.server.fail("the successor received the topics and does not answer");
                Err(error)
            }
            Err(error) => {
                self.stay(&stream, &error, has_stopped.get());
                Err(error)
            }
            Ok(parts) => Ok(parts),
        }
    }

    /// Whether the node of a cluster can be continued. Nothing has changed yet.
    fn check_node(&self) -> io::Result<()> {
        let Some(cluster) = self.server.cluster() else { return Ok(()) };
        match cluster.wait_until_connected(true, Duration::from_nanos(CLUSTER_OPEN_TIMEOUT)) {
            true => Ok(()),
            false => Err(io::Error::other("the node is not connected to its cluster, or its members change")),
        }
    }

    /// The state of the node of a cluster, which is silent from now on.
    fn suspend_node(&self) -> io::Result<Option<Vec<u8>>> {
        let Some(cluster) = self.server.cluster() else { return Ok(None) };
        let state = cluster.suspend(Duration::from_nanos(CLUSTER_SUSPEND_TIMEOUT));
        state.map(Some).ok_or_else(|| io::Error::other("other nodes of the cluster did not answer in time"))
    }

    /// The successor has failed: this server orders the topics again, is the node of its cluster again, and accepts connections.
    fn stay(&self, stream: &UnixStream, error: &io::Error, has_stopped: bool) {
        let _ = send(stream, FrameKind::FAILED, error.to_string().as_bytes());
        self.serve_again(has_stopped);
    }

    fn serve_again(&self, has_stopped: bool) {
        self.server.link.orders().are_closed = false;
        self.command_all(|| ShardCommand::OrderAgain);
        self.server.cluster().into_iter().for_each(ClusterNode::go_on);
        if has_stopped && let Err(error) = self.accept_again() {
            self.server.fail(&format!("no connections are accepted after a successor has failed: {error}"));
        }
        (self.on)(Event::Staying);
    }

    /// Sends the successor `Go`, after which it accepts connections. This server accepts none meanwhile, as
    /// `has_stopped` tells. The kernel wakes one of the acceptors of a socket: if that one is about to stop, no other
    /// takes the connection until the next one arrives.
    fn let_go(&self, stream: &UnixStream, has_stopped: &Cell<bool>) -> io::Result<()> {
        has_stopped.set(true);
        self.ask_all(ControlMessage::StopListening)?;
        (self.on)(Event::Leaving);
        let mut known = Vec::new();
        {
            let mut orders = self.server.link.orders();
            orders.are_closed = true;
            self.server.known.write(&mut known);
        }
        send(stream, FrameKind::GO, &known)?;
        expect(stream, &mut Vec::new(), FrameKind::STARTED)
    }

    /// Listens where it did before, after a successor that has failed. Not before the successor has been told to go: it
    /// may accept connections already.
    fn accept_again(&self) -> io::Result<()> {
        let shards = self.server.remotes.len();
        let mut by_shard: Vec<Vec<OwnedFd>> = (0..shards).map(|_| Vec::new()).collect();
        for listener in self.server.kept() {
            let sockets = listener.sockets();
            for at in 0..sockets.len().max(shards) {
                by_shard[at % shards].push(sockets[at % sockets.len()].try_clone()?);
            }
        }
        let (reply, listening) = mpsc::sync_channel(shards);
        for (remote, sockets) in self.server.remotes.iter().zip(by_shard) {
            remote.send(ControlMessage::Listen(sockets, reply.clone()));
        }
        drop(reply);
        let given_up = Instant::now() + Duration::from_nanos(ORDER_STOP_TIMEOUT);
        loop {
            let left = given_up.saturating_duration_since(Instant::now());
            match listening.recv_timeout(left) {
                Ok(result) => result?,
                // All shards that are there have answered.
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(io::Error::other("the shards did not listen in time"));
                }
            }
        }
    }

    fn command_all(&self, command: impl Fn() -> ShardCommand) {
        self.server.send_all(|| ControlMessage::Command(command()));
    }

    /// Asks all shards, and waits until each has done it.
    fn ask_all<T>(
        &self,
        question: impl Fn(mpsc::SyncSender<T>) -> ControlMessage<ShardCommand, HubReport>,
    ) -> io::Result<()> {
        let (done, answers) = mpsc::sync_channel(self.server.remotes.len());
        self.server.send_all(|| question(done.clone()));
        let given_up = Instant::now() + Duration::from_nanos(ORDER_STOP_TIMEOUT);
        for _ in self.server.remotes.iter() {
            let left = given_up.saturating_duration_since(Instant::now());
            // No kind of error that is taken for a successor's silence.
            answers.recv_timeout(left).map_err(|_| io::Error::other("the shards did not agree in time"))?;
        }
        Ok(())
    }

    /// Sends the topics of all shards, block by block, and the state of the node, and waits until they are imported.
    fn send_topics(&self, stream: &UnixStream, node: Option<&[u8]>) -> io::Result<()> {
        let mut body = Vec::new();
        for (shard, remote) in self.server.remotes.iter().enumerate() {
            let mut next = Some(StateCursor::default());
            while let Some(cursor) = next {
                let (reply, exported) = mpsc::sync_channel(1);
                let command = ShardCommand::Export { cursor, bytes_max: PROCESS_BATCH_BYTES, reply };
                remote.send(ControlMessage::Command(command));
                let timeout = Duration::from_nanos(ORDER_STOP_TIMEOUT);
                let (block, rest) = exported
                    .recv_timeout(timeout)
                    .map_err(|_| io::Error::other("a shard does not answer"))?;
                next = rest;
                body.clear();
                body.extend_from_slice(&(shard as u16).to_le_bytes());
                body.extend_from_slice(&block);
                before_go(send(stream, FrameKind::STATE, &body))?;
            }
        }
        if let Some(node) = node {
            before_go(send(stream, FrameKind::NODE, node))?;
        }
        before_go(send(stream, FrameKind::STATE_END, &[]))?;
        before_go(expect(stream, &mut body, FrameKind::IMPORTED))
    }

    /// Everything that can fail before the successor is told to go.
    fn prepare(&self, stream: &UnixStream, hello: Hello) -> io::Result<CarrierParts> {
        let writer = WriterThread::spawn()?;
        let far_shards = usize::from(hello.shards);
        let bytes = mailbox_bytes(self.server.limits.message_bytes_most.max(hello.max_message));
        let bridge = |remote: &echoring_runtime::shard::Remote<_, _>| {
            Bridge::new(Lane::Request, far_shards, bytes, writer.thread(), remote.waker().clone())
        };
        let (bridges, ends) = self.server.remotes.iter().map(bridge).unzip();
        Ok(CarrierParts { stream: stream.try_clone()?, hello, writer, bridges, ends })
    }

    /// The successor orders everything, and this server drains, once its grace is over.
    fn taken_over(self: &Arc<Waiting>, successor: Successor) {
        let Successor { round, grace, topics, questions, connections } = successor;
        if let Err(error) = self.answer_questions(questions) {
            tracing::warn!(%error, "the successor cannot ask about the connections of this server");
        }
        let carried = self.follow(topics);
        self.server.link.set_replaced(true);
        self.leave_points();
        let mut end = None;
        if let Ok(carrier) = &carried
            && !grace.is_zero()
        {
            end = self.wait_for_grace(carrier, grace);
            drop(carrier.teller().tell(Told::Settled));
        }
        match end {
            Some(CarrierEnd::Broken(error)) if !self.server.is_leaving() => self.take_back(round, &error),
            end => self.leave(carried, end, connections),
        }
    }

    /// The successor stays: moves connections to it, and drains.
    fn leave(
        &self,
        carried: io::Result<Carrier>,
        end: Option<CarrierEnd>,
        connections: Option<(UnixStream, Room)>,
    ) {
        self.command_all(|| ShardCommand::ForgetTopics);
        self.server.cluster().into_iter().for_each(ClusterNode::end);
        self.admin.lock().unwrap_or_else(PoisonError::into_inner).take();
        (self.on)(Event::TakenOver);
        if let Some((stream, room)) = connections.filter(|_| carried.is_ok() && end.is_none()) {
            self.give_connections(&stream, room);
        }
        self.server.order_plan(self.server.plan(self.drain, Goodbye::RESTART));
        (self.on)(Event::Drains);
        let end = match (end, carried) {
            (Some(end), _) => end,
            (None, Ok(carrier)) => self.wait_for_drain(&carrier),
            (None, Err(error)) => CarrierEnd::Broken(error),
        };
        match end {
            CarrierEnd::Bye => tracing::debug!("the last mail has left"),
            CarrierEnd::Broken(error) => {
                tracing::warn!(%error, "the successor is lost; closing all connections");
                self.command_all(|| ShardCommand::LoseFarShards);
                let plan = DrainPlan { goodbye: Goodbye::RESTART, ..DrainPlan::at_once(LOST_DRAIN_TIMEOUT) };
                self.server.order_plan(plan);
            }
        }
        self.server.link.set_carrying(false);
    }

    /// Waits for the grace to be over, and tells the successor of bans meanwhile. Returns the end of the bridge if that is earlier.
    fn wait_for_grace(&self, carrier: &Carrier, grace: Duration) -> Option<CarrierEnd> {
        let (over, mut bans) = (Instant::now() + grace, None);
        loop {
            let left = over.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.tell_bans(carrier, &mut bans);
            if let Some(end) = carrier.wait_for(left.min(PROCESS_COUNT_INTERVAL)) {
                return Some(end);
            }
        }
    }

    /// Tells the successor from time to time how many connections have not moved, and of bans, until the bridge ends.
    fn wait_for_drain(&self, carrier: &Carrier) -> CarrierEnd {
        let (mut told, mut bans) = (None, None);
        loop {
            let staying = self.server.count_staying();
            if told.replace(staying) != Some(staying) {
                drop(carrier.teller().tell(Told::Staying(staying)));
            }
            self.tell_bans(carrier, &mut bans);
            if let Some(end) = carrier.wait_for(PROCESS_COUNT_INTERVAL) {
                return end;
            }
        }
    }

    /// Tells the successor which addresses are banned, if there were more bans since it was told. An address of connections that have
    /// stayed here may still exceed its limits, and comes back at the successor.
    fn tell_bans(&self, carrier: &Carrier, told: &mut Option<u64>) {
        let admission = &self.server.known.admission;
        let bans = admission.bans();
        if told.replace(bans) != Some(bans) && bans > 0 {
            drop(carrier.teller().tell(Told::Banned(admission.banned(monotonic_now()))));
        }
    }

    /// The successor has ended within the grace: this server serves again.
    fn take_back(self: &Arc<Waiting>, round: u32, error: &io::Error) {
        tracing::warn!(%error, "the new server has ended within the grace; this server serves again");
        self.note_failure();
        let link = &self.server.link;
        link.end_questions();
        let taken = self.ask_all(|done| ControlMessage::Command(ShardCommand::TakeBack(done)));
        link.set_replaced(false);
        link.set_carrying(false);
        if let Err(error) = taken {
            self.server.fail(&format!("the topics are not taken back after a successor has ended: {error}"));
        }
        self.serve_again(true);
        if let Err(error) = self.meet(round) {
            tracing::warn!(%error, "no other server can take over any more");
        }
    }

    /// Moves the connections that can move. The others are for the drain.
    fn give_connections(&self, stream: &UnixStream, room: Room) {
        match give(&self.server, stream, room) {
            Ok(counts) => {
                let staying = self.server.count_staying();
                let [tls, handler, unread, _, driver, unopened] = staying.0;
                let GivenConnections { taken_in: moved, refused } = counts;
                tracing::info!(
                    moved,
                    refused,
                    tls,
                    handler,
                    unread,
                    driver,
                    unopened,
                    "connections moved to the successor"
                );
            }
            Err(error) => tracing::warn!(%error, "not all connections moved to the successor"),
        }
    }

    fn answer_questions(&self, stream: UnixStream) -> io::Result<()> {
        let kept = stream.try_clone()?;
        *self.server.link.questions.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        answer_on_thread(self.server.clone(), stream)
    }

    /// This server's shards become shards of the successor.
    fn follow(&self, parts: CarrierParts) -> io::Result<Carrier> {
        let CarrierParts { stream, hello, writer, bridges, ends } = parts;
        for (remote, bridge) in self.server.remotes.iter().zip(bridges) {
            let max_message = hello.max_message;
            remote.send(ControlMessage::Command(ShardCommand::Follow { bridge, max_message }));
        }
        self.server.link.set_carrying(true);
        let translator = FromSuccessor::new(self.server.remotes.len(), hello.shards.into());
        let carrier = Carrier::start(writer, stream, ends, translator)?;
        self.server.link.set_teller(carrier.teller());
        Ok(carrier)
    }

    /// Leaves the meeting points, so that the successor can wait there.
    fn leave_points(&self) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A failure before the successor was told to go is its end, not a silence that might hide a start.
fn before_go<T>(result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, error.to_string()),
        _ => error,
    })
}

fn expect(mut stream: &UnixStream, body: &mut Vec<u8>, expected: FrameKind) -> io::Result<()> {
    match receive(&mut stream, body)? {
        kind if kind == expected => Ok(()),
        kind => Err(unexpected(kind, body)),
    }
}

/// The parts of a carrier, made before the successor is told to go.
struct CarrierParts {
    stream: UnixStream,
    hello: Hello,
    writer: WriterThread,
    bridges: Vec<Bridge<ShardMail>>,
    ends: Vec<FarEnd<ShardMail>>,
}

/// Mail of the successor's shards: forwards.
#[derive(Debug)]
pub struct FromSuccessor {
    shards: usize,
    far_shards: usize,
}

impl FromSuccessor {
    /// For this process with its shards, and a successor with its own.
    pub fn new(shards: usize, far_shards: usize) -> FromSuccessor {
        FromSuccessor { shards, far_shards }
    }
}

impl Translate for FromSuccessor {
    fn arrived(&mut self, from: usize, to: usize, mail: &mut ShardMail, _: &[u8]) -> io::Result<Route> {
        let (shards, far_shards) = (self.shards, self.far_shards);
        let here = |shard: usize| match shard.checked_sub(far_shards) {
            Some(own) => (own < shards).then_some(own),
            // A client of the successor.
            None => Some(shards + shard),
        };
        let to = to.checked_sub(far_shards).filter(|to| *to < shards);
        let is_forward = match mail {
            ShardMail::Deliver { publisher, .. } | ShardMail::PublishResult { publisher, .. } => {
                publisher.move_to(here).is_some()
            }
            ShardMail::Subscribed { .. }
            | ShardMail::Unsubscribed { .. }
            | ShardMail::ReplayPage { .. }
            | ShardMail::MembersPage { .. }
            | ShardMail::PresenceChanged { .. }
            | ShardMail::Fenced { .. } => true,
            _ => false,
        };
        match to {
            Some(to) if is_forward && from < far_shards => Ok(Route { to, from: shards + from }),
            _ => Err(invalid("mail that no successor sends")),
        }
    }
}
