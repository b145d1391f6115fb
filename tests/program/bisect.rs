//! `echoring bisect` on real repositories, whose commits contain the figure that a command prints.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::program;
use rustix::process::Signal;
use serde_json::Value;

use program::{Run, command, signal};

/// A repository in a temporary folder. Each commit has a file `figure`, and may have `broken`.
struct History {
    folder: PathBuf,
    commits: Vec<String>,
}

impl History {
    fn new(name: &str) -> History {
        let folder = std::env::temp_dir().join(format!("echoring-bisect-test-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("tmp")).expect("a folder");
        let history = History { folder, commits: Vec::new() };
        history.git(&["init", "--quiet", "--initial-branch", "main"]);
        history.write("tmp/.gitignore", "*");
        // Prints the figure, with a noise that differs in each run and is the same in every test, whatever the host's awk is.
        history.write(
            "measure",
            "#!/bin/sh\n\
             count=$(cat \"$COUNTER\" 2>/dev/null || echo 0)\n\
             echo $((count + 1)) >\"$COUNTER\"\n\
             echo measured $PWD\n\
             awk -v count=$count -v figure=$(cat figure) 'BEGIN {\n\
                 noise = 7919 * count + 1; for (i = 0; i < 5; i++) noise = (noise * noise + 12345) % 65537\n\
                 print figure * (1 + 0.02 * noise / 65537) }'\n",
        );
        fs::set_permissions(history.folder.join("measure"), fs::Permissions::from_mode(0o755))
            .expect("a file");
        history
    }

    fn git(&self, words: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.folder).args(["-c", "user.name=A", "-c", "user.email=a@localhost"]);
        git.args(["-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"]).args(words);
        let output = git.output().expect("git runs");
        assert!(output.status.success(), "{words:?}: {}", Run::from(output));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("a file");
    }

    /// Commits everything, with this figure.
    fn commit(&mut self, figure: f64) {
        self.write("figure", &figure.to_string());
        let number = self.commits.len();
        self.write("number", &number.to_string());
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", &format!("Commit {number}")]);
        self.commits.push(self.git(&["rev-parse", "HEAD"]));
    }

    /// Commits with these figures.
    fn with(name: &str, figures: &[f64]) -> History {
        let mut history = History::new(name);
        figures.iter().for_each(|figure| history.commit(*figure));
        history
    }

    fn command(&self, flags: &[&str], measure: &[&str]) -> Command {
        let (good, bad) = (&self.commits[0], &self.commits[self.commits.len() - 1]);
        let repo = self.folder.to_str().expect("text");
        let mut command = command(&["bisect", good, bad, "--repo", repo]);
        // The noise depends on the number of the run, and the order on the seed: the same pairs in every test.
        command.args(["--seed", "7"]).args(flags).arg("--").args(measure);
        command.env("TMPDIR", self.folder.join("tmp")).env("COUNTER", self.folder.join("tmp/counter"));
        command
    }

    fn bisect(&self, flags: &[&str], measure: &[&str]) -> (Run, Value) {
        let run: Run =
            self.command(&[&["--json", "-"], flags].concat(), measure).output().expect("it runs").into();
        let json = run.json();
        self.assert_clean(&run);
        (run, json)
    }

    /// Nothing is left of the worktrees.
    fn assert_clean(&self, run: &Run) {
        assert_eq!(self.git(&["worktree", "list"]).lines().count(), 1, "{run}");
        assert_eq!(self.git(&["status", "--porcelain"]), "", "{run}");
        let left: Vec<_> = self.left().collect();
        assert!(left.is_empty(), "{left:?}: {run}");
    }

    fn left(&self) -> impl Iterator<Item = PathBuf> {
        let folder = fs::read_dir(self.folder.join("tmp")).expect("a folder");
        folder.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir())
    }
}

