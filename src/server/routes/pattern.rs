//! [`Pattern`]: the paths of a route, with parameters.

use std::fmt;

use echoring_proto::handshake::percent_decode_path;

/// A path with parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(String),
    Rest(String),
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::Parameter(name) => write!(f, "/{{{name}}}"),
            Segment::Rest(name) => write!(f, "/{{*{name}}}"),
        })
    }
}

impl Pattern {
    pub(crate) fn new(pattern: &str) -> Pattern {
        let inside = |text: &str| -> Option<String> {
            text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).map(str::to_owned)
        };
        let segment = |text: &str| match inside(text) {
            Some(name) => match name.strip_prefix('*') {
                Some(name) => Segment::Rest(name.to_owned()),
                None => Segment::Parameter(name),
            },
            None => Segment::Literal(text.to_owned()),
        };
        Pattern(pattern.trim_start_matches('/').split('/').map(segment).collect())
    }

    /// Why it never matches as it is meant, if so.
    pub(crate) fn flaw(&self) -> Option<String> {
        let mut names = Vec::new();
        for (index, segment) in self.0.iter().enumerate() {
            let why = match segment {
                // Of RFC 3986, 3.3; what else a path has is sent percent-encoded.
                Segment::Literal(text) => text
                    .chars()
                    .find(|&sent| !sent.is_ascii_alphanumeric() && !"-._~%!$&'()*+,;=:@".contains(sent))
                    .map(|other| format!("no path has {other:?}; a parameter is a whole segment, and other characters are sent percent-encoded")),
                Segment::Rest(_) if index + 1 < self.0.len() => Some("{*…} must be its end".to_owned()),
                Segment::Parameter(name) | Segment::Rest(name) if name.is_empty() => {
                    Some("a parameter needs a name".to_owned())
                }
                Segment::Parameter(name) | Segment::Rest(name) if names.contains(&name) => {
                    Some(format!("it has two parameters {name}"))
                }
                Segment::Parameter(name) | Segment::Rest(name) => {
                    names.push(name);
                    None
                }
            };
            if let Some(why) = why {
                return Some(format!("{self}: {why}"));
            }
        }
        None
    }

    /// Whether it matches all paths that `other` matches.
    pub(crate) fn covers(&self, other: &Pattern) -> bool {
        for (index, segment) in self.0.iter().enumerate() {
            let covered = match (segment, other.0.get(index)) {
                (_, None) => false,
                (Segment::Rest(_), Some(_)) => return true,
                (Segment::Parameter(_), Some(Segment::Literal(text))) => !text.is_empty(),
                (Segment::Parameter(_), Some(of_other)) => matches!(of_other, Segment::Parameter(_)),
                (Segment::Literal(text), Some(of_other)) => {
                    matches!(of_other, Segment::Literal(other) if other == text)
                }
            };
            if !covered {
                return false;
            }
        }
        self.0.len() == other.0.len()
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        self.walk(path, |_, _| {})
    }

    /// The percent-decoded value of a parameter; `None` also if it is not UTF-8.
    pub(crate) fn param(&self, path: &str, wanted: &str) -> Option<String> {
        let mut found = None;
        self.walk(path, |name, value| {
            if name == wanted {
                found = percent_decode_path(value);
            }
        });
        found
    }

    /// All parameters in the order of the pattern, percent-decoded; `None` for a value that is not UTF-8.
    pub(crate) fn params<'p>(&'p self, path: &str) -> Vec<(&'p str, Option<String>)> {
        let mut found = Vec::new();
        self.walk(path, |name, value| found.push((name, percent_decode_path(value))));
        found
    }

    /// Matches a path against the pattern, and passes each parameter to `parameter`.
    fn walk<'p, 'a>(&'p self, path: &'a str, mut parameter: impl FnMut(&'p str, &'a str)) -> bool {
        let Some(mut rest) = path.strip_prefix('/') else { return false };
        let last = self.0.len().saturating_sub(1);
        for (index, segment) in self.0.iter().enumerate() {
            if let Segment::Rest(name) = segment {
                parameter(name, rest);
                return true;
            }
            let (here, behind) = match rest.split_once('/') {
                Some((here, behind)) => (here, Some(behind)),
                None => (rest, None),
            };
            match segment {
                Segment::Literal(text) if text == here => {}
                Segment::Parameter(name) if !here.is_empty() => parameter(name, here),
                _ => return false,
            }
            match behind {
                Some(_) if index == last => return false,
                None if index != last => return false,
                behind => rest = behind.unwrap_or_default(),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_paths_segment_by_segment() {
        for (pattern, path, fits) in [
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a/", "/a/", true),
            ("/a", "/A", false),
            ("/", "/", true),
            ("/", "/a", false),
            ("/a/{x}", "/a/b", true),
            ("/a/{x}", "/a/", false),
            ("/a/{x}", "/a", false),
            ("/a/{x}", "/a/b/c", false),
            ("/a/{x}/c", "/a/b/c", true),
            ("/a/{*x}", "/a/", true),
            ("/a/{*x}", "/a/b/c", true),
            ("/a/{*x}", "/a", false),
            ("/{*x}", "/", true),
            ("/a", "*", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(path), fits, "{pattern} and {path}");
            assert_eq!(Pattern::new(pattern).to_string(), pattern);
        }
    }

    #[test]
    fn a_pattern_covers_those_whose_paths_it_matches() {
        for (pattern, other, covers) in [
            ("/a", "/a", true),
            ("/a", "/b", false),
            ("/a", "/{x}", false),
            ("/{x}", "/a", true),
            ("/{x}", "/{y}", true),
            ("/{x}", "/", false),
            ("/{x}", "/a/b", false),
            ("/{x}", "/{*y}", false),
            ("/a/{x}", "/a/{y}/c", false),
            ("/a/{x}/c", "/a/b/c", true),
            ("/{*x}", "/a/b", true),
            ("/{*x}", "/", true),
            ("/a/{*x}", "/a/{y}", true),
            ("/a/{*x}", "/a", false),
        ] {
            assert_eq!(Pattern::new(pattern).covers(&Pattern::new(other)), covers, "{pattern} and {other}");
        }
    }

    #[test]
    fn patterns_that_are_meant_otherwise_have_a_flaw() {
        for (pattern, flaw) in [
            ("/a/{*x}/b", Some("must be its end")),
            ("/{}", Some("needs a name")),
            ("/{*}", Some("needs a name")),
            ("/{x}/{x}", Some("two parameters x")),
            ("/a-{x}", Some("no path has '{'")),
            ("/a?b", Some("no path has '?'")),
            ("/r\u{e4}ume", Some("percent-encoded")),
            ("/", None),
            ("/a/", None),
            ("/r%C3%A4ume/{x}/{*rest}", None),
            ("/:@!$&'()*+,;=-._~", None),
        ] {
            let found = Pattern::new(pattern).flaw();
            let is_told = match (&found, flaw) {
                (Some(found), Some(words)) => found.starts_with(pattern) && found.contains(words),
                (found, flaw) => found.is_none() && flaw.is_none(),
            };
            assert!(is_told, "{pattern}: {found:?}");
        }
    }

    #[test]
    fn parameters_are_percent_decoded() {
        let pattern = Pattern::new("/a/{x}/{*rest}");
        assert_eq!(pattern.param("/a/b%20c/d/e", "x").as_deref(), Some("b c"));
        assert_eq!(pattern.param("/a/b%20c/d/e", "rest").as_deref(), Some("d/e"));
        assert_eq!(pattern.param("/a/b/d", "y"), None);
        assert_eq!(pattern.param("/a/%ff/d", "x"), None, "what is not UTF-8 is no text");
        let all = [("x", None), ("rest", Some("d".to_owned()))];
        assert_eq!(pattern.params("/a/%ff/d"), all, "in the order of the pattern");
    }
}
