//! The files of `echoring bench`, and what `echoring report` makes of them: the real binary, its files, its exit codes,
//! and the address that is scraped during a run.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use echoring_load::measure;
use echoring_load::record::{File, Quantiles};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

/// A directory of a test's own, gone when it ends.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("echoring-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Directory(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn runs(&self, name: &str) -> File {
        serde_json::from_str(&self.read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echoring"));
    command.args(words).stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(words).output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// A short run on an embedded server.
const SHORT: [&str; 7] = ["bench", "-c", "5", "-d", "1200ms", "--warmup", "100ms"];

fn bench(words: &[&str]) -> (Option<i32>, String, String) {
    run(&[&SHORT[..], words].concat())
}

/// All intervals of a log, added up.
fn logged(text: &str) -> Histogram<u64> {
    let mut sum = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("valid bounds");
    let mut starts = Vec::new();
    for entry in IntervalLogIterator::new(text.as_bytes()) {
        if let LogEntry::Interval(interval) = entry.expect("well-formed")
            && interval.tag().map(|tag| tag.as_str()) == Some("response")
        {
            sum.add(measure::decode(interval.encoded_histogram()).expect("encoded")).expect("in bounds");
            starts.push(interval.start_timestamp());
        }
    }
    assert_eq!(starts, [0, 1].map(Duration::from_secs), "an interval a second");
    sum
}

#[test]
fn files_for_other_tools_hold_what_the_record_says() {
    let directory = Directory::new("files");
    let file = |name: &str| directory.file(name);
    let (json, hlog, csv, hgrm) = (file("run.json"), file("run.hlog"), file("run.csv"), file("run"));
    let flags = ["--json", &json, "--hlog", &hlog, "--csv", &csv, "--hgrm", &hgrm, "--label", "a test"];
    let (code, stdout, stderr) = bench(&flags);
    assert!(code == Some(0) && stdout.contains("| response"), "{code:?}\n{stdout}\n{stderr}");
    let runs = directory.runs("run.json").runs;
    assert_eq!(runs.len(), 2);
    for (record, mode) in runs.iter().zip(["echo", "broadcast"]) {
        assert_eq!((record.config.mode.name(), record.label.as_deref()), (mode, Some("a test")));
        for (text, quantiles) in [
            (&record.response_histogram, &record.response_ns),
            (&record.service_histogram, &record.service_ns),
        ] {
            let whole = measure::decode(text.as_deref().expect("written")).expect("a distribution");
            let found = Quantiles::of(&whole);
            assert_eq!(
                (found.count, found.p50, found.p999),
                (quantiles.count, quantiles.p50, quantiles.p999)
            );
        }
        let sum = logged(&directory.read(&format!("run.{mode}.hlog")));
        assert_eq!(sum.len(), record.messages, "{mode}");
        let rows = directory.read(&format!("run.{mode}.csv"));
        let messages = rows.lines().skip(1).filter_map(|row| row.split(',').nth(2)?.parse::<u64>().ok());
        assert_eq!(messages.sum::<u64>(), record.messages, "{rows}");
        assert!(directory.read(&format!("run.{mode}")).contains("#[Max"));
    }
    for name in ["run.hlog", "run.csv", "run"] {
        assert!(!Path::new(&file(name)).exists(), "{name} is nobody's");
    }
}

#[test]
fn a_sample_of_all_messages_has_the_values_of_the_distributions() {
    let directory = Directory::new("samples");
    let (json, csv) = (directory.file("run.json"), directory.file("messages.csv"));
    let flags =
        ["--json", &json, "--samples", "1/1", "--samples-file", &csv, "--rate", "2000", "--allow-saturated"];
    let (code, _, stderr) = bench(&flags);
    assert_eq!(code, Some(0), "{stderr}");
    for record in directory.runs("run.json").runs {
        let mode = record.config.mode.name();
        let text = directory.read(&format!("messages.{mode}.csv"));
        let mut rows = text.lines().map(|row| row.split(',').collect::<Vec<_>>());
        let columns = rows.next().expect("the names of the columns");
        let column = |name: &str| columns.iter().position(|column| *column == name).expect("a column");
        let rows: Vec<_> = rows.collect();
        let sampled = record.samples.expect("it was asked for");
        assert_eq!((sampled.share, sampled.picked, sampled.left_out), (1.0, rows.len() as u64, 0), "{mode}");
        for (name, recorded) in
            [("response_ns", &record.response_histogram), ("service_ns", &record.service_histogram)]
        {
            let mut values = measure::histogram();
            for row in &rows {
                values.saturating_record(row[column(name)].parse().expect("a number"));
            }
            let recorded = measure::decode(recorded.as_deref().expect("written")).expect("a distribution");
            assert_eq!(values, recorded, "{mode} {name}");
        }
        let time = |row: &Vec<&str>, name: &str| row[column(name)].parse::<i64>().expect("a time");
        let intended: Vec<i64> = rows.iter().map(|row| time(row, "intended_ns")).collect();
        assert!(intended.is_sorted() && intended.iter().all(|at| (0..1_200_000_000).contains(at)), "{mode}");
        for row in &rows {
            assert_eq!((row[column("outcome")], row[column("weight")]), ("ok", "1"), "{mode}: {row:?}");
            assert_eq!(row[column("publisher")].is_empty(), mode == "echo", "{row:?}");
            let took = time(row, "arrived_ns") - time(row, "intended_ns");
            assert_eq!(took, time(row, "response_ns"), "{row:?}");
        }
        let mut names: Vec<_> = rows
            .iter()
            .map(|row| ["connection", "publisher", "sequence"].map(|name| row[column(name)]))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rows.len(), "{mode}: each message once");
    }
}

