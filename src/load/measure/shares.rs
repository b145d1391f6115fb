//! The shares of the response time: how much of a quantile is the generator's, the host's, the server's.
//!
//! The shares of a quantile are those of the messages that took about as long ([`by_response`](super::by_response)). Of a
//! message, the generator's and the host's share are upper bounds ([`own_delays`](super::own_delays)), and the rest is
//! what the server and the network took at least.
//!
//! Never: an allocation per message.

use std::sync::Arc;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::measure::by_response::ByResponse;
use crate::measure::merge::Merge;
use crate::measure::own_delays::{DelayLog, Delays};
use crate::measure::times::Times;
use crate::plan::declared::part;
use echoring_proto::limits::Nanos;

/// The delays of the messages of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShareTally {
    /// The generator's and the host's delays.
    delays: ByResponse<2>,
    #[serde(skip)]
    recorder: Option<Recorder>,
}

part! {
    /// The shares of one quantile: the means of the messages whose response time is within a few per cent of it.
    #[derive(Copy, Eq)]
    QuantileShares {
        /// The quantile, which is the sum of its shares.
        total_ns: u64,
        /// The generator's share, at most: its lateness, its work, and the time that it was stopped.
        generator_ns: u64,
        /// The host's share, at most: the generator was runnable and had no CPU. `None` if the kernel does not count that;
        /// it is then in the other shares.
        host_ns: Option<u64>,
        /// The share of the server and the network, at least, the kernel included.
        server_ns: u64,
        /// Number of messages with about that response time.
        messages: u64,
    }
}

impl ShareTally {
    /// Reserves memory, so that recording allocates nothing.
    pub(super) fn open(&mut self) {
        self.delays.open();
    }

    /// Records delays from now on. `logs` are those of all threads, this one's at `thread`.
    pub(crate) fn begin(&mut self, logs: Arc<[DelayLog]>, thread: usize, now: Nanos) {
        self.recorder = Some(Recorder { logs, thread, since: now, now, current: Delays::default() });
    }

    /// The recorder of delays, once it has begun.
    #[inline]
    pub(crate) fn recorder(&mut self) -> Option<&mut Recorder> {
        self.recorder.as_mut()
    }

    /// A message was sent with this delay.
    #[inline]
    pub(super) fn sent_late(&self, lateness: Nanos) {
        if let Some(Recorder { logs, thread, .. }) = &self.recorder {
            logs[*thread].sent_late(lateness);
        }
    }

    /// A message of a thread arrived at `now`.
    #[inline]
    pub(super) fn arrived(&mut self, now: Nanos, times: Times, sender: Sender) {
        let Some(recorder) = &self.recorder else { return };
        let delays = recorder.delays(now, times, sender);
        self.delays.record(now.saturating_sub(times.intended), [delays.generator, delays.host], 1);
    }

    /// Some messages did not arrive until `until`. They wait for the server, but for the time that they were late.
    pub(super) fn missing(&mut self, until: Nanos, times: Times, copies: u64) {
        let logs = self.recorder.iter().flat_map(|recorder| recorder.logs.iter());
        let lateness_max = logs.map(DelayLog::lateness_max).max().unwrap_or(0);
        let generator = times.sent.saturating_sub(times.intended).min(lateness_max);
        self.delays.record(until.saturating_sub(times.intended), [generator, 0], copies);
    }

    /// The shares of a quantile of the response times, which are those that were recorded here. `None` if nothing was.
    pub fn of(&self, response: &Histogram<u64>, quantile: f64) -> Option<QuantileShares> {
        let total_ns = response.value_at_quantile(quantile).min(response.max());
        let (messages, [generator_ns, host_ns]) = self.delays.means(total_ns)?;
        let host_ns = host_ns.min(total_ns);
        let generator_ns = generator_ns.min(total_ns - host_ns);
        let server_ns = total_ns - generator_ns - host_ns;
        Some(QuantileShares { total_ns, generator_ns, host_ns: Some(host_ns), server_ns, messages })
    }
}

impl Merge for ShareTally {
    fn merge(&mut self, other: &ShareTally) {
        self.delays.merge(&other.delays);
    }
}

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The thread where it arrived.
    Own,
    /// A thread of the generator.
    Thread(usize),
    /// Another generator, of which only the lateness is known.
    Elsewhere,
    /// The server.
    Server,
}

/// The delays of the current tick of a thread.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    logs: Arc<[DelayLog]>,
    thread: usize,
    /// When the tick before began.
    since: Nanos,
    /// When the current tick began.
    pub(crate) now: Nanos,
    /// The delays between the two.
    current: Delays,
}

