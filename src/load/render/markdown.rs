//! Results as Markdown, such as for the summary of a step in GitHub Actions.

use std::io::{self, Write};

use super::checks::{checks, title, verdict};
use super::summary;
use super::tables::chance;
use crate::engine::Outcome;

/// Writes a section for each run: whether it passed, its throughput and latencies, and its checks.
///
/// # Errors
/// The writer's error.
pub fn markdown(outcomes: &[Outcome], out: &mut dyn Write) -> io::Result<()> {
    for outcome in outcomes {
        let record = &outcome.record;
        let checks = checks(outcome);
        writeln!(out, "### {}: {}\n", escaped(&title(record)), verdict(&checks))?;
        if record.label.is_some() {
            writeln!(out, "{}\n", escaped(&summary::headline(record)))?;
        }
        writeln!(
            out,
            "{}\n\n{}\n",
            escaped(&summary::throughput(record)),
            summary::latencies(record, false)
        )?;
        if let Some(chance) = chance(&record.response_ns) {
            writeln!(out, "{}\n", escaped(&chance))?;
        }
        writeln!(out, "| check | result |\n|---|---|")?;
        for check in &checks {
            let result = check
                .failure
                .as_ref()
                .map_or("passed".to_owned(), |why| format!("**failed**: {}", escaped(why)));
            writeln!(out, "| {} | {result} |", escaped(&check.name))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Text whose characters mean themselves, in one line.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '&' | '~' => {
                escaped.push('\\');
                escaped.push(character);
            }
            character if character.is_control() => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
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
        let mut out = Vec::new();
        markdown(&[outcome(run)], &mut out).expect("a vector takes all");
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("### a\\|b: 1 of 4 checks failed\n"), "{text}");
        assert!(text.contains("| --fail-if p99\\>1ms | **failed**: p99 is 2.00 ms |"), "{text}");
        assert!(
            text.contains("| --fail-if lost\\>0 | passed |") && text.contains("| integrity | passed |"),
            "{text}"
        );
    }
}
