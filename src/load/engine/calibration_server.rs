//! The server that the generator is calibrated with: it answers each message after a planted delay, or plants faults, and
//! keeps a log of both. Its log, not its plan, tells the true delays.
//!
//! Never: a random source. Delays follow from a seed and a message's place on its connection.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

use hdrhistogram::Histogram;
use socket2::{Domain, Socket, Type};

use super::workers::launch_error;
use crate::measure::merge::Merge;
use crate::measure::{Integrity, histogram};
use crate::plan::{DriverChoice, Refused};
use echoring_proto::connection::{Chunk, Closed, ConnectionConfig, MessageKind, Seed};
use echoring_proto::handshake::{Refusal, Request, Upgrade};
use echoring_proto::limits::Nanos;
use echoring_proto::random::{SplitMix64, mix};
use echoring_runtime::driver::{Driver, Options, Token};
use echoring_runtime::launch::{self, LaunchOptions, ShardSetup, ShardSpec, ShardThread};
use echoring_runtime::shard::{
    Allowance, Answer, Application, ConnectionContext, Context, ControlMessage, Disposition, Kinds,
    Mailboxes, Remote, Security, Shard, ShardConfig,
};
use echoring_runtime::stats::Snapshot;

/// Connections that wait to be accepted at most: all of a calibration.
const BACKLOG: i32 = 1_024;
/// Bytes of a mailbox between shards, which exchange nothing.
const MAILBOX_BYTES: usize = 64;
/// How long the shards may take to answer a command: they wait for nothing.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Kinds of faults; each connection has one of them.
const FAULTS: u32 = 4;

/// How the server treats messages.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Behaviour {
    /// It answers each after one of these delays, which has this share of all messages.
    Delays {
        /// Shares, which add up to 1, and delays.
        levels: Vec<(f64, Duration)>,
        /// Decides which message has which delay.
        seed: u64,
    },
    /// It answers at once, and plants a fault in one message of this many. Of four connections the
    /// first loses it, the second gets two answers, the third gets the answer behind the next one, and the fourth gets
    /// one with a flipped bit.
    Faults(u64),
}

/// The server's actions.
#[derive(Clone, Debug)]
pub(crate) struct ServerLog {
    /// From the arrival of a message until its answer was sent.
    pub(crate) held: Histogram<u64>,
    /// Planted faults, and exchanges of answers that different delays caused.
    pub(crate) planted: Integrity,
}

impl Default for ServerLog {
    fn default() -> ServerLog {
        ServerLog { held: histogram(), planted: Integrity::default() }
    }
}

impl ServerLog {
    fn merge(&mut self, other: &ServerLog) {
        self.held.add(&other.held).expect("all histograms have the same bounds");
        self.planted.merge(&other.planted);
    }
}

/// A running server. It stops when dropped.
pub(crate) struct CalibrationServer {
    pub(crate) address: SocketAddr,
    remotes: Vec<Remote<Command, ()>>,
    threads: Vec<ShardThread<()>>,
}

impl CalibrationServer {
    /// Starts one shard for each of `cpus`, or one that is not pinned, with room for this many connections.
    ///
    /// # Errors
    /// If the environment denies its threads, its driver or its socket.
    pub(crate) fn start(
        cpus: &[usize],
        driver: DriverChoice,
        connections: u32,
    ) -> Result<CalibrationServer, Refused> {
        let refused = |error: io::Error| Refused(format!("the calibration server cannot listen: {error}"));
        let listener = listener().map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?.as_socket();
        let address = address.ok_or_else(|| refused(io::ErrorKind::AddrNotAvailable.into()))?;
        let mailboxes = Mailboxes::connect(cpus.len().max(1), MAILBOX_BYTES);
        let mut specs = Vec::new();
        for (shard, mailboxes) in mailboxes.into_iter().enumerate() {
            let listener: OwnedFd = listener.try_clone().map_err(refused)?.into();
            let options = Options { connections, ..Options::default() };
            let setup = ServerSetup { listener, mailboxes, connections };
            specs.push(ShardSpec { cpu: cpus.get(shard).copied(), driver: options, setup });
        }
        let options = LaunchOptions { thread_name: "calibration", driver };
        let launched =
            launch::launch(options, specs, |_, _| ()).map_err(|error| launch_error(error, driver))?;
        let remotes = launched.remotes().to_vec();
        Ok(CalibrationServer { address, remotes, threads: launched.run() })
    }

    /// Behaves so from now on, with an empty log. Only while no message is under way.
    pub(crate) fn behave(&self, behaviour: &Behaviour) {
        self.ask(|answer| Command::Behave(behaviour.clone(), answer));
    }

