//! Results in the format of JUnit, which CI servers show as tests.

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::checks::{Check, checks, title};
use super::summary;
use crate::engine::Outcome;

/// Spaces of a level.
const INDENT: usize = 2;

/// A test suite for each run, with its checks as test cases and its table as output.
pub fn junit(outcomes: &[Outcome]) -> String {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', INDENT);
    write_suites(outcomes, &mut writer).expect("a vector takes all");
    String::from_utf8(writer.into_inner()).expect("it was made of text") + "\n"
}

fn write_suites(outcomes: &[Outcome], writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
    let each: Vec<Vec<Check>> = outcomes.iter().map(checks).collect();
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let [tests, failures] = counts(each.iter().flatten());
    let attributes = [("name", "echoring bench"), ("tests", &tests), ("failures", &failures)];
    writer.create_element("testsuites").with_attributes(attributes).write_inner_content(|writer| {
        outcomes.iter().zip(&each).try_for_each(|(outcome, checks)| write_suite(outcome, checks, writer))
    })?;
    Ok(())
}

fn write_suite(outcome: &Outcome, checks: &[Check], writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
    let record = &outcome.record;
    let (name, time) = (visible(&title(record)), record.duration_s.to_string());
    let class = format!("echoring.bench.{}", record.config.mode);
    // Without the fraction and the zone, which the format does not have; it is UTC.
    let started_at = record.started_at.get(..19).unwrap_or(&record.started_at);
    let [tests, failures] = counts(checks.iter());
    let attributes = [
        ("name", name.as_str()),
        ("tests", &tests),
        ("failures", &failures),
        ("timestamp", started_at),
        ("time", &time),
    ];
    writer.create_element("testsuite").with_attributes(attributes).write_inner_content(|writer| {
        for check in checks {
            let name = visible(&check.name);
            let attributes = [("classname", class.as_str()), ("name", &name), ("time", &time)];
            let case = writer.create_element("testcase").with_attributes(attributes);
            match check.failure.as_deref().map(visible) {
                None => case.write_empty()?,
                Some(why) => case.write_inner_content(|writer| {
                    let failure = writer.create_element("failure");
                    failure.with_attribute(("message", why.as_str())).write_empty().map(drop)
                })?,
            };
        }
        let output = visible(&summary::table(outcome));
        writer.create_element("system-out").write_text_content(BytesText::new(&output)).map(drop)
    })?;
    Ok(())
}

/// The numbers of all checks and of failed ones.
fn counts<'a>(checks: impl Iterator<Item = &'a Check> + Clone) -> [String; 2] {
    let failed = checks.clone().filter(|check| check.failure.is_some());
    [checks.count(), failed.count()].map(|number| number.to_string())
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
        let text = junit(&[outcome(run), outcome(record())]);
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
