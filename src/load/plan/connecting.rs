//! How connections are opened and, in connect mode, how long they are held.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::contradiction::{Contradiction, refuse};
use crate::plan::declared::with_defaults;
use crate::plan::mode::Mode;
use crate::plan::pace::Pace;
use crate::plan::schedule::profile::RATE_MAX;
use crate::plan::template::Template;
use echoring_proto::limits::HANDSHAKE_TIMEOUT;

/// Default rate of [`Mode::Connect`] in connections per second.
pub const CONNECT_RATE_DEFAULT: u64 = 2_000;
/// Default maximum of concurrent connections of [`Mode::Connect`] and [`Mode::Session`].
pub const CONNECT_SLOTS_DEFAULT: u32 = 1_000;
/// The longest connect timeout or hold time.
const TIME_MAX: Duration = Duration::from_secs(24 * 3_600);

with_defaults! {
    /// How connections are opened.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct ConnectOptions {
        /// Connections per second over all threads, whether they succeed or not; `None` opens as fast as the number of
        /// concurrent handshakes allows. Not in [`Mode::Connect`], where the pace of the load sets the rate.
        pub rate: Option<u64> = None,
        /// Time limit from the dial to the 101. A handshake that takes longer has failed.
        pub timeout: Duration = Duration::from_nanos(HANDSHAKE_TIMEOUT),
        /// Whether TLS resumes the sessions of earlier connections.
        pub resumes: bool = true,
        /// How long a connection is held after its reply; [`Mode::Connect`] only.
        pub hold: Duration = Duration::ZERO,
        /// Whether a connection sends one message and awaits its echo, or is done after the 101; [`Mode::Connect`] only.
        pub first_message: bool = true,
        /// Further header fields of the upgrade request. `Host` replaces that of the URL.
        pub headers: Vec<(String, Template)> = Vec::new(),
        /// The `Origin` field.
        pub origin: Option<Template> = None,
        /// Subprotocols to offer, in order of preference.
        pub subprotocols: Vec<String> = Vec::new(),
    }
}

impl ConnectOptions {
    /// Validates the options.
    ///
    /// # Errors
    /// The first flag that contradicts another one or a bound.
    pub(super) fn check(&self, mode: Mode, pace: &Pace, connections: u32) -> Result<(), Contradiction> {
        let ConnectOptions { rate, timeout, hold, .. } = *self;
        let is_wrong = timeout.is_zero() || timeout > TIME_MAX;
        refuse(is_wrong, "--connect-timeout", "expected up to 24h, such as --connect-timeout 5s")?;
        refuse(hold > TIME_MAX, "--hold", "expected at most 24h, such as --hold 10s")?;
        let flag = "--connect-rate";
        let why = "expected at least 1 connection per second, such as --connect-rate 500/s";
        refuse(rate == Some(0), flag, why)?;
        let why = format!("expected at most {RATE_MAX} connections per second");
        refuse(rate.is_some_and(|rate| rate > RATE_MAX), flag, why)?;
        let why =
            "in --mode connect and --mode session, --rate sets the connection rate, such as --rate 2000/s";
        refuse(mode.opens_when_due() && rate.is_some(), flag, why)?;
        if mode == Mode::Connect { self.check_slots(pace, connections) } else { Ok(()) }
    }

    /// Checks that there are slots for all connections that are open at once.
    fn check_slots(&self, pace: &Pace, slots: u32) -> Result<(), Contradiction> {
        let flag = "--connections";
        if let Some(rate) = pace.highest_rate() {
            let held = (rate as f64 * self.hold.as_secs_f64()).ceil();
            let why = format!(
                "{rate} a second, each held for {:?}, make {held} at once, but there is room for {slots}: such \
                 as --connections {}",
                self.hold,
                (held as u64).saturating_mul(11).div_ceil(10)
            );
            return refuse(held >= f64::from(slots) && held != 0.0, flag, why);
        }
        let depth = pace.depth().unwrap_or(slots);
        let why = format!("--depth {depth} sets the number of open connections; omit --connections");
        refuse(depth != slots, flag, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::workload::Workload;
    use crate::plan::workload::tests::workload;

    fn blamed(load: &Workload) -> Option<&'static str> {
        load.check().err().map(|wrong| wrong.flag)
    }

    #[test]
    fn held_connections_need_slots() {
        let rate = |rate, hold_ms, connections| Workload {
            connections,
            pace: Pace::Rate(rate),
            connecting: ConnectOptions { hold: Duration::from_millis(hold_ms), ..ConnectOptions::default() },
            ..workload(Mode::Connect)
        };
        assert_eq!(blamed(&rate(2_000, 0, 1)), None);
        assert_eq!(blamed(&rate(2_000, 400, 801)), None);
        assert_eq!(blamed(&rate(2_000, 400, 800)), Some("--connections"));
        let text = rate(2_000, 400, 800).check().expect_err("no room").to_string();
        assert!(text.contains("such as --connections 880") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn a_contradiction_names_its_flag() {
        let echo = workload(Mode::Echo);
        let connect = Workload { pace: Pace::Rate(5), ..workload(Mode::Connect) };
        let with = |load: &Workload, connecting| blamed(&Workload { connecting, ..load.clone() });
        let default = ConnectOptions::default();
        assert_eq!(with(&echo, default.clone()), None);
        assert_eq!(with(&connect, default.clone()), None);
        let timeout = |timeout| ConnectOptions { timeout, ..default.clone() };
        assert_eq!(with(&echo, timeout(Duration::ZERO)), Some("--connect-timeout"));
        assert_eq!(with(&echo, timeout(TIME_MAX * 2)), Some("--connect-timeout"));
        assert_eq!(with(&connect, ConnectOptions { hold: TIME_MAX * 2, ..default.clone() }), Some("--hold"));
        for rate in [0, RATE_MAX + 1] {
            assert_eq!(
                with(&echo, ConnectOptions { rate: Some(rate), ..default.clone() }),
                Some("--connect-rate")
            );
        }
        assert_eq!(with(&echo, ConnectOptions { rate: Some(5), ..default.clone() }), None);
        assert_eq!(with(&connect, ConnectOptions { rate: Some(5), ..default }), Some("--connect-rate"));
        assert_eq!(blamed(&Workload { pace: Pace::Depth(3), ..connect.clone() }), Some("--connections"));
        assert_eq!(blamed(&Workload { pace: Pace::Depth(10), ..connect }), None);
    }
}
