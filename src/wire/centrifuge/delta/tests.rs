//! Tests of deltas.

use super::*;
use crate::limits::DELTA_OVERHEAD_BYTES_MAX;
use proptest::prelude::*;

/// Bytes that no block of 16 repeats, in which every block differs from those of other seeds.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn round_trip(base: &[u8], target: &[u8]) -> Vec<u8> {
    let delta = create(base, target);
    assert_eq!(apply(base, &delta, target.len()).as_deref(), Ok(target));
    assert!(delta.len() <= target.len() + DELTA_OVERHEAD_BYTES_MAX);
    delta
}

#[test]
fn deltas_have_fossils_format() {
    let base = b"{\"price\":100,\"volume\":20,\"currency\":\"EUR\"}";
    let target = b"{\"price\":101,\"volume\":20,\"currency\":\"EUR\"}";
    let cases: [(&[u8], &[u8], &str); 4] = [
        (b"", b"", "0\n0;"),
        // The checksum is 0x61626300.
        (b"", b"abc", "3\n3:abc1XObC0;"),
        // The checksum is 0x31323334 + 0x35000000.
        (b"12345", b"12345", "5\n5:123451bCZCp;"),
        // What follows the price is 30 bytes from the 12th on.
        (base, target, "f\nC:{\"price\":101U@C,WMLlt;"),
    ];
    for (base, target, expected) in cases {
        assert_eq!(String::from_utf8(round_trip(base, target)).as_deref(), Ok(expected));
    }
}

/// Worked out by hand from the description of the format.
#[test]
fn deltas_of_others_are_applied() {
    let base = b"the quick brown fox";
    let target = b"quick fox";
    let sum = checksum(target);
    let mut delta = b"9\n5@4,1: 3@G,".to_vec();
    put_number(&mut delta, u64::from(sum));
    delta.push(b';');
    assert_eq!(apply(base, &delta, 9).as_deref(), Ok(&target[..]));
    assert_eq!(apply(base, &delta, 8), Err(Corrupt), "longer than allowed");
    assert_eq!(apply(b"the other one", &delta, 9), Err(Corrupt), "another base");
}

#[test]
fn damaged_deltas_are_refused() {
    let base = noise(1, 100);
    for delta in [
        "",
        "3",
        "3\n",
        "3\n3:ab",
        "3\n3:abc",
        "3\n3:abc0;",
        "2\n3:abc1XObC0;",
        "3\n3:abc1XObC0;;",
        "3\n3:abc1XObC0",
        "3\n3@2S,0;",
        "3\n3@0;0;",
        "3\n:abc0;",
        "~~~~~~~\n0;",
        "3\n3?abc0;",
    ] {
        assert_eq!(apply(&base, delta.as_bytes(), 1 << 20), Err(Corrupt), "{delta}");
    }
}

#[test]
fn a_small_change_makes_a_small_delta_at_all_sizes() {
    for length in [64, 1_000, 4_096, 65_536, 300_000] {
        let base = noise(7, length);
        let mut target = base.clone();
        target[length / 2] ^= 1;
        assert!(round_trip(&base, &target).len() < 64);
        target.insert(length / 3, b'x');
        target.remove(length / 4);
        assert!(round_trip(&base, &target).len() < 128);
    }
}

#[test]
fn nothing_in_common_makes_one_literal() {
    for length in [0, 1, 15, 16, 17, 1_000, 65_536] {
        let delta = round_trip(&noise(3, length), &noise(5, length));
        assert!(delta.len() >= length);
    }
}

/// Each byte of the target is compared a bounded number of times, so these end at once.
#[test]
fn repetitive_content_takes_linear_time() {
    let length = 1 << 20;
    let contents =
        [vec![0; length], vec![0x80; length], b"ab".repeat(length / 2), noise(9, 16).repeat(length / 16)];
    for base in &contents {
        for target in &contents {
            round_trip(base, target);
            round_trip(base, &target[1..]);
        }
    }
}

#[test]
fn a_delta_to_text_is_text() {
    let words = ["Grüße", "水", "🦀🦀", "plain", "é", "日本語テキスト"];
    for seed in 0..200 {
        let text = |seed| -> String {
            noise(seed, 60).iter().map(|&byte| words[usize::from(byte) % words.len()]).collect()
        };
        let (base, target) = (text(seed / 2 * 7 + 1), text(seed * 7 + 1));
        let mixed = format!("{}{target}{}", &base, base.chars().skip(5).collect::<String>());
        for target in [&target, &mixed] {
            let delta = round_trip(base.as_bytes(), target.as_bytes());
            assert!(str::from_utf8(&delta).is_ok(), "{}", delta.escape_ascii());
        }
    }
}

proptest! {
    #[test]
    fn every_target_is_restored(
        base in proptest::collection::vec(any::<u8>(), 0..2_000),
        pieces in proptest::collection::vec((any::<u16>(), any::<u16>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let mut target = Vec::new();
        for (from, length, literal) in pieces {
            let from = usize::from(from) % (base.len() + 1);
            let end = (from + usize::from(length) % 500).min(base.len());
            target.extend_from_slice(&base[from..end]);
            target.extend_from_slice(&literal);
        }
        round_trip(&base, &target);
        round_trip(&target, &base);
    }

    #[test]
    fn targets_of_few_letters_are_restored(
        base in proptest::collection::vec(0x7eu8..0x82, 0..600),
        target in proptest::collection::vec(0x7eu8..0x82, 0..600),
    ) {
        round_trip(&base, &target);
    }

    #[test]
    fn any_delta_is_applied_or_refused_within_the_bound(
        base in proptest::collection::vec(any::<u8>(), 0..100),
        delta in "[0-9A-Z~]{1,2}\n([0-9A-Z]{1,2}[@:,;][0-9A-Z]{0,3}[,;]?){0,6}",
    ) {
        if let Ok(target) = apply(&base, delta.as_bytes(), 1_000) {
            prop_assert!(target.len() <= 1_000);
        }
    }
}
