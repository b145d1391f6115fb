//! Plain data as bytes: what moves to another shard or to another process, and the messages between nodes.
//!
//! [`plain!`](crate::plain!) derives the codec of a structure or an enumeration from its fields. There is no version in the bytes: both
//! sides know that of the other before. Bytes are trusted as little as those of a peer. Malformed ones are `None`, and reading takes
//! memory in proportion to their length.

#![forbid(unsafe_code)]

mod happenings;
mod sum;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use sum::Merge;

/// A value that is written as bytes, and read from them, where it may borrow. Numbers are little-endian. Bytes, texts and lists stand
/// behind their length, which has four bytes.
// It is about how the crates of this workspace keep their types, and none of a program's business.
#[doc(hidden)]
pub trait Plain<'a>: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);

    /// Takes the value from the front; `None` if it is malformed.
    fn take(from: &mut &'a [u8]) -> Option<Self>;

    /// The bytes of the value.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// The value of these bytes; `None` if it is malformed, or bytes are left.
    fn decode(mut bytes: &'a [u8]) -> Option<Self> {
        Self::take(&mut bytes).filter(|_| bytes.is_empty())
    }
}

/// Derives [`Plain`] for data with these fields, in this order. An enumeration begins with the place of its variant. What a condition
/// behind `where` does not hold for is malformed.
///
/// ```
/// use echoring_proto::{Plain as _, plain};
///
/// plain! {
///     #[derive(Debug, PartialEq)]
///     struct Visit<'a> {
///         page: &'a str where |page| page.len() <= 100,
///         at: Point,
///         kind: Kind,
///     } where |visit| visit.page != "" || visit.kind == Kind::First
/// }
///
/// plain! {
///     #[derive(Debug, PartialEq)]
///     enum Kind { First, Again(u32), From { page: u64 } }
/// }
///
/// #[derive(Debug, PartialEq)]
/// struct Point { x: u32, y: u32 }
///
/// plain!(for Point { x, y });
///
/// let visit = Visit { page: "/", at: Point { x: 1, y: 2 }, kind: Kind::Again(3) };
/// assert_eq!(Visit::decode(&visit.encode()), Some(visit));
/// let nowhere = Visit { page: "", at: Point { x: 1, y: 2 }, kind: Kind::From { page: 4 } };
/// assert_eq!(Visit::decode(&nowhere.encode()), None);
/// ```
#[macro_export]
macro_rules! plain {
    (for enum $name:ident $(<$life:lifetime>)? {
        $($variant:ident $(($($value:ident $(: $type:ty)?),*))? $({ $($field:ident),* $(,)? })?),* $(,)?
    } $(where $valid:expr)?) => {
        impl<'plain $(: $life, $life)?> $crate::Plain<'plain> for $name $(<$life>)? {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                enum Place { $($variant),* }
                match self {
                    $($name::$variant $(($($value),*))? $({ $($field),* })? => {
                        out.push(Place::$variant as u8);
                        $($($crate::Plain::put($value, out);)*)?
                        $($($crate::Plain::put($field, out);)*)?
                    })*
                }
            }

            #[inline]
            fn take(from: &mut &'plain [u8]) -> Option<Self> {
                enum Place { $($variant),* }
                let value = match <u8 as $crate::Plain>::take(from)? {
                    $(place if place == Place::$variant as u8 => {
                        $($(let $value = $crate::Plain::take(from)?;)*)?
                        $($(let $field = $crate::Plain::take(from)?;)*)?
                        $name::$variant $(($($value),*))? $({ $($field),* })?
                    })*
                    _ => return None,
                };
                $(if !$crate::plain::holds(&value, $valid) {
                    return None;
                })?
                Some(value)
            }
        }
    };
    (for $name:ident $(<$life:lifetime>)? ($value:ident) $(where $valid:expr)?) => {
        impl<'plain $(: $life, $life)?> $crate::Plain<'plain> for $name $(<$life>)? {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                let $name($value) = self;
                $crate::Plain::put($value, out);
            }

            #[inline]
            fn take(from: &mut &'plain [u8]) -> Option<Self> {
                let value = $name($crate::Plain::take(from)?);
                $(if !$crate::plain::holds(&value, $valid) {
                    return None;
                })?
                Some(value)
            }
        }
    };
    (for $name:ident $(<$life:lifetime>)? {
        $($field:ident $(where $holds:expr)?),* $(,)?
    } $(where $valid:expr)?) => {
        impl<'plain $(: $life, $life)?> $crate::Plain<'plain> for $name $(<$life>)? {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                let $name { $($field),* } = self;
                $($crate::Plain::put($field, out);)*
            }

            #[inline]
            fn take(from: &mut &'plain [u8]) -> Option<Self> {
                $(let $field = $crate::Plain::take(from)?;)*
                let value = $name { $($field),* };
                $($(if !$crate::plain::holds(&value.$field, $holds) {
                    return None;
                })?)*
                $(if !$crate::plain::holds(&value, $valid) {
                    return None;
                })?
                Some(value)
            }
        }
    };
    (for enum $name:ident $(<$life:lifetime>)? $body:tt for $($rest:tt)*) => {
        $crate::plain!(for enum $name $(<$life>)? $body);
        $crate::plain!(for $($rest)*);
    };
    (for $name:ident $(<$life:lifetime>)? $body:tt for $($rest:tt)*) => {
        $crate::plain!(for $name $(<$life>)? $body);
        $crate::plain!(for $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident $(<$life:lifetime>)? {
        $($(#[$about:meta])* $seen:vis $field:ident: $type:ty $(where $holds:expr)?),* $(,)?
    } $(where $valid:expr)?) => {
        $(#[$meta])*
        $vis struct $name $(<$life>)? {
            $($(#[$about])* $seen $field: $type),*
        }

        $crate::plain!(for $name $(<$life>)? { $($field $(where $holds)?),* } $(where $valid)?);
    };
    ($(#[$meta:meta])* $vis:vis enum $name:ident $(<$life:lifetime>)? {
        $(
            $(#[$about:meta])*
            $variant:ident $(($type:ty))? $({ $($(#[$part:meta])* $field:ident: $of:ty),* $(,)? })?
        ),* $(,)?
    } $(where $valid:expr)?) => {
        $(#[$meta])*
        $vis enum $name $(<$life>)? {
            $($(#[$about])* $variant $(($type))? $({ $($(#[$part])* $field: $of),* })?),*
        }

        $crate::plain!(for enum $name $(<$life>)? {
            $($variant $((value: $type))? $({ $($field),* })?),*
        } $(where $valid)?);
    };
}

/// Calls a condition of [`plain!`](crate::plain!), whose argument has a type by this.
#[doc(hidden)]
#[inline]
pub fn holds<T>(value: &T, condition: impl FnOnce(&T) -> bool) -> bool {
    condition(value)
}

/// The condition that bytes, or a text, are not longer than this.
#[inline]
pub fn at_most<T: AsRef<[u8]>>(bytes_max: usize) -> impl FnOnce(&T) -> bool {
    move |value| value.as_ref().len() <= bytes_max
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Plain<'_> for $number {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn take(from: &mut &[u8]) -> Option<$number> {
                let (bytes, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(<$number>::from_le_bytes(*bytes))
            }
        }
    )*};
}

numbers!(u8 u16 u32 u64 f64);

/// As on a machine of 64 bits.
impl Plain<'_> for usize {
    fn put(&self, out: &mut Vec<u8>) {
        (*self as u64).put(out);
    }

    fn take(from: &mut &[u8]) -> Option<usize> {
        u64::take(from)?.try_into().ok()
    }
}

impl Plain<'_> for bool {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(*self).put(out);
    }

    #[inline]
    fn take(from: &mut &[u8]) -> Option<bool> {
        match u8::take(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<'a, T: Plain<'a>> Plain<'a> for Option<T> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|value| value.put(out));
    }

    #[inline]
    fn take(from: &mut &'a [u8]) -> Option<Option<T>> {
        if bool::take(from)? { T::take(from).map(Some) } else { Some(None) }
    }
}

impl<'a, T: Plain<'a>, E: Plain<'a>> Plain<'a> for Result<T, E> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_ok().put(out);
        match self {
            Ok(value) => value.put(out),
            Err(error) => error.put(out),
        }
    }

    fn take(from: &mut &'a [u8]) -> Option<Result<T, E>> {
        if bool::take(from)? { T::take(from).map(Ok) } else { E::take(from).map(Err) }
    }
}

macro_rules! pointers {
    ($($pointer:ident)*) => {$(
        impl<'a, T: Plain<'a>> Plain<'a> for $pointer<T> {
            fn put(&self, out: &mut Vec<u8>) {
                T::put(self, out);
            }

            fn take(from: &mut &'a [u8]) -> Option<$pointer<T>> {
                T::take(from).map($pointer::new)
            }
        }
    )*};
}

pointers!(Box Arc);

impl<'from: 'a, 'a> Plain<'from> for &'a [u8] {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self);
    }

    #[inline]
    fn take(from: &mut &'from [u8]) -> Option<&'a [u8]> {
        let length = u32::take(from)? as usize;
        from.split_off(..length)
    }
}

impl<'from: 'a, 'a> Plain<'from> for &'a str {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_bytes().put(out);
    }

    fn take(from: &mut &'from [u8]) -> Option<&'a str> {
        str::from_utf8(Plain::take(from)?).ok()
    }
}

macro_rules! texts {
    ($($owned:ty)*) => {$(
        impl Plain<'_> for $owned {
            fn put(&self, out: &mut Vec<u8>) {
                (&**self).put(out);
            }

            fn take(from: &mut &[u8]) -> Option<$owned> {
                <&str>::take(from).map(Into::into)
            }
        }
    )*};
}

texts!(String Box<str>);

macro_rules! borrowed_or_owned {
    ($($part:ty)*) => {$(
        impl<'from: 'a, 'a> Plain<'from> for Cow<'a, $part> {
            fn put(&self, out: &mut Vec<u8>) {
                (&**self).put(out);
            }

            fn take(from: &mut &'from [u8]) -> Option<Cow<'a, $part>> {
                <&$part>::take(from).map(Cow::Borrowed)
            }
        }
    )*};
}

borrowed_or_owned!([u8] str);

/// Nothing is reserved for a length that may be wrong.
impl<'a, T: Plain<'a>> Plain<'a> for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|value| value.put(out));
    }

    fn take(from: &mut &'a [u8]) -> Option<Vec<T>> {
        let count = u32::take(from)? as usize;
        let mut values = Vec::new();
        // Each has a byte at least.
        if count > from.len() {
            return None;
        }
        for _ in 0..count {
            values.push(T::take(from)?);
        }
        Some(values)
    }
}

