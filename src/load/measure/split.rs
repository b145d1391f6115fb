//! The split of the response time by the kernel's times: waiting in the generator, the generator's kernel, server and
//! network, and from the kernel to the program.
//!
//! The parts of a message add up to its response time, and those of a quantile are the means of the messages with about
//! that response time ([`by_response`](super::by_response)).
//!
//! Never: a guess. A message without its stamps, or whose stamps contradict the program's times, is only counted.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::measure::by_response::ByResponse;
use crate::measure::distribution::Distribution;
use crate::measure::kernel_times::KernelTimes;
use crate::measure::merge::merge_fields;
use crate::measure::times::Times;
use echoring_proto::limits::{MILLISECOND, Nanos};

/// How far stamps may be out of order: they are converted from another clock. Beyond that they are of another message.
const CLOCK_ERROR: Nanos = MILLISECOND / 10;

/// The split messages of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SplitTally {
    by_response: ByResponse<4>,
    /// From leaving this host's kernel to arriving there, of every split message.
    pub server_and_network: Distribution,
    /// Messages that were to be stamped and cannot be split.
    pub unattributed: u64,
}

merge_fields!(SplitTally: by_response, server_and_network, unattributed);

/// The split of one quantile of the response time: the means of the stamped messages whose response time is within a few
/// per cent of it, scaled to add up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantileSplit {
    /// The quantile, which is the sum of its parts.
    pub total_ns: u64,
    /// From the intended time until the program sent the message.
    pub waiting_in_generator_ns: u64,
    /// From then until the message left the generator's kernel.
    pub generator_kernel_ns: u64,
    /// From then until the answer arrived at the generator's kernel.
    pub server_and_network_ns: u64,
    /// From then until the program read the answer.
    pub kernel_to_program_ns: u64,
    /// Number of stamped messages with about that response time.
    pub messages: u64,
}

impl QuantileSplit {
    /// Its parts in the order of time, with their names.
    pub fn parts(&self) -> [(&'static str, u64); 4] {
        [
            ("waiting in the generator", self.waiting_in_generator_ns),
            ("generator's kernel", self.generator_kernel_ns),
            ("server and network", self.server_and_network_ns),
            ("kernel to program", self.kernel_to_program_ns),
        ]
    }
}

impl SplitTally {
    /// Reserves memory, so that recording allocates nothing.
    pub(super) fn open(&mut self) {
        self.by_response.open();
    }

    /// The answer to a stamped message was read at `read`. Returns what server and network took, if that is known.
    #[inline]
    pub(super) fn record(&mut self, times: Times, kernel: KernelTimes, read: Nanos) -> Option<Nanos> {
        let Some(parts) = split(times, kernel, read) else {
            self.unattributed += 1;
            return None;
        };
        self.by_response.record(parts.iter().sum(), parts, 1);
        self.server_and_network.saturating_record(parts[2]);
        Some(parts[2])
    }

