//! The process as the kernel sees it, under the names that all client libraries of Prometheus use.

use procfs::process::{LimitValue, Process};

use super::family::Families;

/// Adds what `/proc` tells; nothing if it is not mounted.
pub(super) fn collect(out: &mut Families) {
    let Ok(process) = Process::myself() else { return };
    if let Ok(stat) = process.stat() {
        let ticks = procfs::ticks_per_second() as f64;
        let cpu_s = (stat.utime + stat.stime) as f64 / ticks;
        out.counter("process_cpu_seconds_total", "User and system CPU time of the process.", cpu_s);
        let resident_bytes = stat.rss * procfs::page_size();
        out.gauge("process_resident_memory_bytes", "Resident memory of the process.", resident_bytes);
        out.gauge("process_virtual_memory_bytes", "Address space of the process.", stat.vsize);
        out.gauge("process_threads", "Threads of the process.", stat.num_threads.max(0) as u64);
        if let Ok(booted_s) = procfs::boot_time_secs() {
            let started_s = booted_s as f64 + stat.starttime as f64 / ticks;
            out.gauge(
                "process_start_time_seconds",
                "Start time of the process, in seconds since the Unix epoch.",
                started_s,
            );
        }
    }
    if let Ok(open) = process.fd_count() {
        out.gauge(
            "process_open_fds",
            "Open file descriptors. Connections on io_uring have none: they are direct descriptors.",
            open as u64,
        );
    }
    if let Ok(limits) = process.limits()
        && let LimitValue::Value(most) = limits.max_open_files.soft_limit
    {
        out.gauge("process_max_fds", "Maximum number of file descriptors of the process.", most);
    }
}
