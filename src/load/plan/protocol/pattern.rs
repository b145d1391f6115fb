//! Regular expressions over the bytes of messages.

use regex_automata::Input;
use regex_automata::meta::Regex;
use regex_automata::util::primitives::NonMaxUsize;
use regex_automata::util::syntax;

/// A regular expression in which `.` and negated classes match any byte but, for `.`, the line feed.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    pub(super) fn new(pattern: &str) -> Result<Pattern, String> {
        let syntax = syntax::Config::new().unicode(false).utf8(false);
        Regex::builder().syntax(syntax).build(pattern).map(Pattern).map_err(|error| {
            let lines = error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string);
            // The last line says what is wrong; those before show where.
            let reason = lines.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("regular expression {pattern}: {reason}")
        })
    }

    #[inline]
    pub(super) fn is_match(&self, bytes: &[u8]) -> bool {
        self.0.is_match(bytes)
    }

    /// The first group, or the whole match if there are no groups.
    #[inline]
    pub(super) fn group<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let mut slots: [Option<NonMaxUsize>; 4] = [None; 4];
        self.0.search_slots(&Input::new(bytes), &mut slots)?;
        let range = |from: usize| Some(slots[from]?.get()..slots[from + 1]?.get());
        bytes.get(range(2).or_else(|| range(0))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_group_is_the_value() {
        let group = |pattern: &str, bytes| Pattern::new(pattern).expect("valid").group(bytes);
        assert_eq!(group(r"^43(\d+)", b"4312[]"), Some(&b"12"[..]));
        assert_eq!(group(r"\d+", b"a12"), Some(&b"12"[..]));
        assert_eq!(group(r"(?s)^.(.*)$", b"\xff\xfe\n\x00"), Some(&b"\xfe\n\x00"[..]));
        assert_eq!(group(r"a(b)?", b"a"), Some(&b"a"[..]), "a group that takes no part");
        assert_eq!(group("x", b"a"), None);
        assert!(Pattern::new(r#"^\{""#).expect("valid").is_match(br#"{"a""#));
        let wrong = Pattern::new("a(").map(|_| ()).expect_err("unclosed");
        assert_eq!(wrong, "regular expression a(: unclosed group");
    }
}
