//! Appends messages to the content of a frame: JSON objects with a line feed between them, protobuf behind their lengths. In
//! streams, each object is an event or a line.

use crate::centrifuge::fields::Message;
use crate::centrifuge::{Encoding, json, protobuf};

/// Appends a message to the content of a frame.
pub(crate) fn append(encoding: Encoding, out: &mut Vec<u8>, message: &impl Message) {
    match encoding {
        Encoding::Json => {
            if !out.is_empty() {
                out.push(b'\n');
            }
            json::object(out, message);
        }
        Encoding::Events => {
            out.extend_from_slice(b"data: ");
            let begin = out.len();
            json::object(out, message);
            // In a value as it was published, it may stand between tokens. It would end a line of the event.
            out[begin..].iter_mut().filter(|byte| **byte == b'\r').for_each(|byte| *byte = b' ');
            out.extend_from_slice(b"\n\n");
        }
        Encoding::Lines => {
            json::object(out, message);
            out.push(b'\n');
        }
        Encoding::Protobuf => protobuf::append_delimited(out, message),
    }
}
