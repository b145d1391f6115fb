//! Facts about a host that no file contains, found by trial.

use std::io;

use crate::sandbox::landlock_version;
use echoring_runtime::driver::{Description, uring};

/// Facts about a host that no file contains.
#[derive(Debug)]
pub(super) struct Probes {
    /// The features of io_uring, found by trial.
    pub(super) uring: io::Result<Description>,
    /// The version of Landlock's interface; 0 where there is none.
    pub(super) landlock: u32,
}

impl Probes {
    pub(super) fn of_this_host() -> Probes {
        Probes { uring: uring::probe(), landlock: landlock_version() }
    }

    pub(super) fn has_incremental_buffers(&self) -> bool {
        self.uring
            .as_ref()
            .is_ok_and(|found| found.features.names().any(|name| name == "incremental-buffers"))
    }
}
