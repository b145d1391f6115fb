//! Structure out of the bytes of a fuzzer: what is read when, and choices that never run out.
//!
//! Never: a choice that does not come from the input; a finding must be repeatable from its bytes alone.

/// Reads an input from the front. Behind its end there are zeros.
#[derive(Clone, Debug)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next `bytes`, or what there is.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    /// Choices from as many bytes as the next byte says.
    pub fn choices(&mut self) -> Choices<'a> {
        let bytes = usize::from(self.byte());
        Choices { script: self.take(bytes), at: 0, chunks: 0 }
    }
}

/// A script of choices that begins anew when it is used up.
#[derive(Clone, Debug, Default)]
pub struct Choices<'a> {
    script: &'a [u8],
    at: usize,
    chunks: usize,
}

/// Chunks that are cut off an input; what is left then comes at once, so that long inputs take no minutes.
const CHUNKS_MAX: usize = 1_000;

impl Choices<'_> {
    /// The next choice; always 255, the plain one, when the script is empty.
    pub fn next(&mut self) -> u8 {
        let choice = self.script.get(self.at).copied().unwrap_or(u8::MAX);
        self.at = if self.at + 1 < self.script.len() { self.at + 1 } else { 0 };
        choice
    }

    /// How many bytes come at once: few, some, or whatever there is.
    pub fn chunk_bytes(&mut self) -> usize {
        self.chunks += 1;
        match self.next() {
            _ if self.chunks > CHUNKS_MAX => usize::MAX,
            few @ 0..=0x3f => usize::from(few) + 1,
            some @ 0x40..=0x9f => (usize::from(some) - 0x3f) * 61,
            many @ 0xa0..=0xdf => (usize::from(many) - 0x9f) * 1_021,
            _ => usize::MAX,
        }
    }

    /// Cuts `bytes` into chunks, none of them empty.
    pub fn chunks<'b>(&mut self, mut bytes: &'b [u8]) -> Vec<&'b [u8]> {
        let mut chunks = Vec::new();
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at(self.chunk_bytes().min(bytes.len()));
            chunks.push(chunk);
            bytes = rest;
        }
        chunks
    }
}