    /// Its actions since then.
    pub(crate) fn log(&self) -> ServerLog {
        let mut sum = ServerLog::default();
        for log in self.ask(Command::Tell) {
            sum.merge(&log);
        }
        sum
    }

    /// Sends a command to each shard, and waits for the answers.
    fn ask<T>(&self, command: impl Fn(mpsc::SyncSender<T>) -> Command) -> Vec<T> {
        let answers = self.remotes.iter().filter_map(|remote| {
            let (sender, receiver) = mpsc::sync_channel(1);
            remote.send(ControlMessage::Command(command(sender))).then_some(receiver)
        });
        let answers: Vec<_> = answers.collect();
        answers.into_iter().filter_map(|answer| answer.recv_timeout(ANSWER_TIME).ok()).collect()
    }
}

impl Drop for CalibrationServer {
    fn drop(&mut self) {
        for remote in &self.remotes {
            remote.send(ControlMessage::Stop);
        }
        for thread in self.threads.drain(..) {
            if let Err(error) = thread.join() {
                tracing::warn!(?error, "the calibration server failed");
            }
        }
    }
}

/// A listening socket on a free port of loopback. All shards accept from it.
fn listener() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Builds the shard of one thread.
struct ServerSetup {
    listener: OwnedFd,
    mailboxes: Mailboxes<()>,
    connections: u32,
}

impl ShardSetup for ServerSetup {
    type Application = Planter;
    type Output = ();

    fn build<D: Driver>(self, driver: D) -> io::Result<Shard<D, Planter>> {
        let config = ShardConfig {
            connection: ConnectionConfig::default(),
            connections: self.connections,
            security: Security::default(),
            seed: Seed::System,
        };
        let allowance = Allowance::standalone(self.connections.into());
        let mut shard = Shard::new(driver, Planter::default(), config, allowance, self.mailboxes);
        shard.listen(self.listener)?;
        Ok(shard)
    }

    fn finish(_: Planter, _: Snapshot<()>) {}
}

/// Commands of the calibration.
#[derive(Debug)]
pub(crate) enum Command {
    Behave(Behaviour, mpsc::SyncSender<()>),
    Tell(mpsc::SyncSender<ServerLog>),
}

/// The application of one shard.
#[derive(Debug, Default)]
struct Planter {
    behaviour: Option<Behaviour>,
    log: ServerLog,
    /// Every connection that was ever accepted, by its number.
    lanes: Vec<Lane>,
    /// Answers by when they are due, and in the order of their messages.
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// Messages that ever waited.
    count: u64,
    /// Buffers of answers that were sent.
    free: Vec<Vec<u8>>,
}

/// Number of a connection among those of its shard.
#[derive(Clone, Copy, Debug, Default)]
struct Peer(u32);

/// One connection.
#[derive(Debug, Default)]
struct Lane {
    /// Messages that arrived.
    messages: u64,
    /// The number of the latest message that was answered, from 1.
    answered: u64,
    /// The answer that is sent behind the next one.
    exchanged: Option<Waiting>,
}

/// An answer that is not sent yet. Ordered by the first two.
#[derive(Debug)]
struct Waiting {
    due: Nanos,
    count: u64,
    received: Nanos,
    token: Token,
    lane: u32,
    /// The message's number on its connection, from 1.
    number: u64,
    kind: MessageKind,
    payload: Vec<u8>,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        (self.due, self.count).cmp(&(other.due, other.count))
    }
}

/// The fault of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Loss,
    Duplicate,
    Exchange,
    Flip,
}

impl Planter {
    /// When the message with this number of a connection is answered, and its fault.
    fn plan(&self, lane: u32, number: u64) -> (Nanos, Option<Fault>) {
        match &self.behaviour {
            None => (0, None),
            Some(Behaviour::Delays { levels, seed }) => {
                let mut drawn = SplitMix64::new(mix(seed ^ u64::from(lane) << 40 ^ number)).unit();
                let level = levels.iter().find(|(share, _)| {
                    drawn -= share;
                    drawn < 0.0
                });
                let (_, delay) = level.or(levels.last()).copied().unwrap_or_default();
                (delay.as_nanos() as Nanos, None)
            }
            Some(Behaviour::Faults(every)) => {
                let fault =
                    [Fault::Loss, Fault::Duplicate, Fault::Exchange, Fault::Flip][(lane % FAULTS) as usize];
                (0, number.is_multiple_of(*every).then_some(fault))
            }
        }
    }

