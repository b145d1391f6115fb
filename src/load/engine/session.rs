//! A target that is measured repeatedly, one load at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::address::TargetAddress;
use super::coordination::Part;
use super::measured_time::NOTICE;
use super::outcome::Outcome;
use super::progress::{RunProgress, RunStage};
use super::server_sampler::ServerSampler;
use super::shared::{Addresses, RunEvent, Shared};
use super::sources::spread;
use super::trace::Traced;
use super::workers::Workers;
use crate::measure::live::LiveThreads;
use crate::measure::meter::{Meter, ServerSamples};
use crate::measure::warm_up::SteadyState;
use crate::measure::{LiveResults, Tally, host};
use crate::plan::{Endpoint, Refused, Resources, Target, WEIGHT_MAX, Workload};
use crate::record::WarmUp;
use crate::record::segment::SegmentResult;
use crate::record::{Environment, failures};
use echoring_runtime::driver::monotonic_now;

/// Interval of progress updates.
const SHOW_INTERVAL: Duration = Duration::from_millis(200);

/// A target that can be measured any number of times. It stops an embedded server when dropped.
pub struct TargetSession {
    target: TargetAddress,
    meter: Arc<Meter>,
    resources: Resources,
    stop: Option<Box<dyn FnOnce()>>,
}

impl TargetSession {
    /// Prepares a target; an embedded server is started.
    ///
    /// # Errors
    /// If there is no URL, or one without a share of the connections, or if the embedded server cannot be started.
    pub fn open(target: Target, resources: Resources) -> Result<TargetSession, Refused> {
        let is_weight = |endpoint: &Endpoint| (1..=WEIGHT_MAX).contains(&endpoint.weight);
        if let Target::Urls(endpoints) = &target
            && (endpoints.is_empty() || !endpoints.iter().all(is_weight))
        {
            let line = format!("expected one URL or more, each with a weight from 1 to {WEIGHT_MAX}");
            return Err(Refused(line));
        }
        let before = host::thread_ids(std::process::id()).unwrap_or_default();
        let (target, stop) = match target {
            Target::Urls(endpoints) => (TargetAddress { endpoints: endpoints.into(), embedded: false }, None),
            Target::Embedded(start) => {
                let server = start(&resources.server_cpus)?;
                let endpoint = Endpoint {
                    text: "embedded".to_owned(),
                    route: server.address.into(),
                    authority: server.address.to_string(),
                    path: None,
                    authorization: None,
                    weight: 1,
                };
                (TargetAddress { endpoints: [endpoint].into(), embedded: true }, Some(server.stop))
            }
        };
        let meter = Arc::new(match (resources.server_pid, &stop) {
            (Some(pid), _) => Meter::Process(pid),
            (None, Some(_)) => Meter::Threads(started_since(&before)),
            (None, None) => Meter::None,
        });
        // Only the generator's threads are started from here on.
        host::reduce_timer_slack();
        Ok(TargetSession { target, meter, resources, stop })
    }

