//! Text of multi-byte characters, for the styles that are not ASCII: words of many scripts, or emoji.
//!
//! It is generated once per run; a message contains a cut of it. Never: a cut inside a character.

use super::random_bytes::CUTS;
use super::style::Style;
use echoring_proto::random::SplitMix64;

/// Padding in place of the last character that does not fit.
const PAD: &[u8; 3] = b"...";
/// Maximum bytes of a character (RFC 3629, 3).
const CHARACTER_BYTES_MAX: usize = 4;
/// Maximum letters of a word.
const WORD_LETTERS_MAX: u64 = 9;

/// Letter ranges of scripts without gaps, first and last: one, two and three bytes per letter.
const SCRIPTS: [(char, char); 11] = [
    ('a', 'z'),
    ('à', 'ö'),
    ('α', 'ω'),
    ('а', 'я'),
    ('א', 'ת'),
    ('ا', 'غ'),
    ('अ', 'ह'),
    ('ก', 'ฮ'),
    ('あ', 'ん'),
    ('一', '龥'),
    ('가', '힣'),
];

/// Ranges of single-character emoji of four bytes each.
const EMOJI: [(char, char); 4] = [
    ('\u{1f300}', '\u{1f5ff}'),
    ('\u{1f600}', '\u{1f64f}'),
    ('\u{1f680}', '\u{1f6c5}'),
    ('\u{1f910}', '\u{1f9ff}'),
];

/// Emoji sequences: joined by U+200D, with a skin tone, a variation selector, or two regional indicators.
const SEQUENCES: [&str; 12] = [
    "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{200d}\u{1f466}",
    "\u{1f469}\u{200d}\u{1f4bb}",
    "\u{1f469}\u{1f3fd}\u{200d}\u{1f680}",
    "\u{1f9d1}\u{200d}\u{1f91d}\u{200d}\u{1f9d1}",
    "\u{1f3f3}\u{fe0f}\u{200d}\u{1f308}",
    "\u{1f3f4}\u{200d}\u{2620}\u{fe0f}",
    "\u{2764}\u{fe0f}\u{200d}\u{1f525}",
    "\u{1f937}\u{1f3fe}\u{200d}\u{2642}\u{fe0f}",
    "\u{1f44d}\u{1f3ff}",
    "\u{1f1ef}\u{1f1f5}",
    "\u{1f1e7}\u{1f1f7}",
    "\u{1f441}\u{fe0f}\u{200d}\u{1f5e8}\u{fe0f}",
];
/// One in this many emoji is a sequence.
const SEQUENCE_SHARE: u64 = 4;

/// The text that messages are cut from.
#[derive(Debug)]
pub(super) struct Characters {
    template: Box<[u8]>,
}

impl Characters {
    /// Generates enough text for bodies of `bytes_max` bytes: emoji, or words of many scripts.
    pub(super) fn new(seed: u64, style: Style, bytes_max: usize) -> Characters {
        let bytes = CUTS + bytes_max + CHARACTER_BYTES_MAX;
        let mut random = SplitMix64::new(seed);
        let mut text = String::with_capacity(bytes + 256);
        while text.len() < bytes {
            if style == Style::Emoji { emoji(&mut random, &mut text) } else { word(&mut random, &mut text) }
        }
        Characters { template: text.into_bytes().into() }
    }

    /// The whole characters from the position that `hash` selects, and the padding up to `bytes`.
    #[inline]
    pub(super) fn cut(&self, hash: u64, bytes: usize) -> (&[u8], &'static [u8]) {
        let start = self.boundary(hash as usize % CUTS);
        let end = self.boundary(start + bytes);
        (&self.template[start..end], &PAD[..start + bytes - end])
    }

    /// The start of the character at `at`.
    #[inline]
    fn boundary(&self, mut at: usize) -> usize {
        while self.template[at] & 0xc0 == 0x80 {
            at -= 1;
        }
        at
    }
}

/// Appends some letters of one script, and a space.
fn word(random: &mut SplitMix64, text: &mut String) {
    let script = *random.pick(&SCRIPTS);
    for _ in 0..=random.below(WORD_LETTERS_MAX) {
        text.push(one_of(script, random));
    }
    text.push(' ');
}

fn emoji(random: &mut SplitMix64, text: &mut String) {
    if random.below(SEQUENCE_SHARE) == 0 {
        return text.push_str(random.pick::<&str>(&SEQUENCES));
    }
    // Each block in proportion to its number of emoji.
    let count = |(first, last): (char, char)| u64::from(last) - u64::from(first) + 1;
    let mut at = random.below(EMOJI.iter().copied().map(count).sum());
    for block in EMOJI {
        if at < count(block) {
            return text.extend(char::from_u32(block.0 as u32 + at as u32));
        }
        at -= count(block);
    }
}

/// A character of a range. No range contains surrogates, the only gap of Unicode.
fn one_of((first, last): (char, char), random: &mut SplitMix64) -> char {
    let at = random.below(u64::from(last) - u64::from(first) + 1);
    char::from_u32(first as u32 + at as u32).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_every_length_is_whole_characters() {
        for style in [Style::Mixed, Style::Emoji] {
            let characters = Characters::new(5, style, 300);
            for hash in (0..CUTS as u64).step_by(61).chain([CUTS as u64 - 1]) {
                for bytes in [0, 1, 2, 3, 4, 5, 7, 8, 16, 33, 300] {
                    let (body, pad) = characters.cut(hash, bytes);
                    assert_eq!(body.len() + pad.len(), bytes);
                    assert!(std::str::from_utf8(body).is_ok(), "{hash} {bytes}: {body:x?}");
                    assert!(pad.len() < CHARACTER_BYTES_MAX);
                }
            }
        }
    }

    #[test]
    fn mixed_text_has_all_its_scripts_and_emoji_have_four_bytes_and_joiners() {
        let text = |style| String::from_utf8(Characters::new(6, style, 0).template.into()).expect("UTF-8");
        let mixed = text(Style::Mixed);
        for (first, last) in SCRIPTS {
            assert!(mixed.chars().any(|letter| (first..=last).contains(&letter)), "{first}..{last}");
        }
        let share = |text: &str, bytes| {
            let of_so_many = text.chars().filter(|character| character.len_utf8() == bytes).count();
            of_so_many as f64 / text.chars().count() as f64
        };
        for bytes in 1..=3 {
            assert!(share(&mixed, bytes) > 0.15, "{bytes} bytes: {}", share(&mixed, bytes));
        }
        let emoji = text(Style::Emoji);
        assert!(share(&emoji, 4) > 0.6, "{}", share(&emoji, 4));
        assert_eq!(share(&emoji, 1), 0.0);
        assert!(SEQUENCES.iter().all(|sequence| emoji.contains(sequence)));
    }
}
