//! A log that an attack cannot fill.

use echoring_proto::limits::Nanos;

/// At most one record per interval, with the number of those that were left out before it.
#[derive(Debug, Default)]
pub struct LogInterval {
    logged_at: Option<Nanos>,
    left_out: u64,
}

impl LogInterval {
    /// The number of records that were left out, if one is due.
    pub fn due(&mut self, now: Nanos, interval: Nanos) -> Option<u64> {
        if self.logged_at.is_some_and(|at| now.saturating_sub(at) < interval) {
            self.left_out += 1;
            return None;
        }
        Some(self.begin(now))
    }

    /// A record is due, even if another was logged recently. Returns the number of those that were left out.
    pub(crate) fn begin(&mut self, now: Nanos) -> u64 {
        self.logged_at = Some(now);
        std::mem::take(&mut self.left_out)
    }

    /// When the latest record was logged; 0 before the first.
    pub(super) fn logged_at(&self) -> Nanos {
        self.logged_at.unwrap_or(0)
    }
}
