//! Why a load is invalid: the flag, and the reason.

/// Why a workload is invalid: the flag, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {why}")]
pub struct Contradiction {
    /// The flag, such as `--depth`.
    pub flag: &'static str,
    /// The reason, in one line.
    pub why: String,
}

/// Refuses a load of which `is_wrong` holds, with the flag to blame.
pub(super) fn refuse(
    is_wrong: bool,
    flag: &'static str,
    why: impl Into<String>,
) -> Result<(), Contradiction> {
    if is_wrong { Err(Contradiction { flag, why: why.into() }) } else { Ok(()) }
}
