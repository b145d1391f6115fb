//! A nats-server of the test's own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::ports;

/// A server's process. It is killed when this is dropped.
pub struct NatsServer {
    pub address: SocketAddr,
    program: PathBuf,
    config: PathBuf,
    process: Option<Child>,
}

impl NatsServer {
    /// A server with these lines in its configuration, which is not started yet. `None` if the program is not installed, which
    /// fails in CI.
    pub fn prepare(config: &str) -> Option<NatsServer> {
        let Some(program) = program() else {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "nats-server is not installed");
            eprintln!("skipped: nats-server is not installed (apt-get install nats-server)");
            return None;
        };
        let [address] = ports::free();
        let server = NatsServer { address, program, config: folder().join("nats.conf"), process: None };
        server.configure(config);
        Some(server)
    }

    /// Writes the configuration anew, with these lines.
    pub fn configure(&self, config: &str) {
        fs::write(&self.config, format!("listen: \"{}\"\n{config}\n", self.address)).expect("written");
    }

    /// A server that runs.
    pub fn start(config: &str) -> Option<NatsServer> {
        let mut server = NatsServer::prepare(config)?;
        server.run();
        Some(server)
    }

    /// Starts the process, and waits until it listens.
    pub fn run(&mut self) {
        let mut process = Command::new(&self.program)
            .arg("--config")
            .arg(&self.config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("nats-server starts");
        let mut lines = BufReader::new(process.stderr.take().expect("a pipe")).lines();
        let mut log = String::new();
        let is_ready = lines.by_ref().map_while(Result::ok).any(|line| {
            log += &format!("{line}\n");
            line.contains("Server is ready")
        });
        assert!(is_ready, "nats-server does not start:\n{log}");
        // A full pipe would stop it.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        self.process = Some(process);
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("ended");
        }
    }

    /// Has the process read its configuration again, after it was written anew with these lines.
    pub fn reload(&self, config: &str) {
        self.configure(config);
        let process = self.process.as_ref().expect("a process");
        let status = Command::new("kill").args(["-HUP", &process.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A new folder of the test's own.
pub fn folder() -> PathBuf {
    static FOLDERS: AtomicU32 = AtomicU32::new(0);
    let name = format!("backbone-{}-{}", std::process::id(), FOLDERS.fetch_add(1, Ordering::Relaxed));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A file of the test's own.
pub fn file(name: &str, text: &str) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, text).expect("written");
    path
}

/// Debian installs it where the path of most users does not lead.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("nats-server")).find(|program| program.is_file())
}
