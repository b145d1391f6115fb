//! libFuzzer's entry point for `targets::moved`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::moved::run(data));