impl Drop for History {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Figures of a history that gets 30 % worse at commit `bad`.
fn worse_from(bad: usize, commits: usize) -> Vec<f64> {
    (0..commits).map(|commit| if commit >= bad { 130.0 } else { 100.0 }).collect()
}

#[test]
fn the_first_bad_commit_is_named_with_its_ratio() {
    for (bad, flags) in [(1, &[][..]), (7, &["--build", "cp figure built && test -d ."]), (11, &[])] {
        let history = History::with(&format!("found-{bad}"), &worse_from(bad, 12));
        let (run, json) = history.bisect(flags, &["./measure"]);
        assert_eq!(run.code, Some(0), "{run}");
        assert_eq!(json["schema"], "echoring.bisection/1");
        assert_eq!((&json["outcome"], &json["commits"]), (&"found".into(), &11.into()), "{run}");
        assert_eq!(json["first_bad"]["commit"], history.commits[bad], "{run}");
        assert_eq!(json["first_bad"]["subject"], format!("Commit {bad}"), "{run}");
        let steps = json["steps"].as_array().expect("steps");
        assert!((2..=5).contains(&steps.len()), "{run}");
        for step in steps {
            let true_ratio = if step["verdict"] == "bad" { 1.3 } else { 1.0 };
            let [low, ratio, high] =
                ["ratio_low", "ratio", "ratio_high"].map(|name| step[name].as_f64().expect(name));
            // One interval of twenty does not contain the true ratio; it is near.
            let is_near = low <= 1.01 * true_ratio && 0.99 * true_ratio <= high;
            assert!(is_near && (ratio / true_ratio - 1.0).abs() < 0.03, "{run}");
            assert!(step["pairs"].as_u64().is_some_and(|pairs| (7..40).contains(&pairs)), "{run}");
        }
        assert!(run.stderr.contains("step 1: "), "{run}");
    }
}

#[test]
fn the_result_is_told_in_words() {
    let history = History::with("words", &worse_from(3, 5));
    let run: Run = history.command(&[], &["./measure"]).output().expect("it runs").into();
    history.assert_clean(&run);
    let first = run.stdout.lines().next().expect("a line");
    assert_eq!(first, format!("first bad commit: {} Commit 3", history.commits[3]), "{run}");
    assert!(run.stdout.contains("× GOOD (") && run.stdout.contains("at most 5 % of such searches"), "{run}");
}

#[test]
fn equal_commits_have_no_difference_and_neither_has_an_improvement() {
    for (name, last) in [("equal", 100.0), ("better", 70.0)] {
        let history = History::with(name, &[100.0, 100.0, last]);
        let (run, json) = history.bisect(&[], &["./measure"]);
        assert_eq!((run.code, &json["outcome"]), (Some(1), &"no_difference".into()), "{run}");
        assert_eq!(json["steps"].as_array().map(Vec::len), Some(1), "{run}");
        // Where more is better, the improvement is a regression.
        let (run, json) = history.bisect(&["--worse", "lower"], &["./measure"]);
        let expected = if last < 100.0 { (Some(0), "found") } else { (Some(1), "no_difference") };
        assert_eq!((run.code, json["outcome"].as_str()), (expected.0, Some(expected.1)), "{run}");
    }
}

#[test]
fn commits_that_cannot_be_measured_are_skipped() {
    let mut history = History::new("skipped");
    for number in 0..9 {
        // The middle one does not build, and its neighbour asks to be skipped.
        history.write(
            "broken",
            match number {
                4 => "build",
                3 => "measure",
                _ => "",
            },
        );
        history.commit(if number >= 6 { 130.0 } else { 100.0 });
    }
    let build = "if grep -q build broken; then echo cannot compile >&2; exit 2; fi";
    let measure = ["sh", "-c", "grep -q measure broken && exit 125; ./measure"];
    let (run, json) = history.bisect(&["--build", build], &measure);
    assert_eq!(json["first_bad"]["commit"], history.commits[6], "{run}");
    assert_eq!(run.code, Some(0), "{run}");
    let skipped = json["skipped"].as_array().expect("skipped");
    assert!(
        skipped.iter().any(|commit| commit["why"].as_str().is_some_and(|why| why.contains("cannot compile"))),
        "{run}"
    );
    assert!(run.stderr.contains("exit code 125"), "{run}");
}

#[test]
fn if_only_skipped_commits_are_left_all_of_them_are_named() {
    let mut history = History::new("only-skipped");
    for number in 0..6 {
        history.write("broken", if [2, 3].contains(&number) { "yes" } else { "" });
        history.commit(if number >= 3 { 130.0 } else { 100.0 });
    }
    let (run, json) = history.bisect(&["--build", "! grep -q yes broken"], &["./measure"]);
    assert_eq!(
        (run.code, &json["outcome"], &json["first_bad"]),
        (Some(4), &"undecided".into(), &Value::Null),
        "{run}"
    );
    let named: Vec<&str> = json["candidates"]
        .as_array()
        .expect("commits")
        .iter()
        .filter_map(|commit| commit["commit"].as_str())
        .collect();
    assert_eq!(named, [&history.commits[2], &history.commits[3], &history.commits[4]], "{run}");
}

#[test]
fn a_noise_larger_than_the_regression_is_undecided() {
    let history = History::with("undecided", &[100.0, 105.0]);
    // Of the pairs, which follow one trial run, every second one has a ratio below the threshold, whichever commit is run first.
    let alternating = r#"count=$(cat "$COUNTER" 2>/dev/null || echo 0); echo $((count + 1)) >"$COUNTER"
        [ "$(cat figure)" = 100 ] && echo 100 || echo $((100 + 10 * ((count + 1) / 2 % 2)))"#;
    let (run, json) = history.bisect(&["--pairs-max", "10"], &["sh", "-c", alternating]);
    assert_eq!((run.code, &json["outcome"]), (Some(4), &"undecided".into()), "{run}");
    assert_eq!(json["steps"][0]["pairs"], 10, "{run}");
}

#[test]
fn a_merge_counts_as_one_commit() {
    let mut history = History::with("merge", &[100.0, 100.0]);
    history.git(&["checkout", "--quiet", "-b", "side"]);
    let mainline = history.commits.len();
    history.commit(130.0);
    history.commit(130.0);
    history.commits.truncate(mainline);
    history.git(&["checkout", "--quiet", "main"]);
    history.git(&["merge", "--quiet", "--no-ff", "--message", "Merge the side", "side"]);
    history.commits.push(history.git(&["rev-parse", "HEAD"]));
    history.commit(130.0);
    let (run, json) = history.bisect(&[], &["./measure"]);
    assert_eq!(
        (&json["commits"], &json["first_bad"]["subject"]),
        (&3.into(), &"Merge the side".into()),
        "{run}"
    );
}

#[test]
fn run_records_are_read_by_their_metric() {
    let history = History::with("records", &worse_from(2, 4));
    let record = r#"printf '{"schema": "echoring.run/1", "runs": [{"config": {"mode": "echo"}, "messages_per_s": %s}]}' $(./measure | tail -n 1)"#;
    let measure = ["sh", "-c", record];
    let (run, json) = history.bisect(&["--metric", "messages_per_s", "--worse", "higher"], &measure);
    assert_eq!(json["first_bad"]["commit"], history.commits[2], "{run}");
    // More messages are better.
    let (run, json) = history.bisect(&["--metric", "messages_per_s"], &measure);
    assert_eq!(
        (run.code, &json["metric"], &json["worse"]),
        (Some(1), &"messages_per_s".into(), &"lower".into()),
        "{run}"
    );
}

#[test]
fn errors_name_the_cause_and_leave_nothing() {
    let history = History::with("errors", &[100.0, 130.0]);
    for (flags, measure, code, named) in [
        (&[][..], &["./nothing"][..], 3, "GOOD: "),
        (&[], &["sh", "-c", "echo out of memory >&2; exit 1"], 3, "out of memory"),
        (&[], &["echo", "fast"], 2, "`fast`"),
        (&["--metric", "p99"], &["echo", "1"], 2, "bench --json -"),
        (&["--build", "echo no compiler >&2; false"], &["./measure"], 3, "no compiler"),
        (&["--timeout", "10ms"], &["sleep", "600"], 3, "longer than 10ms"),
        (&["--repo", "/nowhere"], &["./measure"], 2, "--repo"),
        (&["--threshold", "0"], &["./measure"], 2, "--threshold"),
        (&["--metric", "fast"], &["./measure"], 2, "unknown metric"),
    ] {
        let mut command = history.command(&[], measure);
        if let Some(("--repo", _)) = flags.first().map(|flag| (*flag, ())) {
            command = program::command(&["bisect", "a", "b", flags[0], flags[1], "--", "true"]);
        } else if !flags.is_empty() {
            command = history.command(flags, measure);
        }
        let run: Run = command.output().expect("it runs").into();
        assert_eq!(run.code, Some(code), "{flags:?} {measure:?}: {run}");
        assert!(
            run.stderr.lines().last().is_some_and(|line| line.contains(named)),
            "{flags:?} {measure:?}: {run}"
        );
        history.assert_clean(&run);
    }
    let repo = history.folder.to_str().expect("text");
    let (one, other) = (&history.commits[0], &history.commits[1]);
    for (good, bad, named) in [
        (other, one, "not an ancestor"),
        (one, one, "same commit"),
        (&"--help-me".to_owned(), one, "unexpected argument"),
        (&"nowhere".to_owned(), one, "GOOD: `nowhere` is not a commit"),
    ] {
        let run: Run = program::command(&["bisect", good, bad, "--repo", repo, "--", "true"])
            .output()
            .expect("it runs")
            .into();
        assert_eq!(run.code, Some(2), "{run}");
        assert!(run.stderr.contains(named), "{named}: {run}");
    }
}

#[test]
fn an_interruption_ends_the_commands_and_removes_the_worktrees() {
    for stop in [Signal::INT, Signal::TERM, Signal::HUP] {
        let history = History::with("interrupted", &[100.0, 130.0]);
        let started = history.folder.join("tmp/started");
        // The command has a child that would go on, and tells both ids.
        let measure = "sleep 600 & echo $$ $! >\"$STARTED\"; echo >\"$FIFO\"; wait";
        let fifo = history.folder.join("tmp/fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
        let mut command = history.command(&["--json", "-"], &["sh", "-c", measure]);
        command.env("STARTED", &started).env("FIFO", &fifo);
        let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        // Opening waits for the command.
        BufReader::new(fs::File::open(&fifo).expect("a fifo")).lines().next().expect("a line").expect("text");
        signal(&process, stop);
        let run: Run = process.wait_with_output().expect("it ends").into();
        assert_eq!((run.code, &run.json()["outcome"]), (Some(130), &"interrupted".into()), "{run}");
        history.assert_clean(&run);
        let ids = fs::read_to_string(&started).expect("ids");
        for id in ids.split_whitespace() {
            assert!(!is_running(Path::new("/proc").join(id).as_path()), "{id}: {run}");
        }
    }
}

/// Whether a process runs; one that nobody has waited for does not.
fn is_running(process: &Path) -> bool {
    let Ok(status) = fs::read_to_string(process.join("stat")) else { return false };
    !status.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}
