//! Hosts that speak with each other in a network namespace of the test's own.

mod ends;
mod keys;
mod tls;
#[path = "../../../tests/datapath/wireshark.rs"]
mod wireshark;
