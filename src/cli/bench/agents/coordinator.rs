//! The coordinator of agents: it finds them, and has them measure a load together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::super::target::{GivenUrl, Lookup};
use super::shared_run::{ChosenAgent, End, Outgoing, SharedRun};
use super::wire::{
    Assignment, Id, Order, Report, ToAgent, ToCoordinator, agent_subject, coordinator_subject, decode,
    encode, find_subject,
};
use crate::Failure;
use crate::common::environment::random_seed;
use crate::limits::{AGENT_FIND_INTERVAL, AGENT_POLL_INTERVAL};
use echoring_cluster::nats::{ExchangeSender, NatsOptions, exchange};
use echoring_load::{Measures, Outcome, Refused, RunProgress, RunStage, Segment, ServerSampler, Workload};
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::monotonic_now;

/// A message for this coordinator, and when it arrived.
type Incoming = (ToCoordinator, Nanos);

/// The measured load, and the number of agents.
#[derive(Debug)]
pub(in super::super) struct Job {
    pub(in super::super) nats: NatsOptions,
    pub(in super::super) agents: u32,
    /// Maximum time to find the agents.
    pub(in super::super) patience: Duration,
    pub(in super::super) urls: Vec<GivenUrl>,
    pub(in super::super) lookup: Lookup,
    /// A process on this machine whose CPU time and memory are sampled.
    pub(in super::super) server_pid: Option<u32>,
    pub(in super::super) stop: Arc<AtomicBool>,
}

/// Agents that were found, which follow its orders.
#[derive(Debug)]
pub(in super::super) struct Coordinator {
    job: Job,
    id: Id,
    agents: Vec<ChosenAgent>,
    link: ExchangeSender,
    incoming: mpsc::Receiver<Incoming>,
}

/// Time until the measured time begins or ends, or a sample of the server's process is due.
fn due_in(window: Option<(Nanos, Nanos)>, server: Option<&ServerSampler>) -> Duration {
    let now = monotonic_now();
    let edges = window.map(|(from, until)| [from, until]).into_iter().flatten();
    let next = edges.filter(|edge| *edge > now).min().unwrap_or(Nanos::MAX);
    let sample_in = server.and_then(ServerSampler::next_in).unwrap_or(AGENT_POLL_INTERVAL);
    Duration::from_nanos(next.saturating_sub(now)).min(sample_in).min(AGENT_POLL_INTERVAL)
}

impl Coordinator {
    /// Connects to NATS, and finds the agents.
    ///
    /// # Errors
    /// If NATS cannot be reached, or there are too few agents of this version.
    pub(in super::super) fn find(job: Job) -> Result<Coordinator, Failure> {
        let id = random_seed();
        let (heard, incoming) = mpsc::channel();
        let subject = coordinator_subject(&job.nats.prefix, id);
        let deliver = move |message: echoring_cluster::nats::ExchangeMessage| {
            if let Some(read) = decode::<ToCoordinator>(&message.content) {
                // One that has ended needs no messages.
                let _ = heard.send((read, message.at));
            }
        };
        let name = "echoring bench".to_owned();
        let link = exchange(job.nats.clone(), name, vec![subject], monotonic_now, deliver)
            .map_err(|error| Failure::Environment(error.to_string()))?;
        let mut coordinator = Coordinator { job, id, agents: Vec::new(), link, incoming };
        coordinator.choose()?;
        Ok(coordinator)
    }

    /// Their names.
    pub(in super::super) fn names(&self) -> impl Iterator<Item = &str> {
        self.agents.iter().map(|agent| agent.name.as_str())
    }

    fn choose(&mut self) -> Result<(), Failure> {
        let wanted = self.job.agents as usize;
        let until = Instant::now() + self.job.patience;
        let mut others = Vec::new();
        let mut ask_at = Instant::now();
        while self.agents.len() < wanted {
            let now = Instant::now();
            if now >= until || self.is_stopped() {
                let found: Vec<&str> = self.names().collect();
                let mut line = format!(
                    "{} of {wanted} agents answer ({}): start them with echoring agent --nats {}",
                    found.len(),
                    if found.is_empty() { "none".to_owned() } else { found.join(", ") },
                    self.job.nats.servers.join(","),
                );
                if !others.is_empty() {
                    line =
                        format!("{line}; agents of other versions than {}: {}", VERSION, others.join(", "));
                }
                return Err(Failure::Environment(line));
            }
            if now >= ask_at {
                ask_at = now + AGENT_FIND_INTERVAL;
                let question = ToAgent { coordinator: self.id, run: 0, body: Order::Find };
                self.link.send(&find_subject(&self.job.nats.prefix), encode(&question));
            }
            let Ok((ToCoordinator { agent, body, .. }, _)) = self.incoming.recv_timeout(AGENT_POLL_INTERVAL)
            else {
                continue;
            };
            let Report::Here { name, version } = body else { continue };
            if version != VERSION {
                let line = format!("{name} ({version})");
                if !others.contains(&line) {
                    others.push(line);
                }
            } else if !self.agents.iter().any(|known| known.id == agent) {
                self.agents.push(ChosenAgent { id: agent, name });
            }
        }
        Ok(())
    }

