//! What comes to the sockets of a worker of vnets, from anybody and from a peer with all keys.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| viaduct_vnet_io::datapath::hostile(bytes));
