//! Strongly connected components of a graph of files (Tarjan).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The files that each file imports from.
pub type Imports = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// Sets of files that reach one another, including sets of one.
pub fn components(imports: &Imports) -> Vec<Vec<PathBuf>> {
    let mut search = Search::new(imports);
    for file in imports.keys() {
        if !search.index.contains_key(file) {
            search.visit(file);
        }
    }
    search.found
}

struct Search<'a> {
    imports: &'a Imports,
    /// In the order of discovery.
    index: BTreeMap<&'a PathBuf, usize>,
    /// The earliest file on the stack that can be reached.
    low: BTreeMap<&'a PathBuf, usize>,
    stack: Vec<&'a PathBuf>,
    found: Vec<Vec<PathBuf>>,
}

impl<'a> Search<'a> {
    fn new(imports: &'a Imports) -> Search<'a> {
        Search { imports, index: BTreeMap::new(), low: BTreeMap::new(), stack: Vec::new(), found: Vec::new() }
    }

    fn visit(&mut self, file: &'a PathBuf) {
        let number = self.index.len();
        self.index.insert(file, number);
        self.low.insert(file, number);
        self.stack.push(file);
        for other in self.imports.get(file).into_iter().flatten() {
            if !self.index.contains_key(other) {
                self.visit(other);
                self.reaches(file, self.low[other]);
            } else if self.stack.contains(&other) {
                self.reaches(file, self.index[other]);
            }
        }
        if self.low[file] == number {
            let first = self.stack.iter().position(|on| *on == file).expect("it was put there");
            self.found.push(self.stack.drain(first..).cloned().collect());
        }
    }

    fn reaches(&mut self, file: &'a PathBuf, number: usize) {
        let low = self.low.get_mut(file).expect("visited");
        *low = number.min(*low);
    }
}

#[test]
fn those_who_reach_one_another_are_together() {
    let edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "e")];
    let mut imports = Imports::new();
    for (from, to) in edges {
        imports.entry(from.into()).or_default().insert(to.into());
    }
    let mut sizes: Vec<usize> = components(&imports).iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 1, 3]);
}
