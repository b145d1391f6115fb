//! Checks the source against ARCHITECTURE.md: imports between modules, import cycles between files, the places of unsafe
//! code, features for tests only, the size of functions, what the source weighs, files that no module includes, and the files in a crate's root.

mod cycles;
mod functions;
mod sources;
mod weight;

use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cycles::components;
use sources::Crate;

/// Maximum number of files in an import cycle.
const CYCLE_FILES_MAX: usize = 3;

/// Maximum number of lines of a function, without blank lines and comments.
const FUNCTION_LINES_MAX: usize = 60;

/// Maximum number of parameters of a function, with `self`.
const PARAMETERS_MAX: usize = 6;

/// One test, because each test is a process that would read all crates again.
#[test]
fn the_source_keeps_the_rules_of_architecture_md() {
    let rules: [fn(); 13] = [
        no_import_cycle_has_more_than_three_files,
        no_crate_has_more_than_fifteen_files_in_its_root,
        functions_are_short_and_have_few_parameters,
        modules_import_only_those_before_them_in_the_table,
        unsafe_code_stays_behind_its_two_fences,
        every_crate_forbids_unsafe_code_outside_the_fences,
        every_file_under_src_belongs_to_a_module,
        every_source_file_says_what_it_is_for_and_none_is_called_mod,
        public_errors_of_the_libraries_derive_no_debug,
        texts_of_the_libraries_name_no_flags_of_the_program_and_no_files_of_the_repository,
        a_thing_has_one_name,
        the_simulation_is_enabled_by_tests_only,
        weight::the_source_weighs_no_more_than_its_table_allows,
    ];
    // Each panics where it is broken; the others are looked at nevertheless.
    let broken = rules.iter().filter(|rule| catch_unwind(rule).is_err()).count();
    assert_eq!(broken, 0, "broken rules: see above");
}

fn no_import_cycle_has_more_than_three_files() {
    let mut long = Vec::new();
    for part in crates() {
        for cycle in components(&part.imports()) {
            if cycle.len() > CYCLE_FILES_MAX {
                let mut files: Vec<_> = cycle.iter().map(|file| relative(file)).collect();
                files.sort();
                long.push(files.join(" "));
            }
        }
    }
    assert!(long.is_empty(), "import cycles of more than {CYCLE_FILES_MAX} files:\n{long:#?}");
}

/// Maximum number of files in a crate's root.
const ROOT_FILES_MAX: usize = 15;

fn no_crate_has_more_than_fifteen_files_in_its_root() {
    for part in crates() {
        let entries = fs::read_dir(part.root().parent().expect("its folder")).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let files = paths.filter(|path| path.extension().is_some_and(|e| e == "rs")).count();
        assert!(files <= ROOT_FILES_MAX, "{}: {files} files in its root; put them into folders", part.name);
    }
}

fn functions_are_short_and_have_few_parameters() {
    let mut offences = Vec::new();
    for part in crates() {
        for (file, function) in part.functions() {
            if function.lines > FUNCTION_LINES_MAX || function.parameters > PARAMETERS_MAX {
                let (lines, parameters) = (function.lines, function.parameters);
                offences.push(format!(
                    "{} {}: {lines} lines, {parameters} parameters",
                    relative(file),
                    function.name
                ));
            }
        }
    }
    assert!(offences.is_empty(), "functions that are too long or take too much:\n{offences:#?}");
}

/// Cargo enforces the order of crates; this test enforces the order of modules within a crate.
fn modules_import_only_those_before_them_in_the_table() {
    let table = import_table();
    let mut offences = Vec::new();
    for part in crates() {
        let Some(order) = table.get(&part.name) else { continue };
        let position = |file: &Path| {
            let module = part.module_below_root(file)?;
            order.iter().position(|row| row.contains(&module))
        };
        for (file, imported) in part.imports() {
            for other in imported {
                if let (Some(own), Some(its)) = (position(&file), position(&other))
                    && its > own
                {
                    offences.push(format!("{} imports {}", relative(&file), relative(&other)));
                }
            }
        }
        for module in part.modules_below_root() {
            let listed = order.iter().flatten().filter(|listed| **listed == module).count();
            assert_eq!(listed, 1, "ARCHITECTURE.md names module `{module}` of {} {listed} times", part.name);
        }
    }
    assert!(offences.is_empty(), "imports against the order of ARCHITECTURE.md:\n{}", offences.join("\n"));
}

