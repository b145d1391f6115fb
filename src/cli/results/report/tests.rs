//! Tests of the page: records in, charts and HTML out.

use serde_json::{Value, json};

use super::run::{name_apart, parse};
use super::*;
use echoring_load::measure;
use echoring_load::record::SCHEMA;

/// A record as `bench` before there were labels and whole distributions wrote them.
fn old_record() -> Value {
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
            "sequenced": true, "drain_s": 5.0, "seed": 7
        },
        "environment": {
            "commit": null, "version": "0.1.0", "cpu": "A <fast> one", "cpus": 2, "kernel": "6.1", "driver": "uring",
            "features": ["direct"], "degraded": [], "optimized": true
        },
        "started_at": "2026-11-20T12:00:00Z",
        "duration_s": 4.0, "interrupted": false, "messages": 20_000, "messages_per_s": 5_000.0,
        "bytes_per_s": 320_000.0, "response_ns": quantiles, "service_ns": quantiles, "broadcast": null,
        "stalled": null, "compression": null, "tls": null,
        "integrity": { "lost": 0, "duplicated": 0, "reordered": 0, "corrupted": 0 },
        "connections": { "opened": 10, "ended_early": 0 }, "errors": {}, "closes": { "1000": 10 },
        "generator": { "saturated": false, "lateness_ns": quantiles, "cpu_share": 0.5, "unsent": 0 },
        "server": null,
        "intervals": [interval(0, 10_000), interval(1, 0), interval(2, 5_000), interval(3, 5_000)]
    })
}

/// The same from the present one.
fn new_record() -> Value {
    let mut whole = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3).expect("bounds");
    for value in 0..20_000_u64 {
        whole.record(50_000 + value * value / 50).expect("within bounds");
    }
    let mut record = old_record();
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
    let file = json!({ "schema": SCHEMA, "runs": records });
    let mut runs = parse(file.to_string().as_bytes()).expect("a file of runs");
    name_apart(&mut runs);
    runs
}

fn page_of(runs: &[Run]) -> String {
    let timeline = timeline::timeline(runs);
    page::page("A <title>", runs, &charts::all(runs), timeline.as_ref(), &comparison::comparisons(runs))
}

fn timeline_of(records: &[Value]) -> timeline::Timeline {
    timeline::timeline(&runs(records)).expect("a run has slices")
}

fn panels(timeline: &timeline::Timeline) -> Vec<&str> {
    timeline.panels.iter().map(|panel| panel.name.as_str()).collect()
}

#[test]
fn what_happened_over_time_is_on_one_axis() {
    let timeline = timeline_of(&[new_record()]);
    assert_eq!(panels(&timeline), ["rates", "open-connections", "server-cpu", "server-memory"]);
    let maps = timeline.maps.iter().map(|map| map.name.as_str()).collect::<Vec<_>>();
    assert_eq!(maps, ["heat-map"]);
    let until: Vec<f64> = timeline.maps.iter().chain(&timeline.panels).map(|chart| chart.x.until).collect();
    assert_eq!(until, [4.0; 5]);
    let names = |chart: &svg::Chart| chart.panel.as_ref().is_some_and(|panel| !panel.continues);
    assert_eq!(timeline.panels.iter().map(names).collect::<Vec<_>>(), [false, false, false, true]);
    let rates = &timeline.panels[0];
    let meanings: Vec<&str> = rates.strokes.iter().map(|(_, name)| *name).collect();
    assert_eq!(meanings, ["target", "sent", "received"]);
    let received = rates.lines.iter().find(|line| line.stroke == svg::Stroke::Solid).expect("a line");
    let values: Vec<f64> = received.pieces[0].iter().map(|(_, per_s)| per_s.round()).collect();
    assert_eq!((values.len(), values[8], values[9], values[10]), (40, 5_000.0, 10.0, 5_000.0));
    let cpu = &timeline.panels[2].lines[0].pieces[0];
    assert!(cpu.len() == 40 && cpu.iter().all(|(_, cores)| (cores - 0.25).abs() < 1e-6), "{cpu:?}");
}

