//! `Debug` of error types: the text and its causes, as a program prints them when its `main` returns the error. `{:#?}` has the
//! fields instead. And tables of error texts: a program that only dials has no derive macro for them.
//!
//! Never: an error type of its own.

use std::error::Error;
use std::fmt::{self, Write};

use crate::limits::ERROR_CAUSES_MAX;

/// An error and the errors below it, at most [`ERROR_CAUSES_MAX`].
#[doc(hidden)]
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source()).take(ERROR_CAUSES_MAX)
}

/// Writes a text and the errors below it, in the format of `anyhow::Error`. Control characters are escaped, because a text may
/// have been sent by a peer.
///
/// # Errors
/// Those of `f`.
#[doc(hidden)]
pub fn write(
    f: &mut fmt::Formatter<'_>,
    text: &dyn fmt::Display,
    source: Option<&(dyn Error + 'static)>,
) -> fmt::Result {
    write!(Escaped { f, indent: "    " }, "{text}")?;
    let Some(source) = source else { return Ok(()) };
    f.write_str("\n\nCaused by:")?;
    let is_numbered = source.source().is_some();
    for (number, error) in chain(source).enumerate() {
        let indent = if is_numbered {
            write!(f, "\n{number: >5}: ")?;
            "       "
        } else {
            f.write_str("\n    ")?;
            "    "
        };
        write!(Escaped { f, indent }, "{error}")?;
    }
    Ok(())
}

/// Escapes control characters, except for line breaks, and indents the lines after the first.
struct Escaped<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    indent: &'static str,
}

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| self.write_char(character))
    }

    fn write_char(&mut self, character: char) -> fmt::Result {
        match character {
            '\n' => {
                self.f.write_char('\n')?;
                self.f.write_str(self.indent)
            }
            _ if character.is_control() => write!(self.f, "{}", character.escape_default()),
            _ => self.f.write_char(character),
        }
    }
}

/// Implements `Debug` for an error type, whose fields or variants are listed as in its definition, without the types: the text
/// and its causes, or with `{:#?}` the fields.
#[doc(hidden)]
#[macro_export]
macro_rules! error_debug {
    (enum $type:ident { $($variant:ident $(($($item:ident),*))? $({ $($field:ident),* })?),* $(,)? }) => {
        impl ::std::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                if !f.alternate() {
                    return $crate::error_debug::write(f, self, ::std::error::Error::source(self));
                }
                match self {
                    $($type::$variant $(($($item),*))? $({ $($field),* })? => {
                        $crate::error_debug!(@fields f $variant $(($($item),*))? $({ $($field),* })?)
                    })*
                }
            }
        }
    };
    (struct $type:ident $(($($item:ident),*))? $({ $($field:ident),* $(,)? })?) => {
        impl ::std::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                if !f.alternate() {
                    return $crate::error_debug::write(f, self, ::std::error::Error::source(self));
                }
                let $type $(($($item),*))? $({ $($field),* })? = self;
                $crate::error_debug!(@fields f $type $(($($item),*))? $({ $($field),* })?)
            }
        }
    };
    (@fields $f:ident $name:ident) => { $f.write_str(stringify!($name)) };
    (@fields $f:ident $name:ident ($($item:ident),*)) => {
        $f.debug_tuple(stringify!($name))$(.field($item))*.finish()
    };
    (@fields $f:ident $name:ident { $($field:ident),* }) => {
        $f.debug_struct(stringify!($name))$(.field(stringify!($field), $field))*.finish()
    };
}

/// Implements `Display`, `Error` and `Debug` for an error enum from a table. A row has a variant as in its definition, without the types
/// of its fields; after `from`, the error whose source is its source, because the text repeats that error's own; and the text with its
/// arguments.
#[doc(hidden)]
#[macro_export]
macro_rules! error_texts {
    (enum $type:ident { $(
        $variant:ident $(($($item:ident),*))? $({ $($field:ident),* })? $(from $below:expr)?
            => $text:literal $(, $argument:expr)*;
    )* }) => {
        impl ::std::fmt::Display for $type {
            #[allow(unused_variables, reason = "a text names some of the fields")]
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match self {
                    $($type::$variant $(($($item),*))? $({ $($field),* })? => write!(f, $text $(, $argument)*),)*
                }
            }
        }

        impl ::std::error::Error for $type {
            #[allow(unused_variables, reason = "only the error below has a source")]
            fn source(&self) -> Option<&(dyn ::std::error::Error + 'static)> {
                match self {
                    $($type::$variant $(($($item),*))? $({ $($field),* })? => {
                        $crate::error_texts!(@source $($below)?)
                    })*
                }
            }
        }

        $crate::error_debug!(enum $type {
            $($variant $(($($item),*))? $({ $($field),* })?),*
        });
    };
    (@source) => { None };
    (@source $below:expr) => {{
        #[allow(unused_imports, reason = "the module may import it too")]
        use ::std::error::Error as _;
        $below.source()
    }};
}

