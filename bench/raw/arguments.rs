//! The arguments of the programs in this directory.

use std::collections::HashMap;

/// Arguments in pairs, such as `--cpu 0`.
pub struct Arguments(HashMap<String, String>);

impl Arguments {
    pub fn of_process() -> Arguments {
        let mut words = std::env::args().skip(1);
        let mut found = HashMap::new();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            found.insert(name, value);
        }
        Arguments(found)
    }

    pub fn get(&self, name: &str, default: &str) -> String {
        self.0.get(name).map_or(default, String::as_str).to_owned()
    }
}
