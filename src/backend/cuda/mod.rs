//! The PTX backend: programs as hand-written kernels on NVIDIA cards.
//!
//! | file | what it does |
//! |---|---|
//! | `context` | the cards of this machine; context and compiled modules of each (feature `cuda`, by way of cudarc) |
//! | `card` | a card as the executor's machine: memory, launches, recordings; `staging` for its uploads |
//! | `cublaslt` | matrix products by NVIDIA's library, where it is found |
//! | `nccl` | sums over processes by NVIDIA's library, where it is found |
//! | `driver` | what the executor needs of a machine: memory, modules, launches |
//! | `module` | rendered text to a loaded kernel: block size and entry, read from the text itself |
//! | `executor` | gives every tensor an address, prepares every launch once, then only launches |
//! | `fuse` | ops that come in a long row, one for each parameter, as one launch |
//!
//! Which launches an op takes is decided in [`lower`](super::lower), with no machine at hand. Two machines run them: a card
//! through its driver, and `ptx-interpreter` in tests, which checks each access.

#[cfg(feature = "cuda")]
mod card;
#[cfg(feature = "cuda")]
mod context;
#[cfg(feature = "cuda")]
mod cublaslt;
mod driver;
mod executor;
mod fuse;
mod module;
#[cfg(feature = "cuda")]
mod nccl;
#[cfg(feature = "cuda")]
mod staging;

#[cfg(feature = "cuda")]
pub use card::Card;
#[cfg(feature = "cuda")]
pub use context::{CardInfo, cards, find, free_bytes};
#[cfg(feature = "cuda")]
pub use cublaslt::products;
pub use driver::{Call, Driver, KernelLaunch, Product};
pub use executor::{CudaExecutor, plan};
pub use module::KernelText;
#[cfg(feature = "cuda")]
pub use nccl::sums;

use super::lower::Caps;
use crate::kernel::Language;

/// What a card of a compute capability can do.
pub fn caps(capability: (u32, u32)) -> Caps {
    Caps {
        language: Language::Ptx,
        capability,
        f16: false, // no kernel in half precision yet
        groups: [i32::MAX as u32, 65535, 65535],
        storage_buffers: 64,
        binding_bytes: usize::MAX,
        buffer_bytes: usize::MAX,
        workgroup_bytes: 48 << 10,
        ..Caps::default()
    }
}