#[test]
fn a_column_has_its_values_and_its_cells() {
    let data = timeline_of(&[new_record()]).data;
    assert_eq!(
        (data["times"].as_array().map(Vec::len), &data["times"][9]),
        (Some(40), &json!("0.9 to 1.0 s"))
    );
    let value = |field: &str, column: usize| {
        let fields = data["fields"].as_array().expect("names");
        let at =
            fields.iter().position(|name| name == field).unwrap_or_else(|| panic!("{field}: {fields:?}"));
        data["runs"][0]["values"][column][at].as_str().expect("text").to_owned()
    };
    let seen = |column: usize| {
        ["target/s", "received/s", "p50", "open", "server CPU", "server memory"]
            .map(|field| value(field, column))
    };
    assert_eq!(seen(8), ["5,000", "5,000", "100 µs", "10", "0.25 cores", "31.0 MB"]);
    assert_eq!(seen(9)[1..3], ["10", "49.3 ms"], "exact to one digit");
    let fields = data["fields"].as_array().expect("names");
    assert!(!fields.contains(&json!("errors")), "what never happened is left out: {fields:?}");
    let cells = |column: usize| data["runs"][0]["cells"][column].as_array().expect("cells").clone();
    assert_eq!((cells(8).len(), &cells(8)[0][1]), (1, &json!(500)));
    let row = cells(9)[0][0].as_u64().expect("a row") as usize;
    let name = data["rows"]["names"][row][1].as_str().expect("a range");
    assert_eq!(name, "41.9 ms to 50.3 ms");
}

#[test]
fn events_of_connections_are_drawn_where_there_are_some() {
    let mut record = new_record();
    record["timeline"]["closed"][4] = 3.into();
    record["timeline"]["errors"][5] = 7.into();
    record["timeline"]["open"][4] = 7.into();
    let timeline = timeline_of(&[record]);
    assert_eq!(panels(&timeline)[1..3], ["open-connections", "events"]);
    let events = &timeline.panels[2];
    let crossed: Vec<(f64, f64)> = events.lines.iter().flat_map(|line| line.crossed.clone()).collect();
    assert!(matches!(crossed[..], [(at, 7.0)] if (at - 0.55).abs() < 1e-9), "{crossed:?}");
    assert!(events.y.until >= 7.0 && events.crosses.is_some());
}

#[test]
fn stages_are_marked_where_they_meet() {
    let mut record = new_record();
    let quantiles = record["response_ns"].clone();
    let stage = |seconds: f64| {
        json!({"seconds": seconds, "from": 1, "to": 1, "messages": 7_000, "messages_per_s": 3_500.0,
               "response_ns": quantiles, "service_ns": quantiles, "lateness_ns_p99": 77_000})
    };
    record["stages"] = json!([stage(1.0), stage(2.0), stage(1.0)]);
    record["rate_changes"] = json!([{"at_s": -0.5, "rate": 1.0}, {"at_s": 3.5, "rate": 2.0}]);
    let timeline = timeline_of(&[record]);
    for chart in timeline.maps.iter().chain(&timeline.panels) {
        assert_eq!(chart.panel.as_ref().map(|panel| panel.marks.clone()), Some(vec![1.0, 3.0, 3.5]));
    }
}

