//! The threads of a run: each has a driver, a shard, and a client on it.

use std::io;
use std::sync::Arc;

use super::address::TargetAddress;
use super::client::{Client, WorkerMessage};
use super::config::config;
use super::shared::Shared;
use crate::measure::{Tally, WireTraffic};
use crate::plan::{DriverChoice, Refused, Resources};
use crate::record;
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::limits::COMPRESSION_LEASE_BYTES;
use echoring_runtime::driver::{Description, Driver, Features, Options, RemoteAddress, monotonic_now, uring};
use echoring_runtime::launch::{
    self, LaunchError, LaunchOptions, ShardFailure, ShardSetup, ShardSpec, ShardThread,
};
use echoring_runtime::shard::{Allowance, Mailboxes, Route, Shard, ShardConfig};
use echoring_runtime::stats::Snapshot;

/// Descriptors for everything except connections.
const DESCRIPTORS_SPARE: u64 = 64;
/// Bytes of a mailbox between threads: its messages have no payload.
const MAILBOX_BYTES: usize = 64;

/// The threads of a run.
pub(super) struct Workers {
    threads: Vec<ShardThread<Tally>>,
    driver: Description,
}

impl Workers {
    /// Starts all threads, or none.
    pub(super) fn start(
        shared: &Arc<Shared>,
        resources: &Resources,
        target: &TargetAddress,
    ) -> Result<Workers, Refused> {
        let contexts = Budget::new(shared.load.compress.context_bytes);
        let mailboxes = Mailboxes::connect(shared.threads, MAILBOX_BYTES);
        let specs = mailboxes.into_iter().enumerate().map(|(thread, mailboxes)| {
            let config = config(shared, thread);
            let (connections, stamps_every) = (config.connections, shared.stamping.every);
            let receive_bytes = if stamps_every > 0 { stamped_receive_bytes(connections) } else { 0 };
            let is_tcp = |route: &Route| !matches!(route.address, RemoteAddress::Unix(_));
            let counts_retransmissions = shared.own_routes().iter().any(is_tcp);
            let driver = Options {
                connections,
                stamps_every,
                receive_bytes,
                counts_retransmissions,
                ..Options::default()
            };
            let contexts = Lease::new(contexts.clone(), COMPRESSION_LEASE_BYTES);
            let setup = ClientSetup { shared: shared.clone(), thread, config, mailboxes, contexts };
            ShardSpec { cpu: resources.cpu_of(thread), driver, setup }
        });
        let options = LaunchOptions { thread_name: "load", driver: resources.driver };
        let failing = shared.clone();
        let on_end = move |_, ended: &Result<Tally, ShardFailure>| {
            if ended.is_err() {
                failing.fail(monotonic_now());
            }
        };
        let launched = launch::launch(options, specs.collect(), on_end)
            .map_err(|error| launch_error(error, resources.driver))?;
        let driver = launched.driver();
        enough_descriptors(shared, resources, driver, target.embedded)?;
        Ok(Workers { threads: launched.run(), driver })
    }

    pub(super) fn is_over(&self) -> bool {
        self.threads.iter().all(ShardThread::is_finished)
    }

    /// The merged results of all threads, and the health of each.
    pub(super) fn join(
        self,
        resources: &Resources,
    ) -> Result<(Tally, Vec<record::GeneratorThread>, Description), Refused> {
        let mut sum = Tally::default();
        let mut each = Vec::new();
        for (number, thread) in self.threads.into_iter().enumerate() {
            match thread.join() {
                Ok(tally) => {
                    each.push(record::GeneratorThread::of(&tally, resources.cpu_of(number)));
                    sum.merge(&tally);
                }
                Err(ShardFailure::Io(error)) => {
                    return Err(Refused(format!("the generator's driver failed: {error}")));
                }
                Err(ShardFailure::Panic(panic)) => std::panic::resume_unwind(panic),
            }
        }
        Ok((sum, each, self.driver))
    }
}

/// Builds the shard of one thread.
struct ClientSetup {
    shared: Arc<Shared>,
    thread: usize,
    config: ShardConfig,
    mailboxes: Mailboxes<WorkerMessage>,
    contexts: Lease,
}

impl ShardSetup for ClientSetup {
    type Application = Client;
    type Output = Tally;

    fn build(self, driver: Driver) -> io::Result<Shard<Client>> {
        let connections = u64::from(self.config.connections);
        let allowance = Allowance {
            // The generator's buffers are bounded by its connections' queues.
            pool: Pool::new(Budget::new(u64::MAX / 2)),
            contexts: self.contexts,
            ..Allowance::standalone(connections)
        };
        let client = Client::new(self.shared, self.thread);
        Ok(Shard::new(driver, client, self.config, allowance, self.mailboxes))
    }

    fn finish(client: Client, snapshot: Snapshot<()>) -> Tally {
        let mut tally = client.into_tally();
        tally.connections.compressed = snapshot.compressed;
        let traffic = snapshot.counters.traffic.total();
        tally.connections.wire = WireTraffic {
            bytes_in: traffic.bytes_in,
            bytes_out: traffic.bytes_out,
            retransmissions: snapshot.work.retransmissions,
        };
        tally.connections.tls_handshakes = snapshot.counters.tls_handshakes;
        tally.connections.tls_resumed = snapshot.counters.tls_resumed;
        tally
    }
}

/// Receive memory of a thread whose connections have the kernel's times: four receives of each, so that buffers are hot and do not run
/// out. A receive takes at most a page.
fn stamped_receive_bytes(connections: u32) -> usize {
    const PAGE_BYTES: usize = 4096;
    (4 * connections as usize).clamp(128, 2048) * PAGE_BYTES
}

fn enough_descriptors(
    shared: &Shared,
    resources: &Resources,
    driver: Description,
    embedded: bool,
) -> Result<(), Refused> {
    let connections = u64::from(shared.segment.count(shared.load.connections));
    let needed = DESCRIPTORS_SPARE
        + match driver.features.has(Features::DIRECT) {
            // Each ring has its own descriptor table, as large as the process's.
            true => connections.div_ceil(shared.threads as u64),
            // An embedded server has the other ends.
            false => connections * if embedded { 2 } else { 1 },
        };
    if needed <= resources.descriptors {
        return Ok(());
    }
    Err(Refused(format!(
        "{connections} connections need {needed} descriptors and the hard limit is {}: raise it (ulimit -Hn, \
         LimitNOFILE=) or lower --connections",
        resources.descriptors
    )))
}

pub(super) fn launch_error(error: LaunchError, choice: DriverChoice) -> Refused {
    match error {
        LaunchError::Thread(_, error) => Refused(format!("no thread could be started: {error}")),
        LaunchError::Uring(error) | LaunchError::Epoll(error) | LaunchError::Setup(error) => {
            no_driver(&error, choice)
        }
        LaunchError::Lost => no_driver(&io::Error::other("its thread ended"), choice),
    }
}

fn no_driver(error: &io::Error, choice: DriverChoice) -> Refused {
    let hint = match choice {
        DriverChoice::Uring => format!("{}, or use --driver auto", uring::hint(error)),
        _ => "raise the descriptor or memory limit".to_owned(),
    };
    Refused(format!("the generator has no driver: {error}; {hint}"))
}
