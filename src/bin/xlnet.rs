//! The `xlnet` program.
fn main() {}
