//! Answers of servers that do as recorded, and of servers with known faults.

use proptest::prelude::*;

use super::*;
use crate::plan::RecordedEnd;
use crate::plan::replay::script::tests::builder;

/// A connection that sends as many messages as it gets answers, one for each.
fn script(rule: &str, answers: &[String]) -> Script {
    let mut builder = builder(rule);
    builder.opened(1, 0, "/".to_owned(), None).expect("opened");
    for (at, answer) in (1..).zip(answers) {
        builder.sent(1, 2 * at, MessageKind::Text, answer.as_bytes()).expect("sent");
        builder.answered(1, 2 * at + 1, MessageKind::Text, answer.as_bytes()).expect("answered");
    }
    builder.ended(1, 1_000_000, RecordedEnd::Abort).expect("ended");
    builder.finish(None).expect("a connection")
}

/// Counts of differences as in the record: lost, unexpected, different, out of order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    missing: usize,
    unexpected: usize,
    different: usize,
    out_of_order: usize,
}

/// What is told of a server that sends these when everything was asked.
fn told(script: &Script, arrivals: &[&str]) -> Counts {
    let dialogue = &script.dialogues[0];
    let mut checker = AnswerChecker::default();
    checker.open(dialogue);
    let mut counts = Counts::default();
    for arrival in arrivals {
        match checker.arrived(script, dialogue, MessageKind::Text, arrival.as_bytes()) {
            Arrived::InOrder(_) => {}
            Arrived::Late(_) => counts.out_of_order += 1,
            Arrived::Different(_) => counts.different += 1,
            Arrived::Restored(_) => {
                counts.different -= 1;
                counts.unexpected += 1;
            }
            Arrived::Unexpected => counts.unexpected += 1,
            Arrived::Beyond => panic!("the connection has an end"),
        }
    }
    counts.missing = checker.missing(dialogue).count();
    assert_eq!(checker.is_complete(dialogue, |_| true), counts.missing == 0);
    counts
}

fn recorded(rule: &str, answers: &[&str]) -> Script {
    script(rule, &answers.iter().map(|&answer| answer.to_owned()).collect::<Vec<_>>())
}

#[test]
fn each_fault_is_counted_as_what_it_is() {
    let script = recorded("exact", &["a", "b", "c", "d"]);
    let none = Counts::default;
    assert_eq!(told(&script, &["a", "b", "c", "d"]), none());
    assert_eq!(told(&script, &["a", "c", "d"]), Counts { missing: 1, ..none() });
    assert_eq!(told(&script, &["a", "b", "b", "c", "d"]), Counts { unexpected: 1, ..none() });
    assert_eq!(told(&script, &["a", "B", "c", "d"]), Counts { different: 1, ..none() });
    assert_eq!(told(&script, &["a", "c", "b", "d"]), Counts { out_of_order: 1, ..none() });
    assert_eq!(told(&script, &["a", "b", "c", "d", "e"]), Counts { unexpected: 1, ..none() });
    assert_eq!(told(&script, &["notice", "a", "b", "c", "d"]), Counts { unexpected: 1, ..none() });
    assert_eq!(told(&script, &["x", "y", "z", "w", "v"]), Counts { different: 4, unexpected: 1, ..none() });
    assert_eq!(told(&script, &[]), Counts { missing: 4, ..none() });
    assert_eq!(told(&script, &["d", "X"]), Counts { missing: 2, different: 1, ..none() });
}

#[test]
fn equal_answers_are_counted() {
    let script = recorded("exact", &["ok", "ok", "ok"]);
    assert_eq!(told(&script, &["ok"; 3]), Counts::default());
    assert_eq!(told(&script, &["ok"; 2]), Counts { missing: 1, ..Counts::default() });
    assert_eq!(told(&script, &["ok"; 5]), Counts { unexpected: 2, ..Counts::default() });
}

#[test]
fn behind_the_end_of_the_recording_nothing_is_known() {
    let mut builder = builder("exact");
    builder.opened(1, 0, "/".to_owned(), None).expect("opened");
    builder.answered(1, 1, MessageKind::Text, b"a").expect("answered");
    let script = builder.finish(None).expect("a connection");
    let dialogue = &script.dialogues[0];
    let mut checker = AnswerChecker::default();
    checker.open(dialogue);
    let mut arrived = |text: &str| checker.arrived(&script, dialogue, MessageKind::Text, text.as_bytes());
    assert_eq!(
        [arrived("a"), arrived("b"), arrived("a")],
        [Arrived::InOrder(0), Arrived::Beyond, Arrived::Beyond]
    );
}

