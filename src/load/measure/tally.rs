//! Counts and timings of one thread, in groups of one concern each.
//!
//! A thread records into its own tally without locks. Tallies are merged once at the end: histograms are added,
//! percentiles are never averaged.

pub(crate) mod connections;
pub(crate) mod counts;
pub(crate) mod fan_out;
pub(crate) mod health;
pub(crate) mod intervals;
pub(crate) mod latency;
pub(crate) mod pings;
pub(crate) mod protocol;
pub(crate) mod reconnects;
pub(crate) mod replay;
pub(crate) mod sessions;
pub(crate) mod slices;

use std::time::SystemTime;

use connections::{ConnectionTally, SlowTally};
use counts::MessageCounts;
use fan_out::FanOutTally;
use health::HealthTally;
use intervals::IntervalTally;
use latency::LatencyTally;
use pings::PingTally;
use protocol::{ProtocolTally, RequestTally};
use reconnects::{HerdInterval, ReconnectTally};
use replay::ReplayTally;
use sessions::SessionTally;
use slices::{SliceTally, Totals};

use serde::{Deserialize, Serialize};

use crate::measure::integrity::Integrity;
use crate::measure::interval::Arrived;
use crate::measure::kernel_times::KernelTimes;
use crate::measure::lost_messages::LostMessages;
use crate::measure::merge::merge_each;
use crate::measure::meter::CpuSpan;
use crate::measure::push_tally::PushTally;
use crate::measure::samples::{MessageName, Sample, SampleOutcome, Sampler};
use crate::measure::shares::{Sender, ShareTally};
use crate::measure::split::SplitTally;
use crate::measure::times::Times;
use crate::measure::warm_up::WarmUpRecorder;
use crate::measure::window::Window;
use crate::plan::RateStage;
use echoring_proto::limits::Nanos;

/// The counts of one thread, or of a whole run once merged. Nothing counts before [`open`](Tally::open).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// When results count.
    pub window: Window,
    /// When the window began, as the first thread saw it.
    pub began_at: Option<SystemTime>,
    /// A message that takes longer counts as late.
    pub late_after_ns: Option<Nanos>,
    /// Response, service and lateness of messages.
    pub latency: LatencyTally,
    /// The delays that this side added to response times.
    pub shares: ShareTally,
    /// Response times by the kernel's times.
    pub split: SplitTally,
    /// Messages sent, received and unsent.
    pub counts: MessageCounts,
    /// Integrity failures of messages, except for their order across publishers.
    pub integrity: Integrity,
    /// Connections, their failures and their handshakes.
    pub connections: ConnectionTally,
    /// The window in intervals.
    pub intervals: IntervalTally,
    /// The window in slices, which are shorter.
    pub slices: SliceTally,
    /// The health of the generator.
    pub health: HealthTally,
    /// The server's CPU time at both ends of the window; from the first thread.
    pub cpu_span: CpuSpan,
    /// Broadcast mode: fan-out.
    pub fan_out: FanOutTally,
    /// Broadcast mode: deliberately slow subscribers.
    pub slow: SlowTally,
    /// Push mode.
    pub pushes: PushTally,
    /// Pings and pongs.
    pub pings: PingTally,
    /// Conversations of a declared protocol.
    pub protocol: ProtocolTally,
    /// Session mode: sessions of users.
    pub sessions: SessionTally,
    /// Connections that ended and opened again.
    pub reconnects: ReconnectTally,
    /// A replay.
    pub replay: ReplayTally,
    /// When the current interval or slice ends; 0 if that is not known yet.
    #[serde(skip)]
    rolls_at: Nanos,
    /// The time before the window, while it is watched for a steady state.
    #[serde(skip)]
    pub(crate) warm_up: Option<Box<WarmUpRecorder>>,
    /// Single messages, until they are taken out in the end.
    #[serde(skip)]
    pub samples: Sampler,
    /// Answers that were read since these were taken out, if the kernel's times are noted.
    #[serde(skip)]
    pub(crate) answered: Option<Vec<Answered>>,
}

/// A message whose answer was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub times: Times,
    /// When the answer was read.
    pub read: Nanos,
    pub payload_bytes: usize,
}

/// A complete message that arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceivedMessage {
    pub name: MessageName,
    pub times: Times,
    pub payload_bytes: usize,
    /// A sample's data about it.
    pub outcome: SampleOutcome,
}

