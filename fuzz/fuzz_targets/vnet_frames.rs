//! Frames of vnets: from a tap, from another host, and joined.
#![no_main]

#[allow(dead_code, reason = "of two parts, one is for the other target")]
#[path = "../src/vnets.rs"]
mod vnets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vnets::frames(bytes));
