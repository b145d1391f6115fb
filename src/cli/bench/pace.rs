//! Flags of `bench`: when messages are sent, and for how long they are awaited.

use std::str::FromStr as _;
use std::time::Duration;

use super::usage;
use super::words::{Arrivals, Rate, Stage};
use crate::cli::{Failure, values};
use crate::load::{Pace, RateStage};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Messages that each sender keeps under way; in --mode connect, connections there at once (closed loop) [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "rate")]
    pub(super) depth: Option<u32>,

    /// Messages a second over all senders, in --mode connect connections (open loop), such as 2000, 10k, 1.5M/s or 0.5
    /// [default: none; connect 2000]
    #[arg(long, value_name = "RATE", value_parser = Rate::from_str)]
    pub(super) rate: Option<Rate>,

    /// A part of the measured time with a rate of its own, TIME@RATE, or TIME@RATE..RATE where it goes evenly from one to the
    /// other, such as 30s@1k..10k; repeatable. The stages are the measured time, in place of --duration and --rate
    #[arg(long, value_name = "TIME@RATE[..RATE]", value_parser = Stage::from_str)]
    pub(super) stage: Vec<Stage>,

    /// Let the rate rise evenly from nothing to its first in this time, which is the beginning of the warm-up
    /// [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(super) ramp: Option<Duration>,

    /// How the messages of a rate are spread over time [default: even]
    #[arg(long, value_enum)]
    pub(super) arrivals: Option<Arrivals>,

    /// Let the messages of a rate leave in trains of N, each train from one sender at one instant, and so much farther apart
    /// [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) burst: Option<u32>,

    /// How long what is under way at the end is awaited; what has not come then is lost, and as old as it is then in all
    /// distributions [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(super) drain: Option<Duration>,

    /// Count messages that take longer than this, from when they should have left, as late, which fails the run unless
    /// --allow late [default: none is late]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(super) late_after: Option<Duration>,

    /// How late the generator may come to its own schedule at p99 before it counts as saturated, which is exit code 4
    /// [default: 1ms]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(super) max_lateness: Option<Duration>,

    /// Exit with 0 although the generator was late for its own schedule; the results say it as ever
    #[arg(long)]
    pub(super) allow_saturated: bool,
}

/// What stages take the place of, by the names of flags.
pub(super) const IN_PLACE_OF: [&str; 4] = ["duration", "rate", "depth", "find_max"];

/// Whether two flags, by their names, cannot be typed together although the parser takes them.
pub(super) fn contradict(one: &str, other: &str) -> bool {
    let are = |stage: &str, other: &str| stage == "stage" && IN_PLACE_OF.contains(&other);
    are(one, other) || are(other, one)
}

impl Args {
    /// Refuses flags that contradict one another. `duration` and `searches`: whether --duration and --find-max were typed.
    pub(super) fn check(&self, duration: bool, searches: bool) -> Result<(), Failure> {
        let typed = [
            ("--duration", duration, "the stages are the measured time: such as --stage 30s@10k"),
            (
                "--rate",
                self.rate.is_some(),
                "each stage has its own: such as --stage 30s@10k --stage 30s@20k",
            ),
            ("--depth", self.depth.is_some(), "stages are those of a rate: such as --stage 30s@10k"),
            (
                "--find-max",
                searches,
                "a search has its own rates: leave --stage out, as in --find-max 'p99<2ms'",
            ),
        ];
        if let Some((flag, _, why)) = typed.iter().find(|(_, typed, _)| *typed && !self.stage.is_empty()) {
            return Err(usage(flag, &format!("not with --stage: {why}")));
        }
        if self.arrivals.is_some() && self.is_closed(searches) {
            return Err(usage(
                "--arrivals",
                "only a rate is spread over time: such as --rate 5000 --arrivals poisson",
            ));
        }
        Ok(())
    }

    fn is_closed(&self, searches: bool) -> bool {
        self.rate.is_none() && self.stage.is_empty() && !searches
    }

    /// What decides when messages are sent; `otherwise` where no flag says it.
    pub(super) fn pace(&self, otherwise: Option<u64>) -> Pace {
        if !self.stage.is_empty() {
            return Pace::Stages(self.stage.iter().map(|Stage(stage)| *stage).collect());
        }
        match self.rate.map(|rate| rate.messages).or(otherwise) {
            Some(rate) => Pace::Rate(rate),
            None => Pace::Depth(self.depth.unwrap_or(1)),
        }
    }

    /// How long all stages take; `None` where there are none.
    pub(super) fn staged_time(&self) -> Option<Duration> {
        let times = self.stage.iter().map(|Stage(RateStage { time, .. })| *time);
        (!self.stage.is_empty()).then(|| times.sum())
    }
}
