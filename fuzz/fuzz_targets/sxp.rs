//! Files of Xen's for vnets.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| viaduct_fuzz::vnets(bytes));
