//! Results in formats of other tools: HdrHistogram's interval log, and comma-separated values by time.
//!
//! `docs/outputs.md` describes both. Whoever calls decides where the bytes go.

use std::io::{self, Write};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};

use super::timeline::{Stretch, Timeline};

/// Nanoseconds of the unit of the log's readable maximum, which is a millisecond, as other tools expect.
const NS_PER_LOGGED_UNIT: f64 = 1e6;
/// What HdrHistogram's own writers put above the columns.
const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"";
/// Quantiles of a row, with their columns.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// Writes HdrHistogram's interval log, version 1.3: a line for each stretch and distribution, whose tag is the
/// distribution's name. Times are in seconds from the start of the measured time, values in nanoseconds.
///
/// # Errors
/// What the writer says.
pub fn hlog(timeline: &Timeline, what: &str, mut out: &mut dyn Write) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    // A line end would begin a line that is no comment.
    let what = what.replace(char::is_control, " ");
    IntervalLogWriterBuilder::new()
        .add_comment(&format!("[Logged by echoring {}: {what}]", env!("CARGO_PKG_VERSION")))
        .add_comment("[Histogram log format version 1.3]")
        .with_start_time(timeline.began())
        .with_base_time(timeline.began())
        .begin_log_with(&mut out, &mut serializer)?;
    writeln!(out, "{LEGEND}")?;
    let mut log = IntervalLogWriterBuilder::new()
        .with_max_value_divisor(NS_PER_LOGGED_UNIT)
        .begin_log_with(&mut out, &mut serializer)?;
    for Stretch { at, duration, distributions, .. } in timeline.stretches() {
        for (name, histogram) in distributions {
            log.write_histogram(&histogram, at, duration, Tag::new(name)).map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                error => io::Error::other(error.to_string()),
            })?;
        }
    }
    Ok(())
}

/// Writes one row for each stretch, below a row with the columns' names. Quantiles are empty where nothing arrived.
///
/// # Errors
/// What the writer says.
pub fn csv(timeline: &Timeline, out: &mut dyn Write) -> io::Result<()> {
    for (number, stretch) in timeline.stretches().enumerate() {
        if number == 0 {
            writeln!(out, "{}", columns(&stretch).join(","))?;
        }
        writeln!(out, "{}", row(&stretch).join(","))?;
    }
    Ok(())
}

fn columns(stretch: &Stretch) -> Vec<String> {
    let mut columns =
        ["at_s", "duration_s", "messages", "messages_per_s", "bytes_per_s"].map(str::to_owned).to_vec();
    for (name, _) in &stretch.distributions {
        columns.extend(QUANTILES.iter().map(|(quantile, _)| format!("{name}_{quantile}_ns")));
        columns.push(format!("{name}_max_ns"));
    }
    columns
}

fn row(stretch: &Stretch) -> Vec<String> {
    let seconds = stretch.duration.as_secs_f64();
    let per_s = |count: u64| format!("{:.3}", if seconds > 0.0 { count as f64 / seconds } else { 0.0 });
    let mut row = vec![
        format!("{:.3}", stretch.at.as_secs_f64()),
        format!("{seconds:.3}"),
        stretch.messages.to_string(),
        per_s(stretch.messages),
        per_s(stretch.bytes),
    ];
    for (_, histogram) in &stretch.distributions {
        row.extend(
            QUANTILES.iter().map(|&(_, quantile)| shown(histogram, histogram.value_at_quantile(quantile))),
        );
        row.push(shown(histogram, histogram.max()));
    }
    row
}

fn shown(histogram: &Histogram<u64>, value: u64) -> String {
    if histogram.is_empty() { String::new() } else { value.min(histogram.max()).to_string() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::load::distribution;
    use crate::load::timeline::tests::timeline;

    #[test]
    fn an_interval_log_is_read_back_as_it_was() {
        let timeline = timeline();
        let mut bytes = Vec::new();
        hlog(&timeline, "echo of\nws://nowhere", &mut bytes).expect("a vector takes all");
        let text = String::from_utf8(bytes.clone()).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("#[Logged by echoring ") && lines[0].ends_with(": echo of ws://nowhere]")
        );
        assert_eq!(lines[1], "#[Histogram log format version 1.3]");
        assert!(lines[2].starts_with("#[StartTime: 1.500 (seconds since epoch)"), "{}", lines[2]);
        assert!(lines.contains(&LEGEND));
        let mut found = Vec::new();
        for entry in IntervalLogIterator::new(&bytes) {
            match entry.expect("well-formed") {
                LogEntry::StartTime(time) | LogEntry::BaseTime(time) => {
                    assert_eq!(time, Duration::from_millis(1_500));
                }
                LogEntry::Interval(interval) => found.push(interval),
            }
        }
        assert_eq!(found.len(), 6);
        let written = timeline.stretches().flat_map(|stretch| [(stretch.clone(), 0), (stretch, 1)]);
        for (interval, (stretch, which)) in found.iter().zip(written) {
            assert_eq!(interval.tag().map(|tag| tag.as_str()), Some(["response", "service"][which]));
            assert_eq!((interval.start_timestamp(), interval.duration()), (stretch.at, stretch.duration));
            let histogram = distribution::decode(interval.encoded_histogram()).expect("encoded");
            let (_, written) = &stretch.distributions[which];
            assert_eq!((histogram.len(), histogram.max()), (written.len(), written.max()));
            assert!((interval.max() - written.max() as f64 / 1e6).abs() < 1e-3);
        }
    }

    #[test]
    fn a_table_has_a_row_for_each_stretch_and_no_quantiles_of_nothing() {
        let mut bytes = Vec::new();
        csv(&timeline(), &mut bytes).expect("a vector takes all");
        let text = String::from_utf8(bytes).expect("text");
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(rows.len(), 4);
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
        assert_eq!(
            rows[0][..6],
            ["at_s", "duration_s", "messages", "messages_per_s", "bytes_per_s", "response_p50_ns"]
        );
        assert_eq!(rows[0][10..12], ["service_p50_ns", "service_p90_ns"]);
        assert_eq!(rows[1][..5], ["0.000", "1.000", "1", "1.000", "16.000"]);
        assert_eq!(rows[2][..6], ["1.000", "1.000", "0", "0.000", "0.000", ""]);
        assert_eq!(rows[3][..5], ["2.000", "0.500", "1", "2.000", "64.000"]);
        let p50: f64 = rows[3][5].parse().expect("a number");
        assert!((p50 / 7e6 - 1.0).abs() < 0.001, "{p50}");
    }
}
