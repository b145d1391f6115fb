//! Declarations by macros: choices by a word (`--mode`, `--kind` and others), options, and parts of records. Each fact of them is told once, and the
//! JSON Schema of records is made from it.

/// Declares a choice: each variant with its meaning on the command line, and with its name there, which records have too.
macro_rules! words {
    ($(#[$meta:meta])* pub enum $Name:ident {
        $(#[doc = $meaning:literal] $(#[$of:meta])* $Variant:ident $(= $value:literal)? => $word:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $Name {
            $(#[doc = $meaning] $(#[$of])* #[serde(rename = $word)] $Variant $(= $value)?,)+
        }

        impl $Name {
            /// All of them: name, meaning, and value.
            pub const WORDS: &'static [(&'static str, &'static str, $Name)] =
                &[$(($word, $meaning.trim_ascii(), $Name::$Variant)),+];

            /// The name on the command line and in records.
            pub fn name(self) -> &'static str {
                match self {
                    $($Name::$Variant => $word),+
                }
            }
        }

        impl std::fmt::Display for $Name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        #[cfg(test)]
        impl $crate::plan::declared::schema::Described for $Name {
            fn schema(_: &mut $crate::plan::declared::schema::Types) -> serde_json::Value {
                serde_json::json!({ "enum": [$($word),+] })
            }
        }
    };
}

/// Declares options: each field with its meaning, its type, and its default.
macro_rules! with_defaults {
    ($(#[$meta:meta])* pub struct $Name:ident { $($(#[$of:meta])* pub $field:ident: $Type:ty = $value:expr,)+ }) => {
        $(#[$meta])*
        pub struct $Name {
            $($(#[$of])* pub $field: $Type,)+
        }

        impl Default for $Name {
            fn default() -> $Name {
                $Name { $($field: $value),+ }
            }
        }
    };
}

/// Declares a part of a record: each field with its meaning, its type, and its value, if that follows from arguments.
macro_rules! part {
    ($(#[$meta:meta])* $Name:ident { $($(#[$of:meta])* $field:ident: $Type:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $Name {
            $($(#[$of])* pub $field: $Type,)+
        }

        #[cfg(test)]
        impl $crate::plan::declared::schema::Described for $Name {
            fn schema(types: &mut $crate::plan::declared::schema::Types) -> serde_json::Value {
                types.object(stringify!($Name), &[$(stringify!($meta)),*], &[
                    $((stringify!($field), &[$(stringify!($of)),*], <$Type as $crate::plan::declared::schema::Described>::schema),)+
                ])
            }
        }
    };
    ($(#[$meta:meta])* $Name:ident of($($arg:ident: $Arg:ty),+) $(where { $($before:tt)* })? {
        $($(#[$of:meta])* $field:ident: $Type:ty = $value:expr,)+
    }) => {
        $crate::plan::declared::part! { $(#[$meta])* $Name { $($(#[$of])* $field: $Type,)+ } }

        impl $Name {
            pub(crate) fn of($($arg: $Arg),+) -> $Name {
                $($($before)*)?
                $Name { $($field: $value),+ }
            }
        }
    };
}

pub(crate) use {part, with_defaults, words};

#[cfg(test)]
pub(crate) mod schema;
