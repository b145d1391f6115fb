//! Options of the command line that are fields of a configuration, each declared once: its name, its help, its values, when a change
//! takes effect, and the field. [`options!`] makes them from rows. The default is that of the configuration.
//!
//! The parser, the key of the file and the reference come from the rows, as from the declarations of other options.

use std::any::Any;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::keys::{Field, Numbers, Quantity, paragraphs};
use super::reload::Reload;
use super::toml_text::{list, quoted};
use crate::common::compress::Compress;
use crate::common::values::{CpuList, OFF, shown_bytes, shown_cpus, shown_duration};
use crate::sandbox::UserName;
use echoring_server::ListenAddress;

/// An option that sets a field of a `T`.
pub(crate) struct ConfigOption<T: 'static> {
    /// Its id, which is its key in a file.
    pub(crate) name: &'static str,
    /// Lines, each with a space in front.
    pub(crate) help: &'static str,
    pub(crate) value_name: &'static str,
    /// `None` for that of the options around.
    pub(crate) heading: Option<&'static str>,
    pub(crate) reload: Reload,
    pub(crate) field: &'static dyn Settable<T>,
}

/// Declares options: `/// HELP`, `NAME [RELOAD "VALUE" HEADING]: VALUES => FIELD;`, of which the heading may be left out.
macro_rules! options {
    ($of:ty { $(
        $(#[doc = $help:literal])+ $name:ident [$reload:ident $value:literal $($heading:ident)?] : $values:expr => $($field:tt).+ ;
    )+ }) => {
        &[$($crate::serve::options::ConfigOption::<$of> {
            name: stringify!($name),
            help: concat!($($help, "\n"),+),
            value_name: $value,
            heading: [$(Some($heading),)? None][0],
            reload: $crate::serve::reload::Reload::$reload,
            field: &$crate::serve::keys::Field::<$of, _, _> {
                values: $values,
                get: |of| &of.$($field).+,
                set: |of| &mut of.$($field).+,
            },
        }),+]
    };
}
pub(crate) use options;

/// A field with its values, whatever its type.
pub(crate) trait Settable<T>: Sync {
    /// The values of the option.
    fn numbers(&self) -> &Numbers;
    /// The value of the field.
    fn get(&self, of: &T) -> Option<u64>;
    fn set(&self, to: &mut T, number: u64);
}

impl<T, V: Quantity> Settable<T> for Field<T, V, Numbers> {
    fn numbers(&self) -> &Numbers {
        &self.values
    }

    fn get(&self, of: &T) -> Option<u64> {
        (self.get)(of).number()
    }

    fn set(&self, to: &mut T, number: u64) {
        *(self.set)(to) = V::of(number);
    }
}

/// A configuration that has options.
pub(crate) trait Configurable: Default + 'static {
    const OPTIONS: &'static [ConfigOption<Self>];

    /// The value of the option `name`.
    fn number(&self, name: &str) -> Option<u64> {
        option::<Self>(name)?.field.get(self)
    }

    /// The options whose fields are nothing by default.
    fn without_default() -> impl Iterator<Item = &'static str> {
        let default = Self::default();
        let options = Self::OPTIONS.iter().filter(move |option| option.default(&default).is_none());
        options.map(|option| option.name)
    }
}

/// A configuration as its options set it.
#[derive(Clone, Debug)]
pub(crate) struct Options<T>(pub(crate) T);

impl<T: Configurable> FromArgMatches for Options<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Options<T>, clap::Error> {
        let mut options = Options(T::default());
        options.update_from_arg_matches(matches).map(|()| options)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for ConfigOption { name, field, .. } in T::OPTIONS {
            if let Some(number) = field.numbers().given(matches, name) {
                field.set(&mut self.0, number);
            }
        }
        Ok(())
    }
}

impl<T: Configurable> clap::Args for Options<T> {
    fn augment_args(command: Command) -> Command {
        let default = T::default();
        T::OPTIONS.iter().fold(command, |command, option| command.arg(option.arg(&default)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::<T>::augment_args(command)
    }
}

/// The option of a `T` with this name.
pub(crate) fn option<T: Configurable>(name: &str) -> Option<&'static ConfigOption<T>> {
    T::OPTIONS.iter().find(|option| option.name == name)
}

impl<T> ConfigOption<T> {
    /// The default as it is typed; `None` where no value of the option means it.
    fn default(&self, default: &T) -> Option<String> {
        let numbers = self.field.numbers();
        let number = self.field.get(default).filter(|number| numbers.range.contains(number));
        number.map(|number| numbers.word(number))
    }

    fn arg(&self, default: &T) -> Arg {
        let paragraphs = paragraphs(self.help);
        let mut arg = Arg::new(self.name)
            .long(self.name.replace('_', "-"))
            .value_name(self.value_name)
            .value_parser(self.field.numbers().parser())
            .help(paragraphs[0].trim_end_matches('.').to_owned())
            .add(self.reload);
        if paragraphs.len() > 1 {
            arg = arg.long_help(paragraphs.join("\n\n"));
        }
        if let Some(heading) = self.heading {
            arg = arg.help_heading(heading);
        }
        match self.default(default) {
            Some(word) => arg.default_value(word),
            None => arg,
        }
    }
}

/// The value of `arg` as a file has it, defaults included; `None` where it has none.
pub(crate) fn value(arg: &Arg, matches: &ArgMatches) -> Option<String> {
    let id = arg.get_id().as_str();
    if let Ok(is_on) = matches.try_get_one::<bool>(id) {
        return is_on.map(ToString::to_string);
    }
    let words = words(id, matches);
    match arg.get_action() {
        ArgAction::Append => (!words.is_empty()).then(|| list(&words)),
        _ => words.first().map(|word| if word.parse::<u32>().is_ok() { word.clone() } else { quoted(word) }),
    }
}

/// The words of an option. A value that can be written in several ways is written in one, so that equal values compare equal.
fn words(id: &str, matches: &ArgMatches) -> Vec<String> {
    let raw = || matches.get_raw(id).into_iter().flatten().map(|word| word.to_string_lossy().into_owned());
    // Options that are 64 bits wide are bytes; numbers of things are 32 bits wide.
    canonical::<u64>(id, matches, |bytes| shown_bytes(*bytes))
        .or_else(|| canonical::<Duration>(id, matches, |time| shown_duration(*time)))
        .or_else(|| {
            canonical::<Option<Duration>>(id, matches, |time| time.map_or(OFF.to_owned(), shown_duration))
        })
        .or_else(|| canonical::<Compress>(id, matches, ToString::to_string))
        .or_else(|| canonical::<ListenAddress>(id, matches, ToString::to_string))
        .or_else(|| canonical::<CpuList>(id, matches, shown_cpus))
        .or_else(|| canonical::<UserName>(id, matches, ToString::to_string))
        .or_else(|| canonical::<String>(id, matches, String::clone))
        .unwrap_or_else(|| raw().collect())
}

/// The values of an option of this type, shown; `None` for an option of another type.
fn canonical<T>(id: &str, matches: &ArgMatches, show: fn(&T) -> String) -> Option<Vec<String>>
where
    T: Any + Clone + Send + Sync + 'static,
{
    let values = matches.try_get_many::<T>(id).ok()?;
    Some(values.into_iter().flatten().map(show).collect())
}
