//! The streams that connections run on, and the runtimes and rings beneath them.

#[cfg(all(feature = "uring", target_os = "linux"))]
pub(crate) mod ring;
#[cfg(unix)]
pub(crate) mod runtime;
#[cfg(feature = "client")]
pub(crate) mod stream;
#[cfg(feature = "hyper")]
pub(crate) mod tokio_stream;
#[cfg(all(feature = "uring", target_os = "linux", not(target_env = "musl")))]
pub(crate) mod uring_stream;
