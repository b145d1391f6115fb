//! A client of NATS by its protocol, without what a library refuses to send.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Everything happens within this time, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct RawClient {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

/// A message that arrived.
#[derive(Debug)]
pub struct RawMessage {
    pub subject: String,
    /// Its header and its payload.
    pub content: String,
}

impl RawClient {
    /// A client that gets no messages of its own.
    pub fn connect(server: SocketAddr) -> io::Result<RawClient> {
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"CONNECT {\"headers\":true,\"no_responders\":true,\"echo\":false}\r\n")?;
        let lines = BufReader::new(stream.try_clone()?);
        Ok(RawClient { stream, lines })
    }

    /// Subscribes before anything that is sent later.
    pub fn subscribe(&mut self, subject: &str) -> io::Result<()> {
        write!(self.stream, "SUB {subject} 1\r\n")
    }

    /// `reply` may be empty.
    pub fn publish(&mut self, subject: &str, reply: &str, payload: &[u8]) -> io::Result<()> {
        write!(self.stream, "PUB {subject} {reply} {}\r\n", payload.len())?;
        self.stream.write_all(payload)?;
        self.stream.write_all(b"\r\n")
    }

    /// Waits until the server has taken what was sent before.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(b"PING\r\n")?;
        let mut line = String::new();
        while line.trim_end() != "PONG" {
            line.clear();
            if self.lines.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// The next message.
    pub fn message(&mut self) -> io::Result<RawMessage> {
        let mut line = String::new();
        while !line.starts_with("HMSG ") && !line.starts_with("MSG ") {
            line.clear();
            if self.lines.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.trim_end() == "PING" {
                self.stream.write_all(b"PONG\r\n")?;
            }
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let bytes = words.last().and_then(|bytes| bytes.parse::<usize>().ok());
        let mut content = vec![0; bytes.expect("a length") + 2];
        self.lines.read_exact(&mut content)?;
        let content = String::from_utf8_lossy(&content).into_owned();
        Ok(RawMessage { subject: words[1].to_owned(), content })
    }
}
