//! Hosts that speak with each other in a network namespace of the test's own.

mod ends;
mod keys;
mod liar;
mod lines;
mod paths;
mod segments;
mod tls;
#[path = "../../../tests/datapath/wireshark.rs"]
mod wireshark;

use tokio::runtime::Builder;

use crate::datapath::in_a_namespace;

/// Does something in a network namespace of its own, in one thread.
fn alone(what: impl AsyncFnOnce() + Send + 'static) {
    in_a_namespace(|| Builder::new_current_thread().enable_all().build().unwrap().block_on(what()));
}
