//! A chart as SVG, drawn by plotters: axes with names and units, lines that are told apart by colour and by dashes.
//!
//! plotters writes colours only. Each colour here stands for a class, which the page's style gives the colours of
//! the light or the dark scheme; without style the light ones hold. Text is escaped by plotters, or here.

use std::fmt::Write as _;
use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;
use super::heat::{HeatMap, LEVELS, NARROW_COLUMNS_MAX};

/// Size of a drawing. The page scales it to the space that it has.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Class, and suffix of identifiers.
    name: &'static str,
    width: u32,
    height: u32,
    /// Columns of a heat map at most.
    columns: usize,
    /// Space for the labels of the vertical axis.
    labels: u32,
}

/// For screens, documents and paper.
const WIDE: Size = Size { name: "wide", width: 960, height: 440, columns: usize::MAX, labels: 86 };
/// For phones: the same text on less than half the width.
const NARROW: Size =
    Size { name: "narrow", width: 360, height: 360, columns: NARROW_COLUMNS_MAX, labels: 70 };
/// For half of a wide screen.
const HALF: Size = Size { width: 480, height: 320, columns: 2 * NARROW_COLUMNS_MAX, ..WIDE };
/// Height of a row of the legend, and of the title of a file.
const ROW: i32 = 20;
const TITLE: i32 = 30;
/// Size of text, in plotters' unit, which is 1.24 times that of SVG.
const TEXT: f64 = 15.5;
/// Approximate width of a character.
const CHARACTER: i32 = 7;
/// Points of a line that are marked one by one, at most.
const MARKED_MAX: usize = 80;

type Rgb = (u8, u8, u8);
/// Text, lines of axes, lines of the grid, and the background: in the light and in the dark scheme.
const INK: (Rgb, Rgb) = ((0x1F, 0x23, 0x28), (0xE6, 0xED, 0xF3));
const AXIS: (Rgb, Rgb) = ((0x6E, 0x77, 0x81), (0x8B, 0x94, 0x9E));
const GRID: (Rgb, Rgb) = ((0xDD, 0xE2, 0xE8), (0x2B, 0x32, 0x3B));
const BACK: (Rgb, Rgb) = ((0xFF, 0xFF, 0xFF), (0x0F, 0x14, 0x1A));
/// Colours of runs, after Okabe and Ito, whose hues people of all kinds of colour vision tell apart; with a contrast of
/// three to one at least against the background. The last one is of lines that belong to no run.
const RUNS: [(Rgb, Rgb); 8] = [
    ((0x00, 0x72, 0xB2), (0x4D, 0xA8, 0xE8)),
    ((0xD5, 0x5E, 0x00), (0xFF, 0x8F, 0x4D)),
    ((0x00, 0x86, 0x62), (0x3F, 0xC4, 0x9A)),
    ((0xAF, 0x4F, 0x88), (0xE2, 0x9A, 0xC4)),
    ((0x9A, 0x67, 0x00), (0xE8, 0xB9, 0x3C)),
    ((0x2B, 0x88, 0xBC), (0x8C, 0xCB, 0xF2)),
    ((0x6A, 0x3D, 0x9A), (0xB7, 0x9A, 0xE8)),
    ((0x4C, 0x55, 0x60), (0xAD, 0xB6, 0xC0)),
];

/// Colours of a heat map's cells, from few messages to many. Even the first stands out, because single slow messages matter.
const HEAT: [(Rgb, Rgb); LEVELS] = [
    ((0x9F, 0xC5, 0xE8), (0x2A, 0x4B, 0x73)),
    ((0x7A, 0xAD, 0xDB), (0x2F, 0x63, 0x96)),
    ((0x57, 0x94, 0xCB), (0x3B, 0x80, 0xB5)),
    ((0x3B, 0x7A, 0xB8), (0x55, 0xA1, 0xC8)),
    ((0x29, 0x61, 0xA1), (0x7E, 0xBF, 0xD0)),
    ((0x1D, 0x49, 0x84), (0xAD, 0xDB, 0xC8)),
    ((0x13, 0x33, 0x66), (0xDF, 0xEF, 0xB3)),
    ((0x0A, 0x1E, 0x46), (0xFF, 0xF7, 0xB1)),
];

