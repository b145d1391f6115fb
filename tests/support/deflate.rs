//! DEFLATE streams written bit by bit (RFC 1951): messages that an encoder would not make.

/// Bits in the order of DEFLATE.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: usize,
}

impl Bits {
    /// Appends the low `count` bits of `value`, the lowest first.
    fn number(&mut self, value: u32, count: usize) {
        for at in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let bit = (value >> at & 1) as u8;
            *self.bytes.last_mut().expect("just pushed") |= bit << (self.used % 8);
            self.used += 1;
        }
    }

    /// Appends a symbol of the fixed code for literals and lengths, the highest bit first (RFC 1951, 3.2.6).
    fn symbol(&mut self, symbol: u32) {
        let (code, count) = match symbol {
            0..=143 => (0x30 + symbol, 8),
            144..=255 => (0x190 + symbol - 144, 9),
            256..=279 => (symbol - 256, 7),
            280.. => (0xc0 + symbol - 280, 8),
        };
        self.number(code.reverse_bits() >> (32 - count), count as usize);
    }

    /// Begins a block that is not the last: 0 stored, 1 with the fixed code.
    fn block(&mut self, kind: u32) {
        self.number(0, 1);
        self.number(kind, 2);
    }

    /// Ends the message: the header of an empty stored block, without the tail that the receiver appends.
    fn finish(mut self) -> Vec<u8> {
        self.block(0);
        self.bytes
    }
}

/// A message that inflates to `bytes` times `x`, and is 158 times smaller.
pub fn bomb(bytes: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.block(1);
    bits.symbol(u32::from(b'x'));
    let (matches, rest) = ((bytes - 1) / 258, (bytes - 1) % 258);
    for _ in 0..matches {
        // 258 bytes from a distance of 1.
        bits.symbol(285);
        bits.number(0, 5);
    }
    (0..rest).for_each(|_| bits.symbol(u32::from(b'x')));
    bits.symbol(256);
    bits.finish()
}

/// A message that is stored as it is.
pub fn stored(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_le_bytes();
    let complement = length.map(|byte| !byte);
    [&[0][..], &length, &complement, payload, &[0]].concat()
}

/// A message that begins with three copies of the byte before it.
pub fn reaching_back() -> Vec<u8> {
    let mut bits = Bits::default();
    bits.block(1);
    bits.symbol(257);
    bits.number(0, 5);
    bits.symbol(256);
    bits.finish()
}
