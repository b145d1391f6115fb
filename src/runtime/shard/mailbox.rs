//! Bounded mailboxes between shards: one single-producer queue for each pair, direction and lane.
//!
//! A message is a small value and bytes. The bytes are copied into the mailbox and out again, so that shards share nothing
//! and nothing is allocated. A full mailbox returns [`Full`]; it never blocks and never drops.
//!
//! Two lanes keep shards that flood each other from a deadlock. A shard always takes messages of [`Lane::Forward`], because
//! taking them needs no room elsewhere. It may leave messages of [`Lane::Request`] until there is room for their
//! consequences. Every chain of waiting therefore ends at a forward, which makes progress.

mod bridge;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::driver::{Driver, Waker};

pub use bridge::{Bridge, FarEnd, FarInlet, FarOutlet};

/// Maximum messages in a lane, whatever their size.
const MESSAGES_MAX: usize = 4096;

/// The queue in which a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Requests, which may make the other shard post messages itself.
    Request,
    /// Forwards, which the other shard can handle without posting.
    Forward,
}

/// The mailbox has no room now. Try again in a later tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[derive(Debug)]
struct Envelope<M> {
    message: M,
    bytes: usize,
}

/// The sender's end of a queue of messages with bytes.
#[derive(Debug)]
struct Outlet<M> {
    envelopes: Producer<Envelope<M>>,
    bytes: Producer<u8>,
}

/// The receiver's end.
#[derive(Debug)]
struct Inlet<M> {
    envelopes: Consumer<Envelope<M>>,
    bytes: Consumer<u8>,
}

/// A queue with room for `bytes`.
fn queue<M>(bytes: usize) -> (Outlet<M>, Inlet<M>) {
    let (envelopes_out, envelopes_in) = RingBuffer::new(MESSAGES_MAX);
    let (bytes_out, bytes_in) = RingBuffer::new(bytes);
    (
        Outlet { envelopes: envelopes_out, bytes: bytes_out },
        Inlet { envelopes: envelopes_in, bytes: bytes_in },
    )
}

impl<M> Outlet<M> {
    /// Whether `messages` with `bytes` in all fit.
    fn has_room(&self, messages: usize, bytes: usize) -> bool {
        self.envelopes.slots() >= messages && self.bytes.slots() >= bytes
    }

    /// Posts a message with the concatenated parts of `payload`, or nothing.
    #[inline]
    fn post(&mut self, message: M, payload: &[&[u8]]) -> Result<(), Full> {
        let bytes = payload.iter().map(|part| part.len()).sum();
        if self.envelopes.is_full() {
            return Err(Full);
        }
        let Ok(mut chunk) = self.bytes.write_chunk(bytes) else { return Err(Full) };
        let (mut first, mut second) = chunk.as_mut_slices();
        for part in payload {
            let split = part.len().min(first.len());
            let (head, tail) = part.split_at(split);
            first[..split].copy_from_slice(head);
            first = &mut first[split..];
            second[..tail.len()].copy_from_slice(tail);
            second = &mut second[tail.len()..];
        }
        chunk.commit_all();
        let pushed = self.envelopes.push(Envelope { message, bytes });
        debug_assert!(pushed.is_ok(), "the envelope's room was checked");
        Ok(())
    }
}

impl<M> Inlet<M> {
    fn is_empty(&self) -> bool {
        self.envelopes.is_empty()
    }

    /// Takes the next message. `payload` then has its bytes, and no others.
    #[inline]
    fn take(&mut self, payload: &mut Vec<u8>) -> Option<M> {
        let Envelope { message, bytes } = self.envelopes.pop().ok()?;
        payload.clear();
        if let Ok(chunk) = self.bytes.read_chunk(bytes) {
            let (first, second) = chunk.as_slices();
            payload.extend_from_slice(first);
            payload.extend_from_slice(second);
            chunk.commit_all();
        }
        Some(message)
    }
}

/// The ends of one shard's queues to another, by [`Lane`].
#[derive(Debug)]
struct Outlets<M> {
    lanes: [Outlet<M>; 2],
    asleep: Arc<AtomicBool>,
    /// Known once the other shard has started.
    waker: Option<Waker>,
    posted: bool,
}

