//! Ports that stay free while no process listens there.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Ports of a loopback address of this process alone: the kernel gives them to no other test meanwhile.
pub fn free<const N: usize>() -> [SocketAddr; N] {
    // Linux has no more than 2^22 process ids.
    let own = Ipv4Addr::from_bits(0x7f40_0000 | std::process::id() & 0x003f_ffff);
    let listeners = [(); N].map(|()| TcpListener::bind((own, 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address"))
}