#[test]
fn heat_maps_of_two_runs_have_the_same_scales() {
    let mut slower = new_record();
    slower["label"] = "slower".into();
    slower["timeline"] = slices();
    let mut whole = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 1).expect("bounds");
    whole.record_n(900_000_000, 2_000).expect("within bounds");
    slower["timeline"]["response_histograms"][0] = measure::encode(&whole).into();
    let timeline = timeline_of(&[new_record(), slower]);
    let [one, other] = &timeline.maps[..] else { panic!("two maps") };
    assert_eq!((&one.x, &one.y), (&other.x, &other.y));
    let heat = |chart: &svg::Chart| chart.panel.as_ref().and_then(|panel| panel.heat.clone()).expect("cells");
    assert_eq!((heat(one).rows, heat(one).most), (heat(other).rows, heat(other).most));
    assert_eq!(heat(one).most, 2_000);
    assert_eq!(timeline.panels[0].lines.len(), 6, "rates of both in one chart");
    assert!(timeline_of(&[new_record(), old_record()]).maps.len() == 1, "an old record is left out");
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
    let timeline = timeline_of(&[record]);
    assert_eq!((timeline.columns, &timeline.data["times"][1]), (240, &json!("0.5 to 1.0 s")));
    let heat = timeline.maps[0].panel.as_ref().and_then(|panel| panel.heat.as_ref()).expect("cells");
    assert_eq!(heat.columns.iter().flat_map(|cells| cells.values()).sum::<u64>(), 1_200 * 500);
    assert!(timeline.tables[0].rows.len() <= 24);
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
    assert!(comparison::comparisons(&both).is_empty());
    assert!(!page_of(&both).contains("<section id=\"comparison\""));
    both[1].file = 1;
    both[1].record.messages_per_s = 4_000.0;
    let found = comparison::comparisons(&both);
    let ratios: Vec<_> =
        found[0].metrics.iter().map(|metric| (metric.metric.as_str(), metric.ratio)).collect();
    assert!(ratios.contains(&("messages_per_s", Some(0.8))), "{ratios:?}");
    let html = page_of(&both);
    let section = html.split("<section id=\"comparison\"").nth(1).expect("a section");
    for part in ["B / A", "0.800", "undecided", "one run of each decides nothing"] {
        assert!(section.contains(part), "{part}: {section}");
    }
    // The same where a file has both targets.
    for (run, side) in both.iter_mut().zip(["a", "b"]) {
        run.file = 0;
        run.record.repetition =
            Some(echoring_load::record::Repetition { number: 1, of: 1, side: side.to_owned() });
    }
    assert_eq!(comparison::comparisons(&both).len(), 1);
}

#[test]
fn differences_of_both_sides_are_drawn_with_their_intervals() {
    let records: Vec<Value> = (0..16).map(|_| new_record()).collect();
    let mut all = runs(&records);
    for (at, run) in all.iter_mut().enumerate() {
        (run.file, run.is_rival) = (at, at >= 8);
        run.record.messages_per_s = if at >= 8 { 900.0 } else { 1_000.0 } + (at % 3) as f64;
    }
    let chart = comparison::chart(&comparison::comparisons(&all)).expect("intervals");
    let at = chart.y.ticks.iter().find(|(_, name)| name == "rate").expect("a metric").0;
    let drawn = chart.lines.iter().flat_map(|line| &line.pieces).filter(|piece| piece[0].1 == at);
    let [interval, dot] = drawn.collect::<Vec<_>>()[..] else { panic!("{chart:?}") };
    let (low, high, value) = (interval[0].0, interval[1].0, dot[0].0);
    assert!((-11.0..-9.0).contains(&value) && low <= value && value <= high && high < 0.0, "{chart:?}");
    assert_eq!((chart.x.from, chart.x.ticks.len() % 2), (-chart.x.until, 1), "0 is in the middle");
    assert!(comparison::chart(&[]).is_none());
}

#[test]
fn the_script_is_the_only_one_that_may_run() {
    let html = page_of(&runs(&[new_record()]));
    let script = html.split("<script>").nth(1).and_then(|rest| rest.split("</script>").next()).expect("one");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, script.as_bytes());
    let allowed = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hash);
    assert!(html.contains(&format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'; "
    )));
    assert_eq!(html.matches("<script").count(), 2, "and the data");
    let data = html.split("id=\"timeline-data\">").nth(1).and_then(|rest| rest.split("</script>").next());
    let data: Value = serde_json::from_str(data.expect("data")).expect("JSON");
    assert_eq!(data["runs"][0]["name"], "<img src=x onerror=\"alert(1)\">");
    let old = page_of(&runs(&[old_record()]));
    assert!(!old.contains("<script") && !old.contains("script-src") && old.contains("no slices"), "{old}");
}

fn chart<'a>(charts: &'a [svg::Chart], name: &str) -> Option<&'a svg::Chart> {
    charts.iter().find(|chart| chart.name == name)
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
    let runs = runs(&[staged]);
    let html = page_of(&runs);
    for cell in ["1 (2 s)", "2 (2 s)", "1,000 to 6,000", "3,500", "77.0 µs"] {
        assert!(html.contains(cell), "{cell}: {html}");
    }
}

