//! The CPU backend.

pub mod real;
pub mod tile;
pub mod vector;
