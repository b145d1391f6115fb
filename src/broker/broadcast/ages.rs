//! How old messages are when subscribers get them: a sample of the deliveries is followed from the acceptance of the message to the
//! acknowledgement of its last byte by the peer's TCP.
//!
//! ```text
//! chosen ─ end of the delivery ─▶ Staged ─ next tick ─▶ Sent ─ acknowledged ─▶ counted as acknowledged
//!                                   │ │                   └─ a later send was short ─▶ counted as sent, when its tick ended
//!                                   │ │
//!                                   │ └─ next tick, without a stamp ─▶ counted as sent, when the tick ended
//!                                   └─ the send was short ─▶ Blocked ─ the kernel has the rest ─▶ counted as sent
//! ```
//!
//! A message that is taken back was not delivered, and its sample is dropped; it has the same chance as all others when it is sent
//! again.

use echoring_proto::limits::Nanos;
use echoring_proto::random::SplitMix64;
use echoring_runtime::driver::Token;
use echoring_topics::Topics;

use crate::limits::{AGE_SAMPLES_MAX, AGE_WAIT};
use crate::peer::Context;

/// A message in a send of this tick, by what is known of it then.
#[derive(Debug)]
pub(super) enum Chosen {
    /// `behind` messages follow it in the send from a log with this tag.
    OfLog { token: Token, tag: u64, behind: u32 },
    /// The latest of its key.
    Latest { token: Token, topic: Box<str>, received_at: Nanos },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SampleState {
    /// In the batch of the tick that ended at `ended`.
    Staged { ended: Nanos, is_stamped: bool },
    /// A part of its send is not with the kernel.
    Blocked,
    /// In the socket since `ended`; its acknowledgement is awaited.
    Sent { ended: Nanos },
}

#[derive(Debug)]
struct Sample {
    token: Token,
    /// The tag of its send, and the messages behind it.
    place: Option<(u64, u32)>,
    /// The number of its topic's pattern.
    pattern: usize,
    received_at: Nanos,
    state: SampleState,
}

/// The samples of a shard, at most one of a connection.
#[derive(Debug)]
pub(super) struct Ages {
    random: SplitMix64,
    /// One message in so many is chosen, on average; 0 for none.
    interval: u32,
    /// Messages to be sent before the next one that is chosen.
    left: u64,
    chosen: Vec<Chosen>,
    samples: Vec<Sample>,
    /// The patterns of which there were samples.
    patterns: Vec<Box<str>>,
    /// Whether the shard may have ages of patterns that are gone.
    is_reconfigured: bool,
}

impl Ages {
    pub(super) fn new(seed: u64, interval: u32) -> Ages {
        Ages {
            random: SplitMix64::new(seed),
            interval,
            left: if interval == 0 { u64::MAX } else { 0 },
            chosen: Vec::new(),
            samples: Vec::new(),
            patterns: Vec::new(),
            is_reconfigured: false,
        }
    }

    /// Topics may have other patterns from now on. The samples are given up: one delivery in a hundred is chosen again anyway.
    pub(super) fn reconfigure(&mut self) {
        self.samples.clear();
        self.patterns.clear();
        self.is_reconfigured = true;
    }

    /// The number of the message, from 0, that is chosen from `messages` in a send.
    #[inline]
    pub(super) fn choose(&mut self, messages: u32) -> Option<u32> {
        if u64::from(messages) <= self.left {
            self.left -= u64::from(messages);
            return None;
        }
        Some(self.choose_now(messages))
    }

    // The intervals are random: regular ones would choose the same subscriber of as many again and again.
    #[cold]
    #[inline(never)]
    fn choose_now(&mut self, messages: u32) -> u32 {
        let chosen = self.left as u32;
        let pause = self.random.below(2 * u64::from(self.interval) - 1);
        self.left = pause.saturating_sub(u64::from(messages - chosen - 1));
        chosen
    }

    /// Follows a message of [`choose`](Self::choose) when the delivery is over, unless there are too many in it.
    #[cold]
    pub(super) fn add(&mut self, chosen: Chosen) {
        if self.chosen.len() < AGE_SAMPLES_MAX {
            self.chosen.reserve_exact(AGE_SAMPLES_MAX - self.chosen.len());
            self.chosen.push(chosen);
        }
    }

    /// Whether there are messages to follow.
    #[inline]
    pub(super) fn has_chosen(&self) -> bool {
        !self.chosen.is_empty()
    }

