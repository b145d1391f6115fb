//! The fuzz targets as a regression test: each runs its committed corpus and a few thousand mutations of it, the same in
//! every run. `scripts/fuzz` searches for new inputs; findings are added to the corpus.
#![forbid(unsafe_code)]

mod mutation;
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use mutation::Mutator;

/// Mutations per target. All targets together take a few seconds.
const MUTATIONS: usize = 3_000;

#[test]
fn heads_are_judged_alike_however_they_are_cut() {
    replay("handshake", targets::handshake::run);
}

#[test]
fn only_tokens_that_are_signed_and_current_are_accepted() {
    replay("auth", targets::auth::run);
}

#[test]
fn what_another_process_says_is_read_as_it_was_written_or_refused() {
    replay("handover", targets::handover::run);
}

#[test]
fn a_connection_from_bytes_is_refused_or_goes_on_within_its_bounds() {
    replay("plain_connection", targets::plain_connection::run);
}

#[test]
fn what_moves_with_a_connection_is_refused_or_read_as_it_was_written() {
    replay("moved", targets::moved::run);
}

#[test]
fn proxy_headers_name_the_client_however_they_are_cut() {
    replay("proxy_header", targets::proxy_header::run);
}

#[test]
fn frames_say_the_same_however_they_are_cut() {
    replay("frame", targets::frame::run);
}

#[test]
fn messages_inflate_as_elsewhere_and_deflated_ones_come_back() {
    replay("deflate", targets::deflate::run);
}

#[test]
fn text_is_judged_as_the_standard_library_judges_it_and_at_the_first_offending_byte() {
    replay("utf8", targets::utf8::run);
}

#[test]
fn requests_are_read_as_elsewhere_and_values_leave_as_they_came() {
    replay("v1", targets::v1::run);
}

#[test]
fn centrifuges_commands_are_read_as_elsewhere_and_deltas_lead_to_their_targets() {
    replay("centrifuge", targets::centrifuge::run);
}

#[test]
fn a_connection_keeps_its_promises_whatever_comes_and_whenever_sends_block() {
    replay("connection", targets::connection::run);
}

#[test]
fn an_asynchronous_server_reads_and_sends_what_it_should_whatever_comes_and_whenever_futures_are_dropped() {
    replay("conn_server", targets::conn::run_server);
}

#[test]
fn an_asynchronous_client_reads_and_sends_what_it_should_whatever_comes_and_whenever_futures_are_dropped() {
    replay("conn_client", targets::conn::run_client);
}

#[test]
fn tungstenite_takes_and_refuses_the_same_but_for_what_is_listed() {
    replay("differential", targets::differential::run);
}

/// Runs the corpus of `name`, then mutations of it. Reports the input that failed.
fn replay(name: &str, run: fn(&[u8])) {
    let corpus = corpus(name);
    assert!(corpus.len() >= 3, "{name} has no corpus");
    for (path, input) in &corpus {
        attempt(run, input, || format!("{}", path.display()));
    }
    let inputs: Vec<&[u8]> = corpus.iter().map(|(_, input)| input.as_slice()).collect();
    let mut mutator = Mutator::new(&inputs);
    for _ in 0..MUTATIONS {
        let input = mutator.next();
        attempt(run, &input, || kept(name, &input));
    }
}

fn attempt(run: fn(&[u8]), input: &[u8], describe: impl Fn() -> String) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(input))) {
        eprintln!("the input is {}", describe());
        resume_unwind(panic);
    }
}

/// Writes an input that failed to a file. Returns its path.
fn kept(name: &str, input: &[u8]) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("found-by-{name}"));
    match fs::write(&path, input) {
        Ok(()) => format!("{}; add it to tests/fuzz/corpus/{name}", path.display()),
        Err(error) => format!("{input:02x?} ({}: {error})", path.display()),
    }
}

/// The committed inputs of a target, sorted by name.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).expect("a file"))).collect()
}
