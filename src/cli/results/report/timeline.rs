//! A run over time: a heat map of latency, rates, connections and the server, one below the other on one time
//! axis.
//!
//! A script of the page shows the values at the time under the pointer. They are formatted here, so that the script has
//! no figures to compute.

use serde_json::{Value, json};

use super::axis::Axis;
use super::charts;
use super::heat::{HeatMap, Rows};
use super::run::Run;
use super::series::{self, Column, FIELDS};
use super::svg::{Chart, Line, Panel, Stroke};
use echoring_load::plan::{count, duration};

/// Columns of a chart at most, each at least two pixels wide.
const COLUMNS_MAX: usize = 400;
/// Rows of the table with the same figures at most.
const TABLE_ROWS_MAX: usize = 24;
/// Heat maps of a page at most.
const MAPS_MAX: usize = 8;
/// Heights of wide and narrow drawings.
const MAP_HEIGHTS: (u32, u32) = (360, 320);
const PANEL_HEIGHTS: (u32, u32) = (150, 170);
/// The same with the names of the time axis.
const LAST_HEIGHTS: (u32, u32) = (202, 222);
/// Steps of the vertical axis of a low chart.
const STEPS: f64 = 3.0;
const BYTES_PER_MB: f64 = 1e6;

/// The charts over time of the runs that have slices.
pub(super) struct Timeline {
    /// One for each run, with the same scales.
    pub(super) maps: Vec<Chart>,
    /// All runs in each.
    pub(super) panels: Vec<Chart>,
    /// The values for the script of the page.
    pub(super) data: Value,
    pub(super) columns: usize,
    /// The same figures, one table for each run.
    pub(super) tables: Vec<Table>,
}

/// The figures of a run in few rows.
pub(super) struct Table {
    /// Name of the run.
    pub(super) name: String,
    /// Names of the figures, with the time first.
    pub(super) head: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

/// The charts over time; `None` if no run has slices.
pub(super) fn timeline(runs: &[Run]) -> Option<Timeline> {
    let step_s = series::step_s(runs, COLUMNS_MAX)?;
    let columns = series::columns(runs, step_s);
    let count = columns.iter().map(|(_, columns)| columns.len()).max().filter(|count| *count > 0)?;
    let page = Page { runs, step_s, columns: &columns, x: time_axis(count as f64 * step_s) };
    let maps = page.maps();
    let mut panels: Vec<Chart> =
        [page.rates(), page.deliveries(), page.open(), page.events(), page.cpu(), page.memory()]
            .into_iter()
            .flatten()
            .collect();
    if let Some(Panel { continues, heights, .. }) = panels.last_mut().and_then(|last| last.panel.as_mut()) {
        (*continues, *heights) = (false, LAST_HEIGHTS);
    }
    Some(Timeline { data: page.data(&maps), maps, panels, columns: count, tables: tables(runs) })
}

fn time_axis(seconds: f64) -> Axis {
    let axis = Axis::from_zero("seconds of the measured time", seconds);
    // Beyond the end there is nothing to see.
    let ticks = axis.ticks.into_iter().filter(|(at, _)| *at <= seconds + 1e-9).collect();
    Axis { until: seconds, ticks, ..axis }
}

/// Tells the lines of a chart apart.
type OfColumn = fn(&Column) -> Option<f64>;

struct Page<'a> {
    runs: &'a [Run],
    step_s: f64,
    columns: &'a [(usize, Vec<Column>)],
    x: Axis,
}

