//! `--measure`: what an echo costs on each driver of this host. Which one is cheaper depends on the processor, the kernel and its
//! mitigations, and no file says it.

use std::time::Duration;

use serde::Serialize;

use super::check::Check;
use super::plan::Plan;
use super::probes::Probes;
use crate::Failure;
use crate::bench::start_server;
use crate::common::environment;
use echoring_load::analyse::pairs::{PairedRatio, Pairs};
use echoring_load::analyse::statistics::median;
use echoring_load::{
    Compress, DriverChoice, Measures as _, Refused, Resources, Target, TargetSession, Workload, allowed_cpus,
};

const ID: &str = "drivers";
/// Pairs of runs, as many as fit ten seconds with their connecting. The interval of the sign test needs six.
const PAIRS: usize = 8;
const RUN: Duration = Duration::from_millis(300);
const WARMUP: Duration = Duration::from_millis(50);
const CONNECTIONS: u32 = 50;
/// A driver that is cheaper by less is not worth a change of the configuration.
const WORTH: f64 = 0.95;

/// The server's CPU time for an echo of 64 bytes on 50 connections.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Costs {
    uring_cpu_ns: f64,
    epoll_cpu_ns: f64,
    /// Of epoll to io_uring.
    #[serde(flatten)]
    ratio: PairedRatio,
}

/// Measures both drivers in turn, each on a server of its own. `None` where there is no io_uring.
///
/// # Errors
/// If a server cannot be started or measured.
pub(super) fn measure(probes: &Probes) -> Result<Option<Costs>, Failure> {
    if probes.uring.is_err() {
        return Ok(None);
    }
    let resources = resources();
    let open = |driver| {
        let start = move |cpus: &[usize]| start_server(cpus, driver, 0, &Compress::off());
        TargetSession::open(Target::Embedded(Box::new(start)), resources.clone()).map_err(refused)
    };
    let (uring, epoll) = (open(DriverChoice::Uring)?, open(DriverChoice::Epoll)?);
    let mut costs: [Vec<f64>; 2] = Default::default();
    for pair in 0..PAIRS {
        let mut sides = [(0, &uring), (1, &epoll)];
        // Each is the first one in half of the pairs.
        sides.rotate_left(pair % 2);
        for (side, session) in sides {
            costs[side].push(cost(session)?);
        }
    }
    let [uring_cpu_ns, epoll_cpu_ns] = costs.each_ref().map(|side| median(side).unwrap_or_default());
    let [uring, epoll] = costs;
    let values = uring.into_iter().zip(epoll).map(<[f64; 2]>::from).collect();
    let ratio = Pairs::Values(values).ratio().map_err(Failure::Environment)?;
    Ok(Some(Costs { uring_cpu_ns, epoll_cpu_ns, ratio }))
}

/// The generator shares no CPU with the servers where there are two.
fn resources() -> Resources {
    let (cpus, server_cpus) = match allowed_cpus()[..] {
        [server, .., generator] => (vec![generator], vec![server]),
        _ => (Vec::new(), Vec::new()),
    };
    let descriptors = environment::raise_descriptor_limit();
    Resources { cpus, server_cpus, descriptors, ..Resources::default() }
}

fn refused(Refused(line): Refused) -> Failure {
    Failure::Environment(line)
}

fn cost(session: &TargetSession) -> Result<f64, Failure> {
    let load = Workload { connections: CONNECTIONS, duration: RUN, warmup: WARMUP, ..Workload::default() };
    let outcome = session.measure(load, &mut |_| {}).map_err(refused)?;
    let server = outcome.record.server.and_then(|server| server.cpu_ns_per_message);
    server.ok_or_else(|| Failure::Environment("the server of a measurement answered nothing".to_owned()))
}

pub(super) fn check(plan: &Plan, costs: Option<Costs>) -> Check {
    let Some(Costs { uring_cpu_ns, epoll_cpu_ns, ratio }) = costs else {
        return Check::green(ID, "only epoll runs here");
    };
    let PairedRatio { ratio, ratio_low, ratio_high, .. } = ratio;
    let finding = format!(
        "an echo takes {:.2} us of CPU on io_uring and {:.2} us on epoll: {ratio:.2} of it, between {ratio_low:.2} and {ratio_high:.2}",
        uring_cpu_ns / 1e3,
        epoll_cpu_ns / 1e3,
    );
    // What `auto` chooses is known: there is io_uring here.
    match plan.config.driver {
        DriverChoice::Epoll if ratio_low > 1.0 / WORTH => Check::yellow(ID, finding, "driver = \"auto\""),
        DriverChoice::Auto | DriverChoice::Uring if ratio_high < WORTH => {
            Check::yellow(ID, finding, "driver = \"epoll\"")
        }
        _ => Check::green(ID, finding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Verdict;
    use crate::doctor::host::Host;
    use echoring_server::ServerConfig;

    #[test]
    fn the_dearer_driver_is_yellow_if_the_difference_is_certain() {
        let judged = |driver, values: &[[f64; 2]]| {
            let ratio = Pairs::Values(values.to_vec()).ratio().expect("pairs");
            let costs = Costs { uring_cpu_ns: 2_000.0, epoll_cpu_ns: 1_000.0, ratio };
            let config = ServerConfig { driver, ..ServerConfig::default() };
            let plan = Plan::new(config, false, &Host::below(std::path::Path::new("/nowhere")));
            check(&plan, Some(costs)).verdict
        };
        let (cheaper, dearer) = (&[[2.0, 1.8]; PAIRS], &[[2.0, 2.2]; PAIRS]);
        let mut uncertain = *cheaper;
        uncertain[..3].fill([2.0, 1.99]);
        for (driver, values, verdict) in [
            (DriverChoice::Auto, cheaper, Verdict::Yellow),
            (DriverChoice::Uring, cheaper, Verdict::Yellow),
            (DriverChoice::Epoll, cheaper, Verdict::Green),
            (DriverChoice::Auto, dearer, Verdict::Green),
            (DriverChoice::Epoll, dearer, Verdict::Yellow),
            (DriverChoice::Auto, &uncertain, Verdict::Green),
            (DriverChoice::Auto, &[[2.0, 1.95]; PAIRS], Verdict::Green),
        ] {
            assert_eq!(judged(driver, values), verdict, "{driver:?} {values:?}");
        }
    }
}
