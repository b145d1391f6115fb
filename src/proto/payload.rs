//! The payload of frames: masking, UTF-8 and permessage-deflate.

pub mod deflate;
pub mod mask;
pub mod utf8;