#[test]
fn a_run_of_listeners_has_no_response_times_to_be_better_in_and_nothing_that_was_switched_off() {
    let mut heard = new_record();
    for field in ["p50", "p90", "p99", "p999", "p9999", "max", "mean", "count"] {
        heard["response_ns"][field] = 0.into();
    }
    heard["config"]["mode"] = "push".into();
    heard["config"]["verify"] = false.into();
    let html = page_of(&runs(&[new_record(), heard]));
    let summary =
        html.split("<section id=\"summary\"").nth(1).and_then(|rest| rest.split("</section>").next());
    let summary = summary.expect("there is one");
    assert!(!summary.contains("-100.0 %") && !summary.contains("<td>0 ns"), "{summary}");
    assert!(!html.contains("not checked"), "{html}");
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
        "sampled": 10_000, "stamped": 9_990, "unattributed": 10,
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
fn percentiles_are_bars_of_their_parts_where_messages_were_stamped() {
    let html = page_of(&runs(&[split_record()]));
    let section = html.split("<section id=\"split\"").nth(1).and_then(|rest| rest.split("</section>").next());
    let section = section.expect("a section");
    let widths = |bar: &str| -> f64 {
        let widths = bar
            .split("style=\"width:")
            .skip(1)
            .filter_map(|rest| rest.split('%').next()?.parse::<f64>().ok());
        widths.sum()
    };
    let bars: Vec<f64> = section.split("<div class=\"bar\">").skip(1).map(widths).collect();
    assert!(bars.len() == 3 && bars.iter().all(|sum| (sum - 100.0).abs() < 0.03), "{bars:?}");
    for part in [
        "role=\"img\" aria-label=",
        "<li><span class=\"part2\"></span>server and network</li>",
        "p99 <b>23.3 ms</b>",
        "<b>74 %</b>",
        "data-column=\"kernel to program\">2.80 ms</td>",
        "By the kernel&#39;s timestamps of 9,990 of 10,000 sampled messages; 10 without attributable stamps.",
    ] {
        assert!(section.contains(part), "{part}: {section}");
    }
    let charts = charts::all(&runs(&[split_record()]));
    let strokes: Vec<_> =
        chart(&charts, "percentiles").expect("it is drawn").strokes.iter().map(|it| it.1).collect();
    assert_eq!(strokes, ["response time", "service time", "server and network"]);
    let both = page_of(&runs(&[split_record(), new_record()]));
    assert_eq!(both.matches("<div class=\"bar\">").count(), 3, "only one of them is split");
    assert!(!page_of(&runs(&[new_record()])).contains("id=\"split\""));
}

#[test]
fn a_page_is_whole_and_fetches_nothing() {
    let html = page_of(&runs(&[new_record(), old_record()]));
    for section in [
        "notes",
        "summary",
        "timeline",
        "percentiles",
        "latency-over-time",
        "throughput",
        "integrity",
        "environment",
    ] {
        assert_eq!(html.matches(&format!("<section id=\"{section}\"")).count(), 1, "{section}");
    }
    assert!(!html.contains("<section id=\"knee\""), "nobody searched");
    assert_eq!(html.matches("<svg ").count(), 2 * 8, "each chart is drawn for screens and for phones");
    for (open, close) in
        [("<section", "</section>"), ("<table", "</table>"), ("<svg", "</svg>"), ("<ul", "</ul>")]
    {
        assert_eq!(html.matches(open).count(), html.matches(close).count(), "{open}");
    }
    let elsewhere =
        html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "").replace("ws://127.0.0.1:9001", "");
    for fetched in ["http:", "https:", "src=\"", "url(", "@import", "<link rel=\"style"] {
        assert!(!elsewhere.contains(fetched), "{fetched}");
    }
    let mut ids: Vec<&str> = html.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "an id is there twice");
}

