//! A WebSocket server that misbehaves on purpose. It is written by hand on blocking sockets, so that it shares no code with
//! the program under test. It echoes, and under `/broadcast/` relays to all other clients; a [`Fault`] breaks single messages.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// What goes wrong with one message on its way to one connection.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It is not sent.
    Drop,
    /// It is sent twice.
    Duplicate,
    /// It is sent after the one that follows.
    Swap,
    /// One bit of this byte is flipped.
    Flip(usize),
    /// A text message is sent as binary, and the other way round.
    OtherKind,
    /// Its last byte is missing.
    Shorten,
    /// Nothing is read or sent for so long, then all goes on.
    Stall(Duration),
    /// A Close frame with this code is sent instead, and the connection ends.
    Close(u16),
    /// The connection ends without a Close frame.
    Cut,
}

/// A fault of the `message`-th message (from 0) to the `connection`-th connection (in the order of accepting).
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    pub connection: usize,
    pub message: u64,
    pub fault: Fault,
}

/// The server. It runs until the test's process ends.
pub struct Peer {
    pub address: SocketAddr,
    /// The client.
    pub seen: Arc<Mutex<Vec<IpAddr>>>,
}

impl Peer {
    /// Starts with these faults; connections in `refused` get that HTTP status instead of a handshake, or no answer at all
    /// where it is 0.
    pub fn start(faults: Vec<Planted>, refused: Vec<(usize, u16)>) -> Peer {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        thread::spawn(move || {
            let room = Arc::new(Room::default());
            for (connection, stream) in listener.incoming().enumerate() {
                let stream = stream.expect("a connection");
                stream.set_nodelay(true).expect("TCP");
                log.lock().expect("no panic").push(stream.peer_addr().expect("connected").ip());
                let mine =
                    faults.iter().filter(|planted| planted.connection == connection).copied().collect();
                let status =
                    refused.iter().find(|(order, _)| *order == connection).map(|(_, status)| *status);
                let room = room.clone();
                thread::spawn(move || serve(stream, mine, status, &room));
            }
        });
        Peer { address, seen }
    }
}

#[derive(Default)]
struct Room {
    lanes: Mutex<Vec<Arc<Mutex<Lane>>>>,
}

/// The way to one connection.
struct Lane {
    stream: TcpStream,
    faults: Vec<Planted>,
    next: u64,
    held: Option<(u8, Vec<u8>)>,
}

fn serve(mut stream: TcpStream, faults: Vec<Planted>, status: Option<u16>, room: &Room) {
    let Ok(head) = read_head(&mut stream) else { return };
    if status == Some(0) {
        // Until the other end has had enough.
        let _ = stream.read(&mut [0]);
        return;
    }
    if let Some(status) = status {
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
        return;
    }
    let relays = head.starts_with("GET /broadcast/");
    let out = stream.try_clone().expect("a descriptor");
    let lane = Arc::new(Mutex::new(Lane { stream: out, faults, next: 0, held: None }));
    // In the room before the 101 leaves: whoever has it gets everything that is sent from then on.
    room.lanes.lock().expect("no panic").push(lane.clone());
    if stream.write_all(accept(&head).as_bytes()).is_err() {
        return;
    }
    while let Ok((opcode, payload)) = read_frame(&mut stream) {
        let done = match opcode {
            CLOSE => {
                let _ = lane.lock().expect("no panic").frame(CLOSE, &payload);
                break;
            }
            _ if !relays => lane.lock().expect("no panic").deliver(opcode, payload),
            _ => {
                // Locked until all have it: what several publish is in one order for all.
                let lanes = room.lanes.lock().expect("no panic");
                for other in lanes.iter().filter(|other| !Arc::ptr_eq(other, &lane)) {
                    // One that is gone hears nothing.
                    let _ = other.lock().expect("no panic").deliver(opcode, payload.clone());
                }
                Ok(())
            }
        };
        if done.is_err() {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

impl Lane {
    fn deliver(&mut self, opcode: u8, mut payload: Vec<u8>) -> io::Result<()> {
        let message = self.next;
        self.next += 1;
        let fault =
            self.faults.iter().find(|planted| planted.message == message).map(|planted| planted.fault);
        match fault {
            None => self.frame(opcode, &payload)?,
            Some(Fault::Drop) => {}
            Some(Fault::Duplicate) => {
                self.frame(opcode, &payload)?;
                self.frame(opcode, &payload)?;
            }
            Some(Fault::Swap) => {
                self.held = Some((opcode, payload));
                return Ok(());
            }
            Some(Fault::Flip(at)) => {
                payload[at] ^= 1;
                self.frame(opcode, &payload)?;
            }
            Some(Fault::OtherKind) => self.frame(if opcode == TEXT { BINARY } else { TEXT }, &payload)?,
            Some(Fault::Shorten) => {
                payload.pop();
                self.frame(opcode, &payload)?;
            }
            Some(Fault::Stall(time)) => {
                thread::sleep(time);
                self.frame(opcode, &payload)?;
            }
            Some(Fault::Close(code)) => {
                self.frame(CLOSE, &code.to_be_bytes())?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Some(Fault::Cut) => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        if let Some((opcode, payload)) = self.held.take() {
            self.frame(opcode, &payload)?;
        }
        Ok(())
    }

    fn frame(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            bytes @ 0..=125 => frame.push(bytes as u8),
            bytes @ 126..=65_535 => {
                frame.push(126);
                frame.extend_from_slice(&(bytes as u16).to_be_bytes());
            }
            bytes => {
                frame.push(127);
                frame.extend_from_slice(&(bytes as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame)
    }
}

fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

fn accept(head: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    let digest = sha1_smol::Sha1::from(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")).digest().bytes();
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

fn read_frame(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    assert_eq!(head[0] & 0xf0, 0x80, "a generator sends whole messages");
    assert_eq!(head[1] & 0x80, 0x80, "a client masks");
    let bytes = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            u64::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length)?;
            u64::from_be_bytes(length)
        }
        short => u64::from(short),
    };
    let mut key = [0; 4];
    stream.read_exact(&mut key)?;
    let mut payload = vec![0; bytes as usize];
    stream.read_exact(&mut payload)?;
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[at % 4];
    }
    Ok((head[0] & 0x0f, payload))
}
