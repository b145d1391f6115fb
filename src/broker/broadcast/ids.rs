//! The ids by which others know the connections and clients of a process.
//!
//! An id is the number of the node and the place of the connection, which is enciphered with a key of the process. So it needs no memory,
//! it leads to its connection, and nobody else can tell the place from it, or guess the id of another connection. As places repeat in
//! each process, and keys do not, an id of an earlier process names no connection of this one.

use std::fmt;
use std::str::FromStr;

use echoring_proto::connection::Entropy;
use echoring_runtime::driver::Token;
use echoring_topics::{ClientId, Origin};

use super::shard_mail::origin;

/// In the place of a connection, and not in that of its client. Indexes are below it, because those of descriptors are.
const CONNECTION: Origin = 1 << 31;

/// Names a connection, for operators and back ends. Its text is that of a client's id, but clients are never told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(ClientId);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ConnectionId {
    type Err = ();

    /// Reads an id in its only form.
    fn from_str(text: &str) -> Result<ConnectionId, ()> {
        let id = ClientId::parse(text).filter(|id| id.to_string() == text);
        id.map(ConnectionId).ok_or(())
    }
}

/// Makes the ids of the connections and clients of a process, and finds the connections again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The number of the node, never 0. A successor continues it.
    node: u64,
    /// Of this process.
    key: [u32; 4],
}

echoring_proto::plain!(for Ids { node, key });

// The key is a secret.
impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ids").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Ids {
    /// The ids of a process of the node with this number, or of a new node.
    pub fn new(node: Option<u64>, entropy: &mut Entropy) -> Ids {
        let node = node.unwrap_or_else(|| entropy.next().max(1));
        let [low, high] = [entropy.next(), entropy.next()];
        Ids { node, key: [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32] }
    }

    /// The number of the node.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// The id of the client of a connection that has not moved. `number` is that of its shard.
    pub fn client(&self, number: u8, token: Token) -> ClientId {
        self.seal(origin(number, token))
    }

    /// The id of a connection. `number` is that of its shard.
    pub fn connection(&self, number: u8, token: Token) -> ConnectionId {
        ConnectionId(self.seal(origin(number, token) | CONNECTION))
    }

    /// The number of the shard that has a connection, and the connection there. For the id of another process, that is one that does
    /// not exist.
    pub fn find(&self, id: ConnectionId) -> Option<(u8, Token)> {
        let ConnectionId(ClientId { node, number }) = id;
        let place = decipher(number, &self.key);
        let index = (place as u32 ^ CONNECTION as u32).checked_sub(1)?;
        let generation = (place >> 32) as u32 & 0xff_ffff;
        let is_known = node == self.node && index < CONNECTION as u32 - 1;
        is_known.then_some(((place >> 56) as u8, Token { index, generation }))
    }

    fn seal(&self, place: Origin) -> ClientId {
        ClientId { node: self.node, number: encipher(place, &self.key) }
    }
}

/// Rounds of XTEA, in pairs.
const CYCLES: u32 = 32;
/// Of XTEA's key schedule: 2³² divided by the golden ratio.
const DELTA: u32 = 0x9e37_79b9;

/// XTEA (Needham and Wheeler, 1997): its blocks are as long as a place.
fn encipher(block: u64, key: &[u32; 4]) -> u64 {
    let [mut left, mut right] = [(block >> 32) as u32, block as u32];
    for sum in (0..CYCLES).map(|cycle| cycle.wrapping_mul(DELTA)) {
        left = left.wrapping_add(mixed(right, sum, sum, key));
        let sum = sum.wrapping_add(DELTA);
        right = right.wrapping_add(mixed(left, sum, sum >> 11, key));
    }
    u64::from(left) << 32 | u64::from(right)
}

fn decipher(block: u64, key: &[u32; 4]) -> u64 {
    let [mut left, mut right] = [(block >> 32) as u32, block as u32];
    for sum in (0..CYCLES).rev().map(|cycle| cycle.wrapping_mul(DELTA)) {
        let next = sum.wrapping_add(DELTA);
        right = right.wrapping_sub(mixed(left, next, next >> 11, key));
        left = left.wrapping_sub(mixed(right, sum, sum, key));
    }
    u64::from(left) << 32 | u64::from(right)
}

