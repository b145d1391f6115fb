//! The rights that a reload would open. The absence of a key never opens one.
//!
//! A file that was truncated looks like one whose keys were removed. This module compares settings, and applies none.

use std::collections::BTreeMap;

use super::options::Configurable as _;
use super::settings::Settings;
use super::toml_text::{list, quoted};
use super::topics::{Topic, Topics, keys};
use crate::Failure;
use crate::common::file::flags::is_given;
use crate::common::values::OFF;
use echoring_runtime::admission::PeerLimits;
use echoring_server::ServerConfig;
use echoring_topics::{Permission, Right, Rules};

/// Options that close something when they are given. The word `off` removes them.
const CLOSING: [&str; 5] =
    ["admin_token_file", "admin_read_token_file", "auth_blocked", "auth_issuer", "tls_client_ca"];

/// Options without a default that bound what clients may use, in the order of their names.
fn limits() -> Vec<&'static str> {
    let others = ["ban_after", "trusted_proxy"];
    let limits = ServerConfig::without_default().chain(PeerLimits::without_default());
    let mut limits: Vec<&str> = limits.chain(others).collect();
    limits.sort_unstable();
    limits
}

/// Options that open something when they are given.
const OPENING: [&str; 4] = ["allow_host", "allow_origin", "auth_anonymous", "auth_token_without_exp"];

/// Warnings about everything that `next` opens and `running` has closed, and about the limits that end.
///
/// # Errors
/// [`Failure::Usage`] if something would open because a key is absent, or because the file has no key at all.
pub(super) fn opened(running: &Settings, next: &Settings) -> Result<Vec<String>, Failure> {
    let gives = |settings: &Settings, key: &str| is_given(&settings.matches, key);
    let ends = |key: &&str| gives(running, key) && !gives(next, key);
    let values = [running, next].map(Settings::values);
    let closes = |values: &BTreeMap<String, String>, key: &str| {
        values.get(key).is_some_and(|value| ![quoted(OFF), list([OFF])].contains(value))
    };
    let opened = CLOSING.into_iter().filter(|key| closes(&values[0], key) && !closes(&values[1], key));
    let opened = opened.map(|key| match gives(next, key) {
        true => Ok(format!("{key}: {OFF} opens what it has closed")),
        false => Err(absent(key, &format!("set it to \"{OFF}\" if that is meant"))),
    });
    let opened = opened.collect::<Result<Vec<_>, _>>()?;
    let limits = limits().into_iter().filter(ends).map(|key| format!("{key}: this limit no longer holds"));
    let is_wider = |key: &&str| gives(next, key) && values[0].get(*key) != values[1].get(*key);
    let opening = OPENING.into_iter().filter(is_wider).map(|key| {
        let value = values[1].get(key).map_or("", String::as_str);
        format!("{key}: {value} may admit clients that were refused")
    });
    let rights = opened_rights(&running.topics, &next.topics)?;
    Ok(opened.into_iter().chain(rights).chain(opening).chain(limits).collect())
}

/// Refuses the file of `wanted` if it is empty and that of `running` was not.
pub(super) fn refuse_empty(running: &Settings, wanted: &Settings) -> Result<(), Failure> {
    if wanted.has_keys() || !running.has_keys() {
        return Ok(());
    }
    let name = wanted.config_file.as_ref().map(|(path, _)| path.display().to_string());
    Err(Failure::Usage(format!(
        "{}: has no key, and may be truncated; to return to the defaults, give one key",
        name.unwrap_or_default()
    )))
}

