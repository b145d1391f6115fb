//! The page: HTML with inline style and charts, without external resources. Its only script is inline, shows the values
//! under the pointer, and is allowed by its hash. The rest of the page works without it.
//!
//! Everything from a file is escaped, because targets and labels are user input.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::comparison::DIFFERENCES;
use super::notes::{self, Weight};
use super::run::Run;
use super::split;
use super::svg::{Chart, escaped, style};
use super::timeline::{Table, Timeline};
use echoring_load::plan::{bytes, count, duration};
use echoring_load::record::comparison::Comparison;
use echoring_load::record::search::SearchResult;
use echoring_load::record::{Environment, Quantiles, Record, StageResult, StormTimes};
use echoring_load::render::summary::headline;
use echoring_load::render::tables;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("hover.js");

/// Renders the page of these runs.
pub(super) fn page(
    title: &str,
    runs: &[Run],
    charts: &[Chart],
    timeline: Option<&Timeline>,
    comparisons: &[Comparison],
) -> String {
    let mut html = String::new();
    let (title, version) = (escaped(title), env!("CARGO_PKG_VERSION"));
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         {}img-src data:\">\n<meta name=\"generator\" content=\"echoring {version}\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>\n{}\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n<p>{}</p>\n\
         </header>\n<main>\n",
        if timeline.is_some() { format!("script-src 'sha256-{}'; ", sha256(SCRIPT)) } else { String::new() },
        style(":root"),
        escaped(&subtitle(runs, comparisons)),
    );
    let notes = notes::all(runs);
    html.push_str(&warnings(&notes));
    if !comparisons.is_empty() {
        let body = figures(charts, DIFFERENCES) + &comparison(comparisons);
        section(&mut html, "comparison", "Comparison", &body);
    }
    let (main, others) = charts.split_at(charts.len().min(1));
    main.iter().for_each(|chart| chart_section(&mut html, chart, runs));
    let split_table = || table("Percentiles by their parts", &split::HEAD, &split::rows(runs));
    let parts = split::bars(runs).map(|bars| bars + &split_table()).unwrap_or_default();
    section_unless_empty(&mut html, "split", "Parts of the response time", &parts);
    let goals = goals(runs);
    if !goals.is_empty() {
        section(&mut html, GOALS, "Goals", &(figures(others, GOALS) + &goals));
    }
    section(&mut html, "notes", "Notes", &notes_list(&notes));
    section(&mut html, "summary", "Summary", &summary(runs, comparisons));
    if let Some(timeline) = timeline {
        section(&mut html, "timeline", "Timeline", &over_time(timeline));
    }
    let others = others.iter().filter(|chart| ![GOALS, DIFFERENCES].contains(&&*chart.name));
    others.for_each(|chart| chart_section(&mut html, chart, runs));
    let users = sessions(runs) + &protocols(runs);
    section_unless_empty(&mut html, "users", "Sessions and protocols", &users);
    section(&mut html, "integrity", "Integrity", &integrity(runs));
    section(&mut html, "environment", "Environment", &environment(runs));
    section(&mut html, "configuration", "Configuration", &configuration(runs));
    html.push_str("</main>\n");
    if let Some(timeline) = timeline {
        // In a string of JSON, a sign that could end the element has another form.
        let data = timeline.data.to_string().replace('<', "\\u003c");
        let _ = write!(
            html,
            "<script type=\"application/json\" id=\"timeline-data\">{data}</script>\n<script>{SCRIPT}</script>\n"
        );
    }
    html.push_str("</body>\n</html>\n");
    html
}

/// The hash of a script, as a Content-Security-Policy names it.
fn sha256(script: &str) -> String {
    STANDARD.encode(digest(&SHA256, script.as_bytes()))
}

fn subtitle(runs: &[Run], comparisons: &[Comparison]) -> String {
    if let Some(until) = comparisons.iter().find_map(|found| found.until.as_ref()) {
        return format!("{} pairs of runs; the runs below are the first pair", until.pairs);
    }
    match runs {
        [only] => format!("{} · {}", headline(&only.record), only.record.started_at),
        _ => format!("{} runs", runs.len()),
    }
}

fn section_unless_empty(html: &mut String, name: &str, title: &str, body: &str) {
    if !body.is_empty() {
        section(html, name, title, body);
    }
}

