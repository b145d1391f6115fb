//! Tests of the page: records in, its figures and HTML out. What its script draws of them is tested in a browser.

use serde_json::{Value, json};

use super::run::{name_apart, parse};
use super::*;
use echoring_load::measure;
use echoring_load::record::SCHEMA;

/// A record without a label, whole distributions and slices.
fn plain_record() -> Value {
    let quantiles = json!({
        "p50": 100_000, "p90": 200_000, "p99": 900_000, "p999": 5_000_000, "p9999": 9_000_000, "max": 9_500_000,
        "mean": 130_000.0, "count": 20_000
    });
    let interval = |at: u64, messages: u64| {
        let [p50, p99, max] = if messages == 0 { [0; 3] } else { [110_000, 900_000, 9_500_000] };
        json!({
            "at_s": at, "duration_s": 1.0, "messages": messages, "bytes": 64 * messages,
            "p50_ns": p50, "p99_ns": p99, "max_ns": max
        })
    };
    json!({
        "target": "ws://127.0.0.1:9001",
        "config": {
            "mode": "echo", "connections": 10, "duration_s": 4.0, "warmup_s": 1.0, "message_bytes": [64, 64],
            "kind": "text", "depth": null, "rate": 5_000, "arrivals": "even", "publishers": null, "topics": null,
            "stalled": null, "threads": 1, "cpus": [], "source_addresses": [], "compress": "off", "verify": true,
            "sequenced": true, "drain_s": 5.0, "seed": 7, "stages": [], "ramp_s": 0.0, "burst": 1,
            "allow_saturated": false, "max_lateness_s": 0.001, "allow": [], "headers": []
        },
        "environment": {
            "commit": null, "version": "0.1.0", "cpu": "A <fast> one", "cpus": 2, "kernel": "6.1", "driver": "uring",
            "features": ["direct"], "degraded": [], "optimized": true
        },
        "started_at": "2026-11-20T12:00:00Z",
        "duration_s": 4.0, "interrupted": false, "messages": 20_000, "messages_per_s": 5_000.0,
        "bytes_per_s": 320_000.0, "response_ns": quantiles, "service_ns": quantiles, "broadcast": null,
        "stalled": null, "compression": null, "tls": null,
        "integrity": { "lost": 0, "duplicated": 0, "reordered": 0, "corrupted": 0, "late": 0 },
        "connections": { "opened": 10, "ended_early": 0 }, "errors": {}, "closes": { "1000": 10 },
        "unmatched": 0, "unsolicited": 0, "stages": [], "fail_if": [], "protocols": [], "agents": [],
        "generator": {
            "saturated": false, "lateness_ns": quantiles, "cpu_share": 0.5, "unsent": 0, "unsent_gone": 0, "threads": []
        },
        "server": null,
        "intervals": [interval(0, 10_000), interval(1, 0), interval(2, 5_000), interval(3, 5_000)]
    })
}

/// The same with them.
fn new_record() -> Value {
    let mut whole = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3).expect("bounds");
    for value in 0..20_000_u64 {
        whole.record(50_000 + value * value / 50).expect("within bounds");
    }
    let mut record = plain_record();
    record["label"] = "<img src=x onerror=\"alert(1)\">".into();
    record["response_histogram"] = measure::encode(&whole).into();
    record["service_histogram"] = measure::encode(&whole).into();
    record["timeline"] = slices();
    record
}

