//! The host and its processes, from /proc and from CPU clocks.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use echoring_proto::limits::{MILLISECOND, SECOND};

/// `/proc/PID/status` counts memory in kB.
const KILOBYTE: u64 = 1024;

/// Kernel release, such as `6.1.0-18-amd64`.
pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Model name of the first processor.
pub(crate) fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    field("model name").or_else(|| field("CPU part")).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Range of local ports that the kernel assigns, first and last.
pub(crate) fn local_ports() -> (u16, u16) {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| {
            let mut ports = text.split_whitespace().map(str::parse);
            Some((ports.next()?.ok()?, ports.next()?.ok()?))
        })
        .unwrap_or((32_768, 60_999))
}

/// CPU time of the calling thread, in nanoseconds.
pub fn thread_cpu_ns() -> Option<u64> {
    cpu_clock_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// How long a thread was runnable without a CPU. Open, so that it can be read often: a microsecond, without allocation.
#[derive(Debug)]
pub(crate) struct RunDelay(File);

impl RunDelay {
    /// That of the calling thread, also when another thread reads it. `None` if the kernel does not count it.
    pub(crate) fn of_this_thread() -> Option<RunDelay> {
        File::open("/proc/thread-self/schedstat").ok().map(RunDelay)
    }

    /// The time so far, in nanoseconds.
    pub(crate) fn ns(&self) -> Option<u64> {
        // Time on a CPU, time in a run queue, number of time slices.
        let mut text = [0; 3 * 21];
        let length = self.0.read_at(&mut text, 0).ok()?;
        let text = str::from_utf8(text.get(..length)?).ok()?;
        text.split_whitespace().nth(1)?.parse().ok()
    }
}

/// How long the calling thread was runnable without a CPU, in nanoseconds. `None` if the kernel does not count it.
pub fn run_delay_ns() -> Option<u64> {
    RunDelay::of_this_thread()?.ns()
}

/// How long the hypervisor ran something else on these CPUs since the host was started (steal time), all together, in
/// nanoseconds: a multiple of 10 ms. `None` if the kernel does not report it.
pub(crate) fn stolen_ns(cpus: &[usize]) -> Option<u64> {
    stolen_ns_in(&fs::read_to_string("/proc/stat").ok()?, cpus)
}

/// The times of a CPU since the host was started, in hundredths of a second on all architectures that echoring builds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuTime {
    pub(crate) cpu: usize,
    /// In all states.
    pub(crate) all: u64,
    pub(crate) idle: u64,
    pub(crate) stolen: u64,
}