/// Defines an error type without causes: each variant with its text, and `Display`, `Debug` and `Error` with them. A variant may
/// have one field, which the text names. With `: text` behind its name, if no variant has a field, also the list of all variants
/// and a function that returns the text.
#[doc(hidden)]
#[macro_export]
macro_rules! error_enum {
    (
        $(#[$meta:meta])*
        pub enum $type:ident: $text:ident { $($(#[$doc:meta])* $variant:ident = $string:literal;)* }
    ) => {
        $crate::error_enum! { $(#[$meta])* pub enum $type { $($(#[$doc])* $variant = $string;)* } }

        impl $type {
            /// All of them, for counters and tests.
            pub const ALL: [$type; [$($string),*].len()] = [$($type::$variant),*];

            /// The text of [`Display`](::std::fmt::Display).
            pub const fn $text(self) -> &'static str {
                match self {
                    $($type::$variant => $string,)*
                }
            }
        }
    };
    (
        $(#[$meta:meta])*
        pub enum $type:ident {
            $($(#[$doc:meta])* $variant:ident $(($field:ident: $of:ty))? = $string:literal $(, $argument:expr)*;)*
        }
    ) => {
        $(#[$meta])*
        pub enum $type {
            $($(#[$doc])* $variant $(($of))?,)*
        }

        $crate::error_texts! {
            enum $type { $($variant $(($field))? => $string $(, $argument)*;)* }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Sample {
        Plain,
        Text(&'static str),
        Deep { text: &'static str, cause: Below },
        Ring,
    }

    #[derive(Clone, Debug)]
    struct Below(&'static [&'static str], Option<Box<Below>>);

    impl Below {
        fn new(texts: &'static [&'static str]) -> Below {
            let below = texts.get(1..).filter(|texts| !texts.is_empty());
            Below(texts, below.map(|texts| Box::new(Below::new(texts))))
        }
    }

    impl fmt::Display for Below {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0[0])
        }
    }

    impl Error for Below {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|below| below as _)
        }
    }

    impl fmt::Display for Sample {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Sample::Plain => f.write_str("it failed"),
                Sample::Text(text) | Sample::Deep { text, .. } => f.write_str(text),
                Sample::Ring => f.write_str("round"),
            }
        }
    }

    impl Error for Sample {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            match self {
                Sample::Deep { cause, .. } => Some(cause),
                Sample::Ring => Some(&Sample::Ring),
                _ => None,
            }
        }
    }

    error_debug!(enum Sample { Plain, Text(text), Deep { text, cause }, Ring });

    #[test]
    fn debug_is_the_text_and_its_causes_and_with_a_sharp_the_fields() {
        let deep = |text, texts| Sample::Deep { text, cause: Below::new(texts) };
        for (error, text, first_line_of_fields) in [
            (Sample::Plain, "it failed", "Plain"),
            (Sample::Text("one\ntwo"), "one\n    two", "Text("),
            (Sample::Text("\u{1b}[31m\u{7f}\r"), "\\u{1b}[31m\\u{7f}\\r", "Text("),
            (deep("a", &["b"]), "a\n\nCaused by:\n    b", "Deep {"),
            (deep("a", &["b\nc"]), "a\n\nCaused by:\n    b\n    c", "Deep {"),
            (deep("a", &["b\nc", "d"]), "a\n\nCaused by:\n    0: b\n       c\n    1: d", "Deep {"),
        ] {
            assert_eq!(format!("{error:?}"), text);
            assert_eq!(format!("{error:#?}").lines().next(), Some(first_line_of_fields));
        }
    }

    enum Listed {
        Plain,
        Outer(Sample),
        Named { file: &'static str, why: Below },
    }

    error_texts! {
        enum Listed {
            Plain => "it failed";
            Outer(error) from error => "outside: {error}";
            Named { file, why } => "{}: {why}", file.to_uppercase();
        }
    }

    #[test]
    fn a_table_has_texts_and_the_sources_of_wrapped_errors() {
        let deep = Sample::Deep { text: "a", cause: Below::new(&["b"]) };
        let named = Listed::Named { file: "x", why: Below::new(&["y"]) };
        for (error, text, cause) in [
            (Listed::Plain, "it failed", None),
            (Listed::Outer(deep), "outside: a", Some("b")),
            (named, "X: y", None),
        ] {
            assert_eq!(error.to_string(), text);
            assert_eq!(error.source().map(ToString::to_string).as_deref(), cause);
            assert!(format!("{error:?}").starts_with(text));
        }
        assert_eq!(format!("{:#?}", Listed::Plain), "Plain");
    }

    #[test]
    fn a_ring_of_causes_ends() {
        let text = format!("{:?}", Sample::Ring);
        assert_eq!(text.lines().count(), 3 + ERROR_CAUSES_MAX, "{text}");
        assert!(text.ends_with(&format!("{: >5}: round", ERROR_CAUSES_MAX - 1)), "{text}");
    }
}
