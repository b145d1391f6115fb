//! Samples of single messages as comma-separated values.
//!
//! `docs/reference/outputs.md` describes the columns. The caller decides where the bytes go.

use std::io::{self, Write};

use crate::engine::Outcome;
use crate::measure::{SampleRow, Samples};

/// The value of a column.
enum Column {
    /// A whole number.
    Whole(fn(&SampleRow<'_>) -> Option<i64>),
    /// Any number.
    Real(fn(&SampleRow<'_>) -> f64),
    /// Text.
    Text(for<'a> fn(&SampleRow<'a>) -> Option<&'a str>),
}

fn long(value: Option<u64>) -> Option<i64> {
    value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}

/// The columns, in the order of the file.
const COLUMNS: [(&str, Column); 13] = [
    ("connection", Column::Whole(|row| Some(i64::from(row.name.connection)))),
    ("publisher", Column::Whole(|row| row.name.publisher.map(i64::from))),
    ("sequence", Column::Whole(|row| long(row.name.sequence))),
    ("request", Column::Text(|row| row.request)),
    ("intended_ns", Column::Whole(|row| row.intended_ns)),
    ("sent_ns", Column::Whole(|row| row.sent_ns)),
    ("arrived_ns", Column::Whole(|row| row.arrived_ns)),
    ("response_ns", Column::Whole(|row| long(row.response_ns))),
    ("service_ns", Column::Whole(|row| long(row.service_ns))),
    ("bytes", Column::Whole(|row| row.bytes.map(i64::from))),
    ("outcome", Column::Text(|row| Some(row.outcome.name()))),
    ("weight", Column::Real(|row| row.weight)),
    ("agent", Column::Text(|row| row.agent)),
];

/// Writes the sample of a run as comma-separated values, with a header row. Unknown values are empty.
///
/// # Errors
/// The writer's error.
pub fn csv(outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(COLUMNS.iter().map(|(name, _)| name))?;
    for row in outcome.samples.iter().flat_map(Samples::rows) {
        for (_, column) in &COLUMNS {
            let mut number = itoa::Buffer::new();
            match column {
                Column::Whole(value) => {
                    writer.write_field(value(&row).map_or("", |value| number.format(value)))
                }
                Column::Real(value) => writer.write_field(value(&row).to_string()),
                Column::Text(value) => writer.write_field(value(&row).unwrap_or("")),
            }?;
        }
        writer.write_record(None::<&[u8]>)?;
    }
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::distribution;
    use crate::measure::samples::{MessageName, Picker, Sampler};
    use crate::measure::tally::Tally;
    use crate::measure::times::Times;
    use crate::measure::window::Window;
    use crate::record::tests::{outcome, record};
    use echoring_proto::limits::{MILLISECOND, SECOND};

    const WINDOW: Window = Window { from: 10 * SECOND, until: 13 * SECOND };

    const PICKER: Picker = Picker { generator: 0, thread: 0, threads: 1 };

    /// The outcome of three seconds with 3,000 messages, of which one in ten was lost, all in the sample.
    fn sampled() -> (Outcome, Tally) {
        let mut tally = Tally::for_load(None, 0, Sampler::new(1.0, 5, 5_000, PICKER));
        tally.open(WINDOW);
        for sequence in 0..3_000 {
            let intended = WINDOW.from + sequence * MILLISECOND;
            let times = Times { intended, sent: intended + sequence * 70 };
            let (name, now) = (MessageName::of(3, sequence), times.sent + 20_000 + sequence * sequence);
            match sequence % 10 {
                0 => tally.record_lost(WINDOW.until + SECOND, name, times, 1),
                _ => tally.arrived(now, name, times, 16),
            }
        }
        tally.cut(WINDOW.until);
        let mut samples = tally.samples.clone().finish(WINDOW.from);
        samples.requests = vec!["even".to_owned(), "o,dd".to_owned()];
        let request_of =
            samples.rows.iter().map(|row| row.name.sequence.map(|sequence| (sequence % 2) as u32));
        samples.request_of = request_of.collect();
        samples.agents = vec!["north".to_owned()];
        (Outcome { samples: Some(samples), ..outcome(record()) }, tally)
    }

    fn read_csv(outcome: &Outcome) -> Vec<csv::StringRecord> {
        let mut bytes = Vec::new();
        csv(outcome, &mut bytes).expect("a vector takes all");
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        assert_eq!(reader.headers().expect("a header").len(), COLUMNS.len());
        reader.records().collect::<Result<_, _>>().expect("well-formed")
    }

    #[test]
    fn a_sample_of_all_messages_has_the_values_of_the_distributions() {
        let (outcome, tally) = sampled();
        let rows = read_csv(&outcome);
        assert_eq!(rows.len(), 3_000);
        for (column, recorded) in [(7, &tally.latency.whole.response), (8, &tally.latency.whole.service)] {
            let mut values = distribution::histogram();
            for row in &rows {
                values.saturating_record(row[column].parse().expect("a number"));
            }
            assert_eq!(values, **recorded);
        }
        let lost = rows.iter().filter(|row| &row[10] == "lost");
        assert!(lost.clone().all(|row| row[6].is_empty() && row[9].is_empty()));
        assert_eq!(lost.count(), 300);
        assert_eq!(
            rows[1].iter().collect::<Vec<_>>(),
            [
                "3", "", "1", "o,dd", "1000000", "1000070", "1020071", "20071", "20001", "16", "ok", "1",
                "north"
            ]
        );
    }

    /// The outcome of a run without messages.
    fn empty() -> Outcome {
        Outcome { samples: Some(Sampler::new(0.5, 1, 10, PICKER).finish(0)), ..outcome(record()) }
    }

    #[test]
    fn a_run_without_messages_is_a_file_without_rows() {
        assert!(read_csv(&empty()).is_empty());
    }
}
