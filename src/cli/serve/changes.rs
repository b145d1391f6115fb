//! The differences between two sets of settings, by the keys of the configuration file.

use std::collections::BTreeMap;

use super::settings::Settings;
use echoring_admin::Change;

/// The changes from one to the other, in the order of their keys.
pub(super) fn changes(from: &Settings, to: &Settings) -> Vec<Change> {
    between(&from.values(), &to.values())
}

/// The same between the values of keys.
pub(crate) fn between(from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) -> Vec<Change> {
    let mut keys: Vec<&String> = from.keys().chain(to.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let changed = keys.into_iter().filter(|key| from.get(*key) != to.get(*key));
    let change = |key: &String| {
        let (from, to) = (from.get(key).cloned(), to.get(key).cloned());
        Change { key: key.clone(), from, to, hint: None }
    };
    changed.map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::config::tests::settings;

    #[test]
    fn changes_are_told_by_key_with_both_values() {
        let before = "max_message = '1MiB'\nlisten = '127.0.0.1:7'\n[[topics]]\npattern = 'a.*'\nlag = '2s'";
        let after = "max_message = 2\nallow_origin = 'https://a.example'\n[topic_defaults]\nsnapshot = 3\n\
                     [[topics]]\npattern = 'b'\n[[topics]]\npattern = 'a.*'";
        let [before, after] = [before, after].map(|text| settings(text, &[]).expect("valid"));
        let told: Vec<(String, Option<String>, Option<String>)> = changes(&before, &after)
            .into_iter()
            .map(|Change { key, from, to, .. }| (key, from, to))
            .collect();
        let change = |key: &str, from: Option<&str>, to: Option<&str>| {
            (key.to_owned(), from.map(str::to_owned), to.map(str::to_owned))
        };
        for expected in [
            change("allow_origin", None, Some("[\"https://a.example\"]")),
            change("listen", Some("[\"127.0.0.1:7\"]"), Some("[\"127.0.0.1:9001\"]")),
            change("max_message", Some("\"1MiB\""), Some("2")),
            change("topic_defaults.snapshot", Some("0"), Some("3")),
            change("topics", Some("[\"a.*\"]"), Some("[\"b\", \"a.*\"]")),
            change("topics.\"a.*\".lag", Some("\"2s\""), Some("\"5s\"")),
            change("topics.\"b\".lag", None, Some("\"5s\"")),
        ] {
            assert!(told.contains(&expected), "{expected:?} is not in {told:#?}");
        }
        assert!(changes(&after, &after).is_empty());
    }
}
