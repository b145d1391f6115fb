//! The load generator: an [`Application`](echoring_runtime::shard::Application) in the client role on the server's own
//! event loop and connection state machine.
//!
//! A [`Plan`] names a [`Target`] and [`Workload`]s. [`run`] makes the runs on its own threads and returns an
//! [`Outcome`] for each, with its [`Record`](record::Record). In an open loop, latency counts from the intended send
//! time, so a stall of the server or of the generator is visible. The generator measures its own lateness and reports
//! when it was the bottleneck. Every message is checked against what was sent. [`run_experiment()`] makes many runs of a plan:
//! a search for the highest rate, or repetitions that alternate with a baseline.
//!
//! Six modules, each importing only those before it:
//!
//! 1. [`plan`]: the configuration of runs, as data;
//! 2. [`measure`]: counts and timings. It comes before the engine, which records into it for every message;
//! 3. [`record`]: the JSON of a run, made of a plan and a tally;
//! 4. [`engine`]: the threads that open connections, send and receive. A finished run is an outcome with its record,
//!    so `record` comes before it;
//! 5. [`analyse`]: several runs together;
//! 6. [`render`]: text for people and for other tools.
//!
//! It has no protocol code of its own, never allocates per message, and prints only in [`render`].

#![forbid(unsafe_code)]

pub mod analyse;
pub mod engine;
pub mod measure;
pub mod plan;
pub mod record;
pub mod render;

pub use analyse::{
    Baseline, Experiment, PairedOptions, Progress, Results, run_experiment, run_experiment_on,
};
pub use echoring_runtime::driver::RemoteAddress;
pub use echoring_runtime::shard::Route;
pub use engine::{
    Coordination, Measures, Outcome, Part, RunProgress, RunStage, RunVerdict, ServerSampler, TargetSession,
    TraceEvent, Traced, run,
};
pub use measure::{
    LiveResults, SAMPLES_BYTES_MAX, SampleRow, Samples, Timeline, TimelineInterval, allowed_cpus,
};
pub use plan::{
    AnswerComparison, Arrivals, BURST_MAX, Backoff, CONNECT_RATE_DEFAULT, CONNECT_SLOTS_DEFAULT,
    CONNECTIONS_MAX, Churn, ComparisonRule, Compress, ConnectOptions, Contradiction, Cut, DEPTH_MAX,
    DRAIN_DEFAULT, DriverChoice, Embedded, Endpoint, Flaw, Lines, Listening, MAX_LATENESS_DEFAULT, Mode,
    Pace, Plan, Protocol, RATE_MAX, RATE_PERIOD_S_MAX, REPLAY_BYTES_MAX, REPLAY_MESSAGES_MAX, RandomTime,
    RateStage, RecordedEnd, Refused, Replay, Resources, RowOrder, Rows, SAMPLES_MAX, SEGMENTS_MAX,
    STAGE_TIME_MAX, STAGES_MAX, STORM_BACKOFF_DEFAULT, Script, ScriptBuilder, Segment, Speed, Spread,
    StartServer, Style, Target, Template, TimeField, TimeUnit, Timestamps, WEIGHT_MAX, Workload,
    expand_variables, min_bytes, preset_names, read_file,
};