/// One shard's ends of all mailboxes.
#[derive(Debug)]
pub struct Mailboxes<M> {
    shard: usize,
    asleep: Arc<AtomicBool>,
    /// By the other shard's number; none for this one.
    outlets: Vec<Option<Outlets<M>>>,
    inlets: Vec<Option<[Inlet<M>; 2]>>,
    /// To the shards of another process, which have the numbers behind those of this one.
    bridge: Option<Bridge<M>>,
}

impl<M: Send> Mailboxes<M> {
    /// The mailboxes of `shards` shards, each direction and lane with room for `bytes`.
    pub fn connect(shards: usize, bytes: usize) -> Vec<Mailboxes<M>> {
        let mut all: Vec<Mailboxes<M>> = (0..shards)
            .map(|shard| Mailboxes {
                shard,
                asleep: Arc::new(AtomicBool::new(false)),
                outlets: (0..shards).map(|_| None).collect(),
                inlets: (0..shards).map(|_| None).collect(),
                bridge: None,
            })
            .collect();
        for from in 0..shards {
            for to in (0..shards).filter(|to| *to != from) {
                let [(request_out, request_in), (forward_out, forward_in)] = [queue(bytes), queue(bytes)];
                let (lanes, asleep) = ([request_out, forward_out], all[to].asleep.clone());
                all[from].outlets[to] = Some(Outlets { lanes, asleep, waker: None, posted: false });
                all[to].inlets[from] = Some([request_in, forward_in]);
            }
        }
        all
    }