impl Tally {
    /// An empty tally of a load whose protocol has this number of requests, with single messages that `samples` picks.
    pub(crate) fn for_load(late_after_ns: Option<Nanos>, requests: usize, samples: Sampler) -> Tally {
        let requests = vec![RequestTally::default(); requests];
        let protocol = ProtocolTally { requests, ..ProtocolTally::default() };
        Tally { late_after_ns, protocol, samples, ..Tally::default() }
    }

    /// Sets the window and reserves memory for its intervals, slices and samples, so that recording allocates nothing.
    pub fn open(&mut self, window: Window) {
        self.window = window;
        self.latency.missing = LostMessages::new(window);
        self.shares.open();
        self.split.open();
        self.intervals.open(window);
        self.slices.open(window);
        self.rolls_at = self.intervals.ends().min(self.slices.ends());
        self.samples.reserve();
    }

    /// Records messages separately by the stage in which they are due. The stages fill the window.
    pub fn open_stages(&mut self, stages: &[RateStage]) {
        self.latency.open_stages(self.window, stages);
    }

    /// A complete message arrived that this thread had sent.
    #[inline]
    pub fn arrived(&mut self, now: Nanos, name: MessageName, times: Times, payload_bytes: usize) {
        self.arrived_as(now, name, times, payload_bytes, SampleOutcome::Ok);
    }

    /// The same, with a sample's data about it.
    #[inline]
    pub(crate) fn arrived_as(
        &mut self,
        now: Nanos,
        name: MessageName,
        times: Times,
        payload_bytes: usize,
        outcome: SampleOutcome,
    ) {
        self.arrived_from(Sender::Own, now, ReceivedMessage { name, times, payload_bytes, outcome });
    }

    /// A complete message of a sender arrived.
    #[inline]
    pub(crate) fn arrived_from(
        &mut self,
        sender: Sender,
        now: Nanos,
        ReceivedMessage { name, times, payload_bytes, outcome }: ReceivedMessage,
    ) {
        let Times { intended, sent } = times;
        let (response, service) = (now.saturating_sub(intended), now.saturating_sub(sent));
        let is_late = self.late_after_ns.is_some_and(|bound| response > bound);
        self.counts.received += 1;
        if let Some(answered) = &mut self.answered {
            answered.push(Answered { times, read: now, payload_bytes });
        }
        self.integrity.late += u64::from(is_late);
        if self.window.contains(intended) {
            self.latency.record(intended, response, service);
            self.shares.arrived(now, times, sender);
            self.samples.take(|| {
                let outcome =
                    if is_late && outcome == SampleOutcome::Ok { SampleOutcome::Late } else { outcome };
                Sample::new(name, times, now, outcome).of_bytes(payload_bytes)
            });
        } else if let Some(warm_up) = &mut self.warm_up {
            warm_up.record(response);
        }
        if self.window.contains(now) {
            self.roll_if_due(now);
            self.counts.messages += 1;
            self.counts.bytes += payload_bytes as u64;
            self.intervals.record(response, service);
            self.slices.record(response);
            if let Some(stage) = self.latency.stage(now) {
                stage.messages += 1;
            }
        }
    }

    /// The kernel's times of a sampled message are known, as far as they will be. Its answer was read at `read`.
    #[inline]
    pub fn stamped(&mut self, times: Times, kernel: KernelTimes, read: Nanos) {
        if self.window.contains(times.intended) {
            let took = self.split.record(times, kernel, read);
            if self.window.contains(read) {
                self.intervals.record_server_and_network(took);
            }
        }
    }

    /// A damaged message arrived in the place of another, or a due connection failed, as `outcome` tells: nothing
    /// arrived, and the message is recorded with its age at `now`.
    #[cold]
    pub fn damaged(&mut self, now: Nanos, name: MessageName, times: Times, outcome: SampleOutcome) {
        if self.window.contains(times.intended) {
            self.latency.record_lost(now, times, 1);
            self.shares.missing(now, times, 1);
            self.split.missing(now, times, 1);
            self.samples.take(|| Sample::new(name, times, now, outcome));
        }
    }

