//! The sandbox that `serve` enters before its first thread and its first connection.

use std::collections::BTreeMap;
use std::time::Instant;

use rustix::process::geteuid;
use serde_json::Value;

use super::*;

/// The state of each thread: its name, and the fields of its status.
fn threads(server: &Program) -> BTreeMap<String, BTreeMap<String, String>> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.child.id())).expect("a process");
    let tasks = tasks.map(|task| task.expect("a thread").path().join("status"));
    let fields = |text: String| -> BTreeMap<String, String> {
        let lines = text.lines().filter_map(|line| line.split_once(":\t"));
        lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    tasks
        .map(|status| fields(std::fs::read_to_string(status).expect("a thread")))
        .map(|fields| (format!("{} {}", fields["Name"], fields["Pid"]), fields))
        .collect()
}

/// The same, once every thread has given itself its name.
fn named_threads(server: &Program) -> BTreeMap<String, BTreeMap<String, String>> {
    let started = Instant::now();
    loop {
        let threads = threads(server);
        let is_there = |name: &&str| threads.keys().any(|known| known.starts_with(name));
        if ["shard-0", "shard-1", "control", "log", "signals", "takeover"].iter().all(is_there) {
            return threads;
        }
        assert!(started.elapsed() < PATIENCE, "threads are missing: {:?}", threads.keys());
    }
}

#[test]
fn every_thread_of_a_server_is_in_the_sandbox() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--driver", driver];
        let mut server =
            Program::start(command(&words).args(["--sandbox", "on", "--shards", "2"]).stderr(stderr));
        let line = log.line_with("in a sandbox");
        assert!(line.contains("no capabilities, no new privileges, Landlock, seccomp"), "{line}");
        for (name, status) in named_threads(&server) {
            for field in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(status[field], "0000000000000000", "{field} of {name}");
            }
            assert_eq!((&*status["Seccomp"], &*status["NoNewPrivs"]), ("2", "1"), "{name}");
        }
        echo(&mut server.open());
        assert_eq!(get(log.admin(), "/stats").0, 200);
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn a_server_without_a_sandbox_stays_what_it_was() {
    let mut server = Program::serve("epoll", &["--sandbox", "off"], Stdio::null());
    let own = std::fs::read_to_string("/proc/self/status").expect("a process");
    for (name, status) in threads(&server) {
        for field in ["CapEff", "Seccomp", "NoNewPrivs"] {
            assert!(own.contains(&format!("\n{field}:\t{}\n", status[field])), "{field} of {name}");
        }
    }
    assert_eq!(server.end(), Some(0));
}

/// A kernel without Landlock, as far as the server can tell.
#[test]
fn what_the_kernel_lacks_is_logged_or_refused() {
    let without_landlock = |command: &mut Command| {
        let rules = vec![(libc::SYS_landlock_create_ruleset, vec![])];
        filtered(command, rules, SeccompAction::Errno(libc::ENOSYS as u32));
    };
    let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--sandbox"];
    let (mut log, stderr) = Log::new();
    let mut auto = command(&[&words[..], &["auto"]].concat());
    without_landlock(&mut auto);
    let mut server = Program::start(auto.stderr(stderr));
    let line = log.line_with("a part of the sandbox is unavailable");
    assert!(line.contains("Landlock: the kernel does not have it"), "{line}");
    assert!(threads(&server).values().all(|status| status["Seccomp"] == "2"));
    echo(&mut server.open());
    assert_eq!(server.end(), Some(0));
    let mut on = command(&[&words[..], &["on"]].concat());
    without_landlock(&mut on);
    let refused = on.output().expect("the binary runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.starts_with("error: --sandbox: Landlock: "), "{said}");
}

/// Only root can become somebody else; others are told so.
#[test]
fn a_server_started_as_root_runs_as_its_user() {
    let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--user"];
    if !geteuid().is_root() {
        let refused = command(&[&words[..], &["root"]].concat()).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(3), "{said}");
        assert!(said.contains("--user: cannot become user 0"), "{said}");
        return;
    }
    for (user, uid, gid) in [("nobody", 65534, 65534), ("4242:4343", 4242, 4343)] {
        let (log, stderr) = Log::new();
        let mut server = Program::start(command(&[&words[..], &[user]].concat()).stderr(stderr));
        for (name, status) in threads(&server) {
            assert_eq!(status["Uid"], format!("{uid}\t{uid}\t{uid}\t{uid}"), "{name}");
            assert_eq!(status["Gid"], format!("{gid}\t{gid}\t{gid}\t{gid}"), "{name}");
            assert_eq!(status["Groups"].trim(), gid.to_string(), "{name}");
            assert_eq!(status["CapEff"], "0000000000000000", "{name}");
        }
        echo(&mut server.open());
        assert_eq!(server.end(), Some(0));
        let log = log.text();
        assert!(!log.contains("running as root"), "{log}");
    }
    let (mut log, stderr) = Log::new();
    let mut server = Program::start(command(&words[..5]).stderr(stderr));
    log.line_with("running as root; use --user NAME");
    assert_eq!(server.end(), Some(0));
}

