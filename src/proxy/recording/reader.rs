//! Reads a recording, line by line.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, BufRead};

use super::line::{Head, Line};
use super::record::{Record, SCHEMA};

/// Iterates over the records of a recording, in the order of the file. It ends after the first error.
///
/// ```
/// use echoring_proxy::recording::{Event, Reader};
///
/// let file = r#"{"schema":"echoring.recording/1","started_unix_ns":1790000000000000000,"version":"0.1.0"}
/// {"t_ns":1500,"conn":1,"dir":"client","kind":"text","data":"hello"}
/// "#;
/// let reader = Reader::new(file.as_bytes())?;
/// for record in reader {
///     let record = record?;
///     if let Event::Frame(frame) = &record.event {
///         println!("{} ns, connection {}: {} bytes", record.t_ns, record.conn, frame.payload.len());
///     }
/// }
/// # Ok::<(), echoring_proxy::recording::ReaderError>(())
/// ```
#[derive(Debug)]
pub struct Reader<R> {
    lines: io::Lines<R>,
    started_unix_ns: u64,
    line: u64,
    failed: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header line.
    ///
    /// # Errors
    /// [`ReaderError`] if the first line is not the header of a recording, or the recording's schema is unknown.
    pub fn new(input: R) -> Result<Reader<R>, ReaderError> {
        let mut lines = input.lines();
        let first = match lines.next() {
            Some(line) => line.map_err(|error| ReaderError::at(1, Cause::Io(error)))?,
            None => return Err(ReaderError::at(1, Cause::Line("the file is empty".to_owned()))),
        };
        let head: Head = serde_json::from_str(&first).map_err(|error| {
            ReaderError::at(1, Cause::Line(format!("not the header of a recording: {error}")))
        })?;
        if head.schema != SCHEMA {
            let text = format!("unknown schema {:?}; this version reads {SCHEMA:?}", head.schema);
            return Err(ReaderError::at(1, Cause::Line(text)));
        }
        Ok(Reader { lines, started_unix_ns: head.started_unix_ns, line: 1, failed: false })
    }

    /// When the recording started: nanoseconds since 1970, UTC, by the wall clock of the machine that wrote it.
    pub fn started_unix_ns(&self) -> u64 {
        self.started_unix_ns
    }

    fn read(&mut self, line: io::Result<String>) -> Result<Record, ReaderError> {
        let text = line.map_err(|error| ReaderError::at(self.line, Cause::Io(error)))?;
        let line: Line = serde_json::from_str(&text)
            .map_err(|error| ReaderError::at(self.line, Cause::Line(error.to_string())))?;
        line.into_record().map_err(|why| ReaderError::at(self.line, Cause::Line(why.to_owned())))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Record, ReaderError>;

    fn next(&mut self) -> Option<Result<Record, ReaderError>> {
        if self.failed {
            return None;
        }
        let line = self.lines.next()?;
        self.line += 1;
        let record = self.read(line);
        self.failed = record.is_err();
        Some(record)
    }
}

/// Why reading a recording failed.
#[derive(Debug)]
pub struct ReaderError {
    /// The line number, from 1.
    pub line: u64,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Io(io::Error),
    Line(String),
}

impl ReaderError {
    fn at(line: u64, cause: Cause) -> ReaderError {
        ReaderError { line, cause }
    }
}

impl fmt::Display for ReaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Io(error) => write!(f, "line {}: {error}", self.line),
            Cause::Line(why) => write!(f, "line {}: {why}", self.line),
        }
    }
}

impl std::error::Error for ReaderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Io(error) => Some(error),
            Cause::Line(_) => None,
        }
    }
}
