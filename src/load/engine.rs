//! The runs: threads with an event loop each, which open connections, send and receive.
//!
//! A [`TargetSession`] holds the target; [`Measures::measure`] puts it under one load and returns the [`Outcome`].
//! Each worker thread has a client, which records into its own tally; see [`measure`](crate::measure).

mod address;
mod client;
mod config;
pub(crate) mod coordination;
mod measured_time;
pub(crate) mod outcome;
pub(crate) mod progress;
mod server_sampler;
pub(crate) mod session;
mod shared;
mod sources;
mod stamping;
pub(crate) mod trace;
mod workers;

pub use coordination::{Coordination, Part};
pub use outcome::{Outcome, RunVerdict};
pub use progress::{RunProgress, RunStage};
pub use server_sampler::ServerSampler;
pub use session::{Measures, TargetSession};
pub use trace::{TraceEvent, Traced};

use crate::plan::{Plan, Refused};

/// Runs the plan's loads one after the other. `show` is called a few times per second.
///
/// # Errors
/// If the environment prevents the run: the server is unreachable, ports or descriptors are too few, or the driver is
/// denied.
pub fn run(plan: Plan, show: &mut dyn FnMut(&RunProgress<'_>)) -> Result<Vec<Outcome>, Refused> {
    let Plan { target, workloads, resources } = plan;
    let session = TargetSession::open(target, resources)?;
    let mut outcomes = Vec::new();
    for load in workloads {
        outcomes.push(session.measure(load, show)?);
        if session.is_stopped() {
            break;
        }
    }
    Ok(outcomes)
}
