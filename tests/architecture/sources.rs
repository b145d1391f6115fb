//! Reads the modules of a crate from its source: their files, re-exports, imports and functions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, UseTree};

use super::cycles::Imports;
use super::functions::{Function, functions_of};
use super::weight::Production;

/// A path of names below a crate's root.
type Names = Vec<String>;

/// One crate of the workspace.
pub struct Crate {
    /// Its folder in `src`.
    pub name: String,
    root: PathBuf,
    /// The modules that are files. An inline module belongs to the file that contains it.
    modules: BTreeMap<Names, Module>,
    /// Files of modules that have another file for another platform.
    others: Vec<Module>,
}

/// What the tests ask of a file. It holds nothing of `syn`, whose types no two threads may share.
struct Module {
    file: PathBuf,
    /// Declared modules that are compiled for tests only.
    test_modules: BTreeSet<String>,
    /// `pub use` and `pub(…) use`: the name here, and the path that it stands for.
    exports: BTreeMap<String, Names>,
    /// Imports, without those that are compiled for tests only.
    uses: Vec<Names>,
    functions: Vec<Function>,
    production: Production,
    has_unsafe_code: bool,
}

impl Crate {
    pub fn read(root: &Path) -> Crate {
        let folder = root.parent().expect("in a folder");
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let mut read = Crate { name, root: root.to_owned(), modules: BTreeMap::new(), others: Vec::new() };
        read.add(root.to_owned(), Vec::new(), folder);
        read
    }

    fn add(&mut self, file: PathBuf, path: Names, children: &Path) {
        let text = fs::read_to_string(&file).expect("a source file");
        let source = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let module = Module::new(file.clone(), &text, &source, &path);
        if self.modules.contains_key(&path) {
            return self.others.push(module);
        }
        self.modules.insert(path.clone(), module);
        for declared in source.items.iter().filter_map(as_declared_module) {
            let name = declared.ident.to_string();
            // A name may have several files, one per condition; `path` attributes name the additional ones.
            let below = match path_attribute(declared) {
                Some(given) => file.parent().expect("in a folder").join(given),
                None => children.join(format!("{name}.rs")),
            };
            // Code that several kinds of tests share is below `tests`.
            if below.is_file() && below.starts_with(self.root.parent().expect("a folder")) {
                let mut path = path.clone();
                path.push(name.clone());
                self.add(below, path, &children.join(name));
            }
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.modules.values().chain(&self.others).map(|module| &module.file)
    }

    pub fn files_with_unsafe_code(&self) -> impl Iterator<Item = &PathBuf> {
        let modules = self.modules.values().chain(&self.others);
        modules.filter(|module| module.has_unsafe_code).map(|module| &module.file)
    }

    /// The modules that are not compiled for tests only.
    fn production_modules(&self) -> impl Iterator<Item = &Module> {
        let production = self.modules.iter().filter(|(path, _)| !self.is_test(path));
        production.map(|(_, module)| module).chain(&self.others)
    }

    /// What is not for tests in each file.
    pub fn production(&self) -> impl Iterator<Item = &Production> {
        self.production_modules().map(|module| &module.production)
    }

    /// The functions of each file, without those that are compiled for tests only.
    pub fn functions(&self) -> impl Iterator<Item = (&PathBuf, &Function)> {
        self.production_modules()
            .flat_map(|module| module.functions.iter().map(|function| (&module.file, function)))
    }

    /// The modules that the crate's root declares.
    pub fn modules_below_root(&self) -> BTreeSet<String> {
        self.modules
            .iter()
            .filter(|(path, _)| path.len() == 1 && !self.is_test(path))
            .map(|(path, _)| path[0].clone())
            .collect()
    }

    pub fn module_below_root(&self, file: &Path) -> Option<String> {
        self.modules.iter().find(|(_, module)| module.file == file)?.0.first().cloned()
    }

    /// Modules that are compiled for tests only.
    fn is_test(&self, path: &[String]) -> bool {
        (1..=path.len()).any(|length| {
            let parent = &self.modules[&path[..length - 1]];
            parent.test_modules.contains(&path[length - 1])
        })
    }

    /// The files of this crate that a file imports from. A re-export is no import; an import through a re-export counts for the
    /// defining file.
    pub fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (path, module) in &self.modules {
            if self.is_test(path) {
                continue;
            }
            let files = module
                .uses
                .iter()
                .filter_map(|used| self.defined_in(used, 0))
                .map(|found| &self.modules[&found]);
            let others = files.map(|other| other.file.clone()).filter(|file| *file != module.file).collect();
            imports.insert(module.file.clone(), others);
        }
        imports
    }

