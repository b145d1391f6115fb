//! libFuzzer's entry point for `targets::deflate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::deflate::run(data));
