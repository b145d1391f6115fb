//! The command line as a script sees it: exit codes, one-line errors, the `listening` line, signals.
//!
//! Spawns the real binary, on free ports, and waits only by reading its output.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{certificate, program};
use certificate::certificate;
use rustix::process::Signal;

mod doctor;

/// Longer than any deadline of the server that a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

fn echoring(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echoring"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(arguments: &[&str]) -> Output {
    echoring(arguments).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running `serve`, killed when it goes out of scope at the latest.
struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    listening: String,
    address: Option<SocketAddr>,
}

impl Server {
    fn start(flags: &[&str]) -> Server {
        let fixed = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--log", "warn"];
        let mut command = echoring(&fixed);
        let mut child = command.args(flags).stderr(Stdio::inherit()).spawn().expect("the binary runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (listening, address) = program::listening(&mut stdout);
        Server { child, stdout, listening, address }
    }

    fn address(&self) -> SocketAddr {
        self.address.unwrap_or_else(|| panic!("no address in {:?}", self.listening))
    }

    /// A connection that has been upgraded.
    fn connect(&self) -> TcpStream {
        let (stream, head) = self.ask("/echo");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // The example of RFC 6455, section 1.3.
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        stream
    }

    /// A connection that requested an upgrade on `path`, and the head of the response.
    fn ask(&self, path: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(self.address()).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a response");
            head.push(byte[0]);
        }
        (stream, text(&head))
    }

    fn exit_code(&mut self) -> Option<i32> {
        let started = Instant::now();
        // Stdout ends with the process.
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "", "nothing but the listening line belongs on stdout");
        let code = self.child.wait().expect("ended").code();
        assert!(started.elapsed() < PATIENCE);
        code
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_and_version_go_to_stdout_and_succeed() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["serve", "--help"],
        &["bench", "--help"],
        &["compare", "--help"],
        &["--version"],
    ] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stdout.is_empty());
    }
    let help = text(&output(&["serve", "--help"]).stdout);
    assert!(help.contains("Examples:") && help.contains("serve --config /etc/echoring.toml"), "{help}");
}

#[test]
fn a_wrong_argument_is_one_line_and_exit_code_2() {
    for arguments in [
        &[][..],
        &["dance"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--shards", "2", "--cpus", "0"],
        &["serve", "--max-message", "much"],
        &["serve", "extra"],
        &["serve", "--tls-cert", "cert.pem"],
        &["serve", "--tls-key", "key.pem"],
        &["serve", "--config"],
        &["serve", "--max-topics", "0"],
        &["serve", "--max-subscriptions", "many"],
        &["bench", "--insecure"],
        &["bench", "wss://localhost", "--insecure", "--ca-file", "ca.pem"],
        &["completions", "cobol"],
        &["man", "dance"],
        &["bench", "--connections", "none"],
        &["bench", "http://127.0.0.1:1/"],
        &["bench", "--fail-if", "p99<2"],
        &["compare"],
        &["compare", "Cargo.toml"],
        &["compare", "Cargo.toml", "Cargo.toml", "--threshold", "much"],
        &["compare", "Cargo.toml", "Cargo.toml", "--metric", "p95"],
    ] {
        let output = output(arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
    }
}

#[test]
fn completions_and_manual_pages_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let output = output(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("max-message"), "{shell}");
    }
    assert!(text(&output(&["man"]).stdout).contains(".TH echoring 1"));
    assert!(text(&output(&["man", "serve"]).stdout).contains("max\\-message"));
    assert!(text(&output(&["man", "compare"]).stdout).contains("threshold"));
}

#[test]
fn the_listening_line_tells_the_real_port_and_the_pid() {
    let server = Server::start(&["--shards", "1"]);
    let words: Vec<&str> = server.listening.trim_end().split(' ').collect();
    let [listening, url, driver, shards, pid] = words[..] else { panic!("{}", server.listening) };
    assert_eq!(listening, "listening");
    assert!(url.starts_with("ws://127.0.0.1:") && !url.ends_with(":0"), "{url}");
    assert!(["driver=uring", "driver=epoll"].contains(&driver), "{driver}");
    assert_eq!(shards, "shards=1");
    assert_eq!(pid, format!("pid={}", server.child.id()));
    drop(server.connect());
}