    /// Sends an answer, and the data that follow it.
    fn answer<D: Driver>(&mut self, cx: &mut Context<'_, D, Planter>, mut answer: Waiting) {
        let lane = answer.lane as usize;
        let (_, fault) = self.plan(answer.lane, answer.number);
        let planted = &mut self.log.planted;
        let mut copies = 1;
        match fault {
            None => {}
            Some(Fault::Loss) => {
                planted.lost += 1;
                copies = 0;
            }
            Some(Fault::Duplicate) => {
                planted.duplicated += 1;
                copies = 2;
            }
            Some(Fault::Exchange) => {
                self.lanes[lane].exchanged = Some(answer);
                return;
            }
            Some(Fault::Flip) => {
                planted.corrupted += 1;
                // ASCII stays ASCII.
                if let Some(place) = planted.corrupted.checked_rem(answer.payload.len() as u64) {
                    answer.payload[place as usize] ^= 1;
                }
            }
        }
        self.send(cx, answer, copies);
        if let Some(exchanged) = self.lanes[lane].exchanged.take() {
            self.send(cx, exchanged, 1);
        }
    }

    fn send<D: Driver>(&mut self, cx: &mut Context<'_, D, Planter>, answer: Waiting, copies: u32) {
        let now = cx.clock();
        if copies > 0
            && let Some(mut link) = cx.link(answer.token)
        {
            // A message that finds no room is lost, as on any server.
            let sent = (0..copies).all(|_| link.send(answer.kind, &answer.payload));
            self.log.planted.lost += u64::from(!sent);
            self.log.held.saturating_record(now.saturating_sub(answer.received));
            let lane = &mut self.lanes[answer.lane as usize];
            self.log.planted.reordered += u64::from(answer.number < lane.answered);
            lane.answered = lane.answered.max(answer.number);
        }
        self.free.push(answer.payload);
    }
}

impl Kinds for Planter {
    type Peer = Peer;
    type Message = ();
}

impl Application for Planter {
    type Kinds = Planter;
    type Command = Command;
    type Report = ();

    fn report(&self) {}

    fn request<D: Driver>(
        &mut self,
        _: &mut Context<'_, D, Self>,
        _: Token,
        _: &Request<'_>,
        upgrade: Option<&Upgrade<'_>>,
    ) -> Answer<Peer> {
        if upgrade.is_none() {
            return Answer::Refuse(Refusal {
                status: 426,
                reason: "this is a calibration server",
                headers: "",
                hint: "only the generator that started it connects",
            });
        }
        self.lanes.push(Lane::default());
        Answer::Upgrade { peer: Peer(self.lanes.len() as u32 - 1), subprotocol: None, whole: true }
    }

    fn chunk(&mut self, link: &mut ConnectionContext<'_, Self>, chunk: Chunk<'_>) -> Disposition {
        let Peer(lane) = *link.peer;
        let Some(own) = self.lanes.get_mut(lane as usize) else { return Disposition::Done };
        own.messages += 1;
        let number = own.messages;
        let (delay, _) = self.plan(lane, number);
        let mut payload = self.free.pop().unwrap_or_default();
        payload.clear();
        payload.extend_from_slice(chunk.payload);
        self.count += 1;
        self.waiting.push(Reverse(Waiting {
            due: link.now() + delay,
            count: self.count,
            received: link.now(),
            token: link.token,
            lane,
            number,
            kind: chunk.kind,
            payload,
        }));
        Disposition::Done
    }

    fn closed<D: Driver>(&mut self, _: &mut Context<'_, D, Self>, _: Token, peer: Peer, _: &Closed) {
        if let Some(lane) = self.lanes.get_mut(peer.0 as usize) {
            self.log.planted.lost += u64::from(lane.exchanged.take().is_some());
        }
    }

    fn command<D: Driver>(&mut self, _: &mut Context<'_, D, Self>, command: Command) {
        // Whoever asked may have given up.
        match command {
            Command::Behave(behaviour, answer) => {
                (self.behaviour, self.log) = (Some(behaviour), ServerLog::default());
                self.waiting.clear();
                let _ = answer.send(());
            }
            Command::Tell(answer) => {
                // Nothing came behind these.
                let left = self.lanes.iter_mut().filter_map(|lane| lane.exchanged.take()).count();
                self.log.planted.lost += left as u64;
                let _ = answer.send(self.log.clone());
            }
        }
    }

    fn tick_ended<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>) {
        let now = cx.clock();
        while let Some(Reverse(first)) = self.waiting.peek()
            && first.due <= now
            && let Some(Reverse(answer)) = self.waiting.pop()
        {
            self.answer(cx, answer);
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        self.waiting.peek().map(|Reverse(first)| first.due)
    }
}
