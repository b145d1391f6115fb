//! An independent DEFLATE decoder (RFC 1951), bit by bit, for messages that were compressed from an empty window. It panics at
//! the first error.

/// The message whose payload (RFC 7692, 7.2.2) is `payload`. Nothing in it may refer further back than `window_bytes`
/// or to before its own beginning.
pub fn inflate(payload: &[u8], window_bytes: usize) -> Vec<u8> {
    inflate_behind(&[], payload, window_bytes)
}

/// The same behind other messages, whose last bytes may be referred to.
pub fn inflate_behind(before: &[u8], payload: &[u8], window_bytes: usize) -> Vec<u8> {
    let whole = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut bits = Bits { bytes: &whole, at: 0 };
    let mut out = before.to_vec();
    while bits.at < whole.len() * 8 {
        assert_eq!(bits.take(1), 0, "a message of the extension has no last block");
        match bits.take(2) {
            0 => stored(&mut bits, &mut out),
            1 => {
                let mut lengths = [8; 288];
                lengths[144..256].fill(9);
                lengths[256..280].fill(7);
                compressed(&mut bits, &Code::new(&lengths), &Code::new(&[5; 30]), window_bytes, &mut out);
            }
            2 => {
                let (literals, distances) = codes(&mut bits);
                compressed(&mut bits, &literals, &distances, window_bytes, &mut out);
            }
            kind => panic!("block type {kind}"),
        }
    }
    out.split_off(before.len())
}

/// The payload of a message in stored blocks: not shorter, but formally compressed.
pub fn store(message: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    for block in message.chunks(0xffff) {
        let bytes = block.len() as u16;
        payload.push(0);
        payload.extend_from_slice(&bytes.to_le_bytes());
        payload.extend_from_slice(&(!bytes).to_le_bytes());
        payload.extend_from_slice(block);
    }
    payload.push(0);
    payload
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> usize {
        (0..count).fold(0, |value, place| {
            let bit = self.bytes[self.at / 8] >> (self.at % 8) & 1;
            self.at += 1;
            value | usize::from(bit) << place
        })
    }
}

fn stored(bits: &mut Bits<'_>, out: &mut Vec<u8>) {
    bits.at = bits.at.next_multiple_of(8);
    let bytes = bits.take(16);
    assert_eq!(bits.take(16), bytes ^ 0xffff, "the length and its complement");
    let start = bits.at / 8;
    out.extend_from_slice(&bits.bytes[start..start + bytes]);
    bits.at += bytes * 8;
}

/// A canonical Huffman code (RFC 1951, 3.2.2).
struct Code {
    /// How many codes there are of each length.
    counts: [usize; 16],
    /// Symbols in the order of their codes.
    symbols: Vec<usize>,
}

impl Code {
    fn new(lengths: &[usize]) -> Code {
        let mut counts = [0; 16];
        lengths.iter().for_each(|length| counts[*length] += 1);
        counts[0] = 0;
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|symbol| lengths[*symbol] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        Code { counts, symbols }
    }

    fn read(&self, bits: &mut Bits<'_>) -> usize {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in &self.counts[1..] {
            code = code << 1 | bits.take(1);
            first <<= 1;
            if code - first < *count {
                return self.symbols[index + code - first];
            }
            index += count;
            first += count;
        }
        panic!("no such code");
    }
}

/// The codes that a block of the third type begins with (RFC 1951, 3.2.7).
fn codes(bits: &mut Bits<'_>) -> (Code, Code) {
    const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    let (literals, distances) = (bits.take(5) + 257, bits.take(5) + 1);
    let mut of_lengths = [0; 19];
    for place in &ORDER[..bits.take(4) + 4] {
        of_lengths[*place] = bits.take(3);
    }
    let of_lengths = Code::new(&of_lengths);
    let mut lengths = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match of_lengths.read(bits) {
            16 => (*lengths.last().expect("something to repeat"), 3 + bits.take(2)),
            17 => (0, 3 + bits.take(3)),
            18 => (0, 11 + bits.take(7)),
            length => (length, 1),
        };
        lengths.extend([length].repeat(times));
    }
    assert_eq!(lengths.len(), literals + distances, "no length beyond the codes");
    (Code::new(&lengths[..literals]), Code::new(&lengths[literals..]))
}

fn compressed(
    bits: &mut Bits<'_>,
    literals: &Code,
    distances: &Code,
    window_bytes: usize,
    out: &mut Vec<u8>,
) {
    loop {
        match literals.read(bits) {
            literal @ 0..=255 => out.push(literal as u8),
            256 => return,
            symbol => {
                // RFC 1951, 3.2.5: the bases grow by the ranges of their extra bits.
                let length = match symbol - 257 {
                    step @ 0..=7 => 3 + step,
                    28 => 258,
                    step => stepped(bits, step, 4, 3),
                };
                let distance = match distances.read(bits) {
                    step @ 0..=3 => 1 + step,
                    step => stepped(bits, step, 2, 1),
                };
                assert!(distance <= out.len(), "nothing refers to before the message");
                assert!(distance <= window_bytes, "{distance} is further than the window of {window_bytes}");
                (0..length).for_each(|_| out.push(out[out.len() - distance]));
            }
        }
    }
}

/// A length or distance: `each` steps share a number of extra bits, and the first value is `least`.
fn stepped(bits: &mut Bits<'_>, step: usize, each: usize, least: usize) -> usize {
    let extra = step / each - 1;
    least + ((each + step % each) << extra) + bits.take(extra)
}

#[test]
fn what_the_standard_says_is_what_is_read() {
    // An example with a fixed code: "aaaaaaaaaa" as a literal and a match of distance 1, then the sync flush.
    let mut bits = Vec::new();
    let mut put = |value: u32, count: u32| bits.extend((0..count).map(|place| value >> place & 1 == 1));
    put(0b010, 3); // not the last block, fixed codes (least bit first: 0, then 1, 0)
    put(0b1000_1001, 8); // 'a' is 0x91, most significant bit first
    put(0b111_0000, 7); // 263: a length of 9
    put(0, 5); // distance 1
    put(0, 7); // end of block
    put(0, 3); // a stored block, whose length was left out
    let bytes: Vec<u8> = bits
        .chunks(8)
        .map(|eight| eight.iter().enumerate().fold(0, |byte, (place, bit)| byte | u8::from(*bit) << place))
        .collect();
    assert_eq!(inflate(&bytes, 512), b"aaaaaaaaaa");
    let long: Vec<u8> = (0..70_000_u32).map(|at| at as u8).collect();
    for message in [&long[..], b"", b"x"] {
        assert!(inflate(&store(message), 512) == message);
    }
}