/// A reload would fail when nobody looks.
#[test]
fn a_key_that_only_root_reads_is_warned_about_at_the_start() {
    if !geteuid().is_root() {
        return;
    }
    let path =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("token-{}", std::process::id()));
    std::fs::write(&path, "0123456789abcdef").expect("written");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("changed");
    let file = path.to_str().expect("UTF-8");
    let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--admin-token-file", file];
    for (flags, is_told) in [(&["--user", "4242:4242"][..], true), (&[], false)] {
        let (log, stderr) = Log::new();
        let mut server = Program::start(command(&[&words[..], flags].concat()).stderr(stderr));
        assert_eq!(server.end(), Some(0));
        let log = log.text();
        let warning = format!("{file} was read at the start, but cannot be read again as this user: ");
        assert_eq!(log.contains(&warning), is_told, "{log}");
    }
    std::fs::remove_file(path).expect("removed");
}

#[test]
fn a_user_that_does_not_exist_is_refused_by_a_start_and_by_a_check() {
    let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--user", "no-such-user"];
    for words in [&words[..], &[&words[..], &["--check"]].concat()] {
        let refused = command(words).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(3), "{said}");
        assert!(said.contains("--user: there is no user no-such-user"), "{said}");
    }
}

/// The filter that a container runtime makes of packaging/docker/seccomp.json.
fn profile_for_containers() -> BpfProgram {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/docker/seccomp.json");
    let profile: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("a profile")).expect("JSON");
    assert_eq!(
        (&profile["defaultAction"], &profile["defaultErrnoRet"]),
        (&"SCMP_ACT_ERRNO".into(), &libc::EPERM.into())
    );
    let groups = profile["syscalls"].as_array().expect("a list");
    let names = groups.iter().flat_map(|group| {
        assert_eq!(group["action"], "SCMP_ACT_ALLOW");
        group["names"].as_array().expect("a list")
    });
    let filter: Vec<Value> = names.map(|name| serde_json::json!({ "syscall": name })).collect();
    let all = serde_json::json!({
        "program": { "mismatch_action": { "errno": libc::EPERM }, "match_action": "allow", "filter": filter }
    });
    let architecture = std::env::consts::ARCH.try_into().expect("one that is known");
    let mut compiled =
        seccompiler::compile_from_json(all.to_string().as_bytes(), architecture).expect("it compiles");
    compiled.remove("program").expect("compiled above")
}

/// From the exec on: the program loads, starts, enters its own sandbox, serves on io_uring and ends under the profile.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_server_runs_under_the_profile_for_containers() {
    let program = profile_for_containers();
    for flags in [&["--driver", "auto"][..], &["--driver", "epoll", "--user", "4242:4242"]] {
        if flags.contains(&"--user") && !geteuid().is_root() {
            continue;
        }
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--sandbox", "on"];
        let (mut log, stderr) = Log::new();
        let mut server = command(&[&words[..], flags].concat());
        let program = program.clone();
        // SAFETY: between fork and exec the filter is only installed, by system calls.
        unsafe {
            server.pre_exec(move || seccompiler::apply_filter(&program).map_err(std::io::Error::other))
        };
        let mut server = Program::start(server.stderr(stderr));
        let (status, stats) = get(log.admin(), "/stats");
        // Where the kernel has io_uring, the profile allows it.
        let expected = if flags[1] == "epoll" || !ring_is_allowed() { "epoll" } else { "uring" };
        assert!(status == 200 && stats.contains(expected), "{stats}");
        echo(&mut server.open());
        assert_eq!(server.end(), Some(0));
    }
}

/// Whether this process may use io_uring.
fn ring_is_allowed() -> bool {
    let told = command(&["doctor", "--json"]).output().expect("the binary runs");
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    told["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .any(|check| check["id"] == "io_uring" && check["verdict"] == "green")
}
