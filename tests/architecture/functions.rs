//! The functions of a file: how long they are, and how many parameters they have.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, ImplItemFn, ItemFn, ItemImpl, ItemMod, Signature, TraitItemFn};

use super::sources::is_for_tests;

pub struct Function {
    /// With the type that it is a method of.
    pub name: String,
    /// Lines from the signature to the closing brace that are neither blank nor a comment.
    pub lines: usize,
    /// `self` counts.
    pub parameters: usize,
}

/// The functions of a file, without those that are compiled for tests only.
pub fn functions_of(source: &syn::File, text: &str) -> Vec<Function> {
    let mut search = Search { lines: text.lines().collect(), of_type: None, found: Vec::new() };
    search.visit_file(source);
    search.found
}

struct Search<'a> {
    lines: Vec<&'a str>,
    /// The type or trait around the current item.
    of_type: Option<String>,
    found: Vec<Function>,
}

impl Search<'_> {
    fn add(&mut self, signature: &Signature, body: Option<&Block>) {
        let name = match &self.of_type {
            Some(of_type) => format!("{of_type}::{}", signature.ident),
            None => signature.ident.to_string(),
        };
        let lines = body.map_or(0, |body| self.lines_of(signature, body));
        self.found.push(Function { name, lines, parameters: signature.inputs.len() });
    }

    fn lines_of(&self, signature: &Signature, body: &Block) -> usize {
        let (first, last) = (signature.span().start().line, body.span().end().line);
        let lines = self.lines[first - 1..last].iter().map(|line| line.trim());
        lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count()
    }

    fn within(&mut self, name: Option<String>, visit: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.of_type, name);
        visit(self);
        self.of_type = outer;
    }
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if !is_for_tests(&item.attrs) {
            let name = match &*item.self_ty {
                syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
                _ => None,
            };
            self.within(name, |search| visit::visit_item_impl(search, item));
        }
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.within(Some(item.ident.to_string()), |search| visit::visit_item_trait(search, item));
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if !is_for_tests(&function.attrs) && !is_a_test(&function.attrs) {
            self.add(&function.sig, Some(&function.block));
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if !is_for_tests(&function.attrs) {
            self.add(&function.sig, Some(&function.block));
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        self.add(&function.sig, function.default.as_ref());
        visit::visit_trait_item_fn(self, function);
    }
}

fn is_a_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident("test"))
}

#[test]
fn lines_of_code_and_parameters_of_production_code_are_counted() {
    let text = "\
impl Kept {
    fn method(&self, one: u8, two: u8) {
        // A comment.
        one();

        two();
    }

    #[cfg(test)]
    fn for_tests() {}
}

#[cfg(test)]
mod tests {
    fn helper() {}
}

#[test]
fn a_test() {}

fn short() {}
";
    let source = syn::parse_file(text).expect("Rust");
    let found: Vec<_> =
        functions_of(&source, text).into_iter().map(|f| (f.name, f.lines, f.parameters)).collect();
    assert_eq!(found, [("Kept::method".to_owned(), 4, 3), ("short".to_owned(), 1, 0)]);
}