/// Colours that runs have.
const COLOURS: usize = RUNS.len() - 1;
/// Rounds of these colours that dots tell apart: one dot for each round before, as many as a sample in the legend has room for.
const ROUNDS: usize = 4;
/// In the place of a run: that of lines that belong to none.
pub(super) const NOBODY: usize = usize::MAX;

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stroke {
    Solid,
    Dashed,
    Dotted,
}

impl Stroke {
    const ALL: [Stroke; 3] = [Stroke::Solid, Stroke::Dashed, Stroke::Dotted];

    /// Told apart in plotters' output by bits that no eye sees.
    fn mark(self) -> u8 {
        match self {
            Stroke::Solid => 0,
            Stroke::Dashed => 1,
            Stroke::Dotted => 2,
        }
    }

    /// The SVG stroke of a run in this round of the colours.
    fn attributes(self, round: usize) -> String {
        let dots = " 2 3".repeat(round);
        match self {
            Stroke::Solid if round == 0 => String::new(),
            Stroke::Solid => format!(" stroke-dasharray=\"12 3{dots}\""),
            Stroke::Dashed => format!(" stroke-dasharray=\"7 4{dots}\""),
            // Groups of dots, with a wider gap between them.
            Stroke::Dotted => {
                let gap = if round == 0 { 4 } else { 10 };
                format!(" stroke-dasharray=\"2 {gap}{dots}\" stroke-linecap=\"round\"")
            }
        }
    }
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Which run's colour it has; [`NOBODY`] for none.
    pub(super) run: usize,
    pub(super) stroke: Stroke,
    /// Its pieces, each of connected points.
    pub(super) pieces: Vec<Vec<(f64, f64)>>,
    /// Points that are crossed out.
    pub(super) crossed: Vec<(f64, f64)>,
    /// Whether points that few are marked.
    pub(super) marked: bool,
}

/// A chart.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    /// For its file and its place on the page.
    pub(super) name: String,
    pub(super) title: String,
    /// Its description, also for screen readers.
    pub(super) caption: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    /// Runs by their colours.
    pub(super) runs: Vec<(usize, String)>,
    /// The meanings of the strokes.
    pub(super) strokes: Vec<(Stroke, &'static str)>,
    /// Crossed points, if they have a meaning of their own.
    pub(super) crosses: Option<&'static str>,
    /// Its part in a timeline, if it has one.
    pub(super) panel: Option<Panel>,
}

/// The additions to a chart of a timeline: it shares its horizontal axis with others, above and below it.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    /// Which run a heat map is of.
    pub(super) run: Option<usize>,
    /// The cells of a heat map.
    pub(super) heat: Option<HeatMap>,
    /// Height of the wide and of the narrow drawing.
    pub(super) heights: (u32, u32),
    /// Whether it takes half of a wide screen.
    pub(super) is_half: bool,
    /// Whether the names of the horizontal axis are below another panel.
    pub(super) continues: bool,
    /// Times that a line marks.
    pub(super) marks: Vec<f64>,
}

/// Where the values of a drawing are, in its units.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Plot {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

/// The destination of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Page,
    File,
}

impl Line {
    /// A line without marks.
    pub(super) fn new(run: usize, stroke: Stroke, pieces: Vec<Vec<(f64, f64)>>) -> Line {
        Line { run, stroke, pieces, crossed: Vec::new(), marked: false }
    }
}

impl Chart {
    /// A chart without lines.
    pub(super) fn new(name: &str, title: &str, caption: impl Into<String>, x: Axis, y: Axis) -> Chart {
        Chart {
            name: name.to_owned(),
            title: title.to_owned(),
            caption: caption.into(),
            x,
            y,
            lines: Vec::new(),
            runs: Vec::new(),
            strokes: Vec::new(),
            crosses: None,
            panel: None,
        }
    }

    /// For a page that has [`style`]: two drawings, of which the page shows the one that fits.
    pub(super) fn inline(&self) -> String {
        let is_half = self.panel.as_ref().is_some_and(|panel| panel.is_half);
        self.drawn(if is_half { HALF } else { WIDE }, Place::Page) + &self.drawn(NARROW, Place::Page)
    }

    /// For a file of its own.
    pub(super) fn file(&self) -> String {
        self.drawn(WIDE, Place::File)
    }