fn unsafe_code_stays_behind_its_two_fences() {
    let mut offences = Vec::new();
    for part in crates() {
        for file in part.files_with_unsafe_code() {
            let fenced =
                ["src/runtime/driver", "src/proto/simd"].iter().any(|f| relative(file).starts_with(f));
            if !fenced {
                offences.push(relative(file));
            }
        }
    }
    assert!(offences.is_empty(), "`unsafe` outside of the fences: {}", offences.join(" "));
}

fn every_crate_forbids_unsafe_code_outside_the_fences() {
    for part in crates() {
        let text = fs::read_to_string(part.root()).expect("its root");
        let head = match part.name.as_str() {
            // The module with unsafe code could not override a `forbid`.
            "proto" | "runtime" => "#![deny(unsafe_code)]",
            _ => "#![forbid(unsafe_code)]",
        };
        assert!(text.contains(head), "{} lacks {head}", relative(part.root()));
    }
}

fn every_file_under_src_belongs_to_a_module() {
    for part in crates() {
        let mut included = String::new();
        for file in part.files() {
            included += &fs::read_to_string(file).expect("a source file");
        }
        for file in files_under(part.root().parent().expect("its folder")) {
            let name = file.file_name().expect("a file").to_string_lossy();
            let known = match file.extension().and_then(|e| e.to_str()) {
                Some("rs") => part.files().any(|known| *known == file),
                Some("toml") => name == "Cargo.toml" || included.contains(&*name),
                // Those of a package for other languages.
                _ => included.contains(&*name) || name.starts_with("LICENSE-"),
            };
            assert!(known, "no module names {}", relative(&file));
        }
    }
}

fn every_source_file_says_what_it_is_for_and_none_is_called_mod() {
    for part in crates() {
        for file in part.files() {
            let text = fs::read_to_string(file).expect("a source file");
            assert!(text.starts_with("//! "), "{} has no head", relative(file));
            assert!(!file.ends_with("mod.rs"), "{} is in the other module style", relative(file));
        }
    }
}

/// A program whose `main` returns an error prints its `Debug`: `error_debug!` makes that the text and its causes.
fn public_errors_of_the_libraries_derive_no_debug() {
    let libraries = ["admin", "async", "auth", "broker", "client", "proto", "server", "topics"];
    let (mut errors, mut offences) = (0, Vec::new());
    for part in crates().iter().filter(|part| libraries.contains(&part.name.as_str())) {
        for file in part.files() {
            let text = fs::read_to_string(file).expect("a source file");
            let lines: Vec<&str> = text.lines().collect();
            // The tables of texts implement `Debug` themselves.
            errors += text.matches("error_texts! {").count() + text.matches("error_enum! {").count();
            let types = lines.iter().filter(|line| line.starts_with("impl") && !line.contains("de::Error"));
            let implemented: Vec<_> =
                types.filter_map(|line| line.split_once("Error for ")?.1.split([' ', '<']).next()).collect();
            for (at, line) in lines.iter().enumerate() {
                let rest = ["pub struct ", "pub enum "].iter().find_map(|kind| line.strip_prefix(kind));
                let Some(name) = rest.and_then(|rest| rest.split([' ', '(', ';', '<']).next()) else {
                    continue;
                };
                let attributes = || lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
                let has = |derived: &str| attributes().any(|line| line.contains(derived));
                if !implemented.contains(&name) && !has("thiserror::Error") {
                    continue;
                }
                errors += 1;
                if has("Debug") {
                    offences.push(format!("{} of {}", name, relative(file)));
                }
            }
        }
    }
    assert!(errors > 30, "only {errors} error types found");
    assert!(offences.is_empty(), "use echoring_proto::error_debug! for {}", offences.join(", "));
}

