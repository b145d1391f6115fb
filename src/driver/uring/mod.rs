//! The uring driver.
