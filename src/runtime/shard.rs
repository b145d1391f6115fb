//! The per-core event loop, generic over an [`Application`], on a [`Driver`](crate::driver::Driver).
//!
//! A [`Shard`] owns its connections, timers, buffers and its ends of the mailboxes; it shares nothing. One
//! [`tick`](Shard::tick) is: one trip to the kernel; all events in order; mail; timers; the application's end of tick;
//! a flush of the queues. It never blocks except in the driver, takes no lock, and allocates nothing per message.
#![forbid(unsafe_code)]

mod access;
mod answer;
mod application;
mod config;
mod connection_log;
mod context;
mod control;
mod core;
mod inspect;
mod kinds;
mod mailbox;
mod moving;
mod refusals;
mod route;
mod slots;
mod tick;
mod timer_wheel;
mod times;
mod tls;
mod tunnel;

#[doc(hidden)]
pub use self::core::check_plain_connection;
pub use self::core::{ConnectionMemory, Core};
pub use access::{AccessLog, AccessRecord, WriteAccess};
pub use answer::{Answer, Disposition, Extras, OwnedReply, StreamHead};
pub use application::{Application, MessageOf, Shed};
pub use config::{Allowance, ShardConfig};
pub use context::{ConnectionContext, Context, ShardResources};
pub use control::{ControlMessage, DrainPlan, Goodbye, LiveConfig, Remote};
pub use inspect::ConnectionView;
pub use kinds::Kinds;
pub use mailbox::{Bridge, FarEnd, FarInlet, FarOutlet, Full, Lane, Mailboxes};
pub use moving::{Continuation, Destination, Detached, Entrance, Exits, MoveAnswer, Record, RecordCharge};
pub use route::Route;
pub use tick::Shard;
pub use timer_wheel::earlier;
pub use times::{Lifetime, RouteTimes, TimesConfig};
pub use tls::{Security, with_secrets};
