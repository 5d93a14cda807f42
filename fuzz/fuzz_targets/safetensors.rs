#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| xlnet_testkit::fuzz::safetensors(bytes));
