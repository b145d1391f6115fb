//! libFuzzer's entry point for `targets::conn` in the role of the client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::conn::run_client(data));
