//! Things that happen, as rows: what counters, logs, reports and responses say of each is in one place.

/// Declares an enumeration of things that happen: each variant with the word that counters, logs and reports have for it. With further
/// facts, such as those of a response, a function returns them.
///
/// ```
/// use echoring_proto::happenings;
///
/// happenings! {
///     /// Why a visitor has to leave.
///     pub enum Leaves: word, status: u16 {
///         /// The house is full.
///         Full = "full" => 503,
///         /// It is late.
///         Late = "late" => 403,
///     }
/// }
///
/// assert_eq!(Leaves::ALL.map(Leaves::word), ["full", "late"]);
/// assert_eq!(Leaves::Late.status(), 403);
/// ```
// As `Plain`, it is about how the crates of this workspace keep their types.
#[macro_export]
#[doc(hidden)]
macro_rules! happenings {
    ($(#[$meta:meta])* $vis:vis enum $Name:ident: $word:ident {
        $($(#[$of:meta])* $Variant:ident = $text:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis enum $Name {
            $($(#[$of])* $Variant,)*
        }

        impl $Name {
            /// All of them, in the order of their numbers.
            $vis const ALL: [$Name; [$($text),*].len()] = [$($Name::$Variant),*];

            /// The word for it in counters, logs and reports.
            $vis const fn $word(self) -> &'static str {
                match self {
                    $($Name::$Variant => $text,)*
                }
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis enum $Name:ident: $word:ident, $(#[$about:meta])* $facts:ident: $Facts:ty {
        $($(#[$of:meta])* $Variant:ident = $text:literal => $fact:expr,)*
    }) => {
        $crate::happenings! { $(#[$meta])* $vis enum $Name: $word { $($(#[$of])* $Variant = $text,)* } }

        impl $Name {
            $(#[$about])*
            $vis fn $facts(self) -> $Facts {
                match self {
                    $($Name::$Variant => $fact,)*
                }
            }
        }
    };
}
