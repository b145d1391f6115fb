//! Committed records in each form that shows one: what changes in a form is seen in its file. With `UPDATE=1`, as in
//! `scripts/docs --update`, the test writes the files instead.

use std::fs;
use std::path::{Path, PathBuf};

use super::{junit, markdown, summary, tables};
use crate::engine::Outcome;
use crate::record::File;
use crate::record::tests::outcome;

/// Runs of a second or two of every mode, and what is special: stages, failed conditions, pairs, protocols, lifetimes, a split.
pub(super) fn records() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let files = fs::read_dir(folder).expect("the folder").map(|file| file.expect("a file").path());
    let mut records: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|it| it == "json")).collect();
    records.sort();
    records
}

fn text(file: &File, runs: &[Outcome]) -> String {
    let texts = runs.iter().map(summary::table).chain(file.comparison.iter().map(tables::comparison));
    texts.map(|text| text + "\n").collect()
}

#[test]
fn records_look_as_committed() {
    let records = records();
    assert!(records.len() > 11, "{records:?}");
    for path in records {
        let json = fs::read_to_string(&path).expect("a record");
        let file: File =
            serde_json::from_str(&json).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let runs: Vec<Outcome> = file.runs.iter().cloned().map(outcome).collect();
        let forms = [
            ("json", file.json()),
            ("txt", text(&file, &runs)),
            ("md", markdown(&runs)),
            ("xml", junit(&runs)),
        ];
        for (extension, made) in forms {
            let path = path.with_extension(extension);
            if std::env::var_os("UPDATE").is_some() {
                fs::write(&path, made).expect("written");
                continue;
            }
            let kept = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let kept = String::from_utf8_lossy(&kept);
            assert!(made == kept, "{} differs: run this test with UPDATE=1\n{made}", path.display());
        }
    }
}
