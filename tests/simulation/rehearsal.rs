//! A handover without threads, sockets and time: the same commands, records and mail as a takeover, one small step per call. For
//! simulations of the shards' part.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{self, Receiver, TryRecvError};

use echoring_broker::broadcast::{MAIL_OVERHEAD_BYTES, StateCursor, mail_codec};
use echoring_runtime::shard::{Bridge, ControlMessage, FarInlet, FarOutlet, Lane, Remote};
use echoring_server::handover::{
    FromPredecessor, FromSuccessor, Imported, NewPlaces, Route, Translate, split,
};
use echoring_server::{ShardCommand, ShardMail};
use echoring_topics::{HubReport, Placement};

pub type Shards = Vec<Remote<ShardCommand, HubReport>>;

/// A handover between the shards of one process.
#[derive(Debug)]
pub struct Rehearsal {
    predecessor: Shards,
    successor: Shards,
    /// That of the successor.
    placement: Placement,
    max_message: u64,
    step: Step,
    moved: NewPlaces,
    /// The owner of the topic whose records are imported.
    owner: Option<usize>,
    ways: Vec<Way>,
    /// Those of the predecessor's shards, until they follow.
    bridges: Vec<Bridge<ShardMail>>,
    /// The predecessor keeps its topics.
    has_grace: bool,
}

#[derive(Debug)]
enum Step {
    Stopping(Receiver<usize>, usize),
    /// The shard that exports, and its answer.
    Exporting(usize, Receiver<(Vec<u8>, Option<StateCursor>)>),
    /// The same, where the next block begins, and the shards that import.
    Importing(usize, Option<StateCursor>, Vec<(usize, Receiver<Imported>)>),
    Leading(Receiver<()>, usize),
    Linked,
    GivenUp,
}

/// One direction of the bridge, and a message that its shard has no room for.
#[derive(Debug)]
struct Way {
    inlets: Vec<FarInlet<ShardMail>>,
    outlets: Vec<FarOutlet<ShardMail>>,
    translate: Box<dyn Translator>,
    stuck: VecDeque<(Route, ShardMail, Vec<u8>)>,
}

trait Translator: Translate + std::fmt::Debug {}

impl<T: Translate + std::fmt::Debug> Translator for T {}

impl Rehearsal {
    /// Begins to hand over from shards to others, whose topics have this placement.
    pub fn begin(
        predecessor: Shards,
        successor: Shards,
        placement: Placement,
        max_message: u64,
        round: u32,
    ) -> Rehearsal {
        let (done, stopped) = mpsc::sync_channel(predecessor.len());
        command(&predecessor, || ShardCommand::StopOrdering { round, done: done.clone() });
        let step = Step::Stopping(stopped, predecessor.len());
        let (moved, owner, ways) = (BTreeMap::new(), None, Vec::new());
        Rehearsal {
            predecessor,
            successor,
            placement,
            max_message,
            step,
            moved,
            owner,
            ways,
            bridges: Vec::new(),
            has_grace: false,
        }
    }

    /// The predecessor keeps its topics, which it may [take back](Rehearsal::take_back).
    pub fn with_grace(self) -> Rehearsal {
        Rehearsal { has_grace: true, ..self }
    }

    /// Whether the successor orders the messages.
    pub fn is_linked(&self) -> bool {
        matches!(self.step, Step::Linked)
    }

    /// The successor ends before it orders anything. False if it is too late for that.
    pub fn give_up(&mut self) -> bool {
        if self.is_linked() {
            return false;
        }
        if !matches!(self.step, Step::GivenUp) {
            command(&self.predecessor, || ShardCommand::OrderAgain);
            self.step = Step::GivenUp;
        }
        true
    }

    /// The predecessor has ended, and its last mail has arrived.
    pub fn forget_predecessor(mut self) {
        while self.ways.iter_mut().any(|way| way.carry(usize::MAX)) {}
        command(&self.successor, || ShardCommand::ForgetFarShards);
    }

    /// The successor has ended.
    pub fn lose_successor(self) {
        command(&self.predecessor, || ShardCommand::LoseFarShards);
    }

    /// The successor has ended within the grace. Returns whether the predecessor serves again, to be called until it does.
    pub fn take_back(self) -> impl FnMut() -> bool {
        let shards = self.predecessor;
        let (done, answers) = mpsc::sync_channel(shards.len());
        command(&shards, || ShardCommand::TakeBack(done.clone()));
        let mut left = shards.len();
        move || {
            while left > 0 && answers.try_recv().is_ok() {
                left -= 1;
                if left == 0 {
                    command(&shards, || ShardCommand::OrderAgain);
                }
            }
            left == 0
        }
    }

    /// Takes the steps that the shards' answers allow, and carries up to `mail` messages in each direction.
    ///
    /// # Panics
    /// If a shard's answer is an error.
    pub fn advance(&mut self, mail: usize) {
        match &mut self.step {
            Step::Stopping(answers, left) if *left > 0 => {
                *left -= usize::from(answers.try_recv().is_ok());
            }
            Step::Stopping(..) => self.export(0, StateCursor::default()),
            Step::Exporting(shard, answer) => {
                if let Ok((block, next)) = answer.try_recv() {
                    let shard = *shard;
                    self.import(shard, &block, next);
                }
            }
            Step::Importing(..) => self.imported(),
            Step::Leading(answers, left) if *left > 0 => *left -= usize::from(answers.try_recv().is_ok()),
            Step::Leading(..) => self.follow(),
            Step::Linked => self.ways.iter_mut().for_each(|way| {
                way.carry(mail);
            }),
            Step::GivenUp => {}
        }
    }