    /// The delivery is over: follows the chosen messages.
    #[cold]
    pub(super) fn follow(&mut self, topics: &Topics<Token>, cx: &mut Context<'_>) {
        let ended = cx.clock();
        if std::mem::take(&mut self.is_reconfigured) {
            let is_counted = |label: &str| topics.rules().counted_patterns().any(|pattern| pattern == label);
            cx.counters().delivery_ages.retain(is_counted);
        }
        let Ages { chosen, samples, patterns, .. } = self;
        // All at once: a sample must not allocate.
        samples.reserve_exact(AGE_SAMPLES_MAX - samples.len());
        for chosen in chosen.drain(..) {
            let token = match chosen {
                Chosen::OfLog { token, .. } | Chosen::Latest { token, .. } => token,
            };
            let is_followed = samples.iter().any(|sample| sample.token == token);
            if is_followed || samples.len() == AGE_SAMPLES_MAX {
                continue;
            }
            let (place, received_at, pattern) = match &chosen {
                Chosen::OfLog { tag, behind, .. } => {
                    let Some((received_at, topic)) = topics.received_at(*tag, token, *behind) else {
                        continue;
                    };
                    (Some((*tag, *behind)), received_at, topics.rules().counted_pattern(topic))
                }
                Chosen::Latest { topic, received_at, .. } => {
                    (None, *received_at, topics.rules().counted_pattern(topic))
                }
            };
            let state = SampleState::Staged { ended, is_stamped: cx.stamp(token) };
            let pattern = patterns.iter().position(|known| **known == *pattern).unwrap_or_else(|| {
                patterns.push(pattern.into());
                // Counting must not allocate either.
                cx.counters().delivery_ages.of(pattern);
                patterns.len() - 1
            });
            samples.push(Sample { token, place, pattern, received_at, state });
        }
    }

    /// A tick ends: what earlier ones staged has been sent.
    #[inline]
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        if !self.samples.is_empty() {
            self.settle_all(cx);
        }
    }

    #[inline(never)]
    fn settle_all(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        // From the end, since the last one takes the place of one that is over.
        for at in (0..self.samples.len()).rev() {
            match self.samples[at].state {
                SampleState::Staged { ended, is_stamped: true } if ended < now => {
                    self.samples[at].state = SampleState::Sent { ended };
                }
                SampleState::Staged { ended, is_stamped: false } if ended < now => {
                    self.count_sent(at, cx, ended)
                }
                SampleState::Sent { ended } if ended + AGE_WAIT <= now => drop(self.samples.swap_remove(at)),
                SampleState::Staged { .. } | SampleState::Blocked | SampleState::Sent { .. } => {}
            }
        }
    }

    /// A send was short. An acknowledgement of an earlier one is not awaited any more: the driver tells of none.
    pub(super) fn blocked(&mut self, cx: &mut Context<'_>, token: Token) {
        let Some(at) = self.find(token) else { return };
        match self.samples[at].state {
            SampleState::Staged { .. } => self.samples[at].state = SampleState::Blocked,
            SampleState::Sent { ended } => self.count_sent(at, cx, ended),
            SampleState::Blocked => {}
        }
    }

    /// The last `messages` messages of a send were taken back.
    pub(super) fn taken_back(&mut self, token: Token, tag: u64, messages: u32) {
        let Some(at) = self.find(token) else { return };
        let sample = &mut self.samples[at];
        if let (SampleState::Blocked, Some((of, behind))) = (sample.state, &mut sample.place)
            && *of == tag
        {
            match behind.checked_sub(messages) {
                Some(left) => *behind = left,
                None => drop(self.samples.swap_remove(at)),
            }
        }
    }

    /// The kernel has everything that a connection was sent.
    pub(super) fn writable(&mut self, cx: &mut Context<'_>, token: Token) {
        if let Some(at) = self.find(token)
            && self.samples[at].state == SampleState::Blocked
        {
            self.count_sent(at, cx, cx.now());
        }
    }

    /// The peer's TCP has acknowledged a stamped send.
    pub(super) fn acknowledged(&mut self, cx: &mut Context<'_>, token: Token, at: Nanos) {
        if let Some(found) = self.find(token)
            && self.samples[found].state != SampleState::Blocked
        {
            let (age, of) = self.end(found, at);
            cx.counters().delivery_ages.of(of).acknowledged.record(age, 1);
        }
    }

    /// A connection is gone.
    pub(super) fn forget(&mut self, token: Token) {
        if let Some(at) = self.find(token) {
            self.samples.swap_remove(at);
        }
    }

    fn find(&self, token: Token) -> Option<usize> {
        self.samples.iter().position(|sample| sample.token == token)
    }

    /// Counts a sample whose message was in the socket at `ended`.
    fn count_sent(&mut self, at: usize, cx: &mut Context<'_>, ended: Nanos) {
        let (age, of) = self.end(at, ended);
        cx.counters().delivery_ages.of(of).sent.record(age, 1);
    }

    /// Ends a sample. Returns its age at that time, and its pattern.
    fn end(&mut self, at: usize, time: Nanos) -> (Nanos, &str) {
        let Sample { pattern, received_at, .. } = self.samples.swap_remove(at);
        (time.saturating_sub(received_at), &self.patterns[pattern])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_of_a_hundred_is_chosen_however_many_a_send_has() {
        for messages in [1, 7, 64, 100] {
            let mut ages = Ages::new(u64::from(messages), 100);
            let sends = 1_000_000 / messages;
            let chosen = (0..sends)
                .filter_map(|_| ages.choose(messages))
                .inspect(|chosen| assert!(*chosen < messages));
            let count = chosen.count() as u32;
            assert!((8_000..12_000).contains(&count), "{count} of {messages}");
        }
    }

    #[test]
    fn events_are_not_chosen_and_nothing_if_that_is_off() {
        let mut ages = Ages::new(1, 1);
        assert_eq!(ages.choose(1), Some(0));
        assert_eq!((0..1_000).filter_map(|_| ages.choose(0)).count(), 0);
        let mut off = Ages::new(1, 0);
        assert_eq!((0..1_000).filter_map(|_| off.choose(u32::MAX)).count(), 0);
    }
}
