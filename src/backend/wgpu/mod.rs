//! The WGSL backend: programs as compute shaders on Vulkan, Metal and DX12, through wgpu.
//!
//! | file | what it does |
//! |---|---|
//! | `device` | finds adapters, opens one with all its limits, shared by all executors of the process |
//! | `pipeline` | variant to pipeline, cached in memory by the hash of its text, on disk where the adapter can |
//! | `arena` | the plan's arenas as buffers |
//! | `bound` | launches with pipelines and bind groups; [`BoundOp`], one op on buffers of another wgpu program |
//! | `executor` | binds every launch once, then only encodes; one submit a run |
//! | `profile` | time of each op by timestamps |
//!
//! Which launches an op takes is decided in [`lower`](super::lower), for all GPUs. Addresses are a parameter of lowering (a
//! function from tensor to [`Slice`]), so that one op can run on buffers of another wgpu program
//! (`examples/foreign_wgpu.rs`).

mod arena;
mod bound;
mod device;
mod executor;
mod pipeline;
mod profile;
#[cfg(test)]
mod tests;

pub use super::lower::{Caps, Context, Launch, Slice, lower, workspace_bytes};
pub use bound::BoundOp;
pub use device::{AdapterInfo, Gpu, adapters, has_hardware};
pub use executor::WgpuExecutor;

/// Most bytes of one buffer: what any desktop adapter allocates in one piece. Plans are made with it where there is no
/// device; an adapter that allows less plans again when it is opened.
pub const CHUNK_BYTES: usize = 1 << 30;
