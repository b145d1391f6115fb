//! The fields in the header of a message.

/// The fields in the header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Connection and sequence.
    Echo,
    /// Publisher, sequence and two times.
    Broadcast,
}
