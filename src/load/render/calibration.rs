//! Calibrations as text: the table of their steps, the sentence that sums them up, and notes in the results of later
//! runs.

use std::io::{self, Write};

use super::tables::{align, table};
use crate::plan::{count, duration};
use crate::record::Record;
use crate::record::calibration::{Believed, Calibration, QuantilePair};

/// Writes a calibration as text.
///
/// # Errors
/// The writer's error.
pub fn calibration(found: &Calibration, out: &mut dyn Write) -> io::Result<()> {
    let head =
        ["messages/s", "delays", "p50", "measured", "p99", "measured", "p99.9", "measured", "not held"];
    let mut table = table(head);
    for step in &found.steps {
        let mut cells = vec![count(step.rate), step.delays.clone()];
        for pair in [step.response.p50, step.response.p99, step.response.p999] {
            let shown =
                |time: fn(QuantilePair) -> u64| pair.map_or("–".to_owned(), |pair| duration(time(pair)));
            cells.extend([shown(|pair| pair.planted_ns), shown(|pair| pair.measured_ns)]);
        }
        cells.push(step.why.clone().unwrap_or_default());
        table.add_row(cells);
    }
    // All but the delays and the reasons are numbers.
    align(&mut table, [0].into_iter().chain(2..8));
    writeln!(out, "{table}\n")?;
    writeln!(out, "{}", planted_faults(found))?;
    writeln!(out, "{}", sentence(&found.believed, found.kernel.as_ref()))
}

/// Whether the planted faults were counted exactly.
pub fn planted_faults(found: &Calibration) -> String {
    let (planted, reported) = (found.faults.planted, found.faults.reported);
    let kinds = planted.by_kind().into_iter().zip(reported.by_kind()).take(4);
    let shown = kinds.map(|((name, planted), (_, reported))| match planted == reported {
        true => format!("{} {name}", count(planted)),
        false => format!("{} {name} (reported: {})", count(planted), count(reported)),
    });
    let shown: Vec<String> = shown.collect();
    let verdict = if found.faults.is_exact() { "counted exactly" } else { "NOT counted exactly" };
    format!("planted faults: {}: {verdict}", shown.join(", "))
}

/// The credible range, such as `here p99.9 can be believed above 3.00 ms, up to 210,000 messages a second`, and that by the kernel's
/// timestamps.
pub fn sentence(believed: &Believed, kernel: Option<&Believed>) -> String {
    let Some(rate_max) = believed.rate_max else {
        return "no result can be believed here: no rate was held; give the generator its own CPUs, or a quiet host".to_owned();
    };
    let by_the_kernel =
        kernel.map(|kernel| listed("kernel.", "", kernel)).filter(|listed| !listed.is_empty());
    format!(
        "here {}, up to {} messages a second{}",
        listed("", "can be believed ", believed),
        count(rate_max),
        by_the_kernel.map_or(String::new(), |listed| format!("; {listed}"))
    )
}

/// The known quantiles, of which the first has `verb` before its bound.
fn listed(before: &str, verb: &str, believed: &Believed) -> String {
    let known = quantiles(believed).into_iter().filter_map(|(name, above)| Some((name, duration(above?))));
    let known: Vec<String> = known
        .enumerate()
        .map(|(at, (name, above))| format!("{before}{name} {}above {above}", if at == 0 { verb } else { "" }))
        .collect();
    known.join(", ")
}

/// Statements of the calibration of a run's host about its results, one line each.
pub(super) fn notes(record: &Record) -> Vec<String> {
    let Some(quoted) = &record.calibration else { return Vec::new() };
    let date = quoted.measured_at.split('T').next().unwrap_or_default();
    let mut lines = vec![format!("{date}: {}", sentence(&quoted.believed, quoted.kernel.as_ref()))];
    if quoted.believed.rate_max.is_some_and(|rate_max| record.messages_per_s > rate_max as f64) {
        let rate = count(record.messages_per_s as u64);
        lines.push(format!("{rate}/s is more than that: its latencies are not covered"));
    }
    let response = &record.response_ns;
    let found = [response.p50, response.p99, response.p999];
    let below: Vec<String> = quantiles(&quoted.believed)
        .into_iter()
        .zip(found)
        .filter(|((_, above), found)| response.count > 0 && above.is_some_and(|above| *found < above))
        .map(|((name, _), found)| format!("{name} of {}", duration(found)))
        .collect();
    if !below.is_empty() {
        lines.push(format!(
            "{}: below that, so more than a tenth of it may come from this host",
            below.join(", ")
        ));
    }
    lines
}

