//! Which requests of a session made no sense: so many in a row end it.
//!
//! A row is one of requests, in the order in which they came. An answer may come from another shard, when further requests
//! were answered long ago, and some requests are answered only when they are refused: each is taken to make sense until
//! it is known that it did not.

use crate::limits::COMPLAINTS_MAX;

/// Requests of which it is known how each stands beside the others.
const KNOWN: u32 = u64::BITS;

/// The latest requests of a session.
#[derive(Debug, Default)]
pub(super) struct Requests {
    latest: u32,
    /// Of the [`KNOWN`] latest those that made no sense; the lowest bit is the latest request.
    senseless: u64,
    /// The same of older ones, whose answers come in their order where one shard gives them: the last, and how many in a row.
    late: u32,
    late_row: u8,
}

impl Requests {
    /// A request came. Returns its number.
    pub(super) fn begin(&mut self) -> u32 {
        self.latest = self.latest.wrapping_add(1);
        self.senseless <<= 1;
        self.latest
    }

    /// The number of the latest request.
    pub(super) fn latest(&self) -> u32 {
        self.latest
    }

    /// A request made no sense. Returns whether it is one of too many in a row.
    pub(super) fn is_too_much(&mut self, request: u32) -> bool {
        let back = self.latest.wrapping_sub(request);
        if back < KNOWN {
            self.senseless |= 1 << back;
            // What is left has as many behind it that made no sense.
            return (0..COMPLAINTS_MAX).fold(self.senseless, |row, _| row & (row >> 1)) != 0;
        }
        let goes_on = request == self.late.wrapping_add(1);
        self.late_row = if goes_on { self.late_row.saturating_add(1) } else { 1 };
        self.late = request;
        self.late_row > COMPLAINTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = COMPLAINTS_MAX as usize;

    #[test]
    fn one_more_in_a_row_than_may_be_is_too_much_and_a_request_between_them_ends_the_row() {
        let mut requests = Requests::default();
        for _ in 0..3 {
            for _ in 0..MAX {
                let request = requests.begin();
                assert!(!requests.is_too_much(request));
            }
            requests.begin();
        }
        for number in 0..=MAX {
            let request = requests.begin();
            assert_eq!(requests.is_too_much(request), number == MAX);
        }
    }

    #[test]
    fn answers_that_come_long_after_their_requests_count_where_these_stood() {
        for pipelined in [1, MAX + 1, 60, 70, 100_000] {
            let mut requests = Requests::default();
            let asked: Vec<u32> = (0..pipelined).map(|_| requests.begin()).collect();
            let ended = asked.iter().position(|&request| requests.is_too_much(request));
            if pipelined <= MAX {
                assert_eq!(ended, None);
            } else {
                // Those before the latest 64 make a row of their own.
                let late = pipelined.saturating_sub(64).min(MAX + 1);
                let first = if late == MAX + 1 { 0 } else { late };
                assert_eq!(ended, Some(first + MAX), "{pipelined} at once");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        /// Against all that is known, in any order of answers: never too early, and in time where answers are not late.
        #[test]
        fn a_session_ends_for_a_row_that_there_is(
            senseless in prop::collection::vec(prop::bool::weighted(0.95), 1..200),
            lateness in 0_usize..100,
            jitter in prop::collection::vec(0_usize..30, 200),
        ) {
            let mut requests = Requests::default();
            let mut known = vec![false; senseless.len()];
            let last = senseless.len() + lateness + 30;
            for turn in 0..last {
                if turn < senseless.len() {
                    prop_assert_eq!(requests.begin() as usize, turn + 1);
                }
                let answered = (0..senseless.len())
                    .filter(|&at| senseless[at] && at + lateness + jitter[at] == turn);
                for at in answered {
                    known[at] = true;
                    let too_much = requests.is_too_much(at as u32 + 1);
                    let row = known.split(|is_known| !is_known).map(<[bool]>::len).max().unwrap_or(0);
                    prop_assert!(!too_much || row > MAX, "a row of {} only", row);
                    if too_much {
                        return Ok(());
                    }
                    prop_assert!(lateness + 30 > 64 - MAX || row <= MAX, "a row of {}", row);
                }
            }
        }
    }
}
