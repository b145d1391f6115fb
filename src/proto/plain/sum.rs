//! Figures that are added up: those of threads and shards, of topics and of generators.

use std::collections::BTreeMap;

/// A figure, or a structure of figures, that is added to another.
// As `Plain`, it is about how the crates of this workspace keep their types.
#[doc(hidden)]
pub trait Merge {
    /// Adds the figures of another part.
    fn merge(&mut self, other: &Self);
}

/// Declares a structure of figures with [`Merge`] and an `add` of all of them; with `for`, only implements [`Merge`] for a structure that
/// is declared elsewhere. The compiler refuses one that lacks a field.
///
/// ```
/// use echoring_proto::summed;
///
/// summed! {
///     #[derive(Debug, Default, PartialEq)]
///     pub struct Visits {
///         pub pages: u64,
///         pub bytes: Option<u64>,
///     }
/// }
///
/// let mut all = Visits { pages: 2, bytes: None };
/// all.add(&Visits { pages: 1, bytes: Some(7) });
/// assert_eq!(all, Visits { pages: 3, bytes: Some(7) });
/// ```
#[macro_export]
#[doc(hidden)]
macro_rules! summed {
    ($(#[$meta:meta])* pub struct $Name:ident { $($(#[$of:meta])* pub $field:ident: $Type:ty,)* }) => {
        $(#[$meta])*
        pub struct $Name {
            $($(#[$of])* pub $field: $Type,)*
        }

        impl $Name {
            /// Adds the figures of another part.
            pub fn add(&mut self, other: &$Name) {
                $crate::Merge::merge(self, other);
            }
        }

        $crate::summed!(for $Name { $($field),* });
    };
    (for $Name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::Merge for $Name {
            fn merge(&mut self, other: &Self) {
                let Self { $($field),* } = self;
                $($crate::Merge::merge($field, &other.$field);)*
            }
        }
    };
}

impl Merge for u32 {
    fn merge(&mut self, other: &u32) {
        *self += other;
    }
}

/// A part may be less than nothing, where another one has counted too much: the sum of all is right.
impl Merge for u64 {
    fn merge(&mut self, other: &u64) {
        *self = self.wrapping_add(*other);
    }
}

/// A figure that only one side has is that of both.
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

/// By cause, code or label.
impl<K: Clone + Ord, T: Merge + Default> Merge for BTreeMap<K, T> {
    fn merge(&mut self, other: &BTreeMap<K, T>) {
        for (key, figure) in other {
            match self.get_mut(key) {
                Some(sum) => sum.merge(figure),
                None => self.entry(key.clone()).or_default().merge(figure),
            }
        }
    }
}
