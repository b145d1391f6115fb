//! What nobody else may foresee: masking keys and the nonces of upgrade requests, for the client role.
//!
//! RFC 6455, 5.3, asks for a strong source, such that keys which were seen do not tell those that follow: a page that
//! could foresee them would choose what goes over the wire (10.3). The source of the seed is an argument, as time is.

use std::fmt;

use rand::rngs::ChaCha12Rng;
use rand::{Rng as _, SeedableRng as _};

/// Where the key of an [`Entropy`] comes from.
#[derive(Clone, Copy, Debug)]
pub enum Seed {
    /// From a source of randomness, asked once when the first key or nonce is wanted: servers want none.
    Source(fn() -> [u8; 32]),
    /// A number from which everything follows: for tests and simulation.
    Fixed(u64),
}

impl From<u64> for Seed {
    fn from(seed: u64) -> Seed {
        Seed::Fixed(seed)
    }
}

/// Masking keys and nonces: the output of ChaCha with 12 rounds, made 64 words at a time.
pub struct Entropy {
    seed: Seed,
    cipher: Option<Box<ChaCha12Rng>>,
}

impl Entropy {
    /// A generator whose seed nobody else knows.
    pub fn new(seed: impl Into<Seed>) -> Entropy {
        Entropy { seed: seed.into(), cipher: None }
    }

    #[inline]
    fn cipher(&mut self) -> &mut ChaCha12Rng {
        let seed = self.seed;
        self.cipher.get_or_insert_with(|| {
            Box::new(match seed {
                Seed::Source(source) => ChaCha12Rng::from_seed(source()),
                Seed::Fixed(seed) => ChaCha12Rng::seed_from_u64(seed),
            })
        })
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so it is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.cipher().next_u64()
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
    /// Says nothing of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entropy").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// SplitMix64 backwards: its state behind an output.
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
    fn an_output_does_not_tell_the_next_as_that_of_an_invertible_generator_does() {
        let mix = |state: u64| {
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let foreseen = |output: u64| mix(unmix(output).wrapping_add(0x9e37_79b9_7f4a_7c15));
        // That this foresees SplitMix64 shows that it is done right.
        assert_eq!(foreseen(mix(7)), mix(7_u64.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        let mut entropy = Entropy::new(Seed::Fixed(1));
        for _ in 0..1_000 {
            let output = entropy.next();
            assert_ne!(foreseen(output), entropy.next());
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
        // Of a thousand among 2^32 two are the same once in 8,000 seeds, and of this seed none are.
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
        // Each bit is set in about half of them.
        for bit in 0..32 {
            let set = keys.iter().filter(|key| u32::from_le_bytes(**key) >> bit & 1 == 1).count();
            assert!((400..600).contains(&set), "bit {bit} is set in {set} of 1,000 keys");
        }
    }

    #[test]
    fn the_source_is_asked_once_and_only_when_something_is_wanted() {
        use std::sync::atomic::{AtomicU32, Ordering};
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let mut entropy = Entropy::new(Seed::Source(|| {
            ASKED.fetch_add(1, Ordering::Relaxed);
            [7; 32]
        }));
        assert_eq!(ASKED.load(Ordering::Relaxed), 0);
        let first = entropy.key();
        assert_ne!(first, entropy.key());
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
    }
}