    fn drawn(&self, size: Size, place: Place) -> String {
        let height = match (&self.panel, size.width == WIDE.width) {
            (Some(panel), true) => panel.heights.0,
            (Some(panel), false) => panel.heights.1,
            (None, _) => size.height,
        };
        let size = Size { height, ..size };
        let (drawn, plot) = self.body(size, place);
        let Plot { left, right, top, bottom } = plot;
        let (mut attributes, mut style) = (String::new(), String::new());
        match place {
            Place::File => {
                attributes = format!(" width=\"{}\" height=\"{height}\"", size.width);
                style = format!("<style>{}</style>\n", self::style("svg"));
            }
            Place::Page => {
                if let Some(panel) = &self.panel {
                    attributes = format!(" data-plot=\"{left} {right} {top} {bottom}\"");
                    if let Some(run) = panel.run {
                        let _ = write!(attributes, " data-run=\"{run}\"");
                    }
                }
            }
        }
        format!("{}\n{style}{drawn}</svg>\n", self.opening(size, &attributes))
    }

    fn opening(&self, size: Size, attributes: &str) -> String {
        let Chart { name, title, caption, .. } = self;
        let Size { name: class, width, height, .. } = size;
        let id = format!("{name}-{class}");
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\"{attributes} class=\"chart {class}\" \
             role=\"img\" aria-labelledby=\"{id}-title {id}-desc\">\n<title id=\"{id}-title\">{}</title>\n\
             <desc id=\"{id}-desc\">{}</desc>",
            escaped(title),
            escaped(caption)
        )
    }

    /// The drawing of plotters, without the element around it, and the overlay.
    fn body(&self, size: Size, place: Place) -> (String, Plot) {
        let mut drawn = String::new();
        let plot = {
            let root = SVGBackend::with_string(&mut drawn, (size.width, size.height)).into_drawing_area();
            // A string takes all that is written to it, and axes are never empty.
            self.draw(&root, size, place).expect("nothing about a chart in memory can fail")
        };
        let inside = drawn.split_once(">\n").map_or("", |(_, rest)| rest);
        let mut drawn = classified(inside.trim_end().strip_suffix("</svg>").unwrap_or(inside));
        if let Some(panel) = &self.panel {
            panel.draw_over(&mut drawn, size, plot, (&self.x, &self.y));
        }
        (drawn, plot)
    }

    fn draw(&self, root: &Area<'_>, size: Size, place: Place) -> Result<Plot, Failed> {
        root.fill(&colour(BACK.0))?;
        let mut top = 8;
        if place == Place::File {
            let style = text(TEXT * 1.2).pos(Pos::new(HPos::Left, VPos::Top));
            root.draw(&Text::new(label(&self.title), (16, top), style))?;
            top += TITLE;
        }
        let top = self.draw_legend(root, size, top)?;
        let (x, y) = (&self.x.thinned(size.width - size.labels - 28, CHARACTER as u32), &self.y);
        let names_x = place == Place::File || !self.panel.as_ref().is_some_and(|panel| panel.continues);
        let mut chart = ChartBuilder::on(root)
            .margin_top(top + 8)
            .margin_right(28)
            .margin_bottom(8)
            .margin_left(8)
            .x_label_area_size(if names_x { 52 } else { 0 })
            .y_label_area_size(size.labels)
            .build_cartesian_2d(Scale(x), Scale(y))?;
        chart
            .configure_mesh()
            .bold_line_style(colour(GRID.0))
            .light_line_style(TRANSPARENT)
            .axis_style(colour(AXIS.0))
            .label_style(text(TEXT))
            .axis_desc_style(text(TEXT))
            .set_all_tick_mark_size(4)
            .x_desc(x.label.clone())
            .y_desc(y.label.clone())
            .draw()?;
        for line in &self.lines {
            let style = ShapeStyle {
                color: run_colour(line.run, line.stroke).to_rgba(),
                filled: false,
                stroke_width: 2,
            };
            let plain = marked(colour_of(line.run).0, Stroke::Solid, 0);
            let inside = |&(at, value): &(f64, f64)| (x.clamp(at), y.clamp(value));
            let points: usize = line.pieces.iter().map(Vec::len).sum();
            for piece in &line.pieces {
                chart.draw_series(LineSeries::new(piece.iter().map(inside), style))?;
                if (line.marked && points <= MARKED_MAX) || piece.len() == 1 {
                    let mark = |point| Circle::new(inside(point), 3, plain.filled());
                    chart.draw_series(piece.iter().map(mark))?;
                }
            }
            let cross = |point| Cross::new(inside(point), 5, ShapeStyle::from(plain).stroke_width(2));
            chart.draw_series(line.crossed.iter().map(cross))?;
        }
        let (across, down) = chart.plotting_area().get_pixel_range();
        root.present()?;
        let [left, right, top, bottom] = [across.start, across.end, down.start, down.end].map(f64::from);
        Ok(Plot { left, right, top, bottom })
    }

    /// Draws the meaning of colours and strokes, in rows from `top` on. Returns their end.
    fn draw_legend(&self, root: &Area<'_>, size: Size, top: i32) -> Result<i32, Failed> {
        /// A piece of the line, and the space between entries.
        const SAMPLE: i32 = 36;
        const GAP: i32 = 18;
        if let Some(heat) = self.panel.as_ref().and_then(|panel| panel.heat.as_ref()) {
            return draw_scale(heat, root, size, top);
        }
        if self.runs.is_empty() && self.strokes.is_empty() && self.crosses.is_none() {
            return Ok(top);
        }
        let strokes = self.strokes.iter().map(|(stroke, name)| (NOBODY, *stroke, *name));
        let runs = self.runs.iter().map(|(run, name)| (*run, Stroke::Solid, name.as_str()));
        let left = size.labels as i32 + 10;
        let mut at = (left, top + ROW / 2);
        let anchored = || text(TEXT).pos(Pos::new(HPos::Left, VPos::Center));
        for (run, stroke, name) in runs.chain(strokes) {
            // A long name keeps its beginning.
            let most = (size.width as i32 - left - SAMPLE - 16) / CHARACTER;
            let name: String = label(name).chars().take(most as usize).collect();
            let width = SAMPLE + GAP + CHARACTER * name.chars().count() as i32;
            if at.0 > left && at.0 + width > size.width as i32 - 16 {
                at = (left, at.1 + ROW);
            }
            let style =
                ShapeStyle { color: run_colour(run, stroke).to_rgba(), filled: false, stroke_width: 3 };
            root.draw(&PathElement::new(vec![at, (at.0 + SAMPLE - 6, at.1)], style))?;
            root.draw(&Text::new(name, (at.0 + SAMPLE, at.1), anchored()))?;
            at.0 += width;
        }
        if let Some(meaning) = self.crosses {
            let plain = ShapeStyle::from(run_colour(NOBODY, Stroke::Solid)).stroke_width(2);
            root.draw(&Cross::new((at.0 + 10, at.1), 5, plain))?;
            root.draw(&Text::new(label(meaning), (at.0 + SAMPLE - 6, at.1), anchored()))?;
        }
        Ok(at.1 + ROW / 2)
    }
}

