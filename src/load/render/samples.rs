//! Samples of single messages as comma-separated values or as Apache Parquet.
//!
//! Both have the same columns, which `docs/reference/outputs.md` describes. The caller decides where the bytes go.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;

use crate::engine::Outcome;
use crate::measure::{SampleRow, Samples};

/// Rows of a row group, so that a reader need not hold a whole file.
const GROUP_ROWS: usize = 128 * 1024;

/// The value of a column.
enum Column {
    /// A 32-bit number, which is not negative.
    Number(fn(&SampleRow<'_>) -> Option<u32>),
    /// A 64-bit number.
    Long(fn(&SampleRow<'_>) -> Option<i64>),
    /// Any number.
    Real(fn(&SampleRow<'_>) -> f64),
    /// Text.
    Text(for<'a> fn(&SampleRow<'a>) -> Option<&'a str>),
}

fn long(value: Option<u64>) -> Option<i64> {
    value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}

/// The columns of both formats.
const COLUMNS: [(&str, Column); 13] = [
    ("connection", Column::Number(|row| Some(row.name.connection))),
    ("publisher", Column::Number(|row| row.name.publisher)),
    ("sequence", Column::Long(|row| long(row.name.sequence))),
    ("request", Column::Text(|row| row.request)),
    ("intended_ns", Column::Long(|row| row.intended_ns)),
    ("sent_ns", Column::Long(|row| row.sent_ns)),
    ("arrived_ns", Column::Long(|row| row.arrived_ns)),
    ("response_ns", Column::Long(|row| long(row.response_ns))),
    ("service_ns", Column::Long(|row| long(row.service_ns))),
    ("bytes", Column::Number(|row| row.bytes)),
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
                Column::Number(value) => {
                    writer.write_field(value(&row).map_or("", |value| number.format(value)))
                }
                Column::Long(value) => {
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

/// Writes the sample of a run as a Parquet file. Unknown values are null. The file's metadata has the share, the number of
/// picked messages and of those that were left out, and what was run.
///
/// # Errors
/// The writer's error.
pub fn parquet(outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
    let none = Samples::default();
    let samples = outcome.samples.as_ref().unwrap_or(&none);
    write_parquet(samples, metadata(outcome, samples), out).map_err(|error| match error {
        ParquetError::External(error) => io::Error::other(error),
        error => io::Error::other(error),
    })
}

fn metadata(outcome: &Outcome, samples: &Samples) -> Vec<KeyValue> {
    let record = &outcome.record;
    [
        ("echoring.target", record.target.clone()),
        ("echoring.mode", record.config.mode.clone()),
        ("echoring.started_at", record.started_at.clone()),
        ("echoring.label", record.label.clone().unwrap_or_default()),
        ("echoring.samples.share", samples.share().to_string()),
        ("echoring.samples.picked", samples.picked().to_string()),
        ("echoring.samples.left_out", samples.left_out().to_string()),
    ]
    .into_iter()
    .map(|(key, value)| KeyValue::new(key.to_owned(), value))
    .collect()
}

fn write_parquet(samples: &Samples, metadata: Vec<KeyValue>, out: &mut dyn Write) -> ParquetResult<()> {
    let properties = WriterProperties::builder()
        .set_created_by(concat!("echoring ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::SNAPPY)
        .set_key_value_metadata(Some(metadata))
        .build();
    // The writer of the crate is to be sent to other threads, which a borrowed one cannot.
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, Arc::new(schema()?), Arc::new(properties))?;
    let rows: Vec<SampleRow<'_>> = samples.rows().collect();
    for rows in rows.chunks(GROUP_ROWS) {
        let mut group = file.next_row_group()?;
        for (_, column) in &COLUMNS {
            match column {
                Column::Number(value) => {
                    write_column::<Int32Type>(&mut group, rows.iter().map(|row| Some(value(row)? as i32)))
                }
                Column::Long(value) => write_column::<Int64Type>(&mut group, rows.iter().map(value)),
                Column::Real(value) => {
                    write_column::<DoubleType>(&mut group, rows.iter().map(|row| Some(value(row))))
                }
                Column::Text(value) => write_column::<ByteArrayType>(
                    &mut group,
                    rows.iter().map(|row| value(row).map(ByteArray::from)),
                ),
            }?;
        }
        group.close()?;
    }
    file.close()?;
    out.write_all(&bytes).map_err(|error| ParquetError::External(Box::new(error)))
}

/// The columns, all of them optional.
fn schema() -> ParquetResult<Type> {
    let field = |(name, column): &(&str, Column)| {
        let (physical, logical) = match column {
            Column::Number(_) => (PhysicalType::INT32, Some(LogicalType::integer(32, false))),
            Column::Long(_) => (PhysicalType::INT64, None),
            Column::Real(_) => (PhysicalType::DOUBLE, None),
            Column::Text(_) => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        };
        Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical)
            .build()
            .map(Arc::new)
    };
    let fields = COLUMNS.iter().map(field).collect::<ParquetResult<Vec<_>>>()?;
    Type::group_type_builder("samples").with_fields(fields).build()
}

/// Writes the next column of a row group, from a value or nothing for each row.
fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>,
    values: impl Iterator<Item = Option<T::T>> + Clone,
) -> ParquetResult<()> {
    let Some(mut column) = group.next_column()? else { return Ok(()) };
    let is_there: Vec<i16> = values.clone().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<T::T> = values.flatten().collect();
    column.typed::<T>().write_batch(&values, Some(&is_there), None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, Row};

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
        let mut tally = Tally::new().with_samples(Sampler::new(1.0, 5, 5_000, PICKER));
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
        samples.name_requests(vec!["even".to_owned(), "o,dd".to_owned()], |name| {
            name.sequence.map(|sequence| (sequence % 2) as usize)
        });
        samples.name_agents(vec!["north".to_owned()]);
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

    #[test]
    fn parquet_has_the_same_values_and_says_what_was_left_out() {
        let (outcome, _) = sampled();
        let mut bytes = Vec::new();
        parquet(&outcome, &mut bytes).expect("a vector takes all");
        let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).expect("a Parquet file");
        let metadata = file.metadata().file_metadata().key_value_metadata().expect("metadata").clone();
        let of = |key: &str| metadata.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone());
        assert_eq!(of("echoring.samples.share").as_deref(), Some("1"));
        assert_eq!(of("echoring.samples.picked").as_deref(), Some("3000"));
        assert_eq!(of("echoring.samples.left_out").as_deref(), Some("0"));
        let rows: Vec<Row> =
            file.get_row_iter(None).expect("rows").collect::<Result<_, _>>().expect("readable");
        let expected = read_csv(&outcome);
        assert_eq!(rows.len(), expected.len());
        for (row, expected) in rows.iter().zip(&expected) {
            let row: Vec<String> = row
                .get_column_iter()
                .map(|(_, field)| match field {
                    Field::Null => String::new(),
                    Field::Str(text) => text.clone(),
                    Field::UInt(number) => number.to_string(),
                    Field::Long(number) => number.to_string(),
                    Field::Double(number) => number.to_string(),
                    other => panic!("no such column: {other:?}"),
                })
                .collect();
            assert_eq!(row, expected.iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_run_without_messages_is_a_file_without_rows() {
        let outcome =
            Outcome { samples: Some(Sampler::new(0.5, 1, 10, PICKER).finish(0)), ..outcome(record()) };
        assert!(read_csv(&outcome).is_empty());
        let mut bytes = Vec::new();
        parquet(&outcome, &mut bytes).expect("a vector takes all");
        let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).expect("a Parquet file");
        assert_eq!(file.metadata().file_metadata().num_rows(), 0);
    }
}
