//! A bridge carries mail between a shard and the shards of another process. A carrier thread moves the mail between the far
//! ends of all shards' bridges and a socket.
//!
//! Mail crosses a bridge in one lane only in each direction: requests from the process whose topics have moved, forwards back
//! to it. So the two directions never wait for each other.

use std::thread::Thread;

use super::{Full, Inlet, Lane, Outlet, queue};
use crate::driver::Waker;

/// A shard's end. The messages of both directions have the number of the far shard, their receiver or sender.
#[derive(Debug)]
pub struct Bridge<M> {
    /// The lane of the mail from here.
    posts: Lane,
    /// Number of shards on the other side.
    far_shards: usize,
    outlet: Outlet<(usize, M)>,
    inlet: Inlet<(usize, M)>,
    carrier: Thread,
    posted: bool,
}

/// The carrier's end.
#[derive(Debug)]
pub struct FarEnd<M>(FarInlet<M>, FarOutlet<M>);

/// Both directions of a far end, for two threads.
#[derive(Debug)]
pub struct FarInlet<M>(Inlet<(usize, M)>);

/// See [`FarInlet`].
#[derive(Debug)]
pub struct FarOutlet<M> {
    outlet: Outlet<(usize, M)>,
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
        let ((outlet, far_inlet), (far_outlet, inlet)) = (queue(bytes), queue(bytes));
        let bridge = Bridge { posts, far_shards, outlet, inlet, carrier, posted: false };
        (bridge, FarEnd(FarInlet(far_inlet), FarOutlet { outlet: far_outlet, waker }))
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
        self.posts != lane || self.outlet.has_room(self.far_shards, bytes * self.far_shards)
    }

    pub(super) fn post(&mut self, shard: usize, message: M, payload: &[&[u8]]) -> Result<(), Full> {
        self.outlet.post((shard, message), payload)?;
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

    /// Takes the next message, with its sender's number. `payload` then has its bytes.
    pub(super) fn take(&mut self, payload: &mut Vec<u8>) -> Option<(usize, M)> {
        self.inlet.take(payload)
    }
}

impl<M> FarEnd<M> {
    /// The two directions.
    pub fn split(self) -> (FarInlet<M>, FarOutlet<M>) {
        (self.0, self.1)
    }
}

impl<M> FarInlet<M> {
    /// Takes the next message of the shard, with the far shard that receives it. `payload` then has its bytes.
    pub fn take(&mut self, payload: &mut Vec<u8>) -> Option<(usize, M)> {
        self.0.take(payload)
    }

    /// Whether the shard has ended, or has left the bridge, and all its mail was taken.
    pub fn is_over(&self) -> bool {
        // In this order: mail before the end counts.
        self.0.envelopes.is_abandoned() && self.0.is_empty()
    }
}

impl<M> FarOutlet<M> {
    /// Whether the shard has ended, or has left the bridge.
    pub fn is_over(&self) -> bool {
        self.outlet.envelopes.is_abandoned()
    }

    /// Posts a message of the far shard `from` to the shard. `Ok(false)` if there is no room now.
    ///
    /// # Errors
    /// [`Full`] if the message is longer than the bridge can ever take, or the shard has left it.
    pub fn post(&mut self, from: usize, message: &M, payload: &[u8]) -> Result<bool, Full>
    where
        M: Clone,
    {
        if self.is_over() || payload.len() > self.outlet.bytes.buffer().capacity() {
            return Err(Full);
        }
        let posted = self.outlet.post((from, message.clone()), &[payload]).is_ok();
        self.waker.wake();
        Ok(posted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mailboxes;
    use super::*;
    use crate::driver::epoll::Epoll;
    use crate::driver::{Operations as _, Options};

    #[test]
    fn mail_crosses_with_its_bytes_and_the_far_shards_number() {
        let options = Options { connections: 1, ..Options::default() };
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
            assert_eq!((inlet.take(&mut payload), &payload[..]), (Some((4, round)), &b"abcdef"[..]));
            assert_eq!((inlet.take(&mut payload), &payload[..]), (Some((1, round)), &b"g"[..]));
            assert_eq!(outlet.post(3, &round, b"answer"), Ok(true));
            assert!(!mailboxes.fall_asleep(true), "there is mail");
            assert_eq!(mailboxes.take_far(Lane::Forward, &mut payload), Some((3, round)));
            assert_eq!(payload, b"answer");
        }
        assert!(mailboxes.take_far(Lane::Request, &mut Vec::new()).is_none(), "they come in the other lane");
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
