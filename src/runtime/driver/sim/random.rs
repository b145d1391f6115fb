//! The random choices of a simulation. A seed decides all of them.

use echoring_proto::random::SplitMix64;

/// The random choices of one run.
#[derive(Clone, Debug)]
pub struct Random(SplitMix64);

impl Random {
    /// The choices of `seed`.
    pub fn new(seed: u64) -> Random {
        Random(SplitMix64::new(seed))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next_u64() % end as u64) as usize }
    }

    /// A number from `low` to `high`, inclusive.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `per_mille` of 1,000 cases.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.next_u64() % 1000 < u64::from(per_mille)
    }

    /// Shuffles `items`.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// How often a simulated kernel misbehaves, in cases per 1,000. Real kernels do all of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// A multishot receive ends early; re-arming costs a tick.
    pub receive_ends: u32,
    /// No receive buffer: the connection is parked for some ticks.
    pub no_buffers: u32,
    /// Bytes that arrive after a pause are still reported, up to the receive credit.
    pub late_data: u32,
    /// A receive brings less than there is, often a few bytes only.
    pub short_receive: u32,
    /// A send is accepted in part.
    pub short_send: u32,
    /// A send is refused with EAGAIN although there is room.
    pub send_again: u32,
    /// A staged send is consumed a tick or two later than it was staged.
    pub late_submit: u32,
    /// The rest of a short send makes no progress in this tick.
    pub stalled_rest: u32,
    /// A wake-up is noticed a tick later.
    pub late_wake: u32,
    /// A closed connection's slot is freed a tick later.
    pub late_close: u32,
    /// Accepting fails for lack of descriptors, and is retried some ticks later.
    pub accept_fails: u32,
    /// A connection is reset from outside, in one tick.
    pub reset: u32,
    /// A further piece of a send is refused, as if the batch had no room. Not part of [`Faults::HARSH`]: senders must
    /// expect it, but callers that count pieces cannot.
    pub refused_piece: u32,
    /// Events of different connections are reported in another order.
    pub reorder: u32,
}

impl Faults {
    /// No faults.
    pub const NONE: Faults = Faults {
        receive_ends: 0,
        no_buffers: 0,
        late_data: 0,
        short_receive: 0,
        short_send: 0,
        send_again: 0,
        late_submit: 0,
        stalled_rest: 0,
        late_wake: 0,
        late_close: 0,
        accept_fails: 0,
        reset: 0,
        refused_piece: 0,
        reorder: 0,
    };

    /// Every fault is frequent, and none loses a connection.
    pub const HARSH: Faults = Faults {
        receive_ends: 100,
        no_buffers: 50,
        late_data: 500,
        short_receive: 400,
        short_send: 150,
        send_again: 50,
        late_submit: 150,
        stalled_rest: 300,
        late_wake: 300,
        late_close: 300,
        accept_fails: 50,
        reset: 0,
        refused_piece: 0,
        reorder: 800,
    };

    /// Each fault has its own frequency between zero and [`Faults::HARSH`], so that seeds differ in character and each
    /// fault also occurs alone.
    pub fn random(random: &mut Random) -> Faults {
        let mut pick = |harsh: u32| match random.below(3) {
            0 => 0,
            1 => random.below(harsh as usize + 1) as u32,
            _ => harsh,
        };
        let harsh = Faults::HARSH;
        Faults {
            receive_ends: pick(harsh.receive_ends),
            no_buffers: pick(harsh.no_buffers),
            late_data: pick(harsh.late_data),
            short_receive: pick(harsh.short_receive),
            short_send: pick(harsh.short_send),
            send_again: pick(harsh.send_again),
            late_submit: pick(harsh.late_submit),
            stalled_rest: pick(harsh.stalled_rest),
            late_wake: pick(harsh.late_wake),
            late_close: pick(harsh.late_close),
            accept_fails: pick(harsh.accept_fails),
            reset: 0,
            refused_piece: 0,
            reorder: pick(harsh.reorder),
        }
    }
}
