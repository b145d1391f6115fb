//! libFuzzer's entry point for `targets::conn` in the role of the server.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::conn::run_server(data));
