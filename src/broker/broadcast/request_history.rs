//! Counts the protocol errors of a session: too many in a row end it.
//!
//! "In a row" refers to the order in which requests arrived. Answers may come from other shards in another order, and
//! some requests are answered only if they are refused. Each request therefore counts as valid until it is known to be
//! an error.

use crate::limits::PROTOCOL_ERRORS_MAX;

/// Number of latest requests whose errors are recorded individually.
const KNOWN: u32 = u64::BITS;

/// The latest requests of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestHistory {
    pub(super) latest: u32,
    /// The errors among the [`KNOWN`] latest requests; the lowest bit is the latest request.
    pub(super) errors: u64,
    /// The latest error among older requests. One shard answers in order, so a row of them is counted as it comes.
    pub(super) late: u32,
    pub(super) late_row: u8,
}

impl RequestHistory {
    /// Records a request. Returns its number.
    pub(super) fn begin(&mut self) -> u32 {
        self.latest = self.latest.wrapping_add(1);
        self.errors <<= 1;
        self.latest
    }

    /// The number of the latest request.
    pub(super) fn latest(&self) -> u32 {
        self.latest
    }

    /// Records that a request was an error. Returns whether there are too many errors in a row.
    pub(super) fn is_too_much(&mut self, request: u32) -> bool {
        let back = self.latest.wrapping_sub(request);
        if back < KNOWN {
            self.errors |= 1 << back;
            // After the fold, a set bit has PROTOCOL_ERRORS_MAX errors behind it.
            return (0..PROTOCOL_ERRORS_MAX).fold(self.errors, |row, _| row & (row >> 1)) != 0;
        }
        let continues = request == self.late.wrapping_add(1);
        self.late_row = if continues { self.late_row.saturating_add(1) } else { 1 };
        self.late = request;
        self.late_row > PROTOCOL_ERRORS_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = PROTOCOL_ERRORS_MAX as usize;

    #[test]
    fn one_more_in_a_row_than_may_be_is_too_much_and_a_request_between_them_ends_the_row() {
        let mut requests = RequestHistory::default();
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
            let mut requests = RequestHistory::default();
            let asked: Vec<u32> = (0..pipelined).map(|_| requests.begin()).collect();
            let ended = asked.iter().position(|&request| requests.is_too_much(request));
            if pipelined <= MAX {
                assert_eq!(ended, None);
            } else {
                // Requests before the latest 64 form a row of their own.
                let late = pipelined.saturating_sub(64).min(MAX + 1);
                let first = if late == MAX + 1 { 0 } else { late };
                assert_eq!(ended, Some(first + MAX), "{pipelined} at once");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        /// Compares with a full record, for any order of answers: never too early, and in time unless answers are late.
        #[test]
        fn a_session_ends_for_a_row_that_there_is(
            senseless in prop::collection::vec(prop::bool::weighted(0.95), 1..200),
            lateness in 0_usize..100,
            jitter in prop::collection::vec(0_usize..30, 200),
        ) {
            let mut requests = RequestHistory::default();
            let mut known = vec![false; senseless.len()];
            let last = senseless.len() + lateness + 30;
            for tick in 0..last {
                if tick < senseless.len() {
                    prop_assert_eq!(requests.begin() as usize, tick + 1);
                }
                let answered = (0..senseless.len())
                    .filter(|&at| senseless[at] && at + lateness + jitter[at] == tick);
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
