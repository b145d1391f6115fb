//! Draws the state of `top`. Small terminals show the first parts only; nothing depends on colours.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Sparkline, Table};

use super::app::{App, NodeState};
use super::format::{age, banned, bytes, client, name, rate, share, time, topics, used};
use super::model::{Count, Interval, Percentiles};
use echoring_load::plan::count;

/// The lines of the help.
const HELP: [&str; 8] = [
    "q, Esc, Ctrl-C  end",
    "p, Space        pause or resume",
    "r               ask now",
    "+ -             refresh more or less often",
    "t               sort topics by the next column",
    "c               sort consumers by the next column",
    "h, ?            this list",
    "Times are upper bounds of buckets, at most 9 % wide.",
];

/// Lines of the node and of its state.
const HEAD_LINES: u16 = 2;

/// Lines of a list above its rows: its title and the names of its columns.
const LIST_HEAD_LINES: u16 = 2;

/// Columns from which charts have room beside the figures.
const WIDE_COLUMNS: u16 = 112;

/// Draws a frame.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let interval = app.window.interval();
    let shards = interval.as_ref().map_or(0, |interval| interval.shards.len());
    // The head has its lines first. On small screens, the last parts get what is left.
    let [head, rest] =
        Layout::vertical([Constraint::Length(HEAD_LINES), Constraint::Fill(1)]).areas(frame.area());
    let [figures, latency, shard_area, lists, keys] = Layout::vertical([
        Constraint::Length(8),
        // The ages have a row if there are any.
        Constraint::Length(if interval.as_ref().is_some_and(has_ages) { 4 } else { 3 }),
        Constraint::Max(if shards > 1 { u16::try_from(shards).unwrap_or(8).min(8) + 1 } else { 0 }),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(rest);
    draw_head(frame, head, app);
    draw_figures(frame, figures, app, interval.as_ref());
    if let Some(interval) = &interval {
        draw_latency(frame, latency, interval);
        draw_shards(frame, shard_area, interval);
    }
    draw_lists(frame, lists, app);
    let hints = " q end  p pause  t sort topics  c sort consumers  +/- interval  h help";
    frame.render_widget(Paragraph::new(hints).style(Style::new().add_modifier(Modifier::DIM)), keys);
    if app.shows_help {
        draw_help(frame);
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let mut line = vec![Span::from(format!("echoring {} ", app.target)).bold()];
    if let Some(stats) = app.window.last() {
        let text = format!(
            "{}, {}, {} shards, up {} ",
            stats.version,
            stats.driver.name,
            stats.shards.len(),
            age(stats.uptime_s)
        );
        line.push(Span::from(text));
    }
    line.push(Span::from(format!("every {:?} ", app.questions.interval)).dim());
    let state = Line::from(notes(app));
    frame.render_widget(Paragraph::new(vec![Line::from(line), state]), area);
}

/// The second line: the state, most urgent first.
fn notes(app: &App) -> Vec<Span<'static>> {
    let alarm = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED);
    let warning = Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD);
    let mut notes = vec![match app.state() {
        NodeState::Silent(why) => Span::styled(format!("NO ANSWER: {}; old figures", name(&why)), alarm),
        NodeState::Stalled(why) => Span::styled(format!("STALLED: {}", name(&why)), alarm),
        NodeState::Draining => Span::styled("DRAINING: no new clients", warning),
        NodeState::Serving => Span::styled("serving", Style::new().fg(Color::Green)),
    }];
    if app.questions.is_paused {
        notes.push(Span::styled("  PAUSED", warning));
    }
    if app.window.was_restarted {
        notes.push(Span::styled("  restarted meanwhile", warning));
    }
    if app.has_old_lists {
        notes.push(Span::styled("  old lists", warning));
    }
    if let Some(banned) = banned(&app.lists.limits) {
        notes.push(Span::styled(format!("  {banned}"), warning));
    }
    notes
}