fn sections(html: &str) -> Vec<&str> {
    html.split("<section id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn the_main_chart_of_a_kind_of_run_comes_first() {
    let steady = new_record();
    assert_eq!(sections(&page_of(&runs(std::slice::from_ref(&steady))))[..2], ["percentiles", "notes"]);
    let mut staged = steady;
    let quantiles = staged["response_ns"].clone();
    let stage = json!({"seconds": 2.0, "from": 1_000, "to": 6_000, "messages": 7_000, "messages_per_s": 3_500.0,
                       "response_ns": quantiles, "service_ns": quantiles, "lateness_ns_p99": 77_000});
    staged["stages"] = json!([stage, stage]);
    assert_eq!(sections(&page_of(&runs(&[staged])))[..2], ["latency-over-time", "notes"]);
}

#[test]
fn warnings_are_told_above_the_main_chart() {
    let mut saturated = new_record();
    saturated["generator"]["saturated"] = true.into();
    let html = page_of(&runs(&[saturated]));
    let banner = html.find("<a href=\"#notes\">1 warning</a>").expect("a banner");
    assert!(banner < html.find("<section").expect("sections"));
    assert!(!page_of(&runs(&[new_record()])).contains("class=\"banner\""));
}

#[test]
fn few_runs_are_columns_and_many_are_rows() {
    let cells = |runs: &[Run]| {
        let html = page_of(runs);
        let (_, rest) = html.split_once("<section id=\"integrity\"").expect("a section");
        let head = rest.split("</thead>").next().expect("a head");
        head.matches("columnheader").count()
    };
    assert_eq!(cells(&runs(&[new_record(), old_record()])), 3);
    assert_eq!(cells(&runs(&vec![old_record(); 5])), 11);
}

#[test]
fn what_files_say_is_never_markup() {
    let html = page_of(&runs(&[new_record()]));
    assert!(!html.contains("<img") && !html.contains("<fast>") && !html.contains("<title>A <title>"));
    assert!(html.contains("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;"));
    for chart in charts::all(&runs(&[new_record()])) {
        assert!(!chart.file().contains("<img"), "{}", chart.name);
    }
}

#[test]
fn distributions_are_drawn_whole_and_otherwise_by_what_is_known() {
    let runs = runs(&[new_record(), old_record()]);
    let charts = charts::all(&runs);
    let percentiles = chart(&charts, "percentiles").expect("there are latencies");
    let points = |run: usize| {
        let lines = percentiles.lines.iter().filter(move |line| line.run == run);
        lines.map(|line| line.pieces[0].len()).collect::<Vec<usize>>()
    };
    assert_eq!(points(1), [6, 6], "five quantiles and the maximum");
    assert!(points(0).iter().all(|points| *points > 50), "{:?}", points(0));
    for line in &percentiles.lines {
        for pair in line.pieces[0].windows(2) {
            assert!(pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1, "percentiles rise: {pair:?}");
        }
        let (last, _) = *line.pieces[0].last().expect("points");
        assert!((last - 20_000_f64.log10()).abs() < 1e-9, "up to one message of all: {last}");
    }
}

#[test]
fn an_interval_without_messages_interrupts_the_lines() {
    let runs = runs(&[old_record()]);
    let charts = charts::all(&runs);
    let latency = chart(&charts, "latency-over-time").expect("there are intervals");
    assert_eq!(latency.lines.len(), 3, "median, 99 % and maximum");
    for line in &latency.lines {
        let lengths: Vec<usize> = line.pieces.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 2]);
    }
    let throughput = chart(&charts, "throughput").expect("there are intervals");
    let all: Vec<(f64, f64)> = vec![(0.5, 10_000.0), (1.5, 0.0), (2.5, 5_000.0), (3.5, 5_000.0)];
    assert_eq!(throughput.lines[0].pieces, [all], "no message is a throughput, of zero");
}