/// Draws how many messages the colours of cells mean. Gives where that ends.
fn draw_scale(heat: &HeatMap, root: &Area<'_>, size: Size, top: i32) -> Result<i32, Failed> {
    /// The width of a colour.
    const SWATCH: i32 = 16;
    let anchored = || text(TEXT).pos(Pos::new(HPos::Left, VPos::Center));
    let mut at = (size.labels as i32 + 10, top + ROW / 2);
    root.draw(&Text::new("1", at, anchored()))?;
    at.0 += 2 * CHARACTER;
    for (light, _) in HEAT {
        let corners = [(at.0, at.1 - 6), (at.0 + SWATCH, at.1 + 6)];
        root.draw(&Rectangle::new(corners, colour(light).filled()))?;
        at.0 += SWATCH;
    }
    let words = format!("{} messages", heat.with_columns(size.columns).most);
    root.draw(&Text::new(words, (at.0 + CHARACTER, at.1), anchored()))?;
    Ok(at.1 + ROW / 2)
}

impl Panel {
    /// Cells, then marks, which would be hidden by them.
    fn draw_over(&self, drawn: &mut String, size: Size, plot: Plot, (x, y): (&Axis, &Axis)) {
        if let Some(heat) = &self.heat {
            // Without smoothing, cells that meet have no seam.
            drawn.push_str("<g shape-rendering=\"crispEdges\">\n");
            let paths = heat.with_columns(size.columns).paths(plot, x, y);
            for (level, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
                let fill = hex(colour(HEAT[level].0));
                let _ = writeln!(drawn, "<path class=\"h{level}\" fill=\"{fill}\" d=\"{path}\"/>");
            }
            drawn.push_str("</g>\n");
        }
        let Plot { left, right, top, bottom } = plot;
        for mark in self.marks.iter().filter(|mark| (x.from..=x.until).contains(mark)) {
            let at = left + (right - left) * (mark - x.from) / (x.until - x.from);
            let stroke = hex(colour(AXIS.0));
            let _ = writeln!(
                drawn,
                "<path class=\"axis\" stroke=\"{stroke}\" stroke-dasharray=\"3 3\" d=\"M{at:.1} {top}V{bottom}\"/>"
            );
        }
    }
}

