//! A node whose server another process replaces while clients are connected, whose connections do not move: they are secured by TLS.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use super::server::{Server, tls_flags};

/// The node. Requests to its admin address go to the server that has replaced the first one.
pub struct Node {
    pub server: Server,
    flags: Vec<String>,
    /// The process that has taken over.
    successor: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(successor) = &mut self.successor {
            let _ = successor.kill();
            let _ = successor.wait();
        }
    }
}

impl Node {
    /// Those that stay are not closed by the drain itself.
    pub fn start(flags: &[&str]) -> Node {
        let common = ["--watch", "off", "--drain", "24h", "--drain-rate", "1"];
        let words = [&common[..], &tls_flags(), flags].concat();
        let server = Server::start_beside(&words, &[("--log", "info"), ("--allow-host", "*")]);
        let flags = words.into_iter().map(str::to_owned).collect();
        Node { server, flags, successor: None }
    }

    /// Another process takes over.
    pub fn be_taken_over(&mut self) {
        let [listen, admin] = [self.server.address, self.server.admin_address()].map(|at| at.to_string());
        let mut successor = Command::new(env!("CARGO_BIN_EXE_echoring"));
        successor.args(["serve", "--takeover", "--listen", &listen, "--admin", &admin, "--log", "warn"]);
        successor.args(["--allow-host", "*"]).args(&self.flags).stdout(Stdio::piped());
        let mut successor = successor.spawn().expect("it runs");
        let mut line = String::new();
        BufReader::new(successor.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        self.successor = Some(successor);
        assert!(line.starts_with("listening "), "{line}");
    }
}
