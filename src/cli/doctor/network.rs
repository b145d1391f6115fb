//! Queues of listeners, local ports, and the kernel's bounds on the memory of sockets.

use super::check::{Check, shown_size};
use super::host::Host;
use super::plan::Plan;
use echoring_async::limits::LISTEN_BACKLOG;
use echoring_server::MemoryPeak;
use echoring_server::limits::{SOCKET_RECEIVE_BYTES, SOCKET_SEND_BYTES};

/// Local ports by default: 32768 to 60999.
const PORTS_DEFAULT: u64 = 28_232;
/// `tcp_mem` counts pages of this size on every system that echoring is built for, 64 KiB kernels of aarch64 excepted.
const PAGE_BYTES: u64 = 4_096;

pub(super) fn checks(host: &Host, plan: &Plan, peak: &MemoryPeak) -> Vec<Check> {
    let found = [
        accept_queue(host),
        handshakes(host),
        ports(host),
        all_sockets(host, peak),
        socket_buffers(host, "wmem_max", "net.core.wmem_max", SOCKET_SEND_BYTES as u64, plan),
        socket_buffers(host, "rmem_max", "net.core.rmem_max", SOCKET_RECEIVE_BYTES as u64, plan),
        autotuned(host, "tcp_wmem", plan),
        autotuned(host, "tcp_rmem", plan),
    ];
    found.into_iter().flatten().collect()
}

fn accept_queue(host: &Host) -> Option<Check> {
    let most = host.number::<u64>("proc/sys/net/core/somaxconn")?;
    let asked = LISTEN_BACKLOG as u64;
    let finding = format!("{most}: in a larger burst, connections wait seconds for a retry");
    let check = Check::yellow("somaxconn", finding, format!("sysctl -w net.core.somaxconn={asked}"));
    Some(check.unless(most >= asked, most.to_string()))
}

/// With SYN cookies the queue of half-open connections may overflow without harm.
fn handshakes(host: &Host) -> Option<Check> {
    const ID: &str = "tcp_max_syn_backlog";
    let most = host.number::<u64>("proc/sys/net/ipv4/tcp_max_syn_backlog")?;
    let cookies = host.number::<u32>("proc/sys/net/ipv4/tcp_syncookies").unwrap_or(0);
    Some(match most {
        _ if most >= LISTEN_BACKLOG as u64 => Check::green(ID, format!("{most}")),
        _ if cookies > 0 => Check::green(ID, format!("{most}, and SYN cookies beyond")),
        _ => Check::yellow(
            ID,
            format!("{most}, without SYN cookies: more half-open connections than that are dropped"),
            format!("sysctl -w net.ipv4.tcp_syncookies=1 net.ipv4.tcp_max_syn_backlog={LISTEN_BACKLOG}"),
        ),
    })
}

/// Servers need none; `bench` and `proxy` connect from them.
fn ports(host: &Host) -> Option<Check> {
    let range = host.numbers("proc/sys/net/ipv4/ip_local_port_range");
    let &[first, last] = &range[..] else { return None };
    let ports = (last + 1).saturating_sub(first);
    let finding = format!("{first} to {last}: bench and proxy reach {ports} connections to one address");
    let cure = "sysctl -w net.ipv4.ip_local_port_range='1024 65535', or --source-addr";
    let check = Check::yellow("ip_local_port_range", finding.clone(), cure);
    Some(check.unless(ports >= PORTS_DEFAULT, finding))
}

fn all_sockets(host: &Host, peak: &MemoryPeak) -> Option<Check> {
    let pages = host.number_at("proc/sys/net/ipv4/tcp_mem", 2)?;
    let most = pages.saturating_mul(PAGE_BYTES);
    let needed = peak.kernel_bytes();
    let finding = format!("{} for all sockets, {} at the peak", shown_size(most), shown_size(needed));
    let pages = needed.div_ceil(PAGE_BYTES);
    let [low, pressure] = [pages / 2, pages / 4 * 3];
    let cure = format!(
        "lower max_connections, or sysctl -w net.ipv4.tcp_mem='{low} {pressure} {pages}' where memory allows"
    );
    let bad = format!("{finding}: if that many peers stop reading, all connections slow down");
    Some(Check::yellow("tcp_mem", bad, cure).unless(most >= needed, finding))
}

/// The server asks for fixed sizes, of which the kernel grants at most this.
fn socket_buffers(host: &Host, id: &'static str, sysctl: &str, asked: u64, plan: &Plan) -> Option<Check> {
    let most = host.number::<u64>(&format!("proc/sys/net/core/{id}"))?;
    let finding =
        format!("{}: less than the {} that each socket asks for", shown_size(most), shown_size(asked));
    let check = Check::yellow(id, finding, format!("sysctl -w {sysctl}={asked}"));
    Some(check.unless(most >= asked || plan.config.autotune_sockets, shown_size(most)))
}

/// Sizes that the kernel chooses by itself count only where the profile leaves them to it.
fn autotuned(host: &Host, id: &'static str, plan: &Plan) -> Option<Check> {
    let most = host.number_at(&format!("proc/sys/net/ipv4/{id}"), 2)?;
    let shown = shown_size(most);
    let finding = format!("the kernel chooses up to {shown} per connection: a slow peer may hold that much");
    let check = Check::yellow(id, finding, "use profile = \"benchmark\" for measurements only");
    let fixed = format!("up to {shown}, not used: sockets have a fixed size");
    Some(check.unless(!plan.config.autotune_sockets, fixed))
}
