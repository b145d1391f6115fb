//! How connections come and go while the load runs: lifetimes, reconnecting with back-off, a ramp of connections, and the
//! cut of a storm.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::contradiction::{Contradiction, refuse};
use super::declared::words;
use super::mode::Mode;
use super::random_time::RandomTime;
use super::schedule::profile::STAGE_TIME_MAX;
use super::units::parse_times;
use super::workload::Workload;
use echoring_proto::limits::Nanos;

/// Pauses of [`Mode::Storm`] without others: the first attempt of a client comes within half a second.
pub const STORM_BACKOFF_DEFAULT: Backoff =
    Backoff { least: Duration::from_millis(500), most: Duration::from_secs(20) };

/// How connections come and go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Churn {
    /// How long a connection is open until it is closed and opened again.
    pub lifetime: Option<RandomTime>,
    /// Pauses before a connection that ended by itself, or failed to open again, is dialled; `None` leaves it closed.
    pub reconnect: Option<Backoff>,
    /// The time over which connections open, evenly, while the load runs; zero opens all before.
    pub ramp: Duration,
    /// The side that cuts the connections; [`Mode::Storm`] only.
    pub cut: Cut,
}

/// Pauses before attempts in a row: each is random, from zero to a bound that doubles from `least` to `most`. Equal
/// bounds are the pause itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Bound of the first pause.
    pub least: Duration,
    /// The highest bound.
    pub most: Duration,
}

words! {
    /// The side that cuts all connections of a storm.
    #[derive(Default)]
    pub enum Cut {
        /// This program, without a closing handshake, when the measured time begins
        #[default]
        Client => "client",
        /// The server, for example by a restart within the measured time
        Server => "server",
    }
}

impl Backoff {
    /// The pause before the attempt that follows `failures` in a row, for a random number from 0 up to 1.
    pub(crate) fn pause(self, failures: u32, unit: f64) -> Nanos {
        if self.least == self.most {
            return self.least.as_nanos() as Nanos;
        }
        let bound = self.least.saturating_mul(1 << failures.min(30)).min(self.most);
        (unit * bound.as_nanos() as f64) as Nanos
    }
}

impl FromStr for Backoff {
    type Err = String;

    fn from_str(text: &str) -> Result<Backoff, String> {
        parse_times(text).map(|(least, most)| Backoff { least, most })
    }
}

impl fmt::Display for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RandomTime::Between(self.least, self.most).fmt(f)
    }
}

impl Churn {
    /// Whether connections may open while the load runs.
    pub fn is_some(&self) -> bool {
        self.lifetime.is_some() || self.reconnect.is_some() || !self.ramp.is_zero()
    }

    /// Validates the options.
    ///
    /// # Errors
    /// The first flag that contradicts another one or a bound.
    pub(super) fn check(&self, load: &Workload) -> Result<(), Contradiction> {
        let why = "connections of a storm come back, e.g. --reconnect 500ms..20s";
        refuse(load.mode == Mode::Storm && self.reconnect.is_none(), "--reconnect", why)?;
        let Some(flag) = self.first_flag() else { return Ok(()) };
        let why = "in --mode connect and --mode session, connections are the load, e.g. --rate 500";
        refuse(load.mode.opens_when_due(), flag, why)?;
        let is_zero = self.lifetime.is_some_and(RandomTime::is_zero);
        refuse(is_zero, "--lifetime", "expected a time above 0, such as --lifetime exp:60s")?;
        let why = "expected at most 24h, such as --connect-ramp 30s";
        refuse(self.ramp > STAGE_TIME_MAX, "--connect-ramp", why)?;
        let why = "publishers of a closed loop wait for all subscribers, e.g. --rate 500";
        refuse(load.has_topics() && load.pace.depth().is_some(), flag, why)?;
        refuse(load.stalled > 0, flag, "not with --slow, whose subscribers stay for the whole run")?;
        let why = "in --mode storm, all connections end at once: leave it out";
        refuse(load.mode == Mode::Storm && self.lifetime.is_some(), "--lifetime", why)
    }

    /// The flag of one of the options that are used.
    fn first_flag(&self) -> Option<&'static str> {
        let flags = [
            ("--lifetime", self.lifetime.is_some()),
            ("--reconnect", self.reconnect.is_some()),
            ("--connect-ramp", !self.ramp.is_zero()),
        ];
        flags.into_iter().find(|(_, used)| *used).map(|(flag, _)| flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::pace::Pace;
    use crate::plan::workload::tests::workload;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let backoff: Backoff = "100ms..1s".parse().expect("a back-off");
        let bounds = [0, 1, 2, 3, 4, 40].map(|failures| backoff.pause(failures, 1.0) / 1_000_000);
        assert_eq!(bounds, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(backoff.pause(2, 0.25), 100_000_000, "each is random below its bound");
        let constant: Backoff = "2s".parse().expect("a pause");
        assert_eq!((constant.pause(0, 0.1), constant.pause(9, 0.9)), (2_000_000_000, 2_000_000_000));
        assert_eq!(backoff.to_string().parse(), Ok(backoff));
        for wrong in ["", "1", "2s..1s", "x..1s", "1s..48h"] {
            assert!(wrong.parse::<Backoff>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn contradictions_name_their_flag() {
        let blamed = |load: Workload| load.check().err().map(|wrong| wrong.flag);
        let lifetime = Churn { lifetime: "exp:1s".parse().ok(), ..Churn::default() };
        let reconnect = Churn { reconnect: "1s".parse().ok(), ..Churn::default() };
        let ramp = Churn { ramp: Duration::from_secs(1), ..Churn::default() };
        let broadcast = || Workload { pace: Pace::Rate(5), ..workload(Mode::Broadcast) };
        for (churn, flag) in
            [(&lifetime, "--lifetime"), (&reconnect, "--reconnect"), (&ramp, "--connect-ramp")]
        {
            let with = |load| blamed(Workload { churn: churn.clone(), ..load });
            assert_eq!(with(workload(Mode::Echo)), None);
            assert_eq!(with(workload(Mode::Push)), None);
            assert_eq!(with(broadcast()), None);
            assert_eq!(with(Workload { pace: Pace::Rate(5), ..workload(Mode::Connect) }), Some(flag));
            assert_eq!(with(workload(Mode::Broadcast)), Some(flag), "a closed loop");
            assert_eq!(with(Workload { connections: 9, stalled: 1, ..broadcast() }), Some(flag));
        }
        let zero = Churn { lifetime: "0s".parse().ok(), ..Churn::default() };
        assert_eq!(blamed(Workload { churn: zero, ..workload(Mode::Echo) }), Some("--lifetime"));
        let storm = |churn| Workload { churn, ..workload(Mode::Storm) };
        assert_eq!(blamed(storm(reconnect.clone())), None);
        let both = Churn { lifetime: lifetime.lifetime, ..reconnect };
        assert_eq!(blamed(storm(both)), Some("--lifetime"));
        assert_eq!(blamed(storm(Churn::default())), Some("--reconnect"));
    }
}
