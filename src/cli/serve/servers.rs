//! The servers of this process: the one in effect, and those that drain because it has replaced them.
//!
//! A change of the number of shards starts another server in this process. All parts of the program that last as long as the
//! process therefore ask here for the server, each time.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use echoring_server::{Handle, JoinError, ListenAddress, Server};

use super::draining::DrainSettings;

/// The servers of this process, for any thread.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    state: Arc<Mutex<State>>,
    /// Held while another server takes over, in which the current one may end before it is known to be replaced.
    replacing: Arc<Mutex<()>>,
    ends: mpsc::Sender<End>,
}

#[derive(Debug)]
struct State {
    current: Handle,
    addresses: Vec<ListenAddress>,
    shards: usize,
    /// How many servers there were before the current one.
    number: usize,
    /// Those that have not ended, with their numbers.
    previous: Vec<(usize, Handle)>,
    /// The current server was told to be not ready, or to drain: so is one that replaces it meanwhile.
    leaving: Leaving,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    NotReady,
    Drains(DrainSettings),
}

#[derive(Debug)]
struct End {
    number: usize,
    result: Result<(), JoinError>,
}

/// Waits for the servers to end.
#[derive(Debug)]
pub(super) struct Ends {
    servers: Servers,
    ends: mpsc::Receiver<End>,
}

/// A thread that waits for the end of a server, which has not started yet.
#[derive(Debug)]
pub(super) struct Joiner(mpsc::Sender<(usize, Server)>);

impl Servers {
    /// The servers of a process that has this one.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(super) fn new(server: Server) -> io::Result<(Servers, Ends)> {
        let state = State {
            current: server.handle(),
            addresses: server.addresses().to_vec(),
            shards: server.shards(),
            number: 0,
            previous: Vec::new(),
            leaving: Leaving::No,
        };
        let (sender, ends) = mpsc::channel();
        let servers = Servers { state: Arc::new(Mutex::new(state)), replacing: Arc::default(), ends: sender };
        servers.joiner()?.join(0, server);
        Ok((servers.clone(), Ends { servers, ends }))
    }

    /// The server in effect.
    pub(super) fn current(&self) -> Handle {
        self.state().current.clone()
    }

    /// Where it listens, with port 0 resolved.
    pub(super) fn addresses(&self) -> Vec<ListenAddress> {
        self.state().addresses.clone()
    }

    /// Its number of shards.
    pub(super) fn shards(&self) -> usize {
        self.state().shards
    }

    /// To be held from before a server takes over until [`replace`](Servers::replace) has returned.
    pub(super) fn replacing(&self) -> MutexGuard<'_, ()> {
        self.replacing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread for the end of another server. It ends if there is none.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn joiner(&self) -> io::Result<Joiner> {
        let (sender, server) = mpsc::channel::<(usize, Server)>();
        let ends = self.ends.clone();
        thread::Builder::new().name("servers".to_owned()).spawn(move || {
            let Ok((number, server)) = server.recv() else { return };
            // Fails only when the process ends.
            let _ = ends.send(End { number, result: server.join().map(drop) });
        })?;
        Ok(Joiner(sender))
    }

    /// Another server has taken over from the current one, which drains.
    pub(super) fn replace(&self, joiner: Joiner, server: Server) {
        let handle = server.handle();
        let mut state = self.state();
        let number = state.number + 1;
        let replaced = (state.number, std::mem::replace(&mut state.current, handle.clone()));
        state.previous.push(replaced);
        state.number = number;
        state.shards = server.shards();
        let leaving = state.leaving;
        drop(state);
        joiner.join(number, server);
        match leaving {
            Leaving::No => {}
            Leaving::NotReady => handle.set_not_ready(),
            Leaving::Drains(drain) => drain.begin(&handle),
        }
    }

    /// Answers `GET /readyz` with 503 from now on.
    pub(super) fn set_not_ready(&self) {
        let mut state = self.state();
        state.leaving = Leaving::NotReady;
        state.current.set_not_ready();
    }

    /// Drains all of them.
    pub(super) fn drain(&self, drain: DrainSettings) {
        let mut state = self.state();
        state.leaving = Leaving::Drains(drain);
        let all: Vec<Handle> =
            state.previous.iter().map(|(_, handle)| handle).chain([&state.current]).cloned().collect();
        drop(state);
        all.iter().for_each(|server| drain.begin(server));
    }

    /// Shuts the server down after an essential part has failed.
    pub(super) fn fail(&self, reason: &str) {
        self.current().fail(reason);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Joiner {
    fn join(self, number: usize, server: Server) {
        // The thread waits for it.
        let _ = self.0.send((number, server));
    }
}

impl Ends {
    /// Waits until all servers have drained, or the one in effect has failed. The failure of one that was replaced is logged.
    ///
    /// # Errors
    /// The failure.
    pub(super) fn wait(self) -> Result<(), JoinError> {
        let mut current_ended = false;
        // This has a sender.
        while let Ok(End { number, result }) = self.ends.recv() {
            let _replaced = self.servers.replacing();
            let mut state = self.servers.state();
            state.previous.retain(|(previous, _)| *previous != number);
            match result {
                Err(error) if number == state.number => return Err(error),
                Err(error) => tracing::error!(%error, "shards that drained have failed"),
                Ok(()) => {}
            }
            current_ended |= number == state.number;
            if current_ended && state.previous.is_empty() {
                break;
            }
        }
        Ok(())
    }
}
