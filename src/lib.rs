//! XLNet on hand-written kernels.

mod error;

pub use error::{Error, ErrorKind, Result};

pub mod backend;
pub mod data;
pub mod op;
