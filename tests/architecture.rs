//! The architecture as a test: ARCHITECTURE.md's import table, the fences around unsafe code, and files
//! that no module names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn modules_import_only_what_the_table_allows() {
    let table = import_table();
    let mut offences = Vec::new();
    for file in rust_files() {
        let Some(module) = top_module(&file) else { continue };
        let allowed =
            table.get(&module).unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for `{module}`"));
        let text = fs::read_to_string(&file).expect("a source file");
        for imported in imports(&text, depth(&file)) {
            if imported != module && table.contains_key(&imported) && !allowed.contains(&imported) {
                offences.push(format!("{} imports {imported}", file.display()));
            }
        }
    }
    assert!(offences.is_empty(), "imports that ARCHITECTURE.md does not allow:\n{}", offences.join("\n"));
}

#[test]
fn the_import_table_only_points_down() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let order: Vec<String> = table_rows(&text).into_iter().map(|(module, _)| module).collect();
    for (module, allowed) in import_table() {
        let floor = order.iter().position(|m| *m == module).expect("its own row");
        for below in allowed {
            let at = order.iter().position(|m| *m == below);
            assert!(
                at.is_some_and(|at| at < floor),
                "`{module}` may not import `{below}`: it is not below it"
            );
        }
    }
    let declared: BTreeSet<String> = declared_modules(&root().join("src/lib.rs")).into_iter().collect();
    assert_eq!(declared, order.into_iter().collect(), "lib.rs and the import table name different modules");
}

