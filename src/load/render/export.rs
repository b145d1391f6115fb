//! Results in formats of other tools: HdrHistogram's interval log and percentile file, and comma-separated values by time.
//!
//! `docs/reference/outputs.md` describes them. The caller decides where the bytes go.

use std::io::{self, Write};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};

use crate::measure::{Timeline, TimelineInterval};

/// Nanoseconds per unit of the log's readable maximum: a millisecond, as other tools expect.
const NS_PER_LOGGED_UNIT: f64 = 1e6;
/// The column legend of HdrHistogram's own writers.
const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"";
/// Steps of a percentile file per halving of the distance to 100 %.
const HGRM_STEPS: u32 = 5;
/// Quantiles of a row, with their columns.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// Writes HdrHistogram's interval log, version 1.3: one line per interval and distribution, tagged with the
/// distribution's name. Times are in seconds from the start of the measured time, values in nanoseconds.
///
/// # Errors
/// The writer's error.
pub fn hlog(timeline: &Timeline, what: &str, mut out: &mut dyn Write) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    // A line break would start a line that is not a comment.
    let what = what.replace(char::is_control, " ");
    IntervalLogWriterBuilder::new()
        .add_comment(&format!("[Logged by echoring {}: {what}]", env!("CARGO_PKG_VERSION")))
        .add_comment("[Histogram log format version 1.3]")
        .with_start_time(timeline.began)
        .with_base_time(timeline.began)
        .begin_log_with(&mut out, &mut serializer)?;
    writeln!(out, "{LEGEND}")?;
    let mut log = IntervalLogWriterBuilder::new()
        .with_max_value_divisor(NS_PER_LOGGED_UNIT)
        .begin_log_with(&mut out, &mut serializer)?;
    for TimelineInterval { at, duration, distributions, .. } in timeline.intervals() {
        for (name, histogram) in distributions {
            log.write_histogram(&histogram, at, duration, Tag::new(name)).map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                error => io::Error::other(error.to_string()),
            })?;
        }
    }
    Ok(())
}

/// Writes a distribution in the format of HdrHistogram's tools, with values in milliseconds.
///
/// # Errors
/// The writer's error.
pub fn hgrm(histogram: &Histogram<u64>, out: &mut dyn Write) -> io::Result<()> {
    const NS_PER_MS: f64 = 1e6;
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut total = 0;
    for step in histogram.iter_quantiles(HGRM_STEPS) {
        total += step.count_since_last_iteration();
        let value = step.value_iterated_to().min(histogram.max()) as f64 / NS_PER_MS;
        let quantile = step.quantile_iterated_to();
        if quantile < 1.0 {
            writeln!(out, "{value:12.6} {quantile:2.12} {total:10} {:14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(out, "{value:12.6} {quantile:2.12} {total:10} {:>14}", "inf")?;
        }
    }
    let (mean, deviation) = (histogram.mean() / NS_PER_MS, histogram.stdev() / NS_PER_MS);
    writeln!(out, "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]")?;
    writeln!(
        out,
        "#[Max     = {:12.6}, Total count    = {:12}]",
        histogram.max() as f64 / NS_PER_MS,
        histogram.len()
    )?;
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {:12}]", histogram.buckets(), 2_048)
}

/// Writes a header row and one row per interval. Quantiles are empty if nothing arrived.
///
/// # Errors
/// The writer's error.
pub fn csv(timeline: &Timeline, out: &mut dyn Write) -> io::Result<()> {
    for (number, interval) in timeline.intervals().enumerate() {
        if number == 0 {
            writeln!(out, "{}", columns(&interval).join(","))?;
        }
        writeln!(out, "{}", row(&interval).join(","))?;
    }
    Ok(())
}

fn columns(interval: &TimelineInterval) -> Vec<String> {
    let mut columns =
        ["at_s", "duration_s", "messages", "messages_per_s", "bytes_per_s"].map(str::to_owned).to_vec();
    for (name, _) in &interval.distributions {
        columns.extend(QUANTILES.iter().map(|(quantile, _)| format!("{name}_{quantile}_ns")));
        columns.push(format!("{name}_max_ns"));
    }
    columns
}

fn row(interval: &TimelineInterval) -> Vec<String> {
    let seconds = interval.duration.as_secs_f64();
    let per_s = |count: u64| format!("{:.3}", if seconds > 0.0 { count as f64 / seconds } else { 0.0 });
    let mut row = vec![
        format!("{:.3}", interval.at.as_secs_f64()),
        format!("{seconds:.3}"),
        interval.messages.to_string(),
        per_s(interval.messages),
        per_s(interval.bytes),
    ];
    for (_, histogram) in &interval.distributions {
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
    use crate::measure::distribution;
    use crate::measure::distribution::histogram;
    use crate::measure::timeline::tests::timeline;

    #[test]
    fn an_interval_log_is_read_back_unchanged() {
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
        let written = timeline.intervals().flat_map(|interval| [(interval.clone(), 0), (interval, 1)]);
        for (logged, (interval, which)) in found.iter().zip(written) {
            assert_eq!(logged.tag().map(|tag| tag.as_str()), Some(["response", "service"][which]));
            assert_eq!((logged.start_timestamp(), logged.duration()), (interval.at, interval.duration));
            let histogram = distribution::decode(logged.encoded_histogram()).expect("encoded");
            let (_, written) = &interval.distributions[which];
            assert_eq!((histogram.len(), histogram.max()), (written.len(), written.max()));
            assert!((logged.max() - written.max() as f64 / 1e6).abs() < 1e-3);
        }
    }

    #[test]
    fn a_table_has_a_row_per_interval_and_empty_quantiles_without_values() {
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

    #[test]
    fn a_percentile_file_has_every_value_and_ends_at_the_maximum() {
        let mut values = histogram();
        for value in 1..=1_000_u64 {
            values.record(value * 1_000_000).expect("within bounds");
        }
        let mut out = Vec::new();
        hgrm(&values, &mut out).expect("a vector takes all");
        let text = String::from_utf8(out).expect("text");
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|field| field.parse().expect("a number")).collect())
            .collect();
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][2] <= pair[1][2]));
        let last = rows.last().expect("rows");
        assert_eq!((last[1], last[2]), (1.0, 1_000.0));
        assert!((last[0] / 1_000.0 - 1.0).abs() < 1e-3);
        assert!(text.contains("Total count    =         1000"));
    }
}
