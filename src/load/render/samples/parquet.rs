//! Samples as Apache Parquet (feature `parquet`).

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;

use super::{COLUMNS, Column};
use crate::engine::Outcome;
use crate::measure::{SampleRow, Samples};

/// Rows of a row group, so that a reader need not hold a whole file.
const GROUP_ROWS: usize = 128 * 1024;

/// Writes the sample of a run as a Parquet file. Unknown values are null. The file's metadata has the share, the number of
/// picked messages and of those that were left out, and the load.
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
        ("echoring.samples.share", samples.share.to_string()),
        ("echoring.samples.picked", samples.picked.to_string()),
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

    use super::super::tests::{empty, read_csv, sampled};
    use super::*;

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
        let mut bytes = Vec::new();
        parquet(&empty(), &mut bytes).expect("a vector takes all");
        let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).expect("a Parquet file");
        assert_eq!(file.metadata().file_metadata().num_rows(), 0);
    }
}
