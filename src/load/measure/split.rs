//! The split of the response time by the kernel's times: waiting in the generator, the generator's kernel, server and
//! network, and from the kernel to the program.
//!
//! The parts of a message add up to its response time, and those of a quantile are the means of the messages with about
//! that response time ([`by_response`](super::by_response)).
//!
//! Messages that wait together are answered together, and one receive has one time. So a message counts with a bound where a
//! stamp is missing, or contradicts the program's times: what is unknown is the time of server and network. Left out, the
//! slowest messages would be missing in the quantiles.
//!
//! Never: a part that is too small for server and network, or a message that is left out.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::measure::by_response::ByResponse;
use crate::measure::distribution::Distribution;
use crate::measure::kernel_times::KernelTimes;
use crate::measure::merge::Merge;
use crate::measure::times::Times;
use crate::plan::declared::part;
use echoring_proto::limits::{MILLISECOND, Nanos};

/// How far stamps may be out of order: they are converted from another clock. Beyond that they are of another message.
const CLOCK_ERROR: Nanos = MILLISECOND / 10;

/// The split messages of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SplitTally {
    by_response: ByResponse<4>,
    /// From leaving this host's kernel to arriving there, of every sampled message.
    pub server_and_network: Distribution,
    /// Of those, messages with an upper bound of that time.
    pub bounded: u64,
    /// One in so many messages is sampled; 0 for none.
    #[serde(skip)]
    pub(crate) every: u32,
    /// Lost messages since the latest one that was sampled.
    #[serde(skip)]
    lost: u64,
}

impl Merge for SplitTally {
    fn merge(&mut self, other: &SplitTally) {
        self.by_response.merge(&other.by_response);
        self.server_and_network.merge(&other.server_and_network);
        self.bounded.merge(&other.bounded);
    }
}

