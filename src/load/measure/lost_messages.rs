//! Lost messages whose final age is not known yet, counted by due and send times in steps of a millisecond (in long
//! runs, a 65,536th of the measured time).
//!
//! Never: an allocation per message, or a message that may still arrive, which would count twice.

use crate::measure::times::Times;
use crate::measure::window::Window;
use echoring_proto::limits::{MILLISECOND, Nanos};

/// Maximum number of steps of a run.
const STEPS_MAX: u64 = 65_536;

/// The lost messages of one thread.
#[derive(Clone, Debug, Default)]
pub struct LostMessages {
    window: Window,
    step: Nanos,
    intended: Vec<u32>,
    sent: Vec<u32>,
}

impl LostMessages {
    /// For messages that are due in the window.
    pub fn new(window: Window) -> LostMessages {
        let length = window.until.saturating_sub(window.from);
        let step = length.div_ceil(STEPS_MAX).max(MILLISECOND);
        let steps = length.div_ceil(step) as usize;
        LostMessages { window, step, intended: vec![0; steps], sent: vec![0; steps] }
    }

    /// Adds messages that were due and sent at about the same times.
    pub fn add(&mut self, times: Times, count: u32) {
        if self.window.contains(times.intended) {
            let (intended, sent) = (self.step_of(times.intended), self.step_of(times.sent));
            self.intended[intended] = self.intended[intended].saturating_add(count);
            self.sent[sent] = self.sent[sent].saturating_add(count);
        }
    }

    /// Due times of the messages, rounded to the middle of a step, with their counts.
    pub fn intended(&self) -> impl Iterator<Item = (Nanos, u64)> {
        self.steps(&self.intended)
    }

    /// Send times of the messages, in the same form.
    pub fn sent(&self) -> impl Iterator<Item = (Nanos, u64)> {
        self.steps(&self.sent)
    }

    fn steps<'a>(&self, counts: &'a [u32]) -> impl Iterator<Item = (Nanos, u64)> + use<'a> {
        let (first, step) = (self.window.from + self.step / 2, self.step);
        let times = (0..).map(move |at| first + at * step);
        times.zip(counts).filter(|(_, count)| **count > 0).map(|(time, count)| (time, u64::from(*count)))
    }

    fn step_of(&self, at: Nanos) -> usize {
        let step = at.saturating_sub(self.window.from) / self.step;
        (step as usize).min(self.intended.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::limits::SECOND;

    const WINDOW: Window = Window { from: 10 * SECOND, until: 12 * SECOND };

    fn at(millis: Nanos) -> Times {
        let intended = WINDOW.from + millis * MILLISECOND;
        Times { intended, sent: intended + 5 * MILLISECOND }
    }

    #[test]
    fn lost_messages_are_counted_by_their_times_within_the_window() {
        let mut missing = LostMessages::new(WINDOW);
        missing.add(at(3), 2);
        missing.add(at(1_999), 1);
        missing.add(Times { intended: WINDOW.from - 1, sent: WINDOW.from }, 1);
        missing.add(at(2_000), 1);
        let millis = |(time, count): (Nanos, u64)| ((time - WINDOW.from) / MILLISECOND, count);
        assert_eq!(missing.intended().map(millis).collect::<Vec<_>>(), [(3, 2), (1_999, 1)]);
        // A message that was sent after the window is counted in the last step.
        assert_eq!(missing.sent().map(millis).collect::<Vec<_>>(), [(8, 2), (1_999, 1)]);
    }

    #[test]
    fn a_long_run_has_longer_steps() {
        let day = Window { from: 0, until: 86_400 * SECOND };
        let mut missing = LostMessages::new(day);
        assert!(missing.intended.len() as u64 <= STEPS_MAX);
        missing.add(Times { intended: day.until - 1, sent: day.until - 1 }, 1);
        assert_eq!(missing.intended().count(), 1);
    }
}
