//! The percentiles of the response time as bars of their parts, by the kernel's times.
//!
//! The bars are boxes of the page, so that they fit any width. Their parts are told apart by colour, pattern and order; a
//! table has the same figures.

use std::fmt::Write as _;

use super::run::Run;
use super::svg::escaped;
use echoring_load::plan::{count, duration};
use echoring_load::record::split::{QuantileSplit, Split};
use echoring_load::render::summary::stamped;

/// Share of a bar from which a part has room for its number.
const NUMBERED_MIN: f64 = 0.15;
/// The columns of [`rows`].
pub(super) const HEAD: [&str; 7] = [
    "percentile",
    "response",
    "waiting in the generator",
    "generator's kernel",
    "server and network",
    "kernel to program",
    "stamped messages",
];

/// The runs with stamped messages.
fn known(runs: &[Run]) -> impl Iterator<Item = (&Run, &Split)> {
    let all = runs.iter().filter_map(|run| Some((run, run.record.split.as_ref()?)));
    all.filter(|(_, split)| split.stamped > 0)
}

/// The bars of all runs, with their legend; `None` if no message was stamped.
pub(super) fn bars(runs: &[Run]) -> Option<String> {
    let (_, any) = known(runs).find(|(_, split)| split.quantiles().next().is_some())?;
    let (_, first) = any.quantiles().next()?;
    let mut html = "<figure>\n<ul class=\"parts\">\n".to_owned();
    for (at, (name, _)) in first.parts().into_iter().enumerate() {
        let _ = writeln!(html, "<li><span class=\"part{at}\"></span>{}</li>", escaped(name));
    }
    html += "</ul>\n";
    for (run, split) in known(runs) {
        let name = escaped(&run.name);
        if runs.len() > 1 {
            let _ = writeln!(html, "<h3>{name}</h3>");
        }
        let _ = writeln!(
            html,
            "<div role=\"img\" aria-label=\"Percentiles of {name} as bars of their parts; the table has the figures\">"
        );
        split.quantiles().for_each(|(name, split)| bar(&mut html, name, &split));
        let _ =
            writeln!(html, "</div>\n<p class=\"caption\">{}.</p>", escaped(&capitalised(&stamped(split))));
    }
    html += "<figcaption>A bar is a percentile of the response time, from the intended send on the left to the program that \
             reads the answer on the right. Its parts are means of the messages that took about as long.</figcaption>\n\
             </figure>\n";
    Some(html)
}

fn bar(html: &mut String, name: &str, split: &QuantileSplit) {
    let _ = write!(
        html,
        "<div class=\"bar\"><span>{name} <b>{}</b></span><div>",
        escaped(&duration(split.total_ns))
    );
    for (at, (_, ns)) in split.parts().into_iter().enumerate() {
        let share = ns as f64 / split.total_ns.max(1) as f64;
        let number = match share >= NUMBERED_MIN {
            true => format!("<b>{:.0} %</b>", 100.0 * share),
            false => String::new(),
        };
        let _ =
            write!(html, "<span class=\"part{at}\" style=\"width:{:.2}%\">{number}</span>", 100.0 * share);
    }
    html.push_str("</div></div>\n");
}

/// The same figures, a row for each bar.
pub(super) fn rows(runs: &[Run]) -> Vec<Vec<String>> {
    let of_run = |(run, split): (&Run, &Split)| {
        let before = if runs.len() > 1 { format!("{}: ", run.name) } else { String::new() };
        let row = |(name, split): (&str, QuantileSplit)| {
            let times = split.parts().map(|(_, ns)| if ns == 0 { "0".to_owned() } else { duration(ns) });
            let ends = [format!("{before}{name}"), duration(split.total_ns)];
            ends.into_iter().chain(times).chain([count(split.messages)]).collect()
        };
        split.quantiles().map(row).collect::<Vec<Vec<String>>>()
    };
    known(runs).flat_map(of_run).collect()
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
