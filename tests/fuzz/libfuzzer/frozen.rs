//! libFuzzer's entry point for `targets::frozen`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::frozen::run(data));
