//! Sums: what each thread has counted and timed is merged at the end of a run.

use std::collections::BTreeMap;

use echoring_proto::connection::Compressed;

/// A part of a run's figures.
pub(crate) trait Merge {
    /// Adds those of another thread, or of another generator.
    fn merge(&mut self, other: &Self);
}

/// Merges fields of two values, each with that of the same name.
macro_rules! merge_each {
    ($mine:ident, $theirs:ident: $($field:ident),* $(,)?) => {
        $($crate::measure::merge::Merge::merge(&mut $mine.$field, &$theirs.$field);)*
    };
}

/// Implements [`Merge`] for a structure of which all fields are merged. The compiler refuses one that lacks a field.
macro_rules! merge_fields {
    ($type:ty: $($field:ident),* $(,)?) => {
        impl $crate::measure::merge::Merge for $type {
            fn merge(&mut self, other: &Self) {
                let Self { $($field),* } = self;
                $($crate::measure::merge::Merge::merge($field, &other.$field);)*
            }
        }
    };
}

pub(crate) use {merge_each, merge_fields};

impl Merge for u32 {
    fn merge(&mut self, other: &u32) {
        *self += other;
    }
}

impl Merge for u64 {
    fn merge(&mut self, other: &u64) {
        *self += other;
    }
}

/// A value that only one side has is the value of both.
impl<T: Merge + Clone> Merge for Option<T> {
    fn merge(&mut self, other: &Option<T>) {
        match (self, other) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (Some(_), None) => {}
            (mine, theirs) => mine.clone_from(theirs),
        }
    }
}

/// By their places.
impl<T: Merge + Clone> Merge for Vec<T> {
    fn merge(&mut self, other: &Vec<T>) {
        for (mine, theirs) in self.iter_mut().zip(other) {
            mine.merge(theirs);
        }
        self.extend_from_slice(other.get(self.len()..).unwrap_or_default());
    }
}

/// Counts by cause or code.
impl<K: Clone + Ord> Merge for BTreeMap<K, u64> {
    fn merge(&mut self, other: &BTreeMap<K, u64>) {
        for (key, count) in other {
            *self.entry(key.clone()).or_default() += count;
        }
    }
}

impl Merge for Compressed {
    fn merge(&mut self, other: &Compressed) {
        merge_each!(self, other: messages_in, bytes_in, bytes_in_inflated, messages_out, bytes_out_plain, bytes_out);
    }
}
