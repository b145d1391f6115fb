//! The process as the kernel sees it, under the names that all client libraries of Prometheus use.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::family::Families;

/// Fields of `/proc/self/stat` (proc_pid_stat(5)), by their position after the name of the program in parentheses.
const STAT_UTIME: usize = 11;
const STAT_STIME: usize = 12;
const STAT_THREADS: usize = 17;
const STAT_START: usize = 19;
const STAT_VSIZE: usize = 20;
const STAT_RSS: usize = 21;

/// Adds the data of `/proc`; nothing if it is not mounted.
pub(super) fn collect(out: &mut Families) {
    if let Some(stat) = stat() {
        let ticks = clock_ticks_per_second() as f64;
        let cpu_s = (stat[STAT_UTIME] + stat[STAT_STIME]) as f64 / ticks;
        out.counter("process_cpu_seconds_total", cpu_s).help("User and system CPU time of the process.");
        let resident_bytes = stat[STAT_RSS] * page_size() as u64;
        out.gauge("process_resident_memory_bytes", resident_bytes).help("Resident memory of the process.");
        out.gauge("process_virtual_memory_bytes", stat[STAT_VSIZE]).help("Address space of the process.");
        out.gauge("process_threads", stat[STAT_THREADS]).help("Threads of the process.");
        if let Some(booted_s) = booted_s() {
            let started_s = booted_s as f64 + stat[STAT_START] as f64 / ticks;
            out.gauge("process_start_time_seconds", started_s)
                .help("Start time of the process, in seconds since the Unix epoch.");
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them reads the list.
        out.gauge("process_open_fds", (open.count() as u64).saturating_sub(1))
            .help("Open file descriptors. Connections on io_uring have none: they are direct descriptors.");
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        out.gauge("process_max_fds", most).help("Maximum number of file descriptors of the process.");
    }
}

/// The numbers of `/proc/self/stat`. The few that can be negative are not used here and read as 0.
fn stat() -> Option<Vec<u64>> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    let numbers: Vec<u64> = fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    (numbers.len() > STAT_RSS).then_some(numbers)
}

/// When the host was booted, in seconds since the Unix epoch.
fn booted_s() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}
