//! Tests with servers: a model of one, whose loss is known exactly, and echoring itself.

mod deltas;
mod model;
mod server;
mod server_side;
mod session;
mod simulated;
mod states;
mod tokens;
mod world;