    /// A complete message of unknown age arrived.
    #[inline]
    pub fn heard(&mut self, now: Nanos, payload_bytes: usize) {
        self.counts.received += 1;
        if self.window.contains(now) {
            self.roll_if_due(now);
            self.counts.messages += 1;
            self.counts.bytes += payload_bytes as u64;
        }
    }

    /// Finishes the intervals and slices that are over at `now`. Everything after that belongs to the current ones.
    /// `now` must not decrease.
    #[inline]
    pub(crate) fn roll_if_due(&mut self, now: Nanos) {
        if now >= self.rolls_at {
            self.roll(now);
        }
    }

    #[cold]
    pub(crate) fn roll(&mut self, now: Nanos) {
        self.intervals.roll(now, self.arrived_so_far());
        self.slices.roll(now, self.totals());
        self.rolls_at = self.intervals.ends().min(self.slices.ends());
    }

    /// Finishes all intervals and slices: nothing is recorded after that.
    pub(crate) fn close(&mut self) {
        self.intervals.close(self.arrived_so_far());
        self.slices.close(self.window, self.totals());
        self.rolls_at = Nanos::MAX;
    }

    fn arrived_so_far(&self) -> Arrived {
        Arrived { messages: self.counts.messages, bytes: self.counts.bytes }
    }

    fn totals(&self) -> Totals {
        let ConnectionTally { opened, errors, closes, .. } = &self.connections;
        Totals {
            sent: self.counts.sent,
            arrived: self.counts.messages,
            opened: *opened,
            errors: errors.values().chain(self.reconnects.refused.values()).sum(),
            closed: closes.values().sum(),
        }
    }

    /// The same of a message of the load, which a sample may have.
    #[inline]
    pub(crate) fn heard_untimed(&mut self, now: Nanos, name: MessageName, payload_bytes: usize) {
        self.heard(now, payload_bytes);
        if self.window.contains(now) {
            self.samples.take(|| Sample {
                intended: None,
                sent: None,
                ..Sample::new(name, Times::default(), now, SampleOutcome::Untimed).of_bytes(payload_bytes)
            });
        }
    }

    /// The generator sent or tried to send a message that was due at `intended`.
    #[inline]
    pub fn late(&mut self, now: Nanos, intended: Nanos) {
        let lateness = now.saturating_sub(intended);
        self.shares.sent_late(lateness);
        if self.window.contains(intended) {
            self.latency.of(intended).lateness.saturating_record(lateness);
        }
    }

    /// A pushed message arrived whose time field is `made`. It is timed if it arrived within the window, or was made in
    /// the window and arrived after its end.
    pub fn pushed(&mut self, now: Nanos, name: MessageName, made: Nanos, payload_bytes: usize) {
        let times = Times { intended: made, sent: made };
        // A message that arrived within the window is timed as if it had been made there, so that no delay excludes it.
        if self.window.contains(now) && !self.window.contains(made) {
            let age = now.saturating_sub(made);
            self.latency.whole.response.saturating_record(age);
            self.latency.whole.service.saturating_record(age);
            self.shares.arrived(now, times, Sender::Server);
            self.samples.take(|| {
                let is_late = self.late_after_ns.is_some_and(|bound| age > bound);
                let outcome = if is_late { SampleOutcome::Late } else { SampleOutcome::Ok };
                Sample::new(name, times, now, outcome).of_bytes(payload_bytes)
            });
        }
        let outcome = SampleOutcome::Ok;
        self.arrived_from(Sender::Server, now, ReceivedMessage { name, times, payload_bytes, outcome });
    }

    /// Counts an event of a connection at `now` in its interval of the measured time.
    pub(crate) fn count_herd(&mut self, now: Nanos, count: fn(&mut HerdInterval) -> &mut u32) {
        if self.window.contains(now) {
            *count(self.reconnects.herd_at(now - self.window.from)) += 1;
        }
    }

    /// A heartbeat that was due at `due` came.
    pub fn beat(&mut self, now: Nanos, due: Nanos) {
        if self.window.contains(due) {
            self.health.heartbeat.saturating_record(now.saturating_sub(due));
        }
    }

    /// Some deliveries of a message are missing and awaited until `until` at most. Each is recorded with its age then.
    pub(crate) fn record_lost(&mut self, until: Nanos, name: MessageName, times: Times, copies: u64) {
        if self.window.contains(times.intended) {
            self.latency.record_lost(until, times, copies);
            self.shares.missing(until, times, copies);
            self.split.missing(until, times, copies);
            self.samples.take_copies(copies, || Sample::new(name, times, until, SampleOutcome::Lost));
        }
    }

