//! The configuration's files.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| viaduct_fuzz::configuration(bytes));
