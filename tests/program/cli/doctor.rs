//! `echoring doctor` as a script sees it.

use serde_json::Value;

use super::{File, output, text};

/// A configuration that needs next to nothing of its host.
const MODEST: &[u8] = b"shards = 1\ndriver = \"epoll\"\nmax_connections = 10\nmemory_budget = \"16MiB\"\n";
/// One that no host of these tests can serve.
const IMPOSSIBLE: &[u8] = b"shards = 1\ncpus = \"1023\"\n";

fn doctor(config: &File, flags: &[&str]) -> std::process::Output {
    output(&[&["doctor", "--config", config.path()], flags].concat())
}

#[test]
fn the_verdict_of_doctor_is_its_exit_code() {
    for (name, bytes, code) in [("modest", MODEST, 0), ("impossible", IMPOSSIBLE, 1)] {
        let config = File::new(name, bytes);
        let told = doctor(&config, &[]);
        let lines = text(&told.stdout);
        assert_eq!((told.status.code(), text(&told.stderr)), (Some(code), String::new()), "{lines}");
        let verdict = lines.lines().last().expect("a verdict");
        assert_eq!(verdict.starts_with("red: "), code == 1, "{lines}");
        assert_eq!(lines.lines().any(|line| line.starts_with("red ")), code == 1, "{lines}");

        let told = doctor(&config, &["--json"]);
        let json: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        assert_eq!((told.status.code(), json["verdict"] == "red"), (Some(code), code == 1), "{json}");
    }
}

#[test]
fn doctor_tells_a_wrong_configuration_from_one_that_it_cannot_read() {
    let unknown = File::new("doctor-unknown", b"max_mesage = 1\n");
    let unreadable = File::new("doctor-unreadable", b"[auth]\njwt_key = \"/nowhere/key.pem\"\n");
    for (arguments, code, words) in [
        (&["doctor", "--colour"][..], 2, "--colour"),
        (&["doctor", "here"], 2, "here"),
        (&["doctor", "--config", unknown.path()], 2, "did you mean `max_message`?"),
        (&["doctor", "--config", "/nowhere/echoring.toml"], 3, "/nowhere/echoring.toml"),
        (&["doctor", "--config", unreadable.path()], 3, "/nowhere/key.pem"),
    ] {
        let told = output(arguments);
        let stderr = text(&told.stderr);
        assert_eq!(told.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!((stderr.lines().count(), text(&told.stdout)), (1, String::new()), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[test]
fn both_drivers_are_measured_on_request() {
    let config = File::new("measured", MODEST);
    let told = doctor(&config, &["--measure", "--json"]);
    let json: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!((told.status.code(), text(&told.stderr)), (Some(0), String::new()), "{json}");
    let checks = json["checks"].as_array().expect("checks");
    let line = checks.iter().find(|check| check["id"] == "drivers").expect("a line");
    let drivers = &json["drivers"];
    // Not where there is no io_uring.
    if line["finding"] != "only epoll runs here" {
        for figure in ["uring_cpu_ns", "epoll_cpu_ns", "ratio_low", "ratio", "ratio_high"] {
            assert!(drivers[figure].as_f64() > Some(0.0), "{figure}: {json}");
        }
        assert_eq!(drivers["pairs"], 8, "{json}");
    }
}
