//! The inputs of the counted functions: frames of a client, each at the start of a cache line.

use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header, Opcode};
use echoring_proto::{mask, utf8};

pub const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// Messages of an input that has several.
pub const FRAMES: usize = 16;

// Inputs are leaked, each by a process of its own, so that no count contains their release. All begin at a line of the
// cache: the wide kernels take other steps where they do not.

pub fn leak(bytes: &[u8]) -> &'static mut [u8] {
    const LINE_BYTES: usize = 64;
    let room = vec![0; bytes.len() + LINE_BYTES].leak();
    let start = room.as_ptr().align_offset(LINE_BYTES);
    let placed = &mut room[start..start + bytes.len()];
    placed.copy_from_slice(bytes);
    placed
}

/// A client's text frame of `payload_bytes` letters, and room for nothing else.
pub fn client_frame(payload_bytes: usize) -> &'static mut [u8] {
    let mut bytes = vec![0; HEADER_BYTES_MAX];
    let header = Header {
        opcode: Opcode::Text,
        fin: true,
        compressed: false,
        mask: Some(KEY),
        payload_bytes: payload_bytes as u64,
    };
    let header_bytes = frame::encode(&header, &mut bytes);
    bytes.truncate(header_bytes);
    bytes.resize(header_bytes + payload_bytes, b'a');
    mask::apply(&mut bytes[header_bytes..], KEY);
    // The processor's features are looked up once per process; that is not what is counted.
    mask::apply(&mut [0; 128], KEY);
    utf8::is_valid(&[b'a'; 128]);
    leak(&bytes)
}

/// Several of them.
pub fn client_frames(payload_bytes: usize) -> &'static mut [u8] {
    leak(&client_frame(payload_bytes).repeat(FRAMES))
}