    /// This shard's number.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.outlets.len()
    }

    /// Sets the wakers of all shards, in the order of their numbers.
    pub fn set_wakers(&mut self, wakers: &[Waker]) {
        for (outlets, waker) in self.outlets.iter_mut().zip(wakers) {
            if let Some(outlets) = outlets {
                outlets.waker = Some(waker.clone());
            }
        }
    }

    /// Posts a message with the concatenated parts of `payload`.
    ///
    /// # Errors
    /// [`Full`] if the lane has no room; nothing was posted.
    ///
    /// # Panics
    /// If `to` is this shard.
    pub fn post(&mut self, to: usize, lane: Lane, message: M, payload: &[&[u8]]) -> Result<(), Full> {
        if to >= self.outlets.len() {
            return self.post_far(to, message, payload);
        }
        let outlets = self.outlets[to].as_mut().expect("a message goes to another shard");
        outlets.lanes[lane as usize].post(message, payload)?;
        outlets.posted = true;
        Ok(())
    }

    /// Posts a message to a shard of another process. Numbers below [`shards`](Mailboxes::shards) stand for owner shards of
    /// this process whose topics have moved there.
    ///
    /// # Errors
    /// [`Full`] if there is no room, or no bridge; nothing was posted.
    pub fn post_far(&mut self, to: usize, message: M, payload: &[&[u8]]) -> Result<(), Full> {
        self.bridge.as_mut().ok_or(Full)?.post(to, message, payload)
    }

    /// Connects the shard to those of another process.
    pub fn attach(&mut self, bridge: Bridge<M>) {
        self.bridge = Some(bridge);
    }

    /// Ends the connection to another process. Mail that was not carried yet is lost.
    pub fn detach(&mut self) {
        self.bridge = None;
    }

    /// Number of shards of the other process; 0 without a bridge.
    pub fn far_shards(&self) -> usize {
        self.bridge.as_ref().map_or(0, Bridge::far_shards)
    }

    /// Whether a lane to every other shard has room for a message of `bytes`.
    pub fn all_have_room(&self, lane: Lane, bytes: usize) -> bool {
        let far_have_room = self.bridge.as_ref().is_none_or(|bridge| bridge.has_room(lane, bytes));
        far_have_room
            && self.outlets.iter().flatten().all(|outlets| outlets.lanes[lane as usize].has_room(1, bytes))
    }

    /// Messages that wait for this shard, and their bytes.
    pub(super) fn queued(&self) -> (u64, u64) {
        self.inlets.iter().flatten().flatten().fold((0, 0), |(messages, bytes), inlet| {
            (messages + inlet.envelopes.slots() as u64, bytes + inlet.bytes.slots() as u64)
        })
    }

    /// Marks all other shards to be woken with the next [`wake`](Mailboxes::wake), if they sleep.
    pub(super) fn call_all(&mut self) {
        self.outlets.iter_mut().flatten().for_each(|outlets| outlets.posted = true);
    }

    /// Wakes the shards that were posted to since the last call and sleep.
    pub(super) fn wake(&mut self, driver: &mut Driver) {
        if let Some(bridge) = &mut self.bridge {
            bridge.wake();
        }
        for outlets in self.outlets.iter_mut().flatten() {
            if !std::mem::take(&mut outlets.posted) {
                continue;
            }
            // Either this sees the other's flag, or the other sees the message before it sleeps.
            fence(Ordering::SeqCst);
            if outlets.asleep.swap(false, Ordering::Relaxed)
                && let Some(waker) = &outlets.waker
            {
                driver.wake(waker);
            }
        }
    }

    /// Declares that this shard is about to wait. False if there is mail.
    pub(super) fn fall_asleep(&self, takes_requests: bool) -> bool {
        if self
            .bridge
            .as_ref()
            .is_some_and(|bridge| bridge.has_mail() && (takes_requests || bridge.receives(Lane::Forward)))
        {
            return false;
        }
        if self.inlets.len() < 2 {
            return true;
        }
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mail = self
            .inlets
            .iter()
            .flatten()
            .any(|[requests, forwards]| !forwards.is_empty() || (takes_requests && !requests.is_empty()));
        if mail {
            self.asleep.store(false, Ordering::Relaxed);
        }
        !mail
    }

    pub(super) fn wake_up(&self) {
        if self.inlets.len() > 1 {
            self.asleep.store(false, Ordering::Relaxed);
        }
    }

    /// Takes the next message of a lane from `from`. `payload` then has its bytes.
    pub(super) fn take(&mut self, from: usize, lane: Lane, payload: &mut Vec<u8>) -> Option<M> {
        self.inlets.get_mut(from)?.as_mut()?[lane as usize].take(payload)
    }

    /// Takes the next message of another process, if such messages are in this lane, with its sender's number. `payload` then
    /// has its bytes.
    pub(super) fn take_far(&mut self, lane: Lane, payload: &mut Vec<u8>) -> Option<(usize, M)> {
        self.bridge.as_mut().filter(|bridge| bridge.receives(lane))?.take(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_with_its_bytes_across_the_wrap() {
        let mut all = Mailboxes::<u32>::connect(2, 16);
        let (mut receiver, mut sender) = (all.pop().unwrap(), all.pop().unwrap());
        let mut payload = Vec::new();
        for round in 0..10_u32 {
            sender.post(1, Lane::Request, round, &[b"abc", b"", b"defgh"]).unwrap();
            let message = receiver.take(0, Lane::Request, &mut payload).unwrap();
            assert_eq!((message, payload.as_slice()), (round, b"abcdefgh".as_slice()));
        }
        assert!(receiver.take(0, Lane::Request, &mut payload).is_none());
    }

    #[test]
    fn a_full_lane_says_so_and_leaves_the_other_alone() {
        let mut all = Mailboxes::<()>::connect(2, 16);
        let mut sender = all.remove(0);
        sender.post(1, Lane::Request, (), &[&[0; 10]]).unwrap();
        assert_eq!(sender.post(1, Lane::Request, (), &[&[0; 10]]), Err(Full));
        sender.post(1, Lane::Forward, (), &[&[0; 16]]).unwrap();
        assert!(!sender.all_have_room(Lane::Forward, 1));
        assert!(sender.all_have_room(Lane::Request, 6));
    }

    #[test]
    fn a_shard_does_not_fall_asleep_over_mail() {
        let mut all = Mailboxes::<()>::connect(2, 16);
        let (receiver, mut sender) = (all.pop().unwrap(), all.pop().unwrap());
        assert!(receiver.fall_asleep(true));
        sender.post(1, Lane::Request, (), &[]).unwrap();
        assert!(!receiver.fall_asleep(true));
        assert!(receiver.fall_asleep(false), "requests that are not taken wake nobody");
    }
}
