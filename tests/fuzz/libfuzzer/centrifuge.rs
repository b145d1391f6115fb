//! libFuzzer's entry point for `targets::centrifuge`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::centrifuge::run(data));
