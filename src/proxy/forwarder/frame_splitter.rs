//! Splits one direction of a relayed connection into frames. Whole frames pass unchanged, including their mask; long
//! frames pass as fragments.
//!
//! The output ends at a frame boundary after each item. So a Close frame can always follow, even if a sender does not
//! send the payload that its header announced. RFC 6455, 5.4, allows an intermediary to fragment frames unless an
//! extension forbids it; permessage-deflate does not.
//!
//! Never: a copy of a payload, or memory reserved for an announced length.

#![forbid(unsafe_code)]

use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header};
use echoring_proto::limits::ASSEMBLED_FRAME_BYTES_MAX;
use echoring_proto::{Opcode, ProtocolError, Role, mask};

/// Splits one direction into frames.
#[derive(Debug)]
pub(crate) struct FrameSplitter {
    /// The role of the receiver that the frames are meant for.
    receiver: Role,
    /// Whether permessage-deflate was negotiated.
    compression: bool,
    /// Between the first and the last frame of a message.
    in_message: bool,
    /// The rest of a frame that is being forwarded in fragments.
    rest: Option<RemainingPayload>,
}

#[derive(Clone, Copy, Debug)]
struct RemainingPayload {
    bytes: u64,
    /// The masking key, rotated to the next byte.
    key: Option<[u8; 4]>,
    fin: bool,
}

/// The next item of the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A whole frame of `header_bytes` and `header.payload_bytes`, to be forwarded unchanged.
    Frame { header: Header, header_bytes: usize },
    /// A part of a long frame: skip `skip_bytes` (the original header, if any), write `header` instead, and forward the
    /// `header.payload_bytes` that follow.
    Fragment { header: Header, skip_bytes: usize },
    /// More bytes are needed.
    Incomplete,
}

/// Minimum payload of a fragment, except for the last of its frame.
const FRAGMENT_BYTES_MIN: usize = 4 * 1024;

/// Required input buffer size: the longest frame that is not fragmented.
pub(crate) const INPUT_BYTES_MAX: usize = ASSEMBLED_FRAME_BYTES_MAX as usize + HEADER_BYTES_MAX;

impl FrameSplitter {
    /// Splits frames that `receiver` receives. `compression` says whether RSV1 is allowed.
    pub(crate) fn new(receiver: Role, compression: bool) -> FrameSplitter {
        FrameSplitter { receiver, compression, in_message: false, rest: None }
    }

