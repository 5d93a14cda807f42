//! The vocabulary of operations.
pub mod philox;
