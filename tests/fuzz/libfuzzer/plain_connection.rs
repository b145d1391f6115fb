//! libFuzzer's entry point for `targets::plain_connection`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::plain_connection::run(data));
