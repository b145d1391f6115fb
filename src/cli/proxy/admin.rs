//! The admin address of the proxy.

use echoring_admin::{Program, ProgramMetric};
use echoring_proxy::{Handle, Metric};

/// A running proxy, as its admin address reports it.
#[derive(Debug)]
pub(super) struct Served(pub(super) Handle);

impl Program for Served {
    fn has_failed(&self) -> bool {
        self.0.has_failed()
    }

    fn fail(&self, reason: &str) {
        self.0.fail(reason);
    }

    fn unready(&self) -> Option<&'static str> {
        self.0.unready()
    }

    fn drain(&self) {
        tracing::info!("draining, as POST /drain asked");
        self.0.drain();
    }

    fn metrics(&self) -> Vec<ProgramMetric> {
        let metric = |Metric { name, label, help, samples }| ProgramMetric { name, label, help, samples };
        self.0.metrics().into_iter().map(metric).collect()
    }
}
