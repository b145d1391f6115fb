//! Socket activation: listening sockets that systemd opened and passes to the process. See sd_listen_fds(3).

use std::env;
use std::io;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

use echoring_server::InheritedListener;

/// The name of the admin socket (`FileDescriptorName=` in its unit). Every other socket is for WebSocket connections.
const ADMIN: &str = "admin";

/// The sockets that were passed.
#[derive(Debug, Default)]
pub(crate) struct Activated {
    /// For WebSocket connections.
    pub(crate) listeners: Vec<InheritedListener>,
    /// For the admin address.
    pub(crate) admin: Option<InheritedListener>,
}

impl Activated {
    /// Takes the sockets that `LISTEN_FDS` counts, if `LISTEN_PID` names this process.
    ///
    /// # Errors
    /// If one is no listening stream socket, or two are named admin.
    pub(crate) fn from_environment() -> io::Result<Activated> {
        let mut passed = ListenFd::from_env();
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let mut data: Vec<(InheritedListener, Vec<OwnedFd>)> = Vec::new();
        let mut activated = Activated::default();
        for index in 0..passed.len() {
            let Some(socket) = take(&mut passed, index)? else { continue };
            if names.get(index) == Some(&ADMIN) {
                let admin = InheritedListener::new(vec![socket]).map_err(|error| named(index, &error))?;
                if activated.admin.replace(admin).is_some() {
                    return Err(io::Error::other("two sockets are named admin"));
                }
            } else {
                add(&mut data, socket).map_err(|error| named(index, &error))?;
            }
        }
        let whole = data.into_iter().map(|(_, sockets)| InheritedListener::new(sockets));
        activated.listeners = whole.collect::<io::Result<_>>()?;
        Ok(activated)
    }
}

/// Sockets of one port (`ReusePort=`) belong together.
fn add(data: &mut Vec<(InheritedListener, Vec<OwnedFd>)>, socket: OwnedFd) -> io::Result<()> {
    let probe = InheritedListener::new(vec![socket.try_clone()?])?;
    match data.iter_mut().find(|(other, _)| other.address() == probe.address()) {
        Some((_, sockets)) => sockets.push(socket),
        None => data.push((probe, vec![socket])),
    }
    Ok(())
}

/// Takes the descriptor at `index`, of any kind; its kind is checked later.
fn take(passed: &mut ListenFd, index: usize) -> io::Result<Option<OwnedFd>> {
    let unix = passed.take_unix_listener(index);
    match unix {
        Ok(listener) => Ok(listener.map(OwnedFd::from)),
        Err(_) => {
            let listener = passed.take_tcp_listener(index).map_err(|error| named(index, &error))?;
            Ok(listener.map(OwnedFd::from))
        }
    }
}

fn named(index: usize, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("socket {index} of LISTEN_FDS: {error}"))
}