/// An axis as plotters wants it: lines of the grid are where it has names.
struct Scale<'a>(&'a Axis);

impl Ranged for Scale<'_> {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let Axis { from, until, .. } = *self.0;
        first + (f64::from(last - first) * (value - from) / (until - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Between them there are no lighter ones.
        let wanted = !hint.weight().allow_light_points();
        self.0.ticks.iter().filter(|_| wanted).map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.0.from..self.0.until
    }
}

impl ValueFormatter<f64> for Scale<'_> {
    fn format_ext(&self, value: &f64) -> String {
        self.0.name(*value)
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Failed = DrawingAreaErrorKind<std::io::Error>;

fn text(size: f64) -> TextStyle<'static> {
    ("system-ui, sans-serif", size).into_font().color(&colour(INK.0))
}

fn colour((red, green, blue): Rgb) -> RGBColor {
    RGBColor(red, green, blue)
}

/// The colour of a run, and in which round of the colours it has that.
fn colour_of(run: usize) -> (usize, usize) {
    if run == NOBODY { (COLOURS, 0) } else { (run % COLOURS, run / COLOURS % ROUNDS) }
}

fn run_colour(run: usize, stroke: Stroke) -> RGBColor {
    let (colour, round) = colour_of(run);
    marked(colour, stroke, round)
}

/// A colour of runs with the mark of a stroke and a round.
fn marked(colour: usize, stroke: Stroke, round: usize) -> RGBColor {
    let (red, green, blue) = RUNS[colour].0;
    RGBColor(red, green, blue ^ (stroke.mark() | (round as u8) << 2))
}

fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// Puts classes beside the colours, and dashes where a colour stands for them. Text cannot be mistaken for either: its
/// quotes are escaped.
fn classified(drawn: &str) -> String {
    let mut text = drawn.to_owned();
    let named =
        [("fill", "ink", INK), ("fill", "back", BACK), ("stroke", "axis", AXIS), ("stroke", "grid", GRID)];
    let named = named.map(|(part, class, colours)| (part, class.to_owned(), colours));
    let levels = HEAT.into_iter().enumerate().map(|(level, colours)| ("fill", format!("h{level}"), colours));
    for (part, class, (light, _)) in named.into_iter().chain(levels) {
        let coloured = format!("{part}=\"{}\"", hex(colour(light)));
        text = text.replace(&coloured, &format!("class=\"{class}\" {coloured}"));
    }
    for run in 0..RUNS.len() {
        let plain = hex(marked(run, Stroke::Solid, 0));
        text = text.replace(&format!("fill=\"{plain}\""), &format!("class=\"f{run}\" fill=\"{plain}\""));
        for (round, stroke) in (0..ROUNDS).flat_map(|round| Stroke::ALL.map(|stroke| (round, stroke))) {
            let drawn = format!("stroke=\"{}\"", hex(marked(run, stroke, round)));
            let meant = format!("class=\"s{run}\" stroke=\"{plain}\"{}", stroke.attributes(round));
            // The first mark is the plain colour itself, so it is replaced before any text has that.
            text = text.replace(&drawn, &meant);
        }
    }
    text
}

