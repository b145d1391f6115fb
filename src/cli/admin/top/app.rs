//! The state of `top` between two frames: the answers, the view, and the effect of keys. Never: I/O or clocks.

use std::collections::VecDeque;
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::answers::{Answers, Connection, Lists};
use super::model::{Interval, Window};
use super::poller::{Questions, TOPIC_ORDERS, next};
use crate::limits::{TOP_HISTORY, TOP_INTERVALS};

/// The orders of the slowest consumers.
const CONSUMER_ORDERS: [&str; 3] = ["lag", "age", "queued"];

/// The effect of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    /// The questions have changed, or are to be asked now.
    Ask,
    Quit,
}

/// The state of the node, most urgent first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeState {
    /// No answer, for this reason.
    Silent(String),
    /// Shards make no progress.
    Stalled(String),
    Draining,
    Serving,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(super) struct App {
    /// The admin address.
    pub(super) target: String,
    pub(super) questions: Questions,
    pub(super) consumer_order: &'static str,
    pub(super) shows_help: bool,
    pub(super) window: Window,
    /// The latest ones.
    pub(super) lists: Lists,
    pub(super) has_old_lists: bool,
    /// Rates of messages in and out, oldest first.
    pub(super) history: VecDeque<(f64, f64)>,
    unhealthy: Option<String>,
    failure: Option<String>,
}

impl App {
    pub(super) fn new(target: String, interval: Duration) -> App {
        App {
            target,
            questions: Questions { interval, topic_order: TOPIC_ORDERS[0], is_paused: false },
            consumer_order: CONSUMER_ORDERS[0],
            shows_help: false,
            window: Window::default(),
            lists: Lists::default(),
            has_old_lists: false,
            history: VecDeque::new(),
            unhealthy: None,
            failure: None,
        }
    }

    /// Takes the answers of a round.
    pub(super) fn answered(&mut self, answers: Answers) {
        self.window.add(answers.stats);
        self.has_old_lists = answers.lists.is_none();
        if let Some(lists) = answers.lists {
            self.lists = lists;
        }
        self.unhealthy = answers.unhealthy;
        self.failure = None;
        if let Some(Interval { messages_in, messages_out, .. }) = self.window.interval() {
            self.history.push_back((messages_in, messages_out));
            if self.history.len() > TOP_HISTORY {
                self.history.pop_front();
            }
        }
    }

    /// A round failed. The figures of before stay.
    pub(super) fn failed(&mut self, why: String) {
        self.failure = Some(why);
    }

    pub(super) fn state(&self) -> NodeState {
        let stats = self.window.last();
        match (&self.failure, &self.unhealthy, stats) {
            (Some(why), _, _) => NodeState::Silent(why.clone()),
            (None, Some(line), _) => NodeState::Stalled(line.clone()),
            (None, None, Some(stats)) if stats.silent_shards > 0 => {
                NodeState::Stalled(format!("{} shards do not answer", stats.silent_shards))
            }
            (None, None, Some(stats)) if stats.state == "draining" => NodeState::Draining,
            _ => NodeState::Serving,
        }
    }

    /// The consumers that are behind, in the order that was chosen.
    pub(super) fn behind(&self) -> Option<Vec<&Connection>> {
        let all = self.lists.consumers.as_ref()?;
        let is_behind = |one: &&Connection| one.queued_bytes > 0 || one.lag_bytes.unwrap_or(0) > 0;
        let mut behind: Vec<&Connection> = all.iter().filter(is_behind).collect();
        behind.sort_by(|one, other| match self.consumer_order {
            "queued" => other.queued_bytes.cmp(&one.queued_bytes),
            "lag" => (other.lag_bytes, other.queued_bytes).cmp(&(one.lag_bytes, one.queued_bytes)),
            _ => other.open_s.unwrap_or(0.0).total_cmp(&one.open_s.unwrap_or(0.0)),
        });
        Some(behind)
    }