/// A file that is deleted when it goes out of scope.
struct File(PathBuf);

impl File {
    /// A file with these bytes and a unique name.
    fn new(name: &str, bytes: &[u8]) -> File {
        let name = format!("echoring-cli-{}-{name}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).expect("written");
        File(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_file_says_what_the_server_runs_with_and_flags_win() {
    let file = File::new(
        "runs",
        b"listen = \"127.0.0.1:9\"\nadmin = \"127.0.0.1:9\"\nshards = 2\ndriver = \"epoll\"\nmax_message = \"1KiB\"\n\
          [[topics]]\npattern = \"prices.*\"\nslow = \"conflate\"\n",
    );
    // `Server::start` gives --listen, --admin and --log.
    let server = Server::start(&["--config", file.path(), "--shards", "1"]);
    assert!(server.listening.contains(" driver=epoll shards=1 "), "{}", server.listening);
    let mut stream = server.connect();
    // A masked binary frame that announces 1,025 bytes.
    stream.write_all(&[0x82, 0xfe, 0x04, 0x01, 0, 0, 0, 0]).expect("sent");
    let mut head = [0; 4];
    stream.read_exact(&mut head).expect("a Close frame");
    assert_eq!((head[0], u16::from_be_bytes([head[2], head[3]])), (0x88, 1009), "the file's limit holds");
}

#[test]
fn what_a_file_says_about_topics_holds_for_those_that_fit() {
    let file = File::new(
        "topics",
        b"max_topics = 2\n[[topics]]\npattern = \"news.*\"\npublish = \"operator\"\n[topic_defaults]\nlag = \"1s\"\n",
    );
    let server = Server::start(&["--config", file.path(), "--shards", "1"]);
    let (mut news, head) = server.ask("/broadcast/news.local");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let (mut talk, head) = server.ask("/broadcast/talk?self=1");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let (_, head) = server.ask("/broadcast/one-too-many");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    // A masked text frame "hi": clients may say so in the one topic, and not in the other.
    let hi = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
    let mut head = [0; 4];
    talk.write_all(&hi).expect("sent");
    talk.read_exact(&mut head).expect("its own message");
    assert_eq!(head, [0x81, 2, b'h', b'i']);
    news.write_all(&hi).expect("sent");
    news.read_exact(&mut head).expect("a Close frame");
    assert_eq!((head[0], u16::from_be_bytes([head[2], head[3]])), (0x88, 1008));
}

#[test]
fn what_is_wrong_in_a_file_is_one_line_with_its_place_and_exit_code_2() {
    for (name, bytes, place, words) in [
        ("syntax", &b"log = \"info\"\nshards 2\n"[..], "2:8", "expected"),
        ("encoding", b"# \xff\n", "1:3", "UTF-8"),
        ("unknown", b"max_mesage = 1\n", "1:1", "did you mean `max_message`?"),
        ("type", b"takeover = 1\n", "1:12", "takeover: expected true or false"),
        ("value", b"max_message = \"lots\"\n", "1:15", "max_message: expected bytes such as"),
        ("range", b"\nhandshake_timeout = \"1h\"\n", "2:21", "handshake_timeout: must be from 100ms to 5m"),
        ("together", b"cpus = \"0\"\nshards = 2\n", "2:10", "shards: 2 shards need as many CPUs"),
        (
            "topic",
            b"[[topics]]\npattern = \"a\"\nlag = \"2h\"\n",
            "3:7",
            "topics.lag: must be from 100ms to 1h",
        ),
        ("pattern", b"[[topics]]\nslow = \"conflate\"\n", "1:1", "topics.pattern: missing"),
        ("twice", b"[[topics]]\npattern = \"a\"\n[[topics]]\npattern = \"a\"\n", "4:11", "never tried"),
        ("default", b"[topic_defaults]\npublish = \"all\"\n", "2:11", "expected \"nobody\" or \"everybody\""),
    ] {
        let file = File::new(name, bytes);
        let output = output(&["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--config", file.path()]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with(&format!("error: {}:{place}: ", file.path())), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_line_with_the_cure_and_exit_code_3() {
    for path in ["/nowhere/echoring.toml", "/"] {
        let output = output(&["serve", "--config", path]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(path) && stderr.contains("name a file that this user may read"), "{stderr}");
    }
}

#[test]
fn a_file_without_an_end_is_not_read_for_ever() {
    let output = output(&["serve", "--config", "/dev/zero"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("longer than 1MiB"), "{}", text(&output.stderr));
}

#[test]
fn a_check_prints_what_would_hold_and_serves_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let file = File::new(
        "checked",
        b"queue_bytes = \"64KiB\"\n[[topics]]\npattern = \"a.*\"\npresence = \"everybody\"\n",
    );
    let flags = ["serve", "--config", file.path(), "--listen", &address, "--admin", "off", "--check"];
    let shown = output(&flags);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let toml = text(&shown.stdout);
    for line in [
        format!("listen = [\"{address}\"]  # --listen"),
        "max_message = \"64KiB\"\n".to_owned(),
        format!("queue_bytes = \"64KiB\"  # {}:1", file.path()),
        "pattern = \"a.*\"\nslow = \"disconnect\"\nlag_bytes = \"64KiB\"".to_owned(),
    ] {
        assert!(toml.contains(&line), "{line} is not in\n{toml}");
    }
    let printed = File::new("printed", toml.as_bytes());
    let again = text(&output(&["serve", "--check", "--config", printed.path()]).stdout);
    assert_eq!(without_comments(&again), without_comments(&toml));
    let wrong = output(&["serve", "--check", "--queue-bytes", "1"]);
    assert_eq!((wrong.status.code(), text(&wrong.stdout)), (Some(2), String::new()));
}

/// What only the host shows to be wrong is told with its place in the file, too, and in the words of the file.
#[test]
fn what_a_file_says_wrong_is_told_with_its_place() {
    let admin = ["--admin", "127.0.0.1:0"];
    for (text, complaint, flags) in [
        ("admin_token_file = 'missing'", "admin_token_file: no token in missing", &admin[..]),
        ("user = 'no-such-user'", "user: there is no user no-such-user", &admin),
        ("access_log = '/missing/log'", "access_log: ", &admin),
        ("tls_cert = '/missing/cert'\ntls_key = '/missing/key'", "tls_cert: ", &admin),
        ("admin = 'unix:/missing/socket'", "admin: cannot listen on unix:/missing/socket", &[]),
    ] {
        let file = File::new("wrong", text.as_bytes());
        for check in [&["--check"][..], &[]] {
            let words = ["serve", "--listen", "127.0.0.1:0", "--config", file.path()];
            let run = output(&[&words[..], flags, check].concat());
            let stderr = String::from_utf8_lossy(&run.stderr);
            let column = text.find('\'').expect("a value") + 1;
            let place = format!("error: {}:1:{column}: {complaint}", file.path());
            assert!(stderr.contains(&place) && run.status.code() == Some(3), "{place}\n{stderr}");
            assert!(!stderr.contains("--"), "{stderr}");
        }
    }
}

#[test]
fn a_check_finds_what_a_start_would_find_and_leaves_no_file() {
    let folder = std::env::temp_dir().join(format!("echoring-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let inside = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    let token = File::new("equal", b"0123456789abcdef-one");
    let listen = ["serve", "--listen", "127.0.0.1:0"];
    let admin = |path: &str| format!("unix:{path}");
    let (no_log, no_socket) = (inside("missing/log"), admin(&inside("missing/socket")));
    for (flags, complaint) in [
        (&["--admin-token-file", "missing"][..], "no token in missing"),
        (
            &["--admin-token-file", token.path(), "--admin-read-token-file", token.path()],
            "has the same token as --admin-token-file",
        ),
        (&["--admin", "off", "--log-file", &no_log], "No such file"),
        (&["--admin", "off", "--access-log", &no_log], "No such file"),
        (&["--admin", "off", "--congestion", "none-such"], "no congestion control"),
        (&["--admin", &no_socket], "No such file"),
        (&["--admin", "off", "--listen", &no_socket], "No such file"),
    ] {
        for check in [&["--check"][..], &[]] {
            let tried = output(&[&listen[..], flags, check].concat());
            let said = text(&tried.stderr);
            assert_eq!(tried.status.code(), Some(3), "{flags:?} {check:?}: {said}");
            assert!(said.contains(complaint), "{flags:?} {check:?}: {said}");
        }
    }
    let (log, access) = (inside("log"), inside("access"));
    let (socket, other) = (admin(&inside("socket")), admin(&inside("other")));
    let flags =
        ["--check", "--log-file", &log, "--access-log", &access, "--admin", &socket, "--listen", &other];
    let right = output(&[&listen[..], &flags].concat());
    assert_eq!(right.status.code(), Some(0), "{}", text(&right.stderr));
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 0, "a check creates nothing");
    std::fs::remove_dir_all(&folder).expect("removed");
}

/// The lines of a configuration that `--check` printed, without the comments behind values.
fn without_comments(toml: &str) -> Vec<&str> {
    toml.lines().map(|line| line.split("  # ").next().unwrap_or_default()).collect()
}

/// What `serve --check` prints with these environment variables and flags.
fn check_with(variables: &[(&str, &str)], flags: &[&str]) -> Output {
    let mut command = echoring(&[&["serve", "--check"], flags].concat());
    command.envs(variables.iter().copied()).output().expect("the binary runs")
}

#[test]
fn environment_variables_stand_between_the_file_and_the_flags() {
    let file = File::new("variables", b"max_message = 1\nmax_topics = 1\nqueue_bytes = \"64KiB\"");
    let variables = [
        ("ECHORING_CONFIG", file.path()),
        ("ECHORING_MAX_MESSAGE", "1MiB"),
        ("ECHORING_MAX_TOPICS", "2"),
        ("ECHORING_ALLOW_HOST", "a.example,b.example"),
        ("ECHORING_LOG", ""),
        ("ECHORING_SERVICE_HOST", "10.0.0.1"),
        ("ECHORING_PORT", "tcp://10.0.0.1:9001"),
    ];
    let shown = check_with(&variables, &["--max-topics=3"]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let toml = text(&shown.stdout);
    for line in [
        ": ECHORING_PORT, ECHORING_SERVICE_HOST\n".to_owned(),
        "\nmax_message = \"1MiB\"  # ECHORING_MAX_MESSAGE\n".to_owned(),
        "\nmax_topics = 3  # --max-topics\n".to_owned(),
        format!("\nqueue_bytes = \"64KiB\"  # {}:3\n", file.path()),
        "\nallow_host = [\"a.example\", \"b.example\"]  # ECHORING_ALLOW_HOST\n".to_owned(),
        "\nlog = \"info\"\n".to_owned(),
    ] {
        assert!(toml.contains(&line), "{line} is not in\n{toml}");
    }
}

#[test]
fn a_wrong_environment_variable_is_a_usage_error_with_its_name() {
    for (name, value, code, line) in [
        ("ECHORING_MAX_MESSAGE", "lots", 2, "expected bytes such as 65536, 64KiB or 1MiB"),
        ("ECHORING_TLS_KEY", "k.pem", 2, "needs its certificate, ECHORING_TLS_CERT"),
        ("ECHORING_CPUS", "1023", 3, ""),
        ("ECHORING_CONFIG", "/nowhere.toml", 3, "cannot read /nowhere.toml: "),
    ] {
        let output = check_with(&[(name, value)], &[]);
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(code), 1), "{stderr}");
        assert!(stderr.starts_with(&format!("error: {name}: {line}")), "{stderr}");
    }
}

#[test]
fn a_check_refuses_what_a_start_refuses_and_tells_where_it_stands() {
    for (name, line, flag, words) in [
        (
            "connections",
            "max_connections = 16777216",
            "--max-connections=16777216",
            "descriptors; raise the limit",
        ),
        ("cpu", "cpus = \"1023\"", "--cpus=1023", "may not use CPU 1023"),
    ] {
        let file = File::new(name, line.as_bytes());
        let (key, _) = line.split_once(" =").expect("a key");
        let place = format!("error: {}:1:{}: {key}: ", file.path(), key.len() + 4);
        let by_flag = format!("error: {}: ", flag.split('=').next().expect("a flag"));
        for (words_before, given) in [(&place, ["--config", file.path()]), (&by_flag, [flag, "--log=warn"])] {
            for check in [&["--check"][..], &[]] {
                let base = ["serve", "--listen", "127.0.0.1:0", "--admin", "off"];
                let output = output(&[&base[..], &given[..], check].concat());
                let stderr = text(&output.stderr);
                assert_eq!(
                    (output.status.code(), stderr.lines().count()),
                    (Some(3), 1),
                    "{given:?}: {stderr}"
                );
                assert!(stderr.starts_with(words_before.as_str()) && stderr.contains(words), "{stderr}");
            }
        }
    }
    let shown = text(&output(&["serve", "--check", "--shards", "2", "--max-connections", "7"]).stdout);
    let host = shown.lines().next().expect("a line");
    assert!(host.starts_with("# On this host: shards = 2, on CPUs "), "{host}");
    assert!(host.ends_with("; max_connections = 7"), "{host}");
}

#[test]
fn connect_talks_over_a_socket_file_and_sends_the_origin_it_is_given() {
    let folder = std::env::temp_dir().join(format!("echoring-cli-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("connect.sock");
    let path = path.to_str().expect("a path in UTF-8");
    let listen = format!("unix:{path}");
    let server = Server::start(&["--listen", &listen]);
    let mut lines = vec![server.listening.clone()];
    let mut server = server;
    let mut second = String::new();
    server.stdout.read_line(&mut second).expect("a line for the second address");
    lines.push(second);
    assert!(lines.iter().any(|line| line.contains(&format!("ws+unix:{path} "))), "{lines:?}");
    for url in [format!("unix:{path}:/echo"), format!("ws+unix:{path}")] {
        for (origin, code) in [("http://localhost", Some(0)), ("http://evil.example", Some(3))] {
            let header = format!("Origin: {origin}");
            let mut talk = echoring(&["connect", &url, "--header", &header]);
            let mut child = talk.stdin(Stdio::piped()).spawn().expect("the binary runs");
            // Who is refused may have gone before it is told anything.
            let _ = child.stdin.take().expect("piped").write_all(b"hi\n");
            let output = child.wait_with_output().expect("ended");
            let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
            assert_eq!(output.status.code(), code, "{url} {origin}: {stderr}");
            assert_eq!(stdout == "hi\n", code == Some(0), "{url} {origin}: {stdout} {stderr}");
            assert!(code == Some(0) || stderr.contains("403"), "{stderr}");
        }
    }
    let nobody = output(&["connect", "unix:/nowhere/x.sock"]);
    assert_eq!(nobody.status.code(), Some(3), "{}", text(&nobody.stderr));
    drop(server);
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn the_example_in_the_documentation_is_taken() {
    let documentation = include_str!("../../docs/reference/configuration.md");
    let (_, section) = documentation.split_once("\n## Example\n").expect("a section");
    let example = section.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let files = certificate();
    let [cert, key] = [&files.cert, &files.key].map(|path| path.to_str().expect("a path in UTF-8"));
    let example = example
        .expect("an example")
        .replace("/etc/echoring/fullchain.pem", cert)
        .replace("/etc/echoring/key.pem", key);
    let file = File::new("example", example.as_bytes());
    let output = output(&["serve", "--check", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let (toml, example) = (text(&output.stdout), example.as_str());
    assert_eq!(toml.matches("[[topics]]").count(), example.matches("[[topics]]").count());
}

#[test]
fn the_epoll_driver_is_taken_when_asked_for() {
    let server = Server::start(&["--driver", "epoll"]);
    assert!(server.listening.contains(" driver=epoll "), "{}", server.listening);
    drop(server.connect());
}

#[test]
fn a_signal_drains_with_1001_and_exit_code_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&[]);
        let mut stream = server.connect();
        let started = Instant::now();
        program::signal(&server.child, signal);
        let mut head = [0; 4];
        stream.read_exact(&mut head).expect("a Close frame");
        assert_eq!((head[0], u16::from_be_bytes([head[2], head[3]])), (0x88, 1001));
        // The answer that ends a closing handshake: a masked Close frame with the same code.
        stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]).expect("sent");
        assert_eq!(server.exit_code(), Some(0), "{signal:?}");
        assert!(started.elapsed() < Duration::from_secs(10), "{signal:?}");
    }
}

#[test]
fn a_peer_that_ignores_the_drain_cannot_hold_it_up() {
    let mut server = Server::start(&[]);
    let _deaf = server.connect();
    let started = Instant::now();
    program::signal(&server.child, Signal::TERM);
    assert_eq!(server.exit_code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_port_in_use_is_one_line_with_the_cure_and_exit_code_3() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    for flags in [
        ["--listen", address.as_str(), "--admin", "off"],
        ["--listen", "127.0.0.1:0", "--admin", address.as_str()],
    ] {
        let output = output(&[&["serve", "--log", "off"], &flags[..]].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(&address), "{stderr}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn tls_files_that_do_not_work_are_one_line_with_the_cure_and_exit_code_3() {
    let files = certificate();
    let [cert, key] = [&files.cert, &files.key].map(|path| path.to_str().expect("a path in UTF-8"));
    for (flags, hint) in [
        (["--tls-cert", "/nowhere/cert.pem", "--tls-key", key], "name a file that this user may read"),
        (["--tls-cert", key, "--tls-key", key], "BEGIN CERTIFICATE"),
        (["--tls-cert", cert, "--tls-key", cert], "BEGIN PRIVATE KEY"),
    ] {
        let output = output(&[&["serve", "--listen", "127.0.0.1:0", "--admin", "off"], &flags[..]].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(hint), "{stderr}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn bench_measures_through_tls_whom_it_believes() {
    let files = certificate();
    let [cert, key] = [&files.cert, &files.key].map(|path| path.to_str().expect("a path in UTF-8"));
    for driver in ["auto", "epoll"] {
        let server =
            Server::start(&["--driver", driver, "--shards", "2", "--tls-cert", cert, "--tls-key", key]);
        let url = server.listening.split(' ').nth(1).expect("a URL");
        let port = url.strip_prefix("wss://127.0.0.1:").expect("a wss URL");
        let url = format!("wss://localhost:{port}");
        let load = ["-c", "4", "-d", "300ms", "--warmup", "0s", "--driver", driver];
        for more in [
            &["--ca-file", cert, "--message-bytes", "12..40000", "--kind", "binary", "--depth", "3"][..],
            &["--insecure", "--mode", "broadcast", "--json", "-"],
        ] {
            let output = output(&[&["bench", &url], &load[..], more].concat());
            let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
            // A busy machine makes the generator late, which is no failure here.
            assert!(matches!(output.status.code(), Some(0 | 4)), "{stdout}{stderr}");
            assert!(stdout.contains("4 handshakes") || stdout.contains("\"handshakes\": 4"), "{stdout}");
        }
        let output = output(&[&["bench", &url], &load[..]].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains("unknown issuer") && stderr.contains("--ca-file"), "{stderr}");
    }
}
