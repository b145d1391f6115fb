//! When the kernel saw a message on its way out and its answer on the way in.

use echoring_proto::limits::Nanos;

/// When the kernel saw a message, on the clock of the driver. What is unknown is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelTimes {
    /// The last byte of the request entered the packet scheduler.
    pub accepted: Option<Nanos>,
    /// The last byte of the request was handed to the network device.
    pub left: Option<Nanos>,
    /// The peer's TCP acknowledged the last byte of the request.
    pub acknowledged: Option<Nanos>,
    /// The segment with the last byte of the receive that ends the answer arrived: the answer had arrived by then.
    pub arrived: Option<Nanos>,
    /// Whether the answer is the last of its receive, so that it arrived then.
    pub is_last: bool,
}
