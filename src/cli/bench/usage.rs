//! How errors in flags are reported.

use crate::Failure;

/// A flag is wrong; and why.
pub(super) fn usage(flag: &str, explanation: &str) -> Failure {
    Failure::Usage(format!("{flag}: {explanation}"))
}
