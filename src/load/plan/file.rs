//! Files that a load is made of: they are read whole, up to a bound.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The byte order mark of UTF-8, which spreadsheets and editors write.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Reads a text file up to this size, in whole MiB, without a byte order mark at its beginning.
///
/// # Errors
/// If the file cannot be read, or is longer; in one line with its name.
pub fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("{} exceeds {} MiB", path.display(), bytes_max >> 20));
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(bytes)
}
