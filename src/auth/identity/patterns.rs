//! Patterns of topic names in credentials.

use echoring_topics::Pattern;
use echoring_topics::limits::TOPIC_BYTES_MAX;
use serde_json::Value;

use crate::identity::memory::allocated;
use crate::limits::PATTERNS_MAX;

/// A bounded list of patterns; the empty list fits no topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Patterns(pub(super) Box<[Pattern]>);

impl Patterns {
    /// `None` for more than [`PATTERNS_MAX`] patterns, or for one that is longer than any topic.
    pub(crate) fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Option<Patterns> {
        let mut list = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            if list.len() == PATTERNS_MAX || pattern.is_empty() || pattern.len() > TOPIC_BYTES_MAX {
                return None;
            }
            list.push(Pattern::new(pattern));
        }
        Some(Patterns(list.into()))
    }

    /// The patterns of a claim: a string or an array of strings.
    pub(crate) fn of_claim(claim: &Value) -> Option<Patterns> {
        match claim {
            Value::String(pattern) => Patterns::new([pattern]),
            Value::Array(items) if items.iter().all(Value::is_string) => {
                Patterns::new(items.iter().filter_map(Value::as_str))
            }
            _ => None,
        }
    }

    /// The patterns as they were given.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Pattern::text)
    }

    pub(crate) fn fit(&self, topic: &str) -> bool {
        self.0.iter().any(|pattern| pattern.fits(topic))
    }

    pub(crate) fn held_bytes(&self) -> usize {
        let texts: usize = self.0.iter().map(|pattern| allocated(pattern.text().len())).sum();
        allocated(size_of_val(&*self.0)) + texts
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_a_pattern_or_a_bounded_list_of_them() {
        for (claim, fitting, others) in [
            (json!("a.*"), &["a.", "a.b"][..], &["a", "b"][..]),
            (json!(["a", "b.*"]), &["a", "b.c"], &["b", "*"]),
            (json!([]), &[], &["", "a"]),
        ] {
            let patterns = Patterns::of_claim(&claim).expect("valid");
            assert!(fitting.iter().all(|topic| patterns.fit(topic)), "{claim}");
            assert!(!others.iter().any(|topic| patterns.fit(topic)), "{claim}");
        }
        let many = vec!["a"; PATTERNS_MAX + 1];
        let long = "a".repeat(TOPIC_BYTES_MAX + 1);
        for claim in [json!(null), json!(1), json!({"a": 1}), json!([1]), json!(""), json!(many), json!(long)]
        {
            assert_eq!(Patterns::of_claim(&claim), None, "{claim}");
        }
    }
}
