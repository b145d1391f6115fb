//! Local addresses: each has a limited number of ports, so a load may need several.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::plan::Refused;
use echoring_runtime::driver::RemoteAddress;

/// Share of an address's local ports that is used before the next address: the others may be in TIME_WAIT or in use.
const PORTS_SHARE: f64 = 0.8;
/// The same where there are addresses enough. The kernel tries the ports of one parity first, and takes milliseconds to find one of the others.
const PORTS_SHARE_FAST: f64 = 0.4;
/// Number of addresses of 127.0.0.0/24 that connections may be spread over.
const LOOPBACK_ADDRESSES_MAX: usize = 254;

/// The local addresses of a load's connections; none leaves the choice to the kernel.
pub(super) fn spread(
    connections: u32,
    sources: &[IpAddr],
    targets: &[&RemoteAddress],
    ports: (u16, u16),
) -> Result<Vec<IpAddr>, Refused> {
    if targets.iter().all(|target| matches!(target, RemoteAddress::Unix(_))) {
        return Ok(Vec::new());
    }
    let usable = |share: f64| ((f64::from(ports.1 - ports.0 + 1) * share) as usize).max(1);
    let addresses = |share| (connections as usize).div_ceil(usable(share));
    let (needed, usable) = (addresses(PORTS_SHARE), usable(PORTS_SHARE));
    let is_loopback = |target: &&RemoteAddress| matches!(target, RemoteAddress::Tcp(SocketAddr::V4(address)) if address.ip().is_loopback());
    if sources.is_empty() && targets.iter().all(is_loopback) && needed <= LOOPBACK_ADDRESSES_MAX {
        let several = addresses(PORTS_SHARE_FAST).min(LOOPBACK_ADDRESSES_MAX) as u8;
        let lasts = (1..=several).filter(|_| several > 1);
        return Ok(lasts.map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect());
    }
    if needed <= sources.len().max(1) {
        return Ok(sources.to_vec());
    }
    Err(Refused(format!(
        "{connections} connections need {needed} local addresses with {usable} ports each: name them with \
         --source-addr, or widen net.ipv4.ip_local_port_range"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: (u16, u16) = (40_000, 40_999);

    #[test]
    fn few_connections_leave_the_address_to_the_kernel() {
        let target = RemoteAddress::Tcp((Ipv4Addr::LOCALHOST, 80).into());
        assert_eq!(spread(400, &[], &[&target], PORTS), Ok(vec![]));
    }

    #[test]
    fn many_loopback_connections_are_spread_automatically() {
        let target = RemoteAddress::Tcp((Ipv4Addr::LOCALHOST, 80).into());
        let lasts = |connections| {
            let sources = spread(connections, &[], &[&target], PORTS)?;
            assert!(
                sources
                    .iter()
                    .zip(1..)
                    .all(|(source, last)| *source == IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)))
            );
            Ok::<_, Refused>(sources.len())
        };
        // As many addresses as the kernel is quick with, as long as there are so many.
        assert_eq!((lasts(401), lasts(1_200), lasts(200_000)), (Ok(2), Ok(3), Ok(254)));
        assert!(lasts(254 * 800 + 1).is_err());
    }

    #[test]
    fn unix_sockets_need_no_ports() {
        let target = RemoteAddress::Unix("/run/socket".into());
        assert_eq!(spread(9_000, &[], &[&target], PORTS), Ok(vec![]));
    }

    #[test]
    fn too_few_addresses_elsewhere_are_refused_with_a_hint() {
        let target = RemoteAddress::Tcp("192.0.2.1:80".parse().expect("an address"));
        let sources: Vec<IpAddr> =
            ["192.0.2.8", "192.0.2.9"].map(|text| text.parse().expect("an address")).into();
        assert_eq!(spread(1_600, &sources, &[&target], PORTS), Ok(sources.clone()));
        let refused = spread(1_601, &sources, &[&target], PORTS).expect_err("too few ports");
        assert!(refused.0.contains("--source-addr") && refused.0.contains("3 local addresses"), "{refused}");
    }
}
