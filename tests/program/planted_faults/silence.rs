//! A server that falls silent, as the figures of the run show it while it goes on, and in the end.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Output, Stdio};
use std::thread;
use std::time::Duration;

use super::planted::{Fault, Server};
use super::{command, finished, only};

/// The last figures that a run exports: of families without labels of their own, and of buckets.
fn scraped(address: &str) -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let of = |line: &str| {
        let (series, value) = line.strip_prefix("echoring_bench_")?.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{')?;
        let own = labels.split_once("target=")?.0.trim_end_matches(',');
        Some((format!("{name}{{{own}}}"), value.parse().ok()?))
    };
    answer.lines().filter_map(of).collect()
}

#[test]
fn a_silent_server_shows_while_it_is_silent_and_in_the_last_figures() {
    // Each of four connections gets 200 answers, in the first 0.4 s. 50 of 1,000 messages per connection and second are 1 % of all.
    let server = Server::start(Fault::Mute(200));
    let flags = ["-c", "4", "--rate", "2000", "-d", "1h", "--abort-if", "p99>700ms", "--drain", "2s"];
    let words = [&flags[..], &["--prometheus", "127.0.0.1:0", "--allow-saturated"]].concat();
    let child = command(&server, &words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the binary runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let metrics = lines.next().expect("a line");
    let address = metrics.strip_prefix("metrics http://").and_then(|rest| rest.strip_suffix("/metrics"));
    let address = address.unwrap_or_else(|| panic!("{metrics}")).to_owned();
    let mut stdout = child.stdout.take().expect("piped");
    let record = thread::spawn(move || {
        let mut record = Vec::new();
        stdout.read_to_end(&mut record).map(|_| record)
    });
    // Nothing comes any more, and what is awaited grows older.
    let mut told = Vec::new();
    let mut next = |what: &str| loop {
        told.push(lines.next().unwrap_or_else(|| panic!("{what}: {told:#?}")));
        if told.last().is_some_and(|line| line.contains(what)) {
            break;
        }
    };
    next(" unanswered, the oldest for ");
    let silent = scraped(&address);
    assert!(silent["messages_outstanding{}"] > 500.0, "{silent:?}");
    assert!(silent["outstanding_age_max_seconds{}"] > 0.9, "{silent:?}");
    assert!(silent["response_quantile_seconds{quantile=\"0.99\"}"] > 0.7, "{silent:?}");
    next("can be scraped");
    let last = scraped(&address);
    let stdout = record.join().expect("no panic").expect("read");
    let status = child.wait().expect("it ends");
    let run = finished(&words, Output { status, stdout, stderr: Vec::new() });
    assert_eq!(run.code, Some(1), "{told:#?}");
    assert_eq!(run.record["aborted_by"], "p99>700ms", "{told:#?}");
    assert!(run.record["duration_s"].as_f64().is_some_and(|seconds| seconds < 60.0), "{told:#?}");
    // The last figures are those of the record.
    assert_eq!((last["stage{stage=\"done\"}"], last["messages_outstanding{}"]), (1.0, 0.0), "{last:?}");
    assert_eq!(last["response_seconds_count{}"], run.count("/response_ns/count") as f64, "{last:?}");
    assert_eq!(last["integrity_total{kind=\"lost\"}"], run.count("/integrity/lost") as f64, "{last:?}");
    for (quantile, name) in [("0.5", "p50"), ("0.99", "p99"), ("0.999", "p999")] {
        let seconds = last[&format!("response_quantile_seconds{{quantile=\"{quantile}\"}}")];
        let ns = run.count(&format!("/response_ns/{name}"));
        assert_eq!((1e9 * seconds).round() as u64, ns, "{name}: {last:?}");
    }
    let whole = 1e-3 * run.ms("/response_ns/mean") * last["response_seconds_count{}"];
    assert!((last["response_seconds_sum{}"] / whole - 1.0).abs() < 1e-3, "{last:?}");
}

#[test]
fn a_signal_ends_the_drain_and_the_record_is_whole() {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    // Who ignores the end of the terminal, as under nohup, has children that do so too.
    let ignores_hangup = u64::from_str_radix(ignored.trim(), 16).expect("a mask") & 1 == 1;
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::HUP] {
        if ignores_hangup && signal == rustix::process::Signal::HUP {
            continue;
        }
        let server = Server::start(Fault::Mute(50));
        let flags = ["-c", "2", "--rate", "200", "-d", "1s", "--drain", "1h", "--allow-saturated"];
        let mut child = command(&server, &flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        lines.find(|line| line.contains("waiting for messages in flight")).expect("it drains");
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(id, signal).expect("a running child");
        let rest: Vec<String> = lines.collect();
        let run = finished(&flags, child.wait_with_output().expect("it ends"));
        assert_eq!(run.code, Some(130), "{rest:?}");
        assert_eq!(run.integrity(), only(&[("lost", 100)], &run), "{}", run.told);
        assert_eq!(run.count("/response_ns/count"), 200, "{}", run.told);
        assert!(run.ms("/response_ns/max") < 60_000.0, "as old as it was then: {}", run.told);
        server.finish();
    }
}