    /// The same for a message that was due and not sent, which has no service time, and whose connection may be gone.
    pub(crate) fn record_unsent(
        &mut self,
        until: Nanos,
        name: MessageName,
        intended: Nanos,
        copies: u64,
        is_gone: bool,
    ) {
        if self.window.contains(intended) {
            self.counts.unsent += 1;
            self.counts.unsent_gone += u64::from(is_gone);
            self.latency.record_unsent(until, intended, copies);
            let times = Times { intended, sent: intended };
            self.shares.missing(until, times, copies);
            self.samples.take_copies(copies, || Sample {
                sent: None,
                ..Sample::new(name, times, until, SampleOutcome::Unsent)
            });
        }
    }

    /// Some deliveries of a message are lost, and awaited until the end of the run.
    pub(crate) fn missing(&mut self, name: MessageName, times: Times, copies: u32, outcome: SampleOutcome) {
        self.latency.missing.add(times, copies);
        if self.window.contains(times.intended) {
            self.samples.take_copies(copies.into(), || Sample {
                ended: None,
                ..Sample::new(name, times, 0, outcome)
            });
        }
    }

    /// Records all missing messages with their age at `until`.
    pub(crate) fn settle_missing(&mut self, until: Nanos) {
        let Tally { shares, split, .. } = self;
        self.latency.settle_missing(until, |intended, copies| {
            let times = Times { intended, sent: intended };
            shares.missing(until, times, copies);
            split.missing(until, times, copies);
        });
        self.samples.settle(until);
    }

    /// The run is over: adds the stages to the whole run.
    pub fn complete(&mut self) {
        self.latency.complete();
    }

    /// Integrity failures, with those of the order across publishers.
    pub(crate) fn integrity(&self) -> Integrity {
        let reordered = self.integrity.reordered + self.fan_out.order.reordered();
        Integrity { reordered, ..self.integrity }
    }

    /// The window ends at `now`, perhaps early: nothing later counts.
    pub fn cut(&mut self, now: Nanos) {
        self.window.until = self.window.until.min(now.max(self.window.from));
        self.close();
    }

    /// Whether the window was open, and is over at `at`.
    pub(crate) fn is_past_window(&self, at: Nanos) -> bool {
        self.window != Window::default() && at >= self.window.until
    }

    /// Moves all times by this number of nanoseconds, to another clock.
    pub(crate) fn shift(&mut self, by: i64) {
        self.window = self.window.shifted(by);
        for stage in &mut self.latency.stages {
            stage.window = stage.window.shifted(by);
        }
        for sample in [&mut self.cpu_span.first, &mut self.cpu_span.last].into_iter().flatten() {
            sample.at = sample.at.wrapping_add_signed(by);
        }
        let span = &mut self.connections.handshakes.span;
        *span = span.map(|span| span.shifted(by));
    }

    /// The run is over on this generator. The parts of the order of messages that only its own threads know are
    /// decided.
    pub(crate) fn conclude(&mut self) {
        self.fan_out.order.decide();
    }