fn draw_figures(frame: &mut Frame<'_>, area: Rect, app: &App, interval: Option<&Interval>) {
    let is_wide = area.width >= WIDE_COLUMNS;
    let charts = if is_wide { Constraint::Fill(1) } else { Constraint::Length(0) };
    let [left, right] = Layout::horizontal([Constraint::Length(80), charts]).areas(area);
    let rows: Vec<Row<'_>> = figures(app, interval)
        .chunks(2)
        .map(|pair| {
            Row::new(pair.iter().flat_map(|(title, value)| [Cell::from(*title), right_aligned(value)]))
        })
        .collect();
    let widths =
        [Constraint::Length(17), Constraint::Length(23), Constraint::Length(19), Constraint::Length(18)];
    frame.render_widget(Table::new(rows, widths).block(titled("Now".to_owned())), left);
    if is_wide {
        let [above, below] = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(right);
        chart(frame, above, "Messages in", app.history.iter().map(|(received, _)| *received));
        chart(frame, below, "Messages out", app.history.iter().map(|(_, sent)| *sent));
    }
}

/// The figures of the node with their titles, in the order of reading.
pub(super) fn figures(app: &App, interval: Option<&Interval>) -> Vec<(&'static str, String)> {
    let Some(stats) = app.window.last() else { return Vec::new() };
    let sum = |of: fn(&super::answers::Shard) -> u64| stats.shards.iter().map(of).sum::<u64>();
    let per_second = |of: fn(&Interval) -> f64| {
        interval.map_or("–".to_owned(), |interval| format!("{}/s", rate(of(interval))))
    };
    let volume = |of: fn(&Interval) -> f64| {
        interval.map_or("–".to_owned(), |interval| format!("{}/s", bytes(of(interval) as u64)))
    };
    vec![
        ("connections", used(sum(|shard| shard.connections), stats.budgets.connections, count)),
        ("subscriptions", count(sum(|shard| shard.subscriptions))),
        ("messages in", per_second(|interval| interval.messages_in)),
        ("messages out", per_second(|interval| interval.messages_out)),
        ("bytes in", volume(|interval| interval.bytes_in)),
        ("bytes out", volume(|interval| interval.bytes_out)),
        ("handshakes", per_second(|interval| interval.opened)),
        ("closes", per_second(|interval| interval.ended)),
        ("refused requests", per_second(|interval| interval.refused)),
        ("over a limit", per_second(|interval| interval.limited)),
        ("deliveries queued", count(sum(|shard| shard.deliveries.queued))),
        ("deliveries dropped", per_second(|interval| interval.dropped)),
        ("memory budget", used(stats.budgets.memory_bytes.used, stats.budgets.memory_bytes, bytes)),
        ("blocked connections", count(sum(|shard| shard.blocked))),
    ]
}

fn chart(frame: &mut Frame<'_>, area: Rect, title: &'static str, rates: impl Iterator<Item = f64>) {
    let rates: Vec<u64> = rates.map(|rate| rate.round() as u64).collect();
    let most = rates.iter().max().copied().unwrap_or(0);
    let block = titled(format!("{title}, at most {}/s", count(most)));
    // The latest rates, as many as fit.
    let shown = &rates[rates.len().saturating_sub(usize::from(area.width))..];
    frame.render_widget(Sparkline::default().block(block).data(shown), area);
}

fn has_ages(interval: &Interval) -> bool {
    interval.delivery_age.count > 0
}

fn draw_latency(frame: &mut Frame<'_>, area: Rect, interval: &Interval) {
    let row = |title: &'static str, found: &Percentiles| {
        let times = [found.p50, found.p99, found.p999, found.max];
        let cells = times.map(|seconds| if found.count > 0 { time(seconds) } else { "–".to_owned() });
        let cells = cells.into_iter().chain([count(found.count)]);
        Row::new([Cell::from(title)].into_iter().chain(cells.map(|cell| right_aligned(&cell))))
    };
    let ages = has_ages(interval).then(|| row("age of deliveries", &interval.delivery_age));
    let rows = [row("receive to send", &interval.receive_to_send), row("tick", &interval.tick_time)]
        .into_iter()
        .chain(ages);
    let widths = [20, 11, 11, 11, 11, 12].map(Constraint::Length);
    let head = head(&["Latency", "p50", "p99", "p99.9", "max", "count"], None);
    frame.render_widget(Table::new(rows, widths).header(head), area);
}