/// The four seconds in slices: 500 messages of 100 µs in each, and in the tenth one of 50 ms and no more.
fn slices() -> Value {
    const COUNT: usize = 40;
    let of = |values: &[(u64, u64)]| {
        let mut slice =
            hdrhistogram::Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 1).expect("bounds");
        for (ns, count) in values {
            slice.record_n(*ns, *count).expect("within bounds");
        }
        measure::encode(&slice)
    };
    let mut arrived = vec![500; COUNT];
    let mut histograms = vec![of(&[(100_000, 500)]); COUNT];
    (arrived[9], histograms[9]) = (1, of(&[(50_000_000, 1)]));
    let zeros = vec![0; COUNT];
    json!({
        "slice_s": 0.1, "due": vec![500; COUNT], "sent": vec![500; COUNT], "arrived": arrived,
        "open": vec![10; COUNT], "opened": zeros, "errors": zeros, "closed": zeros,
        "response_histograms": histograms,
        "server": {
            "at_s": (0..=COUNT).map(|at| at as f64 / 10.0).collect::<Vec<_>>(),
            "cpu_ns": (0..=COUNT).map(|at| at * 25_000_000).collect::<Vec<_>>(),
            "rss_bytes": vec![31_000_000; COUNT + 1],
        },
    })
}

fn runs(records: &[Value]) -> Vec<Run> {
    let file = json!({ "schema": SCHEMA, "runs": records, "comparison": [] });
    let mut runs = parse(file.to_string().as_bytes()).expect("a file of runs");
    name_apart(&mut runs);
    runs
}

fn page_of(runs: &[Run]) -> Page {
    Page::of("A <title>".to_owned(), runs, Vec::new())
}

/// The figures that the script of a page reads.
fn data_of(html: &str) -> Value {
    let data = html.split("id=\"report\">").nth(1).and_then(|rest| rest.split("</script>").next());
    serde_json::from_str(data.expect("data")).expect("JSON")
}

fn shown(records: &[Value]) -> Value {
    data_of(&page_of(&runs(records)).html())
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().expect("a list").iter().map(|value| value.as_f64().expect("a number")).collect()
}

/// The rows of a table.
fn rows(table: &Value) -> Vec<Vec<&str>> {
    let rows = table["rows"].as_array().expect("rows");
    rows.iter().map(|row| row.as_array().expect("cells").iter().filter_map(Value::as_str).collect()).collect()
}

#[test]
fn what_happened_over_time_is_columns_of_one_width() {
    let timeline = &shown(&[new_record()])["timeline"];
    let series = &timeline["runs"][0];
    assert_eq!((&timeline["step_s"], series["open"].as_array().map(Vec::len)), (&json!(0.1), Some(40)));
    let received = numbers(&series["received_per_s"]);
    assert_eq!(received[8..11], [5_000.0, 10.0, 5_000.0]);
    assert!(numbers(&series["cpu_cores"]).iter().all(|cores| (cores - 0.25).abs() < 1e-6), "{series}");
    assert!((49_000_000.0..51_000_000.0).contains(&numbers(&series["max_ns"])[9]), "exact to one digit");
    assert_eq!(series["cells"][8].as_array().map(Vec::len), Some(1));
    assert_eq!(series["cells"][8][0][1], 500);
    let row = series["cells"][9][0][0].as_u64().expect("a row") as usize;
    let edges = numbers(&timeline["edges"]);
    assert!(edges[row] <= 49.3e6 && edges[row + 1] > 49.3e6, "{row} of {edges:?}");
}

#[test]
fn heat_maps_of_two_runs_have_the_same_rows() {
    let mut slower = new_record();
    let mut whole = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 1).expect("bounds");
    whole.record_n(900_000_000, 2_000).expect("within bounds");
    slower["timeline"]["response_histograms"][0] = measure::encode(&whole).into();
    let timeline = &shown(&[new_record(), slower])["timeline"];
    let edges = numbers(&timeline["edges"]);
    assert!(edges[0] <= 100e3 && edges[edges.len() - 1] > 900e6 && edges.is_sorted(), "{edges:?}");
    assert_eq!(timeline["runs"][1]["cells"][0][0], json!([edges.len() - 2, 2_000]), "the uppermost row");
    let with_plain = &shown(&[new_record(), plain_record()])["timeline"]["runs"];
    assert_eq!(
        (with_plain.as_array().map(Vec::len), &with_plain[0]["run"]),
        (Some(1), &json!(0)),
        "it is left out"
    );
    assert_eq!(shown(&[plain_record()])["timeline"], Value::Null);
}

