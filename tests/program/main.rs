//! Tests of the program: the real binary, over real sockets.

#[path = "../support"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod support {
    pub mod alone;
    pub mod authority;
    pub mod certificate;
    pub mod deflate;
    pub mod patient;
    pub mod peer;
    pub mod planted;
    pub mod ports;
    pub mod program;
    pub mod pusher;
    pub mod silent;
}

mod attacks;
mod bench;
mod bench_churn;
mod bench_connect;
mod bench_outputs;
mod bench_replay;
mod bench_schedules;
mod cli;
mod faults;
mod import;
mod key_exchange;
mod lifecycle;
mod operate;
mod planted_faults;
mod proxy;
mod proxy_admin;
mod proxy_reload;
mod proxy_requests;
mod restarts;
mod systemd;
mod takeover;
mod verdicts;
