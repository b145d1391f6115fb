//! Whether a running server takes over a changed value of an option.

/// Part of an option's declaration: `#[arg(add = Reload::Live)]`. An option without it needs a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// A change takes effect with the next start.
    Restart,
    /// A running server takes the change over.
    Live,
}

impl clap::builder::ArgExt for Reload {}

/// How a change of `arg` takes effect.
pub(crate) fn reload_of(arg: &clap::Arg) -> Reload {
    arg.get().copied().unwrap_or(Reload::Restart)
}
