//! A bridge carries mail between a shard and the shards of another process. A carrier thread moves the mail between the far
//! ends of all shards' bridges and a socket.
//!
//! Mail crosses a bridge in one lane only in each direction: requests from the process whose topics have moved, forwards back
//! to it. So the two directions never wait for each other.

use std::thread::Thread;

use rtrb::{Consumer, Producer, RingBuffer};

use super::{Full, Lane, MESSAGES_MAX};
use crate::driver::Waker;

#[derive(Debug)]
struct Bridged<M> {
    /// The far shard, as receiver or sender.
    shard: usize,
    message: M,
    bytes: usize,
}

/// A shard's end.
#[derive(Debug)]
pub struct Bridge<M> {
    /// The lane of the mail from here.
    posts: Lane,
    /// Number of shards on the other side.
    far_shards: usize,
    out: Producer<Bridged<M>>,
    out_bytes: Producer<u8>,
    inlet: Consumer<Bridged<M>>,
    inlet_bytes: Consumer<u8>,
    carrier: Thread,
    posted: bool,
}

/// The carrier's end.
#[derive(Debug)]
pub struct FarEnd<M> {
    inlet: Consumer<Bridged<M>>,
    inlet_bytes: Consumer<u8>,
    out: Producer<Bridged<M>>,
    out_bytes: Producer<u8>,
    waker: Waker,
}

/// Both directions of a far end, for two threads.
#[derive(Debug)]
pub struct FarInlet<M> {
    inlet: Consumer<Bridged<M>>,
    inlet_bytes: Consumer<u8>,
}

/// See [`FarInlet`].
#[derive(Debug)]
pub struct FarOutlet<M> {
    out: Producer<Bridged<M>>,
    out_bytes: Producer<u8>,
    waker: Waker,
}

impl<M> Bridge<M> {
    /// A bridge to `far_shards` shards, with room for `bytes` in each direction. The shard posts in the lane `posts`; `carrier`
    /// is unparked when it has, and `waker` wakes the shard.
    pub fn new(
        posts: Lane,
        far_shards: usize,
        bytes: usize,
        carrier: Thread,
        waker: Waker,
    ) -> (Bridge<M>, FarEnd<M>) {
        let (out, far_inlet) = RingBuffer::new(MESSAGES_MAX);
        let (out_bytes, far_inlet_bytes) = RingBuffer::new(bytes);
        let (far_out, inlet) = RingBuffer::new(MESSAGES_MAX);
        let (far_out_bytes, inlet_bytes) = RingBuffer::new(bytes);
        let bridge = Bridge { posts, far_shards, out, out_bytes, inlet, inlet_bytes, carrier, posted: false };
        let far = FarEnd {
            inlet: far_inlet,
            inlet_bytes: far_inlet_bytes,
            out: far_out,
            out_bytes: far_out_bytes,
            waker,
        };
        (bridge, far)
    }

    pub(super) fn far_shards(&self) -> usize {
        self.far_shards
    }

    /// Whether mail that arrives is in this lane.
    pub(super) fn receives(&self, lane: Lane) -> bool {
        self.posts != lane
    }

    /// Whether every far shard can be posted a message of `bytes` in this lane.
    pub(super) fn has_room(&self, lane: Lane, bytes: usize) -> bool {
        self.posts != lane
            || (self.out.slots() >= self.far_shards && self.out_bytes.slots() >= bytes * self.far_shards)
    }

    pub(super) fn post(&mut self, shard: usize, message: M, payload: &[&[u8]]) -> Result<(), Full> {
        push(&mut self.out, &mut self.out_bytes, shard, message, payload)?;
        self.posted = true;
        Ok(())
    }

    /// Wakes the carrier if there is mail for it.
    pub(super) fn wake(&mut self) {
        if std::mem::take(&mut self.posted) {
            self.carrier.unpark();
        }
    }

    pub(super) fn has_mail(&self) -> bool {
        !self.inlet.is_empty()
    }

    /// Takes the next message, its sender's number, and the length of its bytes.
    pub(super) fn take(&mut self) -> Option<(usize, M, usize)> {
        self.inlet.pop().ok().map(|Bridged { shard, message, bytes }| (shard, message, bytes))
    }

    pub(super) fn take_bytes(&mut self, bytes: usize, payload: &mut Vec<u8>) {
        pull(&mut self.inlet_bytes, bytes, payload);
    }
}

impl<M> FarEnd<M> {
    /// The two directions.
    pub fn split(self) -> (FarInlet<M>, FarOutlet<M>) {
        let FarEnd { inlet, inlet_bytes, out, out_bytes, waker } = self;
        (FarInlet { inlet, inlet_bytes }, FarOutlet { out, out_bytes, waker })
    }
}

