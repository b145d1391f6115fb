//! The successor's side of a takeover.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::connections::take_on_threads;
use super::meeting::{self, MeetingPoint, PeerProcess};
use super::{ACCEPTED, Hello, Offer, REQUEST, SHARDS_MAX, SUCCEEDED, failed};
use crate::commands::ShardCommand;
use crate::limits::{CLUSTER_JOIN_TIMEOUT, PROCESS_STEP_TIMEOUT, SPARE_DESCRIPTORS};
use crate::node::config::mailbox_bytes;
use crate::node::handle::Handle;
use crate::node::identity::Continued;
use crate::node::listen_address::ListenAddress;
use crate::node::listeners::InheritedListener;
use crate::processes::PreviousServer;
use crate::processes::carrier::{Carrier, Route, Translate, WriterThread};
use crate::processes::wire::{FrameKind, invalid, is_end, receive, receive_sockets, send, unexpected};
use echoring_async::tls::Tickets;
pub use echoring_broker::broadcast::shard_mail::ShardMail;
use echoring_broker::limits::SNAPSHOT_TIMEOUT;
use echoring_cluster::{NodeId, PlainCluster};
use echoring_proto::Plain as _;
use echoring_runtime::shard::{Bridge, ControlMessage, FarEnd, Lane};
use echoring_topics::{ImportError, OwnedTopicId, Placement, Record};

/// The running server, which this one replaces. If it is dropped before `Server::take_over`, that server continues.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    /// `None` if its end cannot be seen.
    process: Option<PeerProcess>,
    offer: Offer,
    listeners: Vec<InheritedListener>,
    admin: Option<InheritedListener>,
    /// Where it answers questions about its connections.
    questions: OwnedFd,
    /// Where its open connections come.
    connections: Option<UnixStream>,
}