fn draw_shards(frame: &mut Frame<'_>, area: Rect, interval: &Interval) {
    let rows = interval.shards.iter().map(|shard| {
        let cells = [
            count(shard.connections),
            rate(shard.messages_in),
            rate(shard.messages_out),
            share(shard.busy),
            if shard.tick_time.count > 0 { time(shard.tick_time.p99) } else { "–".to_owned() },
        ];
        Row::new(
            [Cell::from(shard.shard.to_string())].into_iter().chain(cells.map(|cell| right_aligned(&cell))),
        )
    });
    let widths = [20, 11, 11, 11, 11, 12].map(Constraint::Length);
    let head = head(&["Shard", "connections", "in/s", "out/s", "busy", "tick p99"], None);
    frame.render_widget(Table::new(rows, widths).header(head), area);
}

fn draw_lists(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let behind = app.behind();
    let with_head = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(LIST_HEAD_LINES);
    let topics = with_head(app.lists.topics.topics.len());
    let consumers = match &behind {
        None => 0,
        Some(behind) if behind.is_empty() => 1,
        Some(behind) => with_head(behind.len().min(10)),
    };
    let closes = with_head(app.window.causes().len().max(app.window.codes().len()).min(8));
    // On small screens each list keeps its first row; the closes go before the consumers, and these before the topics.
    let topics_min = topics.min(LIST_HEAD_LINES + 1);
    let consumers = consumers.min(area.height.saturating_sub(topics_min));
    let closes = match area.height.saturating_sub(topics_min + consumers) {
        left if left > LIST_HEAD_LINES => closes.min(left),
        _ => 0,
    };
    let [topic_area, consumer_area, close_area] = Layout::vertical([
        Constraint::Length(topics.min(area.height.saturating_sub(consumers + closes))),
        Constraint::Length(consumers),
        Constraint::Length(closes),
    ])
    .areas(area);
    draw_topics(frame, topic_area, app);
    if let Some(behind) = behind {
        draw_consumers(frame, consumer_area, app, &behind);
    }
    draw_closes(frame, close_area, app);
}

fn draw_topics(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let rows = app.lists.topics.topics.iter().map(|topic| {
        let cells =
            [count(topic.subscribers), rate(topic.rate), bytes(topic.bytes()), count(topic.dropped())];
        Row::new(cells.map(|cell| right_aligned(&cell)).into_iter().chain([Cell::from(name(&topic.topic))]))
    });
    let widths = [Constraint::Length(12); 4].into_iter().chain([Constraint::Fill(1)]);
    let head = head(&["subscribers", "rate", "bytes", "dropped", "name"], Some(app.questions.topic_order));
    let title = titled(format!("Topics: {}", count(app.lists.topics.count)));
    frame.render_widget(Table::new(rows, widths).header(head).block(title), area);
}

fn draw_consumers(frame: &mut Frame<'_>, area: Rect, app: &App, behind: &[&super::answers::Connection]) {
    let rows = behind.iter().map(|one| {
        let lag = one.lag_bytes.map_or("–".to_owned(), bytes);
        let cells = [bytes(one.queued_bytes), lag, one.open_s.map_or("–".to_owned(), age)];
        let texts = [Cell::from(client(one)), Cell::from(topics(one))];
        Row::new(cells.map(|cell| right_aligned(&cell)).into_iter().chain(texts))
    });
    let widths = [Constraint::Length(12); 3].into_iter().chain([Constraint::Fill(1); 2]);
    let head = head(&["queued", "lag", "age", "client", "topics"], Some(app.consumer_order));
    let title = if behind.is_empty() { "Slowest consumers: none is behind" } else { "Slowest consumers" };
    frame.render_widget(Table::new(rows, widths).header(head).block(titled(title.to_owned())), area);
}

fn draw_closes(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    let window = age(app.window.seconds());
    draw_counts(frame, left, format!("Ended, last {window}"), "cause", &app.window.causes());
    draw_counts(frame, right, format!("Closed, last {window}"), "code", &app.window.codes());
}

