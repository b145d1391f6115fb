//! The connections of a run that one generator has, where several generators share a run.

use serde::{Deserialize, Serialize};

use super::contradiction::{Contradiction, refuse};
use super::workload::Workload;

/// Maximum number of generators of one run.
pub const SEGMENTS_MAX: u32 = 1_024;

/// A share of a run: each `of`-th connection, the first of which is number `index`. Rates, rows of data, topics and
/// payloads follow from the numbers of connections, so they are shared out with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(u32, u32)", into = "(u32, u32)")]
pub struct Segment {
    index: u32,
    of: u32,
}

impl From<Segment> for (u32, u32) {
    fn from(segment: Segment) -> (u32, u32) {
        (segment.index, segment.of)
    }
}

impl TryFrom<(u32, u32)> for Segment {
    type Error = String;

    fn try_from((index, of): (u32, u32)) -> Result<Segment, String> {
        Segment::new(index, of).ok_or_else(|| format!("{index} of {of} is not a valid segment"))
    }
}

impl Segment {
    /// All connections.
    pub const WHOLE: Segment = Segment { index: 0, of: 1 };

    /// Segment number `index`, from 0, of up to [`SEGMENTS_MAX`] segments.
    pub fn new(index: u32, of: u32) -> Option<Segment> {
        (index < of && of <= SEGMENTS_MAX).then_some(Segment { index, of })
    }

    /// Its number, from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// How many segments there are.
    pub fn of(self) -> u32 {
        self.of
    }

    /// How many of a run's connections it has.
    pub fn count(self, connections: u32) -> u32 {
        connections.saturating_sub(self.index).div_ceil(self.of)
    }

    /// The number in the run of its connection at `position`.
    pub(crate) fn number(self, position: u32) -> u32 {
        position * self.of + self.index
    }

    /// The position among its connections of the one with this number.
    pub(crate) fn position(self, number: u32) -> u32 {
        number / self.of
    }

    /// Whether it has the connection with this number.
    pub(crate) fn has(self, number: u32) -> bool {
        number % self.of == self.index
    }

    /// Validates that a load can be shared out among this many generators.
    ///
    /// # Errors
    /// The first flag that prevents it.
    pub fn check(self, load: &Workload) -> Result<(), Contradiction> {
        if self.of == 1 {
            return Ok(());
        }
        let why = format!("expected at least one for each of {} generators", self.of);
        refuse(load.connections < self.of, "--connections", why)?;
        refuse(load.traces, "--try", "shows the one connection of one generator")?;
        if !load.has_topics() {
            return Ok(());
        }
        // A publisher learns at the end only which of its messages have reached the subscribers of other generators.
        let why = "with topics on several generators, publishers need a rate, such as --rate 500: a closed loop \
                   would wait for reports of the other generators, and measure their delay";
        refuse(load.pace.depth().is_some(), "--depth", why)?;
        // A subscriber that comes back must learn at once how far the publishers of other generators are.
        let why = "with topics on several generators, subscribers must stay until the end: only the \
                   publisher's generator knows which messages a returning subscriber missed; leave out --rate, or \
                   --lifetime, --reconnect and --connect-ramp";
        refuse(load.churn.is_some(), "--mode", why)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::mode::Mode;
    use crate::plan::pace::Pace;
    use crate::plan::workload::tests::workload;

    proptest! {
        #[test]
        fn each_connection_is_in_one_segment(connections in 0..500_u32, of in 1..40_u32) {
            let mut found = vec![0; connections as usize];
            for segment in (0..of).map(|index| Segment::new(index, of).expect("valid")) {
                for position in 0..segment.count(connections) {
                    let number = segment.number(position);
                    prop_assert!(segment.has(number) && segment.position(number) == position);
                    found[number as usize] += 1;
                }
                prop_assert!(segment.count(connections).abs_diff(connections / of) <= 1);
            }
            prop_assert!(found.iter().all(|times| *times == 1));
        }
    }

    #[test]
    fn only_segments_that_exist_are_valid() {
        assert_eq!(Segment::new(0, 1), Some(Segment::WHOLE));
        assert_eq!(
            (Segment::new(3, 3), Segment::new(0, 0), Segment::new(0, SEGMENTS_MAX + 1)),
            (None, None, None)
        );
        assert!(
            serde_json::from_str::<Segment>("[2,3]").is_ok()
                && serde_json::from_str::<Segment>("[3,3]").is_err()
        );
    }

    #[test]
    fn a_load_that_cannot_be_shared_out_names_its_flag() {
        let third = Segment::new(0, 3).expect("valid");
        let blamed = |load: &Workload| third.check(load).err().map(|wrong| wrong.flag);
        let echo = Workload { connections: 3, ..workload(Mode::Echo) };
        assert_eq!(blamed(&echo), None);
        assert_eq!(blamed(&Workload { connections: 2, ..echo.clone() }), Some("--connections"));
        assert_eq!(blamed(&Workload { traces: true, ..echo }), Some("--try"));
        let broadcast = Workload { pace: Pace::Rate(10), ..workload(Mode::Broadcast) };
        assert_eq!(blamed(&broadcast), None);
        let closed = Workload { pace: Pace::Depth(1), ..broadcast.clone() };
        assert_eq!(blamed(&closed), Some("--depth"));
        assert!(Segment::WHOLE.check(&closed).is_ok());
        let churn =
            crate::plan::churn::Churn { ramp: std::time::Duration::from_secs(1), ..Default::default() };
        assert_eq!(blamed(&Workload { churn, ..broadcast }), Some("--mode"));
    }
}
