//! How long a server of this process drains, on a signal and for a successor.

use std::time::Duration;

use crate::limits::{EXIT_GRACE, LAME_DUCK_PARTS, LAME_DUCK_TIME_MAX};
use echoring_admin::limits::CLUSTER_LEAVE_TIMEOUT;
use echoring_async::limits::DRAIN_TIMEOUT;
use echoring_server::limits::PACED_DRAIN_TIME;
use echoring_server::{Handle, PacedDrain};

/// The settings of the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DrainSettings {
    /// `--drain`.
    pub(super) time: Option<Duration>,
    /// `--drain-rate`.
    pub(super) per_second_max: u32,
}

impl DrainSettings {
    /// Time from a signal until no connections are accepted, in which `/readyz` answers 503.
    pub(super) fn lame_duck(&self) -> Duration {
        self.time.map_or(Duration::ZERO, |time| LAME_DUCK_TIME_MAX.min(time / LAME_DUCK_PARTS))
    }

    /// Drains because of a signal, after the time of [`lame_duck`](DrainSettings::lame_duck). Without `--drain`, everyone
    /// is closed at once. In a cluster, other nodes take the topics over before.
    pub(super) fn begin(&self, server: &Handle) {
        // While all clients are still served, so that those who come back elsewhere miss nothing.
        if let Some(cluster) = server.cluster()
            && !cluster.hand_over(CLUSTER_LEAVE_TIMEOUT)
        {
            tracing::warn!("the topics were not handed over to other nodes in time");
        }
        match self.time {
            None => server.drain(),
            Some(time) => {
                let time = time - self.lame_duck();
                server.drain_over(PacedDrain { time, per_second_max: self.per_second_max });
            }
        }
    }

    /// Time from the beginning of the drain to the end of the process.
    pub(super) fn exit_timeout(&self) -> Duration {
        self.time.map_or(Duration::from_nanos(DRAIN_TIMEOUT), |time| time - self.lame_duck()) + EXIT_GRACE
    }

    /// The drain that no signal begins: clients are served meanwhile.
    pub(super) fn paced(&self) -> PacedDrain {
        let time = self.time.unwrap_or(Duration::from_nanos(PACED_DRAIN_TIME));
        PacedDrain { time, per_second_max: self.per_second_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_time_a_signal_is_a_short_drain_and_a_paced_one_is_long() {
        let settings = DrainSettings { time: None, per_second_max: 7 };
        assert_eq!(settings.lame_duck(), Duration::ZERO);
        assert!(settings.exit_timeout() < Duration::from_secs(10));
        assert_eq!(settings.paced(), PacedDrain { time: Duration::from_secs(60), per_second_max: 7 });
    }

    #[test]
    fn a_time_includes_the_lame_duck() {
        let of = |seconds| DrainSettings { time: Some(Duration::from_secs(seconds)), per_second_max: 7 };
        assert_eq!(of(20).lame_duck(), Duration::from_secs(2));
        assert_eq!(of(300).lame_duck(), Duration::from_secs(5));
        assert_eq!(of(20).lame_duck() + of(20).exit_timeout(), Duration::from_secs(20) + EXIT_GRACE);
    }
}
