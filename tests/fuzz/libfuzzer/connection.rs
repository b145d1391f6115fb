//! libFuzzer's entry point for `targets::connection`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::connection::run(data));
