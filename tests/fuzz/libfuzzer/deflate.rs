//! libFuzzer's way into `targets::deflate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::deflate::run(data));