    /// The split of a quantile of these response times, which may be those of more messages than were stamped. `None` if
    /// no stamped message took about as long.
    pub fn of(&self, response: &Histogram<u64>, quantile: f64) -> Option<QuantileSplit> {
        let total_ns = response.value_at_quantile(quantile).min(response.max());
        let (messages, means) = self.by_response.means(total_ns)?;
        let sum = means.iter().sum::<u64>().max(1);
        let [waiting_in_generator_ns, generator_kernel_ns, _, kernel_to_program_ns] =
            means.map(|mean| (u128::from(mean) * u128::from(total_ns) / u128::from(sum)) as u64);
        let others = waiting_in_generator_ns + generator_kernel_ns + kernel_to_program_ns;
        Some(QuantileSplit {
            total_ns,
            waiting_in_generator_ns,
            generator_kernel_ns,
            server_and_network_ns: total_ns - others,
            kernel_to_program_ns,
            messages,
        })
    }
}

/// The parts of the response time of a message, in the order of time. `None` if they are unknown.
#[inline]
fn split(Times { intended, sent }: Times, kernel: KernelTimes, read: Nanos) -> Option<[Nanos; 4]> {
    let (left, arrived) = (kernel.left.or(kernel.accepted)?, kernel.arrived?);
    let in_order =
        sent <= left + CLOCK_ERROR && left <= arrived + CLOCK_ERROR && arrived <= read + CLOCK_ERROR;
    let left = left.clamp(sent, read.max(sent));
    let arrived = arrived.clamp(left, read.max(left));
    let after = |later: Nanos, earlier: Nanos| later.saturating_sub(earlier);
    in_order.then(|| [after(sent, intended), after(left, sent), after(arrived, left), after(read, arrived)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::distribution::histogram;
    use crate::measure::merge::Merge as _;

    const MS: Nanos = MILLISECOND;
    /// Due at 100 ms and sent 10 ms later.
    const TIMES: Times = Times { intended: 100 * MS, sent: 110 * MS };

    fn kernel(left: Nanos, arrived: Nanos) -> KernelTimes {
        KernelTimes { left: Some(left), arrived: Some(arrived), ..KernelTimes::default() }
    }

    #[test]
    fn the_parts_of_a_message_are_between_its_stamps() {
        let whole = kernel(112 * MS, 150 * MS);
        let accepted = KernelTimes { left: None, accepted: Some(111 * MS), ..whole };
        let early = kernel(110 * MS - CLOCK_ERROR, 150 * MS);
        let late = kernel(112 * MS, 153 * MS + CLOCK_ERROR);
        for (stamps, parts) in [
            (whole, Some([10, 2, 38, 3])),
            (accepted, Some([10, 1, 39, 3])),
            (early, Some([10, 0, 40, 3])),
            (late, Some([10, 2, 41, 0])),
            (KernelTimes { left: None, ..whole }, None),
            (KernelTimes { arrived: None, ..whole }, None),
            (KernelTimes::default(), None),
            // Of other messages.
            (kernel(109 * MS, 150 * MS), None),
            (kernel(112 * MS, 111 * MS), None),
            (kernel(112 * MS, 154 * MS), None),
        ] {
            let found = split(TIMES, stamps, 153 * MS);
            assert_eq!(found, parts.map(|parts: [u64; 4]| parts.map(|ms| ms * MS)), "{stamps:?}");
        }
    }

    /// A thread with its response times.
    struct Thread {
        tally: SplitTally,
        response: Histogram<u64>,
    }

    impl Thread {
        fn new() -> Thread {
            let mut tally = SplitTally::default();
            tally.open();
            Thread { tally, response: histogram() }
        }

        /// Messages with these parts in microseconds.
        fn add(&mut self, messages: u64, parts: [u64; 4]) {
            let [waiting, kernel_out, served, kernel_in] = parts.map(|us| 1_000 * us);
            let sent = TIMES.intended + waiting;
            let (left, arrived) = (sent + kernel_out, sent + kernel_out + served);
            for _ in 0..messages {
                let times = Times { sent, ..TIMES };
                self.tally.record(times, kernel(left, arrived), arrived + kernel_in);
                self.response.record(arrived + kernel_in - TIMES.intended).expect("within bounds");
            }
        }

        fn split(&self, quantile: f64) -> QuantileSplit {
            self.tally.of(&self.response, quantile).expect("messages")
        }
    }

    fn sum(split: &QuantileSplit) -> u64 {
        split.parts().into_iter().map(|(_, ns)| ns).sum()
    }

    #[test]
    fn a_planted_delay_is_the_part_where_it_was_planted() {
        const CALM: [u64; 4] = [30, 20, 900, 50];
        for planted in 0..4 {
            let mut thread = Thread::new();
            thread.add(9_800, CALM);
            let mut delayed = CALM;
            delayed[planted] += 400_000;
            thread.add(200, delayed);
            for (quantile, expected, messages) in [(0.5, CALM, 9_800), (0.99, delayed, 200)] {
                let found = thread.split(quantile);
                assert_eq!((sum(&found), found.messages), (found.total_ns, messages));
                for ((name, ns), us) in found.parts().into_iter().zip(expected) {
                    // Quantiles are exact to a thousandth.
                    assert!(ns.abs_diff(1_000 * us) <= us + 10, "{planted}: {name}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn the_parts_add_up_to_a_quantile_of_messages_that_were_not_all_stamped() {
        let mut thread = Thread::new();
        for message in 0..1_000 {
            thread.add(1, [message % 7, message % 11, 1_000 + message, message % 13]);
        }
        // Within a bucket, those that were not stamped took longer.
        thread.response.record_n(1_630_000, 1_000).expect("within bounds");
        for quantile in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let found = thread.split(quantile);
            assert_eq!(sum(&found), found.total_ns, "{quantile}");
        }
        thread.response.record_n(9_000_000_000, 1_000).expect("within bounds");
        assert_eq!(thread.tally.of(&thread.response, 0.99), None, "no stamped message took as long");
        assert_eq!(SplitTally::default().of(&thread.response, 0.5), None);
    }

    #[test]
    fn merged_threads_equal_one_thread() {
        let (mut one, mut left, mut right) = (Thread::new(), Thread::new(), Thread::new());
        for message in 0..900 {
            let parts = [message, 5, 1_000, 7];
            one.add(1, parts);
            if message % 3 == 0 { &mut left } else { &mut right }.add(1, parts);
        }
        for thread in [&mut one, &mut left] {
            assert_eq!(thread.tally.record(TIMES, KernelTimes::default(), 153 * MS), None);
        }
        let mut merged = SplitTally::default();
        merged.merge(&left.tally);
        merged.merge(&right.tally);
        assert_eq!(merged.unattributed, 1);
        assert_eq!(merged.server_and_network, one.tally.server_and_network);
        assert_eq!(merged.of(&one.response, 0.5), Some(one.split(0.5)));
        // As agents send it.
        let text = serde_json::to_string(&merged).expect("only names as keys");
        let read: SplitTally = serde_json::from_str(&text).expect("just written");
        assert_eq!(read.of(&one.response, 0.5), Some(one.split(0.5)));
        assert_eq!((read.server_and_network, read.unattributed), (merged.server_and_network, 1));
    }
}
