//! The real binary: runs it to its end, or keeps a server running until it is dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

/// One that has ended.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The JSON that it printed.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {:?}\n{}\n{}", self.code, self.stdout, self.stderr)
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        Run {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The binary with these arguments.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echoring"));
    command.args(words).stdin(Stdio::null());
    command
}

/// The first line of a program that is to listen, and the address in it, unless it says something else or listens on no port.
pub fn listening(stdout: &mut impl BufRead) -> (String, Option<SocketAddr>) {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line on stdout");
    let url = line.strip_prefix("listening ").and_then(|rest| rest.split_whitespace().next());
    let address = url.and_then(|url| url.split_once("://")?.1.parse().ok());
    (line, address)
}

/// Sends a signal to a program that was not waited for yet.
pub fn signal(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).expect("it runs still");
}

/// Stops a program with SIGSTOP, and waits until all of its threads have stopped; until then they could still answer.
pub fn stop(process: &Child) {
    signal(process, Signal::STOP);
    let stopped =
        waitid(WaitId::Pid(Pid::from_child(process)), WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT);
    stopped.expect("a child that stops");
}

/// `echoring serve` on a free port.
pub struct Serve {
    pub process: Child,
    pub address: SocketAddr,
}

impl Serve {
    pub fn start(words: &[&str]) -> Serve {
        let mut process = command(&["serve", "--listen", "127.0.0.1:0", "--admin", "off"])
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let (line, address) = listening(&mut BufReader::new(process.stdout.take().expect("piped")));
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}"));
        Serve { process, address }
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
