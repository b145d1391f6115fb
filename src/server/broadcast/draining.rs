//! The end in order: what was acknowledged is sent, or told to be lost, before anybody is told 1001.
//!
//! ```text
//! refuse publications ─ Over(Publications) ─> no home gets another one
//!                                             └─ Over(Messages) ─> logs have all they will ever have
//!                                                                  └─ who has got all of it: 1001
//! nobody is left ─────── Over(Everything) ──> no shard needs this one, and it may end
//! ```
//!
//! Each stage is over on the node when every shard has said so to every other, in the lane in which what it is about
//! travels: so it arrives behind the last of it. A shard that is told so before its own drain began only counts.
//!
//! Never: a shard that waits for another beyond the time that the drain has.

use super::mail::Message;
use super::{Broadcast, Subscriber};
use crate::driver::{Driver, Token};
use crate::hub::GapReason;
use crate::limits::{DRAIN_GOODBYE, Nanos};
use crate::protocol::CloseCode;
use crate::server::service::{Peer, Service};
use crate::server::v1::notice;
use crate::shard::{Context, Goodbye, Lane, Mailboxes};

/// What a draining shard posts no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Publications, to their topics' homes.
    Publications,
    /// Messages, to shards with subscribers.
    Messages,
    /// Requests of any kind.
    Everything,
}

/// How far the other shards are with one stage, and have been told of this one.
#[derive(Debug, Default)]
struct Progress {
    /// The next shard to be told.
    next: usize,
    /// Shards that have told this one.
    heard: usize,
}

/// The drain of one shard.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// Since when; none before it began.
    since: Option<Nanos>,
    publications: Progress,
    messages: Progress,
    everything: Progress,
    /// Some shard has no room to be told now.
    waits_for_room: bool,
    /// When those who have not got everything are told so.
    goodbye_at: Nanos,
    /// Those who have not been told 1001.
    left: Vec<Token>,
    /// Nobody is left, and no other shard needs this one.
    is_over: bool,
}

impl Progress {
    /// Tells all other shards, as far as they have room. Whether all have been told.
    fn tell(&mut self, mailboxes: &mut Mailboxes<Message>, stage: Stage) -> bool {
        // Behind the last of what it is about.
        let lane = match stage {
            Stage::Publications | Stage::Everything => Lane::Request,
            Stage::Messages => Lane::Forward,
        };
        while self.next < mailboxes.shards() {
            let is_here = self.next == mailboxes.shard();
            if !is_here && mailboxes.post(self.next, lane, Message::Over(stage), &[]).is_err() {
                return false;
            }
            self.next += 1;
        }
        true
    }

    fn is_over(&self, shards: usize) -> bool {
        self.next == shards && self.heard + 1 == shards
    }
}

impl Drain {
    /// Whether publications and subscriptions are refused.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Another shard is through with a stage.
    pub(super) fn count(&mut self, stage: Stage) {
        let progress = match stage {
            Stage::Publications => &mut self.publications,
            Stage::Messages => &mut self.messages,
            Stage::Everything => &mut self.everything,
        };
        progress.heard += 1;
    }

    pub(super) fn waits_for_room(&self) -> bool {
        self.waits_for_room
    }

    pub(super) fn deadline(&self) -> Option<Nanos> {
        (!self.left.is_empty()).then_some(self.goodbye_at)
    }
}

impl Broadcast {
    /// Publications are refused from now on, and raw publishers, who cannot be told so, are read no further.
    pub(in crate::server) fn drain<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        if !self.drain.is_on() {
            self.drain.since = Some(cx.now());
            self.topics.hurry();
            for token in cx.tokens() {
                let is_raw = match cx.peer(token) {
                    Some(Peer::Subscriber(_)) => true,
                    Some(Peer::Session(_)) => false,
                    _ => continue,
                };
                let Some(mut link) = cx.link(token).filter(|link| link.is_open()) else { continue };
                if is_raw {
                    link.hold_up(true);
                }
                self.drain.left.push(token);
            }
        }
        let (since, until) = (self.drain.since.unwrap_or_default(), cx.draining_until().unwrap_or_default());
        let goodbye = DRAIN_GOODBYE.min(until.saturating_sub(since) / 4);
        self.drain.goodbye_at = until.saturating_sub(goodbye);
    }

    /// Whether nobody is left here, and no other shard needs this one.
    pub(in crate::server) fn is_drained(&self) -> bool {
        self.drain.is_over
    }

    /// Does what the drain can do now, at the end of each of its turns.
    #[cold]
    pub(super) fn drain_on<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        let shards = cx.shards();
        let Broadcast { drain, held, topics, .. } = self;
        let mailboxes = cx.means().mailboxes;
        // What was read before has to come to its topic's home first.
        let mut told = held.is_empty() && drain.publications.tell(mailboxes, Stage::Publications);
        if drain.publications.is_over(shards) {
            told = drain.messages.tell(mailboxes, Stage::Messages);
        }
        let has_all = drain.messages.is_over(shards) && !topics.is_dirty();
        if has_all {
            self.part_with_the_served(cx);
        }
        if self.drain.goodbye_at <= cx.now() {
            self.part_with_all(cx, has_all);
        }
        let drain = &mut self.drain;
        if has_all && drain.left.is_empty() && self.chores.is_empty() {
            told = drain.everything.tell(cx.means().mailboxes, Stage::Everything);
            drain.is_over = drain.everything.is_over(shards);
        }
        drain.waits_for_room = !told;
    }

    /// Says 1001 to those who have got everything.
    fn part_with_the_served<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        let Goodbye { code, reason } = cx.goodbye();
        let mut left = std::mem::take(&mut self.drain.left);
        left.retain(|token| {
            let is_served = match cx.peer(*token) {
                Some(Peer::Subscriber(Subscriber { member: Some(member), .. })) => {
                    self.topics.reached(*member).is_none_or(|(_, all)| all)
                }
                Some(Peer::Session(session)) => session.reached(&self.topics).all(|(_, _, all)| all),
                _ => true,
            };
            if is_served && let Some(mut link) = cx.link(*token) {
                link.close(code, reason);
            }
            !is_served
        });
        self.drain.left = left;
    }

    /// There is no time left for those who have not got everything: they are told. `has_all` says that it is known what
    /// that is.
    fn part_with_all<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, has_all: bool) {
        let Goodbye { code, reason } = cx.goodbye();
        let subscribers = self.drain.left.len();
        if subscribers > 0 {
            tracing::warn!(
                subscribers,
                "the drain has no more time for subscribers that have not read all: told so"
            );
        }
        for token in std::mem::take(&mut self.drain.left) {
            let Some(mut link) = cx.link(token) else { continue };
            let missing: Vec<_> = match &*link.peer {
                Peer::Session(session) if has_all => {
                    let lacking = session.reached(&self.topics).filter(|(.., all)| !all);
                    lacking.map(|(topic, reached, _)| (topic, reached)).collect()
                }
                _ => {
                    link.close_at_once(CloseCode::SLOW_CONSUMER, "slow consumer");
                    continue;
                }
            };
            for (topic, reached) in missing {
                let (from, to) = (reached + 1, self.topics.offset(topic));
                if from <= to {
                    let name = self.name_of(topic);
                    self.say(&mut link, |words| notice::gap(words, &name, from, to, GapReason::Drain));
                    self.name = name;
                }
            }
            link.close(code, reason);
        }
    }
}