impl Recorder {
    /// A tick begins at `now`.
    pub(crate) fn tick_began(&mut self, now: Nanos, delays: Delays) {
        self.logs[self.thread].span(self.now, now, delays);
        (self.since, self.now, self.current) = (self.now, now, delays);
    }

    /// The tick has staged its sends at `ended`.
    pub(crate) fn tick_ended(&self, ended: Nanos) {
        self.logs[self.thread].work(self.now, ended);
    }

    /// How long this side may have delayed a message that arrives in the current tick: when it was sent late, when it was
    /// handed over, and when it arrived.
    #[inline]
    fn delays(&self, now: Nanos, Times { intended, sent }: Times, sender: Sender) -> Delays {
        let service = now.saturating_sub(sent);
        let sender = match sender {
            Sender::Server => return self.current.within(service),
            Sender::Elsewhere => {
                let late = Delays { generator: sent.saturating_sub(intended), host: 0 };
                return self.current.within(service).plus(late);
            }
            Sender::Own => self.thread,
            Sender::Thread(sender) => sender,
        };
        let log = &self.logs[sender];
        // A reply in the tick after that of its message waited once.
        let is_of_span = sender == self.thread && sent >= self.since;
        let own = if is_of_span { self.current } else { self.current.plus(log.at(sent)) };
        // What is longer than the generator was ever late, it waited for room in its connection.
        let lateness = sent.saturating_sub(intended).min(log.lateness_max());
        let late = if lateness == 0 { Delays::default() } else { late(log, intended, lateness) };
        own.within(service).plus(late)
    }
}

