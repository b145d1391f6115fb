//! Turns a fuzzer's bytes into structure: typed reads, and choices that never run out.
//!
//! Never: a choice from another source than the input; a finding must be reproducible from its bytes alone.

/// Reads an input from the front. After its end it returns zeros.
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

    /// The next `bytes`, or as many as remain.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    /// Choices from the following bytes; the next byte is their number.
    pub fn choices(&mut self) -> Choices<'a> {
        let bytes = usize::from(self.byte());
        Choices { script: self.take(bytes), at: 0, chunks: 0 }
    }
}

/// A script of choices that starts again at its end.
#[derive(Clone, Debug, Default)]
pub struct Choices<'a> {
    script: &'a [u8],
    at: usize,
    chunks: usize,
}

/// Maximum number of chunks of an input. The rest comes at once, so that long inputs do not take minutes.
const CHUNKS_MAX: usize = 1_000;

impl Choices<'_> {
    /// The next choice. If the script is empty, always 255, the plain choice.
    pub fn next(&mut self) -> u8 {
        let choice = self.script.get(self.at).copied().unwrap_or(u8::MAX);
        self.at = if self.at + 1 < self.script.len() { self.at + 1 } else { 0 };
        choice
    }

    /// The size of the next chunk: few bytes, some, or all.
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

    /// Splits `bytes` into non-empty chunks.
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
