//! Reloads of `echoring proxy`: what a new configuration changes, and what goes on as it began. The real binary between clients and
//! upstreams that tell their names.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

use crate::proxy::Certificate;
use crate::support::{patient, program};
use patient::Patient;
use program::{command, listening, signal};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A server that answers requests with its name, and tells it first on WebSockets, which it then echoes.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    /// Requests for `/held` wait until it is set.
    release: Arc<AtomicBool>,
    /// Requests that have arrived.
    requests: Arc<AtomicUsize>,
}

impl Upstream {
    pub(super) fn start(name: &'static str) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let (release, requests) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (released, counted) = (Arc::clone(&release), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (released, counted) = (Arc::clone(&released), Arc::clone(&counted));
                thread::spawn(move || answer(&stream.expect("a connection"), name, &released, &counted));
            }
        });
        Upstream { address, release, requests }
    }

    pub(super) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Answers the requests for `/held`.
    pub(super) fn release(&self) {
        self.release.store(true, Ordering::SeqCst);
    }

    /// Waits until another request has arrived.
    pub(super) fn wait_for_request(&self, before: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.requests.load(Ordering::SeqCst) == before {
            assert!(Instant::now() < deadline, "no request");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn answer(stream: &TcpStream, name: &str, released: &AtomicBool, requests: &AtomicUsize) {
    let mut head = vec![0; 4096];
    // Health checks connect, and send nothing.
    let head = loop {
        match stream.peek(&mut head) {
            Ok(bytes) if head[..bytes].ends_with(b"\r\n\r\n") => {
                break String::from_utf8_lossy(&head[..bytes]).into_owned();
            }
            Ok(1..) => thread::sleep(Duration::from_millis(1)),
            _ => return,
        }
    };
    requests.fetch_add(1, Ordering::SeqCst);
    if head.to_ascii_lowercase().contains("upgrade: websocket") {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        let _ = socket.send(name.into());
        while let Ok(message) = socket.read() {
            if message.is_text() {
                let _ = socket.send(message);
            }
        }
        return;
    }
    while head.starts_with("GET /held ") && !released.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(5));
    }
    let host = head.lines().find_map(|line| line.strip_prefix("host: ").or(line.strip_prefix("Host: ")));
    let body = format!("{name} {}", host.unwrap_or_default());
    let mut stream = stream;
    let _ = stream.read(&mut [0; 4096]);
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// `echoring proxy` with a file, killed when it goes out of scope at the latest.
pub(super) struct Proxy {
    pub(super) process: Child,
    pub(super) address: SocketAddr,
    file: PathBuf,
    log: mpsc::Receiver<String>,
}

impl Proxy {
    pub(super) fn start(contents: &str, flags: &[&str]) -> Proxy {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let name = format!("proxy-{}-{number}.toml", std::process::id());
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&file, contents).expect("written");
        let mut process = command(&["proxy", "--config", file.to_str().expect("text")])
            .args(["--listen", "127.0.0.1:0"])
            .args(if flags.contains(&"--shards") { &[][..] } else { &["--shards", "2"] })
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let (sender, log) = mpsc::channel();
        let stderr = BufReader::new(process.stderr.take().expect("piped"));
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let (line, address) = listening(&mut BufReader::new(process.stdout.take().expect("piped")));
        let address =
            address.unwrap_or_else(|| panic!("no listening line but {line:?}: {:?}", log.try_iter()));
        Proxy { process, address, file, log }
    }

    /// Replaces the file, as operators should: at once.
    pub(super) fn write(&self, contents: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, contents).expect("written");
        fs::rename(new, &self.file).expect("renamed");
    }

    /// Replaces the file and reloads it. Returns the line of the log about it.
    pub(super) fn reload(&self, contents: &str) -> String {
        self.write(contents);
        self.log.try_iter().for_each(drop);
        signal(&self.process, Signal::HUP);
        self.line_with("reloaded")
    }

    /// The next line of the log with this text.
    pub(super) fn line_with(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Status, and body, of the answer to a GET.
    pub(super) fn get(&self, path: &str) -> (u16, String) {
        ask(self.address, "GET", path, &[])
    }

    /// An open WebSocket, and the name of its upstream.
    pub(super) fn open(&self) -> (WebSocket<Patient>, String) {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let url = format!("ws://{}/echo", self.address);
        let (mut socket, _) = tungstenite::client(url, Patient(stream)).expect("an open connection");
        let name = text(&mut socket);
        (socket, name)
    }

    /// Waits for its end, and returns its exit code.
    pub(super) fn end(mut self) -> Option<i32> {
        self.process.wait().expect("it ends").code()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.file);
    }
}

