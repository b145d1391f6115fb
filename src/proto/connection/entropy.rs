//! Unpredictable values of the client role: masking keys and the nonces of upgrade requests.
//!
//! RFC 6455, 5.3, requires a strong source of entropy, so that earlier keys do not predict later ones. A page that
//! could predict them could choose the bytes on the wire (10.3). The source of the seed is an argument, like time.

use std::fmt;

use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use getrandom::SysRng;

use crate::random::scale;

/// The source of the seed of an [`Entropy`].
#[derive(Clone, Copy, Debug)]
pub enum Seed {
    /// The random source of the system, read once for the first key or nonce. Servers need neither and never read it.
    /// Panics when the system has no random source.
    System,
    /// A number that determines all output, for tests and simulation.
    Fixed(u64),
}

impl From<u64> for Seed {
    fn from(seed: u64) -> Seed {
        Seed::Fixed(seed)
    }
}

/// A generator of masking keys and nonces: the output of ChaCha with 12 rounds, in blocks of 64 words.
pub struct Entropy {
    seed: Seed,
    cipher: Option<Box<ChaCha12Rng>>,
}

impl Entropy {
    /// A generator with this seed.
    pub fn new(seed: impl Into<Seed>) -> Entropy {
        Entropy { seed: seed.into(), cipher: None }
    }

    #[inline]
    fn cipher(&mut self) -> &mut ChaCha12Rng {
        let seed = self.seed;
        self.cipher.get_or_insert_with(|| {
            Box::new(match seed {
                Seed::System => {
                    ChaCha12Rng::try_from_rng(&mut SysRng).expect("the system has a random source")
                }
                Seed::Fixed(seed) => ChaCha12Rng::seed_from_u64(seed),
            })
        })
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so it is not an iterator")]
    pub fn next(&mut self) -> u64 {
        self.cipher().next_u64()
    }

    /// A number below `bound`, or 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        scale(self.next(), bound)
    }

    /// A masking key (RFC 6455, 5.3).
    #[inline]
    pub fn key(&mut self) -> [u8; 4] {
        self.cipher().next_u32().to_ne_bytes()
    }

    /// A nonce for `Sec-WebSocket-Key` (RFC 6455, 4.1).
    pub fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        self.cipher().fill_bytes(&mut nonce);
        nonce
    }
}

impl fmt::Debug for Entropy {
    /// Does not show the state.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entropy").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The inverse of SplitMix64: the state that produced an output.
    fn unmix(mut z: u64) -> u64 {
        fn unshift(z: u64, by: u32) -> u64 {
            let (mut x, mut shift) = (z, by);
            while shift < 64 {
                x = z ^ (x >> by);
                shift += by;
            }
            x
        }
        z = unshift(z, 31).wrapping_mul(0x3196_42b2_d24d_8ec3);
        z = unshift(z, 27).wrapping_mul(0x96de_1b17_3f11_9089);
        unshift(z, 30)
    }

    #[test]
    fn an_output_does_not_predict_the_next_one() {
        let mix = |state: u64| {
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let predicted = |output: u64| mix(unmix(output).wrapping_add(0x9e37_79b9_7f4a_7c15));
        // The prediction is correct for SplitMix64, so it would succeed for an invertible generator.
        assert_eq!(predicted(mix(7)), mix(7_u64.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        let mut entropy = Entropy::new(Seed::Fixed(1));
        for _ in 0..1_000 {
            let output = entropy.next();
            assert_ne!(predicted(output), entropy.next());
        }
    }

    #[test]
    fn keys_and_nonces_follow_from_the_seed_alone_and_do_not_repeat() {
        let draw = |seed: u64| {
            let mut entropy = Entropy::new(seed);
            let keys: Vec<_> = (0..1_000).map(|_| entropy.key()).collect();
            (keys, entropy.nonce(), entropy.nonce())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let (keys, one, two) = draw(3);
        assert_ne!(one, two);
        // Among 1,000 keys of 32 bits a collision occurs in one of 8,000 seeds. This seed has none.
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
        // Each bit is set in about half of the keys.
        for bit in 0..32 {
            let set = keys.iter().filter(|key| u32::from_le_bytes(**key) >> bit & 1 == 1).count();
            assert!((400..600).contains(&set), "bit {bit} is set in {set} of 1,000 keys");
        }
    }

    #[test]
    fn the_random_source_of_the_system_is_read_with_the_first_key() {
        let mut entropy = Entropy::new(Seed::System);
        assert!(entropy.cipher.is_none());
        let first = entropy.key();
        assert_ne!(first, entropy.key());
        assert!(entropy.cipher.is_some());
    }
}