#[test]
fn samples_of_repeated_runs_have_a_file_each() {
    let directory = Directory::new("repeated-samples");
    let (json, csv) = (directory.file("run.json"), directory.file("messages.csv"));
    let flags =
        ["--mode", "echo", "--repeat", "2", "--json", &json, "--samples", "1/1", "--samples-file", &csv];
    let (code, _, stderr) = bench(&[&flags[..], &["--rate", "500", "--allow-saturated"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let runs = directory.runs("run.json").runs;
    assert_eq!(runs.len(), 2);
    for (number, record) in (1..).zip(runs) {
        let rows = directory.read(&format!("messages.{number}.csv")).lines().count() as u64 - 1;
        assert_eq!((rows, record.samples.map(|found| found.picked)), (record.response_ns.count, Some(rows)));
        assert!(rows > 0);
    }
}

#[test]
fn a_sample_needs_a_share_and_a_file() {
    for (flags, told) in [
        (&["--samples", "1/1000"][..], "--samples: name a file too"),
        (&["--samples-file", "a.txt"], "a.txt: expected a file that ends in .csv"),
        (&["--samples", "2/1", "--samples-file", "a.csv"], "expected a share above 0 and up to 1"),
    ] {
        let (code, stdout, stderr) = bench(flags);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(told), "{stderr}");
    }
}

#[test]
fn ci_servers_get_the_checks_of_all_runs() {
    let directory = Directory::new("checks");
    let (junit, markdown) = (directory.file("bench.xml"), directory.file("summary.md"));
    std::fs::write(&markdown, "# Before\n").expect("written");
    let flags = [
        "--junit",
        &junit,
        "--markdown",
        &markdown,
        "--allow-saturated",
        "--fail-if",
        "max>0ns",
        "--fail-if",
        "lost>0",
    ];
    let (code, _, stderr) = bench(&flags);
    assert_eq!(code, Some(1), "{stderr}");
    let xml = directory.read("bench.xml");
    // Echo and broadcast, with two checks of their own each.
    assert!(xml.contains("<testsuites name=\"echoring bench\" tests=\"8\" failures=\"2\">"), "{xml}");
    for mode in ["echo", "broadcast"] {
        let case = format!("<testcase classname=\"echoring.bench.{mode}\" name=\"");
        assert_eq!(xml.matches(&format!("{case}integrity\"")).count(), 1, "{xml}");
        assert_eq!(xml.matches(&format!("{case}--fail-if max&gt;0ns\"")).count(), 1, "{xml}");
    }
    assert_eq!(xml.matches("<failure message=\"max is ").count(), 2, "{xml}");
    let text = directory.read("summary.md");
    assert!(text.starts_with("# Before\n### echo of embedded: "), "{text}");
    assert_eq!(text.matches("1 of 4 checks failed").count(), 2, "{text}");
    assert_eq!(text.matches("| --fail-if lost\\>0 | passed |").count(), 2, "{text}");

    let (code, _, stderr) = bench(&["--mode", "echo", "--junit", "/dev/full", "--allow-saturated"]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("/dev/full could not be written"), "{stderr}");
}

#[test]
fn slices_of_a_record_add_up_to_the_run() {
    let directory = Directory::new("slices");
    let json = directory.file("run.json");
    let flags = ["--mode", "echo", "--rate", "500", "--allow-saturated", "--json", &json];
    let (code, _, stderr) = bench(&flags);
    assert_eq!(code, Some(0), "{stderr}");
    let record = directory.runs("run.json").runs.remove(0);
    let timeline = record.timeline.expect("a new record has it");
    assert_eq!((timeline.slice_s, timeline.sent.len()), (0.1, 12));
    let sum = |counts: &[u64]| counts.iter().sum::<u64>();
    assert_eq!(timeline.due.as_deref().map(sum), Some(600));
    assert_eq!(sum(&timeline.arrived), record.messages);
    // The connections opened before, and stay.
    assert_eq!((timeline.open, sum(&timeline.opened)), (vec![5; 12], 0));
    assert_eq!(sum(&timeline.errors) + sum(&timeline.closed), 0);
    let mut timed = 0;
    for (text, arrived) in timeline.response_histograms.iter().zip(&timeline.arrived) {
        let values = text.as_deref().map_or(0, |text| measure::decode(text).expect("it is one").len());
        assert_eq!(values, *arrived);
        timed += values;
    }
    assert_eq!(timed, record.messages);
    let server = timeline.server.expect("an embedded server is known");
    assert!(server.at_s.len() >= 2 && server.at_s.is_sorted() && server.cpu_ns.is_sorted(), "{server:?}");
    assert_eq!((server.cpu_ns.len(), server.rss_bytes.len()), (server.at_s.len(), 0), "memory is shared");
}

#[test]
fn a_full_disk_loses_the_file_and_nothing_else() {
    let directory = Directory::new("full");
    let csv = directory.file("run.csv");
    for full in ["--json", "--hgrm", "--hlog"] {
        // With one mode files are called as they were named.
        let (code, stdout, stderr) = bench(&["--mode", "echo", full, "/dev/full", "--csv", &csv]);
        assert_eq!(code, Some(3), "{full}: {stderr}");
        assert!(stdout.contains("| response") && stdout.contains("integrity"), "{full}: {stdout}");
        let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{full}: {stderr}");
        assert!(errors[0].contains("/dev/full could not be written"), "{full}: {stderr}");
        assert!(directory.read("run.csv").lines().count() > 1, "{full}: the other file is written");
        std::fs::remove_file(&csv).expect("written");
    }
}

/// An HTTP server's response to one request.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn sample(text: &str, name: &str) -> f64 {
    // Every sample says whom it is of, behind what else it says.
    let labelled =
        name.strip_suffix('}').map(|name| format!("{name},")).unwrap_or_else(|| format!("{name}{{"));
    let start = format!("echoring_bench_{labelled}target=\"embedded\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in:\n{text}"))
}