impl<M> FarInlet<M> {
    /// Takes the next message of the shard, with the far shard that receives it. Its bytes are appended to
    /// `payload`.
    pub fn take(&mut self, payload: &mut Vec<u8>) -> Option<(usize, M)> {
        let Bridged { shard, message, bytes } = self.inlet.pop().ok()?;
        pull(&mut self.inlet_bytes, bytes, payload);
        Some((shard, message))
    }

    /// Whether the shard has ended, or has left the bridge, and all its mail was taken.
    pub fn is_over(&self) -> bool {
        // In this order: mail before the end counts.
        self.inlet.is_abandoned() && self.inlet.is_empty()
    }
}

impl<M> FarOutlet<M> {
    /// Whether the shard has ended, or has left the bridge.
    pub fn is_over(&self) -> bool {
        self.out.is_abandoned()
    }

    /// Posts a message of the far shard `from` to the shard. `Ok(false)` if there is no room now.
    ///
    /// # Errors
    /// [`Full`] if the message is longer than the bridge can ever take, or the shard has left it.
    pub fn post(&mut self, from: usize, message: &M, payload: &[u8]) -> Result<bool, Full>
    where
        M: Clone,
    {
        if self.out.is_abandoned() || payload.len() > self.out_bytes.buffer().capacity() {
            return Err(Full);
        }
        let posted = push(&mut self.out, &mut self.out_bytes, from, message.clone(), &[payload]).is_ok();
        self.waker.wake();
        Ok(posted)
    }
}

fn push<M>(
    out: &mut Producer<Bridged<M>>,
    out_bytes: &mut Producer<u8>,
    shard: usize,
    message: M,
    payload: &[&[u8]],
) -> Result<(), Full> {
    let bytes = payload.iter().map(|part| part.len()).sum();
    if out.is_full() || out_bytes.slots() < bytes {
        return Err(Full);
    }
    for part in payload {
        let copied = out_bytes.push_entire_slice(part);
        debug_assert!(copied.is_ok(), "the room of the bytes was checked");
    }
    let pushed = out.push(Bridged { shard, message, bytes });
    debug_assert!(pushed.is_ok(), "the room of the message was checked");
    Ok(())
}

fn pull(from: &mut Consumer<u8>, bytes: usize, payload: &mut Vec<u8>) {
    if let Ok(chunk) = from.read_chunk(bytes) {
        let (first, second) = chunk.as_slices();
        payload.extend_from_slice(first);
        payload.extend_from_slice(second);
        chunk.commit_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mailboxes;
    use super::*;
    use crate::driver::epoll::Epoll;
    use crate::driver::{Driver as _, Features, Options};

    #[test]
    fn mail_crosses_with_its_bytes_and_the_far_shards_number() {
        let options =
            Options { connections: 1, without: Features::NONE, receive_bytes: 0, finds_addresses: false };
        let waker = Epoll::new(&options).expect("epoll").waker();
        let (bridge, far) = Bridge::<u32>::new(Lane::Request, 2, 16, std::thread::current(), waker);
        let (mut inlet, mut outlet) = far.split();
        let mut mailboxes = Mailboxes::<u32>::connect(3, 16).remove(0);
        assert_eq!(mailboxes.post_far(3, 1, &[b"x"]), Err(Full), "there is no bridge");
        mailboxes.attach(bridge);
        for round in 0..20 {
            mailboxes.post(4, Lane::Request, round, &[b"abc", b"def"]).expect("room");
            // An owner that has moved keeps its number.
            mailboxes.post_far(1, round, &[b"g"]).expect("room");
            let mut payload = Vec::new();
            assert_eq!(inlet.take(&mut payload), Some((4, round)));
            assert_eq!(inlet.take(&mut payload), Some((1, round)));
            assert_eq!(payload, b"abcdefg");
            assert_eq!(outlet.post(3, &round, b"answer"), Ok(true));
            assert!(!mailboxes.fall_asleep(true), "there is mail");
            payload.clear();
            let (from, message, bytes) = mailboxes.take_far(Lane::Forward).expect("mail");
            mailboxes.take_far_bytes(bytes, &mut payload);
            assert_eq!((from, message, &payload[..]), (3, round, &b"answer"[..]));
        }
        assert!(mailboxes.take_far(Lane::Request).is_none(), "they come in the other lane");
        assert_eq!(outlet.post(3, &0, &[0; 12]), Ok(true));
        assert_eq!(outlet.post(3, &0, &[0; 12]), Ok(false), "full");
        assert_eq!(outlet.post(3, &0, &[0; 17]), Err(Full), "too long");
        mailboxes.post(4, Lane::Request, 1, &[&[0; 10]]).expect("room");
        assert_eq!(mailboxes.post(4, Lane::Request, 1, &[&[0; 10]]), Err(Full));
        assert!(!inlet.is_over());
        drop(mailboxes);
        assert!(!inlet.is_over(), "there is mail");
        assert!(inlet.take(&mut Vec::new()).is_some());
        assert!(inlet.is_over());
        assert_eq!(outlet.post(3, &0, b""), Err(Full), "nobody is there");
    }
}
