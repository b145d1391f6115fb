//! The thread of an agent's run, whose end is always reported to the agent.

use std::io;
use std::thread::{self, JoinHandle};

use echoring_runtime::panics::panic_message;

/// A thread that returns a value.
#[derive(Debug)]
pub(super) struct RunThread<T>(JoinHandle<T>);

impl<T: Send + 'static> RunThread<T> {
    /// Starts it. `on_end` is called on it after `body`, even if `body` panics.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(
        body: impl FnOnce() -> T + Send + 'static,
        on_end: impl FnOnce() + Send + 'static,
    ) -> io::Result<RunThread<T>> {
        let thread = thread::Builder::new().name("run".to_owned()).spawn(move || {
            let _at_last = AtLast(Some(on_end));
            body()
        });
        thread.map(RunThread)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The text of a panic.
    pub(super) fn join(self) -> Result<T, String> {
        self.0.join().map_err(|panic| format!("panicked: {}", panic_message(&*panic)))
    }
}

/// Calls a function when it is dropped.
struct AtLast<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for AtLast<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// The order of a listener's notices about a thread, and the thread's result.
    fn ended(
        body: impl FnOnce(&mpsc::Sender<&'static str>) -> u32 + Send + 'static,
    ) -> (Vec<&'static str>, Result<u32, String>) {
        let (tell, heard) = mpsc::channel();
        let at_last = tell.clone();
        let thread = RunThread::start(move || body(&tell), move || at_last.send("ended").expect("heard"))
            .expect("a thread");
        // Ends when no sender is left.
        (heard.iter().collect(), thread.join())
    }

    #[test]
    fn the_end_is_told_after_everything_else() {
        let told = ended(|tell| {
            tell.send("first").expect("heard");
            7
        });
        assert_eq!(told, (vec!["first", "ended"], Ok(7)));
    }

    #[test]
    fn the_end_is_told_after_a_panic_which_is_the_result() {
        let formatted = ended(|tell| {
            tell.send("first").expect("heard");
            panic!("{} of 3 planned", 2)
        });
        assert_eq!(formatted, (vec!["first", "ended"], Err("panicked: 2 of 3 planned".to_owned())));
        assert_eq!(ended(|_| panic!("planned")).1, Err("panicked: planned".to_owned()));
        let other = ended(|_| std::panic::panic_any(9_u8));
        assert_eq!(other, (vec!["ended"], Err("panicked: a payload that is not text".to_owned())));
    }
}
