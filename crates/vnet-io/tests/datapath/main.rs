//! The datapath through a real kernel, in network namespaces that each test makes for itself on threads of its own; they
//! go with those threads. The machine's namespace is never touched. Needs root, iproute2, ethtool, tshark and Python with
//! `cryptography`.

#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod between_hosts;
mod fallbacks;
mod forwarding;
mod halves;
mod hostile;
mod pair;
mod ports;
mod wire;
mod wireshark;
mod world;