    /// The item at the beginning of `bytes`. The caller must remove the bytes of each item before the next call.
    ///
    /// # Errors
    /// The first violation of RFC 6455, section 5, that a header shows. Payloads are validated by the receiver.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<Item, ProtocolError> {
        if let Some(rest) = self.rest {
            return Ok(self.piece(rest, 0, bytes.len(), Opcode::Continuation, false));
        }
        let Some((header, header_bytes)) = frame::decode(bytes, self.receiver, self.compression)? else {
            return Ok(Item::Incomplete);
        };
        match header.opcode {
            Opcode::Text | Opcode::Binary if self.in_message => return Err(ProtocolError::InterleavedData),
            Opcode::Continuation if !self.in_message => return Err(ProtocolError::StrayContinuation),
            _ => {}
        }
        let there = bytes.len() - header_bytes;
        if header.payload_bytes <= there as u64 {
            if !header.opcode.is_control() {
                self.in_message = !header.fin;
            }
            return Ok(Item::Frame { header, header_bytes });
        }
        if header.payload_bytes <= ASSEMBLED_FRAME_BYTES_MAX {
            return Ok(Item::Incomplete);
        }
        let rest = RemainingPayload { bytes: header.payload_bytes, key: header.mask, fin: header.fin };
        Ok(self.piece(rest, header_bytes, there, header.opcode, header.compressed))
    }

    fn piece(
        &mut self,
        rest: RemainingPayload,
        skip_bytes: usize,
        there: usize,
        opcode: Opcode,
        compressed: bool,
    ) -> Item {
        let payload_bytes = rest.bytes.min(there as u64);
        let last = payload_bytes == rest.bytes;
        if !last && there < FRAGMENT_BYTES_MIN {
            return Item::Incomplete;
        }
        // Bounded by `there`, so the cast loses nothing.
        let bytes = payload_bytes as usize;
        let header = Header { opcode, fin: last && rest.fin, compressed, mask: rest.key, payload_bytes };
        self.in_message = !header.fin;
        self.rest = (!last).then(|| RemainingPayload {
            bytes: rest.bytes - payload_bytes,
            key: rest.key.map(|key| mask::rotate(key, bytes)),
            fin: rest.fin,
        });
        Item::Fragment { header, skip_bytes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 4] = [1, 2, 3, 4];

    fn masked(header: Header, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES_MAX];
        let header_bytes = frame::encode(&header, &mut bytes);
        bytes.truncate(header_bytes);
        mask::append(&mut bytes, payload, header.mask.unwrap_or_default());
        bytes
    }

    fn data(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
        masked(Header::new(opcode, fin, Some(KEY), payload.len()), payload)
    }

    /// The output for `input` that arrives in parts of these sizes, repeated.
    fn passed_on(input: &[u8], parts: &[usize]) -> Result<Vec<u8>, ProtocolError> {
        let mut frames = FrameSplitter::new(Role::Server, false);
        let (mut buffer, mut out) = (Vec::new(), Vec::new());
        let mut rest = input;
        for part in parts.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*part));
            buffer.extend_from_slice(now);
            rest = later;
            loop {
                let used = match frames.next(&buffer)? {
                    Item::Incomplete => break,
                    Item::Frame { header, header_bytes } => {
                        let bytes = header_bytes + header.payload_bytes as usize;
                        out.extend_from_slice(&buffer[..bytes]);
                        bytes
                    }
                    Item::Fragment { header, skip_bytes } => {
                        let bytes = skip_bytes + header.payload_bytes as usize;
                        let mut head = [0; HEADER_BYTES_MAX];
                        let head_bytes = frame::encode(&header, &mut head);
                        out.extend_from_slice(&head[..head_bytes]);
                        out.extend_from_slice(&buffer[skip_bytes..bytes]);
                        bytes
                    }
                };
                buffer.drain(..used);
            }
            assert!(buffer.len() <= INPUT_BYTES_MAX, "{} bytes wait", buffer.len());
            if rest.is_empty() {
                assert!(buffer.is_empty(), "{} bytes are left", buffer.len());
                return Ok(out);
            }
        }
        Ok(out)
    }

    /// Parses `bytes` into frames: opcode, FIN, payload.
    fn read(mut bytes: &[u8]) -> Vec<(Opcode, bool, Vec<u8>)> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let (header, header_bytes) =
                frame::decode(bytes, Role::Server, false).expect("valid").expect("whole");
            let (payload, rest) = bytes[header_bytes..].split_at(header.payload_bytes as usize);
            let mut payload = payload.to_vec();
            mask::apply(&mut payload, header.mask.expect("masked"));
            frames.push((header.opcode, header.fin, payload));
            bytes = rest;
        }
        frames
    }

    #[test]
    fn short_frames_pass_byte_for_byte() {
        let input = [
            data(Opcode::Text, true, b"hello"),
            data(Opcode::Ping, true, b"?"),
            data(Opcode::Binary, false, &[7; 300]),
            data(Opcode::Pong, true, b""),
            data(Opcode::Continuation, false, b""),
            data(Opcode::Continuation, true, &[8; 65_536]),
            data(Opcode::Close, true, &[3, 232]),
        ]
        .concat();
        for parts in [&[usize::MAX][..], &[1], &[3, 5, 1_000]] {
            assert_eq!(passed_on(&input, parts).as_ref(), Ok(&input), "{parts:?}");
        }
    }

    #[test]
    fn a_frame_out_of_order_is_a_violation() {
        let hello = |opcode, fin| data(opcode, fin, b"x");
        for (input, offence) in [
            (hello(Opcode::Continuation, true), ProtocolError::StrayContinuation),
            (
                [hello(Opcode::Text, false), hello(Opcode::Text, true)].concat(),
                ProtocolError::InterleavedData,
            ),
            (
                [hello(Opcode::Text, true), hello(Opcode::Continuation, true)].concat(),
                ProtocolError::StrayContinuation,
            ),
            (vec![0x81, 0x00], ProtocolError::NotMasked),
            (vec![0xc1], ProtocolError::ReservedBits),
            (vec![0x83], ProtocolError::UnknownOpcode),
        ] {
            assert_eq!(passed_on(&input, &[usize::MAX]), Err(offence));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn long_frames_become_fragments_of_the_same_message(
            payload_bytes in 65_537_usize..400_000,
            parts in prop::collection::vec(1_usize..70_000, 1..6),
            last in any::<bool>(),
        ) {
            let payload: Vec<u8> = (0..payload_bytes).map(|i| (i % 251) as u8).collect();
            let mut input = data(Opcode::Binary, last, &payload);
            if !last {
                input.extend(data(Opcode::Ping, true, b"between"));
                input.extend(data(Opcode::Continuation, true, b"end"));
            }
            let output = passed_on(&input, &parts).expect("no offence");
            let frames = read(&output);
            prop_assert_eq!(frames[0].0, Opcode::Binary);
            let (mut joined, mut ended) = (Vec::new(), 0);
            for (i, (opcode, fin, part)) in frames.iter().enumerate() {
                if *opcode == Opcode::Ping {
                    continue;
                }
                prop_assert_eq!(*opcode == Opcode::Continuation, i > 0);
                joined.extend_from_slice(part);
                ended += usize::from(*fin);
            }
            let mut expected = payload;
            if !last {
                expected.extend_from_slice(b"end");
            }
            prop_assert!(joined == expected && ended == 1);
        }
    }
}