/// Colours as custom properties of `root`, for both schemes, and the classes that use them.
pub(super) fn style(root: &str) -> String {
    let named = [("ink", INK), ("axis", AXIS), ("grid", GRID), ("back", BACK)];
    let named = named.map(|(name, colours)| (name.to_owned(), colours)).into_iter();
    let runs = RUNS.into_iter().enumerate().map(|(run, colours)| (format!("run{run}"), colours));
    let levels = HEAT.into_iter().enumerate().map(|(level, colours)| (format!("heat{level}"), colours));
    let properties: Vec<(String, (Rgb, Rgb))> = named.chain(runs).chain(levels).collect();
    let properties = |pick: fn((Rgb, Rgb)) -> Rgb| -> String {
        let property = |(name, colours): &(String, _)| format!("--{name}:{};", hex(colour(pick(*colours))));
        properties.iter().map(property).collect()
    };
    let (light, dark) = (properties(|colours| colours.0), properties(|colours| colours.1));
    let mut text =
        format!("{root}{{{light}}}@media screen and (prefers-color-scheme:dark){{{root}{{{dark}}}}}");
    text.push_str(
        ".ink{fill:var(--ink)}.back{fill:var(--back)}.axis{stroke:var(--axis)}.grid{stroke:var(--grid)}",
    );
    for run in 0..RUNS.len() {
        let _ = write!(text, ".s{run}{{stroke:var(--run{run})}}.f{run}{{fill:var(--run{run})}}");
    }
    for level in 0..LEVELS {
        let _ = write!(text, ".h{level}{{fill:var(--heat{level})}}");
    }
    text
}

/// Neither HTML nor XML may contain some characters, escaped or not.
fn allowed(character: char) -> char {
    match character {
        '\n' | '\t' => character,
        '\u{FFFE}' | '\u{FFFF}' => '\u{FFFD}',
        control if control.is_control() => '\u{FFFD}',
        other => other,
    }
}

/// Text for plotters, which escapes it. A label has one line.
fn label(text: &str) -> String {
    text.chars().map(|character| if character == '\n' { ' ' } else { allowed(character) }).collect()
}

