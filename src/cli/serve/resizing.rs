//! Changes the number of shards of a running server.
//!
//! Shards share no memory, and each owns topics by a hash over all of them, so their number is fixed for the life of a server. Another
//! server of the same process therefore takes over, as a new process does with `--takeover`: it gets the listeners, the topics and the
//! open connections; connections that cannot move drain. The process, its admin address, its log and its sandbox stay.

use std::io;
use std::sync::{Arc, mpsc};

use echoring_async::tls::Tickets;
use echoring_runtime::shard::AccessLog;
use echoring_server::handover::{Event, Predecessor};
use echoring_server::{Handle, ListenAddress, Resolved, Server, ServerConfig, StartError, StartErrorKind};

use super::cluster_node::Membership;
use super::servers::Servers;
use super::settings::Settings;
use super::{offering, unmap_start_code, wait_for_successor};
use crate::Failure;
use crate::common::start_error;
use crate::limits::RESIZE_LEAVE_TIMEOUT;

/// The parts of this process that a further server uses, too.
#[derive(Debug)]
pub(super) struct Resizer {
    pub(super) servers: Servers,
    pub(super) control: Option<echoring_admin::Handle>,
    /// The address of the control plane's listener.
    pub(super) admin: Option<ListenAddress>,
    pub(super) cluster: Option<Membership>,
    pub(super) access_log: Option<AccessLog>,
    pub(super) tickets: Option<Arc<Tickets>>,
}

impl Resizer {
    /// Gives the process the shards of `settings`, in a server with all of them, if their number differs. Returns whether it does.
    ///
    /// # Errors
    /// The reason, in one line. Then the current server continues as before.
    pub(super) fn resize(&self, settings: &Settings) -> Result<bool, String> {
        let config = ServerConfig {
            // With the ports that the kernel has chosen.
            listen: self.servers.addresses(),
            inherited: Vec::new(),
            cluster: self.cluster.as_ref().map(|membership| membership.identity),
            ..settings.server.clone()
        };
        let shards = Resolved::of(&config).map_err(|error| start_error::line(&error))?.shards;
        let (current, shards_before) = (self.servers.current(), self.servers.shards());
        if shards == shards_before {
            return Ok(false);
        }
        if current.is_leaving() {
            return Err("the server drains".to_owned());
        }
        let joiner = self.servers.joiner().map_err(|error| format!("cannot start a thread: {error}"))?;
        let _replacing = self.servers.replacing();
        let (taken_over, has_left) = mpsc::channel();
        let mut predecessor =
            self.ask(&current, shards, &config, taken_over).map_err(|error| error.to_string())?;
        let admin = self.admin.as_ref().and_then(|address| predecessor.take_admin(address));
        let mut server = self.start(config, predecessor)?;
        if let Some(control) = &self.control {
            control.serve(&server);
        }
        if let Some(membership) = &self.cluster
            && let Err(failure) = membership.start_nats_clients(&mut server, self.control.clone())
        {
            // As when their thread ends by itself.
            server.handle().fail(&failure.into_line());
        }
        tracing::info!(from = shards_before, to = shards, "the number of shards has changed");
        // Until the old server has left its meeting points. If that takes longer, the new one tries to meet there for some time.
        let _ = has_left.recv_timeout(RESIZE_LEAVE_TIMEOUT);
        let offering = offering(settings, server.addresses(), admin, self.tickets.clone());
        let (control, cluster) = (self.control.clone(), self.cluster.as_ref());
        wait_for_successor(&server, control, cluster, offering, &settings.server.webhooks);
        self.servers.replace(joiner, server);
        unmap_start_code();
        Ok(true)
    }

    fn start(&self, config: ServerConfig, predecessor: Predecessor) -> Result<Server, String> {
        let not_started = |error: StartError| match error.kind() {
            // Its hint is for another process.
            StartErrorKind::Takeover => error.problem,
            _ => start_error::line(&error),
        };
        let mut bound = Server::bind(config, Some(&predecessor)).map_err(not_started)?;
        bound.set_access_log(self.access_log.clone());
        let mut server = bound.start_after(Some(predecessor)).map_err(not_started)?;
        if let Some(membership) = &self.cluster {
            membership.start(&mut server, true).map_err(Failure::into_line)?;
        }
        server.take_over().map_err(not_started)?;
        Ok(server)
    }

    /// Asks the server to hand over to another one of this process. `taken_over` is sent to when it has.
    fn ask(
        &self,
        server: &Handle,
        shards: usize,
        config: &ServerConfig,
        taken_over: mpsc::Sender<()>,
    ) -> io::Result<Predecessor> {
        let failing = server.clone();
        let nats_clients = self.cluster.as_ref().and_then(Membership::nats_clients);
        let on = move |event: Event<'_>| match event {
            // The control plane serves both.
            Event::Leaving | Event::Staying => {}
            Event::TakenOver => {
                // Fails if nobody waits any more.
                let _ = taken_over.send(());
                // While the shards pass them on.
                nats_clients.iter().for_each(|thread| thread.wait_for_publications());
            }
            Event::Broken(reason) => failing.fail(reason),
        };
        Predecessor::within(server, shards, config.message_bytes_max, on)
    }
}
