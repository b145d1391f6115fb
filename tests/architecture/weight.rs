//! What the source weighs: the lines of each crate, the files that know of something, and the files that name a setting or a metric.
//! `weight.toml` has what is allowed. A number there may only become smaller; one that becomes larger is seen in a review.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::sources::Crate;
use super::{crates, relative, root};

/// A row may be this much above the lines of its crate. Beyond that it must be lowered, so that the crate does not grow again.
const SPARE_LINES_MAX: usize = 150;
/// Files that may name a setting, or a metric, without a row.
const SETTING_FILES_MAX: usize = 4;
const METRIC_FILES_MAX: usize = 3;
/// What may be known of in so many files: the words in names that give it away, in the singular.
const KNOWN: [(&str, &[&str]); 3] = [
    (
        "moving",
        &[
            "freeze",
            "frozen",
            "thaw",
            "thawed",
            "takeover",
            "handover",
            "predecessor",
            "successor",
            "moving",
            "moved",
        ],
    ),
    ("the cluster", &["cluster", "following", "placement"]),
    ("presence", &["presence", "member"]),
];
/// A file without its tests, comments and documentation.
#[derive(Default)]
pub struct Production {
    lines: BTreeSet<usize>,
    identifiers: BTreeSet<String>,
    /// Without their quotes.
    strings: BTreeSet<String>,
}

impl Production {
    pub fn of(text: &str) -> Production {
        let tokens: TokenStream = text.parse().expect("Rust");
        let mut read = Production::default();
        read.add(tokens);
        read
    }

    fn add(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            if let TokenTree::Punct(hash) = &token
                && hash.as_char() == '#'
                && let _ =
                    tokens.next_if(|next| matches!(next, TokenTree::Punct(bang) if bang.as_char() == '!'))
                && let Some(TokenTree::Group(attribute)) = tokens.peek()
                && attribute.delimiter() == Delimiter::Bracket
            {
                let attribute = attribute.stream().to_string();
                if attribute.starts_with("doc =") {
                    tokens.next();
                    continue;
                }
                if ["cfg (test", "cfg (all (test", "cfg (any (test"]
                    .iter()
                    .any(|start| attribute.starts_with(start))
                {
                    skip_item(&mut tokens);
                    continue;
                }
            }
            self.add_token(token);
        }
    }

    fn add_token(&mut self, token: TokenTree) {
        match token {
            TokenTree::Group(group) => {
                self.lines.extend([group.span_open().start().line, group.span_close().end().line]);
                return self.add(group.stream());
            }
            TokenTree::Ident(ref name) => drop(self.identifiers.insert(name.to_string())),
            TokenTree::Literal(ref literal) => {
                self.strings.insert(literal.to_string().trim_matches(['"', '#', 'r', 'b']).to_owned());
            }
            TokenTree::Punct(_) => {}
        }
        self.lines.extend(token.span().start().line..=token.span().end().line);
    }

    /// As a name, or as a string.
    fn names(&self, name: &str) -> bool {
        self.identifiers.contains(name) || self.quotes(name)
    }

    fn quotes(&self, name: &str) -> bool {
        self.strings.contains(name)
    }

    fn knows(&self, known: &[&str]) -> bool {
        let gives_away = |name: &String| words(name).iter().any(|word| known.contains(&word.as_str()));
        self.identifiers.iter().filter(|name| !is_of_others(name)).any(gives_away)
    }
}

/// The words of a name, in lower case and in the singular.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut follows_lower = false;
    for letter in name.chars() {
        if letter == '_' || follows_lower && letter.is_uppercase() {
            words.push(String::new());
        }
        follows_lower = letter.is_lowercase();
        words.last_mut().expect("one").extend(letter.to_lowercase().filter(|letter| *letter != '_'));
    }
    words.iter().map(|word| word.strip_suffix('s').unwrap_or(word).to_owned()).collect()
}

/// Whether RFC 7692, the standard library or `bytes` has given the name.
fn is_of_others(name: &str) -> bool {
    name.contains("context_takeover") || ["successors", "freeze"].contains(&name)
}

/// Skips the attribute that is next, and what it stands before.
fn skip_item(tokens: &mut std::iter::Peekable<impl Iterator<Item = TokenTree>>) {
    tokens.next();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(end) if end.as_char() == ';' => return,
            TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => {
                tokens.next_if(|next| matches!(next, TokenTree::Punct(end) if end.as_char() == ';'));
                return;
            }
            _ => {}
        }
    }
}

/// The numbers of each section by their names: those that are allowed, or those of the source.
type Table = BTreeMap<String, BTreeMap<String, usize>>;

