//! A WebSocket server that sends unasked, written with tungstenite so that it shares no code with the program under test.

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use tungstenite::Message;

/// Starts one that sends each connection `message(n)` for n = 0, 1, 2 …, `gap` apart, once it has been said hello to. It
/// runs until the test's process ends.
pub fn start(gap: Duration, message: fn(u64) -> String) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            stream.set_nodelay(true).expect("TCP");
            thread::spawn(move || {
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                if !matches!(socket.read(), Ok(Message::Text(hello)) if hello.as_str() == "begin") {
                    return;
                }
                for number in 0.. {
                    if socket.send(Message::text(message(number))).is_err() {
                        return;
                    }
                    // What comes in the gap is the peer's Close, at the latest when the next message cannot be sent.
                    socket.get_ref().set_read_timeout(Some(gap)).expect("TCP");
                    if let Ok(Message::Close(_)) = socket.read() {
                        let _ = socket.flush();
                        return;
                    }
                }
            });
        }
    });
    address
}