impl Predecessor {
    /// Asks the server at one of these points to hand over. `None` if there is no server of `user` or of root; that
    /// user must be the later user of this process. A server that still drains its own predecessor lets the
    /// caller wait for that.
    ///
    /// # Errors
    /// If it refuses, or does not answer. It then continues. [`io::ErrorKind::ConnectionAborted`] if another server
    /// replaces it: that one can be asked next. One that closes the connection without an answer is asked again for some time.
    pub fn find(
        points: &[MeetingPoint],
        user: u32,
        shards: usize,
        max_message: u64,
    ) -> io::Result<Option<Predecessor>> {
        let given_up = Instant::now() + Duration::from_nanos(PROCESS_STEP_TIMEOUT);
        let succeeded = || io::Error::new(io::ErrorKind::ConnectionAborted, SUCCEEDED);
        // The process that closed the last connection without a word, if its end can be seen.
        let mut silent: Option<Option<PeerProcess>> = None;
        loop {
            let mut found = None;
            for point in points {
                found = point.connect(user).map_err(failed(&format!("at {point}")))?;
                if found.is_some() {
                    break;
                }
            }
            let Some((stream, owner)) = found else {
                let is_there =
                    silent.is_some_and(|process| !process.is_some_and(|process| process.has_ended()));
                return if is_there { Err(succeeded()) } else { Ok(None) };
            };
            let own = rustix::process::geteuid().as_raw();
            if own != 0 && own != owner {
                // It would close the connection without a word.
                let line =
                    format!("the running server belongs to user {owner}, and trusts only that user and root");
                return Err(io::Error::other(line));
            }
            let process = PeerProcess::of(&stream);
            match Predecessor::ask(stream, shards, max_message) {
                // Others may have taken the place among those it hears at once, or it has ended.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    if Instant::now() >= given_up {
                        return Err(succeeded());
                    }
                    silent = Some(process);
                    thread::sleep(ASK_AGAIN_PAUSE);
                }
                // It has ended before it gave anything away. Another one may be there by now.
                Err(error) if is_end(&error) && process.as_ref().is_some_and(PeerProcess::has_ended) => {
                    silent = None;
                }
                Err(error) => return Err(error),
                Ok(asked) => {
                    let process = process.filter(|process| process.is(asked.offer.pid));
                    return Ok(Some(Predecessor { process, ..asked }));
                }
            }
        }
    }

    fn ask(stream: UnixStream, shards: usize, max_message: u64) -> io::Result<Predecessor> {
        let step = Some(Duration::from_nanos(PROCESS_STEP_TIMEOUT));
        stream.set_read_timeout(step)?;
        stream.set_write_timeout(step)?;
        match &*Predecessor::answer(&stream)? {
            ACCEPTED => {}
            SUCCEEDED => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, SUCCEEDED)),
            "" => return Err(io::Error::new(io::ErrorKind::ConnectionReset, "it closed the connection")),
            words => return Err(io::Error::other(words.to_owned())),
        }
        let hello = Hello {
            shards: u16::try_from(shards).map_err(|_| invalid("too many shards"))?,
            max_message,
            takes: room_for_connections(),
        };
        let mut body = Vec::new();
        send(&stream, FrameKind::HELLO, &hello.encode())?;
        next(&stream, &mut body, FrameKind::OFFER)?;
        let offer = Offer::decode(&body).ok_or_else(|| invalid("its offer is malformed"))?;
        if usize::from(offer.shards) + shards > SHARDS_MAX {
            let line = format!("{} shards there and {shards} here are more than {SHARDS_MAX}", offer.shards);
            return Err(io::Error::other(line));
        }
        Predecessor::receive(stream, offer, hello.takes > 0)
    }

    /// Receives the sockets that were offered, with one for connections if it `takes` any.
    fn receive(stream: UnixStream, offer: Offer, takes: bool) -> io::Result<Predecessor> {
        let offered = || offer.listeners.iter().chain(&offer.admin);
        let count: usize = offered().map(|(sockets, _)| usize::from(*sockets)).sum();
        let mut sockets = receive_sockets(&stream, count + 1 + usize::from(takes))?.into_iter();
        let mut listeners = Vec::new();
        for (count, removes_file) in offered() {
            let sockets: Vec<OwnedFd> = sockets.by_ref().take(usize::from(*count)).collect();
            let listener = InheritedListener::new(sockets).map_err(failed("a listener that it passed"))?;
            listeners.push(if *removes_file { listener.remove_file() } else { listener });
        }
        let admin = offer.admin.and_then(|_| listeners.pop());
        let questions = sockets.next().ok_or_else(|| invalid("descriptors are missing"))?;
        let connections = sockets.next().map(UnixStream::from);
        Ok(Predecessor { stream, process: None, offer, listeners, admin, questions, connections })
    }

    /// The first line of its answer to a request; empty if it ends the connection instead.
    fn answer(stream: &UnixStream) -> io::Result<String> {
        match meeting::send_line(stream, REQUEST).and_then(|()| meeting::line(stream)) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                // What it said before is still there.
                meeting::line(stream).or(Ok(String::new()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it does not answer; another server may be taking its place",
            )),
            answer => answer,
        }
    }

    /// Its listeners: the sockets themselves.
    pub fn listeners(&self) -> &[InheritedListener] {
        &self.listeners
    }

    /// Its admin listener, if that has this address.
    pub fn take_admin(&mut self, address: &ListenAddress) -> Option<InheritedListener> {
        self.admin.take_if(|admin| admin.address() == address)
    }

    /// Its TLS tickets, if it has any.
    pub fn tickets(&self) -> Option<Arc<Tickets>> {
        Tickets::import(&self.offer.tickets)
    }

    /// Which node of a cluster it is, if it belongs to one.
    pub fn node(&self) -> Option<NodeId> {
        self.offer.node
    }

    /// What this process continues of it.
    pub(crate) fn continued(&self) -> Continued {
        let Offer { ids, digest_seed, .. } = self.offer;
        Continued { first_number: self.offer.next_number(), node: ids.node(), digest_seed }
    }

    /// Takes the topics over, and continues the node of a cluster. When this returns, the predecessor orders nothing more, and its
    /// clients are served through a bridge that ends with the last of them. False if its process ended before it handed anything over: the
    /// server has none of its topics then. A node of a cluster cannot go on without what the other nodes know of it.
    ///
    /// # Errors
    /// The predecessor may continue. The shards of `server` may have some of its topics, and must end.
    pub(crate) fn take_over(self, server: &Handle, placement: Placement) -> io::Result<bool> {
        let Predecessor { stream, process, offer, questions, connections, .. } = self;
        let has_ended =
            |error: &io::Error| is_end(error) && process.as_ref().is_some_and(PeerProcess::has_ended);
        let mut takeover =
            Takeover { server, placement, offer: &offer, places: BTreeMap::new(), owner: None, node: None };
        let (writer, ends) = match takeover.prepare(&stream) {
            Err(error) if server.cluster().is_none() && has_ended(&error) => {
                takeover.go_on_alone();
                return Ok(false);
            }
            prepared => prepared?,
        };
        let node = takeover.node.take();
        let far_shards = usize::from(offer.shards);
        let translator = FromPredecessor::new(takeover.places, placement, server.remotes.len(), far_shards);
        let said = stream.try_clone()?;
        let carrier = Carrier::start(writer, stream, ends, translator)?;
        server.link.set_carrying(true);
        server.link.set_unsettled(offer.settles);
        if let Some(stream) = connections {
            take_on_threads(server, stream)?;
        }
        // Nothing was posted yet, so nobody else writes. One that has ended by now has handed everything over.
        send(&said, FrameKind::STARTED, &[])
            .or_else(|error| if has_ended(&error) { Ok(()) } else { Err(error) })?;
        // Not before: the predecessor is silent from now on, whatever happens.
        if let Some((cluster, node)) = server.cluster().zip(node) {
            cluster.continue_node(node);
        }
        let numbers = (offer.first_number, offer.shards);
        let draining = Arc::new(PreviousServer::new(numbers, offer.ids, Some(questions)));
        let _ = server.link.previous.set(Arc::clone(&draining));
        let waiting = server.clone();
        thread::Builder::new().name("link".to_owned()).spawn(move || {
            waiting.link.follow(&carrier, offer.pid, &waiting.known);
            waiting.send_all(|| ControlMessage::Command(ShardCommand::ForgetFarShards));
            draining.set_gone();
            waiting.link.set_carrying(false);
        })?;
        tracing::info!(pid = offer.pid, "took over; the previous server drains");
        Ok(true)
    }
}