impl<'a, T: Plain<'a>> Plain<'a> for Box<[T]> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|value| value.put(out));
    }

    fn take(from: &mut &'a [u8]) -> Option<Box<[T]>> {
        Vec::take(from).map(Vec::into_boxed_slice)
    }
}

/// As a list of pairs, with each key once.
impl<'a, K: Plain<'a> + Ord, V: Plain<'a>> Plain<'a> for BTreeMap<K, V> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }

    fn take(from: &mut &'a [u8]) -> Option<BTreeMap<K, V>> {
        let pairs = Vec::<(K, V)>::take(from)?;
        let count = pairs.len();
        Some(pairs.into_iter().collect::<BTreeMap<K, V>>()).filter(|map| map.len() == count)
    }
}

impl<'a, T: Plain<'a> + Default, const N: usize> Plain<'a> for [T; N] {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|value| value.put(out));
    }

    #[inline]
    fn take(from: &mut &'a [u8]) -> Option<[T; N]> {
        let mut values = [(); N].map(|()| T::default());
        for value in &mut values {
            *value = T::take(from)?;
        }
        Some(values)
    }
}

impl<'a, A: Plain<'a>, B: Plain<'a>> Plain<'a> for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(from: &mut &'a [u8]) -> Option<(A, B)> {
        Some((A::take(from)?, B::take(from)?))
    }
}