impl Page<'_> {
    fn is_alone(&self) -> bool {
        self.columns.len() == 1
    }

    fn names(&self) -> Vec<(usize, String)> {
        match self.is_alone() {
            // The only run needs no name in each chart.
            true => Vec::new(),
            false => charts::names(self.columns.iter().map(|(run, _)| (*run, &self.runs[*run]))),
        }
    }

    /// When the rates of these runs changed: at the ends of stages, and by hand.
    fn marks(&self) -> Vec<f64> {
        let mut marks: Vec<f64> = Vec::new();
        for (run, _) in self.columns {
            let record = &self.runs[*run].record;
            let ends = record.stages.iter().scan(0.0, |ends, stage| {
                *ends += stage.asked.seconds;
                Some(*ends)
            });
            marks.extend(ends.take(record.stages.len().saturating_sub(1)));
            marks.extend(record.rate_changes.iter().map(|change| change.at_s).filter(|at| *at > 0.0));
        }
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        marks
    }

    fn panel(&self) -> Panel {
        Panel {
            run: None,
            heat: None,
            heights: PANEL_HEIGHTS,
            is_half: false,
            continues: true,
            marks: self.marks(),
        }
    }

    fn maps(&self) -> Vec<Chart> {
        let timed = || {
            let has_times = |column: &Column| !column.response.is_empty();
            self.columns.iter().filter(move |(_, columns)| columns.iter().any(has_times)).take(MAPS_MAX)
        };
        let latencies = timed().flat_map(|(_, columns)| columns).flat_map(|column| column.response.keys());
        let y = Axis::latency("response time", latencies.map(|ns| *ns as f64));
        let rows = Rows::spanning(&y);
        let mut maps: Vec<(usize, HeatMap)> = timed()
            .map(|(run, columns)| {
                let counts = columns.iter().map(|column| &column.response);
                (*run, HeatMap::new(self.step_s, rows.clone(), counts))
            })
            .collect();
        let most = maps.iter().map(|(_, map)| map.most).max().unwrap_or(0);
        let is_half = maps.len() > 1;
        maps.iter_mut().for_each(|(_, map)| map.most = most);
        let chart = |(number, (run, heat)): (usize, (usize, HeatMap))| {
            let name = &self.runs[run].name;
            let caption = format!(
                "Heat map of {} columns of {}: the darker a cell, the more messages arrived then with that \
                 response time (in a dark scheme, the brighter).",
                heat.columns.len(),
                width(self.step_s)
            );
            let id = if number == 0 { "heat-map".to_owned() } else { format!("heat-map-{}", number + 1) };
            let of_run = if is_half { format!(": {name}") } else { String::new() };
            let panel = Panel {
                run: Some(run),
                heat: Some(heat),
                heights: MAP_HEIGHTS,
                is_half,
                continues: !is_half,
                ..self.panel()
            };
            let title = format!("Latency over time{of_run}");
            Chart { panel: Some(panel), ..Chart::new(&id, &title, caption, self.x.clone(), y.clone()) }
        };
        maps.into_iter().enumerate().map(chart).collect()
    }

    /// A chart of several values of each run, whose strokes have these meanings; `None` if none of them is known.
    fn chart(
        &self,
        name: &str,
        title: &str,
        unit: &str,
        caption: &str,
        kinds: &[(Stroke, &'static str, OfColumn)],
    ) -> Option<Chart> {
        let mut lines = Vec::new();
        let mut strokes = Vec::new();
        for (stroke, meaning, value) in kinds {
            for (run, columns) in self.columns {
                let pieces = self.pieces(columns, *value);
                if !pieces.is_empty() {
                    lines.push(Line::new(*run, *stroke, pieces));
                    if !meaning.is_empty() && strokes.iter().all(|(known, _)| known != stroke) {
                        strokes.push((*stroke, *meaning));
                    }
                }
            }
        }
        let points = lines.iter().flat_map(|line| &line.pieces).flatten();
        let most = points.fold(0.0_f64, |most, (_, value)| most.max(*value));
        let y = Axis::in_steps(unit, most, STEPS);
        (!lines.is_empty()).then(|| Chart {
            lines,
            runs: self.names(),
            strokes,
            panel: Some(self.panel()),
            ..Chart::new(name, title, caption, self.x.clone(), y)
        })
    }

    /// The same of one value, which needs no name.
    fn plain(&self, name: &str, title: &str, unit: &str, caption: &str, value: OfColumn) -> Option<Chart> {
        self.chart(name, title, unit, caption, &[(Stroke::Solid, "", value)])
    }

    /// The columns that have a value, in the middle of each, connected where they follow one another.
    fn pieces(&self, columns: &[Column], value: OfColumn) -> Vec<Vec<(f64, f64)>> {
        let points: Vec<Option<(f64, f64)>> = columns
            .iter()
            .enumerate()
            .map(|(at, column)| Some(((at as f64 + 0.5) * self.step_s, value(column)?)))
            .collect();
        let pieces = points.split(Option::is_none).map(|piece| piece.iter().flatten().copied().collect());
        pieces.filter(|piece: &Vec<_>| !piece.is_empty()).collect()
    }

    /// Whether each message is delivered many times, so that deliveries have a scale of their own.
    fn fans_out(&self) -> bool {
        self.columns.iter().any(|(run, _)| self.runs[*run].record.broadcast.is_some())
    }

    fn rates(&self) -> Option<Chart> {
        let mut kinds: Vec<(Stroke, &'static str, OfColumn)> = vec![
            (Stroke::Dotted, "target", |column| column.per_s(column.due?)),
            (Stroke::Dashed, "sent", |column| column.per_s(column.sent)),
        ];
        if !self.columns.iter().flat_map(|(_, columns)| columns).any(|column| column.sent > 0) {
            kinds.pop();
        }
        if !self.fans_out() {
            kinds.push((Stroke::Solid, "received", |column| column.per_s(column.arrived)));
        }
        let caption = "Messages due by the rate, sent and received, per second.";
        self.chart("rates", "Target, sent and received rate", "messages/s", caption, &kinds)
    }

    fn deliveries(&self) -> Option<Chart> {
        if !self.fans_out() {
            return None;
        }
        let caption = "Messages that arrived at subscribers, per second.";
        self.plain("deliveries", "Deliveries", "messages/s", caption, |column| column.per_s(column.arrived))
    }

    fn open(&self) -> Option<Chart> {
        let caption = match self.has_events() {
            true => "Connections open at the end of each column.",
            false => "Open connections. None opened, closed or failed in the measured time.",
        };
        let open: OfColumn = |column| column.open.map(|open| open as f64);
        self.plain("open-connections", "Open connections", "open", caption, open)
    }

    fn has_events(&self) -> bool {
        let columns = self.columns.iter().flat_map(|(_, columns)| columns);
        columns.into_iter().any(|column| column.opened + column.closed + column.errors > 0)
    }

    fn events(&self) -> Option<Chart> {
        if !self.has_events() {
            return None;
        }
        let kinds: [(Stroke, &'static str, OfColumn); 2] = [
            (Stroke::Solid, "opened", |column| Some(column.opened as f64)),
            (Stroke::Dotted, "closed", |column| Some(column.closed as f64)),
        ];
        let caption =
            format!("Connections that opened and closed, and errors, in each {}.", width(self.step_s));
        let mut chart =
            self.chart("events", "Connections opened and closed, and errors", "events", &caption, &kinds)?;
        let mut most = chart.y.until;
        for line in chart.lines.iter_mut().filter(|line| line.stroke == Stroke::Solid) {
            let Some((_, columns)) = self.columns.iter().find(|(run, _)| *run == line.run) else { continue };
            let errors = columns.iter().enumerate().filter(|(_, column)| column.errors > 0);
            let place =
                |(at, column): (usize, &Column)| ((at as f64 + 0.5) * self.step_s, column.errors as f64);
            line.crossed = errors.map(place).collect();
            most = line.crossed.iter().fold(most, |most, (_, errors)| most.max(*errors));
        }
        chart.y = Axis::in_steps("events", most, STEPS);
        let has_errors = chart.lines.iter().any(|line| !line.crossed.is_empty());
        chart.crosses = has_errors.then_some("errors");
        Some(chart)
    }

    fn cpu(&self) -> Option<Chart> {
        let caption = "CPU time of the server (user and system) divided by elapsed time: 1 is one core.";
        self.plain("server-cpu", "CPU of the server", "cores", caption, |column| column.cpu_cores)
    }

    fn memory(&self) -> Option<Chart> {
        let memory: OfColumn = |column| column.rss_bytes.map(|resident| resident as f64 / BYTES_PER_MB);
        self.plain("server-memory", "Memory of the server", "MB", "Resident memory of the server.", memory)
    }

    /// The values of each column as text, for the script: it shows those of the time that is pointed at.
    fn data(&self, maps: &[Chart]) -> Value {
        let known = known_fields(self.columns.iter().flat_map(|(_, columns)| columns));
        let run = |(run, columns): &(usize, Vec<Column>)| {
            let map =
                maps.iter().filter_map(|chart| chart.panel.as_ref()).find(|panel| panel.run == Some(*run));
            let cells = map.and_then(|panel| panel.heat.as_ref()).map(|heat| {
                heat.columns.iter().map(|cells| cells.iter().collect::<Vec<_>>()).collect::<Vec<_>>()
            });
            json!({
                "run": run,
                "name": self.runs[*run].name,
                "values": columns.iter().map(|column| values(&known, column)).collect::<Vec<_>>(),
                "cells": cells,
            })
        };
        let heat = maps.first().and_then(|chart| Some((chart.panel.as_ref()?.heat.as_ref()?, &chart.y)));
        let rows = heat.map(|(heat, axis)| {
            let row = |row: usize| {
                let (low, high) = heat.rows.bounds(row);
                let text = format!("{} to {}", duration(low.round() as u64), duration(high.round() as u64));
                (axis.clamp(low.log10()), text)
            };
            // From where to where the axis goes, in powers of ten, and where each row begins.
            json!({ "axis": [axis.from, axis.until], "names": (0..heat.rows.count()).map(row).collect::<Vec<_>>() })
        });
        let columns = self.columns.iter().map(|(_, columns)| columns.len()).max().unwrap_or(0);
        json!({
            "times": (0..columns).map(|column| time(column, self.step_s)).collect::<Vec<_>>(),
            "fields": known.iter().map(|at| FIELDS[*at].0).collect::<Vec<_>>(),
            "runs": self.columns.iter().map(run).collect::<Vec<_>>(),
            "rows": rows,
        })
    }
}

/// Positions of the figures that some column has, and that are not 0 in all.
fn known_fields<'a>(columns: impl Iterator<Item = &'a Column> + Clone) -> Vec<usize> {
    let is_known =
        |at: &usize| columns.clone().filter_map(|column| FIELDS[*at].1(column)).any(|value| value != "0");
    (0..FIELDS.len()).filter(is_known).collect()
}

fn values(known: &[usize], column: &Column) -> Vec<String> {
    known.iter().map(|at| FIELDS[*at].1(column).unwrap_or_else(|| "–".to_owned())).collect()
}

/// The figures of all runs as tables of few rows.
fn tables(runs: &[Run]) -> Vec<Table> {
    let Some(step_s) = series::step_s(runs, TABLE_ROWS_MAX) else { return Vec::new() };
    let table = |(run, columns): (usize, Vec<Column>)| {
        let known = known_fields(columns.iter());
        let head = ["time"].into_iter().chain(known.iter().map(|at| FIELDS[*at].0)).collect();
        let row = |(at, column): (usize, &Column)| {
            [time(at, step_s)].into_iter().chain(values(&known, column)).collect()
        };
        let rows = columns.iter().enumerate().map(row).collect();
        Table { name: runs[run].name.clone(), head, rows }
    };
    series::columns(runs, step_s).into_iter().map(table).collect()
}

/// From when to when a column goes.
fn time(column: usize, step_s: f64) -> String {
    let digits = if step_s < 0.01 {
        3
    } else if step_s < 0.1 {
        2
    } else if step_s < 1.0 {
        1
    } else {
        0
    };
    let at = |column: usize| format!("{:.digits$}", column as f64 * step_s);
    format!("{} to {} s", at(column), at(column + 1))
}

/// The width of a column.
fn width(step_s: f64) -> String {
    if step_s < 1.0 {
        format!("{} ms", (step_s * 1e3).round())
    } else {
        format!("{} s", count(step_s as u64))
    }
}
