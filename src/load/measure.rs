//! Counts and timings of a run: the tally of each thread, histograms, the shares of response times, integrity and order
//! checks, the fan-out of broadcasts, and host information.
//!
//! Each thread records without locks; the parts are merged at the end. It imports only `plan`.

mod by_response;
pub(crate) mod distribution;
pub(crate) mod fan_out;
pub(crate) mod handshakes;
pub(crate) mod host;
pub(crate) mod integrity;
pub(crate) mod interval;
pub(crate) mod kernel_times;
pub(crate) mod live;
pub(crate) mod lost_messages;
pub(crate) mod merge;
pub(crate) mod meter;
pub(crate) mod order;
pub(crate) mod own_delays;
pub(crate) mod push_tally;
pub(crate) mod quantiles;
pub(crate) mod replay;
pub(crate) mod samples;
pub(crate) mod shares;
pub(crate) mod split;
pub(crate) mod tally;
pub(crate) mod timeline;
pub(crate) mod times;
pub(crate) mod track;
pub(crate) mod warm_up;
pub(crate) mod window;

pub use distribution::{Distribution, Undecodable, decode, encode, histogram};
pub use host::allowed_cpus;
pub use integrity::Integrity;
pub use kernel_times::KernelTimes;
pub use live::{LONG_OUTSTANDING_NS, LiveResults};
pub use quantiles::Quantiles;
pub use samples::{MessageName, SAMPLES_BYTES_MAX, SampleOutcome, SampleRow, Samples};
pub use tally::Tally;
pub use tally::connections::WireTraffic;
pub use timeline::{Timeline, TimelineInterval};
pub use times::Times;
pub use window::Window;
