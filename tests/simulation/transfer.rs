//! The way of connections to a successor without threads and sockets: what the socket between the two processes does, one small step
//! per call. For simulations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};

use echoring_proto::limits::SECOND;
use echoring_runtime::driver::sim::Random;
use echoring_runtime::shard::{ControlMessage, Destination, Detached, Entrance, Exits, MoveAnswer, Remote};
use echoring_server::{MoveOrder, ShardCommand};
use echoring_topics::HubReport;

/// Time limit of an order.
const MOVE_TIMEOUT: u64 = 20 * SECOND;
/// Steps for which everything may stand still.
const PAUSE_STEPS_MAX: usize = 60;

/// The connections that move from one process to another.
#[derive(Debug)]
pub struct Transfer {
    shards: Vec<Remote<ShardCommand, HubReport>>,
    exits: Arc<Exits>,
    entrances: Vec<Entrance>,
    leaving: Receiver<Detached>,
    reports: Receiver<(usize, usize)>,
    answer: Sender<(u64, bool)>,
    answers: Receiver<(u64, bool)>,
    unanswered: BTreeMap<u64, Detached>,
    number: u64,
    random: Random,
    /// Of 1,000 connections, those that are not passed on, as if a shard of the successor had refused them.
    refused_per_mille: u32,
    pause: usize,
    pub moved: u64,
    pub refused: u64,
}

impl Transfer {
    /// Orders the shards of a process to give up all connections, for the shards of another.
    pub fn begin(
        shards: Vec<Remote<ShardCommand, HubReport>>,
        exits: Arc<Exits>,
        entrances: Vec<Entrance>,
        mut random: Random,
    ) -> Transfer {
        let (way, leaving) = mpsc::channel();
        exits.set_process(Some(way));
        let (answer, answers) = mpsc::channel();
        let refused_per_mille = [0, 0, 50, 400][random.below(4)];
        let reports = order(&shards);
        Transfer {
            shards,
            exits,
            entrances,
            leaving,
            reports,
            answer,
            answers,
            unanswered: BTreeMap::new(),
            number: 0,
            random,
            refused_per_mille,
            pause: 0,
            moved: 0,
            refused: 0,
        }
    }

    /// Orders the shards once more, because connections have stayed.
    pub fn order_again(&mut self) {
        self.refused_per_mille /= 2;
        self.reports = order(&self.shards);
    }

    /// Whether all shards have carried the order out, and nothing is on its way.
    pub fn is_over(&self) -> bool {
        let are_done = loop {
            match self.reports.try_recv() {
                Ok(_) => {}
                Err(error) => break error == TryRecvError::Disconnected,
            }
        };
        are_done && self.unanswered.is_empty() && self.exits.on_the_way() == 0
    }

    /// Passes some connections and some answers on.
    pub fn advance(&mut self) {
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        if self.random.chance(30) {
            self.pause = self.random.below(PAUSE_STEPS_MAX);
        }
        for _ in 0..self.random.between(1, 6) {
            let Ok((number, is_taken)) = self.answers.try_recv() else { break };
            let moved = self.unanswered.remove(&number).expect("one answer for each");
            if is_taken {
                self.moved += 1;
                self.exits.note_arrival();
            } else {
                self.go_back(moved);
            }
        }
        for _ in 0..self.random.between(1, 6) {
            let Ok(moved) = self.leaving.try_recv() else { break };
            match self.random.chance(self.refused_per_mille) {
                true => self.go_back(moved),
                false => self.pass(moved),
            }
        }
    }

    fn pass(&mut self, moved: Detached) {
        let number = self.number;
        self.number += 1;
        let to = self.random.below(self.entrances.len());
        let sent = Detached {
            record: moved.record.clone(),
            socket: moved.socket.try_clone().expect("a descriptor"),
            to: Destination::Shard(to),
            from: None,
            is_returned: false,
            answer: Some(MoveAnswer::new(self.answer.clone(), number)),
            charge: self.exits.charge(moved.record.len()),
        };
        self.unanswered.insert(number, moved);
        // Dropped, with the answer that it is not taken in, if the shard has ended.
        let _ = self.entrances[to].send(sent);
    }

    fn go_back(&mut self, moved: Detached) {
        self.refused += 1;
        if self.exits.send_back(moved).is_err() {
            self.exits.note_arrival();
        }
    }

    /// Nothing moves any more.
    pub fn end(mut self) {
        self.exits.set_process(None);
        while let Ok(moved) = self.leaving.try_recv() {
            self.go_back(moved);
        }
        assert!(self.unanswered.is_empty());
    }

    /// The successor has ended. Connections that it may have read from are lost.
    pub fn lose(mut self) {
        self.exits.set_process(None);
        while let Ok(moved) = self.leaving.try_recv() {
            self.go_back(moved);
        }
        while self.unanswered.pop_first().is_some() {
            self.exits.note_arrival();
        }
    }
}

fn order(shards: &[Remote<ShardCommand, HubReport>]) -> Receiver<(usize, usize)> {
    let (done, reports) = mpsc::sync_channel(shards.len());
    for shard in shards {
        let (to, done) = (Destination::Process, done.clone());
        let order = MoveOrder {
            to,
            backends: Arc::default(),
            most: usize::MAX,
            only_idle: false,
            within: MOVE_TIMEOUT,
            done,
        };
        shard.send(ControlMessage::Command(ShardCommand::MoveAway(order)));
    }
    reports
}
