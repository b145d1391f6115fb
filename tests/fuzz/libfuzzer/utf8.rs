//! libFuzzer's entry point for `targets::utf8`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::utf8::run(data));