#[test]
fn a_long_run_has_wider_columns_with_the_same_messages() {
    let mut record = new_record();
    let slice = record["timeline"]["response_histograms"][0].clone();
    for list in ["due", "sent", "arrived", "open", "opened", "errors", "closed"] {
        record["timeline"][list] = vec![1; 1_200].into();
    }
    record["timeline"]["response_histograms"] = vec![slice; 1_200].into();
    record["duration_s"] = 120.0.into();
    let timeline = &shown(&[record])["timeline"];
    let cells = timeline["runs"][0]["cells"].as_array().expect("cells");
    assert_eq!((cells.len(), &timeline["step_s"]), (240, &json!(0.5)));
    let messages =
        cells.iter().flat_map(|column| column.as_array().expect("cells")).map(|cell| cell[1].as_u64());
    assert_eq!(messages.sum::<Option<u64>>(), Some(1_200 * 500));
}

#[test]
fn slices_that_bench_does_not_write_are_refused() {
    for (change, why) in [
        ((|slices| slices["slice_s"] = 0.0.into()) as fn(&mut Value), "slices of 0 s"),
        (|slices| slices["sent"] = json!([1]), "1"),
        (|slices| slices["open"] = json!([1]), "different lengths"),
        (|slices| slices["server"]["cpu_ns"] = json!([1]), "different lengths"),
        (|slices| slices["response_histograms"][3] = "HISTnonsense".into(), "HdrHistogram"),
        (|slices| slices["slice_s"] = "often".into(), "invalid type"),
    ] {
        let mut record = new_record();
        change(&mut record["timeline"]);
        let file = json!({ "schema": SCHEMA, "runs": [record] });
        let told = parse(file.to_string().as_bytes()).expect_err("wrong");
        assert!(told.contains(why), "{why}: {told}");
    }
}

#[test]
fn two_files_are_compared_and_one_is_not() {
    let mut both = runs(&[new_record(), new_record()]);
    assert!(page_of(&both).comparisons.is_empty());
    both[1].file = 1;
    both[1].record.messages_per_s = 4_000.0;
    let data = data_of(&page_of(&both).html());
    let found = &data["comparisons"][0];
    let metrics = found["comparison"]["metrics"].as_array().expect("metrics");
    let rate = metrics.iter().find(|metric| metric["metric"] == "messages_per_s").expect("the rate");
    assert_eq!(rate["ratio"], 0.8);
    let rows = rows(&found["table"]);
    assert!(
        rows.iter().any(|row| row[0] == "messages_per_s" && row[3] == "0.800" && row[5] == "undecided"),
        "{rows:?}"
    );
    assert!(
        found["comparison"]["warnings"].to_string().contains("one run of each decides nothing"),
        "{found}"
    );
    // The same where a file has both targets.
    for (run, side) in both.iter_mut().zip(["a", "b"]) {
        run.file = 0;
        run.record.repetition =
            Some(echoring_load::record::Repetition { number: 1, of: 1, side: side.to_owned() });
    }
    assert_eq!(page_of(&both).comparisons.len(), 1);
}

#[test]
fn differences_of_both_sides_have_their_intervals() {
    let records: Vec<Value> = (0..16).map(|_| new_record()).collect();
    let mut all = runs(&records);
    for (at, run) in all.iter_mut().enumerate() {
        (run.file, run.is_rival) = (at, at >= 8);
        run.record.messages_per_s = if at >= 8 { 900.0 } else { 1_000.0 } + (at % 3) as f64;
    }
    let page = page_of(&all);
    let metrics = &page.comparisons[0].comparison.metrics;
    let rate = metrics.iter().find(|metric| metric.metric == "messages_per_s").expect("the rate");
    let [ratio, low, high] = [rate.ratio, rate.ratio_low, rate.ratio_high].map(|it| it.expect("an interval"));
    assert!((0.89..0.91).contains(&ratio) && low <= ratio && ratio <= high && high < 1.0, "{rate:?}");
}

