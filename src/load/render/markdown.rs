//! Results as Markdown, such as for the summary of a step in GitHub Actions.

use std::io::{self, Write};

use super::checks::{PASSED, baseline_checks, checks, title, verdict};
use super::summary;
use super::tables::{chance, comparison_rows};
use crate::engine::Outcome;
use crate::record::comparison::{BaselineComparison, ComparisonVerdict};

/// Writes a section for each run: whether it passed, its throughput and latencies, and its checks. A last section
/// compares them with stored results.
///
/// # Errors
/// The writer's error.
pub fn markdown(
    outcomes: &[Outcome],
    baseline: Option<&BaselineComparison>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for outcome in outcomes {
        let record = &outcome.record;
        let checks = checks(outcome);
        writeln!(out, "### {}: {}\n", escaped(&title(record)), verdict(&checks))?;
        if record.label.is_some() {
            writeln!(out, "{}\n", escaped(&summary::headline(record)))?;
        }
        writeln!(out, "{}\n\n{}\n", escaped(&summary::throughput(record)), summary::latencies(record))?;
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
    baseline.map_or(Ok(()), |baseline| compared(baseline, out))
}

/// Writes the comparison with stored results.
fn compared(baseline: &BaselineComparison, out: &mut dyn Write) -> io::Result<()> {
    let (judged, undecided) = baseline.findings().fold((0, 0), |(judged, undecided), (_, finding)| {
        (judged + 1, undecided + usize::from(finding.verdict == Some(ComparisonVerdict::Undecided)))
    });
    let verdict = match verdict(&baseline_checks(baseline)) {
        passed if passed == PASSED && undecided > 0 => format!("{undecided} of {judged} metrics undecided"),
        verdict => verdict,
    };
    writeln!(out, "### compared with baseline {}: {verdict}\n", escaped(&baseline.name))?;
    for load in &baseline.loads {
        writeln!(out, "| {} | baseline | now | now / baseline | interval | now is |", escaped(&load.mode))?;
        writeln!(out, "|---|---:|---:|---:|---|---|")?;
        for (finding, row) in load.metrics.iter().zip(comparison_rows(load)) {
            let [metric, a, b, ratio, interval, word] = row.map(|cell| escaped(&cell));
            let word = if finding.worse_by().is_some() { format!("**{word}**") } else { word };
            let judged = if baseline.judged.contains(&finding.metric) { "" } else { " (not judged)" };
            writeln!(out, "| {metric} | {a} | {b} | {ratio} | {interval} | {word}{judged} |")?;
        }
        writeln!(out)?;
        for warning in &load.warnings {
            writeln!(out, "- {}", escaped(warning))?;
        }
        if !load.warnings.is_empty() {
            writeln!(out)?;
        }
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
    use crate::record::tests::{baseline, outcome, record};

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
        markdown(&[outcome(run)], Some(&baseline()), &mut out).expect("a vector takes all");
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("### a\\|b: 1 of 4 checks failed\n"), "{text}");
        assert!(text.contains("| --fail-if p99\\>1ms | **failed**: p99 is 2.00 ms |"), "{text}");
        assert!(
            text.contains("| --fail-if lost\\>0 | passed |") && text.contains("| integrity | passed |"),
            "{text}"
        );
        assert!(text.contains("### compared with baseline main: 1 of 2 checks failed\n"), "{text}");
        assert!(text.contains("| p99 | 1.00 ms | 2.00 ms | 2.000 | 1.900 to 2.100 | **worse** |"), "{text}");
        assert!(text.contains("| p50 | – | – | – | too few runs | undecided |"), "{text}");
        assert!(text.contains("| max | – | – | – | too few runs | undecided (not judged) |"), "{text}");
        assert!(text.contains("\n- the kernels differ\n"), "{text}");
    }
}
