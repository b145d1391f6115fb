//! libFuzzer's entry point for `targets::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::frame::run(data));
