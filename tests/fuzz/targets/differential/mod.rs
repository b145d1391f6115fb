//! Feeds the same bytes to our state machine and to tungstenite, an independent implementation. Both must accept them or both
//! must refuse them, and deliver the same. Intended differences are in the tables of `frames` and `heads`, each with the
//! section that decides it. A listed difference that does not occur fails too.
//!
//! Input: options, a script of chunk borders, then raw frames, frames made from the bytes, or a head.

mod frames;
mod heads;

use std::io::{self, Read, Write};

use echoring_proto::Role;

use super::connection::opposite;
use super::cursor::Cursor;
use super::wire;

pub fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let options = cursor.byte();
    let choices = cursor.choices();
    let role = if options & 2 == 0 { Role::Server } else { Role::Client };
    let rest = cursor.rest();
    match (options & 8 != 0, role) {
        (false, _) => {
            let wire = wire::wire(rest, opposite(role), options & 1 == 1);
            frames::check(&wire, role, options & 4 != 0, choices);
        }
        (true, Role::Server) => heads::check_request(rest),
        (true, Role::Client) => heads::check_response(rest),
    }
}

/// A transport that reads these bytes only and accepts all writes.
#[derive(Debug)]
struct Transport<'a> {
    unread: &'a [u8],
    written: Vec<u8>,
}

impl<'a> Transport<'a> {
    fn of(unread: &'a [u8]) -> Transport<'a> {
        Transport { unread, written: Vec::new() }
    }
}

impl Read for Transport<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.unread.read(buffer)
    }
}

impl Write for Transport<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
