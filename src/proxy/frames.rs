//! Finds the frames in one direction of a relayed connection, so that whole ones are passed on as they are, mask
//! and all, and long ones in pieces that are frames by themselves.
//!
//! After each item that this gives out, what was written is at a frame's border. So a Close frame can always
//! follow, whatever the sender announced and did not send. A long frame is therefore cut into fragments, which
//! RFC 6455, 5.4, allows an intermediary where no extension says otherwise; permessage-deflate does not.
//!
//! Never: copies of payloads, or memory for what a header announces.

#![forbid(unsafe_code)]

use crate::limits::ASSEMBLED_FRAME_BYTES_MAX;
use crate::protocol::frame::{self, HEADER_BYTES_MAX, Header};
use crate::protocol::{Offence, Opcode, Role, mask};

/// The frames of one direction.
#[derive(Debug)]
pub(super) struct Frames {
    /// Who would receive them if nobody stood between.
    receiver: Role,
    /// permessage-deflate was agreed.
    compression: bool,
    /// Between the first and the last frame of a message.
    in_message: bool,
    /// What is still to come of a frame that is passed on in pieces.
    rest: Option<Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    bytes: u64,
    /// As it stands at the next byte.
    key: Option<[u8; 4]>,
    fin: bool,
}

/// What stands at the front of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A whole frame: so many bytes of header and payload, to be passed on as they are.
    Frame { header: Header, header_bytes: usize },
    /// A part of a long frame: leave out `skip_bytes` (its header, at its beginning), write `header` instead, and
    /// pass on the `header.payload_bytes` that follow.
    Piece { header: Header, skip_bytes: usize },
    /// Not enough for either.
    Partial,
}

/// The least that is made a frame of its own, unless it is the last of its frame.
const PIECE_BYTES_MIN: usize = 4 * 1024;

/// Bytes that must fit a buffer for this to get on: a frame that is not cut.
pub(super) const INPUT_BYTES_MAX: usize = ASSEMBLED_FRAME_BYTES_MAX as usize + HEADER_BYTES_MAX;

impl Frames {
    /// Of what `receiver` receives. `compression` tells whether RSV1 means something.
    pub(super) fn new(receiver: Role, compression: bool) -> Frames {
        Frames { receiver, compression, in_message: false, rest: None }
    }

    /// The item at the front of `bytes`, all of which are behind the items given out before. What it covers must be
    /// taken off before the next call.
    ///
    /// # Errors
    /// The first offence against RFC 6455, 5, that headers show. Payloads are the receiver's to judge.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<Item, Offence> {
        if let Some(rest) = self.rest {
            return Ok(self.piece(rest, 0, bytes.len(), Opcode::Continuation, false));
        }
        let Some((header, header_bytes)) = frame::decode(bytes, self.receiver, self.compression)? else {
            return Ok(Item::Partial);
        };
        match header.opcode {
            Opcode::Text | Opcode::Binary if self.in_message => return Err(Offence::InterleavedData),
            Opcode::Continuation if !self.in_message => return Err(Offence::StrayContinuation),
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
            return Ok(Item::Partial);
        }
        let rest = Rest { bytes: header.payload_bytes, key: header.mask, fin: header.fin };
        Ok(self.piece(rest, header_bytes, there, header.opcode, header.compressed))
    }

    fn piece(
        &mut self,
        rest: Rest,
        skip_bytes: usize,
        there: usize,
        opcode: Opcode,
        compressed: bool,
    ) -> Item {
        let payload_bytes = rest.bytes.min(there as u64);
        let last = payload_bytes == rest.bytes;
        if !last && there < PIECE_BYTES_MIN {
            return Item::Partial;
        }
        // Not more than what is there.
        let bytes = payload_bytes as usize;
        let header = Header { opcode, fin: last && rest.fin, compressed, mask: rest.key, payload_bytes };
        self.in_message = !header.fin;
        self.rest = (!last).then(|| Rest {
            bytes: rest.bytes - payload_bytes,
            key: rest.key.map(|key| mask::rotate(key, bytes)),
            fin: rest.fin,
        });
        Item::Piece { header, skip_bytes }
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

    /// What is passed on when `input` comes in parts of these sizes, in turn.
    fn passed_on(input: &[u8], parts: &[usize]) -> Result<Vec<u8>, Offence> {
        let mut frames = Frames::new(Role::Server, false);
        let (mut buffer, mut out) = (Vec::new(), Vec::new());
        let mut rest = input;
        for part in parts.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*part));
            buffer.extend_from_slice(now);
            rest = later;
            loop {
                let used = match frames.next(&buffer)? {
                    Item::Partial => break,
                    Item::Frame { header, header_bytes } => {
                        let bytes = header_bytes + header.payload_bytes as usize;
                        out.extend_from_slice(&buffer[..bytes]);
                        bytes
                    }
                    Item::Piece { header, skip_bytes } => {
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

    /// The frames of `bytes`: opcode, whether it is the last of its message, payload.
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
    fn what_may_not_follow_is_an_offence() {
        let hello = |opcode, fin| data(opcode, fin, b"x");
        for (input, offence) in [
            (hello(Opcode::Continuation, true), Offence::StrayContinuation),
            ([hello(Opcode::Text, false), hello(Opcode::Text, true)].concat(), Offence::InterleavedData),
            (
                [hello(Opcode::Text, true), hello(Opcode::Continuation, true)].concat(),
                Offence::StrayContinuation,
            ),
            (vec![0x81, 0x00], Offence::NotMasked),
            (vec![0xc1], Offence::ReservedBits),
            (vec![0x83], Offence::UnknownOpcode),
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