    fn export(&mut self, shard: usize, cursor: StateCursor) {
        let (reply, answer) = mpsc::sync_channel(1);
        // Small blocks, so that topics are split.
        let export = ShardCommand::Export { cursor, bytes_max: 200, reply };
        self.predecessor[shard].send(ControlMessage::Command(export));
        self.step = Step::Exporting(shard, answer);
    }

    fn import(&mut self, shard: usize, block: &[u8], next: Option<StateCursor>) {
        let blocks =
            split(block, self.placement, self.successor.len(), &mut self.owner).expect("well formed");
        let shards = self.predecessor.len();
        let parts = blocks.into_iter().enumerate().filter(|(_, block)| !block.is_empty());
        let send = |(to, block): (usize, Vec<u8>)| {
            let (reply, answer) = mpsc::sync_channel(1);
            let import = ShardCommand::Import { block, shards, reply };
            self.successor[to].send(ControlMessage::Command(import));
            (to, answer)
        };
        self.step = Step::Importing(shard, next, parts.map(send).collect());
    }

    fn imported(&mut self) {
        let Rehearsal { step: Step::Importing(shard, next, answers), moved, .. } = self else { return };
        answers.retain(|(to, answer)| match answer.try_recv() {
            Ok(imported) => {
                let imported = imported.expect("there is room").into_iter();
                moved.extend(imported.map(|(old, new)| ((*shard, old), (*to, new))));
                false
            }
            Err(error) => error == TryRecvError::Empty,
        });
        let (shard, next) = (*shard, next.clone());
        match next {
            _ if !answers.is_empty() => {}
            Some(cursor) => self.export(shard, cursor),
            None if shard + 1 < self.predecessor.len() => self.export(shard + 1, StateCursor::default()),
            None => self.link(),
        }
    }

    fn link(&mut self) {
        let (own, far) = (self.predecessor.len(), self.successor.len());
        // As small as possible, so that bridges are full at times.
        let bytes = 2 * (self.max_message as usize + MAIL_OVERHEAD_BYTES);
        let bridge = |lane, far_shards, remote: &Remote<_, _>| {
            let waker = remote.waker().clone();
            Bridge::new(lane, far_shards, bytes * far_shards, std::thread::current(), waker)
        };
        let (reply, ready) = mpsc::sync_channel(far);
        let leading = self.successor.iter().map(|remote| {
            let (bridge, end) = bridge(Lane::Forward, own, remote);
            remote.send(ControlMessage::Command(ShardCommand::Lead { bridge, reply: reply.clone() }));
            end.split()
        });
        let (from_successor, to_successor) = leading.unzip::<_, _, Vec<_>, Vec<_>>();
        let following = self.predecessor.iter().map(|remote| {
            let (bridge, end) = bridge(Lane::Request, far, remote);
            self.bridges.push(bridge);
            end.split()
        });
        let (from_predecessor, to_predecessor) = following.unzip::<_, _, Vec<_>, Vec<_>>();
        let moved = std::mem::take(&mut self.moved);
        let requests = FromPredecessor::new(moved, self.placement, far, own);
        self.ways = vec![
            Way::new(from_predecessor, to_successor, requests),
            Way::new(from_successor, to_predecessor, FromSuccessor::new(own, far)),
        ];
        self.step = Step::Leading(ready, far);
    }
}

impl Rehearsal {
    /// From here on the successor orders the messages.
    fn follow(&mut self) {
        let max_message = self.max_message;
        for (remote, bridge) in self.predecessor.iter().zip(self.bridges.drain(..)) {
            let follow = ShardCommand::Follow { bridge, max_message };
            remote.send(ControlMessage::Command(follow));
            if !self.has_grace {
                remote.send(ControlMessage::Command(ShardCommand::ForgetTopics));
            }
        }
        self.step = Step::Linked;
    }
}

fn command(shards: &Shards, command: impl Fn() -> ShardCommand) {
    for remote in shards {
        remote.send(ControlMessage::Command(command()));
    }
}

impl Way {
    fn new(
        inlets: Vec<FarInlet<ShardMail>>,
        outlets: Vec<FarOutlet<ShardMail>>,
        translate: impl Translate + std::fmt::Debug,
    ) -> Way {
        Way { inlets, outlets, translate: Box::new(translate), stuck: VecDeque::new() }
    }

    /// Carries up to so many messages. Returns whether there were any.
    fn carry(&mut self, mut mail: usize) -> bool {
        let mut has_carried = false;
        while mail > 0 {
            mail -= 1;
            if self.stuck.is_empty() && !self.take() {
                break;
            }
            let Some((Route { to, from }, mail, bytes)) = self.stuck.front() else { break };
            let outlet = &mut self.outlets[*to];
            match outlet.post(*from, mail, bytes) {
                Ok(false) => break,
                // A predecessor's shard without clients has ended; others go on.
                Err(_) if !outlet.is_over() => panic!("a bridge takes no mail"),
                Ok(true) | Err(_) => drop(self.stuck.pop_front()),
            }
            has_carried = true;
        }
        has_carried
    }

    /// Takes a message of any shard through its wire format.
    fn take(&mut self) -> bool {
        let mut payload = Vec::new();
        let taken = self
            .inlets
            .iter_mut()
            .enumerate()
            .find_map(|(from, inlet)| inlet.take(&mut payload).map(|(to, mail)| (from, to, mail)));
        let Some((from, to, mail)) = taken else { return false };
        let mut wire = Vec::new();
        assert!(mail_codec::encode(&mail, &payload, &mut wire), "{mail:?} stays in its process");
        let (mut mail, bytes) = mail_codec::decode(&wire).expect("well formed");
        let route = self.translate.arrived(from, to, &mut mail, bytes).expect("mail that may come");
        self.stuck.push_back((route, mail, bytes.to_vec()));
        true
    }
}
