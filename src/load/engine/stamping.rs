//! Of which of a run's connections the kernel's times are noted.

use crate::plan::timestamps::Stamping;
use crate::plan::{Endpoint, Mode, Timestamps, Workload};
use echoring_runtime::driver::{RemoteAddress, has_kernel_times};

/// Rate of a thread, in messages per second, of which `auto` notes the kernel's times. They take about 7 µs of CPU time a message, so 3 to 4 % of
/// a CPU.
const STAMPED_RATE: u64 = 5_000;
/// The smallest share of connections that `auto` samples.
const EVERY_MAX: u64 = 100;

/// Whose times a load on `threads` threads uses.
pub(super) fn stamping(load: &Workload, endpoints: &[Endpoint], threads: usize) -> Stamping {
    match every(load, endpoints, threads) {
        Ok(every) => Stamping { every, why_not: None },
        Err(why) => Stamping { every: 0, why_not: Some(why.to_owned()) },
    }
}

fn every(load: &Workload, endpoints: &[Endpoint], threads: usize) -> Result<u32, &'static str> {
    let mut every = match load.timestamps {
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
    if routes().any(|route| matches!(route.address, RemoteAddress::Unix(_))) {
        return Err("a Unix socket has no timestamps");
    }
    if load.timestamps == Timestamps::Auto {
        let Some(rate) = load.pace.rate() else {
            return Err("a closed loop or a changing rate may need the whole generator");
        };
        let per_s = rate.div_ceil(u64::from(load.rate_period_s.max(1)));
        every = per_s.div_ceil(STAMPED_RATE * threads as u64).clamp(1, EVERY_MAX) as u32;
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
    fn the_kernels_times_are_noted_where_messages_have_them_and_of_so_many_that_they_are_cheap() {
        let tcp = || endpoint(SocketAddr::from((Ipv4Addr::LOCALHOST, 9001)).into());
        let tls = || {
            let config = rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            let mut endpoint = tcp();
            let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
            endpoint.route.security = Some((config.into(), name));
            endpoint
        };
        let unix = || endpoint(RemoteAddress::Unix("/run/echo.sock".into()));
        let kernel = Timestamps::Kernel { every: 7 };
        let (closed, slow, fast) = (Pace::Depth(1), Pace::Rate(100), Pace::Rate(200_000));
        let known = |every: u32| if has_kernel_times() { every } else { 0 };
        for (timestamps, mode, pace, endpoint, every) in [
            (Timestamps::Program, Mode::Echo, &slow, tcp(), 0),
            (Timestamps::Auto, Mode::Echo, &slow, tcp(), known(1)),
            (Timestamps::Auto, Mode::Echo, &closed, tcp(), 0),
            (Timestamps::Auto, Mode::Echo, &fast, tcp(), known(40)),
            (Timestamps::Auto, Mode::Broadcast, &slow, tcp(), 0),
            (kernel, Mode::Echo, &closed, tcp(), known(7)),
            (kernel, Mode::Ping, &fast, tcp(), known(7)),
            (kernel, Mode::Echo, &closed, tls(), known(7)),
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
