//! What machines say of the groups that they listen to.
#![no_main]

#[allow(dead_code, reason = "of several parts, the others are for other targets")]
#[path = "../src/vnets.rs"]
mod vnets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vnets::listeners(bytes));
