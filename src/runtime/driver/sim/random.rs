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

    /// A frequency from zero to `most`; more often than others, one of the two.
    fn frequency(&mut self, most: u32) -> u32 {
        if most == 0 {
            return 0;
        }
        match self.below(3) {
            0 => 0,
            1 => self.below(most as usize + 1) as u32,
            _ => most,
        }
    }

    /// Shuffles `items`.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Defines [`Faults`]: a fault and its frequency in [`Faults::HARSH`] each.
macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident = $harsh:literal,)*) => {
        /// How often a simulated kernel misbehaves, in cases per 1,000. Real kernels do all of this.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Faults {
            $($(#[$doc])* pub $fault: u32,)*
        }

        impl Faults {
            /// No faults.
            pub const NONE: Faults = Faults { $($fault: 0,)* };

            /// Every fault is frequent, and none loses a connection.
            pub const HARSH: Faults = Faults { $($fault: $harsh,)* };

            /// Each fault has its own frequency between zero and [`Faults::HARSH`], so that seeds differ in character and
            /// each fault also occurs alone.
            pub fn random(random: &mut Random) -> Faults {
                Faults { $($fault: random.frequency($harsh),)* }
            }
        }
    };
}

faults! {
    /// A multishot receive ends early; re-arming costs a tick.
    receive_ends = 100,
    /// No receive buffer: the connection is parked for some ticks.
    no_buffers = 50,
    /// Bytes that arrive after a pause are still reported, up to the receive credit.
    late_data = 500,
    /// A receive brings less than there is, often a few bytes only.
    short_receive = 400,
    /// A send is accepted in part.
    short_send = 150,
    /// A send is refused with EAGAIN although there is room.
    send_again = 50,
    /// A staged send is consumed a tick or two later than it was staged.
    late_submit = 150,
    /// The rest of a short send makes no progress in this tick.
    stalled_rest = 300,
    /// A wake-up is noticed a tick later.
    late_wake = 300,
    /// A closed connection's slot is freed a tick later.
    late_close = 300,
    /// Accepting fails for lack of descriptors, and is retried some ticks later.
    accept_fails = 50,
    /// A connection is reset from outside, in one tick.
    reset = 0,
    /// A further piece of a send is refused, as if the batch had no room. Not part of [`Faults::HARSH`]: senders must
    /// expect it, but callers that count pieces cannot.
    refused_piece = 0,
    /// Events of different connections are reported in another order.
    reorder = 800,
    /// A connection that is to be given up stays.
    stays = 100,
    /// A pause has no effect, as if its cancellation took for ever.
    endless_receive = 0,
}