fn quantiles(believed: &Believed) -> [(&'static str, Option<u64>); 3] {
    [("p50", believed.p50_above_ns), ("p99", believed.p99_above_ns), ("p99.9", believed.p999_above_ns)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::distribution::histogram;
    use crate::measure::quantiles::Quantiles;
    use crate::record::calibration::{Faults, Quotation, SCHEMA};
    use crate::record::tests::record;

    fn calibrated() -> Calibration {
        let environment = record().environment;
        Calibration {
            schema: SCHEMA.to_owned(),
            measured_at: "2026-11-25T18:00:00Z".to_owned(),
            environment,
            threads: 1,
            cpus: vec![],
            connections: 100,
            message_bytes: [64, 64],
            believed: Believed {
                p50_above_ns: Some(400_000),
                p99_above_ns: Some(1_000_000),
                p999_above_ns: Some(3_000_000),
                rate_max: Some(210_000),
            },
            kernel: None,
            faults: Faults { planted: Default::default(), reported: Default::default() },
            steps: vec![],
        }
    }

    #[test]
    fn the_sentence_names_each_known_quantile_and_the_rate() {
        let mut believed = calibrated().believed;
        assert_eq!(
            sentence(&believed, None),
            "here p50 can be believed above 400 µs, p99 above 1.00 ms, p99.9 above 3.00 ms, up to 210,000 messages a \
             second"
        );
        let kernel =
            Believed { p50_above_ns: Some(90_000), p99_above_ns: Some(400_000), ..Believed::default() };
        assert!(
            sentence(&believed, Some(&kernel))
                .ends_with("messages a second; kernel.p50 above 90.0 µs, kernel.p99 above 400 µs")
        );
        (believed.p50_above_ns, believed.p99_above_ns) = (None, None);
        assert_eq!(
            sentence(&believed, None),
            "here p99.9 can be believed above 3.00 ms, up to 210,000 messages a second"
        );
        assert!(sentence(&Believed::default(), None).starts_with("no result can be believed here"));
    }

    #[test]
    fn a_record_is_told_which_of_its_quantiles_are_below_and_whether_its_rate_is_above() {
        let mut record = record();
        assert!(notes(&record).is_empty());
        record.calibration = calibrated().quoted_in(&record);
        let mut values = histogram();
        values.record_n(2_000_000, 1_000).expect("within bounds");
        record.response_ns = Quantiles::of(&values);
        let lines = notes(&record);
        assert!(lines[0].starts_with("2026-11-25: here p50 "), "{lines:?}");
        assert_eq!(
            lines[1..],
            ["p99.9 of 2.00 ms: below that, so more than a tenth of it may come from this host"]
        );
        record.messages_per_s = 250_000.0;
        assert_eq!(notes(&record)[1], "250,000/s is more than that: its latencies are not covered");
    }

    #[test]
    fn only_runs_of_the_same_host_and_program_quote_a_calibration() {
        let (found, mut record) = (calibrated(), record());
        let quoted: Quotation = found.quoted_in(&record).expect("its own host");
        assert_eq!((quoted.believed, &quoted.measured_at), (found.believed, &found.measured_at));
        record.config.threads = 2;
        assert_eq!(found.quoted_in(&record), None);
        record.config.threads = 1;
        record.environment.kernel.push('x');
        assert_eq!(found.quoted_in(&record), None);
    }

    #[test]
    fn a_miscount_is_shown_with_both_figures() {
        let mut found = calibrated();
        assert!(planted_faults(&found).ends_with(": counted exactly"));
        (found.faults.planted.lost, found.faults.reported.lost) = (5, 4);
        let text = planted_faults(&found);
        assert!(
            text.contains("5 lost (reported: 4), 0 duplicated") && text.ends_with("NOT counted exactly"),
            "{text}"
        );
    }
}