/// Pause before a server that has closed the connection without an answer is asked again.
const ASK_AGAIN_PAUSE: Duration = Duration::from_millis(20);

/// Descriptors that are left for connections of a predecessor.
fn room_for_connections() -> u32 {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    u32::try_from(most.saturating_sub(SPARE_DESCRIPTORS)).unwrap_or(u32::MAX)
}

/// Reads the next frame, which must be of this kind.
fn next(mut stream: &UnixStream, body: &mut Vec<u8>, expected: FrameKind) -> io::Result<()> {
    loop {
        match receive(&mut stream, body)? {
            kind if kind == expected => return Ok(()),
            FrameKind::WAIT => tracing::info!("{}", String::from_utf8_lossy(body)),
            kind => return Err(unexpected(kind, body)),
        }
    }
}

struct Takeover<'a> {
    server: &'a Handle,
    placement: Placement,
    offer: &'a Offer,
    /// The predecessor's topics, by its shard and its id, and where they are now.
    places: NewPlaces,
    /// The owner shard of the topic whose records arrive.
    owner: Option<usize>,
    /// The node of a cluster that this process continues.
    node: Option<PlainCluster>,
}

/// The topics of the predecessor, by shard and id, and where they are now.
pub type NewPlaces = BTreeMap<(usize, OwnedTopicId), (usize, OwnedTopicId)>;
/// The topics of an imported block: their ids there and here.
pub type Imported = Result<Vec<(OwnedTopicId, OwnedTopicId)>, ImportError>;

