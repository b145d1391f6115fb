//! A shard's connections as the hub sees them.

use bytes::Bytes;

use super::encode::{frame_of, keyed_frames};
use crate::buffer::Pool;
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
        self.cx.share(token, Bytes::from(frame), 0, NO_TAG).is_ok()
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
        self.cx
            .share(token, Bytes::from(frames), u64::from(count), NO_TAG)
            .is_ok()
            .then_some((reached, count))
    }

    fn fell_behind(&mut self, token: Token, member: MemberId, reached: u64, reason: GapReason) {
        self.fallen.push(Fallen { token, member, reached, reason });
    }

    fn pool(&mut self) -> &mut Pool {
        self.cx.pool()
    }
}