#[test]
fn unsafe_code_stays_behind_its_two_fences() {
    let mut offences = Vec::new();
    for file in rust_files() {
        let inside_source = file.strip_prefix(root().join("src")).expect("under src");
        let fenced = inside_source.starts_with("driver")
            || inside_source.starts_with("protocol/simd")
            || inside_source == Path::new("protocol/simd.rs");
        let tokens = tokens(&fs::read_to_string(&file).expect("a source file"));
        if !fenced && tokens.iter().any(|token| token == "unsafe") {
            offences.push(format!("{} contains `unsafe`", file.display()));
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn every_module_outside_the_fences_forbids_unsafe_code() {
    for module in declared_modules(&root().join("src/lib.rs")) {
        let file = module_file(&root().join("src"), &module).expect("its file");
        let text = fs::read_to_string(&file).expect("a source file");
        let head = match module.as_str() {
            "driver" => continue,
            // A `forbid` here could not be lifted for its child `simd`.
            "protocol" => "#![deny(unsafe_code)]",
            _ => "#![forbid(unsafe_code)]",
        };
        assert!(text.contains(head), "{} lacks {head}", file.display());
    }
}

#[test]
fn every_file_under_src_belongs_to_a_module() {
    let source = root().join("src");
    let mut reached = BTreeSet::from([source.join("lib.rs"), source.join("main.rs")]);
    let mut open: Vec<(PathBuf, PathBuf)> =
        vec![(source.join("lib.rs"), source.clone()), (source.join("main.rs"), source.clone())];
    while let Some((file, children)) = open.pop() {
        for child in declared_modules(&file) {
            let Some(path) = module_file(&children, &child) else {
                // What tests of both kinds use.
                let shared = root().join("tests/support").join(format!("{child}.rs"));
                assert!(shared.is_file(), "{} declares `{child}`, which has no file", file.display());
                continue;
            };
            if reached.insert(path.clone()) {
                open.push((path, children.join(&child)));
            }
        }
    }
    let mut included = String::new();
    for file in &reached {
        included += &fs::read_to_string(file).expect("a source file");
    }
    for file in files_under(&source) {
        let name = file.file_name().expect("a file").to_string_lossy();
        let known = if file.extension().is_some_and(|e| e == "rs") {
            reached.contains(&file)
        } else {
            included.contains(&format!("{name}\""))
        };
        assert!(known, "no module names {}", file.display());
    }
}

#[test]
fn every_module_file_says_what_it_is_for() {
    for file in rust_files() {
        let text = fs::read_to_string(&file).expect("a source file");
        assert!(text.starts_with("//! "), "{} has no head", file.display());
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
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

fn rust_files() -> Vec<PathBuf> {
    files_under(&root().join("src"))
        .into_iter()
        .filter(|f| f.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// The module of the first level that a file belongs to; `None` for `lib.rs`.
fn top_module(file: &Path) -> Option<String> {
    let inside = file.strip_prefix(root().join("src")).expect("under src");
    let first = inside.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
    match first.strip_suffix(".rs") {
        Some("lib" | "main") => None,
        Some(module) => Some(module.to_owned()),
        None => Some(first),
    }
}

fn module_file(directory: &Path, module: &str) -> Option<PathBuf> {
    [directory.join(format!("{module}.rs")), directory.join(module).join("mod.rs")]
        .into_iter()
        .find(|p| p.exists())
}

/// Rows of the table under "Import table": the module, and the cell that says what it may import.
fn table_rows(text: &str) -> Vec<(String, String)> {
    let section = text.split_once("## Import table").expect("a section named `Import table`").1;
    let section = section.split_once("\n## ").map_or(section, |(own, _)| own);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let module = cells.next().expect("a module").trim_matches('`').to_owned();
        (module, cells.next().expect("what it may import").to_owned())
    })
    .collect()
}

fn import_table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    table_rows(&text)
        .into_iter()
        .map(|(module, cell)| {
            let names = cell.split(',').map(|name| name.trim().trim_matches('`')).filter(|name| *name != "–");
            (module, names.map(str::to_owned).collect())
        })
        .collect()
}

/// How many modules below the crate's root a file is.
fn depth(file: &Path) -> usize {
    let inside = file.strip_prefix(root().join("src")).expect("under src");
    let components = inside.components().count();
    if inside.file_name().is_some_and(|name| name == "mod.rs") { components - 1 } else { components }
}

/// Names directly below the crate's root that a file's text mentions, by `crate::` or by enough `super::`.
fn imports(text: &str, depth: usize) -> BTreeSet<String> {
    let tokens = tokens(text);
    let mut found = BTreeSet::new();
    // For each open brace, whether it opened an inline module.
    let mut braces: Vec<bool> = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        match tokens[i].as_str() {
            "{" => braces.push(i >= 2 && tokens[i - 2] == "mod"),
            "}" => {
                braces.pop();
            }
            "crate" if followed_by_path(&tokens, i) => found.extend(names_at(&tokens, i + 3)),
            "super" if i < 3 || tokens[i - 3] != "super" => {
                let mut at = i;
                let mut levels = 1;
                while followed_by_path(&tokens, at) && tokens.get(at + 3).is_some_and(|t| t == "super") {
                    at += 3;
                    levels += 1;
                }
                let modules = depth + braces.iter().filter(|inline| **inline).count();
                if levels >= modules && followed_by_path(&tokens, at) {
                    found.extend(names_at(&tokens, at + 3));
                }
            }
            _ => {}
        }
        i += 1;
    }
    found
}

fn followed_by_path(tokens: &[String], at: usize) -> bool {
    tokens.get(at + 1).is_some_and(|t| t == ":") && tokens.get(at + 2).is_some_and(|t| t == ":")
}

/// The name at `at`, or, where a group opens, the first name of each of its items.
fn names_at(tokens: &[String], at: usize) -> Vec<String> {
    match tokens.get(at).map(String::as_str) {
        Some("{") => {
            let mut names = Vec::new();
            let mut depth = 0;
            let mut fresh = true;
            for token in &tokens[at..] {
                match token.as_str() {
                    "{" => depth += 1,
                    "}" if depth == 1 => break,
                    "}" => depth -= 1,
                    "," if depth == 1 => fresh = true,
                    name if depth == 1 && fresh => {
                        names.push(name.to_owned());
                        fresh = false;
                    }
                    _ => {}
                }
            }
            names
        }
        Some(name) => vec![name.to_owned()],
        None => Vec::new(),
    }
}

/// `mod name;` declarations of a file.
fn declared_modules(file: &Path) -> Vec<String> {
    let tokens = tokens(&fs::read_to_string(file).expect("a source file"));
    tokens.windows(3).filter(|w| w[0] == "mod" && w[2] == ";").map(|w| w[1].clone()).collect()
}

/// Words and single punctuation marks of Rust source, without comments, strings and characters.
fn tokens(text: &str) -> Vec<String> {
    let text: Vec<char> = text.chars().collect();
    let at = |i: usize| text.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < text.len() {
        let c = text[i];
        if c == '/' && at(i + 1) == '/' {
            while i < text.len() && text[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            i += 2;
            while i < text.len() && !(text[i] == '*' && at(i + 1) == '/') {
                i += 1;
            }
            i += 2;
        } else if c == 'r' && (at(i + 1) == '"' || (at(i + 1) == '#' && matches!(at(i + 2), '"' | '#'))) {
            i = after_raw_string(&text, i + 1);
        } else if c == '"' {
            i += 1;
            while i < text.len() && text[i] != '"' {
                i += if text[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' && at(i + 1) == '\\' {
            i += 3;
            while i < text.len() && text[i] != '\'' {
                i += 1;
            }
            i += 1;
        } else if c == '\'' && at(i + 2) == '\'' {
            i += 3;
        } else if c.is_alphanumeric() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            let word: String = text[start..i].iter().collect();
            // `br"…"`: what looked like a word was the string's prefix.
            if word == "br" && matches!(at(i), '"' | '#') {
                i = after_raw_string(&text, i);
            } else {
                tokens.push(word);
            }
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            i += 1;
        }
    }
    tokens
}

/// The position behind a raw string whose `#`s or quote begin at `i`.
fn after_raw_string(text: &[char], mut i: usize) -> usize {
    let mut hashes = 0;
    while text.get(i) == Some(&'#') {
        hashes += 1;
        i += 1;
    }
    i += 1;
    while i < text.len() {
        if text[i] == '"' && text[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    i
}

#[test]
fn the_scanner_finds_paths_and_ignores_text() {
    let source = r##"
        //! crate::cli in a comment
        use crate::{buffer::{Pool, limits_like}, stats};
        /* crate::control */ fn f<'a>() -> &'a str { "crate::load" }
        const C: char = '"'; const R: &str = r#"crate::aio " "#; const B: &[u8] = br"crate::load\";
        use super::super::hub;
        mod tests { use super::{own, super::sibling}; use super::super::cousin; use super::super::super::shard; }
    "##;
    // As in a file two modules deep, such as `src/driver/epoll.rs`.
    assert_eq!(imports(source, 2), ["buffer", "hub", "shard", "stats"].map(str::to_owned).into());
}
