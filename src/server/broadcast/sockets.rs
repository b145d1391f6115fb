//! A shard's connections as the hub sees them.

use bytes::Bytes;

use super::encode::{frame_of, keyed_frames};
use crate::buffer::{Pool, allocated_bytes};
use crate::driver::{Driver, Token};
use crate::hub::{Gap, GapReason, Keyed, MemberId, Sink};
use crate::server::service::Service;
use crate::server::v1::notice;
use crate::shard::Context;

/// Goes with what is not of a log and cannot be offered again.
const NO_TAG: u64 = u64::MAX;

pub(super) struct Sockets<'a, 'b, D: Driver> {
    pub(super) cx: &'a mut Context<'b, D, Service>,
    /// Those that fell behind: to be told so, or closed.
    pub(super) fallen: &'a mut Vec<Fallen>,
    /// Those that missed who came and went: to be told who is there.
    pub(super) stale: &'a mut Vec<(Token, MemberId)>,
}

/// A subscriber that fell behind, which the hub has forgotten.
#[derive(Debug)]
pub(super) struct Fallen {
    pub(super) token: Token,
    pub(super) member: MemberId,
    /// It was sent everything up to this offset.
    pub(super) reached: u64,
    pub(super) reason: GapReason,
}

impl<D: Driver> Sockets<'_, '_, D> {
    /// Sends frames that only one connection gets. They count as long as the kernel has not taken them. False when they
    /// are not taken now, or there is no memory for them.
    fn share_own(&mut self, token: Token, frames: Vec<u8>, messages: u32) -> bool {
        let charged_bytes = allocated_bytes(frames.capacity());
        if !self.cx.pool().charge(charged_bytes) {
            return false;
        }
        let frames = Bytes::from(frames);
        let taken = self.cx.share(token, frames.clone(), u64::from(messages), NO_TAG).is_ok();
        self.cx.pool().discharge_shared(frames, charged_bytes);
        taken
    }
}

impl<D: Driver> Sink<Token> for Sockets<'_, '_, D> {
    #[inline]
    fn is_writable(&self, token: Token) -> bool {
        self.cx.is_writable(token)
    }

    #[inline]
    fn send(&mut self, token: Token, frames: Bytes, messages: u32, tag: u64) -> Result<(), Bytes> {
        self.cx.share(token, frames, u64::from(messages), tag)
    }

    fn tell_gap(&mut self, token: Token, topic: &str, gap: Gap) -> bool {
        let frame = frame_of(|words| notice::gap(words, topic, gap.from, gap.to, gap.reason));
        self.share_own(token, frame, 0)
    }

    fn tell_stale(&mut self, token: Token, member: MemberId, topic: &str) -> bool {
        let frame = frame_of(|words| notice::presence_stale(words, topic));
        let told = self.cx.share(token, Bytes::from(frame), 0, NO_TAG).is_ok();
        if told {
            self.stale.push((token, member));
        }
        told
    }

    fn send_latest(&mut self, token: Token, topic: &str, latest: &Keyed, after: u64) -> Option<(u64, u32)> {
        let (frames, reached, count) = keyed_frames(topic, latest, after);
        self.share_own(token, frames, count).then_some((reached, count))
    }

    fn fell_behind(&mut self, token: Token, member: MemberId, reached: u64, reason: GapReason) {
        self.fallen.push(Fallen { token, member, reached, reason });
    }

    fn pool(&mut self) -> &mut Pool {
        self.cx.pool()
    }
}