#[test]
fn a_search_is_drawn_by_rising_rate_with_what_did_not_hold_crossed_out() {
    let mut record = old_record();
    let step = |rate: u64, held: bool| {
        json!({ "rate": rate, "messages_per_s": rate, "held": held, "p50_ns": 10 * rate, "p99_ns": 30 * rate,
                "p999_ns": 90 * rate, "why": if held { Value::Null } else { "p99 was <too> high".into() } })
    };
    record["search"] = json!({ "objective": "p99<1ms", "precision": 0.05, "max_rate": 20_000, "knee": 15_000,
        "limited_by": "objective",
        "steps": [step(10_000, true), step(40_000, false), step(20_000, true)] });
    let runs = runs(&[record]);
    let charts = charts::all(&runs);
    let knee = chart(&charts, "knee").expect("there was a search");
    let solid = knee.lines.iter().find(|line| line.stroke == svg::Stroke::Solid).expect("99 %");
    let rates: Vec<f64> = solid.pieces[0].iter().map(|(rate, _)| *rate).collect();
    assert_eq!(rates, [10_000.0, 20_000.0, 40_000.0]);
    assert_eq!(solid.crossed.iter().map(|(rate, _)| *rate).collect::<Vec<f64>>(), [40_000.0]);
    let html = page_of(&runs);
    assert!(html.contains("<section id=\"knee\"") && html.contains("p99&lt;1ms"));
    assert!(html.contains("p99 was &lt;too&gt; high"), "why a step did not hold");
    assert_eq!(sections(&html)[..2], ["knee", "notes"], "what was searched for comes first");
}

#[test]
fn two_targets_measured_in_turn_are_two_curves_behind_their_verdicts() {
    let run = |number: u64, side: &str| {
        let mut record = new_record();
        record["label"] = Value::Null;
        record["target"] = format!("ws://{side}").into();
        record["started_at"] =
            format!("2026-11-20T12:0{number}:{}Z", if side == "a" { "00" } else { "30" }).into();
        record["repetition"] = json!({ "number": number, "of": 2, "side": side });
        record
    };
    let runs = runs(&[run(1, "a"), run(1, "b"), run(2, "a"), run(2, "b")]);
    let charts = charts::all(&runs);
    let percentiles = chart(&charts, "percentiles").expect("there are distributions");
    let names: Vec<&str> = percentiles.runs.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["A: ws://a (2 runs)", "B: ws://b (2 runs)"]);
    assert_eq!(percentiles.lines.iter().map(|line| line.run).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert!(percentiles.y.label.contains("logarithmic") && percentiles.x.label.contains("logarithmic"));
    assert_eq!(sections(&page_of(&runs))[..2], ["comparison", "percentiles"], "verdicts come first");
}

#[test]
fn a_storm_has_the_times_until_connections_were_back() {
    let mut record = new_record();
    record["storm"] = json!({
        "cut_by": "client", "cut": 100, "back": 95, "over_time": [],
        "back_ns": { "p50": 1_500_000_000_u64, "p90": 3_000_000_000_u64, "p99": null, "max": null }
    });
    let html = page_of(&runs(&[record]));
    let at = html.find("Times from the cut").expect("a table");
    let table = &html[at..at + html[at..].find("</table>").expect("its end")];
    for text in ["client", ">100<", ">95<", "1.50 s", "3.00 s", "never"] {
        assert!(table.contains(text), "{text}: {table}");
    }
    assert!(html.find("id=\"herd\"").is_some_and(|herd| herd < at), "below its chart");
}