fn section(html: &mut String, name: &str, title: &str, body: &str) {
    let title = escaped(title);
    let _ = write!(
        html,
        "<section id=\"{name}\" aria-labelledby=\"{name}-heading\">\n<h2 id=\"{name}-heading\">{title}</h2>\n{body}\
         </section>\n"
    );
}

/// The charts of this name.
fn figures(charts: &[Chart], name: &str) -> String {
    charts.iter().filter(|chart| chart.name == name).map(figure).collect()
}

/// A chart with its caption.
fn figure(chart: &Chart) -> String {
    let (drawn, caption) = (chart.inline(), escaped(&chart.caption));
    format!("<figure>\n{drawn}<figcaption>{caption}</figcaption>\n</figure>\n")
}

/// Charts of one time axis one below the other, the values of the time that is pointed at, and a table of the same figures.
fn over_time(timeline: &Timeline) -> String {
    let mut html = String::new();
    match timeline.maps.as_slice() {
        [] => {}
        [only] => {
            let _ = write!(html, "<h3>{}</h3>\n{}", escaped(&only.title), figure(only));
        }
        maps => {
            html += "<div class=\"maps\">\n";
            for map in maps {
                let title = escaped(&map.title);
                let _ = write!(html, "<div>\n<h3>{title}</h3>\n{}</div>\n", map.inline());
            }
            let _ = write!(html, "</div>\n<p class=\"caption\">{}</p>\n", escaped(&maps[0].caption));
        }
    }
    for panel in &timeline.panels {
        let title = escaped(&panel.title);
        let _ = write!(html, "<figure>\n<h3>{title}</h3>\n{}</figure>\n", panel.inline());
    }
    let captions: Vec<String> = timeline.panels.iter().map(|panel| escaped(&panel.caption)).collect();
    let marks =
        timeline.panels.iter().filter_map(|panel| panel.panel.as_ref()).any(|panel| !panel.marks.is_empty());
    let marks = if marks { " Dashed vertical lines mark changes of the rate." } else { "" };
    let _ = writeln!(html, "<p class=\"caption\">{}{marks}</p>", captions.join(" "));
    html += "<details>\n<summary>The same as a table</summary>\n";
    for Table { name, head, rows } in &timeline.tables {
        html += &table(&format!("{name}, over time"), head, rows);
    }
    html += "</details>\n";
    let last = timeline.columns.saturating_sub(1);
    let _ = write!(
        html,
        "<div class=\"readout\" hidden>\n<p class=\"time\"></p>\n<label>Time <input type=\"range\" min=\"0\" \
         max=\"{last}\" value=\"0\" step=\"1\"></label>\n<div class=\"values\"></div>\n</div>\n"
    );
    html
}

fn comparison(comparisons: &[Comparison]) -> String {
    let mut html = String::new();
    for found in comparisons {
        let Some(b) = &found.b else { continue };
        let head = tables::comparison_head(found);
        let rows: Vec<Vec<String>> = tables::comparison_rows(found).into_iter().map(Vec::from).collect();
        let caption = tables::sides(found, b).join("; ");
        html += &table(&caption, &head.each_ref().map(String::as_str), &rows);
        for verdict in tables::verdicts(found) {
            let _ = writeln!(html, "<p>{}.</p>", escaped(&verdict));
        }
        let warnings = found.differences.iter().chain(&found.warnings);
        let items: Vec<String> = warnings.map(|warning| format!("<li>{}</li>\n", escaped(warning))).collect();
        if !items.is_empty() {
            let _ = writeln!(html, "<ul class=\"caption\">\n{}</ul>", items.concat());
        }
    }
    html
}

/// A chart with its caption, and the table of the same figures.
fn chart_section(html: &mut String, chart: &Chart, runs: &[Run]) {
    let mut body = figure(chart);
    match chart.name.as_str() {
        "percentiles" => body += &latencies(runs),
        "latency-over-time" => body += &stages(runs),
        "knee" => body += &searches(runs),
        "herd" => body += &storms(runs),
        _ => {}
    }
    section(html, &chart.name, &chart.title, &body);
}

/// The chart of goals, and the section that it is in.
const GOALS: &str = "goals";

