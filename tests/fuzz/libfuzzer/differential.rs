//! libFuzzer's entry point for `targets::differential`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::differential::run(data));