/// The times of all CPUs of this host; none if the kernel does not report them.
pub(crate) fn cpu_times() -> Vec<CpuTime> {
    cpu_times_in(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn cpu_times_in(stat: &str) -> Vec<CpuTime> {
    let of = |line: &str| {
        let (cpu, fields) = line.strip_prefix("cpu")?.split_once(' ')?;
        let fields: Vec<u64> = fields.split_whitespace().map_while(|field| field.parse().ok()).collect();
        // User, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)); guest times are part of the user's.
        let (idle, stolen) = (fields.get(3)? + fields.get(4)?, *fields.get(7)?);
        Some(CpuTime { cpu: cpu.parse().ok()?, all: fields.iter().take(8).sum(), idle, stolen })
    };
    stat.lines().filter_map(of).collect()
}

fn stolen_ns_in(stat: &str, cpus: &[usize]) -> Option<u64> {
    let times = cpu_times_in(stat);
    let of =
        |cpu: &usize| times.iter().find(|time| time.cpu == *cpu).map(|time| time.stolen * 10 * MILLISECOND);
    cpus.iter().map(of).sum()
}

/// CPU time, user and system, of all threads that a process has or had, in nanoseconds.
pub(crate) fn process_cpu_ns(pid: u32) -> Option<u64> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    cpu_clock_ns(ClockId::pid_cpu_clock_id(pid).ok()?)
}

/// CPU time, user and system, of a living thread of this process, in nanoseconds.
pub(crate) fn own_thread_cpu_ns(thread: u32) -> Option<u64> {
    // The kernel's encoding of a thread's CPU clock (include/linux/posix-timers.h): the complement of the id, one bit
    // for "a thread", two for "time on a CPU".
    const OF_A_THREAD: i32 = 0b100;
    const ON_A_CPU: i32 = 0b010;
    let complement = !i32::try_from(thread).ok()?;
    cpu_clock_ns(ClockId::from_raw(complement << 3 | OF_A_THREAD | ON_A_CPU))
}

/// Ids of the threads of a process.
pub(crate) fn thread_ids(pid: u32) -> Option<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    Some(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// Resident memory of a process, in bytes.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * KILOBYTE)
}

/// Sets the timer slack to a microsecond instead of the default 50 µs, for threads that the calling thread starts
/// afterwards. Without it open loops are slightly later, which their lateness shows.
pub(crate) fn reduce_timer_slack() {
    let _ = fs::write("/proc/self/timerslack_ns", "1000");
}

/// CPUs that this process may use.
pub fn allowed_cpus() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Now, as RFC 3339 in UTC with milliseconds.
pub(crate) fn timestamp(now: SystemTime) -> String {
    // The formatter accepts no time before 1970.
    humantime::format_rfc3339_millis(now.max(UNIX_EPOCH)).to_string()
}

/// Time of a CPU clock. Unlike /proc, it is up to date for running threads too.
fn cpu_clock_ns(clock: ClockId) -> Option<u64> {
    let time = clock_gettime(clock).ok()?;
    let seconds = u64::try_from(time.tv_sec()).ok()?;
    Some(seconds * SECOND + u64::try_from(time.tv_nsec()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timestamps_are_civil() {
        let at = |seconds: u64, millis: u64| {
            timestamp(UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + millis))
        };
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400, 5), "2000-02-29T00:00:00.005Z");
        assert_eq!(at(1_709_251_199, 999), "2024-02-29T23:59:59.999Z");
        assert_eq!(at(4_102_444_800, 0), "2100-01-01T00:00:00.000Z");
    }

    #[test]
    fn this_process_can_be_measured() {
        let pid = std::process::id();
        assert!(rss_bytes(pid).expect("own process") > 100 * KILOBYTE);
        assert!(thread_ids(pid).expect("own process").contains(&pid));
        let own = thread_cpu_ns();
        assert!(own > Some(0) && process_cpu_ns(pid) >= own);
        assert_eq!(process_cpu_ns(4_194_999), None, "above the largest id");
        assert!(run_delay_ns() >= run_delay_ns().map(|_| 0), "always or never available");
    }

    #[test]
    fn stolen_time_is_that_of_the_given_cpus() {
        let stat =
            "cpu  9 9 9 9 9 9 9 70 0 0\ncpu0 1 2 3 4 5 6 7 20 9 9\ncpu1 1 2 3 4 5 6 7 50 0 0\nintr 5 6\n";
        assert_eq!(stolen_ns_in(stat, &[0]), Some(200 * MILLISECOND));
        assert_eq!(stolen_ns_in(stat, &[1, 0]), Some(700 * MILLISECOND));
        assert_eq!(stolen_ns_in(stat, &[0, 2]), None, "there is no such CPU");
        let [first, second] = cpu_times_in(stat)[..] else { panic!("two CPUs") };
        assert_eq!(first, CpuTime { cpu: 0, all: 48, idle: 9, stolen: 20 });
        assert_eq!((second.cpu, second.stolen), (1, 50));
    }

    #[test]
    fn the_run_delay_of_a_thread_is_read_again_and_again() {
        if let Some(waited) = RunDelay::of_this_thread() {
            let first = waited.ns().expect("counted");
            assert!(waited.ns().expect("counted") >= first);
        }
    }

    #[test]
    fn the_host_is_known() {
        assert!(!kernel().is_empty() && !cpu_model().is_empty());
        let (first, last) = local_ports();
        assert!(first < last);
    }
}