/// A row for each threshold and goal of a run; empty without any.
fn goals(runs: &[Run]) -> String {
    let mut rows = Vec::new();
    for run in runs {
        let Record { fail_if, aborted_by, until, .. } = &run.record;
        let mut row = |words: String, result: &str, seen: String| {
            rows.push(vec![run.name.clone(), words, result.to_owned(), seen]);
        };
        for judged in fail_if {
            let result = if judged.failed { "failed" } else { "passed" };
            row(format!("--fail-if {}", judged.expression), result, notes::seen(judged, &run.record));
        }
        if let Some(condition) = aborted_by {
            row(format!("--abort-if {condition}"), "failed", "it ended the run".to_owned());
        }
        for goal in until.iter().flat_map(|until| &until.goals) {
            let result = if goal.reached { "reached" } else { "not reached" };
            let known = goal.value_ns.zip(goal.low_ns).zip(goal.high_ns).zip(goal.width);
            let known = known.map(|(((value, low), high), width)| {
                let [value, low, high] = [value, low, high].map(duration);
                format!("{value}, {low} to {high} (±{:.2} %)", 100.0 * width)
            });
            let after = until.as_ref().map_or(0, |until| until.at_s);
            let seen = format!("{} after {after} s", known.unwrap_or("no interval".to_owned()));
            row(format!("--until {}", goal.expression), result, seen);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    table("Thresholds and goals", &["run", "goal", "result", "seen"], &rows)
}

/// Says above the main chart that there are warnings.
fn warnings(notes: &[notes::Note]) -> String {
    match notes.iter().filter(|note| note.weight == Weight::Warning).count() {
        0 => String::new(),
        1 => "<p class=\"banner\"><a href=\"#notes\">1 warning</a> about these figures</p>\n".to_owned(),
        many => {
            format!("<p class=\"banner\"><a href=\"#notes\">{many} warnings</a> about these figures</p>\n")
        }
    }
}

fn notes_list(notes: &[notes::Note]) -> String {
    if notes.is_empty() {
        return "<p>No warnings.</p>\n".to_owned();
    }
    let mut html = "<ul>\n".to_owned();
    for note in notes {
        let (class, word) = match note.weight {
            Weight::Warning => ("warning", "Warning"),
            Weight::Note => ("note", "Note"),
        };
        let of = note.run.as_ref().map(|run| format!(" <b>{}:</b>", escaped(run))).unwrap_or_default();
        let text = escaped(&note.text);
        let _ = writeln!(html, "<li class=\"{class}\"><span class=\"tag\">{word}</span>{of} {text}</li>");
    }
    html + "</ul>\n"
}

/// Characters of a cell above which it may be broken into lines.
const UNBROKEN_MAX: usize = 24;

/// A table whose first column is the head of its rows. Cells are text, not HTML. On a phone each row is a list of its cells,
/// with their columns' names; the roles keep it a table for screen readers then.
fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\">\n<table role=\"table\">\n\
         <caption>{0}</caption>\n<thead role=\"rowgroup\"><tr role=\"row\">",
        escaped(caption)
    );
    for cell in head {
        let _ = write!(html, "<th role=\"columnheader\" scope=\"col\">{}</th>", escaped(cell));
    }
    html.push_str("</tr></thead>\n<tbody role=\"rowgroup\">\n");
    for row in rows {
        html.push_str("<tr role=\"row\">");
        for (at, (cell, column)) in row.iter().zip(head).enumerate() {
            // The only column needs no name beside each of its cells.
            let column = if head.len() == 2 { "" } else { column };
            cell_of(&mut html, cell, column, at == 0);
        }
        html.push_str("</tr>\n");
    }
    html + "</tbody>\n</table>\n</div>\n"
}

fn cell_of(html: &mut String, cell: &str, column: &str, is_head: bool) {
    let class = if cell.chars().count() > UNBROKEN_MAX { " class=\"text\"" } else { "" };
    let (cell, column) = (escaped(cell), escaped(column));
    let _ = if is_head {
        write!(html, "<th role=\"rowheader\" scope=\"row\">{cell}</th>")
    } else {
        write!(html, "<td role=\"cell\"{class} data-column=\"{column}\">{cell}</td>")
    };
}

/// Runs that are columns side by side, at most.
const COLUMNS_MAX: usize = 4;

