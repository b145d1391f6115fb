//! Reads a recording, line by line.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, Read as _};

use super::line::{Head, Line};
use super::record::{Record, SCHEMA};
use crate::limits::RECORDING_LINE_BYTES_MAX;

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
    input: R,
    /// The latest line.
    text: Vec<u8>,
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
        let mut reader = Reader { input, text: Vec::new(), started_unix_ns: 0, line: 0, failed: false };
        let wrong = |why: String| ReaderError::at(1, Cause::Line(why));
        if !reader.read_line()? {
            return Err(wrong("the file is empty".to_owned()));
        }
        let head: Head = serde_json::from_slice(&reader.text)
            .map_err(|error| wrong(format!("not the header of a recording: {error}")))?;
        if head.schema != SCHEMA {
            return Err(wrong(format!("unknown schema {:?}; this version reads {SCHEMA:?}", head.schema)));
        }
        reader.started_unix_ns = head.started_unix_ns;
        Ok(reader)
    }

    /// When the recording started: nanoseconds since 1970, UTC, by the wall clock of the machine that wrote it.
    pub fn started_unix_ns(&self) -> u64 {
        self.started_unix_ns
    }

    /// Number of the latest line, from 1: the header.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Reads the next line. Returns whether there was one.
    fn read_line(&mut self) -> Result<bool, ReaderError> {
        self.text.clear();
        self.line += 1;
        let mut limited = (&mut self.input).take(RECORDING_LINE_BYTES_MAX as u64);
        let bytes = limited
            .read_until(b'\n', &mut self.text)
            .map_err(|error| ReaderError::at(self.line, Cause::Io(error)))?;
        if bytes == RECORDING_LINE_BYTES_MAX && !self.ends() {
            let why = format!("longer than {RECORDING_LINE_BYTES_MAX} bytes, the maximum of a recorded line");
            return Err(ReaderError::at(self.line, Cause::Line(why)));
        }
        Ok(bytes > 0)
    }

    /// Whether the latest line has its end.
    fn ends(&self) -> bool {
        self.text.last() == Some(&b'\n')
    }

    fn read(&mut self) -> Result<Option<Record>, ReaderError> {
        if !self.read_line()? {
            return Ok(None);
        }
        let line: Line = serde_json::from_slice(&self.text).map_err(|error| {
            let cause = if self.ends() { Cause::Line(error.to_string()) } else { Cause::CutOff };
            ReaderError::at(self.line, cause)
        })?;
        let record = line.into_record();
        record.map(Some).map_err(|why| ReaderError::at(self.line, Cause::Line(why.to_owned())))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Record, ReaderError>;

    fn next(&mut self) -> Option<Result<Record, ReaderError>> {
        if self.failed {
            return None;
        }
        let record = self.read();
        self.failed = record.is_err();
        record.transpose()
    }
}

/// Why reading a recording failed.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct ReaderError {
    /// The line number, from 1.
    pub line: u64,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Line(String),
    /// The last line has no end and is not whole.
    #[error("the file ends within the line")]
    CutOff,
}

impl ReaderError {
    fn at(line: u64, cause: Cause) -> ReaderError {
        ReaderError { line, cause }
    }

    /// Whether the file ends within the line, as that of a proxy that was killed may. All lines before it were read.
    pub fn is_cut_off(&self) -> bool {
        matches!(self.cause, Cause::CutOff)
    }
}
