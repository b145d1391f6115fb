//! Whether the kernel's times of a run's messages are noted.

use crate::plan::timestamps::Stamping;
use crate::plan::{Endpoint, Mode, Timestamps, Workload};
use echoring_runtime::driver::{RemoteAddress, has_kernel_times};

/// Highest rate of a thread, in messages per second, at which `auto` notes the kernel's times: they take about 6 µs of CPU time a message, so
/// 3 % of a CPU.
const FULL_RATE_MAX: u64 = 5_000;

/// Whose times a load on `threads` threads uses.
pub(super) fn stamping(load: &Workload, endpoints: &[Endpoint], threads: usize) -> Stamping {
    match every(load, endpoints, threads) {
        Ok(every) => Stamping { every, why_not: None },
        Err(why) => Stamping { every: 0, why_not: Some(why.to_owned()) },
    }
}

fn every(load: &Workload, endpoints: &[Endpoint], threads: usize) -> Result<u32, &'static str> {
    let every = match load.timestamps {
        Timestamps::Program => return Ok(0),
        Timestamps::Kernel { every } => every.max(1),
        Timestamps::Auto => 1,
    };
    let routes = || endpoints.iter().map(|endpoint| &endpoint.route);
    if !matches!(load.mode, Mode::Echo | Mode::Ping) {
        return Err(
            "only in --mode echo and --mode ping does a connection receive the answers to what it sends",
        );
    }
    if routes().any(|route| route.security.is_some()) {
        return Err("TLS hides where messages end");
    }
    if routes().any(|route| matches!(route.address, RemoteAddress::Unix(_))) {
        return Err("a Unix socket has no timestamps");
    }
    if load.timestamps == Timestamps::Auto {
        let Some(rate) = load.pace.rate() else {
            return Err("a closed loop or a changing rate may need the whole generator");
        };
        if rate.div_ceil(u64::from(load.rate_period_s.max(1))) > FULL_RATE_MAX * threads as u64 {
            return Err("timestamps cost too much at this rate");
        }
    }
    if has_kernel_times() {
        Ok(every)
    } else {
        Err("this kernel has no timestamps of TCP by byte (Linux 6.2)")
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::plan::Pace;

    fn endpoint(address: RemoteAddress) -> Endpoint {
        let route = SocketAddr::from((Ipv4Addr::LOCALHOST, 9001)).into();
        let route = echoring_runtime::shard::Route { address, ..route };
        let (text, authority) = (String::new(), String::new());
        Endpoint { text, route, authority, path: None, authorization: None, weight: 1 }
    }

    #[test]
    fn the_kernels_times_are_noted_where_messages_have_them_and_they_are_cheap() {
        let tcp = || endpoint(SocketAddr::from((Ipv4Addr::LOCALHOST, 9001)).into());
        let unix = || endpoint(RemoteAddress::Unix("/run/echo.sock".into()));
        let kernel = Timestamps::Kernel { every: 7 };
        let (closed, slow, fast) = (Pace::Depth(1), Pace::Rate(100), Pace::Rate(1_000_000));
        let known = |every: u32| if has_kernel_times() { every } else { 0 };
        for (timestamps, mode, pace, endpoint, every) in [
            (Timestamps::Program, Mode::Echo, &slow, tcp(), 0),
            (Timestamps::Auto, Mode::Echo, &slow, tcp(), known(1)),
            (Timestamps::Auto, Mode::Echo, &closed, tcp(), 0),
            (Timestamps::Auto, Mode::Echo, &fast, tcp(), 0),
            (Timestamps::Auto, Mode::Broadcast, &slow, tcp(), 0),
            (kernel, Mode::Echo, &closed, tcp(), known(7)),
            (kernel, Mode::Ping, &fast, tcp(), known(7)),
            (kernel, Mode::Push, &slow, tcp(), 0),
            (kernel, Mode::Echo, &slow, unix(), 0),
        ] {
            let load = Workload { timestamps, mode, pace: pace.clone(), ..Workload::default() };
            let found = stamping(&load, &[tcp(), endpoint], 1);
            assert_eq!(found.every, every, "{load:?}");
            assert_eq!(found.why_not.is_some(), every == 0 && timestamps != Timestamps::Program);
        }
    }
}
