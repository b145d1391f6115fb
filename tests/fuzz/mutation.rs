//! Mutations of a corpus. They are seeded and therefore the same in every run.
//!
//! Never: feedback from coverage; libFuzzer does that.

use echoring_proto::connection::Entropy;

/// Boundary values of the formats' fields.
const INTERESTING: [u8; 20] = [
    0x00, 0x01, 0x7d, 0x7e, 0x7f, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a, 0xc1, 0xed, 0xf4, 0xfe, 0xff, b'\r',
    b'\n', b':', b',',
];
/// Maximum length of an input in bytes.
const INPUT_BYTES_MAX: usize = 8 * 1024;

pub struct Mutator<'a> {
    corpus: &'a [&'a [u8]],
    entropy: Entropy,
}

impl<'a> Mutator<'a> {
    pub fn new(corpus: &'a [&'a [u8]]) -> Mutator<'a> {
        Mutator { corpus, entropy: Entropy::new(0x6563_686f) }
    }

    /// An input of the corpus with one to five changes.
    pub fn next(&mut self) -> Vec<u8> {
        let mut input = self.any_input().to_vec();
        for _ in 0..=self.below(5) {
            self.change(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let end = (at + 1 + self.below(16)).min(input.len());
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = INTERESTING[self.below(INTERESTING.len())],
            2 if at < input.len() => input[at] = self.below(256) as u8,
            3 => input.insert(at, INTERESTING[self.below(INTERESTING.len())]),
            4 => drop(input.drain(at..end)),
            5 => {
                let piece = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            6 => {
                let other = self.any_input();
                let from = self.below(other.len() + 1);
                let bytes = self.below(other.len() - from + 1);
                input.splice(at..end, other[from..from + bytes].iter().copied());
            }
            _ => input.truncate(at.max(1)),
        }
    }

    fn any_input(&mut self) -> &'a [u8] {
        self.corpus[self.below(self.corpus.len())]
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.entropy.next() % bound.max(1) as u64) as usize
    }
}
