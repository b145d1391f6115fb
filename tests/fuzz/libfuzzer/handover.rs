//! libFuzzer's entry point for `targets::handover`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::handover::run(data));
