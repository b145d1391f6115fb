//! Every verdict of every check, on trees of files that describe hosts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::check::Verdict::{self, Green, Red, Yellow};
use super::uring::FEATURES;
use super::{Host, Plan, Probes, Report};
use echoring_runtime::driver::{Description, DriverChoice, Features};
use echoring_server::ServerConfig;

/// A host without anything to complain about.
const FILES: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.18.2-amd64"),
    ("proc/sys/kernel/io_uring_disabled", "0"),
    ("proc/sys/kernel/io_uring_group", "-1"),
    ("proc/sys/kernel/seccomp/actions_avail", "kill_process kill_thread trap errno trace log allow"),
    (
        "proc/self/status",
        "Name:\techoring\nUid:\t1000\t1000\t1000\t1000\nSeccomp:\t0\nCpus_allowed_list:\t0-1\nTHP_enabled:\t1",
    ),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\n\
         Max locked memory         65536                8388608              bytes\n\
         Max open files            1024                 1048576              files",
    ),
    ("proc/self/cgroup", "0::/system.slice/echoring.service"),
    ("proc/meminfo", "MemTotal:       134217728 kB\nMemFree:         1000000 kB"),
    ("proc/sys/fs/nr_open", "1048576"),
    ("proc/sys/fs/file-max", "9223372036854775807"),
    ("proc/sys/fs/file-nr", "1000\t0\t9223372036854775807"),
    ("proc/sys/net/core/somaxconn", "4096"),
    ("proc/sys/net/core/wmem_max", "212992"),
    ("proc/sys/net/core/rmem_max", "212992"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "4096"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999"),
    ("proc/sys/net/ipv4/tcp_mem", "1000000\t1500000\t20000000"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance"),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
    ("sys/fs/cgroup/system.slice/echoring.service/memory.max", "max"),
    ("sys/fs/cgroup/system.slice/memory.max", "107374182400"),
    ("sys/fs/cgroup/system.slice/echoring.service/cpu.max", "200000 100000"),
    ("sys/fs/cgroup/system.slice/echoring.service/pids.max", "4915"),
    ("sys/fs/cgroup/system.slice/echoring.service/pids.current", "1"),
];

const UNIT: &str = "sys/fs/cgroup/system.slice/echoring.service";

/// A tree with these files over those of [`FILES`]; without a text, a file is missing. It is deleted at the end.
struct Tree(PathBuf);

impl Tree {
    fn with(changes: &[(&str, Option<&str>)]) -> Tree {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("echoring-doctor-{}-{number}", std::process::id()));
        for (path, text) in FILES {
            write(&root.join(path), text);
        }
        for (path, text) in changes {
            let path = root.join(path);
            match text {
                Some(text) => write(&path, text),
                None => fs::remove_file(path).expect("it is one of FILES"),
            }
        }
        Tree(root)
    }

    fn report(&self, config: &ServerConfig, changes_user: bool, probes: &Probes) -> Report {
        let host = Host::below(&self.0);
        Report::new(&host, &Plan::new(config.clone(), changes_user, &host), probes)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
    fs::write(path, format!("{text}\n")).expect("written");
}

fn probes(missing: Features) -> Probes {
    let all = Features(u32::MAX);
    let uring = Ok(Description { name: "uring", features: all.less(missing), degraded: missing });
    Probes { uring, landlock: 5 }
}

fn denied(errno: i32) -> Probes {
    Probes { uring: Err(io::Error::from_raw_os_error(errno)), landlock: 5 }
}

fn status(of: &str, value: &str) -> String {
    let (_, text) = FILES.iter().find(|(path, _)| *path == "proc/self/status").expect("listed");
    let line = text.lines().find(|line| line.starts_with(of)).expect("a field");
    text.replace(line, &format!("{of}:\t{value}"))
}

fn limit(of: &str, hard: &str) -> String {
    let (_, text) = FILES.iter().find(|(path, _)| *path == "proc/self/limits").expect("listed");
    let line = text.lines().find(|line| line.starts_with(of)).expect("a limit");
    text.replace(line, &format!("{of}  1024  {hard}  units"))
}

/// Checks one verdict, and that the line has a cure unless it is green.
fn expect(report: &Report, id: &str, verdict: Verdict, words: &str) {
    let check = report.checks.iter().find(|check| check.id == id);
    let check = check.unwrap_or_else(|| panic!("no check {id} in\n{}", report.text()));
    assert_eq!(check.verdict, verdict, "{check:?}");
    assert_eq!(check.cure.is_none(), verdict == Green, "{check:?}");
    let said = format!("{} {}", check.finding, check.cure.clone().unwrap_or_default());
    assert!(said.contains(words), "{words:?} is not in {check:?}");
}

#[test]
fn a_good_host_is_green() {
    let report = Tree::with(&[]).report(&ServerConfig::default(), false, &probes(Features::NONE));
    assert_eq!(report.verdict, Green, "{}", report.text());
    assert!(report.checks.len() >= 20, "{}", report.text());
    assert!(report.text().ends_with(" green, 0 yellow, 0 red\n"), "{}", report.text());
}

/// What one file says decides one verdict.
#[test]
fn each_file_has_its_verdicts() {
    let small = |text: &'static str| Some(text);
    let rows: &[(&str, Option<&str>, &str, Verdict, &str)] = &[
        (
            "proc/sys/kernel/io_uring_disabled",
            small("1"),
            "io_uring_disabled",
            Yellow,
            "kernel.io_uring_group (-1)",
        ),
        ("proc/sys/kernel/io_uring_disabled", small("2"), "io_uring_disabled", Yellow, "sysctl -w"),
        ("proc/sys/kernel/seccomp/actions_avail", None, "sandbox.seccomp", Yellow, "CONFIG_SECCOMP_FILTER"),
        ("proc/sys/fs/file-max", small("100500"), "file-max", Yellow, "fs.file-max=202128"),
        ("proc/sys/fs/file-max", small("5000"), "file-max", Red, "fs.file-max"),
        ("proc/sys/net/core/somaxconn", small("128"), "somaxconn", Yellow, "net.core.somaxconn=4096"),
        ("proc/sys/net/core/wmem_max", small("65536"), "wmem_max", Yellow, "net.core.wmem_max=131072"),
        ("proc/sys/net/core/rmem_max", small("65536"), "rmem_max", Yellow, "net.core.rmem_max=131072"),
        ("proc/sys/net/ipv4/tcp_max_syn_backlog", small("128"), "tcp_max_syn_backlog", Green, "cookies"),
        (
            "proc/sys/net/ipv4/ip_local_port_range",
            small("50000 60000"),
            "ip_local_port_range",
            Yellow,
            "10001",
        ),
        ("proc/sys/net/ipv4/tcp_mem", small("100 200 300"), "tcp_mem", Yellow, "max_connections"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            small("[always] never"),
            "transparent_hugepage",
            Green,
            "opts out",
        ),
        ("proc/meminfo", small("MemTotal: 41943040 kB"), "memory", Yellow, "together"),
        ("proc/meminfo", small("MemTotal: 1048576 kB"), "memory", Red, "docs/memory.md"),
        (
            "sys/fs/cgroup/system.slice/memory.max",
            small("42949672960"),
            "memory.max",
            Yellow,
            "control group",
        ),
        ("sys/fs/cgroup/system.slice/memory.max", small("536870912"), "memory.max", Red, "killed"),
        (
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
            small("powersave"),
            "governor",
            Yellow,
            "cpupower",
        ),
        (
            "sys/devices/system/clocksource/clocksource0/current_clocksource",
            small("hpet"),
            "clocksource",
            Yellow,
            "clocksource=tsc",
        ),
    ];
    for (path, text, id, verdict, words) in rows {
        let tree = Tree::with(&[(path, *text)]);
        let report = tree.report(&ServerConfig::default(), false, &probes(Features::NONE));
        expect(&report, id, *verdict, words);
        assert_eq!(report.verdict, *verdict, "one line alone differs: {}", report.text());
    }
}

#[test]
fn the_quota_and_the_threads_of_a_control_group_are_judged() {
    let (cpu, pids) = (format!("{UNIT}/cpu.max"), format!("{UNIT}/pids.max"));
    for (path, text, id, verdict, words) in [
        (&cpu, "50000 100000", "cpu.max", Yellow, "0.5 CPUs for 2 shards"),
        (&cpu, "400000 100000", "cpu.max", Green, "4.0"),
        (&pids, "10", "pids.max", Red, "TasksMax=36"),
        (&pids, "100", "pids.max", Green, "99"),
    ] {
        let report = Tree::with(&[(path, Some(text))]).report(
            &ServerConfig::default(),
            false,
            &probes(Features::NONE),
        );
        expect(&report, id, verdict, words);
    }
    let unlimited = Tree::with(&[(&cpu, Some("max 100000"))]);
    let report = unlimited.report(&ServerConfig::default(), false, &probes(Features::NONE));
    assert!(report.checks.iter().all(|check| check.id != "cpu.max"), "{}", report.text());
}

#[test]
fn control_groups_of_version_1_are_read_too() {
    let tree = Tree::with(&[
        (
            "proc/self/cgroup",
            Some("5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n3:pids:/docker/1\n1:name=systemd:/"),
        ),
        // In a container, only the root of the namespace is there.
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", Some("536870912")),
        ("sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", Some("150000")),
        ("sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us", Some("100000")),
        ("sys/fs/cgroup/pids/docker/1/pids.max", Some("12")),
    ]);
    let report = tree.report(&ServerConfig::default(), false, &probes(Features::NONE));
    expect(&report, "memory.max", Red, "512 MiB");
    expect(&report, "cpu.max", Yellow, "1.5 CPUs");
    expect(&report, "pids.max", Red, "12 more threads");
    let unlimited = Tree::with(&[
        ("proc/self/cgroup", Some("4:memory:/\n5:cpu:/")),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", Some("9223372036854771712")),
        ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", Some("-1")),
        ("sys/fs/cgroup/cpu/cpu.cfs_period_us", Some("100000")),
    ]);
    let report = unlimited.report(&ServerConfig::default(), false, &probes(Features::NONE));
    assert_eq!(report.verdict, Green, "{}", report.text());
}

#[test]
fn this_process_is_judged_by_its_status_and_its_limits() {
    let (allowed, none) = (probes(Features::NONE), denied(libc::EPERM));
    let default = ServerConfig::default();
    let many = ServerConfig { max_connections: Some(50_000), ..ServerConfig::default() };
    let on_rings = ServerConfig { shards: Some(15), ..many.clone() };
    let three = ServerConfig { shards: Some(3), ..ServerConfig::default() };
    let elsewhere = ServerConfig { cpus: vec![0, 7], ..ServerConfig::default() };
    let uring = ServerConfig { driver: DriverChoice::Uring, ..ServerConfig::default() };
    let epoll = ServerConfig { driver: DriverChoice::Epoll, ..ServerConfig::default() };
    let rows: &[(&str, String, &ServerConfig, &Probes, &str, Verdict, &str)] = &[
        ("status", status("Seccomp", "2"), &default, &allowed, "seccomp", Green, "allows io_uring"),
        ("status", status("Seccomp", "2"), &default, &none, "seccomp", Yellow, "seccomp.json"),
        ("status", status("Seccomp", "1"), &default, &allowed, "seccomp", Red, "strict"),
        ("status", status("Uid", "0 0 0 0"), &default, &allowed, "user", Yellow, "--user"),
        ("status", status("Cpus_allowed_list", "1"), &default, &allowed, "cpus", Green, "1 shards"),
        ("status", status("Cpus_allowed_list", "0-1"), &three, &allowed, "cpus", Yellow, "shards = 2"),
        ("status", status("Cpus_allowed_list", "0-1"), &elsewhere, &allowed, "cpus", Red, "CPU 7"),
        (
            "limits",
            limit("Max open files", "4096"),
            &default,
            &allowed,
            "descriptors",
            Yellow,
            "4032 connections",
        ),
        ("limits", limit("Max open files", "4096"), &many, &allowed, "descriptors", Red, "LimitNOFILE=50064"),
        (
            "limits",
            limit("Max open files", "4096"),
            &on_rings,
            &allowed,
            "descriptors",
            Green,
            "each of the rings",
        ),
        (
            "limits",
            limit("Max open files", "4096"),
            &on_rings,
            &none,
            "descriptors",
            Red,
            "LimitNOFILE=50064",
        ),
        ("limits", limit("Max open files", "unlimited"), &many, &allowed, "descriptors", Green, "needed"),
        (
            "limits",
            limit("Max locked memory", "65536"),
            &default,
            &allowed,
            "memlock",
            Yellow,
            "LimitMEMLOCK=524288",
        ),
        ("limits", limit("Max locked memory", "65536"), &uring, &allowed, "memlock", Red, "LimitMEMLOCK"),
        ("limits", limit("Max locked memory", "65536"), &epoll, &allowed, "memlock", Green, "shards"),
        ("limits", limit("Max locked memory", "unlimited"), &uring, &allowed, "memlock", Green, "unlimited"),
    ];
    for (file, text, config, probes, id, verdict, words) in rows {
        let path = format!("proc/self/{file}");
        let report = Tree::with(&[(&path, Some(text))]).report(config, false, probes);
        expect(&report, id, *verdict, words);
    }
    let root = Tree::with(&[("proc/self/status", Some(&status("Uid", "0 0 0 0")))]);
    expect(&root.report(&default, true, &allowed), "user", Green, "until");
}

#[test]
fn a_ceiling_of_descriptors_below_what_is_needed_is_part_of_the_cure() {
    let tree = Tree::with(&[("proc/self/limits", Some(&limit("Max open files", "1048576")))]);
    let config = ServerConfig { max_connections: Some(2_000_000), ..ServerConfig::default() };
    let report = tree.report(&config, false, &probes(Features::NONE));
    expect(&report, "descriptors", Red, "fs.nr_open=2000064");
}

#[test]
fn a_missing_ring_is_judged_by_what_the_configuration_asks_for() {
    for (driver, verdict) in
        [(DriverChoice::Auto, Yellow), (DriverChoice::Uring, Red), (DriverChoice::Epoll, Green)]
    {
        let config = ServerConfig { driver, ..ServerConfig::default() };
        let tree = Tree::with(&[("proc/sys/kernel/io_uring_disabled", Some("2"))]);
        let report = tree.report(&config, false, &denied(libc::EPERM));
        for id in ["io_uring", "io_uring_disabled"] {
            expect(&report, id, verdict, "");
        }
    }
    let old = Tree::with(&[("proc/sys/kernel/osrelease", Some("5.10.0"))]);
    expect(
        &old.report(&ServerConfig::default(), false, &denied(libc::ENOSYS)),
        "io_uring",
        Yellow,
        "Linux 6.1",
    );
}

#[test]
fn each_missing_feature_has_a_line_with_its_cost() {
    let known: BTreeSet<&str> = Features(u32::MAX).names().collect();
    assert_eq!(known, FEATURES.iter().map(|(name, ..)| *name).collect());
    let tree = Tree::with(&[]);
    let report = tree.report(&ServerConfig::default(), false, &probes(Features(u32::MAX)));
    for (name, since, cost) in FEATURES {
        let id = format!("io_uring.{name}");
        expect(&report, &id, Yellow, cost);
        expect(&report, &id, Yellow, &format!("Linux {since} or later"));
    }
    // Receive regions are larger there.
    let whole = tree.report(&ServerConfig::default(), false, &probes(Features::NONE));
    assert_eq!(report.peak.user_bytes() - whole.peak.user_bytes(), 2 * (6 << 20));
}

#[test]
fn sockets_that_the_kernel_sizes_are_judged_by_its_maximum() {
    let config = ServerConfig { autotune_sockets: true, ..ServerConfig::default() };
    let report = Tree::with(&[]).report(&config, false, &probes(Features::NONE));
    for id in ["tcp_wmem", "tcp_rmem"] {
        expect(&report, id, Yellow, "benchmark");
    }
    assert_eq!(report.peak.kernel_bytes(), 100_000 * (4_096 + 4_194_304 + 6_291_456));
}

#[test]
fn no_landlock_and_no_cookies_are_yellow() {
    let tree = Tree::with(&[
        ("proc/sys/net/ipv4/tcp_max_syn_backlog", Some("128")),
        ("proc/sys/net/ipv4/tcp_syncookies", Some("0")),
    ]);
    let probes = Probes { landlock: 0, ..probes(Features::NONE) };
    let report = tree.report(&ServerConfig::default(), false, &probes);
    expect(&report, "sandbox.landlock", Yellow, "lsm=");
    expect(&report, "tcp_max_syn_backlog", Yellow, "tcp_syncookies=1");
    let old = Tree::with(&[
        ("sys/kernel/mm/transparent_hugepage/enabled", Some("[always] never")),
        ("proc/self/status", Some("Uid: 1 1 1 1\nCpus_allowed_list: 0")),
    ]);
    expect(&old.report(&ServerConfig::default(), false, &probes), "transparent_hugepage", Yellow, "madvise");
}

/// In a container most of these files are missing.
#[test]
fn a_host_that_tells_nothing_is_judged_by_what_is_tried() {
    let empty = Host::below(Path::new("/nonexistent"));
    let report =
        Report::new(&empty, &Plan::new(ServerConfig::default(), false, &empty), &probes(Features::NONE));
    assert!(report.checks.iter().all(|check| check.verdict != Red), "{}", report.text());
}

#[test]
fn json_has_the_same_verdicts_as_the_text() {
    let tree = Tree::with(&[("proc/sys/net/core/somaxconn", Some("128"))]);
    let report = tree.report(&ServerConfig::default(), false, &probes(Features::NONE));
    let json: Value = serde_json::from_str(&report.json()).expect("JSON");
    assert_eq!(json["schema"], "echoring.doctor/1");
    assert_eq!(json["verdict"], "yellow");
    let checks = json["checks"].as_array().expect("a list");
    assert_eq!(checks.len(), report.checks.len());
    let slow = checks.iter().find(|check| check["id"] == "somaxconn").expect("listed");
    assert_eq!(slow["cure"], "sysctl -w net.core.somaxconn=4096");
    assert_eq!(slow["verdict"], "yellow");
    assert!(report.text().contains("yellow  somaxconn"), "{}", report.text());
    let parts = json["memory"]["user"].as_array().expect("a list");
    let sum: u64 = parts.iter().filter_map(|part| part["bytes"].as_u64()).sum();
    assert_eq!(json["memory"]["user_bytes"].as_u64(), Some(sum));
    assert_eq!(json["memory"]["kernel_bytes"].as_u64(), Some(report.peak.kernel_bytes()));
}

/// No more is known about it than that it can be judged.
#[test]
fn this_host_is_judged() {
    let host = Host::below(Path::new("/"));
    let report =
        Report::new(&host, &Plan::new(ServerConfig::default(), false, &host), &Probes::of_this_host());
    for id in ["io_uring", "descriptors", "memory", "cpus"] {
        assert!(report.checks.iter().any(|check| check.id == id), "no {id} in\n{}", report.text());
    }
}
