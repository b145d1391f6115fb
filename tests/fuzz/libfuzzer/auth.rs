//! libFuzzer's entry point for `targets::auth`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::auth::run(data));
