//! libFuzzer's entry point for `targets::v1`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::v1::run(data));