fn mixed(half: u32, sum: u32, choice: u32, key: &[u32; 4]) -> u32 {
    (half << 4 ^ half >> 5).wrapping_add(half) ^ sum.wrapping_add(key[(choice & 3) as usize])
}

#[cfg(test)]
mod tests {
    use echoring_proto::Plain as _;

    use std::collections::BTreeSet;

    use super::*;

    fn ids(node: u64, seed: u64) -> Ids {
        Ids::new(Some(node), &mut Entropy::new(seed))
    }

    fn places() -> impl Iterator<Item = (u8, Token)> {
        let ends = [0, 1, 2, 200, (1 << 24) - 1];
        let tokens = ends.into_iter().flat_map(move |generation| {
            [0, 1, 2, 69_999, (1 << 30) - 1].map(|index| Token { index, generation })
        });
        tokens.flat_map(|token| [0, 1, 7, 255].map(|number| (number, token)))
    }

    #[test]
    fn an_id_leads_to_its_connection_and_no_other_process_finds_one() {
        let own = ids(7, 1);
        let successor = ids(7, 2);
        let other_node = Ids { node: 8, ..own };
        let mut all = BTreeSet::new();
        for (number, token) in places() {
            let id = own.connection(number, token);
            assert_eq!(own.find(id), Some((number, token)));
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(other_node.find(id), None);
            // The key is another: what it finds is far beyond all connections.
            assert_ne!(successor.find(id), Some((number, token)));
            assert!(successor.find(id).is_none_or(|(_, token)| token.index > 1 << 16), "{id}");
            for made in [own, successor, other_node] {
                all.insert(made.connection(number, token).0);
                all.insert(made.client(number, token));
            }
            let client = ConnectionId(own.client(number, token));
            assert_ne!(own.find(client), Some((number, token)), "a client's id is none of a connection");
        }
        assert_eq!(all.len(), 2 * 3 * places().count(), "an id has two meanings");
    }

    #[test]
    fn ids_do_not_tell_which_connections_share_a_shard() {
        let made = ids(7, 3);
        for (number, token) in places() {
            let id = made.client(number, token).number;
            let next = Token { index: token.index + 1, ..token };
            let later = Token { generation: (token.generation + 1) & 0xff_ffff, ..token };
            let others = [(number.wrapping_add(1), token), (number, next), (number, later)];
            for (number, token) in others {
                // Of two random words, half of the bits differ; six standard deviations are 24.
                let differs = (id ^ made.client(number, token).number).count_ones();
                assert!((8..=56).contains(&differs), "{differs} bits");
            }
        }
    }

    #[test]
    fn an_id_has_one_form() {
        let id = ids(7, 1).connection(3, Token { index: 70, generation: 9 });
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        let wrong = [
            "",
            "0-0-1",
            "x",
            &format!("0{text}"),
            &format!("+{text}"),
            &format!("{text} "),
            &text.to_uppercase(),
        ];
        for wrong in wrong {
            assert_eq!(wrong.parse::<ConnectionId>(), Err(()), "{wrong:?}");
        }
        assert_eq!(Ids::decode(&ids(7, 1).encode()), Some(ids(7, 1)));
    }

    #[test]
    fn the_cipher_is_xtea() {
        let key = [0x0001_0203, 0x0405_0607, 0x0809_0a0b, 0x0c0d_0e0f];
        for (plain, ciphered) in [
            (0x4142_4344_4546_4748, 0x497d_f3d0_7261_2cb5),
            (0x4141_4141_4141_4141, 0xe78f_2d13_7443_41d8),
            (0x5a5b_6e27_8948_d77f, 0x4141_4141_4141_4141),
        ] {
            assert_eq!(encipher(plain, &key), ciphered);
            assert_eq!(decipher(ciphered, &key), plain);
        }
    }
}