    fn send(&self, run: u64, agent: Id, body: Order) {
        let message = ToAgent { coordinator: self.id, run, body };
        self.link.send(&agent_subject(&self.job.nats.prefix, agent), encode(&message));
    }

    fn send_all(&self, run: u64, state: Option<&SharedRun>, outgoing: Vec<Outgoing>) {
        for message in outgoing {
            match message {
                Outgoing::One(agent, order) => self.send(run, agent, order),
                Outgoing::All(order) => {
                    for agent in self.agents.iter().filter(|it| !state.is_some_and(|run| run.is_lost(it.id)))
                    {
                        self.send(run, agent.id, order.clone());
                    }
                }
            }
        }
    }

    fn handle(&self, run: u64, state: &mut SharedRun, (message, at): Incoming) {
        let ToCoordinator { agent, run: about, body } = message;
        if let Report::Clock { sent } = body {
            self.send(about, agent, Order::Clock { sent, received: at, answered: monotonic_now() });
        } else if about == run && state.handle(agent, body, monotonic_now()) {
            self.job.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Samples the server's process within the measured time.
    fn sample(&self, server: Option<&mut ServerSampler>, window: Option<(Nanos, Nanos)>, now: Nanos) {
        match (server, window) {
            (Some(server), _) if self.is_stopped() => server.end(),
            (Some(server), Some((from, until))) => server.sample(now, from, until),
            _ => {}
        }
    }

    fn run(&self, load: &Workload, show: &mut dyn FnMut(&RunProgress<'_>)) -> Result<Outcome, Refused> {
        let run = random_seed();
        let assignment = Assignment {
            segment: Segment::WHOLE,
            load: load.clone(),
            urls: self.job.urls.clone(),
            lookup: self.job.lookup.clone(),
        };
        let (mut state, first) = SharedRun::new(&self.agents, &assignment, monotonic_now());
        self.send_all(run, None, first);
        let target = GivenUrl::shown(&self.job.urls);
        let mut server = self.job.server_pid.map(|pid| ServerSampler::of_process(pid, load.duration));
        let (mut stage, mut since) = (RunStage::Connecting, Instant::now());
        let mut failed = 0;
        while !state.is_over() {
            match self.incoming.recv_timeout(due_in(state.window(), server.as_ref())) {
                Ok(message) => self.handle(run, &mut state, message),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(Refused("the connection to NATS has ended".to_owned()));
                }
            }
            self.incoming.try_iter().for_each(|message| self.handle(run, &mut state, message));
            let now = monotonic_now();
            self.sample(server.as_mut(), state.window(), now);
            let outgoing = state.poll(now, self.is_stopped());
            self.send_all(run, Some(&state), outgoing);
            if state.stage() != stage {
                (stage, since) = (state.stage(), Instant::now());
            }
            let (open, messages, live);
            (open, failed, messages, live) = state.progress();
            show(&RunProgress {
                load,
                target: &target,
                stage,
                elapsed: since.elapsed(),
                open,
                failed,
                messages,
                live: &live,
                awaited: &state.awaited(now),
                end: None,
                traced: &[],
            });
        }
        match state.end() {
            End::Refused(why) => Err(Refused(why)),
            End::Finished(mut result, agents) => {
                if let Some(server) = server {
                    result.measured_server(server.samples());
                }
                result.show_done(load, &target, failed, show);
                Ok(Outcome::of(load, &target, *result).by_agents(agents))
            }
        }
    }
}

impl Measures for Coordinator {
    fn measure(&self, load: Workload, show: &mut dyn FnMut(&RunProgress<'_>)) -> Result<Outcome, Refused> {
        self.run(&load, show)
    }

    fn is_stopped(&self) -> bool {
        self.job.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        for agent in &self.agents {
            self.send(0, agent.id, Order::Release);
        }
    }
}

/// Agents and coordinators of one version, and one version of their messages, understand each other.
pub(super) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ", protocol 6");
