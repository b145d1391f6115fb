//! `echoring bench --calibrate`: planted faults are counted exactly, the result is stored, and later records quote it.

use std::path::{Path, PathBuf};

use crate::support::program;
use serde_json::Value;

use program::{Run, command};

/// A folder for the state of these runs.
struct State(PathBuf);

impl State {
    fn new(name: &str) -> State {
        let folder = std::env::temp_dir().join(format!("echoring-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        State(folder)
    }

    /// The file of the calibration, by default.
    fn file(&self) -> PathBuf {
        self.0.join("echoring/calibration.json")
    }

    fn bench(&self, flags: &[&str]) -> Run {
        let mut command = command(&["bench"]);
        command.env("XDG_STATE_HOME", &self.0).args(flags).output().expect("the binary runs").into()
    }

    /// A short echo run.
    fn echo(&self, flags: &[&str]) -> (Run, Value) {
        let common = ["--mode", "echo", "-c", "4", "--rate", "500", "-d", "300ms", "--warmup", "0s"];
        let run = self.bench(&[&common[..], &["--allow-saturated", "--json", "-"], flags].concat());
        assert_eq!(run.code, Some(0), "{run}");
        let record = run.json()["runs"][0].take();
        (run, record)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("our own folder");
    }
}

fn stored(file: &Path) -> Value {
    let text = std::fs::read_to_string(file).expect("it was stored");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn faults_are_counted_exactly_and_later_records_quote_what_was_stored() {
    let state = State::new("calibrate");
    let run = state.bench(&["--calibrate", "--duration", "5s", "-c", "16", "--json", "-"]);
    assert_eq!(run.code, Some(0), "{run}");
    let found = run.json();
    assert_eq!(found, stored(&state.file()), "{run}");
    assert_eq!(found["schema"], "echoring.calibration/1", "{run}");
    let (planted, reported) = (&found["faults"]["planted"], &found["faults"]["reported"]);
    assert_eq!(planted, reported, "{run}");
    for kind in ["lost", "duplicated", "reordered", "corrupted"] {
        assert!(planted[kind].as_u64() > Some(0), "{kind}: {run}");
    }
    // The server kept each message as long as it was to, and the generator saw no less.
    let steps = found["steps"].as_array().expect("steps");
    for (delays, least_ns) in [("100 µs", 100_000), ("1.00 ms", 1_000_000), ("10.0 ms", 10_000_000)] {
        let step = steps.iter().find(|step| step["delays"] == delays).expect(delays);
        let ns = |name: &str| step["p50"][name].as_u64().unwrap_or(0);
        // Histograms are exact to three digits.
        assert!(ns("planted_ns") >= least_ns / 1_000 * 999, "{delays}: {run}");
        assert!(ns("measured_ns") >= least_ns / 1_000 * 999, "{delays}: {run}");
    }
    assert!(steps.iter().any(|step| step["delays"] == "mixed"), "{run}");
    assert!(steps.iter().any(|step| step["rate"].as_u64() > Some(5_000)), "{run}");
    let believed = &found["believed"];
    assert_eq!(believed["rate_max"].is_u64(), believed["p50_above_ns"].is_u64(), "{run}");

    let (run, record) = state.echo(&[]);
    let quoted = &record["calibration"];
    assert_eq!(quoted["measured_at"], found["measured_at"], "{run}");
    for name in ["p50_above_ns", "p99_above_ns", "p999_above_ns", "rate_max"] {
        assert_eq!(quoted[name], believed[name], "{name}: {run}");
    }
    let threads = record["config"]["threads"].as_u64().expect("a number") + 1;
    let (run, record) = state.echo(&["--threads", &threads.to_string()]);
    assert_eq!(record.get("calibration"), None, "it is of fewer threads: {run}");
    let file = state.file();
    let named = state.0.join("named.json");
    std::fs::rename(&file, &named).expect("our own file");
    let (run, record) = state.echo(&[]);
    assert_eq!(record.get("calibration"), None, "{run}");
    assert!(!run.stderr.contains("calibration"), "most hosts have none: {run}");
    let (run, record) = state.echo(&["--calibration", &named.to_string_lossy()]);
    assert_eq!(record["calibration"]["measured_at"], found["measured_at"], "{run}");
}

#[test]
fn a_file_that_is_no_calibration_is_one_warning() {
    let state = State::new("no-calibration");
    let file = state.file();
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("our own folder");
    for text in ["", "{}", "not JSON", "{\"schema\": \"echoring.calibration/0\"}"] {
        std::fs::write(&file, text).expect("our own file");
        let (run, record) = state.echo(&[]);
        assert_eq!(record.get("calibration"), None, "{run}");
        assert_eq!(run.stderr.matches("warning: no calibration is quoted: ").count(), 1, "{run}");
    }
}

#[test]
fn a_calibration_has_a_server_and_loads_of_its_own() {
    let state = State::new("calibrate-usage");
    for (flags, refused) in [
        (&["--calibrate", "ws://127.0.0.1:9001"][..], "URL: not with --calibrate"),
        (&["--calibrate", "--rate", "1000"], "--rate: not with --calibrate"),
        (&["--calibrate", "--duration", "61s"], "--duration: a calibration takes up to 60s"),
    ] {
        let run = state.bench(flags);
        assert_eq!(run.code, Some(2), "{run}");
        assert!(run.stderr.contains(refused), "{refused}: {run}");
    }
    assert!(!state.file().exists());
}
