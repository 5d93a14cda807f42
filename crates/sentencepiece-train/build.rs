//! Compiles the C interface and links the trainer library.
//!
//! `sentencepiece-sys` with feature `static` lets cmake build `libsentencepiece_train` next to `libsentencepiece`,
//! but links only the latter. Cargo hands its library search path to every package that depends on it, so naming
//! the trainer is all that is left to do here.

fn main() {
    println!("cargo:rerun-if-changed=src/trainer.cpp");
    println!("cargo:rerun-if-changed=src/encoder.cpp");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").file("src/trainer.cpp").file("src/encoder.cpp");
    build.compile("sentencepiece_train_c");
    // After the interface that needs it: some linkers read archives once, in order.
    println!("cargo:rustc-link-lib=static=sentencepiece_train");
}