/// A table with a row for each run and many columns. Few runs are the columns instead, so that the page need not be wider.
fn table_of_runs(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.len() > COLUMNS_MAX {
        return table(caption, head, rows);
    }
    let names = rows.iter().map(|row| row[0].as_str());
    let names: Vec<&str> = head[..1].iter().copied().chain(names).collect();
    let fields: Vec<Vec<String>> = (1..head.len())
        .map(|at| [head[at].to_owned()].into_iter().chain(rows.iter().map(|row| row[at].clone())).collect())
        .collect();
    table(caption, &names, &fields)
}

/// The name of a column, and its cell of a run.
type Column = (&'static str, fn(&Record) -> String);

/// The same of these columns, behind the name of the run.
fn table_of_columns(caption: &str, columns: &[Column], runs: &[Run]) -> String {
    let head: Vec<&str> = ["run"].into_iter().chain(columns.iter().map(|(name, _)| *name)).collect();
    let row = |run: &Run| {
        let cells = columns.iter().map(|(_, cell)| cell(&run.record));
        [run.name.clone()].into_iter().chain(cells).collect()
    };
    table_of_runs(caption, &head, &runs.iter().map(row).collect::<Vec<_>>())
}

/// A figure of a run.
type Of = fn(&Record) -> f64;

fn summary(runs: &[Run], comparisons: &[Comparison]) -> String {
    let several = runs.len() > 1;
    let first = runs.first().map(|run| &run.record);
    let beside = |value: f64, of: Of| match first.map(of) {
        Some(base) if several && base > 0.0 => format!(" ({:+.1} %)", 100.0 * (value / base - 1.0)),
        _ => String::new(),
    };
    let row = |run: &Run| {
        let record = &run.record;
        let (per_s, p50, p99): (Of, Of, Of) = (
            |record| record.messages_per_s,
            |record| record.response_ns.p50 as f64,
            |record| record.response_ns.p99 as f64,
        );
        // Messages without known send times have no response times.
        let timed = |shown: String| if record.response_ns.count > 0 { shown } else { "–".to_owned() };
        let latency = |share: u64, of: Of| {
            timed(tables::quantile(&record.response_ns, share, of(record) as u64) + &beside(of(record), of))
        };
        let cpu = record.server.as_ref().and_then(|server| server.cpu_ns_per_message);
        vec![
            run.name.clone(),
            count(record.messages),
            count(record.messages_per_s as u64) + &beside(record.messages_per_s, per_s),
            format!("{}/s", bytes(record.bytes_per_s)),
            latency(5_000, p50),
            latency(100, p99),
            timed(tables::quantile(&record.response_ns, 10, record.response_ns.p999)),
            timed(duration(record.response_ns.max)),
            cpu.map_or("–".to_owned(), |ns| duration(ns as u64)),
        ]
    };
    let head =
        ["run", "messages", "messages/s", "payload", "p50", "p99", "p99.9", "max", "server CPU per message"];
    let rows: Vec<Vec<String>> = runs.iter().map(row).collect();
    let mut html = table("Throughput, and response times from the intended send", &head, &rows);
    if several && comparisons.is_empty() {
        html += "<p>Percentages are differences from the first run. <code>echoring compare</code> tells whether \
                 they are more than chance.</p>\n";
    }
    html
}

fn latencies(runs: &[Run]) -> String {
    let mut rows = Vec::new();
    for run in runs {
        let record = &run.record;
        let mut kinds = vec![("response", &record.response_ns), ("service", &record.service_ns)];
        kinds.extend(record.server_and_network_ns.iter().map(|took| ("server and network", took)));
        if let Some(broadcast) = &record.broadcast {
            kinds.push(("first subscriber", &broadcast.first_ns));
            kinds.push(("median subscriber", &broadcast.median_ns));
            kinds.push(("last subscriber", &broadcast.last_ns));
        }
        kinds.push(("generator's lateness", &record.generator.lateness_ns));
        for (kind, quantiles) in kinds {
            if quantiles.count > 0 {
                let Quantiles { p50, p90, p99, p999, p9999, max, mean, count: values, .. } = *quantiles;
                let tail = [(5_000, p50), (1_000, p90), (100, p99), (10, p999), (1, p9999)]
                    .map(|(share, ns)| tables::quantile(quantiles, share, ns));
                let times = tail.into_iter().chain([max, mean as u64].map(duration));
                let name = if runs.len() > 1 { format!("{}: {kind}", run.name) } else { kind.to_owned() };
                rows.push([name].into_iter().chain(times).chain([count(values)]).collect());
            }
        }
    }
    let head = ["latency", "p50", "p90", "p99", "p99.9", "p99.99", "max", "mean", "values"];
    let mut html = table("Percentiles", &head, &rows);
    for run in runs {
        if let Some(chance) = tables::chance(&run.record.response_ns) {
            let of = if runs.len() > 1 { format!("{}: ", run.name) } else { String::new() };
            let _ = writeln!(html, "<p class=\"caption\">{}</p>", escaped(&(of + &chance)));
        }
    }
    html
}

/// A row for each stage of a changing rate.
fn stages(runs: &[Run]) -> String {
    let mut html = String::new();
    for run in runs.iter().filter(|run| !run.record.stages.is_empty()) {
        let row = |(at, stage): (usize, &StageResult)| {
            let asked = stage.asked;
            let rate = match asked.from == asked.to {
                true => count(asked.from),
                false => format!("{} to {}", count(asked.from), count(asked.to)),
            };
            let response = &stage.response_ns;
            let tail = [(5_000, response.p50), (100, response.p99), (10, response.p999)]
                .map(|(share, ns)| tables::quantile(response, share, ns));
            let times = tail.into_iter().chain([duration(response.max)]);
            let times = times.map(|time| if response.count > 0 { time } else { "–".to_owned() });
            [format!("{} ({} s)", at + 1, asked.seconds), rate, count(stage.messages_per_s as u64)]
                .into_iter()
                .chain(times)
                .chain([duration(stage.service_ns.p99), duration(stage.lateness_ns_p99)])
                .collect()
        };
        let rows: Vec<Vec<String>> = run.record.stages.iter().enumerate().map(row).collect();
        let head = [
            "stage",
            "offered messages/s",
            "arrived",
            "p50",
            "p99",
            "p99.9",
            "max",
            "service p99",
            "generator's lateness p99",
        ];
        html += &table(&format!("{}: stages of its rate", run.name), &head, &rows);
    }
    html
}

/// How long parts of the connections that were cut took to come back.
fn storms(runs: &[Run]) -> String {
    let row = |run: &Run| {
        let storm = run.record.storm.as_ref()?;
        let StormTimes { p50, p90, p99, max } = storm.back_ns;
        let times = [p50, p90, p99, max].map(|time| time.map_or("never".to_owned(), duration));
        let counts = [storm.cut_by.clone(), count(storm.cut), count(storm.back)];
        Some([run.name.clone()].into_iter().chain(counts).chain(times).collect())
    };
    let rows: Vec<Vec<String>> = runs.iter().filter_map(row).collect();
    let head = ["run", "cut by", "cut", "back", "50 % back after", "90 %", "99 %", "100 %"];
    table_of_runs("Times from the cut", &head, &rows)
}

/// Sessions by their ends.
fn sessions(runs: &[Run]) -> String {
    let row = |run: &Run| {
        let found = run.record.sessions.as_ref()?;
        let times = [&found.setup_ns, &found.duration_ns].map(|times| match times {
            Some(times) => format!("{} / {}", duration(times.p50), tables::quantile(times, 100, times.p99)),
            None => "–".to_owned(),
        });
        let ends = [found.started, found.completed].map(count).into_iter().chain([counts(&found.failed)]);
        let ends = ends.chain([found.unfinished, found.refused].map(count));
        Some([run.name.clone()].into_iter().chain(ends).chain(times).collect())
    };
    let rows: Vec<Vec<String>> = runs.iter().filter_map(row).collect();
    let head = [
        "run",
        "started",
        "completed",
        "failed",
        "cut off by the end",
        "refused",
        "open after, p50 / p99",
        "lasted, p50 / p99",
    ];
    if rows.is_empty() {
        String::new()
    } else {
        table_of_runs("Sessions, from their due times", &head, &rows)
    }
}

fn protocols(runs: &[Run]) -> String {
    let several = runs.iter().filter(|run| !run.record.protocols.is_empty());
    let table_of = |run: &Run| {
        let rows: Vec<Vec<String>> =
            tables::protocol_rows(&run.record.protocols).into_iter().map(Vec::from).collect();
        table(&format!("{}: its protocols", run.name), &tables::PROTOCOL_HEAD, &rows)
    };
    several.map(table_of).collect()
}

fn searches(runs: &[Run]) -> String {
    let mut html = String::new();
    for run in runs {
        let Some(found) = &run.record.search else { continue };
        let SearchResult { objective, max_rate, steps, low, high, .. } = found;
        let found = match max_rate {
            _ if low.or(*high).is_some() => found.sentence(&run.record.config.mode),
            Some(rate) => {
                format!("the highest rate that met the objective was {} per second", count(*rate))
            }
            None => "no rate met the objective".to_owned(),
        };
        let rows: Vec<Vec<String>> = steps
            .iter()
            .map(|step| {
                let latencies = [step.p50_ns, step.p99_ns, step.p999_ns].map(duration);
                let held = if step.held { "yes" } else { "no" };
                [count(step.rate), count(step.messages_per_s as u64), held.to_owned()]
                    .into_iter()
                    .chain(latencies)
                    .chain([step.why.clone().unwrap_or_default()])
                    .collect()
            })
            .collect();
        let head = ["rate", "messages/s", "held", "p50", "p99", "p99.9", "why"];
        html += &table(&format!("{}: {objective}; {found}", run.name), &head, &rows);
    }
    html
}

/// Counts with what they are of.
fn counts(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> =
        counts.iter().map(|(name, times)| format!("{} × {name}", count(*times))).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

fn reach(record: &Record) -> String {
    let reach = record.broadcast.as_ref().map(|broadcast| 100.0 * broadcast.reach);
    reach.map_or("–".to_owned(), |percent| format!("{percent:.4} %"))
}

fn integrity(runs: &[Run]) -> String {
    const COLUMNS: [Column; 10] = [
        ("lost", |record| count(record.integrity.lost)),
        ("duplicated", |record| count(record.integrity.duplicated)),
        ("reordered", |record| count(record.integrity.reordered)),
        ("corrupted", |record| count(record.integrity.corrupted)),
        ("late", |record| count(record.integrity.late)),
        ("reach", reach),
        ("opened", |record| count(record.connections.opened)),
        ("ended early", |record| count(record.connections.ended_early)),
        ("errors", |record| counts(&record.errors)),
        ("closes", |record| counts(&record.closes)),
    ];
    table_of_columns("Faults of messages and connections, in the whole run", &COLUMNS, runs)
}

fn environment(runs: &[Run]) -> String {
    const COLUMNS: [Column; 10] = [
        ("target", |record| record.target.clone()),
        ("started", |record| record.started_at.clone()),
        ("measured", |record| format!("{:.2} s", record.duration_s)),
        ("processor", |record| record.environment.cpu.clone()),
        ("CPUs", |record| record.environment.cpus.to_string()),
        ("kernel", |record| record.environment.kernel.clone()),
        ("driver", |Record { environment, .. }| {
            format!("{} ({})", environment.driver, listed(&environment.features))
        }),
        ("unavailable features", |record| listed(&record.environment.degraded)),
        ("echoring", |record| program(&record.environment)),
        ("generator busy", |record| format!("{:.0} %", 100.0 * record.generator.cpu_share)),
    ];
    table_of_columns("Machine, time and program", &COLUMNS, runs)
}

fn listed(words: &[String]) -> String {
    if words.is_empty() { "–".to_owned() } else { words.join(" ") }
}

/// The version of the program.
fn program(environment: &Environment) -> String {
    let commit = environment.commit.as_ref().map(|commit| format!(" at {commit}")).unwrap_or_default();
    let build = if environment.optimized { "" } else { ", not optimised" };
    format!("{}{commit}{build}", environment.version)
}

/// Every field of the configurations, so that new ones are included.
fn configuration(runs: &[Run]) -> String {
    let configs: Vec<serde_json::Value> =
        runs.iter().map(|run| run.record.value()["config"].take()).collect();
    let mut fields: Vec<&String> = Vec::new();
    for field in configs.iter().filter_map(|config| config.as_object()).flat_map(|config| config.keys()) {
        if !fields.contains(&field) {
            fields.push(field);
        }
    }
    let shown = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "–".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> = fields
        .iter()
        .map(|field| {
            let values = configs.iter().map(|config| shown(&config[field.as_str()]));
            [(*field).clone()].into_iter().chain(values).collect()
        })
        .collect();
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let head: Vec<&str> = ["setting"].into_iter().chain(names).collect();
    table("Settings, defaults included", &head, &rows)
}
