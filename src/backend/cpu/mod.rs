//! The CPU backend: every op for f32 and f64, vectorised for the processor at hand and threaded over fixed blocks.
//!
//! [`CpuExecutor`] holds one arena per role, hands an op its tensors as slices (never two that overlap where one is
//! written) and calls the op's kernel, a plain function of slices in the file named after the op's family. Results have
//! the same bits for any number of threads.

mod activation;
mod arena;
mod attention;
mod blocks;
mod dispatch;
mod dropout;
mod executor;
mod gemm;
mod layer_norm;
mod loss;
pub mod matmul;
mod memory;
mod movement;
mod optimizer;
mod position;
pub mod real;
mod reference;
pub mod rel_attention;
pub mod rel_attention_grad;
#[cfg(test)]
mod rel_attention_tests;
mod rel_attention_tile;
pub mod tile;
pub mod vector;
mod widened;

pub use dispatch::workspace_bytes;
pub use executor::CpuExecutor;
pub use memory::free_bytes;
