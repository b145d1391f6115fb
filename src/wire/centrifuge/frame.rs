//! Appends messages to the content of a frame: JSON objects with a line feed between them, protobuf behind their lengths.

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
        Encoding::Protobuf => protobuf::append_delimited(out, message),
    }
}
