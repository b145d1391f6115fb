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
