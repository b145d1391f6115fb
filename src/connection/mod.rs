//! One WebSocket peer as a state machine.