    /// The module that defines the item of a path.
    fn defined_in(&self, path: &[String], depth: usize) -> Option<Names> {
        let length = (0..=path.len()).rev().find(|length| self.modules.contains_key(&path[..*length]))?;
        let (module, rest) = path.split_at(length);
        if let Some(name) = rest.first()
            && let Some(target) = self.modules[module].exports.get(name)
            && depth < 10
        {
            let target: Names = target.iter().chain(&rest[1..]).cloned().collect();
            return self.defined_in(&target, depth + 1);
        }
        Some(module.to_vec())
    }
}

impl Module {
    fn new(file: PathBuf, text: &str, source: &syn::File, path: &[String]) -> Module {
        let declared = || source.items.iter().filter_map(as_declared_module);
        let mut paths = Paths {
            module: path.to_vec(),
            children: declared().map(|module| module.ident.to_string()).collect(),
            inline: 0,
            exports: BTreeMap::new(),
            uses: Vec::new(),
        };
        paths.visit_file(source);
        let mut search = UnsafeCode(false);
        search.visit_file(source);
        let for_tests = declared().filter(|module| is_for_tests(&module.attrs));
        Module {
            file,
            test_modules: for_tests.map(|module| module.ident.to_string()).collect(),
            exports: paths.exports,
            uses: paths.uses,
            functions: functions_of(source, text),
            production: Production::of(text),
            has_unsafe_code: search.0,
        }
    }
}

fn as_declared_module(item: &Item) -> Option<&ItemMod> {
    match item {
        Item::Mod(module) if module.content.is_none() => Some(module),
        _ => None,
    }
}

fn path_attribute(module: &ItemMod) -> Option<String> {
    module.attrs.iter().find(|attribute| attribute.path().is_ident("path")).and_then(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { return None };
        Some(text.value())
    })
}

pub fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
    })
}

/// Collects the paths of a file that begin in this crate.
struct Paths {
    module: Names,
    /// The modules that the file declares.
    children: BTreeSet<String>,
    /// Inline modules around the current item.
    inline: usize,
    exports: BTreeMap<String, Names>,
    uses: Vec<Names>,
}

impl Paths {
    /// A path from the crate's root; `None` if it begins in another crate, or in this file.
    fn resolve(&self, names: &[String]) -> Option<Names> {
        let first = names.first()?;
        if first == "crate" {
            return Some(names[1..].to_vec());
        }
        let ups = names.iter().take_while(|name| *name == "super").count();
        let parents = ups.checked_sub(self.inline)?;
        let below = &names[ups + usize::from(first == "self")..];
        // A single name may be a variable that is called like a module.
        let is_child = below.len() > 1 && self.children.contains(&below[0]);
        (parents > 0 || first == "self" || is_child).then(|| {
            let base = self.module.len().checked_sub(parents)?;
            Some(self.module[..base].iter().chain(below).cloned().collect())
        })?
    }

    fn add_use(&mut self, before: &mut Names, tree: &UseTree, is_export: bool) {
        let (name, exported) = match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_use(before, &path.tree, is_export);
                before.pop();
                return;
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_use(before, tree, is_export));
                return;
            }
            UseTree::Glob(_) => (None, None),
            UseTree::Name(name) => (Some(name.ident.to_string()), Some(name.ident.to_string())),
            UseTree::Rename(rename) => (Some(rename.ident.to_string()), Some(rename.rename.to_string())),
        };
        let mut names = before.clone();
        names.extend(name.filter(|name| name != "self"));
        match exported.filter(|_| is_export) {
            Some(exported) => {
                // Without `self::` the path begins with a module or crate in scope.
                let here = || self.module.iter().chain(&names).cloned().collect();
                let target = self.resolve(&names).unwrap_or_else(here);
                self.exports.insert(exported, target);
            }
            None => self.uses.extend(self.resolve(&names)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_for_tests(&module.attrs) {
            self.inline += 1;
            visit::visit_item_mod(self, module);
            self.inline -= 1;
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_for_tests(&item.attrs) {
            let is_export = !matches!(item.vis, syn::Visibility::Inherited);
            self.add_use(&mut Vec::new(), &item.tree, is_export);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.uses.extend(self.resolve(&names));
        visit::visit_path(self, path);
    }

    // `pub(in crate::x)` is no import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

struct UnsafeCode(bool);

impl<'ast> Visit<'ast> for UnsafeCode {
    fn visit_expr_unsafe(&mut self, _: &'ast syn::ExprUnsafe) {
        self.0 = true;
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.0 |= signature.unsafety.is_some();
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.0 |= item.unsafety.is_some();
        visit::visit_item_impl(self, item);
    }
}
