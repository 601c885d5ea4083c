//! What the host answers its guests, as objects without sockets or clocks.
#![forbid(unsafe_code)]

pub mod dhcp4;
