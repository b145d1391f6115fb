//! The admin address of `echoring proxy`: health, metrics, reloads and drains, and who may ask for them.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tungstenite::Message;

use crate::proxy_reload::{PATIENCE, Proxy, Upstream, ask, echoes, file};
use crate::support::{ports, program};
use program::signal;

/// A proxy with an admin address that needs no token.
fn with_admin(contents: &str, flags: &[&str]) -> (Proxy, SocketAddr) {
    let [admin] = ports::free();
    let address = admin.to_string();
    (Proxy::start(contents, &[&["--admin", &address], flags].concat()), admin)
}

/// Waits until something holds.
#[track_caller]
fn until(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it does not hold in time");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a GET of this path is answered so.
#[track_caller]
fn wait_for(admin: SocketAddr, path: &str, expected: (u16, &str)) {
    until(|| {
        let (status, body) = ask(admin, "GET", path, &[]);
        (status, body.trim_end()) == expected
    });
}

/// The value of a sample of `/metrics`.
fn metric(admin: SocketAddr, sample: &str) -> Option<u64> {
    let (status, body) = ask(admin, "GET", "/metrics", &[]);
    assert_eq!(status, 200, "{body}");
    let line = body.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    Some(line.parse().unwrap_or_else(|_| panic!("{sample}: {line}")))
}

#[test]
fn a_proxy_is_ready_while_an_upstream_is_up_and_healthy_all_the_time() {
    let alive = Upstream::start("a");
    let [dead] = ports::free();
    let checked = "health_interval = '50ms'";
    let only_dead = format!("upstream = 'ws://{dead}'\n{checked}");
    let (proxy, admin) = with_admin(&file(&[&alive], checked), &[]);
    wait_for(admin, "/readyz", (200, "ok"));
    for _ in 0..2 {
        proxy.reload(&only_dead);
        wait_for(admin, "/readyz", (503, "every upstream is down"));
        wait_for(admin, "/healthz", (200, "ok"));
        proxy.reload(&file(&[&alive], checked));
        wait_for(admin, "/readyz", (200, "ok"));
    }
    // One of two is enough, and one that returns makes it ready without a reload.
    proxy.reload(&format!("upstream = ['ws://{dead}', '{}']\n{checked}", alive.url()));
    thread::sleep(Duration::from_millis(200));
    wait_for(admin, "/readyz", (200, "ok"));
    proxy.reload(&only_dead);
    wait_for(admin, "/readyz", (503, "every upstream is down"));
    let returned = TcpListener::bind(dead).expect("the port is free");
    wait_for(admin, "/readyz", (200, "ok"));
    drop(returned);
}

#[test]
fn metrics_count_what_passes_and_where_it_goes() {
    let [a, b] = ["a", "b"].map(Upstream::start);
    let (proxy, admin) = with_admin(&file(&[&a], "health_interval = 'off'"), &[]);
    let of = |upstream: &Upstream, name: &str| {
        metric(admin, &format!("echoring_proxy_upstream_{name}{{upstream=\"{}/\"}}", upstream.url()))
    };
    let counts = || {
        ["connections", "connections_accepted_total", "upgrades_total", "responses_total{class=\"2xx\"}"]
            .map(|name| metric(admin, &format!("echoring_proxy_{name}")).expect("a sample"))
    };
    assert_eq!(counts(), [0, 0, 0, 0]);
    let (mut first, _) = proxy.open();
    let (second, _) = proxy.open();
    for _ in 0..3 {
        assert_eq!(proxy.get("/").0, 200);
    }
    assert_eq!(ask(proxy.address, "GET", "/../x", &[]).0, 400);
    until(|| counts() == [2, 6, 2, 3] && of(&a, "connections") == Some(2));
    assert_eq!(metric(admin, "echoring_proxy_responses_total{class=\"4xx\"}"), Some(1));
    let bytes = |direction| {
        metric(admin, &format!("echoring_proxy_bytes_total{{direction=\"{direction}\"}}")).expect("a sample")
    };
    let before = (bytes("in"), bytes("out"));
    first.send("x".repeat(10_000).into()).expect("sent");
    assert_eq!(first.read().expect("an echo").len(), 10_000);
    // A header of four bytes, and the client's mask.
    until(|| (bytes("in") - before.0, bytes("out") - before.1) == (10_008, 10_004));
    // One that was removed is told until its last connection has ended.
    proxy.reload(&file(&[&b], "health_interval = 'off'"));
    assert_eq!((of(&a, "up"), of(&a, "connections"), of(&b, "up")), (None, Some(2), Some(1)));
    drop(second);
    until(|| of(&a, "connections") == Some(1));
    assert!(echoes(&mut first));
    let [dead] = ports::free();
    proxy.reload(&format!("upstream = 'ws://{dead}'\nhealth_interval = 'off'"));
    assert_eq!(proxy.get("/").0, 502);
    let failures = format!("echoring_proxy_upstream_failures_total{{upstream=\"ws://{dead}/\"}}");
    assert_eq!(metric(admin, &failures), Some(1));
    assert_eq!(metric(admin, &format!("echoring_proxy_upstream_up{{upstream=\"ws://{dead}/\"}}")), Some(0));
    assert_eq!(metric(admin, "echoring_proxy_responses_total{class=\"5xx\"}"), Some(1));
    assert_eq!(metric(admin, "echoring_reloads_total{result=\"accepted\"}"), Some(2));
    let open = ask(admin, "GET", "/metrics", &["Accept: application/openmetrics-text"]);
    assert!(open.1.ends_with("# EOF\n") && open.1.contains("# TYPE echoring_proxy_upgrades counter\n"));
}

#[test]
fn a_reload_is_answered_with_its_report() {
    let [a, b] = ["a", "b"].map(Upstream::start);
    let (proxy, admin) = with_admin(&file(&[&a], ""), &[]);
    proxy.write(&file(&[&b], "driver = 'epoll'"));
    let (status, body) = ask(admin, "POST", "/reload", &[]);
    let report: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &report["schema"]), (200, &"echoring.reload/1".into()), "{body}");
    assert_eq!(
        (&report["changed"][0]["key"], &report["restart"][0]["key"]),
        (&"upstream".into(), &"driver".into())
    );
    assert_eq!(proxy.get("/").1, "b localhost");
    // The commands for a server's admin address are for this one, too.
    proxy.write(&file(&[&b], "balance = 'round-robin'"));
    let address = admin.to_string();
    let run = |words: &[&str]| {
        let output = program::command(words).args(["--admin", &address]).output().expect("it runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let changed = "changed: balance from \"least-connections\" to \"round-robin\"\n";
    let restart = "needs a restart: driver";
    let (code, told) = run(&["reload"]);
    assert!(code == Some(0) && told.starts_with(changed) && !told.contains(restart), "{told}");
    assert_eq!((run(&["health"]).0, run(&["health", "--ready"]).0), (Some(0), Some(0)));
    proxy.write("balance = 'none'");
    let (status, body) = ask(admin, "POST", "/reload", &[]);
    assert!(
        status == 422 && body.contains("bad-configuration") && body.contains(":1:11: balance: "),
        "{body}"
    );
    assert_eq!(metric(admin, "echoring_last_reload_refused"), Some(1));
    assert_eq!(proxy.get("/").1, "b localhost");
}

#[test]
fn a_drain_ends_the_proxy_once_requests_have_ended() {
    let upstream = Upstream::start("a");
    let (proxy, admin) = with_admin(&file(&[&upstream], ""), &[]);
    let address = proxy.address;
    let asked = thread::spawn(move || ask(address, "GET", "/held", &[]));
    upstream.wait_for_request(0);
    let (mut socket, _) = proxy.open();
    let (status, body) = ask(admin, "POST", "/drain", &[]);
    assert_eq!((status, body.as_str()), (200, "{\"state\":\"draining\"}\n"));
    assert_eq!(ask(admin, "GET", "/readyz", &[]), (503, "draining\n".to_owned()));
    assert_eq!(ask(admin, "GET", "/healthz", &[]).0, 200);
    let closed = socket.read().expect("a Close frame");
    assert!(matches!(closed, Message::Close(Some(frame)) if u16::from(frame.code) == 1001));
    upstream.release();
    assert_eq!(asked.join().expect("no panic").0, 200);
    assert_eq!(proxy.end(), Some(0));
}

#[test]
fn a_signal_makes_it_not_ready() {
    let upstream = Upstream::start("a");
    let (proxy, admin) = with_admin(&file(&[&upstream], ""), &[]);
    let address = proxy.address;
    let asked = thread::spawn(move || ask(address, "GET", "/held", &[]));
    upstream.wait_for_request(0);
    signal(&proxy.process, Signal::TERM);
    proxy.line_with("draining");
    assert_eq!(ask(admin, "GET", "/readyz", &[]), (503, "draining\n".to_owned()));
    upstream.release();
    assert_eq!((asked.join().expect("no panic").0, proxy.end()), (200, Some(0)));
}

#[test]
fn other_paths_and_methods_are_refused() {
    let upstream = Upstream::start("a");
    let (_proxy, admin) = with_admin(&file(&[&upstream], ""), &[]);
    for path in ["/", "/stats", "/topics/a", "/drainx", "/api/publish"] {
        let (status, body) = ask(admin, "GET", path, &[]);
        assert!(status == 404 && body.contains("/drain, /healthz, /metrics"), "{path}: {status} {body}");
    }
    for (method, path) in
        [("POST", "/healthz"), ("DELETE", "/metrics"), ("GET", "/drain"), ("PUT", "/reload")]
    {
        assert_eq!(ask(admin, method, path, &[]).0, 405, "{method} {path}");
    }
    assert_eq!(ask(admin, "POST", "/drain", &["Origin: http://localhost"]).0, 403, "a page in a browser");
    assert_eq!(ask(admin, "HEAD", "/metrics", &[]), (200, String::new()));
    assert_eq!(ask(admin, "GET", "/readyz", &[]).0, 200);
}

#[test]
fn tokens_hold_and_their_files_are_read_again() {
    let upstream = Upstream::start("a");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let files = ["write", "read"].map(|name| {
        let path = folder.join(format!("proxy-{name}-{}", std::process::id()));
        fs::write(&path, format!("0123456789abcdef-{name}")).expect("written");
        path
    });
    let [write, read] = files.each_ref().map(|path| path.to_str().expect("text"));
    let lines = format!("admin_token_file = '{write}'\nadmin_read_token_file = '{read}'");
    let (proxy, admin) = with_admin(&file(&[&upstream], &lines), &[]);
    let asked = |method: &str, path: &str, token: &str| {
        ask(admin, method, path, &[&format!("Authorization: Bearer 0123456789abcdef-{token}")]).0
    };
    assert_eq!((ask(admin, "GET", "/metrics", &[]).0, ask(admin, "GET", "/healthz", &[]).0), (401, 200));
    assert_eq!((asked("GET", "/metrics", "read"), asked("GET", "/readyz", "write")), (200, 200));
    assert_eq!((asked("POST", "/drain", "read"), asked("POST", "/reload", "wrong")), (403, 401));
    fs::write(write, "0123456789abcdef-other").expect("written");
    assert_eq!(asked("POST", "/reload", "write"), 200);
    assert_eq!((asked("GET", "/metrics", "write"), asked("GET", "/metrics", "other")), (401, 200));
    // The absence of a key opens nothing.
    proxy.reload(&file(&[&upstream], ""));
    proxy.line_with("need a restart");
    assert_eq!((ask(admin, "GET", "/metrics", &[]).0, asked("GET", "/metrics", "read")), (401, 200));
    assert_eq!(asked("POST", "/drain", "other"), 200);
    assert_eq!(proxy.end(), Some(0));
    files.iter().for_each(|path| fs::remove_file(path).expect("removed"));
}

#[test]
fn an_admin_address_in_use_is_one_line_and_by_default_there_is_none() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = taken.local_addr().expect("its address").to_string();
    let flags =
        ["proxy", "--upstream", "ws://a", "--listen", "127.0.0.1:0", "--log", "off", "--admin", &address];
    let output = program::command(&flags).output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(3), 1), "{stderr}");
    assert!(stderr.contains(&address) && stderr.contains("--admin off"), "{stderr}");
    let shown = program::command(&["proxy", "--upstream", "ws://a", "--check"]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("admin = \"off\"\n"));
}