impl Takeover<'_> {
    /// Takes everything that the predecessor hands over, until it orders nothing any more.
    fn prepare(&mut self, stream: &UnixStream) -> io::Result<(WriterThread, Vec<FarEnd<ShardMail>>)> {
        self.check_node()?;
        let backends = self.server.backends().into_iter().map(|backend| backend.path);
        send(stream, FrameKind::BEGIN, &backends.collect::<Vec<_>>().encode())?;
        self.import_all(stream)?;
        let writer = WriterThread::spawn()?;
        let ends = self.lead(&writer)?;
        send(stream, FrameKind::IMPORTED, &[])?;
        let mut body = Vec::new();
        next(stream, &mut body, FrameKind::GO)?;
        self.server.known.add(&body).ok_or_else(|| invalid("its bans and blocks are malformed"))?;
        Ok((writer, ends))
    }

    /// The predecessor's process has ended. Which messages it ordered last is not known, so its topics begin again.
    fn go_on_alone(&self) {
        let Offer { pid, open, .. } = *self.offer;
        for command in [|| ShardCommand::ForgetTopics, || ShardCommand::ForgetFarShards] {
            self.server.send_all(|| ControlMessage::Command(command()));
        }
        self.server.link.cut.fetch_add(open, Ordering::Relaxed);
        tracing::warn!(
            pid,
            open,
            "the previous server ended before it handed over; this one begins with new topics, and its clients reconnect"
        );
    }

    /// Whether this process can continue the node of the predecessor, if that is one.
    fn check_node(&self) -> io::Result<()> {
        let Some(cluster) = self.server.cluster() else { return Ok(()) };
        match cluster.wait_until_connected(false, Duration::from_nanos(CLUSTER_JOIN_TIMEOUT)) {
            true => Ok(()),
            false => Err(io::Error::other("this server was not connected to the cluster's backbone in time")),
        }
    }

    /// Imports the topics block by block: memory is bounded by one.
    fn import_all(&mut self, mut stream: &UnixStream) -> io::Result<()> {
        let mut body = Vec::new();
        loop {
            match receive(&mut stream, &mut body)? {
                FrameKind::STATE => self.import(&body)?,
                FrameKind::NODE => {
                    let node = PlainCluster::read(&body);
                    self.node = Some(node.ok_or_else(|| invalid("the state of its node is malformed"))?);
                }
                FrameKind::STATE_END if self.node.is_some() == self.server.cluster().is_some() => {
                    return Ok(());
                }
                kind => return Err(unexpected(kind, &body)),
            }
        }
    }

    /// Imports a block of the topics of one shard: its number, and records.
    fn import(&mut self, body: &[u8]) -> io::Result<()> {
        let malformed = || invalid("its topics are malformed");
        let (from, records) = body.split_first_chunk::<2>().ok_or_else(malformed)?;
        let from = usize::from(u16::from_le_bytes(*from));
        if from >= usize::from(self.offer.shards) {
            return Err(malformed());
        }
        let blocks = split(records, self.placement, self.server.remotes.len(), &mut self.owner);
        let blocks = blocks.ok_or_else(malformed)?;
        for (to, block) in blocks.into_iter().enumerate().filter(|(_, block)| !block.is_empty()) {
            for (old, new) in self.import_at(to, block)? {
                self.places.insert((from, old), (to, new));
            }
        }
        Ok(())
    }

    fn import_at(&self, shard: usize, block: Vec<u8>) -> io::Result<Vec<(OwnedTopicId, OwnedTopicId)>> {
        let (reply, imported) = mpsc::sync_channel::<Imported>(1);
        let shards = usize::from(self.offer.shards);
        let command = ShardCommand::Import { block, shards, reply };
        self.server.remotes[shard].send(ControlMessage::Command(command));
        let imported = imported.recv_timeout(Duration::from_nanos(SNAPSHOT_TIMEOUT));
        imported.map_err(|_| io::Error::other("a shard does not answer"))?.map_err(io::Error::other)
    }

    /// Gives every shard its bridge, and returns the far ends.
    fn lead(&self, writer: &WriterThread) -> io::Result<Vec<FarEnd<ShardMail>>> {
        let far_shards = usize::from(self.offer.shards);
        let bytes =
            mailbox_bytes(self.server.limits.message_bytes_most.max(self.offer.max_message)) * far_shards;
        let (reply, ready) = mpsc::sync_channel(self.server.remotes.len());
        let mut ends = Vec::new();
        for remote in self.server.remotes.iter() {
            let waker = remote.waker().clone();
            let (bridge, far) = Bridge::new(Lane::Forward, far_shards, bytes, writer.thread(), waker);
            remote.send(ControlMessage::Command(ShardCommand::Lead { bridge, reply: reply.clone() }));
            ends.push(far);
        }
        for _ in &ends {
            let ready = ready.recv_timeout(Duration::from_nanos(SNAPSHOT_TIMEOUT));
            ready.map_err(|_| io::Error::other("a shard does not answer"))?;
        }
        Ok(ends)
    }
}