#[test]
fn only_its_own_scripts_and_styles_are_allowed() {
    let html = page_of(&runs(&[new_record()])).html();
    let hashes = |element: &str| -> Vec<String> {
        let [open, close] = [format!("<{element}>"), format!("</{element}>")];
        let bodies = html.split(&open).skip(1);
        bodies
            .filter_map(|rest| rest.split(&close).next())
            .map(|body| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes()))
            .map(|hash| {
                format!(
                    "'sha256-{}'",
                    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hash)
                )
            })
            .collect()
    };
    let (styles, scripts) = (hashes("style"), hashes("script"));
    assert_eq!((styles.len(), scripts.len()), (1, 2));
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; img-src data:; base-uri 'none'; form-action 'none'",
        styles[0],
        scripts.join(" ")
    );
    assert!(html.contains(&policy), "{policy}");
    assert!(
        html.contains("Copyright (c) 2022 Leon Sorokin") && html.contains("Permission is hereby granted")
    );
}

#[test]
fn what_files_say_is_never_markup() {
    let mut record = new_record();
    record["label"] = "</script><script>alert(1)</script><!--".into();
    record["errors"] = json!({ "<img src=x onerror=alert(1)>": 1 });
    let mut runs = runs(&[record.clone()]);
    runs[0].record.target = "</style></title><b>".to_owned();
    let html = Page::of(runs[0].name.clone(), &runs, Vec::new()).html();
    assert_eq!(html.matches("<script").count(), 3, "the figures, uPlot and the page's own");
    assert_eq!(html.matches("</script>").count(), 3);
    for markup in ["<img", "<!--", "<b>", "<fast>"] {
        assert!(!html.contains(markup), "{markup}");
    }
    assert_eq!(html.matches("</title>").count() + html.matches("</style>").count(), 2);
    assert!(html.contains("<title>&lt;/script&gt;&lt;script&gt;alert(1)"), "{html}");
    assert_eq!(data_of(&html)["runs"][0]["name"], record["label"]);
}

#[test]
fn the_page_has_the_records_without_their_encoded_distributions() {
    let record = split_record();
    let mut expected = runs(&[record])[0].record.value();
    for field in ["response_histogram", "service_histogram", "server_and_network_histogram"] {
        expected.as_object_mut().expect("an object").remove(field).expect("a distribution");
        for interval in expected["intervals"].as_array_mut().expect("a list") {
            interval.as_object_mut().expect("an object").remove(field);
        }
    }
    let data = shown(&[split_record()]);
    assert_eq!(data["runs"][0]["record"], expected);
    assert_eq!(data["runs"][0]["record"]["split"]["p99"]["total_ns"], 23_300_000);
    assert!(!data.to_string().contains("HIST"), "{data}");
    let sampled = "by the kernel's timestamps of 10,000 sampled messages; 10 (0.1 %) with an upper bound";
    assert!(data["runs"][0]["sampled"].as_str().is_some_and(|text| text.starts_with(sampled)), "{data}");
    assert_ne!(data["curves"][0]["server_and_network"], json!([]));
}

/// The table of a run with this name.
fn part<'a>(data: &'a Value, name: &str) -> &'a Value {
    let parts = data["runs"][0]["parts"].as_array().expect("parts");
    let found = parts.iter().map(|part| &part["table"]).find(|table| table["name"] == name);
    &found.unwrap_or_else(|| panic!("{name}: {parts:?}"))["table"]
}