fn read(text: &str) -> Table {
    let mut table = Table::new();
    let mut section = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else {
            let (name, number) = line.split_once(" = ").expect("a name and a number");
            let number = number.replace('_', "").parse().expect("a number");
            table.entry(section.clone()).or_default().insert(name.trim_matches('"').to_owned(), number);
        }
    }
    table
}

fn write(table: &Table) -> String {
    let mut text = String::from(
        "# What tests/architecture/weight.rs allows. `UPDATE=1 cargo test --test architecture` writes what there is.\n",
    );
    for (section, rows) in table {
        text += &format!("\n[{section}]\n");
        rows.iter().for_each(|(name, number)| text += &format!("\"{name}\" = {number}\n"));
    }
    text
}

/// The settings of the server, as the reference lists them.
fn settings() -> BTreeSet<String> {
    let reference = fs::read_to_string(root().join("docs/reference/configuration.md")).expect("a page");
    let keys = reference.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    keys.map(|(key, _)| key.to_owned()).filter(|key| key.contains('_')).collect()
}

/// The metrics of the server, as the reference lists them.
fn metrics() -> BTreeSet<String> {
    let reference = fs::read_to_string(root().join("docs/reference/metrics.md")).expect("a page");
    let words = reference.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("echoring_")).map(str::to_owned).collect()
}

fn measured() -> Table {
    let files: Vec<&Production> = crates().iter().flat_map(|part| part.production()).collect();
    let lines_of = |part: &Crate| part.production().map(|file| file.lines.len()).sum();
    let lines = crates().iter().map(|part| (part.name.clone(), lines_of(part))).collect();
    let count = |names: &dyn Fn(&Production) -> bool| files.iter().filter(|file| names(file)).count();
    let above = |names: BTreeSet<String>, most: usize, has: fn(&Production, &str) -> bool| {
        let counted = names.into_iter().map(|name| (name.clone(), count(&|file| has(file, &name))));
        counted.filter(|(_, files)| *files > most).collect()
    };
    let known =
        KNOWN.iter().map(|(what, parts)| ((*what).to_owned(), count(&|file| file.knows(parts)))).collect();
    Table::from([
        ("lines of a crate".to_owned(), lines),
        ("files that know of it".to_owned(), known),
        ("files with a setting".to_owned(), above(settings(), SETTING_FILES_MAX, Production::names)),
        ("files with a metric".to_owned(), above(metrics(), METRIC_FILES_MAX, Production::quotes)),
    ])
}

/// Nothing weighs more than its row allows, and no row allows much more than there is.
pub fn the_source_weighs_no_more_than_its_table_allows() {
    let file = root().join("tests/architecture/weight.toml");
    let there = measured();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, write(&there)).expect("written");
    }
    let allowed = read(&fs::read_to_string(&file).expect("a table"));
    let none = BTreeMap::new();
    let mut offences = Vec::new();
    for (section, rows) in &there {
        let allowed = allowed.get(section).unwrap_or(&none);
        let names: BTreeSet<&String> = rows.keys().chain(allowed.keys()).collect();
        for name in names {
            let spare = if section.starts_with("lines") { SPARE_LINES_MAX } else { 0 };
            let (there, most) =
                (rows.get(name).copied().unwrap_or(0), allowed.get(name).copied().unwrap_or(0));
            if there > most || there + spare < most {
                offences.push(format!("{section}: {name}: {there}, and {most} are allowed"));
            }
        }
    }
    let file = relative(Path::new(&file));
    assert!(offences.is_empty(), "change the source, or with reasons {file}:\n{offences:#?}");
}

#[test]
fn lines_of_production_code_are_counted() {
    let text = "//! Of a file.\nuse a::b;\n\n/// Of a function.\nfn f() {\n    // Nothing.\n    let text = \"one\n two\";\n}\n\
        #[cfg(test)]\nuse a::{c, d};\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
    let read = Production::of(text);
    assert_eq!(read.lines, BTreeSet::from([2, 5, 7, 8, 9]));
    assert!(
        read.names("f")
            && !read.names("g")
            && read.knows(&["text"])
            && !read.knows(&["one"])
            && !read.knows(&["tex"])
    );
}

#[test]
fn a_name_gives_its_words_away() {
    for (name, of_name) in [
        ("MovedNote", &["moved", "note"][..]),
        ("has_successors", &["ha", "successor"]),
        ("HANDOVER_TIME", &["handover", "time"]),
        ("removed", &["removed"]),
        ("_predecessor", &["", "predecessor"]),
    ] {
        assert_eq!(words(name), of_name);
    }
    assert!(
        is_of_others("server_no_context_takeover") && is_of_others("freeze") && !is_of_others("takeovers")
    );
}
