//! Counts by the pattern that decides about a topic.

use std::collections::BTreeMap;

use crate::accounts::{PatternCounts, Publications};
use crate::settings::Rules;

/// A topic's place among the counts of patterns. It is valid until the rules change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PatternNumber(u16);

/// The counts of a shard for each pattern of the rules. They are never reset, so their sum is that of the shard.
#[derive(Debug)]
pub(crate) struct ByPattern {
    /// The default first, then the patterns in the order of the rules.
    counts: Vec<(Box<str>, PatternCounts)>,
    /// Of patterns that the rules no longer have, and of requests that reached no topic.
    rest: PatternCounts,
}

impl ByPattern {
    /// Counts of these rules.
    pub(crate) fn new(rules: &Rules) -> ByPattern {
        let counts = rules.counted_patterns().map(|pattern| (pattern.into(), PatternCounts::default()));
        ByPattern { counts: counts.collect(), rest: PatternCounts::default() }
    }

    /// Counts by other rules from now on. The counts of patterns that stay are kept. Nobody subscribes until that is counted again.
    pub(crate) fn configure(&mut self, rules: &Rules) {
        let mut before = std::mem::replace(self, ByPattern::new(rules));
        self.rest = before.rest;
        for (pattern, counts) in &mut self.counts {
            if let Some(at) = before.counts.iter().position(|(known, _)| known == pattern) {
                *counts = before.counts.remove(at).1;
            }
        }
        before.counts.iter().for_each(|(_, gone)| self.rest.add(gone));
        self.counts.iter_mut().for_each(|(_, counts)| counts.subscribers = 0);
        self.rest.subscribers = 0;
    }

    /// The place of the topic `name`.
    pub(crate) fn number_of(rules: &Rules, name: &str) -> PatternNumber {
        // The bound on counted patterns is far below.
        PatternNumber(rules.counted_number(name) as u16)
    }

    /// The counts of a pattern, to be added to.
    #[inline]
    pub(crate) fn of(&mut self, PatternNumber(number): PatternNumber) -> &mut PatternCounts {
        match self.counts.get_mut(usize::from(number)) {
            Some((_, counts)) => counts,
            None => &mut self.rest,
        }
    }

    /// Counts a message that was refused before it reached its topic.
    pub(crate) fn note_refused(&mut self) {
        self.rest.publications.count(false);
    }

    /// The sum of all counts.
    pub(crate) fn total(&self) -> PatternCounts {
        let mut total = self.rest;
        self.counts.iter().for_each(|(_, counts)| total.add(counts));
        total
    }

    /// Publication counts of all patterns.
    pub(crate) fn publications(&self) -> Publications {
        self.total().publications
    }

    /// Adds the counts of the rules' patterns to `report`.
    pub(crate) fn add_to(&self, report: &mut BTreeMap<Box<str>, PatternCounts>) {
        for (pattern, counts) in &self.counts {
            report.entry(pattern.clone()).or_default().add(&counts.reported());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::COUNTED_PATTERNS_MAX;
    use crate::settings::{DEFAULT_PATTERN, Pattern, TopicSettings};

    fn rules<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Rules {
        let settings = TopicSettings::default();
        let rules = patterns.into_iter().map(|pattern| (Pattern::new(pattern), settings));
        Rules::new(rules.collect(), settings)
    }

    fn count(by_pattern: &mut ByPattern, rules: &Rules, name: &str, sent: u64) {
        let counts = by_pattern.of(ByPattern::number_of(rules, name));
        counts.subscribers += 1;
        counts.deliveries.send(sent);
        counts.publications.count(true);
    }

    fn sent(by_pattern: &ByPattern) -> Vec<(String, u64)> {
        let mut report = BTreeMap::new();
        by_pattern.add_to(&mut report);
        report.into_iter().map(|(pattern, counts)| (pattern.into(), counts.deliveries.sent)).collect()
    }

    #[test]
    fn counts_stay_with_their_pattern_whatever_a_reload_does_and_the_sum_keeps_all() {
        let before = rules(["a.*", "b", "a.*"]);
        let mut counted = ByPattern::new(&before);
        for (name, messages) in [("a.1", 1), ("a.2", 2), ("b", 4), ("c", 8)] {
            count(&mut counted, &before, name, messages);
        }
        let pairs = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
            pairs.iter().map(|(pattern, sent)| ((*pattern).into(), *sent)).collect()
        };
        assert_eq!(sent(&counted), pairs(&[(DEFAULT_PATTERN, 8), ("a.*", 3), ("b", 4)]));
        let after = rules(["c", "a.*"]);
        counted.configure(&after);
        assert_eq!(sent(&counted), pairs(&[(DEFAULT_PATTERN, 8), ("a.*", 3), ("c", 0)]));
        count(&mut counted, &after, "b", 16);
        count(&mut counted, &after, "c", 32);
        counted.note_refused();
        assert_eq!(sent(&counted), pairs(&[(DEFAULT_PATTERN, 24), ("a.*", 3), ("c", 32)]));
        let total = counted.total();
        assert_eq!((total.deliveries.sent, total.subscribers), (63, 2));
        assert_eq!(total.publications, Publications { published: 7, accepted: 6, refused: 1 });
    }

    #[test]
    fn patterns_behind_the_bound_count_as_the_default() {
        let names: Vec<String> = (0..COUNTED_PATTERNS_MAX + 2).map(|number| number.to_string()).collect();
        let rules = rules(names.iter().map(String::as_str));
        let mut counted = ByPattern::new(&rules);
        names.iter().for_each(|name| count(&mut counted, &rules, name, 1));
        let sent = sent(&counted);
        assert_eq!(sent.len(), COUNTED_PATTERNS_MAX + 1);
        assert!(sent.iter().all(|(pattern, sent)| *sent == if pattern == DEFAULT_PATTERN { 2 } else { 1 }));
        assert_eq!(rules.counted_pattern(&names[0]), "0");
        assert_eq!(rules.counted_pattern(&names[COUNTED_PATTERNS_MAX]), DEFAULT_PATTERN);
    }

    /// A subscriber takes back what it was sent before its topic got another pattern.
    #[test]
    fn a_pattern_never_reports_less_than_nothing() {
        let (before, after) = (rules(["a"]), rules(["b"]));
        let mut counted = ByPattern::new(&before);
        count(&mut counted, &before, "a", 3);
        counted.configure(&after);
        let counts = counted.of(ByPattern::number_of(&after, "a"));
        counts.deliveries.unsend(2);
        counts.unsend_bytes(20);
        assert_eq!(sent(&counted)[0], (DEFAULT_PATTERN.into(), 0));
        assert_eq!(counted.total().deliveries.sent, 1);
        count(&mut counted, &after, "a", 7);
        assert_eq!(sent(&counted)[0], (DEFAULT_PATTERN.into(), 5));
    }
}