    /// Handles a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::None;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if is_control => Action::Quit,
            KeyCode::Esc | KeyCode::Char('q') if self.shows_help => self.help(false),
            KeyCode::Esc | KeyCode::Char('q') => Action::Quit,
            KeyCode::Char('h' | '?') => self.help(!self.shows_help),
            KeyCode::Char('p' | ' ') => {
                self.questions.is_paused = !self.questions.is_paused;
                Action::Ask
            }
            KeyCode::Char('r') => Action::Ask,
            KeyCode::Char('+') => self.step_interval(false),
            KeyCode::Char('-') => self.step_interval(true),
            KeyCode::Char('t') => {
                self.questions.topic_order = next(&TOPIC_ORDERS, self.questions.topic_order);
                Action::Ask
            }
            KeyCode::Char('c') => {
                self.consumer_order = next(&CONSUMER_ORDERS, self.consumer_order);
                Action::None
            }
            _ => Action::None,
        }
    }

    fn help(&mut self, shows_help: bool) -> Action {
        self.shows_help = shows_help;
        Action::None
    }

    fn step_interval(&mut self, longer: bool) -> Action {
        let now = self.questions.interval;
        let next = match longer {
            true => TOP_INTERVALS.iter().find(|interval| **interval > now),
            false => TOP_INTERVALS.iter().rev().find(|interval| **interval < now),
        };
        self.questions.interval = next.copied().unwrap_or(now);
        Action::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::Stats;
    use super::*;

    fn press(app: &mut App, code: KeyCode) -> Action {
        app.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn app() -> App {
        App::new("127.0.0.1:9002".to_owned(), Duration::from_secs(2))
    }

    fn answers(state: &str, silent_shards: u64, unhealthy: Option<&str>) -> Answers {
        let stats = Stats { state: state.to_owned(), silent_shards, ..Stats::default() };
        Answers { stats, unhealthy: unhealthy.map(str::to_owned), ..Answers::default() }
    }

    #[test]
    fn the_most_urgent_state_is_shown() {
        let mut app = app();
        assert_eq!(app.state(), NodeState::Serving);
        app.answered(answers("draining", 0, None));
        assert_eq!(app.state(), NodeState::Draining);
        app.answered(answers("draining", 1, None));
        assert_eq!(app.state(), NodeState::Stalled("1 shards do not answer".to_owned()));
        app.answered(answers("serving", 0, Some("stalled shards: [1]")));
        assert_eq!(app.state(), NodeState::Stalled("stalled shards: [1]".to_owned()));
        app.failed("no answer".to_owned());
        assert_eq!(app.state(), NodeState::Silent("no answer".to_owned()));
        app.answered(answers("serving", 0, None));
        assert_eq!(app.state(), NodeState::Serving);
    }

    #[test]
    fn keys_do_what_the_help_says() {
        let mut app = app();
        for (code, action) in [
            (KeyCode::Char('p'), Action::Ask),
            (KeyCode::Char('+'), Action::Ask),
            (KeyCode::Char('t'), Action::Ask),
            (KeyCode::Char('c'), Action::None),
            (KeyCode::Char('x'), Action::None),
            (KeyCode::Char('?'), Action::None),
            (KeyCode::Char('q'), Action::None),
            (KeyCode::Char('q'), Action::Quit),
            (KeyCode::Esc, Action::Quit),
        ] {
            assert_eq!(press(&mut app, code), action, "{code:?}");
        }
        assert!(app.questions.is_paused && !app.shows_help);
        assert_eq!((app.questions.topic_order, app.consumer_order), ("rate", "age"));
        assert_eq!(app.questions.interval, Duration::from_secs(1));
        for control in ['c', 'd'] {
            let key = KeyEvent::new(KeyCode::Char(control), KeyModifiers::CONTROL);
            assert_eq!(app.key(key), Action::Quit);
        }
        let released = KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(app.key(released), Action::None);
    }

    #[test]
    fn intervals_end_at_the_shortest_and_the_longest() {
        let mut app = app();
        for (key, expected) in [('+', TOP_INTERVALS.first()), ('-', TOP_INTERVALS.last())] {
            for _ in 0..20 {
                press(&mut app, KeyCode::Char(key));
            }
            assert_eq!(Some(&app.questions.interval), expected);
        }
    }

    #[test]
    fn only_consumers_that_are_behind_are_shown_in_the_order_that_was_chosen() {
        let consumer = |queued_bytes, lag_bytes, open_s| Connection {
            queued_bytes,
            lag_bytes,
            open_s: Some(open_s),
            ..Connection::default()
        };
        let mut app = app();
        assert!(app.behind().is_none());
        app.lists.consumers =
            Some(vec![consumer(0, None, 9.0), consumer(5, Some(1), 1.0), consumer(2, Some(7), 3.0)]);
        let order =
            |app: &App| app.behind().expect("a list").iter().map(|one| one.queued_bytes).collect::<Vec<_>>();
        assert_eq!(order(&app), [2, 5]);
        press(&mut app, KeyCode::Char('c'));
        assert_eq!(order(&app), [2, 5]);
        press(&mut app, KeyCode::Char('c'));
        assert_eq!(order(&app), [5, 2]);
    }
}
