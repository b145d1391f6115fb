//! Limits, bans and the bound on memory, with virtual time.

use super::*;
use crate::limits::LIMIT_LOG_INTERVAL;
use echoring_proto::limits::SECOND;
use echoring_proto::random::SplitMix64;
use std::net::{Ipv4Addr, Ipv6Addr};

const START: Nanos = 1_000 * SECOND;

fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))
}

fn limit(result: Result<(), Offence>) -> Option<Limit> {
    result.err().map(|offence| offence.limit)
}

#[test]
fn an_address_has_as_many_connections_as_it_may_and_others_have_their_own() {
    let admission = Admission::default();
    let limits = AddressLimits { max_connections_per_address: Some(3), ..AddressLimits::NONE };
    let enter = |number| limit(admission.enter(address(number), &limits, START));
    assert_eq!([enter(1), enter(1), enter(1)], [None; 3]);
    assert_eq!(enter(1), Some(Limit::ConnectionsPerAddress));
    assert_eq!(enter(2), None);
    admission.leave(address(1), START);
    assert_eq!([enter(1), enter(1)], [None, Some(Limit::ConnectionsPerAddress)]);
}

#[test]
fn the_hosts_of_a_network_of_ipv6_are_one_address() {
    let admission = Admission::default();
    let limits = AddressLimits { max_connections_per_address: Some(1), ..AddressLimits::NONE };
    let enter = |network: u16, host: u16| {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host);
        limit(admission.enter(address.into(), &limits, START))
    };
    assert_eq!(enter(1, 1), None);
    assert_eq!(enter(1, 2), Some(Limit::ConnectionsPerAddress));
    assert_eq!(enter(2, 1), None);
}

#[test]
fn handshakes_are_limited_per_address_and_in_all() {
    let admission = Admission::default();
    let limits = AddressLimits {
        handshake_rate_per_address: Rate::per_second(5),
        handshake_rate: Rate::per_second(8),
        ..AddressLimits::NONE
    };
    let admitted =
        |number, now| (0..20).filter(|_| admission.enter(address(number), &limits, now).is_ok()).count();
    assert_eq!([admitted(1, START), admitted(2, START)], [5, 5]);
    assert_eq!(admitted(1, START + SECOND / 5), 1);
    let any = |now| (0..20).filter(|_| admission.enter_any(&limits, now)).count();
    assert_eq!([any(START), any(START + SECOND / 8), any(START + 9 * SECOND)], [8, 1, 8]);
    assert!((0..100).all(|_| admission.enter_any(&AddressLimits::NONE, START)));
}

#[test]
fn an_address_over_its_limits_too_often_within_the_window_is_banned_for_a_while() {
    let policy = BanPolicy { after: 3, window: 10 * SECOND, time: 60 * SECOND };
    let limits =
        AddressLimits { max_connections_per_address: Some(0), bans: Some(policy), ..AddressLimits::NONE };
    let free = AddressLimits { max_connections_per_address: None, ..limits.clone() };
    let admission = Admission::default();
    let enter = |now| admission.enter(address(1), &limits, now).expect_err("over its limit");
    assert!(!enter(START).banned && !enter(START + SECOND).banned);
    // The window has passed.
    assert!(!enter(START + 11 * SECOND).banned && !enter(START + 12 * SECOND).banned);
    let last = enter(START + 13 * SECOND);
    assert!(last.banned && last.log.is_some() && last.limit == Limit::ConnectionsPerAddress);
    assert_eq!(limit(admission.enter(address(1), &free, START + 72 * SECOND)), Some(Limit::Banned));
    assert_eq!(limit(admission.enter(address(1), &free, START + 73 * SECOND)), None);
    assert_eq!(limit(admission.enter(address(2), &free, START + 14 * SECOND)), None);
    assert_eq!(admission.bans(), 1);
    // Offences of open connections count as well.
    let offend = || admission.offend(address(2), Limit::Messages, &free, START + 15 * SECOND).banned;
    assert_eq!([offend(), offend(), offend()], [false, false, true]);
    let report = admission.report(10, START + 16 * SECOND);
    assert_eq!((report.banned, report.bans), (2, 2));
    assert_eq!(report.worst.len(), 2);
}

#[test]
fn one_record_per_address_and_interval_counts_those_that_were_left_out() {
    let limits = AddressLimits { max_connections_per_address: Some(0), ..AddressLimits::NONE };
    let admission = Admission::default();
    let log = |number, now| admission.enter(address(number), &limits, now).expect_err("over").log;
    assert_eq!([log(1, START), log(1, START), log(1, START + SECOND)], [Some(0), None, None]);
    assert_eq!(log(2, START), Some(0));
    assert_eq!(log(1, START + LIMIT_LOG_INTERVAL), Some(2));
}

#[test]
fn memory_is_bounded_and_open_connections_are_never_forgotten() {
    let policy = BanPolicy { after: 1, window: SECOND, time: 1_000 * SECOND };
    let limits =
        AddressLimits { max_connections_per_address: Some(1), bans: Some(policy), ..AddressLimits::NONE };
    let admission = Admission::default();
    let most = ADMISSION_TABLES * crate::limits::ADMISSION_ENTRIES_MAX;
    let held = 1_000;
    for number in 0..held {
        assert_eq!(limit(admission.enter(address(number), &limits, START)), None);
    }
    for number in held..held + 3 * most as u32 {
        let now = START + u64::from(number);
        admission.offend(address(number), Limit::Messages, &limits, now);
    }
    let report = admission.report(10, START);
    assert!(report.addresses <= (most + held as usize) as u64, "{} addresses", report.addresses);
    assert_eq!((report.connected, report.worst.len()), (u64::from(held), 10));
    for number in 0..held {
        assert!(admission.enter(address(number), &limits, START).is_err(), "{number} was forgotten");
    }
}

/// Any order of entering and leaving leaves exactly the connections that are open, whoever was evicted meanwhile.
#[test]
fn counts_of_connections_agree_with_a_model() {
    for seed in 0..20 {
        let mut random = SplitMix64::new(seed);
        let admission = Admission::default();
        let limits = AddressLimits { max_connections_per_address: Some(4), ..AddressLimits::NONE };
        let mut model = [0_u32; 50];
        for step in 0..20_000_u64 {
            let number = random.below(50) as usize;
            let (of, now) = (address(number as u32), START + step * 1_000_000);
            if random.below(2) == 0 {
                let admitted = admission.enter(of, &limits, now).is_ok();
                assert_eq!(admitted, model[number] < 4, "seed {seed}, step {step}");
                model[number] += u32::from(admitted);
            } else if model[number] > 0 {
                admission.leave(of, now);
                model[number] -= 1;
            }
        }
        let connected = model.iter().filter(|open| **open > 0).count() as u64;
        assert_eq!(admission.report(0, START).connected, connected, "seed {seed}");
    }
}
