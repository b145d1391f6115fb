//! Targets that are no WebSocket servers: they answer each connection's request with some bytes, or not at all.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

/// What is done with a connection.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The request is read, these bytes are sent, and the connection ends.
    Bytes(&'static [u8]),
    /// The request is read and nothing follows.
    Nothing,
    /// The request is read, and the connection is reset.
    Reset,
}

/// Starts one; it runs until the test's process ends.
pub fn start(answer: Answer) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            read_head(&mut stream);
            match answer {
                // Whoever is gone meanwhile hears nothing.
                Answer::Bytes(bytes) => drop(stream.write_all(bytes)),
                Answer::Nothing => kept.push(stream),
                Answer::Reset => {
                    let socket = socket2::SockRef::from(&stream);
                    socket.set_linger(Some(std::time::Duration::ZERO)).expect("TCP");
                }
            }
        }
    });
    address
}

/// Until the request's end, or that of the stream.
fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|bytes| bytes > 0) {
        head.push(byte[0]);
    }
}
