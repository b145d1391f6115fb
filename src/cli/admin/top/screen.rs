//! The loop of `top`: keys, answers, signals and sizes in, frames out.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossterm::event::{self, Event};
use ratatui::{DefaultTerminal, Frame};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::app::{Action, App};
use super::poller::Poller;
use super::view;
use crate::Failure;
use crate::admin::admin_client::AdminClient;
use crate::limits::TOP_TICK;

/// Watches until a key or a signal ends it. The terminal is restored on every way out, a panic included.
///
/// # Errors
/// If the terminal fails.
pub(super) fn watch(admin: AdminClient, mut app: App) -> io::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let poller = Poller::start(admin, app.questions)?;
    thread::Builder::new().name("terminal".to_owned()).spawn(end_with_terminal)?;
    // Its hook restores the terminal before a panic is reported.
    let mut terminal = ratatui::try_init()?;
    let _restored = Restored;
    run(&mut terminal, &mut app, &poller, &ended)
}

/// Restores the terminal when dropped.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = ratatui::try_restore();
    }
}

fn run(terminal: &mut DefaultTerminal, app: &mut App, poller: &Poller, ended: &AtomicBool) -> io::Result<()> {
    let mut is_changed = true;
    while !ended.load(Ordering::Relaxed) {
        if is_changed {
            terminal.draw(|frame: &mut Frame<'_>| view::draw(frame, app))?;
        }
        is_changed = take_answers(app, poller);
        if event::poll(TOP_TICK)? {
            is_changed = true;
            // Other events are new sizes, to which drawing adapts.
            if let Event::Key(key) = event::read()? {
                match app.key(key) {
                    Action::Quit => return Ok(()),
                    Action::Ask => poller.change(app.questions),
                    Action::None => {}
                }
            }
        }
    }
    Ok(())
}

/// Ends the process when the terminal is gone: only its own session is sent SIGHUP. The thread that reads from it would not
/// be told, because crossterm treats the end of the input as no input. Nothing is left to restore.
fn end_with_terminal() {
    let stdin = io::stdin();
    // Without events, the kernel reports only that the terminal is gone.
    let mut terminal = [PollFd::new(&stdin, PollFlags::empty())];
    while let Err(Errno::INTR) = poll(&mut terminal, None) {}
    process::exit(0);
}

/// Whether there were any.
fn take_answers(app: &mut App, poller: &Poller) -> bool {
    let mut is_changed = false;
    while let Some(answer) = poller.next() {
        is_changed = true;
        match answer {
            Ok(answers) => app.answered(answers),
            Err(Failure::Usage(why) | Failure::Environment(why)) => app.failed(why),
        }
    }
    is_changed
}
