//! Reads files of bounded size.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

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

/// The text of such a file.
pub(crate) fn read_text(setting: &'static str, path: &Path) -> Result<String, LoadError> {
    String::from_utf8(read(setting, path)?).map_err(|_| LoadError::in_file(setting, path, "not UTF-8"))
}

/// The place and the kind of an error in TOML. The message of the parser would repeat the line, and with it a token.
pub(crate) fn toml_problem(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| text.get(..span.start).unwrap_or(text).matches('\n').count() + 1);
    let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    let message = error.message();
    // Messages name keys and types; one that quotes a value is replaced.
    let quotes = message.contains("invalid type") || message.contains("invalid value");
    format!("{line}{}", if quotes { "a value of the wrong type" } else { message })
}