    /// Adds the tally of another thread, whose window has ended. The windows must be equal, or one of them never
    /// opened.
    pub fn merge(&mut self, other: &Tally) {
        if self.window == Window::default() {
            self.window = other.window;
        }
        self.window.until = self.window.until.max(other.window.until);
        self.began_at = self.began_at.or(other.began_at);
        self.cpu_span.first = self.cpu_span.first.or(other.cpu_span.first);
        self.cpu_span.last = self.cpu_span.last.or(other.cpu_span.last);
        merge_each!(
            self, other: latency, shares, split, counts, integrity, connections, intervals, slices, health, fan_out,
            slow, pushes, pings, protocol, sessions, reconnects, replay, samples,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::distribution::LATENCY_NS_MAX;
    use crate::measure::timeline::Timeline;
    use echoring_proto::limits::{MILLISECOND, SECOND};

    const NAME: MessageName = MessageName { connection: 0, publisher: None, sequence: None };
    const WINDOW: Window = Window { from: 10 * SECOND, until: 13 * SECOND };

    #[test]
    fn only_stamped_messages_of_the_window_count() {
        let mut tally = Tally::default();
        tally.open(WINDOW);
        for (intended, count) in [(10 * SECOND - 1, 0), (10 * SECOND, 1), (13 * SECOND - MILLISECOND, 2)] {
            let (times, read) = (Times { intended, sent: intended }, intended + 2 * MILLISECOND);
            let arrived = Some(intended + MILLISECOND);
            tally.stamped(
                times,
                KernelTimes { left: Some(intended), arrived, ..KernelTimes::default() },
                read,
            );
            let split = &tally.split;
            assert_eq!((split.server_and_network.len(), split.bounded), (count, count), "{intended}");
        }
        tally.cut(WINDOW.until);
        let took: Vec<(&str, u64)> = Timeline::take(&mut tally)
            .intervals()
            .filter_map(|interval| interval.distributions.last().map(|(name, took)| (*name, took.len())))
            .collect();
        // The last one was read after the window.
        assert_eq!(took, [("server_and_network", 1), ("server_and_network", 0), ("server_and_network", 0)]);
    }

    #[test]
    fn merged_threads_equal_one_thread() {
        let (mut one, mut left, mut right) = (Tally::default(), Tally::default(), Tally::default());
        let stages = [1, 2].map(|seconds| RateStage { time: Duration::from_secs(seconds), from: 9, to: 9 });
        for tally in [&mut one, &mut left, &mut right] {
            tally.open(WINDOW);
            tally.open_stages(&stages);
        }
        for message in 0..30_000_u64 {
            let intended = 10 * SECOND + message * 100_000;
            let (sent, now) = (intended + message % 70, intended + 20_000 + message * message % 1_000_003);
            one.arrived(now, NAME, Times { intended, sent }, 16);
            let half = if message % 3 == 0 { &mut left } else { &mut right };
            half.arrived(now, NAME, Times { intended, sent }, 16);
            one.late(now, intended);
            half.late(now, intended);
        }
        for tally in [&mut one, &mut left, &mut right] {
            tally.cut(WINDOW.until);
            tally.complete();
        }
        assert_eq!(
            (
                one.latency.whole.response.len(),
                one.latency.whole.service.len(),
                one.latency.whole.lateness.len()
            ),
            (30_000, 30_000, 30_000)
        );
        left.connections.error("refused");
        right.connections.error("refused");
        right.connections.closes.insert(1001, 3);
        let mut merged = Tally::default();
        merged.merge(&left);
        merged.merge(&right);
        assert_eq!(merged.window, one.window);
        assert_eq!((merged.counts.messages, merged.counts.bytes), (one.counts.messages, one.counts.bytes));
        assert_eq!(merged.latency.whole.response, one.latency.whole.response);
        assert_eq!(merged.latency.whole.service, one.latency.whole.service);
        assert_eq!(merged.latency.whole.lateness, one.latency.whole.lateness);
        assert_eq!(merged.slices.slices, one.slices.slices);
        for (mine, theirs) in merged.latency.stages.iter().zip(&one.latency.stages) {
            assert_eq!((mine.window, mine.messages), (theirs.window, theirs.messages));
            assert_eq!(
                (&mine.times.response, &mine.times.service),
                (&theirs.times.response, &theirs.times.service)
            );
            assert_eq!(mine.times.lateness, theirs.times.lateness);
        }
        assert_eq!(
            one.latency.stages.iter().map(|stage| stage.times.response.len()).collect::<Vec<_>>(),
            [10_000, 20_000]
        );
        let (merged_time, one_time) = (Timeline::take(&mut merged), Timeline::take(&mut one));
        assert_eq!(merged_time.intervals().count(), 3);
        for (mine, theirs) in merged_time.intervals().zip(one_time.intervals()) {
            assert_eq!((mine.messages, mine.bytes), (theirs.messages, theirs.bytes));
            assert_eq!(mine.distributions, theirs.distributions);
        }
        assert_eq!(merged.connections.errors["refused"], 2);
        assert_eq!(merged.connections.closes[&1001], 3);
    }

    #[test]
    fn a_message_counts_where_it_arrives_and_is_timed_where_it_was_due() {
        let mut tally = Tally::default();
        tally.open(WINDOW);
        let before = WINDOW.from - 1;
        tally.arrived(WINDOW.from + 5, NAME, Times { intended: before, sent: before }, 1);
        assert_eq!((tally.counts.messages, tally.latency.whole.response.len()), (1, 0), "due in the warm-up");
        tally.arrived(
            WINDOW.until + 5,
            NAME,
            Times { intended: WINDOW.until - 1, sent: WINDOW.until - 1 },
            1,
        );
        assert_eq!(
            (tally.counts.messages, tally.latency.whole.response.len()),
            (1, 1),
            "arrived after the end"
        );
    }

    #[test]
    fn lost_messages_are_recorded_with_their_final_age() {
        let mut tally = Tally::default();
        tally.open(WINDOW);
        let until = WINDOW.until + 5 * SECOND;
        let times = |millis| {
            let intended = WINDOW.from + millis * MILLISECOND;
            Times { intended, sent: intended + 100 * MILLISECOND }
        };
        tally.record_lost(until, NAME, times(0), 2);
        tally.record_unsent(until, NAME, WINDOW.from + SECOND, 1, true);
        tally.record_unsent(until, NAME, WINDOW.from - 1, 1, true);
        assert_eq!(
            (tally.counts.unsent, tally.counts.unsent_gone),
            (1, 1),
            "the other one was due in the warm-up"
        );
        tally.record_lost(until, NAME, Times { intended: WINDOW.from - 1, sent: WINDOW.from }, 1);
        tally.latency.missing.add(times(2_000), 3);
        tally.settle_missing(until);
        let near = |found: u64, seconds: f64| (found as f64 / SECOND as f64 / seconds - 1.0).abs() < 1e-3;
        assert_eq!((tally.latency.whole.response.len(), tally.latency.whole.service.len()), (6, 5));
        assert!(
            near(tally.latency.whole.response.max(), 8.0) && near(tally.latency.whole.response.min(), 6.0)
        );
        assert!(near(tally.latency.whole.response.value_at_quantile(0.6), 7.0));
        assert!(near(tally.latency.whole.service.max(), 7.9) && near(tally.latency.whole.service.min(), 5.9));
        assert_eq!(tally.counts.messages, 0, "nothing arrived");
    }

    #[test]
    fn a_pushed_message_counts_where_it_arrives_however_old_it_is() {
        let mut tally = Tally::default();
        tally.open(WINDOW);
        let age = 2 * SECOND;
        for arrival in (WINDOW.from..WINDOW.until + 5 * SECOND).step_by((100 * MILLISECOND) as usize) {
            tally.pushed(arrival, NAME, arrival - age, 1);
        }
        // 30 that arrived within three seconds, and the 20 of the last two that were still in flight.
        assert_eq!(
            (tally.counts.messages, tally.latency.whole.response.len(), tally.latency.whole.service.len()),
            (30, 50, 50)
        );
        assert!(tally.latency.whole.response.min() >= age - age / 500);
    }

    #[test]
    fn messages_above_the_bound_are_late() {
        let mut tally = Tally::default();
        tally.open(WINDOW);
        tally.late_after_ns = Some(5 * MILLISECOND);
        for took in [4, 5, 6, 7] {
            tally.arrived(
                WINDOW.from + took * MILLISECOND,
                NAME,
                Times { intended: WINDOW.from, sent: WINDOW.from },
                1,
            );
        }
        assert_eq!(tally.integrity.late, 2);
    }

    #[test]
    fn nothing_counts_before_the_window_is_known() {
        let mut tally = Tally::default();
        tally.arrived(5, NAME, Times { intended: 3, sent: 4 }, 1);
        tally.late(5, 3);
        assert_eq!(
            (tally.counts.messages, tally.latency.whole.response.len(), tally.latency.whole.lateness.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_long_run_has_longer_intervals() {
        let hours = Window { from: 0, until: 10 * 3_600 * SECOND };
        assert_eq!(hours.interval(), 60 * SECOND);
        assert_eq!(WINDOW.interval(), SECOND);
    }

    #[test]
    fn a_latency_above_the_range_is_clamped() {
        let mut tally = Tally::default();
        tally.open(Window { from: 0, until: u64::MAX / 2 });
        tally.arrived(2 * LATENCY_NS_MAX, NAME, Times { intended: 0, sent: 0 }, 1);
        assert!(tally.latency.whole.response.max() >= LATENCY_NS_MAX);
    }
}
