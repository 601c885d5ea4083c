//! Hosts that agree on vnets over a network that cuts and delays their connections.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod bounds;
mod codec;
mod learning;
mod ports;
mod relays;
mod rules;
mod simulated;
mod world;