/// Warnings about the rights to topics that `next` gives to more clients than `running`. The patterns of both are compared.
fn opened_rights(running: &Topics, next: &Topics) -> Result<Vec<String>, Failure> {
    let rules = [running.rules(), next.rules()];
    let patterns = running.rules.iter().chain(&next.rules).map(|topic| topic.value.pattern.as_str());
    let mut patterns: Vec<&str> = patterns.collect();
    patterns.sort_unstable();
    patterns.dedup();
    let mut warnings = Vec::new();
    for right in Right::ALL {
        let of_pattern = |pattern: &&str| {
            // A pattern matches its own text.
            let [from, to] = rules.each_ref().map(|rules: &Rules| rules.of(pattern).access.of(right));
            let topics = [settled(running, &rules[0], pattern), settled(next, &rules[1], pattern)];
            (format!("topics.\"{pattern}\""), from, to, topics)
        };
        let of_default = [running, next].map(|topics| topics.default.value.settings.access.of(right));
        let defaults = [&running.default, &next.default];
        let default = ("topic_defaults".to_owned(), of_default[0], of_default[1], defaults);
        for (table, from, to, topics) in patterns.iter().map(of_pattern).chain([default]) {
            if openness(to) <= openness(from) {
                continue;
            }
            let key = format!("{table}.{}", right.word());
            // A table whose own key was removed inherits another one's.
            let [had, has] = [0, 1].map(|side| Source::of(right.word(), topics[side], defaults[side]));
            if has == Source::Nowhere || (has == Source::Defaults && had == Source::Own) {
                let word = keys::word(to);
                return Err(absent(&key, &format!("set it to \"{word}\" if that is meant")));
            }
            let [from, to] = [from, to].map(keys::word);
            warnings.push(format!("{key}: more clients have this right: \"{to}\" instead of \"{from}\""));
        }
    }
    Ok(warnings)
}

/// Where a topic's permission is given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Nowhere,
    Defaults,
    Own,
}

impl Source {
    fn of(key: &str, topic: &Topic, defaults: &Topic) -> Source {
        match (topic.given.get(key), defaults.given.get(key)) {
            (None, _) => Source::Nowhere,
            (Some(own), Some(inherited)) if own.at == inherited.at => Source::Defaults,
            (Some(_), _) => Source::Own,
        }
    }
}

/// The settings in `topics` of the topic `name`.
fn settled<'a>(topics: &'a Topics, rules: &Rules, name: &str) -> &'a Topic {
    let pattern = rules.pattern(name);
    topics.rules.iter().find(|topic| topic.value.pattern == pattern).unwrap_or(&topics.default)
}

/// How many clients a permission may include. Those with the same number include different ones.
fn openness(permission: Permission) -> u8 {
    match permission {
        Permission::Nobody => 0,
        Permission::Operator => 1,
        Permission::Named | Permission::Claim | Permission::Hook | Permission::Subscriber => 2,
        Permission::Authenticated => 3,
        Permission::Everybody => 4,
    }
}

