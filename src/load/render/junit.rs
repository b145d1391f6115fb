//! Results in the format of JUnit, which CI servers show as tests.

use std::io::{self, Write};

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::checks::{Check, checks, title};
use super::summary;
use crate::engine::Outcome;

/// Spaces of a level.
const INDENT: usize = 2;

/// Writes a test suite for each run, with its checks as test cases and its table as output.
///
/// # Errors
/// The writer's error.
pub fn junit(outcomes: &[Outcome], out: &mut dyn Write) -> io::Result<()> {
    let suites = outcomes.iter().map(Suite::of_run).collect::<io::Result<Vec<_>>>()?;
    let mut writer = Writer::new_with_indent(out, b' ', INDENT);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let counts = counts(suites.iter().flat_map(|suite| &suite.checks));
    let attributes = [("name", "echoring bench"), ("tests", &counts.0), ("failures", &counts.1)];
    writer
        .create_element("testsuites")
        .with_attributes(attributes)
        .write_inner_content(|writer| suites.iter().try_for_each(|suite| suite.write(writer)))?;
    writeln!(writer.get_mut())
}

/// A test suite.
struct Suite<'a> {
    name: String,
    class: String,
    started_at: &'a str,
    duration_s: f64,
    checks: Vec<Check>,
    output: Vec<u8>,
}

impl Suite<'_> {
    fn of_run(outcome: &Outcome) -> io::Result<Suite<'_>> {
        let record = &outcome.record;
        let mut output = Vec::new();
        summary::table(outcome, &mut output)?;
        Ok(Suite {
            name: title(record),
            class: format!("echoring.bench.{}", record.config.mode),
            started_at: timestamp(&record.started_at),
            duration_s: record.duration_s,
            checks: checks(outcome),
            output,
        })
    }

    fn write(&self, writer: &mut Writer<&mut dyn Write>) -> io::Result<()> {
        let (tests, failures) = counts(self.checks.iter());
        let name = visible(&self.name);
        let time = self.duration_s.to_string();
        let attributes = [
            ("name", name.as_str()),
            ("tests", &tests),
            ("failures", &failures),
            ("timestamp", self.started_at),
            ("time", &time),
        ];
        writer.create_element("testsuite").with_attributes(attributes).write_inner_content(|writer| {
            for check in &self.checks {
                let name = visible(&check.name);
                let attributes = [("classname", self.class.as_str()), ("name", &name), ("time", &time)];
                let case = writer.create_element("testcase").with_attributes(attributes);
                match check.failure.as_deref().map(visible) {
                    None => case.write_empty()?,
                    Some(why) => case.write_inner_content(|writer| {
                        writer
                            .create_element("failure")
                            .with_attribute(("message", why.as_str()))
                            .write_empty()?;
                        Ok(())
                    })?,
                };
            }
            let output = visible(&String::from_utf8_lossy(&self.output));
            writer.create_element("system-out").write_text_content(BytesText::new(&output))?;
            Ok(())
        })?;
        Ok(())
    }
}

/// Without the fraction and the zone, which the format does not have; it is UTC.
fn timestamp(rfc_3339: &str) -> &str {
    rfc_3339.get(..19).unwrap_or(rfc_3339)
}

/// The numbers of all checks and of failed ones.
fn counts<'a>(checks: impl Iterator<Item = &'a Check>) -> (String, String) {
    let (mut all, mut failed) = (0, 0);
    for check in checks {
        all += 1;
        failed += i32::from(check.failure.is_some());
    }
    (all.to_string(), failed.to_string())
}

/// Without characters that XML 1.0 cannot have, not even escaped.
fn visible(text: &str) -> String {
    let is_allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    text.chars().map(|c| if is_allowed(c) { c } else { '\u{fffd}' }).collect()
}

#[cfg(test)]
mod tests {
    use quick_xml::Reader;

    use super::*;
    use crate::record::FailIf;
    use crate::record::tests::{outcome, record};

    #[test]
    fn checks_are_test_cases() {
        let mut run = record();
        run.label = Some("<\"&\u{1}".to_owned());
        run.fail_if = vec![FailIf {
            expression: "p99>1ms".to_owned(),
            failed: true,
            seen: [("p99".to_owned(), Some(2e6))].into(),
        }];
        let mut out = Vec::new();
        junit(&[outcome(run), outcome(record())], &mut out).expect("a vector takes all");
        let text = String::from_utf8(out).expect("text");
        let mut reader = Reader::from_str(&text);
        loop {
            match reader.read_event() {
                Ok(Event::Eof) => break,
                Ok(_) => {}
                Err(error) => panic!("{error}: {text}"),
            }
        }
        assert!(text.contains("<testsuites name=\"echoring bench\" tests=\"5\" failures=\"1\">"), "{text}");
        assert!(
            text.contains("<testsuite name=\"&lt;&quot;&amp;\u{fffd}\" tests=\"3\" failures=\"1\""),
            "{text}"
        );
        assert!(text.contains("name=\"--fail-if p99&gt;1ms\""), "{text}");
        assert!(text.contains("<failure message=\"p99 is 2.00 ms\"/>"), "{text}");
        assert_eq!(text.matches("<system-out>").count(), 2, "{text}");
    }
}