/// Splits records by the owner shards of their topics. `owner` is that of the topic that the first ones continue.
pub fn split(
    mut records: &[u8],
    placement: Placement,
    shards: usize,
    owner: &mut Option<usize>,
) -> Option<Vec<Vec<u8>>> {
    let mut blocks = vec![Vec::new(); shards];
    while !records.is_empty() {
        let record = Record::take(&mut records)?;
        if let Some(topic) = record.topic() {
            *owner = Some(placement.owner(topic, shards));
        }
        record.put(&mut blocks[(*owner)?]);
    }
    Some(blocks)
}

/// Mail of the predecessor's shards: requests.
#[derive(Debug)]
pub struct FromPredecessor {
    places: NewPlaces,
    placement: Placement,
    shards: usize,
    far_shards: usize,
}

impl FromPredecessor {
    /// For this process with its shards, a predecessor with its own, and the topics that have moved.
    pub fn new(places: NewPlaces, placement: Placement, shards: usize, far_shards: usize) -> FromPredecessor {
        FromPredecessor { places, placement, shards, far_shards }
    }

    /// Where a topic is that the predecessor knows as `owned` of the shard `to`.
    fn find(&self, to: usize, owned: &mut OwnedTopicId) -> usize {
        if to >= self.far_shards {
            return to - self.far_shards;
        }
        // A topic that is nowhere is answered as unknown.
        const NOWHERE: OwnedTopicId = OwnedTopicId { index: u32::MAX, generation: u32::MAX };
        let (shard, new) = self.places.get(&(to, *owned)).copied().unwrap_or((0, NOWHERE));
        *owned = new;
        shard
    }
}

impl Translate for FromPredecessor {
    fn arrived(&mut self, from: usize, to: usize, mail: &mut ShardMail, bytes: &[u8]) -> io::Result<Route> {
        let to = match mail {
            ShardMail::Subscribe { .. } => {
                let name = std::str::from_utf8(bytes).map_err(|_| malformed())?;
                self.placement.owner(name, self.shards)
            }
            ShardMail::Publish { publisher, head } => {
                publisher
                    .move_to(|shard| (shard == from).then_some(self.shards + from))
                    .ok_or_else(malformed)?;
                let message = head.read(bytes).ok_or_else(malformed)?;
                self.placement.owner(message.topic, self.shards)
            }
            ShardMail::Unsubscribe { owned, .. }
            | ShardMail::ReplayRequest { owned, .. }
            | ShardMail::MembersRequest { owned, .. }
            | ShardMail::Presence { owned, .. } => self.find(to, owned),
            // To each shard of this process.
            ShardMail::Fence { .. } => to.checked_sub(self.far_shards).ok_or_else(malformed)?,
            _ => return Err(malformed()),
        };
        let is_known = from < self.far_shards && to < self.shards;
        is_known.then_some(Route { to, from: self.shards + from }).ok_or_else(malformed)
    }
}

fn malformed() -> io::Error {
    invalid("mail that no predecessor sends")
}
