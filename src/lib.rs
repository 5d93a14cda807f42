//! XLNet on hand-written kernels.

mod atomic;
mod error;

pub use error::{Error, ErrorKind, Result};

pub mod backend;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod data;
pub mod model;
pub mod op;
pub mod program;
pub mod tensor;
pub mod train;
