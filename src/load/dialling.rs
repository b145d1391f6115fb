//! How the connections of a load are opened, and what becomes of them where they are the load.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::{Contradiction, Mode, Workload};
use super::schedule::RATE_MAX;
use crate::limits::HANDSHAKE_TIMEOUT;

/// Connections a second of [`Mode::Connect`] when nothing is said.
pub const CONNECT_RATE_DEFAULT: u64 = 2_000;
/// Connections of [`Mode::Connect`] that may be there at once when nothing is said.
pub const PLACES_DEFAULT: u32 = 1_000;
/// The longest that a handshake or a connection that is held may last.
const TIME_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How connections are opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dialling {
    /// So many a second, over all threads, whatever comes of them; `None` for as fast as few at a time go. Not in
    /// [`Mode::Connect`], whose pace is that of the load.
    pub rate: Option<u64>,
    /// From dialling to the 101. What takes longer has failed.
    pub timeout: Duration,
    /// Whether TLS goes on with the sessions of earlier connections.
    pub resumes: bool,
    /// How long a connection stays once it has what it was opened for; [`Mode::Connect`] only.
    pub hold: Duration,
    /// Whether a connection sends one message and awaits its echo; [`Mode::Connect`] only. If not it is opened for the
    /// 101 alone.
    pub first_message: bool,
}

impl Default for Dialling {
    fn default() -> Dialling {
        Dialling {
            rate: None,
            timeout: Duration::from_nanos(HANDSHAKE_TIMEOUT),
            resumes: true,
            hold: Duration::ZERO,
            first_message: true,
        }
    }
}

impl Workload {
    /// Checks that connections can be opened as asked.
    ///
    /// # Errors
    /// The first flag that contradicts another one or a bound.
    pub(super) fn check_dialling(&self) -> Result<(), Contradiction> {
        let wrong = |flag, why: String| Err(Contradiction { flag, why });
        let Dialling { rate, timeout, hold, .. } = self.dialling;
        if timeout.is_zero() || timeout > TIME_MAX {
            return wrong("--connect-timeout", "expected up to 24h, such as --connect-timeout 5s".to_owned());
        }
        if hold > TIME_MAX {
            return wrong("--hold", "expected at most 24h, such as --hold 10s".to_owned());
        }
        match rate {
            Some(0) => {
                let why = "expected at least 1 connection a second, such as --connect-rate 500/s";
                return wrong("--connect-rate", why.to_owned());
            }
            Some(rate) if rate > RATE_MAX => {
                return wrong("--connect-rate", format!("expected at most {RATE_MAX} connections a second"));
            }
            Some(_) if self.mode == Mode::Connect => {
                let why =
                    "in --mode connect the rate of connections is that of --rate, such as --rate 2000/s";
                return wrong("--connect-rate", why.to_owned());
            }
            _ => {}
        }
        if self.mode == Mode::Connect { self.check_places() } else { Ok(()) }
    }

    /// What is held takes a place all the time.
    fn check_places(&self) -> Result<(), Contradiction> {
        let places = self.connections;
        match self.pace.highest_rate() {
            Some(rate) => {
                let held = (rate as f64 * self.dialling.hold.as_secs_f64()).ceil();
                if held < f64::from(places) || held == 0.0 {
                    return Ok(());
                }
                let why = format!(
                    "{rate} a second, each held for {:?}, are {held} at once, and there is room for {places}: such \
                     as --connections {}",
                    self.dialling.hold,
                    (held as u64).saturating_mul(11).div_ceil(10)
                );
                Err(Contradiction { flag: "--connections", why })
            }
            None => match self.pace.depth() {
                Some(depth) if depth != places => {
                    let why =
                        format!("--depth {depth} is how many are open at once: leave --connections out");
                    Err(Contradiction { flag: "--connections", why })
                }
                _ => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::Pace;
    use crate::load::plan::tests::workload;

    fn blamed(load: &Workload) -> Option<&'static str> {
        load.check().err().map(|wrong| wrong.flag)
    }

    #[test]
    fn what_is_held_needs_its_place() {
        let rate = |rate, hold_ms, connections| Workload {
            connections,
            pace: Pace::Rate(rate),
            dialling: Dialling { hold: Duration::from_millis(hold_ms), ..Dialling::default() },
            ..workload(Mode::Connect)
        };
        assert_eq!(blamed(&rate(2_000, 0, 1)), None);
        assert_eq!(blamed(&rate(2_000, 400, 801)), None);
        assert_eq!(blamed(&rate(2_000, 400, 800)), Some("--connections"));
        let told = rate(2_000, 400, 800).check().expect_err("no room").to_string();
        assert!(told.contains("such as --connections 880") && !told.contains('\n'), "{told}");
    }

    #[test]
    fn a_contradiction_names_its_flag() {
        let echo = workload(Mode::Echo);
        let connect = Workload { pace: Pace::Rate(5), ..workload(Mode::Connect) };
        let with = |load: &Workload, dialling| blamed(&Workload { dialling, ..load.clone() });
        let default = Dialling::default();
        assert_eq!(with(&echo, default.clone()), None);
        assert_eq!(with(&connect, default.clone()), None);
        let timeout = |timeout| Dialling { timeout, ..default.clone() };
        assert_eq!(with(&echo, timeout(Duration::ZERO)), Some("--connect-timeout"));
        assert_eq!(with(&echo, timeout(TIME_MAX * 2)), Some("--connect-timeout"));
        assert_eq!(with(&connect, Dialling { hold: TIME_MAX * 2, ..default.clone() }), Some("--hold"));
        for rate in [0, RATE_MAX + 1] {
            assert_eq!(with(&echo, Dialling { rate: Some(rate), ..default.clone() }), Some("--connect-rate"));
        }
        assert_eq!(with(&echo, Dialling { rate: Some(5), ..default.clone() }), None);
        assert_eq!(with(&connect, Dialling { rate: Some(5), ..default }), Some("--connect-rate"));
        assert_eq!(blamed(&Workload { pace: Pace::Depth(3), ..connect.clone() }), Some("--connections"));
        assert_eq!(blamed(&Workload { pace: Pace::Depth(10), ..connect }), None);
    }
}