#[test]
fn the_stages_of_a_rate_are_a_row_each() {
    let mut staged = new_record();
    let quantiles = staged["response_ns"].clone();
    let stage = |from: u64, to: u64| {
        json!({"seconds": 2.0, "from": from, "to": to, "messages": 7_000, "messages_per_s": 3_500.0,
               "response_ns": quantiles, "service_ns": quantiles, "lateness_ns_p99": 77_000})
    };
    staged["stages"] = json!([stage(1_000, 1_000), stage(1_000, 6_000)]);
    let data = shown(&[staged]);
    let rows = rows(part(&data, "stages of the rate"));
    assert_eq!((rows[0][0], rows[1][0], rows[1][1]), ("1 (2 s)", "2 (2 s)", "1,000 to 6,000"));
    assert_eq!((rows[0][2], rows[0][8]), ("3,500/s", "77.0 µs"));
}

#[test]
fn a_run_of_listeners_has_no_response_times_to_be_better_in_and_nothing_that_was_switched_off() {
    let mut heard = new_record();
    for field in ["p50", "p90", "p99", "p999", "p9999", "max", "mean", "count"] {
        heard["response_ns"][field] = 0.into();
    }
    heard["config"]["mode"] = "push".into();
    heard["config"]["verify"] = false.into();
    let data = shown(&[new_record(), heard]);
    let labels: Vec<&str> = rows(&data["runs"][1]["latencies"]).iter().map(|row| row[0]).collect();
    assert!(!labels.contains(&"response"), "{labels:?}");
    assert!(!data["notes"].to_string().contains("not checked"), "{data}");
}

/// A run of which half of the messages are stamped.
fn split_record() -> Value {
    let split = |total: u64, parts: [u64; 4]| {
        let [waiting, kernel_out, served, kernel_in] = parts;
        json!({
            "total_ns": total, "waiting_in_generator_ns": waiting, "generator_kernel_ns": kernel_out,
            "server_and_network_ns": served, "kernel_to_program_ns": kernel_in, "messages": 500
        })
    };
    let mut record = new_record();
    record["split"] = json!({
        "sampled": 10_000, "bounded": 10,
        "p50": split(2_000_000, [20_000, 30_000, 1_700_000, 250_000]),
        "p90": split(4_700_000, [900_000, 100_000, 2_400_000, 1_300_000]),
        "p99": split(23_300_000, [2_300_000, 1_000_000, 17_200_000, 2_800_000]),
        "p999": null,
    });
    record["server_and_network_ns"] = record["service_ns"].clone();
    record["server_and_network_histogram"] = record["service_histogram"].clone();
    record
}

#[test]
fn the_page_has_what_the_summary_on_a_terminal_says() {
    let mut record = new_record();
    let times = record["response_ns"].clone();
    record["ping"] = json!({"sent": 8_111, "answered": 8_110, "rtt_ns": times, "skipped": 0});
    record["handshake"] = json!({
        "count": 8_888, "per_s": 5.0, "connect_ns": times, "tls_ns": times, "upgrade_ns": times, "first_message_ns": null,
        "total_ns": times, "failed_ns": null, "resumed": 5, "waited": 0
    });
    let data = shown(&[record]);
    let lines: Vec<&Value> =
        data["runs"][0]["parts"].as_array().expect("parts").iter().map(|part| &part["lines"]).collect();
    let says = |label: &str, text: &str| {
        lines
            .iter()
            .any(|line| line[0] == label && line[1][0].as_str().is_some_and(|line| line.starts_with(text)))
    };
    assert!(
        says("pings", "8,111 sent, 8,110 answered") && says("handshakes", "8,888 at 5/s; connect p50"),
        "{lines:?}"
    );
    assert!(says("integrity", "0 lost") && says("generator", "50 % of the CPU time"), "{lines:?}");
    let labels: Vec<&str> = rows(&data["runs"][0]["latencies"]).iter().map(|row| row[0]).collect();
    for label in ["response", "service", "ping", "handshake", "handshake: TLS", "handshake: upgrade"] {
        assert!(labels.contains(&label), "{label}: {labels:?}");
    }
}

