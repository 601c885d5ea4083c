//! What the hosts of a vnet say to each other, and what follows from it: pure state and arithmetic. Bytes, time and
//! randomness come in as arguments, values go out.
//!
//! [`control`] is what the hosts agree on. [`data`] is what is decided per packet or per batch of packets.
#![forbid(unsafe_code)]

pub mod control;
pub mod data;
