//! Ports, addresses and names, as they stand in files and on command lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| viaduct_fuzz::words(bytes));
