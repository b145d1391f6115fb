//! How errors in flags are reported.

use clap::ArgMatches;

use crate::Failure;
use crate::common::file::flags::is_given;
use crate::common::values::flag_of;

pub(super) use crate::common::failure::{refuse, usage};

/// Refuses the first of these options, by their ids, that is given.
pub(super) fn refuse_typed(typed: &ArgMatches, ids: &[&str], explanation: &str) -> Result<(), Failure> {
    match ids.iter().find(|id| is_given(typed, id)) {
        Some(id) => Err(usage(&flag_of(id), explanation)),
        None => Ok(()),
    }
}
