//! Flags of `bench` for the schedule of messages.

use std::time::Duration;

use clap::ArgMatches;

use super::headings::{NONE, SCHEDULE};
use super::parsers::{self, Rate};
use super::usage::usage;
use crate::Failure;
use crate::common::file::flags::is_given;
use crate::common::values::{self, shown_duration};
use echoring_load::{Arrivals, DRAIN_DEFAULT, MAX_LATENESS_DEFAULT, Pace, RateStage};

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = SCHEDULE)]
pub(super) struct Args {
    /// Messages in flight per sender; in --mode connect, connections in flight [default: 1]
    ///
    /// The load is a closed loop: the next message is sent when an answer has arrived.
    #[arg(long, value_name = "N", conflicts_with = "rate", help_heading = NONE)]
    pub(super) depth: Option<u32>,

    /// Total messages per second, such as 2000, 10k, 1.5M/s or 0.5
    ///
    /// The load is an open loop: latency counts from the time at which a message was due. In --mode connect it is
    /// connections per second, 2000 by default, and in --mode session sessions per second.
    #[arg(long, value_name = "RATE", value_parser = parsers::rate, help_heading = NONE)]
    pub(super) rate: Option<Rate>,

    /// Add a stage with its own rate, such as 30s@10k, or 30s@1k..10k for a rising rate; repeatable
    ///
    /// TIME@RATE..RATE changes the rate linearly. The stages replace --duration and --rate; each is reported separately.
    #[arg(long, value_name = "TIME@RATE[..RATE]", value_parser = parsers::stage)]
    pub(super) stage: Vec<RateStage>,

    /// Raise the rate linearly from zero for this time at the start of the warm-up
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = values::duration)]
    pub(super) ramp: Duration,

    /// Distribution of the messages of a rate over time
    #[arg(long, value_parser = values::one_of(Arrivals::WORDS), default_value = "even")]
    pub(super) arrivals: Arrivals,

    /// Send the messages of a rate in bursts of N at the same mean rate
    ///
    /// All messages of a burst come from one sender at the same time.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) burst: u32,

    /// Send a WebSocket ping on each connection at this interval, in addition to the load
    ///
    /// The server's WebSocket layer answers pings without the application, so their round trips show the delay of the
    /// network and the event loop. --mode ping sends pings only.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(super) ping_every: Option<Duration>,

    /// Maximum time to wait for outstanding messages at the end
    ///
    /// A message that has not arrived by then is counted as lost, with its age as its latency.
    #[arg(long, value_name = "TIME", default_value = shown_duration(DRAIN_DEFAULT), value_parser = values::duration)]
    pub(super) drain: Duration,

    /// Count messages that take longer than this as late [default: none is late]
    ///
    /// The time starts when a message is due. Late messages fail the run, except with --allow late.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(super) late_after: Option<Duration>,

    /// Maximum p99 lateness of the generator before the run counts as saturated (exit code 4)
    #[arg(long, value_name = "TIME", default_value = shown_duration(MAX_LATENESS_DEFAULT), value_parser = values::duration)]
    pub(super) max_lateness: Duration,

    /// Exit with 0 even if the generator was saturated; the results still say so
    #[arg(long)]
    pub(super) allow_saturated: bool,
}

/// The flags that stages replace.
pub(super) const IN_PLACE_OF: [&str; 3] = ["duration", "rate", "depth"];

/// Whether two flags, by their names, cannot be typed together although the parser takes them.
pub(super) fn contradict(one: &str, other: &str) -> bool {
    let are = |stage: &str, other: &str| stage == "stage" && IN_PLACE_OF.contains(&other);
    are(one, other) || are(other, one)
}

impl Args {
    /// Refuses flags that contradict one another. `duration`: whether --duration was typed; `searches`: whether the rate is searched.
    pub(super) fn check(&self, typed: &ArgMatches, duration: bool, searches: bool) -> Result<(), Failure> {
        let in_place_of = [
            ("--duration", duration, "the stages set the measured time, e.g. --stage 30s@10k"),
            (
                "--rate",
                self.rate.is_some(),
                "each stage has its own rate, e.g. --stage 30s@10k --stage 30s@20k",
            ),
            ("--depth", self.depth.is_some(), "stages need a rate, e.g. --stage 30s@10k"),
        ];
        if let Some((flag, _, why)) =
            in_place_of.iter().find(|(_, typed, _)| *typed && !self.stage.is_empty())
        {
            return Err(usage(flag, &format!("not with --stage: {why}")));
        }
        if is_given(typed, "arrivals") && !self.has_rate() && !searches {
            return Err(usage(
                "--arrivals",
                "only a rate is spread over time, e.g. --rate 5000 --arrivals poisson",
            ));
        }
        Ok(())
    }

    /// Whether messages have a rate.
    pub(super) fn has_rate(&self) -> bool {
        self.rate.is_some() || !self.stage.is_empty()
    }

    /// Returns the pace at which messages are sent; `otherwise` where no flag says it.
    pub(super) fn pace(&self, otherwise: Option<u64>) -> Pace {
        if !self.stage.is_empty() {
            return Pace::Stages(self.stage.clone());
        }
        match self.rate.map(|rate| rate.messages).or(otherwise) {
            Some(rate) => Pace::Rate(rate),
            None => Pace::Depth(self.depth.unwrap_or(1)),
        }
    }

    /// How long all stages take; `None` where there are none.
    pub(super) fn staged_time(&self) -> Option<Duration> {
        let times = self.stage.iter().map(|stage| stage.time);
        (!self.stage.is_empty()).then(|| times.sum())
    }
}
