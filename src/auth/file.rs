//! Reads files of bounded size.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::LoadError;
use crate::limits::FILE_BYTES_MAX;

/// The bytes of a file of at most [`FILE_BYTES_MAX`].
pub(crate) fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, LoadError> {
    let wrong = |problem: String| LoadError::in_file(setting, path, problem);
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(format!("larger than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    Ok(bytes)
}

/// What `parse` makes of such a file.
pub(crate) fn load<T>(
    setting: &'static str,
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<T, LoadError> {
    parse(&read(setting, path)?).map_err(|problem| LoadError::in_file(setting, path, problem))
}

/// Parses TOML.
pub(crate) fn parse_toml<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let text = str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    toml::from_str(text).map_err(|error| toml_problem(text, &error))
}

/// Reads the entries of a list, which has at least one. `what` is the name of an entry, and `same` the part in which no two are alike.
pub(crate) fn keyed<E, K: Ord, V>(
    entries: Vec<E>,
    what: &str,
    same: &str,
    read: impl Fn(E) -> Result<(K, V), String>,
) -> Result<BTreeMap<K, V>, String> {
    if entries.is_empty() {
        return Err(format!("has no [[{what}s]]"));
    }
    let mut keyed = BTreeMap::new();
    for (number, entry) in (1..).zip(entries) {
        let (key, value) = read(entry).map_err(|problem| format!("{what} {number}: {problem}"))?;
        if keyed.insert(key, value).is_some() {
            return Err(format!("{what} {number}: the same {same} as an earlier one"));
        }
    }
    Ok(keyed)
}

/// The place and the kind of an error in TOML. The message of the parser would repeat the line, and with it a token.
fn toml_problem(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| text.get(..span.start).unwrap_or(text).matches('\n').count() + 1);
    let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    let message = error.message();
    // Messages name keys and types; one that quotes a value is replaced.
    let quotes = message.contains("invalid type") || message.contains("invalid value");
    format!("{line}{}", if quotes { "a value of the wrong type" } else { message })
}