/// The program has flags, and its libraries have settings: a text names a setting in backticks.
fn texts_of_the_libraries_name_no_flags_of_the_program_and_no_files_of_the_repository() {
    let programs = ["cli", "load", "proxy"];
    let mut offences = Vec::new();
    for part in crates().iter().filter(|part| !programs.contains(&part.name.as_str())) {
        for file in part.files().filter(|file| !file.ends_with("tests.rs")) {
            let text = fs::read_to_string(file).expect("a source file");
            let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
            let names_flag = |line: &str| {
                let starts =
                    line.match_indices("--").filter(|(at, _)| line[..*at].ends_with([' ', '"', '(']));
                // A reader of documentation on docs.rs, or of a refusal, has no files of the repository.
                let code = line.trim_start();
                if line.contains("docs/") && !line.contains("include_str!") && part.name != "admin" {
                    return code.starts_with("///") || !code.starts_with("//");
                }
                // A comment, or a text about a script of the repository.
                !code.starts_with("//")
                    && !line.contains("scripts/")
                    && starts
                        .map(|(at, _)| &line[at + 2..])
                        .any(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
            };
            let named =
                lines.filter(|line| names_flag(line)).map(|line| format!("{}: {line}", relative(file)));
            offences.extend(named);
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

/// Other names of things, and the name.
const OTHER_NAMES: [(&str, &str); 2] = [
    ("control plane", "the admin address, or the control thread behind it"),
    ("authority's own is no", "the server presented a CA certificate as its own"),
];

fn a_thing_has_one_name() {
    let folders = ["src", "docs", "examples", "packaging"].map(|folder| files_under(&root().join(folder)));
    let mut offences = Vec::new();
    for file in folders.iter().flatten() {
        // Images are no text.
        let text = fs::read_to_string(file).unwrap_or_default().to_lowercase();
        for (other, name) in OTHER_NAMES.iter().filter(|(other, _)| text.contains(other)) {
            offences.push(format!("{}: {other} is called {name}", relative(file)));
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

fn the_simulation_is_enabled_by_tests_only() {
    for part in crates() {
        let manifest = fs::read_to_string(part.root().with_file_name("Cargo.toml")).expect("a manifest");
        let production = manifest.split("[dev-dependencies]").next().expect("its beginning");
        for feature in ["\"sim\"", "\"testing\""] {
            assert!(!production.contains(feature), "{} builds the simulation into the release", part.name);
        }
        let enabling =
            production.lines().filter(|line| line.contains("/sim\"") || line.contains("/testing\""));
        for line in enabling {
            assert!(line.starts_with("testing = "), "{}: another feature builds it: {line}", part.name);
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(file: &Path) -> String {
    file.strip_prefix(root()).expect("in the repository").display().to_string()
}

/// The crates in the folders of `src`, read once.
fn crates() -> &'static [Crate] {
    static CRATES: OnceLock<Vec<Crate>> = OnceLock::new();
    CRATES.get_or_init(|| {
        let folders =
            fs::read_dir(root().join("src")).expect("a folder").map(|entry| entry.expect("an entry").path());
        let roots = folders.flat_map(|folder| ["lib.rs", "main.rs"].map(|root| folder.join(root)));
        let mut crates: Vec<Crate> =
            roots.filter(|root| root.is_file()).map(|root| Crate::read(&root)).collect();
        crates.sort_by(|one, other| one.name.cmp(&other.name));
        assert!(crates.len() >= 8, "only {} crates found", crates.len());
        crates
    })
}

fn files_under(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// Rows of the table under "Modules within crates": the crate, then its modules, the lowest first. Modules between the same
/// commas may import one another.
fn import_table() -> BTreeMap<String, Vec<Vec<String>>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let section = text.split_once("## Modules within crates").expect("a section of that name").1;
    let section = section.split_once("\n## ").map_or(section, |(own, _)| own);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let names = |cell: &str| cell.split_whitespace().map(|name| name.trim_matches('`').to_owned()).collect();
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let name = cells.next().expect("a crate").trim_matches('`').to_owned();
        (name, cells.next().expect("its modules").split(',').map(names).collect())
    })
    .collect()
}
