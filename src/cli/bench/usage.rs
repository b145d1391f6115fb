//! How errors in flags are reported.

use clap::ArgMatches;

use crate::Failure;
use crate::common::file::flags::is_given;
use crate::common::values::flag_of;

pub(super) use crate::common::failure::usage;

/// Refuses the first of these flags that is given, each with whether it is.
pub(super) fn refuse<'a>(
    flags: impl IntoIterator<Item = (&'a str, bool)>,
    explanation: &str,
) -> Result<(), Failure> {
    match flags.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(usage(flag, explanation)),
        None => Ok(()),
    }
}

/// The same by the ids of options.
pub(super) fn refuse_typed(typed: &ArgMatches, ids: &[&str], explanation: &str) -> Result<(), Failure> {
    match ids.iter().find(|id| is_given(typed, id)) {
        Some(id) => Err(usage(&flag_of(id), explanation)),
        None => Ok(()),
    }
}
