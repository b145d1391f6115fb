//! The log's level while the server runs, for the admin address.

use crate::common::environment;
use crate::logging;
use echoring_admin::LogLevel;

/// Reads and changes the level.
pub(super) const LOG_LEVEL: LogLevel = LogLevel { get: logging::level, set };

fn set(word: &str) -> Result<(), String> {
    let word = environment::log_filter(word)?;
    let filter = environment::filter(&word).map_err(|error| error.to_string())?;
    let before = logging::level();
    logging::set_level(filter, word.clone())?;
    tracing::warn!(before, now = word, "the log level was changed");
    Ok(())
}