/// One of IPv4 as mapped to IPv6, and its port.
impl Plain<'_> for SocketAddr {
    fn put(&self, out: &mut Vec<u8>) {
        let octets = match self.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        (octets, self.port()).put(out);
    }

    fn take(from: &mut &[u8]) -> Option<SocketAddr> {
        let (octets, port) = <([u8; 16], u16)>::take(from)?;
        Some(SocketAddr::new(IpAddr::from(octets).to_canonical(), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    crate::plain! {
        #[derive(Debug, PartialEq)]
        struct Everything<'a> {
            numbers: (u8, [u16; 3]),
            place: usize,
            share: f64,
            is_on: bool,
            text: &'a str where at_most(20),
            bytes: Cow<'a, [u8]>,
            address: Option<SocketAddr>,
            owned: Option<Box<Inner>>,
            list: Vec<Inner>,
            names: BTreeMap<Box<str>, Box<[u64]>>,
        } where |all| all.is_on || all.list.len() < 3
    }

    crate::plain! {
        #[derive(Clone, Debug, PartialEq)]
        enum Inner {
            Nothing,
            One(String),
            Several { this: u32, that: Result<u64, u8> },
        }
    }

    fn inner() -> impl Strategy<Value = Inner> {
        prop_oneof![
            Just(Inner::Nothing),
            "\\PC{0,9}".prop_map(Inner::One),
            any::<(u32, u64)>().prop_map(|(this, that)| Inner::Several { this, that: Ok(that) }),
            any::<(u32, u8)>().prop_map(|(this, that)| Inner::Several { this, that: Err(that) }),
        ]
    }

    proptest! {
        #[test]
        fn a_value_is_read_as_it_was_written_and_not_from_a_part(
            numbers in any::<(u8, [u16; 3])>(),
            (place, share, is_on) in (any::<u32>(), 0.0..1e300, any::<bool>()),
            (text, bytes) in ("[a-zü]{0,10}", prop::collection::vec(any::<u8>(), 0..20)),
            (owned, list) in (prop::option::of(inner()), prop::collection::vec(inner(), 0..3)),
            address in any::<Option<([u8; 16], u16)>>(),
            names in prop::collection::btree_map("[a-z]{0,3}", prop::collection::vec(any::<u64>(), 0..3), 0..4),
            wrong in any::<(prop::sample::Index, u8)>(),
        ) {
            let all = Everything {
                numbers,
                place: place as usize,
                share,
                is_on,
                text: &text,
                bytes: Cow::Borrowed(&bytes),
                address: address.map(|(octets, port)| SocketAddr::new(IpAddr::from(octets).to_canonical(), port)),
                owned: owned.map(Box::new),
                list,
                names: names.into_iter().map(|(name, of)| (name.into(), of.into())).collect(),
            };
            let mut written = all.encode();
            for end in 0..written.len() {
                prop_assert_eq!(Everything::take(&mut &written[..end]), None);
            }
            let longer = [&written[..], b"x"].concat();
            prop_assert_eq!(Everything::decode(&longer), None);
            prop_assert_eq!(Everything::decode(&written), Some(all));
            // Anything may come of it but a panic.
            let at = wrong.0.index(written.len());
            written[at] = wrong.1;
            let _ = Everything::decode(&written);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Everything::decode(&bytes);
        }
    }

    #[test]
    fn conditions_hold_and_a_length_reserves_nothing() {
        let all = |is_on, text| Everything {
            numbers: (0, [0; 3]),
            place: 0,
            share: 0.0,
            is_on,
            text,
            bytes: Cow::Borrowed(b""),
            address: None,
            owned: None,
            list: vec![Inner::Nothing; 3],
            names: BTreeMap::new(),
        };
        for (is_on, text, is_read) in
            [(true, "", true), (false, "", false), (true, "0123456789 0123456789", false)]
        {
            assert_eq!(Everything::decode(&all(is_on, text).encode()).is_some(), is_read);
        }
        let list = [&u32::MAX.to_le_bytes()[..], &[0; 20]].concat();
        assert_eq!(Vec::<u8>::take(&mut &list[..]), None);
        let twice = vec![(1_u8, 2_u8), (1, 3)].encode();
        assert_eq!(BTreeMap::<u8, u8>::decode(&twice), None);
        assert_eq!(Option::<bool>::decode(&[2]), None);
    }
}
