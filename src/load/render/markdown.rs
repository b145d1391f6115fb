//! Results as Markdown, such as for the summary of a step in GitHub Actions.

use std::fmt::Write as _;

use super::checks::{checks, title, verdict};
use super::summary;
use super::tables::chance;
use crate::engine::Outcome;

/// A section for each run: whether it passed, its throughput and latencies, and its checks.
pub fn markdown(outcomes: &[Outcome]) -> String {
    outcomes.iter().map(section).collect()
}

fn section(outcome: &Outcome) -> String {
    let record = &outcome.record;
    let checks = checks(outcome);
    let paragraphs = [
        Some(format!("### {}: {}", escaped(&title(record)), verdict(&checks))),
        record.label.as_ref().map(|_| escaped(&summary::headline(record))),
        Some(escaped(&summary::throughput(record))),
        Some(summary::latencies(record, false).to_string()),
        chance(&record.response_ns).map(|chance| escaped(&chance)),
    ];
    let mut text: String = paragraphs.into_iter().flatten().map(|paragraph| paragraph + "\n\n").collect();
    text.push_str("| check | result |\n|---|---|\n");
    for check in &checks {
        let failed = check.failure.as_ref().map(|why| format!("**failed**: {}", escaped(why)));
        let _ = writeln!(text, "| {} | {} |", escaped(&check.name), failed.as_deref().unwrap_or("passed"));
    }
    text + "\n"
}

/// Text whose characters mean themselves, in one line.
fn escaped(text: &str) -> String {
    let escaped = |c: char| {
        let escape = "\\`*_[]<>|#&~".contains(c).then_some('\\');
        escape.into_iter().chain([if c.is_control() { ' ' } else { c }])
    };
    text.chars().flat_map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::FailIf;
    use crate::record::tests::{outcome, record};

    #[test]
    fn a_run_is_a_section_with_its_checks() {
        let mut run = record();
        run.label = Some("a|b".to_owned());
        run.fail_if = vec![
            FailIf {
                expression: "p99>1ms".to_owned(),
                failed: true,
                seen: [("p99".to_owned(), Some(2e6))].into(),
            },
            FailIf {
                expression: "lost>0".to_owned(),
                failed: false,
                seen: [("lost".to_owned(), Some(0.0))].into(),
            },
        ];
        let text = markdown(&[outcome(run)]);
        assert!(text.starts_with("### a\\|b: 1 of 4 checks failed\n"), "{text}");
        assert!(text.contains("| --fail-if p99\\>1ms | **failed**: p99 is 2.00 ms |"), "{text}");
        assert!(
            text.contains("| --fail-if lost\\>0 | passed |") && text.contains("| integrity | passed |"),
            "{text}"
        );
    }
}
