//! A file that its thread writes through io_uring, with tokio-uring.
//!
//! tokio-uring ignores an `io_uring_enter` that the kernel refuses temporarily (EAGAIN, ENOMEM). The operation then
//! stays in the submission queue until the runtime enters the ring again, which an idle runtime never does. Every
//! operation here is therefore raced with a timer, and each tick enters the ring again.
//!
//! Never: two operations at a time, or a write that is cancelled.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::pin::pin;
use std::time::Duration;

use tokio_uring::Runtime;
use tokio_uring::fs::File;

use echoring_async::limits::RESUBMIT_INTERVAL;

/// Entries of the submission queue; there is one operation at a time.
const RING_ENTRIES: u32 = 4;

/// A file that is written from its beginning. It belongs to the thread that created it, which must not run another
/// runtime.
pub struct RingFile {
    runtime: Runtime,
    /// `None` once it is dropped.
    file: Option<File>,
    position: u64,
    /// Reused between writes; meanwhile the operation owns it.
    buffer: Vec<u8>,
}

impl RingFile {
    /// Sets up a ring for `file`.
    ///
    /// # Errors
    /// The kernel's error, and `file`.
    pub fn new(file: fs::File) -> Result<RingFile, (io::Error, fs::File)> {
        let runtime = echoring_async::ring_allowed()
            .and_then(|()| Runtime::new(tokio_uring::builder().entries(RING_ENTRIES)));
        match runtime {
            Ok(runtime) => {
                let file = Some(File::from_std(file));
                Ok(RingFile { runtime, file, position: 0, buffer: Vec::new() })
            }
            Err(error) => Err((error, file)),
        }
    }
}

impl Write for RingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.extend_from_slice(bytes);
        let writing = file.write_all_at(buffer, self.position);
        let (written, buffer) = self.runtime.block_on(resubmitted(writing));
        self.buffer = buffer;
        written?;
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    /// Nothing is buffered here.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for RingFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // The write has reported the error.
            let _ = self.runtime.block_on(resubmitted(file.close()));
        }
    }
}

impl fmt::Debug for RingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingFile").field("position", &self.position).finish_non_exhaustive()
    }
}

/// Waits for an operation. A runtime enters the ring before it waits, and each tick makes it do so again.
async fn resubmitted<T>(operation: impl Future<Output = T>) -> T {
    let mut operation = pin!(operation);
    loop {
        tokio::select! {
            biased;
            done = &mut operation => return done,
            () = tokio::time::sleep(Duration::from_nanos(RESUBMIT_INTERVAL)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_bytes_are_in_the_file_and_a_full_disk_is_an_error() {
        let folder = std::env::temp_dir().join(format!("echoring-ring-file-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("file");
        let on_ring = |file| match RingFile::new(file) {
            Ok(file) => Some(file),
            Err((error, _)) => {
                assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
                None
            }
        };
        if let Some(mut file) = on_ring(fs::File::create(&path).expect("a file")) {
            let (mut all, mut bytes) = (Vec::new(), vec![7; 1]);
            for round in 0..200_usize {
                bytes.resize(1 + round * 331, round as u8);
                file.write_all(&bytes).expect("written");
                all.extend_from_slice(&bytes);
            }
            drop(file);
            assert_eq!(fs::read(&path).expect("a file"), all);
        }
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
        if let Some(mut full) = on_ring(full) {
            let error = full.write(b"x").expect_err("no space");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
        let _ = fs::remove_dir_all(folder);
    }
}
