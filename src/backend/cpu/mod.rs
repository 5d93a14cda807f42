//! The CPU backend.

pub mod matmul;
pub mod real;
pub mod rel_attention;
pub mod rel_attention_grad;
#[cfg(test)]
mod rel_attention_tests;
mod rel_attention_tile;
pub mod tile;
pub mod vector;