#[test]
fn a_page_fetches_nothing() {
    let html = page_of(&runs(&[new_record(), plain_record()])).html();
    let elsewhere =
        html.replace("ws://127.0.0.1:9001", "").replace("/*! https://github.com/leeoniya/uPlot", "");
    for fetched in ["http:", "https:", "src=\"", "url(", "@import", "<link rel=\"style"] {
        assert!(!elsewhere.contains(fetched), "{fetched}");
    }
}

#[test]
fn distributions_are_curves_and_otherwise_what_is_known() {
    let curves = curves::all(&runs(&[new_record(), plain_record()]));
    assert_eq!((curves[1].response.len(), curves[1].service.len()), (6, 6), "five quantiles and the maximum");
    assert!(curves[0].response.len() > 50 && curves[0].service.len() > 50, "{:?}", curves[0]);
    assert!(curves.iter().all(|curves| curves.server_and_network.is_empty()), "nothing was stamped");
    for curve in curves.iter().flat_map(|curves| [&curves.response, &curves.service]) {
        for pair in curve.windows(2) {
            assert!(pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1, "percentiles rise: {pair:?}");
        }
        let (last, _) = *curve.last().expect("points");
        assert!((last - 20_000_f64.log10()).abs() < 1e-3, "up to one message of all: {last}");
    }
    let at = |nines: f64| {
        curves[1].response.iter().find(|point| (point.0 - nines).abs() < 1e-3).expect("a point").1
    };
    assert_eq!([at(0.301), at(1.0), at(3.0)], [100_000, 200_000, 5_000_000]);
}

#[test]
fn a_search_has_its_steps_with_the_reasons() {
    let mut record = plain_record();
    let step = |rate: u64, held: bool| {
        json!({ "rate": rate, "messages_per_s": rate, "held": held, "p50_ns": 10 * rate, "p99_ns": 30 * rate,
                "p999_ns": 90 * rate, "cpus": [], "generator_cpu": 0.5,
                "why": if held { Value::Null } else { "p99 was <too> high".into() } })
    };
    record["search"] = json!({ "objective": "p99<1ms", "axis": "rate", "precision": 0.05, "confidence": 0.95,
        "elapsed_s": 60.0, "max_rate": 20_000, "knee": 15_000,
        "limited_by": "objective",
        "steps": [step(10_000, true), step(40_000, false), step(20_000, true)] });
    let data = shown(&[record]);
    let rows = rows(&data["runs"][0]["search"][1]);
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ["10,000", "20,000", "40,000"]);
    assert_eq!((rows[0][5], rows[2][5]), ("yes", "p99 was <too> high"));
}

#[test]
fn two_targets_measured_in_turn_are_two_curves() {
    let run = |number: u64, side: &str| {
        let mut record = new_record();
        record["label"] = Value::Null;
        record["target"] = format!("ws://{side}").into();
        record["started_at"] =
            format!("2026-11-20T12:0{number}:{}Z", if side == "a" { "00" } else { "30" }).into();
        record["repetition"] = json!({ "number": number, "of": 2, "side": side });
        record
    };
    let page = page_of(&runs(&[run(1, "a"), run(1, "b"), run(2, "a"), run(2, "b")]));
    let names: Vec<&str> = page.curves.iter().map(|curves| curves.name.as_str()).collect();
    assert_eq!(names, ["A: ws://a (2 runs)", "B: ws://b (2 runs)"]);
    assert_eq!((page.runs.len(), page.comparisons.len()), (4, 1));
}

