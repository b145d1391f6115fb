//! Makes frames from a fuzzer's bytes: mostly valid ones, so that the code after the first frame is reached, and sometimes
//! invalid ones.

use echoring_proto::Role;

use super::cursor::Cursor;

/// Patterns that long payloads repeat.
const PATTERNS: [&[u8]; 8] = [
    b"a",
    "ß€😀z".as_bytes(),
    b"\0\xff",
    b"json {\"k\": 1}, ",
    b"",
    b"\xf0\x9f\x98",
    b"0123456789",
    b"\xed\x9f\xbf",
];

/// The wire of a case: `rest` unchanged, or frames made from it.
pub fn wire(rest: &[u8], sender: Role, frames: bool) -> Vec<u8> {
    if !frames {
        return rest.to_vec();
    }
    let mut cursor = Cursor::new(rest);
    let mut bytes = Vec::new();
    while !cursor.is_empty() && bytes.len() < 300_000 {
        frame(&mut cursor, sender, &mut bytes);
    }
    bytes
}

/// Makes one frame. The first byte selects opcode, FIN and the form of the length.
fn frame(cursor: &mut Cursor<'_>, sender: Role, out: &mut Vec<u8>) {
    let what = cursor.byte();
    let opcode = match what & 7 {
        0 | 6 => 1,
        1 => 2,
        2 | 7 => 0,
        3 => 9,
        4 => 10,
        _ => 8,
    };
    let mut first = opcode | if what & 8 == 0 || opcode >= 8 { 0x80 } else { 0 };
    let mut masked = sender == Role::Client;
    let mut declared = None;
    let payload = match what >> 4 {
        0..=9 => {
            let bytes = usize::from(cursor.byte() & 0x7f).min(125);
            cursor.take(bytes).to_vec()
        }
        10 => repeated(cursor, 1_000),
        11 => repeated(cursor, 66_000),
        12 => {
            first = cursor.byte();
            let bytes = usize::from(cursor.byte() & 0x0f);
            cursor.take(bytes).to_vec()
        }
        13 => {
            masked = !masked;
            cursor.take(3).to_vec()
        }
        14 => {
            // RSV1, which means "compressed" if compression was negotiated.
            first |= 0x40;
            let bytes = usize::from(cursor.byte() & 0x3f);
            cursor.take(bytes).to_vec()
        }
        _ => {
            declared = Some(odd_length(cursor));
            cursor.take(5).to_vec()
        }
    };
    let payload = if opcode >= 8 && payload.len() > 125 { payload[..125].to_vec() } else { payload };
    put(out, first, masked.then(|| key(cursor)), declared, &payload);
}

/// A pattern repeated to a length of up to `bytes_max`.
fn repeated(cursor: &mut Cursor<'_>, bytes_max: usize) -> Vec<u8> {
    let pattern = cursor.byte();
    let unit = match PATTERNS[usize::from(pattern & 7)] {
        [] => cursor.take(usize::from(pattern >> 3)),
        unit => unit,
    };
    let bytes = usize::from(cursor.u16()) * bytes_max / 65_535;
    // The top of the range reaches the boundaries of the length's forms and of assembly.
    unit.iter().copied().cycle().take(if unit.is_empty() { 0 } else { bytes }).collect()
}

/// A length in a form that is not allowed, or one that is too large.
fn odd_length(cursor: &mut Cursor<'_>) -> Vec<u8> {
    match cursor.byte() % 6 {
        0 => vec![126, 0, cursor.byte() & 0x7f],
        1 => vec![127, 0, 0, 0, 0, 0, 0, cursor.byte(), cursor.byte()],
        2 => vec![127, 0x80 | cursor.byte(), 0, 0, 0, 0, 0, 0, 0],
        3 => vec![127, 0, 0, 0, cursor.byte(), cursor.byte(), 0, 0, 1],
        4 => vec![127, 0, 0, 0, 0, 0, cursor.byte() & 3, cursor.byte(), cursor.byte()],
        _ => vec![126, cursor.byte(), cursor.byte()],
    }
}

fn key(cursor: &mut Cursor<'_>) -> [u8; 4] {
    match cursor.byte() {
        0..=0x3f => [0; 4],
        byte => [byte, byte.rotate_left(3), !byte, byte ^ 0x55],
    }
}

/// Writes a frame. `declared` is a wrong value for the length field.
pub fn put(out: &mut Vec<u8>, first: u8, key: Option<[u8; 4]>, declared: Option<Vec<u8>>, payload: &[u8]) {
    let mut length = declared.unwrap_or_else(|| match payload.len() {
        bytes @ 0..=125 => vec![bytes as u8],
        bytes @ 126..=0xffff => [&[126], &(bytes as u16).to_be_bytes()[..]].concat(),
        bytes => [&[127], &(bytes as u64).to_be_bytes()[..]].concat(),
    });
    length[0] |= if key.is_some() { 0x80 } else { 0 };
    out.push(first);
    out.extend(length);
    out.extend(key.iter().flatten());
    out.extend(super::reference::unmasked(payload, key.unwrap_or_default()));
}