fn absent(key: &str, hint: &str) -> Failure {
    Failure::Usage(format!("{key}: is absent, which would open what it closes; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::file::flags;
    use crate::serve::args::Args;
    use crate::serve::config::tests::settings;
    use crate::serve::reload::{Reload, reload_of};

    fn between(running: &str, next: &str) -> Result<Vec<String>, String> {
        let [running, next] = [running, next].map(|text| settings(text, &[]).expect("valid"));
        opened(&running, &next).map_err(Failure::into_line)
    }

    #[test]
    fn the_options_are_keys_that_a_reload_changes() {
        let command = flags::command::<Args>();
        for key in CLOSING.iter().chain(&limits()).chain(&OPENING) {
            let arg = command.get_arguments().find(|arg| arg.get_id() == *key).expect(key);
            assert_eq!(reload_of(arg), Reload::Live, "{key}");
        }
    }

    #[test]
    fn a_key_that_is_absent_opens_nothing() {
        let auth = "[auth]\nanonymous = true\n";
        let closed = "[[topics]]\npattern = 'a.*'\nsubscribe = 'operator'\npublish = 'operator'\n";
        let defaults = "[topic_defaults]\npublish = 'operator'\n";
        for (running, next, key) in [
            ("admin_token_file = 'f'".to_owned(), "log = 'info'".to_owned(), "admin_token_file:"),
            ("admin_read_token_file = 'f'".to_owned(), "log = 'info'".to_owned(), "admin_read_token_file:"),
            (closed.to_owned(), "log = 'info'".to_owned(), "topics.\"a.*\".subscribe:"),
            (closed.to_owned(), "[[topics]]\npattern = 'a.*'\nsubscribe = 'operator'".to_owned(), "publish:"),
            (defaults.to_owned(), "[[topics]]\npattern = 'x'".to_owned(), "publish:"),
            (
                format!("{defaults}[[topics]]\npattern = 'a'\npublish = 'nobody'"),
                format!("{defaults}[[topics]]\npattern = 'a'"),
                "topics.\"a\".publish:",
            ),
            (format!("{auth}{closed}"), auth.to_owned(), "topics.\"a.*\".subscribe:"),
        ] {
            let line = between(&running, &next).expect_err(&next);
            assert!(line.contains(key) && line.contains("is absent"), "{running}\n{next}\n{line}");
            assert_eq!(between(&next, &running).map(|warnings| warnings.len()), Ok(0), "it closes");
        }
    }

    /// The same word for all of them. What it leaves is as if the key had never been there.
    #[test]
    fn what_closes_is_removed_by_a_word() {
        let folder = std::env::temp_dir().join(format!("echoring-openings-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = |name: &str, text: &str| {
            let file = folder.join(name);
            std::fs::write(&file, text).expect("written");
            file.display().to_string()
        };
        let token = file("token", "0123456789abcdef0123456789abcdef");
        let blocked = file("blocked", "[[blocked]]\nsubject = 'a'");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let [certificate, key] =
            [("certificate", made.cert.pem()), ("key", made.signing_key.serialize_pem())]
                .map(|(name, pem)| file(name, &pem));
        let auth = format!("[auth]\njwt_key = '{token}'\n");
        let tls = format!("tls_cert = '{certificate}'\ntls_key = '{key}'\n");
        for (before, key, value) in [
            ("", "admin_token_file", &*token),
            ("", "admin_read_token_file", &*token),
            (&*auth, "issuer", "https://idp.example"),
            (&*auth, "blocked", &*blocked),
            (&*tls, "tls_client_ca", &*certificate),
        ] {
            let [with, off] = [value, OFF].map(|value| format!("{before}{key} = '{value}'\n"));
            let without = format!("log = 'info'\n{before}");
            let refused = between(&with, &without).expect_err(key);
            assert!(refused.contains("is absent") && refused.contains("\"off\""), "{refused}");
            let warnings = between(&with, &off).expect(key);
            assert!(
                warnings.len() == 1 && warnings[0].contains(&format!("{key}: off opens")),
                "{warnings:?}"
            );
            for [from, to] in [[&off, &without], [&without, &off], [&off, &with], [&with, &with]] {
                assert_eq!(between(from, to), Ok(vec![]), "{from}\n{to}");
            }
            let [off, without] = [off, without].map(|text| settings(&text, &[]).expect("valid"));
            assert_eq!(off.server.auth.is_some(), without.server.auth.is_some());
            assert_eq!(off.secret_files.len(), without.secret_files.len(), "{key}");
        }
        std::fs::remove_dir_all(folder).expect("it is there");
    }

    #[test]
    fn what_a_file_opens_explicitly_is_warned_of() {
        let pattern = "[[topics]]\npattern = 'a.*'\n";
        for (running, next, warning) in [
            (
                format!("{pattern}publish = 'operator'"),
                format!("{pattern}publish = 'everybody'"),
                "topics.\"a.*\".publish: more clients",
            ),
            (
                "[topic_defaults]\npublish = 'nobody'".to_owned(),
                "[topic_defaults]\npublish = 'operator'".to_owned(),
                "topic_defaults.publish: more clients",
            ),
            ("log = 'info'".to_owned(), "allow_origin = '*'".to_owned(), "allow_origin:"),
            ("message_rate = 5".to_owned(), "log = 'info'".to_owned(), "message_rate: this limit no longer"),
        ] {
            let warnings = between(&running, &next).expect("allowed");
            assert!(warnings.len() == 1 && warnings[0].starts_with(warning), "{warnings:?}");
            assert_eq!(between(&next, &running), Ok(vec![]), "it closes");
        }
    }
}