#[test]
fn goals_have_what_was_seen() {
    let mut record = new_record();
    let look = |at: u64, wide: u64| json!({ "at_s": at, "value_ns": 900_000, "low_ns": 900_000 - wide, "high_ns": 900_000 + wide });
    record["until"] = json!({
        "confidence": 0.95, "unreached": 1, "at_s": 75, "blocks": 37, "looks": 2, "goals": [
            { "expression": "p99±5%", "reached": true, "value_ns": 900_000, "low_ns": 860_000, "high_ns": 940_000,
                "width": 0.0444, "course": [look(60, 80_000), look(75, 40_000)] },
            { "expression": "p99.9±1%", "reached": false, "value_ns": null, "low_ns": null, "high_ns": null, "width": null,
                "course": [] }
        ]
    });
    record["fail_if"] = json!([
        { "expression": "p99>5ms", "failed": false, "seen": { "p99": 900_000.0 } },
        { "expression": "p99>500us", "failed": true, "seen": { "p99": 900_000.0 } }
    ]);
    let data = shown(&[record]);
    assert_eq!(data["runs"][0]["seen"], json!(["p99 is 900 µs", "p99 is 900 µs"]));
    let parts = data["runs"][0]["parts"].as_array().expect("parts");
    let until = parts.iter().map(|part| &part["lines"]).find(|lines| lines[0] == "until").expect("lines");
    let expected = "p99±5% reached after 75 s: 900 µs, 95 % between 860 µs and 940 µs (±4.44 %)";
    assert_eq!((&until[1][0], until[1].as_array().map(Vec::len)), (&json!(expected), Some(2)));
    assert!(
        data["notes"][0]["text"]
            .as_str()
            .is_some_and(|text| text.contains("--fail-if p99>500us failed the run"))
    );
    assert_eq!(data["runs"][0]["record"]["until"]["goals"][0]["course"][1]["low_ns"], 860_000);
}

#[test]
fn pairs_that_ended_by_their_results_have_the_first_pair_and_their_course() {
    let looks = [[8.0, 1.3, 1.0, 1.6], [9.0, 1.3, 1.1, 1.5]];
    let course = looks.map(|[pairs, ratio, low, high]| json!({ "pairs": pairs as u32, "ratio": ratio, "low": low, "high": high }));
    let comparison = json!({
        "mode": "echo", "a": { "target": "ws://a", "runs": 9 }, "b": { "target": "ws://b", "runs": 9 }, "basis": "pairs",
        "threshold": 0.05, "confidence": 0.95, "differences": [], "warnings": [],
        "metrics": [{ "metric": "p99", "unit": "ns", "more_is_better": false, "a": null, "b": null, "ratio": 1.3,
            "ratio_low": 1.1, "ratio_high": 1.5, "verdict": "worse", "why": null }],
        "until": { "pairs": 9, "seconds": 50.0, "decided": true,
            "goals": [{ "expression": "p99±5%", "metric": "p99", "known_after": 9, "course": course }] }
    });
    let mut plain = comparison.clone();
    plain.as_object_mut().expect("an object").remove("until");
    let file = json!({ "schema": SCHEMA, "runs": [], "comparison": [plain, comparison] }).to_string();
    let ended = run::ended_comparisons(file.as_bytes());
    assert_eq!(ended.len(), 1, "others are computed from the runs");
    let runs = runs(&[new_record(), new_record(), new_record(), new_record()]);
    let title = default_title(&runs, &ended);
    let html = Page::of(title, &runs, ended).html();
    assert!(
        html.contains("<h1>echo of ws://a and ws://b</h1>") && html.contains("9 pairs of runs"),
        "{html}"
    );
    let data = data_of(&html);
    assert_eq!(data["runs"].as_array().map(Vec::len), Some(2));
    let found = &data["comparisons"][0];
    assert_eq!(numbers(&json!([found["comparison"]["until"]["goals"][0]["course"][1]["low"]])), [1.1]);
    let verdict = found["verdicts"][0].as_str().expect("a sentence");
    assert!(verdict.ends_with("worse by more than 5 %, known after 9 pairs in 50 s"), "{verdict}");
}