/// A run whose figures can be scraped: the process, its further output, and the address.
fn start_scraped(words: &[&str]) -> (Child, impl Iterator<Item = String>, String) {
    let mut child = command(&[words, &["--prometheus", "127.0.0.1:0"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let metrics = lines.next().expect("a line");
    let address = metrics.strip_prefix("metrics http://").and_then(|rest| rest.strip_suffix("/metrics"));
    let address = address.unwrap_or_else(|| panic!("{metrics}")).to_owned();
    (child, lines, address)
}

#[test]
fn a_run_can_be_scraped_and_watched_while_it_goes_on() {
    let words = ["bench", "-c", "5", "-d", "100s", "--warmup", "0s", "--mode", "echo", "--rate", "500"];
    let (mut child, mut lines, address) = start_scraped(&words);
    // The live line has quantiles as soon as a second is over, and so have the figures.
    let live = lines.find(|line| line.contains("p99.9")).expect("progress is told");
    for part in ["echo: measuring, ", " s left, ", " messages/s, p50 ", ", p99 "] {
        assert!(live.contains(part), "{part}: {live}");
    }
    let first = get(&address, "/metrics");
    assert!(first.starts_with("HTTP/1.1 200 ") && first.contains("text/plain; version=0.0.4"), "{first}");
    assert_eq!(sample(&first, "stage{stage=\"measuring\"}"), 1.0);
    assert_eq!(sample(&first, "connections_open"), 5.0);
    assert_eq!(sample(&first, "target_messages_per_second"), 500.0);
    let count = sample(&first, "response_seconds_count");
    assert!(count > 0.0 && sample(&first, "response_seconds_bucket{le=\"+Inf\"}") == count, "{first}");
    assert!(sample(&first, "messages_received_total") >= count);
    assert!(get(&address, "/").starts_with("HTTP/1.1 404 "));
    lines.find(|line| line.contains("p99.9")).expect("another line, a second later");
    let second = get(&address, "/metrics");
    assert!(sample(&second, "response_seconds_count") > count, "figures grow");
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("a running child");
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{rest:?}");
}

#[test]
fn the_last_figures_can_be_scraped() {
    let words = ["bench", "-c", "2", "-d", "1500ms", "--warmup", "0s", "--mode", "echo", "--depth", "1"];
    let (child, mut lines, address) = start_scraped(&words);
    lines.find(|line| line.contains("measuring")).expect("it says when it measures");
    let before = sample(&get(&address, "/metrics"), "messages_received_total");
    // Who has scraped is waited for, once everything was printed.
    lines.find(|line| line.contains("can be scraped")).expect("it says that it waits");
    let last = get(&address, "/metrics");
    let all = sample(&last, "messages_received_total");
    assert!(all > before && sample(&last, "response_seconds_count") + 4.0 >= all, "{last}");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let echoed: u64 = table
        .lines()
        .find_map(|line| line.split_once(" messages echoed"))
        .map_or(0, |(count, _)| count.replace(',', "").parse().expect("a count"));
    // What was under way at the end came in the drain.
    assert!((echoed as f64) <= all && all <= echoed as f64 + 4.0, "{table}");
}

#[test]
fn too_little_address_space_is_told_and_nothing_is_started() {
    let under = |limit_kb: u32, words: &str| {
        let shell = format!("ulimit -v {limit_kb} && exec {} {words}", env!("CARGO_BIN_EXE_echoring"));
        Command::new("sh").args(["-c", &shell]).output().expect("a shell")
    };
    // In kB, as the shell counts it: what the program itself takes depends on how it was compiled.
    let taken_kb =
        (16_000..1_000_000).step_by(2_000).find(|&limit| under(limit, "--version").status.success());
    let taken_kb = taken_kb.expect("a limit under which it runs");
    for more_kb in [18_000, 36_000] {
        let output = under(taken_kb + more_kb, "bench -c 5 -d 1s");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains("ulimit -v"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn an_address_that_is_taken_is_one_line_before_anything_runs() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let (code, stdout, stderr) = bench(&["--prometheus", &address]);
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(3), "", 1), "{stderr}");
    assert!(stderr.starts_with("error: --prometheus: cannot listen on "), "{stderr}");
}

#[test]
fn a_scenario_makes_its_runs_in_order_and_flags_win() {
    let directory = Directory::new("scenario");
    let scenario = directory.file("two.toml");
    let text = "mode = 'echo'\nconnections = 4\nduration = '100s'\nwarmup = '0s'\njson = 'two.json'\ncsv = 'two.csv'\n\
                [[run]]\nlabel = 'first'\nrate = 200\n[[run]]\nlabel = 'second'\ndepth = 2\nconnections = 2\n";
    std::fs::write(&scenario, text).expect("written");
    let (code, _, stderr) = run(&["bench", "-f", &scenario, "-d", "300ms"]);
    assert!(matches!(code, Some(0 | 4)), "{code:?}: {stderr}");
    let runs = directory.runs("two.json").runs;
    let told = |at: usize| {
        let (label, config) = (runs[at].label.as_deref(), &runs[at].config);
        let rate = config.rate.as_ref().and_then(serde_json::Number::as_u64);
        (label, config.connections, rate, config.depth, config.duration_s)
    };
    assert_eq!(runs.len(), 2);
    assert_eq!(told(0), (Some("first"), 4, Some(200), None, 0.3));
    assert_eq!(told(1), (Some("second"), 2, None, Some(2), 0.3));
    assert!(
        directory.read("two.1.csv").starts_with("at_s,") && directory.read("two.2.csv").starts_with("at_s,")
    );

    for (text, told) in [
        ("connection = 4", "two.toml:1:1: connection: there is no such key; did you mean `connections`?"),
        ("[[run]]\nrate = 5\n[[run]]\nconnections = 0", "error: run 2: --connections: expected 1 to"),
        (
            "[[run]]\nrate = 5\n[[run]]\nrate = 5\nreplay_speed = 2",
            "error: run 2: --replay-speed: only with --replay, such as --replay day.jsonl --replay-speed 2",
        ),
    ] {
        std::fs::write(&scenario, text).expect("written");
        let (code, stdout, stderr) = run(&["bench", "-f", &scenario]);
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(2), "", 1), "{stderr}");
        assert!(stderr.contains(told), "{stderr}");
    }
    let (code, _, stderr) = run(&["bench", "-f", &directory.file("none.toml")]);
    assert_eq!((code, stderr.lines().count()), (Some(3), 1), "{stderr}");
}

#[test]
fn a_report_is_made_of_the_files_that_runs_left() {
    let directory = Directory::new("report");
    let file = |name: &str| directory.file(name);
    let (one, two, page) = (file("one.json"), file("two.json"), file("page.html"));
    for json in [&one, &two] {
        let (code, _, stderr) = bench(&["--mode", "echo", "--rate", "300", "--json", json]);
        assert!(matches!(code, Some(0 | 4)), "{code:?}: {stderr}");
    }
    let words = ["report", &one, &two, "--out", &page, "--title", "Both & more"];
    let (code, stdout, stderr) = run(&words);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), "", ""));
    let html = directory.read("page.html");
    assert!(html.starts_with("<!doctype html>") && html.contains("<title>Both &amp; more</title>"));
    assert!(html.contains("A: echo of embedded") && html.contains("B: echo of embedded"));
    let (code, stdout, _) = run(&["report", &one, "--out", "-"]);
    assert!(code == Some(0) && stdout.starts_with("<!doctype html>"));

    std::fs::write(file("other.json"), "{\"schema\": \"another\"}").expect("written");
    for (words, expected, told) in [
        (["report", &file("other.json"), "--out", &page], 2, "its schema is another"),
        (["report", &file("none.json"), "--out", &page], 3, "cannot read"),
        (["report", &one, "--out", "/dev/full"], 3, "/dev/full could not be written"),
    ] {
        let (code, stdout, stderr) = run(&words);
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(expected), "", 1), "{stderr}");
        assert!(stderr.contains(told), "{stderr}");
    }
    let (code, _, stderr) = run(&["report"]);
    assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
}