/// The parts of a message's lateness: the time that the thread waited for a CPU when it was due is the host's.
fn late(log: &DelayLog, intended: Nanos, lateness: Nanos) -> Delays {
    let host = log.at(intended).host.min(lateness);
    Delays { generator: lateness - host, host }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::distribution::histogram;
    use echoring_proto::limits::{MILLISECOND, SECOND};

    /// One thread whose ticks are a millisecond apart, and its records.
    struct Thread {
        tally: ShareTally,
        response: Histogram<u64>,
        now: Nanos,
    }

    impl Thread {
        fn new() -> Thread {
            let mut tally = ShareTally::default();
            tally.open();
            let now = 5 * SECOND;
            tally.begin(Arc::from([DelayLog::default()]), 0, now);
            Thread { tally, response: histogram(), now }
        }

        /// The next tick, after so long.
        fn tick(&mut self, after: Nanos, delays: Delays) {
            self.now += after;
            self.tally.recorder().expect("it began").tick_began(self.now, delays);
        }

        /// A message of this time arrives.
        fn arrive(&mut self, intended: Nanos, sent: Nanos) {
            self.tally.sent_late(sent - intended);
            self.tally.arrived(self.now, Times { intended, sent }, Sender::Own);
            self.response.record(self.now - intended).expect("within bounds");
        }

        fn shares(&self, quantile: f64) -> QuantileShares {
            self.tally.of(&self.response, quantile).expect("messages")
        }
    }

    const CALM: Delays = Delays { generator: 20_000, host: 0 };

    fn is_near(found: u64, expected: u64) -> bool {
        // A bucket is 6 % wide.
        found.abs_diff(expected) <= expected / 16 + 40_000
    }

    #[test]
    fn a_slow_server_has_the_share_of_its_quantile() {
        let mut thread = Thread::new();
        // Each takes 2 ms, and each hundredth 433 ms.
        for message in 0..10_000_u64 {
            thread.tick(MILLISECOND, CALM);
            let took = if message % 100 == 50 { 433 } else { 2 } * MILLISECOND;
            if thread.now > 5 * SECOND + took {
                thread.arrive(thread.now - took, thread.now - took);
            }
        }
        let p999 = thread.shares(0.999);
        assert!(is_near(p999.server_ns, 433 * MILLISECOND) && p999.host_ns == Some(0), "{p999:?}");
        assert_eq!(p999.generator_ns, 2 * CALM.generator, "when it was sent, and when it arrived");
        assert_eq!(p999.total_ns, p999.generator_ns + p999.host_ns.unwrap_or(0) + p999.server_ns);
        let p50 = thread.shares(0.5);
        assert!(is_near(p50.server_ns, 2 * MILLISECOND) && p50.messages > 9_000, "{p50:?}");
    }

    #[test]
    fn a_planted_delay_of_the_generator_is_attributed_to_it_and_one_of_the_host_to_the_host() {
        for (host, stalled) in [
            (false, Delays { generator: 400 * MILLISECOND, host: 0 }),
            (true, Delays { generator: 0, host: 400 * MILLISECOND }),
        ] {
            let mut thread = Thread::new();
            for _ in 0..1_000 {
                thread.tick(MILLISECOND, CALM);
                thread.arrive(thread.now - MILLISECOND, thread.now - MILLISECOND);
            }
            // A stall of 400 ms, in which a message was due each millisecond. They are sent when it is over, and answered
            // in the next tick.
            let from = thread.now;
            thread.tick(400 * MILLISECOND, stalled);
            let over = thread.now;
            thread.tick(MILLISECOND, CALM);
            for due in 0..400 {
                thread.arrive(from + due * MILLISECOND, over);
            }
            let p99 = thread.shares(0.99);
            let (own, other) = match host {
                false => (p99.generator_ns, p99.host_ns.unwrap_or(0)),
                true => (p99.host_ns.unwrap_or(0), p99.generator_ns),
            };
            assert!(own > 300 * MILLISECOND && is_near(other, 0), "{p99:?}");
            assert!(p99.server_ns < 30 * MILLISECOND, "{p99:?}");
            let p50 = thread.shares(0.5);
            assert!(is_near(p50.total_ns, MILLISECOND), "{p50:?}");
            assert!(p50.generator_ns <= 2 * CALM.generator && p50.host_ns == Some(0), "{p50:?}");
        }
    }

    #[test]
    fn a_reply_that_lies_unread_during_a_stall_is_not_the_servers_alone() {
        let mut thread = Thread::new();
        thread.tick(MILLISECOND, CALM);
        let sent = thread.now;
        thread.tick(300 * MILLISECOND, Delays { generator: 50_000, host: 200 * MILLISECOND });
        thread.arrive(sent, sent);
        let shares = thread.shares(0.5);
        assert!(
            is_near(shares.host_ns.unwrap_or(0), 200 * MILLISECOND) && shares.generator_ns == 50_000,
            "{shares:?}"
        );
        assert!(is_near(shares.server_ns, 100 * MILLISECOND), "{shares:?}");
    }

    #[test]
    fn a_wait_for_room_in_the_connection_is_not_the_generators() {
        let mut thread = Thread::new();
        thread.tick(MILLISECOND, CALM);
        let intended = thread.now;
        thread.tick(500 * MILLISECOND, CALM);
        let sent = thread.now;
        thread.tick(MILLISECOND, CALM);
        // Nothing was ever late: the tick in which it was due tried to send it.
        thread.tally.arrived(thread.now, Times { intended, sent }, Sender::Own);
        thread.response.record(thread.now - intended).expect("within bounds");
        let shares = thread.shares(0.5);
        assert!(shares.generator_ns <= CALM.generator, "{shares:?}");
        // Nor is what the server never answered.
        thread.tally.missing(thread.now, Times { intended, sent }, 1_000);
        assert!(thread.shares(0.5).generator_ns <= CALM.generator);
    }

    #[test]
    fn the_delays_of_a_publisher_at_another_thread_count() {
        let logs: Arc<[DelayLog]> = Arc::from([DelayLog::default(), DelayLog::default()]);
        let mut tally = ShareTally::default();
        tally.open();
        let now = 9 * SECOND;
        tally.begin(logs.clone(), 0, now);
        let sent = now - 30 * MILLISECOND;
        logs[1].span(sent - MILLISECOND, sent, CALM);
        // Its tick took 25 ms to send all it had, and is not over.
        logs[1].work(sent, sent + 25 * MILLISECOND);
        tally.arrived(now, Times { intended: sent, sent }, Sender::Thread(1));
        tally.arrived(now, Times { intended: sent, sent }, Sender::Server);
        let mut response = histogram();
        response.record_n(30 * MILLISECOND, 2).expect("within bounds");
        let shares = tally.of(&response, 0.5).expect("two");
        assert!(is_near(shares.generator_ns, 25 * MILLISECOND / 2), "{shares:?}");
    }

    #[test]
    fn merged_threads_have_the_mean_of_their_messages() {
        let (mut one, mut other) = (Thread::new(), Thread::new());
        one.tick(2 * MILLISECOND, Delays { generator: MILLISECOND, host: 0 });
        other.tick(2 * MILLISECOND, CALM);
        for thread in [&mut one, &mut other] {
            thread.arrive(thread.now - 2 * MILLISECOND, thread.now - 2 * MILLISECOND);
        }
        let mut merged = ShareTally::default();
        merged.merge(&one.tally);
        merged.merge(&other.tally);
        let shares = merged.of(&one.response, 0.5).expect("two");
        assert_eq!((shares.messages, shares.generator_ns), (2, (MILLISECOND + CALM.generator) / 2));
        assert_eq!(ShareTally::default().of(&one.response, 0.5), None);
    }
}