/// Text as it may stand in HTML and SVG, in elements and in quoted attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(allowed(other)),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::heat::Rows;
    use super::*;

    fn chart() -> Chart {
        let line = |run, stroke| Line {
            run,
            stroke,
            pieces: vec![vec![(0.0, 3.0), (1.0, 4.0)], vec![(2.0, 5.0)]],
            crossed: vec![(1.5, 99.0)],
            marked: false,
        };
        Chart {
            name: "example".to_owned(),
            title: "A <title> & more".to_owned(),
            caption: "What \"it\" shows".to_owned(),
            x: Axis::from_zero("seconds", 2.0),
            y: Axis::latency("latency", [1e3, 1e5].into_iter()),
            lines: vec![line(0, Stroke::Solid), line(8, Stroke::Dashed)],
            runs: vec![(0, "one".to_owned()), (1, "</svg><script>alert(1)</script>".to_owned())],
            strokes: vec![(Stroke::Dotted, "dots")],
            crosses: None,
            panel: None,
        }
    }

    /// The same time in a heat map and below it.
    fn panels() -> [Chart; 2] {
        let x = Axis::from_zero("seconds", 2.0);
        let y = Axis::latency("latency", [1e5, 2e5].into_iter());
        let counts = [[(110_000, 1)].into(), [(150_000, 100)].into()];
        let heat = HeatMap::new(1.0, Rows::spanning(&y), counts.iter());
        let panel = Panel {
            run: Some(0),
            heat: None,
            heights: (160, 160),
            is_half: false,
            continues: false,
            marks: vec![1.0],
        };
        let map = Panel { heat: Some(heat), heights: (300, 300), continues: true, ..panel.clone() };
        let below = Chart { x, panel: Some(panel), ..chart() };
        [Chart { y, panel: Some(map), lines: Vec::new(), ..below.clone() }, below]
    }

    #[test]
    fn panels_of_a_timeline_have_the_same_time_at_the_same_place() {
        let places = panels().map(|chart| {
            let svg = chart.inline();
            let plots = svg.split("data-plot=\"").skip(1).filter_map(|rest| rest.split('"').next());
            let across = |plot: &str| plot.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
            plots.map(across).collect::<Vec<_>>()
        });
        assert_eq!(places[0].len(), 2);
        assert_eq!(places[0], places[1]);
    }

    #[test]
    fn cells_are_within_their_chart_and_marks_above_them() {
        let [map, below] = panels();
        let svg = map.drawn(WIDE, Place::Page);
        assert_eq!(svg.matches("<path class=\"h").count(), 2, "{svg}");
        let mark = svg.find("<path class=\"axis\"").expect("a mark");
        assert!(mark > svg.rfind("<path class=\"h").expect("cells"));
        assert!(svg.contains("100 messages"), "what the colours mean: {svg}");
        assert!(
            !svg.contains("\nseconds\n") && below.inline().contains("\nseconds\n"),
            "names of the axis once"
        );
        assert!(map.file().contains("seconds"), "a file has no chart below it");
        let half = Chart { panel: map.panel.clone().map(|panel| Panel { is_half: true, ..panel }), ..map };
        assert!(
            half.inline().contains("viewBox=\"0 0 480 300\"") && half.file().contains("viewBox=\"0 0 960")
        );
    }

    #[test]
    fn colours_become_classes_and_marks_become_dashes() {
        let svg = chart().inline();
        for part in [
            "class=\"s0\" stroke=\"#0072B2\"",
            "class=\"s1\" stroke=\"#D55E00\" stroke-dasharray=\"7 4 2 3\"",
        ] {
            assert!(svg.contains(part), "{part}\n{svg}");
        }
        assert!(svg.contains("class=\"s7\" stroke=\"#4C5560\" stroke-dasharray=\"2 4\""), "{svg}");
        assert!(svg.contains("class=\"f0\" fill=\"#0072B2\""), "the lonely point is marked: {svg}");
        assert!(!svg.contains("#000000"), "nothing has a colour of plotters' own: {svg}");
        for line in svg.lines() {
            assert!(line.matches("class=\"").count() <= 1, "{line}");
        }
    }

    #[test]
    fn no_text_gets_out_of_its_element() {
        for (svg, drawings) in [(chart().inline(), 2), (chart().file(), 1)] {
            assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
            assert_eq!(svg.matches("<svg").count(), drawings);
            assert_eq!(svg.matches("</svg>").count(), drawings);
            assert!(!svg.contains("<script"), "{svg}");
            assert!(svg.contains("A &lt;title&gt; &amp; more"));
        }
        // plotters escapes labels, and lets pass what no escape makes allowed.
        let name = "run\u{0}\u{1b}[31m\n<\"x\u{FFFF}";
        let odd = Chart { title: name.to_owned(), runs: vec![(0, name.to_owned())], ..chart() };
        for svg in [odd.inline(), odd.file()] {
            let is_allowed = |c: char| matches!(c, '\n' | '\t') || !(c.is_control() || c == '\u{FFFF}');
            assert!(svg.chars().all(is_allowed), "{svg}");
            assert!(svg.contains("run\u{FFFD}\u{FFFD}[31m &lt;&quot;x\u{FFFD}"), "{svg}");
        }
        assert_eq!(escaped("a\u{1}<'\">&\n"), "a\u{FFFD}&lt;&#39;&quot;&gt;&amp;\n");
    }

    #[test]
    fn all_marks_are_told_apart() {
        let (mut seen, mut drawn) = (BTreeSet::new(), BTreeSet::new());
        for run in (0..COLOURS * ROUNDS).chain([NOBODY]) {
            let (colour, round) = colour_of(run);
            for stroke in Stroke::ALL {
                assert!(seen.insert(hex(run_colour(run, stroke))), "{run} {stroke:?}");
                assert!(drawn.insert((colour, stroke.attributes(round))), "{run} {stroke:?}");
            }
        }
        for (light, _) in [INK, AXIS, GRID, BACK].into_iter().chain(HEAT) {
            assert!(seen.insert(hex(colour(light))));
        }
    }

    #[test]
    fn colours_stand_out_from_what_is_behind_them() {
        fn luminance((red, green, blue): Rgb) -> f64 {
            let linear = |part: u8| {
                let part = f64::from(part) / 255.0;
                if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
        }
        let contrast = |one: Rgb, other: Rgb| {
            let (one, other) = (luminance(one), luminance(other));
            (one.max(other) + 0.05) / (one.min(other) + 0.05)
        };
        for (light, dark) in RUNS.into_iter().chain([AXIS]) {
            assert!(contrast(light, BACK.0) >= 3.0, "{light:?}");
            assert!(contrast(dark, BACK.1) >= 3.0, "{dark:?}");
        }
        for (scheme, back) in [(0, BACK.0), (1, BACK.1)] {
            let contrasts = HEAT.map(|(light, dark)| contrast(if scheme == 0 { light } else { dark }, back));
            assert!(contrasts[0] >= 1.7, "single messages are seen: {contrasts:?}");
            assert!(contrasts.is_sorted(), "more messages stand out more: {contrasts:?}");
        }
        assert!(contrast(INK.0, BACK.0) >= 7.0 && contrast(INK.1, BACK.1) >= 7.0);
    }
}
