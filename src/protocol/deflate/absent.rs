//! What stands for the codecs in a build without the feature `compress`. Nothing is agreed on there, so there never is
//! one.
//!
//! Never: a value of these types.

#![forbid(unsafe_code)]

use std::convert::Infallible;

use super::{Direction, Window};
use crate::protocol::Offence;

/// A compressor, which this build has none of.
#[derive(Debug)]
pub struct Deflater(Infallible);

impl Deflater {
    /// Not to be called: there is no [`Agreement`](super::Agreement) that a deflater could serve.
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

    /// Compresses one whole message.
    pub fn deflate(&mut self, _: &[u8], _: &mut Vec<u8>) -> usize {
        match self.0 {}
    }

    /// Forgets the window.
    pub fn reset(&mut self) {
        match self.0 {}
    }
}

/// A decompressor, which this build has none of.
#[derive(Debug)]
pub struct Inflater(Infallible);

impl Inflater {
    /// Not to be called: there is no [`Agreement`](super::Agreement) that an inflater could serve.
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

    /// Decompresses one whole message.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn inflate(&mut self, _: &[u8], _: &mut Vec<u8>, _: usize) -> Result<usize, Offence> {
        match self.0 {}
    }

    /// The same for a connection that keeps its own window.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn inflate_after(
        &mut self,
        _: &mut Window,
        _: &[u8],
        _: &mut Vec<u8>,
        _: usize,
    ) -> Result<usize, Offence> {
        match self.0 {}
    }

    /// Forgets the window.
    pub fn reset(&mut self) {
        match self.0 {}
    }
}