#[test]
fn runs_that_are_called_the_same_are_told_apart() {
    let names: Vec<String> =
        runs(&[plain_record(), new_record(), plain_record()]).into_iter().map(|run| run.name).collect();
    assert_eq!(names[0], "echo of ws://127.0.0.1:9001 #1");
    assert_eq!(names[2], "echo of ws://127.0.0.1:9001 #2");
    assert!(names[1].starts_with("<img"));
}

#[test]
fn runs_of_two_sides_are_called_a_and_b() {
    let mut both = [plain_record(), plain_record(), plain_record()];
    for (record, side) in both.iter_mut().zip(["a", "b", "b"]) {
        record["repetition"] = json!({ "number": 1, "of": 1, "side": side });
    }
    let names: Vec<String> = runs(&both).into_iter().map(|run| run.name).collect();
    let of = |side: &str| format!("{side}echo of ws://127.0.0.1:9001");
    assert_eq!(names, [of("A: "), of("B: ") + " #1", of("B: ") + " #2"]);
}

#[test]
fn notes_report_known_issues() {
    let said = |change: &dyn Fn(&mut Value)| -> Vec<String> {
        let mut record = new_record();
        change(&mut record);
        notes::all(&runs(&[record])).into_iter().map(|note| note.text).collect()
    };
    let plain = said(&|_| ());
    assert!(plain.is_empty(), "{plain:?}");
    for (change, told) in [
        ((|record| record["generator"]["saturated"] = true.into()) as fn(&mut Value), "the generator was"),
        (|record| record["integrity"]["lost"] = 3.into(), "integrity broken: 3 lost"),
        (|record| record["connections"]["ended_early"] = 2.into(), "2 connections ended early"),
        (|record| record["errors"] = json!({ "reset": 4 }), "4 errors"),
        (|record| record["environment"]["optimized"] = false.into(), "without optimisations"),
        (|record| record["interrupted"] = true.into(), "interrupted"),
        (|record| record["config"]["verify"] = false.into(), "not checked"),
        (|record| record["config"]["depth"] = 1.into(), "closed loop"),
        (|record| record["target"] = "embedded".into(), "in one process"),
        (|record| record["generator"]["unsent"] = 9.into(), "9 messages that were due were never sent"),
        (|record| record["response_histogram"] = Value::Null, "no histogram"),
    ] {
        let said = said(&change);
        assert!(said.iter().any(|text| text.to_lowercase().contains(told)), "{told}: {said:?}");
    }
    let mut other = new_record();
    other["config"]["connections"] = 11.into();
    other["environment"]["kernel"] = "6.2".into();
    let notes = notes::all(&runs(&[new_record(), other]));
    let of_all: Vec<&str> = notes.iter().filter(|note| note.run.is_none()).map(|r| r.text.as_str()).collect();
    assert!(of_all[0].contains("different kernels") && of_all[1].contains("different modes"), "{of_all:?}");
    assert!(notes.iter().is_sorted_by_key(|note| note.weight == notes::Weight::Note), "warnings first");
}

#[test]
fn what_is_no_file_of_runs_is_refused_with_the_reason() {
    for (text, why) in [
        ("", "EOF"),
        ("[]", "expected an object with a schema and runs"),
        ("{}", "no schema"),
        ("{\"schema\": \"echoring.run/9\", \"runs\": []}", "echoring.run/9"),
        ("{\"schema\": \"echoring.run/1\"}", "no runs"),
        ("{\"schema\": \"echoring.run/1\", \"runs\": [{}]}", "run 1: missing field"),
    ] {
        let told = parse(text.as_bytes()).map(|_| ()).expect_err("wrong");
        assert!(told.contains(why), "{text}: {told}");
    }
    let mut record = new_record();
    record["response_histogram"] = "HISTnonsense".into();
    let file = json!({ "schema": SCHEMA, "runs": [record] });
    assert!(parse(file.to_string().as_bytes()).expect_err("wrong").contains("HdrHistogram"));
}