/// Status, and body, of the answer to a request with these fields.
pub(super) fn ask(address: SocketAddr, method: &str, path: &str, fields: &[&str]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.unwrap_or_else(|| panic!("no answer: {answer:?}")), body.unwrap_or_default())
}

fn text(socket: &mut WebSocket<Patient>) -> String {
    socket.read().expect("a message").into_text().expect("text").as_str().to_owned()
}

/// Whether the WebSocket is where it was.
pub(super) fn echoes(socket: &mut WebSocket<Patient>) -> bool {
    socket.send("still there?".into()).expect("sent");
    text(socket) == "still there?"
}

/// A file with these upstreams, and further lines.
pub(super) fn file(upstreams: &[&Upstream], lines: &str) -> String {
    let urls: Vec<String> = upstreams.iter().map(|upstream| format!("'{}'", upstream.url())).collect();
    format!("upstream = [{}]\n{lines}", urls.join(", "))
}

/// The names of the upstreams that answer so many requests.
fn names(proxy: &Proxy, requests: usize) -> Vec<String> {
    let name = |(status, body): (u16, String)| {
        assert_eq!(status, 200, "{body}");
        body.split(' ').next().unwrap_or_default().to_owned()
    };
    let mut names: Vec<String> = (0..requests).map(|_| name(proxy.get("/"))).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn websockets_stay_where_they_are_while_the_list_changes_and_new_ones_go_where_it_says() {
    let [a, b, c] = ["a", "b", "c"].map(Upstream::start);
    let proxy = Proxy::start(&file(&[&a], "balance = 'round-robin'"), &[]);
    let (mut first, name) = proxy.open();
    assert_eq!(name, "a");
    let mut open = vec![];
    for (list, expected) in [
        // Added, reordered, removed, replaced, and back.
        (&[&a, &b][..], &["a", "b"][..]),
        (&[&b, &a], &["a", "b"]),
        (&[&b], &["b"]),
        (&[&c], &["c"]),
        (&[&c, &a, &b], &["a", "b", "c"]),
        (&[&a], &["a"]),
    ] {
        let line = proxy.reload(&file(list, "balance = 'round-robin'"));
        assert!(line.contains("was reloaded") && line.contains("upstream"), "{line}");
        assert_eq!(names(&proxy, 12), expected);
        let (socket, name) = proxy.open();
        assert!(expected.contains(&&*name), "{name} is not in {expected:?}");
        open.push(socket);
        assert!(echoes(&mut first) && open.iter_mut().all(echoes));
    }
}

#[test]
fn a_removed_upstream_gets_nothing_new_and_is_counted_when_it_returns() {
    let [a, b] = ["a", "b"].map(Upstream::start);
    let proxy = Proxy::start(&file(&[&a], ""), &[]);
    let mut sockets: Vec<_> = (0..3).map(|_| proxy.open().0).collect();
    proxy.reload(&file(&[&b], ""));
    let arrived = a.requests.load(Ordering::SeqCst);
    assert_eq!(names(&proxy, 10), ["b"]);
    assert_eq!(a.requests.load(Ordering::SeqCst), arrived);
    // It has three connections, and the other one none.
    proxy.reload(&file(&[&a, &b], ""));
    let next: Vec<_> = (0..3).map(|_| proxy.open()).collect();
    assert!(next.iter().all(|(_, name)| name == "b"), "{:?}", next.iter().map(|(_, name)| name));
    assert!(sockets.iter_mut().all(echoes));
}

#[test]
fn a_request_under_way_ends_with_its_upstream_and_its_time_limit() {
    let [a, b] = ["a", "b"].map(Upstream::start);
    let proxy = Proxy::start(&file(&[&a], ""), &[]);
    let address = proxy.address;
    let asked = thread::spawn(move || ask(address, "GET", "/held", &[]));
    a.wait_for_request(0);
    let line = proxy.reload(&file(&[&b], "response_timeout = '300ms'\nhost = 'upstream'"));
    assert!(
        line.contains("upstream") && line.contains("response_timeout") && line.contains("host"),
        "{line}"
    );
    assert_eq!(proxy.get("/held").0, 504, "the new limit holds for new requests");
    assert_eq!(proxy.get("/"), (200, format!("b {}", b.address)));
    a.release();
    assert_eq!(asked.join().expect("no panic"), (200, "a localhost".to_owned()));
}

#[test]
fn of_many_reloads_the_last_one_holds_and_nothing_is_lost() {
    let [a, b, c] = ["a", "b", "c"].map(Upstream::start);
    let proxy = Proxy::start(&file(&[&a], "health_interval = '50ms'"), &[]);
    let (mut socket, _) = proxy.open();
    for number in 0..60 {
        let list = [&a, &b, &c][number % 3];
        proxy.write(&file(&[list], "health_interval = '50ms'"));
        signal(&proxy.process, Signal::HUP);
        if number % 4 == 0 {
            assert!(echoes(&mut socket));
            assert_eq!(proxy.get("/").0, 200);
        }
    }
    proxy.write(&file(&[&b], ""));
    signal(&proxy.process, Signal::HUP);
    let deadline = Instant::now() + PATIENCE;
    while names(&proxy, 1) != ["b"] {
        assert!(Instant::now() < deadline, "the last file does not hold");
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(200));
    assert_eq!(names(&proxy, 5), ["b"]);
    assert!(echoes(&mut socket));
}

#[test]
fn a_wrong_file_changes_nothing_and_is_told_with_its_place_and_a_remedy() {
    let [a, b] = ["a", "b"].map(Upstream::start);
    let right = file(&[&b], "");
    let proxy = Proxy::start(&file(&[&a], ""), &[]);
    for (wrong, place, remedy) in [
        (format!("{right}balance = round-robin"), ":2:11: ", "put text in quotes"),
        (format!("{right}ballance = 'round-robin'"), ":2:1: ballance: ", "did you mean `balance`?"),
        (format!("{right}connect_timeout = '1ms'"), ":2:19: connect_timeout: ", "10ms"),
        (format!("{right}config = 'other.toml'"), ":2:1: config: ", "no such key"),
        ("balance = 'round-robin'".to_owned(), "", "--upstream"),
        ("upstream = 'ftp://a'".to_owned(), ":1:12: upstream: ", "expected a URL"),
        (format!("{right}tls_cert = '/nowhere/cert.pem'"), ":2:12: tls_cert: ", "tls_key"),
        (format!("{right}insecure = true"), ":2:12: insecure: ", "no upstream is reached by wss://"),
        (format!("{right}max_message = '1KiB'"), ":2:15: max_message: ", "compress on"),
        (format!("{right}max_connections = 16_000_000"), ":2:19: max_connections: ", "ulimit -n"),
        (
            "upstream = 'wss://a'\nca_file = '/nowhere/ca.pem'".to_owned(),
            ":2:11: ca_file: ",
            "/nowhere/ca.pem",
        ),
    ] {
        let line = proxy.reload(&wrong);
        assert!(line.contains("was not reloaded") && line.contains(place) && line.contains(remedy), "{line}");
        assert_eq!(names(&proxy, 3), ["a"], "{wrong}");
        // The log has ten records of one cause in a second.
        thread::sleep(Duration::from_millis(150));
    }
    fs::remove_file(&proxy.file).expect("removed");
    signal(&proxy.process, Signal::HUP);
    let line = proxy.line_with("was not reloaded");
    assert!(line.contains("cannot read") && line.contains("name a file"), "{line}");
    assert!(proxy.reload(&right).contains("was reloaded"));
    assert_eq!(names(&proxy, 3), ["b"]);
}

#[test]
fn changes_that_need_a_restart_are_named_and_the_others_hold() {
    let [a, b] = ["a", "b"].map(Upstream::start);
    let certificate = Certificate::new("begins");
    let proxy = Proxy::start(&file(&[&a], ""), &[]);
    let recording = certificate.path("recording");
    let lines = format!(
        "record = '{recording}'\ndriver = 'epoll'\nadmin = '127.0.0.1:0'\ntls_cert = '{}'\ntls_key = '{}'",
        certificate.path("cert.pem"),
        certificate.path("key.pem")
    );
    let line = proxy.reload(&file(&[&b], &lines));
    assert!(line.contains("changed=\"upstream\""), "{line}");
    let line = proxy.line_with("need a restart");
    assert!(line.contains("keys=\"admin, driver, record, tls_cert, tls_key\""), "{line}");
    assert_eq!(names(&proxy, 3), ["b"]);
    assert!(!fs::exists(recording).expect("readable"));
    // Flags stay, and are no change.
    let line = proxy.reload(&file(&[&a], "listen = '127.0.0.1:1'\nshards = 7"));
    assert!(line.contains("changed=\"upstream\""), "{line}");
    assert_eq!(names(&proxy, 3), ["a"]);
}

#[test]
fn a_replaced_certificate_is_for_new_connections() {
    let upstream = Upstream::start("a");
    let certificates = ["before", "after"].map(Certificate::new);
    let [before, after] = &certificates;
    let (cert, key) = (before.path("cert.pem"), before.path("key.pem"));
    let contents = file(&[&upstream], &format!("tls_cert = '{cert}'\ntls_key = '{key}'"));
    let proxy = Proxy::start(&contents, &[]);
    let (mut old, new) = (before.trusted(), after.trusted());
    // A resumed session shows no certificate.
    old.resumption = rustls::client::Resumption::disabled();
    let mut open = crate::proxy::open_with_tls(proxy.address, &old).expect("trusted");
    assert_eq!(open.read().expect("a name").into_text().expect("text").as_str(), "a");
    fs::copy(after.path("cert.pem"), &cert).expect("copied");
    // They do not match yet: both are replaced, or neither.
    assert!(proxy.reload(&contents).contains("was not reloaded"));
    assert!(crate::proxy::open_with_tls(proxy.address, &old).is_some());
    fs::copy(after.path("key.pem"), &key).expect("copied");
    let line = proxy.reload(&contents);
    assert!(line.contains("was reloaded") && line.contains(&cert) && line.contains(&key), "{line}");
    assert!(crate::proxy::open_with_tls(proxy.address, &old).is_none(), "the old certificate is gone");
    assert!(crate::proxy::open_with_tls(proxy.address, &new).is_some());
    open.send("still there?".into()).expect("sent");
    assert_eq!(open.read().expect("an echo").into_text().expect("text").as_str(), "still there?");
}

#[test]
fn a_reload_during_a_drain_does_not_end_what_is_under_way() {
    let [a, b] = ["a", "b"].map(Upstream::start);
    let proxy = Proxy::start(&file(&[&a], ""), &[]);
    let address = proxy.address;
    let asked = thread::spawn(move || ask(address, "GET", "/held", &[]));
    a.wait_for_request(0);
    let (mut socket, _) = proxy.open();
    signal(&proxy.process, Signal::TERM);
    proxy.line_with("draining");
    assert!(proxy.reload(&file(&[&b], "response_timeout = '10ms'")).contains("was reloaded"));
    let closed = loop {
        match socket.read() {
            Ok(Message::Close(Some(CloseFrame { code, .. }))) => break u16::from(code),
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(closed, 1001);
    a.release();
    assert_eq!(asked.join().expect("no panic").0, 200);
    assert_eq!(proxy.end(), Some(0));
}

#[test]
fn an_idle_timeout_is_for_connections_that_open_after_the_reload() {
    let upstream = Upstream::start("a");
    let proxy = Proxy::start(&file(&[&upstream], ""), &[]);
    let (mut before, _) = proxy.open();
    proxy.reload(&file(&[&upstream], "idle_timeout = '200ms'"));
    let (mut after, _) = proxy.open();
    let closed = after.read().expect("a Close frame");
    assert!(matches!(closed, Message::Close(Some(CloseFrame { code, .. })) if u16::from(code) == 1001));
    assert!(echoes(&mut before));
}

/// A request on a connection that was there before uses what holds now.
#[test]
fn the_next_request_of_a_kept_connection_uses_the_new_configuration() {
    let [a, b] = ["a", "b"].map(Upstream::start);
    let proxy = Proxy::start(&file(&[&a], ""), &[]);
    let mut stream = TcpStream::connect(proxy.address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut exchange = |expected: &str| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
        let (mut answer, mut buffer) = (String::new(), [0; 1024]);
        while !answer.ends_with(expected) {
            let read = stream.read(&mut buffer).expect("an answer");
            assert!(read > 0, "{answer:?} ends without {expected}");
            answer += &String::from_utf8_lossy(&buffer[..read]);
        }
    };
    exchange("a localhost");
    proxy.reload(&file(&[&b], "idle_timeout = '300ms'"));
    exchange("b localhost");
    // It is closed after the new time, not after five minutes.
    assert_eq!(stream.read(&mut [0; 16]).expect("the end"), 0);
}

#[test]
fn further_clients_are_accepted_once_a_reload_allows_more() {
    let upstream = Upstream::start("a");
    let proxy = Proxy::start(&file(&[&upstream], "max_connections = 1"), &["--shards", "1"]);
    let (mut first, _) = proxy.open();
    let address = proxy.address;
    let waiting = thread::spawn(move || ask(address, "GET", "/", &[]));
    thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished(), "it waits to be accepted");
    proxy.reload(&file(&[&upstream], "max_connections = 2"));
    assert_eq!(waiting.join().expect("no panic").0, 200);
    // Fewer than there are: nobody is cut off.
    proxy.reload(&file(&[&upstream], "max_connections = 1"));
    assert!(echoes(&mut first));
    drop(first);
    assert_eq!(proxy.get("/").0, 200);
}

#[test]
fn health_checks_follow_the_file() {
    let alive = Upstream::start("a");
    let dead = TcpListener::bind("127.0.0.1:0").expect("a listener").local_addr().expect("its address");
    let upstreams = |lines: &str| format!("upstream = ['{}', 'ws://{dead}']\n{lines}", alive.url());
    let proxy = Proxy::start(&file(&[&alive], "health_interval = 'off'"), &[]);
    proxy.write(&upstreams("health_interval = '100ms'"));
    signal(&proxy.process, Signal::HUP);
    let line = proxy.line_with("is down");
    assert!(line.contains(&dead.to_string()), "{line}");
    assert_eq!(names(&proxy, 10), ["a"]);
    // One that stays is down still, and is tried again once nothing is checked.
    proxy.reload(&upstreams("health_interval = 'off'\nbalance = 'round-robin'"));
    assert_eq!(names(&proxy, 10), ["a"]);
}

#[test]
fn a_flag_wins_over_the_file_and_a_check_tells_where_values_come_from() {
    let [a, b] = ["a", "b"].map(Upstream::start);
    let proxy = Proxy::start(&file(&[&b], "balance = 'round-robin'"), &["--upstream", &a.url()]);
    assert_eq!(names(&proxy, 4), ["a"]);
    let line = proxy.reload(&file(&[&b, &a], "balance = 'least-connections'"));
    assert!(line.contains("changed=\"balance\""), "{line}");
    assert_eq!(names(&proxy, 4), ["a"]);
    let file = proxy.file.to_str().expect("text");
    let checked =
        command(&["proxy", "--config", file, "--upstream", &a.url(), "--check"]).output().expect("it runs");
    let shown = String::from_utf8(checked.stdout).expect("text");
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));
    for line in [
        format!("upstream = [\"{}\"]  # --upstream\n", a.url()),
        format!("balance = \"least-connections\"  # {file}:2\n"),
        "connect_timeout = \"5s\"\n".to_owned(),
        "idle_timeout = \"5m\"\n".to_owned(),
        "# record is not set\n".to_owned(),
    ] {
        assert!(shown.contains(&line), "{line} is not in\n{shown}");
    }
    // The output of --check is a file with the same settings.
    assert!(proxy.reload(&shown).contains("was reloaded"));
    let wrong = command(&["proxy", "--config", "/nowhere/proxy.toml"]).output().expect("it runs");
    assert_eq!(wrong.status.code(), Some(3));
}
