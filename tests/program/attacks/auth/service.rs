//! An HTTP service for tests, written by hand on blocking sockets: one answer per connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use serde_json::Value;

/// What the service does with a request.
pub enum Reaction {
    /// Answers with a status and a body.
    Answer(u16, String),
    /// Never answers, until the service is [released](Service::release).
    Hang,
    /// Closes the connection.
    Close,
}

/// The service. It runs until the test's process ends.
pub struct Service {
    pub address: SocketAddr,
    /// Requests so far.
    pub requests: Arc<AtomicUsize>,
    /// The most requests that were there at the same time.
    pub at_once: Arc<AtomicUsize>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Service {
    /// Starts a service that reacts to the JSON of each request; `Value::Null` for a request without a body.
    pub fn start(react: impl Fn(&Value) -> Reaction + Send + Sync + 'static) -> Service {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let service =
            Service { address, requests: Arc::default(), at_once: Arc::default(), gate: Arc::default() };
        let (requests, at_once, gate) =
            (service.requests.clone(), service.at_once.clone(), service.gate.clone());
        let (react, present) = (Arc::new(react), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (react, present) = (react.clone(), present.clone());
                let (requests, at_once, gate) = (requests.clone(), at_once.clone(), gate.clone());
                thread::spawn(move || {
                    // A request of the server's that it gave up has no body or nobody to answer.
                    let Some(body) = read(&stream) else { return };
                    requests.fetch_add(1, Ordering::SeqCst);
                    at_once.fetch_max(present.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let reaction = react(&body);
                    if matches!(reaction, Reaction::Hang) {
                        wait(&gate);
                    }
                    present.fetch_sub(1, Ordering::SeqCst);
                    if let Reaction::Answer(status, body) = reaction {
                        let _ = write!(
                            &stream,
                            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                            body.len()
                        );
                    }
                });
            }
        });
        service
    }

    pub fn url(&self) -> String {
        format!("http://{}/path", self.address)
    }

    /// Ends all hanging requests.
    pub fn release(&self) {
        *self.gate.0.lock().expect("no panic") = true;
        self.gate.1.notify_all();
    }
}

fn wait(gate: &(Mutex<bool>, Condvar)) {
    let mut is_open = gate.0.lock().expect("no panic");
    while !*is_open {
        is_open = gate.1.wait(is_open).expect("no panic");
    }
}

/// The body of a request as JSON.
fn read(stream: &TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if body.is_empty() { Some(Value::Null) } else { serde_json::from_slice(&body).ok() }
}