part! {
    /// The split of one quantile of the response time: the means of the sampled messages whose response time is within a few
    /// per cent of it, scaled to add up to it.
    #[derive(Copy, Eq)]
    QuantileSplit {
        /// The quantile, which is the sum of its parts.
        total_ns: u64,
        /// From the intended time until the program sent the message.
        waiting_in_generator_ns: u64,
        /// From then until the message left the generator's kernel.
        generator_kernel_ns: u64,
        /// From then until the answer arrived at the generator's kernel.
        server_and_network_ns: u64,
        /// From then until the program read the answer.
        kernel_to_program_ns: u64,
        /// Number of sampled messages with about that response time.
        messages: u64,
    }
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

    /// The answer to a sampled message was read at `read`. Returns what server and network took at most.
    #[inline]
    pub(super) fn record(&mut self, times: Times, kernel: KernelTimes, read: Nanos) -> Nanos {
        let (parts, is_known) = split(times, kernel, read);
        self.bounded += u64::from(!is_known);
        self.by_response.record(parts.iter().sum(), parts, 1);
        self.server_and_network.saturating_record(parts[2]);
        parts[2]
    }

    /// Some messages did not arrive until `until`: as many of them count as are sampled.
    pub(super) fn missing(&mut self, until: Nanos, Times { intended, sent }: Times, copies: u64) {
        let every = u64::from(self.every);
        if every == 0 {
            return;
        }
        self.lost += copies;
        let copies = self.lost / every;
        self.lost %= every;
        let (waiting, took) = (sent.saturating_sub(intended), until.saturating_sub(sent));
        self.bounded += copies;
        self.by_response.record(waiting + took, [waiting, 0, took, 0], copies);
        self.server_and_network.saturating_record_n(took, copies);
    }

    /// The split of a quantile of these response times, which may be those of more messages than were sampled. `None` if
    /// no sampled message took about as long.
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

/// The parts of the response time of a message, in the order of time, and whether they are known. If not, that of server and
/// network is an upper bound: from when the program sent the message at the earliest, until it read the answer at the latest.
#[inline]
fn split(Times { intended, sent }: Times, kernel: KernelTimes, read: Nanos) -> ([Nanos; 4], bool) {
    let is_between = |from: Nanos, at: Nanos| from <= at + CLOCK_ERROR && at <= read + CLOCK_ERROR;
    let left = kernel.left.or(kernel.accepted).filter(|&left| is_between(sent, left));
    let arrived = kernel.arrived.filter(|&arrived| is_between(left.unwrap_or(sent), arrived));
    let is_known = left.is_some() && arrived.is_some() && kernel.is_last;
    let read = read.max(sent);
    let left = left.map_or(sent, |left| left.clamp(sent, read));
    let arrived = arrived.map_or(read, |arrived| arrived.clamp(left, read));
    ([sent.saturating_sub(intended), left - sent, arrived - left, read - arrived], is_known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::distribution::histogram;

    const MS: Nanos = MILLISECOND;
    /// Due at 100 ms and sent 10 ms later.
    const TIMES: Times = Times { intended: 100 * MS, sent: 110 * MS };

    fn kernel(left: Nanos, arrived: Nanos) -> KernelTimes {
        KernelTimes { left: Some(left), arrived: Some(arrived), is_last: true, ..KernelTimes::default() }
    }

    #[test]
    fn the_parts_of_a_message_are_between_its_stamps() {
        let whole = kernel(112 * MS, 150 * MS);
        let accepted = KernelTimes { left: None, accepted: Some(111 * MS), ..whole };
        let early = kernel(110 * MS - CLOCK_ERROR, 150 * MS);
        let late = kernel(112 * MS, 153 * MS + CLOCK_ERROR);
        for (stamps, parts, is_known) in [
            (whole, [10, 2, 38, 3], true),
            (accepted, [10, 1, 39, 3], true),
            (early, [10, 0, 40, 3], true),
            (late, [10, 2, 41, 0], true),
            // It arrived with others, at that time at the latest.
            (KernelTimes { is_last: false, ..whole }, [10, 2, 38, 3], false),
            (KernelTimes { left: None, ..whole }, [10, 0, 40, 3], false),
            (KernelTimes { arrived: None, ..whole }, [10, 2, 41, 0], false),
            (KernelTimes::default(), [10, 0, 43, 0], false),
            // Of other messages.
            (kernel(109 * MS, 150 * MS), [10, 0, 40, 3], false),
            (kernel(112 * MS, 111 * MS), [10, 2, 41, 0], false),
            (kernel(112 * MS, 154 * MS), [10, 2, 41, 0], false),
        ] {
            let found = split(TIMES, stamps, 153 * MS);
            assert_eq!(found, (parts.map(|ms: u64| ms * MS), is_known), "{stamps:?}");
        }
    }

    #[test]
    fn messages_that_waited_together_and_lost_ones_are_in_the_quantile() {
        let mut tally = SplitTally { every: 1, ..SplitTally::default() };
        tally.open();
        // In a standstill of 150 ms every millisecond a message was due. All are answered in one receive.
        for message in 0..150 {
            let sent = (100 + message) * MS;
            let kernel = KernelTimes { is_last: message == 149, ..kernel(sent, 250 * MS) };
            tally.record(Times { intended: sent, sent }, kernel, 250 * MS);
        }
        for _ in 0..2_850 {
            tally.record(Times { intended: MS, sent: MS }, kernel(MS, 2 * MS), 2 * MS);
        }
        let p99 = tally.server_and_network.value_at_quantile(0.99);
        assert!((115 * MS..125 * MS).contains(&p99), "{p99}");
        assert_eq!((tally.bounded, tally.server_and_network.len()), (149, 3_000));
        tally.missing(900 * MS, Times { intended: 100 * MS, sent: 100 * MS }, 300);
        assert!(tally.server_and_network.value_at_quantile(0.95) >= 799 * MS);
    }

    #[test]
    fn as_many_lost_messages_count_as_are_sampled() {
        for (every, counted) in [(0, 0), (1, 1_000), (100, 10)] {
            let mut tally = SplitTally { every, ..SplitTally::default() };
            tally.open();
            (0..1_000).for_each(|_| tally.missing(9 * MS, Times { intended: MS, sent: MS }, 1));
            assert_eq!((tally.bounded, tally.server_and_network.len()), (counted, counted), "1/{every}");
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
        assert_eq!(thread.tally.of(&thread.response, 0.99), None, "no sampled message took as long");
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
            thread.tally.record(TIMES, KernelTimes::default(), 153 * MS);
        }
        let mut merged = SplitTally::default();
        merged.merge(&left.tally);
        merged.merge(&right.tally);
        assert_eq!(merged.bounded, 1);
        assert_eq!(merged.server_and_network, one.tally.server_and_network);
        assert_eq!(merged.of(&one.response, 0.5), Some(one.split(0.5)));
        // As agents send it.
        let text = serde_json::to_string(&merged).expect("only names as keys");
        let read: SplitTally = serde_json::from_str(&text).expect("just written");
        assert_eq!(read.of(&one.response, 0.5), Some(one.split(0.5)));
        assert_eq!((read.server_and_network, read.bounded), (merged.server_and_network, 1));
    }
}
