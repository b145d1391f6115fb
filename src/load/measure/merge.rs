//! Sums: what each thread has counted and timed is merged at the end of a run.

pub(crate) use echoring_proto::{Merge, summed};

/// Merges fields of two values, each with that of the same name.
macro_rules! merge_each {
    ($mine:ident, $theirs:ident: $($field:ident),* $(,)?) => {
        $($crate::measure::merge::Merge::merge(&mut $mine.$field, &$theirs.$field);)*
    };
}

pub(crate) use merge_each;