    /// Puts the target under this generator's part of the load.
    ///
    /// # Errors
    /// As [`run`](crate::run).
    pub fn measure_part(
        &self,
        load: Workload,
        part: Part,
        show: &mut dyn FnMut(&RunProgress<'_>),
    ) -> Result<SegmentResult, Refused> {
        let TargetSession { target, meter, resources, .. } = self;
        let connections = part.segment.count(load.connections).max(1);
        let is_alone = part.coordination.is_none();
        let threads = resources.threads.clamp(1, connections as usize);
        let addresses: Vec<_> = target.endpoints.iter().map(|endpoint| &endpoint.route.address).collect();
        let sources = spread(connections, &resources.sources, &addresses, host::local_ports())?;
        let (events, heard) = mpsc::channel();
        let told = (events, meter.clone());
        let addresses = Addresses { endpoints: target.endpoints.clone(), sources };
        let shared = Arc::new(Shared::new(load, addresses, threads, resources, part, told));
        let workers = Workers::start(&shared, resources, target)?;
        let seen = watch(&shared, resources, &target.text(), &workers, &heard, show);
        let (mut tally, generators, driver) = workers.join(resources)?;
        if tally.connections.opened == 0 && !shared.is_stopped() {
            return Err(unreachable(target, &tally));
        }
        if !is_alone {
            tally.conclude();
        }
        let warm_up = Duration::from_nanos(tally.window.from.saturating_sub(shared.start().unwrap_or(0)));
        let failed = shared.sum(|progress| &progress.failed);
        let samples = shared.load.sample_share.map(|_| std::mem::take(&mut tally.samples));
        let result = SegmentResult {
            tally,
            threads: generators,
            cpus: resources.cpus.clone(),
            sources: shared.sources.clone(),
            sequenced: !shared.payloads.bare,
            interrupted: shared.is_stopped(),
            warm_up: seen.warm_up.map(|found| WarmUp { seconds: warm_up.as_secs_f64(), ..found }),
            environment: Environment::of(driver),
            stamping: shared.stamping.clone(),
            server_rss_bytes: seen.server_rss_bytes,
            stolen_ns: seen.stolen_ns,
            server_samples: seen.server_samples,
            samples,
        };
        result.show_done(&shared.load, &target.text(), failed, show);
        Ok(result)
    }
}

/// A target that can be put under a load, by this process or by others.
pub trait Measures {
    /// Puts it under one load. `show` is called a few times per second.
    ///
    /// # Errors
    /// If the environment prevents the run.
    fn measure(&self, load: Workload, show: &mut dyn FnMut(&RunProgress<'_>)) -> Result<Outcome, Refused>;

    /// Whether the user has stopped the experiment.
    fn is_stopped(&self) -> bool;
}

impl Measures for TargetSession {
    fn measure(&self, load: Workload, show: &mut dyn FnMut(&RunProgress<'_>)) -> Result<Outcome, Refused> {
        let result = self.measure_part(load.clone(), Part::whole(), show)?;
        Ok(Outcome::of(&load, &self.target.text(), result))
    }

    fn is_stopped(&self) -> bool {
        self.resources.stop.load(Ordering::Relaxed)
    }
}

impl Drop for TargetSession {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}

/// Threads of this process that were started since `before`.
fn started_since(before: &[u32]) -> Vec<u32> {
    let now = host::thread_ids(std::process::id()).unwrap_or_default();
    now.into_iter().filter(|id| !before.contains(id)).collect()
}

impl SegmentResult {
    /// Shows the last progress of a run, from its results. This number of connections `failed`.
    pub fn show_done(
        &self,
        load: &Workload,
        target: &str,
        failed: u64,
        show: &mut dyn FnMut(&RunProgress<'_>),
    ) {
        show(&RunProgress {
            load,
            target,
            stage: RunStage::Done,
            elapsed: Duration::ZERO,
            open: 0,
            failed,
            messages: self.tally.counts.received,
            live: &LiveResults::of(&self.tally),
            awaited: &[],
            end: None,
            traced: &[],
        });
    }
}

/// A session's view of a run beside its threads: figures that do not depend on the exact moment.
#[derive(Debug, Default)]
struct Seen {
    /// The server's memory at the end of the measured time.
    server_rss_bytes: Option<u64>,
    /// The server's memory and CPU time during it.
    server_samples: ServerSamples,
    /// Time that the hypervisor took from the generator's CPUs in the measured time.
    stolen_ns: Option<u64>,
    /// How the warm-up ended, if that was to be found.
    warm_up: Option<WarmUp>,
}

/// Shows progress until the last thread ends.
fn watch(
    shared: &Shared,
    resources: &Resources,
    target: &str,
    workers: &Workers,
    heard: &mpsc::Receiver<RunEvent>,
    show: &mut dyn FnMut(&RunProgress<'_>),
) -> Seen {
    let mut seen = Seen::default();
    let mut sampler = ServerSampler::new(shared.meter.clone(), shared.load.duration);
    let cpus = if resources.cpus.is_empty() { host::allowed_cpus() } else { resources.cpus.clone() };
    let mut stolen_before = None;
    let mut display = Display::new(shared, target, show);
    while !workers.is_over() {
        let show_in = SHOW_INTERVAL.saturating_sub(display.shown.elapsed());
        let event = heard.recv_timeout(sampler.next_in().map_or(show_in, |sample_in| sample_in.min(show_in)));
        sampler.sample_if_due();
        match event {
            Ok(RunEvent::Started) => display.enter(RunStage::WarmingUp),
            Ok(RunEvent::WarmUp(block)) => {
                display.is_steady = display.is_steady || display.steady_state.take(&block);
                if display.is_steady {
                    shared.measured_time.begin_at(monotonic_now() + NOTICE);
                }
                continue;
            }
            Ok(RunEvent::Measuring) => {
                seen.warm_up = shared.load.finds_warmup.then(|| WarmUp {
                    seconds: display.since.elapsed().as_secs_f64(),
                    longest_s: shared.load.warmup.as_secs_f64(),
                    steady: display.is_steady,
                });
                sampler.begin();
                stolen_before = host::stolen_ns(&cpus);
                display.enter(RunStage::Measuring);
            }
            Ok(RunEvent::Measured) => {
                sampler.end();
                seen.server_rss_bytes = shared.meter.rss_bytes();
                let stolen = host::stolen_ns(&cpus).zip(stolen_before);
                seen.stolen_ns = stolen.map(|(after, before)| after.saturating_sub(before));
                display.enter(RunStage::Draining);
            }
            Ok(event @ (RunEvent::Snapshot(_) | RunEvent::Trace(_))) => display.take(event),
            // Only a sample was due.
            Err(_) if display.shown.elapsed() < SHOW_INTERVAL => continue,
            Err(_) => {}
        }
        display.show();
    }
    // The last progress update shows the final snapshots of the threads.
    heard.try_iter().for_each(|event| display.take(event));
    display.show();
    seen.server_rss_bytes = seen.server_rss_bytes.or_else(|| shared.meter.rss_bytes());
    seen.server_samples = sampler.samples();
    seen
}

/// Shows the progress of a run.
struct Display<'a> {
    shared: &'a Shared,
    target: &'a str,
    show: &'a mut (dyn FnMut(&RunProgress<'_>) + 'a),
    stage: RunStage,
    /// When the stage began.
    since: Instant,
    /// Time of the last progress display.
    shown: Instant,
    live: LiveThreads,
    traced: Vec<Traced>,
    /// The warm-up, if its length is to be found.
    steady_state: SteadyState,
    is_steady: bool,
    /// Set by whoever the progress is shown to: the measured time ends.
    end: AtomicBool,
}

impl<'a> Display<'a> {
    fn new(
        shared: &'a Shared,
        target: &'a str,
        show: &'a mut (dyn FnMut(&RunProgress<'_>) + 'a),
    ) -> Display<'a> {
        let now = Instant::now();
        Display {
            shared,
            target,
            show,
            stage: RunStage::Connecting,
            since: now,
            shown: now,
            live: LiveThreads::default(),
            traced: Vec::new(),
            steady_state: SteadyState::new(shared.threads),
            is_steady: false,
            end: AtomicBool::new(false),
        }
    }

    fn enter(&mut self, stage: RunStage) {
        if stage != self.stage {
            (self.stage, self.since) = (stage, Instant::now());
        }
    }

    /// Takes a thread's contribution to the next progress update.
    fn take(&mut self, event: RunEvent) {
        match event {
            RunEvent::Snapshot(part) => self.live.take(*part),
            RunEvent::Trace(event) => self.traced.push(event),
            RunEvent::Started | RunEvent::WarmUp(_) | RunEvent::Measuring | RunEvent::Measured => {}
        }
    }

    fn show(&mut self) {
        self.shown = Instant::now();
        let shared = self.shared;
        (self.show)(&RunProgress {
            load: &shared.load,
            target: self.target,
            stage: self.stage,
            elapsed: self.since.elapsed(),
            open: shared.sum(|progress| &progress.open),
            failed: shared.sum(|progress| &progress.failed),
            messages: shared.sum(|progress| &progress.messages),
            live: &self.live.sum,
            awaited: &[],
            end: Some(&self.end),
            traced: &std::mem::take(&mut self.traced),
        });
        if self.stage == RunStage::Measuring && self.end.load(Ordering::Relaxed) {
            shared.measured_time.end_at(monotonic_now() + NOTICE);
        }
    }
}

fn unreachable(target: &TargetAddress, tally: &Tally) -> Refused {
    let causes = match tally.connections.errors.is_empty() {
        true => "stopped before any connection opened".to_owned(),
        false => format!(
            "0 of {}: {}",
            tally.connections.handshakes.dialled,
            failures::listed(&tally.connections.errors)
        ),
    };
    let hint =
        failures::hint(&tally.connections.errors).unwrap_or("start the server there, or check the URL");
    Refused(format!("no connection to {} could be opened ({causes}): {hint}", target.text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_a_url_or_with_a_url_without_a_share_is_refused() {
        let endpoint = |weight| Endpoint {
            text: "ws://127.0.0.1:1".to_owned(),
            route: std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into(),
            authority: "127.0.0.1:1".to_owned(),
            path: None,
            authorization: None,
            weight,
        };
        for urls in [vec![], vec![endpoint(0)], vec![endpoint(1), endpoint(0)], vec![endpoint(u32::MAX)]] {
            let opened = TargetSession::open(Target::Urls(urls), Resources::default());
            assert!(opened.err().is_some_and(|refused| refused.0.contains("a weight from 1 to 1000")));
        }
    }
}
