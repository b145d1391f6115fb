//! Placeholders for the codecs in a build without the feature `compress`. Such a build never agrees on compression, so
//! it never creates a codec.
//!
//! Never: a value of these types.

#![forbid(unsafe_code)]

use std::convert::Infallible;

use super::{Direction, Window};
use crate::ProtocolError;

/// A compressor, which this build does not contain.
#[derive(Debug)]
pub struct Deflater(Infallible);

impl Deflater {
    /// Must not be called: this build never creates an [`Agreement`](super::Agreement).
    ///
    /// # Panics
    /// Always.
    pub fn new(_: Direction, _: u8) -> Deflater {
        unreachable!("nothing is agreed on without the feature `compress`")
    }

    /// None.
    pub const fn memory_bytes(_: Direction) -> usize {
        0
    }

    /// Compresses one message.
    pub fn deflate(&mut self, _: &[u8], _: &mut Vec<u8>) -> usize {
        match self.0 {}
    }

    /// Bytes of the messages that it has compressed.
    pub fn consumed_bytes(&self) -> u64 {
        match self.0 {}
    }

    /// Forgets the window.
    pub fn reset(&mut self) {
        match self.0 {}
    }
}

/// A decompressor, which this build does not contain.
#[derive(Debug)]
pub struct Inflater(Infallible);

impl Inflater {
    /// Must not be called: this build never creates an [`Agreement`](super::Agreement).
    ///
    /// # Panics
    /// Always.
    pub fn new(_: Direction) -> Inflater {
        unreachable!("nothing is agreed on without the feature `compress`")
    }

    /// None.
    pub const fn memory_bytes(_: Direction) -> usize {
        0
    }

    /// Decompresses one message.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn inflate(&mut self, _: &[u8], _: &mut Vec<u8>, _: usize) -> Result<usize, ProtocolError> {
        match self.0 {}
    }

    /// Decompresses one message of a connection that has its own window.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn inflate_after(
        &mut self,
        _: &mut Window,
        _: &[u8],
        _: &mut Vec<u8>,
        _: usize,
    ) -> Result<usize, ProtocolError> {
        match self.0 {}
    }

    /// Forgets the window.
    pub fn reset(&mut self) {
        match self.0 {}
    }
}