#[test]
fn goals_are_a_row_each_and_drawn_look_by_look() {
    let mut record = new_record();
    let look = |at: u64, wide: u64| json!({ "at_s": at, "value_ns": 900_000, "low_ns": 900_000 - wide, "high_ns": 900_000 + wide });
    record["until"] = json!({
        "confidence": 0.95, "unreached": 1, "at_s": 75, "blocks": 37, "looks": 2, "goals": [
            { "expression": "p99±5%", "reached": true, "value_ns": 900_000, "low_ns": 860_000, "high_ns": 940_000,
                "width": 0.0444, "course": [look(60, 80_000), look(75, 40_000)] },
            { "expression": "p99.9±1%", "reached": false, "value_ns": null, "low_ns": null, "high_ns": null, "width": null }
        ]
    });
    record["fail_if"] = json!([
        { "expression": "p99>5ms", "failed": false, "seen": { "p99": 900_000.0 } },
        { "expression": "p99>500us", "failed": true, "seen": { "p99": 900_000.0 } }
    ]);
    let runs = runs(&[record]);
    let html = page_of(&runs);
    assert_eq!(html.matches("id=\"goals\"").count(), 1);
    let table = &html[html.find("Thresholds and goals").expect("a table")..];
    let table = &table[..table.find("</table>").expect("its end")];
    for text in [
        "--fail-if p99&gt;500us",
        "failed",
        "passed",
        "p99 is 900 µs",
        "--until p99±5%",
        "reached",
        "not reached",
    ] {
        assert!(table.contains(text), "{text}: {table}");
    }
    for text in ["900 µs, 860 µs to 940 µs (±4.44 %) after 75 s", "no interval after 75 s"] {
        assert!(table.contains(text), "{text}: {table}");
    }
    assert!(html.contains("class=\"banner\"") && html.contains("--fail-if p99&gt;500us failed the run"));
    let charts = charts::all(&runs);
    let goals = chart(&charts, "goals").expect("a chart");
    assert_eq!((goals.lines.len(), goals.runs.len()), (3, 1), "without an interval there is nothing to draw");
    assert_eq!(goals.lines[1].pieces, [vec![(60.0, 0.82), (75.0, 0.86)]]);
    assert!(goals.y.from <= 0.82 && goals.y.from > 0.7 && goals.y.until >= 0.98, "{:?}", goals.y);
}

#[test]
fn pairs_that_ended_by_their_results_are_drawn_with_their_margin() {
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
    let charts = charts::of_pairs(&[], &ended);
    let [drawn] = &charts[..] else { panic!("one chart: {charts:?}") };
    assert_eq!(drawn.lines.len(), 5, "a ratio with two ends, and two margins");
    assert!(drawn.y.from <= 1.0 / 1.05 && (1.5..1.6).contains(&drawn.y.until) && drawn.x.until >= 9.0);
    assert_eq!(drawn.lines[2].pieces[0], [(8.0, drawn.y.until), (9.0, 1.5)], "as much as there is room for");
    let html = page::page(&default_title(&[], &ended), &[], &charts, None, &ended);
    assert!(
        html.contains("<h1>echo of ws://a and ws://b</h1>") && html.contains("9 pairs of runs"),
        "{html}"
    );
    assert!(html.contains("worse by more than 5 %, known after 9 pairs in 50 s."), "{html}");
}

#[test]
fn runs_that_are_called_the_same_are_told_apart() {
    let names: Vec<String> =
        runs(&[old_record(), new_record(), old_record()]).into_iter().map(|run| run.name).collect();
    assert_eq!(names[0], "echo of ws://127.0.0.1:9001 #1");
    assert_eq!(names[2], "echo of ws://127.0.0.1:9001 #2");
    assert!(names[1].starts_with("<img"));
}

#[test]
fn notes_report_known_issues() {
    let said = |change: &dyn Fn(&mut Value)| -> Vec<String> {
        let mut record = new_record();
        change(&mut record);
        notes::all(&runs(&[record])).into_iter().map(|note| note.text).collect()
    };
    let plain = said(&|_| ());
    assert!(plain.iter().all(|text| text.contains("mostly chance")), "{plain:?}");
    for (change, told) in [
        ((|record| record["generator"]["saturated"] = true.into()) as fn(&mut Value), "saturated"),
        (|record| record["integrity"]["lost"] = 3.into(), "3 lost"),
        (|record| record["connections"]["ended_early"] = 2.into(), "2 connections ended early"),
        (|record| record["errors"] = json!({ "reset": 4 }), "4 × reset"),
        (|record| record["environment"]["optimized"] = false.into(), "without optimisations"),
        (|record| record["interrupted"] = true.into(), "interrupted"),
        (|record| record["config"]["verify"] = false.into(), "not checked"),
        (|record| record["config"]["depth"] = 1.into(), "closed loop"),
        (|record| record["target"] = "embedded".into(), "in one process"),
        (|record| record["generator"]["unsent"] = 9.into(), "9 messages were due and never sent"),
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