#[test]
fn an_answer_that_had_lost_its_place_gets_it_back() {
    let script = recorded("exact", &["a", "b"]);
    let dialogue = &script.dialogues[0];
    let mut checker = AnswerChecker::default();
    checker.open(dialogue);
    let mut arrived = |text: &str| checker.arrived(&script, dialogue, MessageKind::Text, text.as_bytes());
    assert_eq!(arrived("x"), Arrived::Different(0));
    assert_eq!(arrived("a"), Arrived::Restored(0));
    assert_eq!(arrived("a"), Arrived::Unexpected);
    assert_eq!(arrived("b"), Arrived::InOrder(1));
}

#[test]
fn an_answer_of_another_kind_is_different() {
    let script = recorded("exact", &["a"]);
    let dialogue = &script.dialogues[0];
    let mut checker = AnswerChecker::default();
    checker.open(dialogue);
    assert_eq!(checker.arrived(&script, dialogue, MessageKind::Binary, b"a"), Arrived::Different(0));
}

#[test]
fn ids_match_answers_in_any_order() {
    let (one, two, other) = (r#"{"id":1,"v":1}"#, r#"{"id":2,"v":2}"#, r#"{"id":2,"v":3}"#);
    let script = recorded("json:/id", &[one, "push", two]);
    assert_eq!(told(&script, &[two, one, "push"]), Counts::default());
    assert_eq!(told(&script, &["push", other, one]), Counts { different: 1, ..Counts::default() });
    assert_eq!(told(&script, &[one, one, "push"]), Counts { missing: 1, unexpected: 1, ..Counts::default() });
    assert_eq!(
        told(&script, &[one, "push", two, r#"{"id":9}"#]),
        Counts { unexpected: 1, ..Counts::default() }
    );
}

#[test]
fn the_rule_count_looks_at_numbers_only() {
    let script = recorded("count", &["a", "b"]);
    assert_eq!(told(&script, &["x", "y"]), Counts::default());
    assert_eq!(told(&script, &["x"]), Counts { missing: 1, ..Counts::default() });
    assert_eq!(told(&script, &["x", "y", "z"]), Counts { unexpected: 1, ..Counts::default() });
}

fn answers() -> impl Strategy<Value = Vec<String>> {
    // Few different ones, so that many are equal.
    let answer = prop_oneof![
        "[ab]{0,2}",
        (0_u8..3, 0_u8..3).prop_map(|(id, value)| format!("{{\"id\":{id},\"value\":{value}}}")),
    ];
    proptest::collection::vec(answer, 0..40)
}

proptest! {
    #[test]
    fn a_server_that_does_as_recorded_has_no_differences(
        answers in answers(),
        rule in prop::sample::select(vec!["exact", "json", "json:/id", "count"]),
    ) {
        let script = script(rule, &answers);
        let arrivals: Vec<&str> = answers.iter().map(String::as_str).collect();
        prop_assert_eq!(told(&script, &arrivals), Counts::default());
    }

    /// However many answers are dropped, repeated or changed, each message is counted once.
    #[test]
    fn arrivals_and_differences_add_up(
        answers in answers(),
        arrivals in proptest::collection::vec("[abc]{0,2}", 0..40),
        rule in prop::sample::select(vec!["exact", "json", "json:/id", "count"]),
    ) {
        let script = script(rule, &answers);
        let arrivals: Vec<&str> = arrivals.iter().map(String::as_str).collect();
        let counts = told(&script, &arrivals);
        prop_assert_eq!(arrivals.len() + counts.missing, answers.len() + counts.unexpected);
    }

    /// Answers with different ids may come in any order.
    #[test]
    fn no_order_of_ids_is_a_difference(order in Just((0..20).collect::<Vec<u32>>()).prop_shuffle()) {
        let text = |id: &u32| format!("{{\"id\":{id}}}");
        let answers: Vec<String> = (0..20).map(|id| text(&id)).collect();
        let arrivals: Vec<String> = order.iter().map(text).collect();
        let arrivals: Vec<&str> = arrivals.iter().map(String::as_str).collect();
        prop_assert_eq!(told(&script("json:/id", &answers), &arrivals), Counts::default());
    }

    /// In order, each answer that was left out is missing and nothing else is wrong, where answers differ.
    #[test]
    fn dropped_answers_are_missing(drops in proptest::collection::vec(any::<bool>(), 1..60)) {
        let answers: Vec<String> = (0..drops.len()).map(|number| number.to_string()).collect();
        let arrivals: Vec<&str> =
            answers.iter().zip(&drops).filter(|(_, drop)| !**drop).map(|(answer, _)| answer.as_str()).collect();
        let missing = drops.iter().filter(|drop| **drop).count();
        prop_assert_eq!(told(&script("exact", &answers), &arrivals), Counts { missing, ..Counts::default() });
    }
}