fn draw_counts(frame: &mut Frame<'_>, area: Rect, title: String, what: &'static str, counts: &[Count]) {
    let rows = counts.iter().map(|entry| {
        let cells = [right_aligned(&count(entry.recent)), right_aligned(&count(entry.all))];
        Row::new(cells.into_iter().chain([Cell::from(name(&entry.name))]))
    });
    let widths = [Constraint::Length(10), Constraint::Length(12), Constraint::Fill(1)];
    let head = head(&["recent", "all", what], None);
    frame.render_widget(Table::new(rows, widths).header(head).block(titled(title)), area);
}

fn draw_help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let width = 56.min(area.width);
    let height = (HELP.len() as u16 + 2).min(area.height);
    let middle =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, middle);
    let lines: Vec<Line<'_>> = HELP.iter().map(|line| Line::from(*line)).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("Keys")), middle);
}

fn titled(title: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(title)
}

fn right_aligned(text: &str) -> Cell<'static> {
    Cell::from(Line::from(text.to_owned()).alignment(Alignment::Right))
}

/// The head of a table; the column that it is sorted by is marked. Columns of text are on the left.
fn head(titles: &[&'static str], sorted: Option<&str>) -> Row<'static> {
    let cells = titles.iter().map(|title| {
        let is_text = matches!(*title, "Latency" | "Shard" | "name" | "client" | "topics" | "cause" | "code");
        let text = if sorted == Some(*title) { format!("▼{title}") } else { (*title).to_owned() };
        if is_text { Cell::from(text) } else { right_aligned(&text) }
    });
    Row::new(cells.collect::<Vec<_>>()).style(Style::new().add_modifier(Modifier::BOLD))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::super::answers::{Answers, Limits, Lists};
    use super::*;

    fn answers(uptime_s: f64, messages: u64, state: &str) -> Answers {
        let shard = |shard: usize| {
            json!({
                "shard": shard, "connections": 600, "messages_in": messages, "messages_out": 2 * messages,
                "causes": {"gone": messages}, "closes": {"1006": messages},
                "tick_time": {"sum_ns": messages * 1000, "zero": 0, "buckets": [[-80, messages]]},
                "receive_to_send": {"sum_ns": 1, "zero": 0, "buckets": [[-72, messages]]},
            })
        };
        let stats = json!({
            "version": "9.9.9", "pid": 7, "uptime_s": uptime_s, "state": state, "driver": {"name": "uring"},
            "budgets": {
                "connections": {"used": 1216, "limit": 20_000},
                "memory_bytes": {"used": 1020 << 20, "limit": 1023_u64 << 30},
            }, "shards": [shard(0), shard(1)],
        });
        let topics = json!({"count": 41, "topics": [
            {"topic": "prices\u{1b}[2J", "subscribers": 1200, "rate": 12.5, "log_bytes": 1000, "history": {"bytes": 24}},
        ]});
        let consumers = json!([
            {"address": "192.0.2.7:5000", "identity": "alice", "route": "broadcast", "topics": ["prices"],
             "topic_count": 2, "queued_bytes": 65_536, "lag_bytes": 1_000_000, "open_s": 7300.0},
        ]);
        Answers {
            stats: serde_json::from_value(stats).expect("stats"),
            unhealthy: None,
            lists: Some(Lists {
                topics: serde_json::from_value(topics).expect("topics"),
                consumers: Some(serde_json::from_value(consumers).expect("consumers")),
                limits: Limits::default(),
            }),
        }
    }

    fn watched(state: &str) -> App {
        let mut app = App::new("127.0.0.1:9002".to_owned(), Duration::from_secs(2));
        app.answered(answers(10.0, 100, "serving"));
        app.answered(answers(12.0, 1100, state));
        app
    }

    fn screen(app: &App, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, app)).expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn a_large_terminal_shows_everything() {
        let seen = screen(&watched("serving"), 140, 50);
        for expected in [
            "echoring 127.0.0.1:9002 9.9.9, uring, 2 shards, up 12 s every 2s",
            "serving",
            "1,200 of 20,000",
            "1,000/s",
            "Messages in, at most 1,000/s",
            "receive to send          1.95 ms",
            "977 µs",
            "▼subscribers",
            "prices\\u{1b}[2J",
            "▼lag",
            "192.0.2.7:5000 alice",
            "prices and 1 more",
            "2 h",
            "Ended, last 2 s",
            "2,000        2,200 gone",
            "1006",
        ] {
            assert!(seen.contains(expected), "{expected}\n{seen}");
        }
    }

    #[test]
    fn the_state_is_in_words_whatever_the_size() {
        let mut silent = watched("serving");
        silent.failed("connection refused".to_owned());
        let mut stalled = watched("serving");
        stalled.answered(Answers {
            unhealthy: Some("stalled shards: [1]".to_owned()),
            lists: None,
            ..answers(14.0, 1200, "serving")
        });
        assert!(screen(&stalled, 80, 24).contains("prices"), "the lists of before are still shown");
        for (width, height) in [(140, 50), (80, 24), (40, 10), (20, 3), (1, 1)] {
            for (app, expected) in [
                (&watched("draining"), "DRAINING: no new clie"),
                (&stalled, "STALLED: stalled shards: [1]"),
                (&silent, "NO ANSWER: connection refused"),
            ] {
                let seen = screen(app, width, height);
                let part: String = expected.chars().take(usize::from(width.saturating_sub(3))).collect();
                assert!(height < 2 || seen.contains(&part), "{width}x{height}: {part}\n{seen}");
            }
        }
    }

    #[test]
    fn eighty_columns_have_no_charts_and_lose_no_figure() {
        let seen = screen(&watched("serving"), 80, 40);
        assert!(!seen.contains("at most"), "{seen}");
        let memory = "memory budget        1020 MiB of 1023 GiB";
        for expected in [memory, "deliveries dropped", "p99.9", "gone", "prices", "1,200 of 20,000"] {
            assert!(seen.contains(expected), "{expected}\n{seen}");
        }
    }

    #[test]
    fn a_small_terminal_shows_the_first_row_of_every_list() {
        let seen = screen(&watched("serving"), 80, 26);
        for expected in ["over a limit", "prices\\u{1b}[2J", "192.0.2.7:5000 alice", "2,200 gone", "1006"] {
            assert!(seen.contains(expected), "{expected}\n{seen}");
        }
        let seen = screen(&watched("serving"), 80, 24);
        for expected in ["prices\\u{1b}[2J", "192.0.2.7:5000 alice"] {
            assert!(seen.contains(expected), "{expected}\n{seen}");
        }
    }

    #[test]
    fn ages_have_a_row_if_there_are_any() {
        let mut app = watched("serving");
        assert!(!screen(&app, 80, 30).contains("age of deliveries"));
        let mut answers = answers(14.0, 1200, "serving");
        let ages = json!({"*": {"acknowledged": {"buckets": [[-24, 7]]}}});
        answers.stats.shards[0].delivery_ages = serde_json::from_value(ages).expect("ages");
        app.answered(answers);
        let seen = screen(&app, 80, 30);
        let row = seen.lines().find(|line| line.contains("age of deliveries")).expect(&seen);
        assert!(row.contains("125 ms") && row.contains(" 7"), "{row:?}");
    }

    #[test]
    fn a_banned_address_is_named_in_the_second_line() {
        let mut app = watched("serving");
        let limits =
            json!({"addresses": {"banned": 1}, "most_refused": [{"address": "192.0.2.66", "banned_s": 540}]});
        app.lists.limits = serde_json::from_value(limits).expect("limits");
        let seen = screen(&app, 80, 24);
        assert!(
            seen.lines().nth(1).is_some_and(|line| line.contains("1 address banned: 192.0.2.66")),
            "{seen}"
        );
    }

    #[test]
    fn the_help_names_every_key_and_fits() {
        let mut app = watched("serving");
        app.key(KeyEvent::new(KeyCode::Char('h'), KeyModifiers::NONE));
        let seen = screen(&app, 80, 24);
        assert!(HELP.iter().all(|line| seen.contains(line)), "{seen}");
    }

    #[test]
    fn without_answers_there_is_a_frame_too() {
        let mut app = App::new("unix:/run/echoring".to_owned(), Duration::from_secs(2));
        app.failed("nobody".to_owned());
        assert!(screen(&app, 80, 24).contains("NO ANSWER: nobody"));
    }
}
