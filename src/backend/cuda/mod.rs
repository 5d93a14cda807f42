//! The PTX backend: programs as hand-written kernels on NVIDIA cards.
//!
//! | file | what it does |
//! |---|---|
//! | `device` | a card: driver, memory, modules, by way of cudarc (feature `cuda`) |
//! | `driver` | what the executor needs of a machine: memory, modules, launches |
//! | `module` | rendered text to a loaded kernel: block size and entry, read from the text itself |
//! | `executor` | gives every tensor an address, prepares every launch once, then only launches |
//!
//! Which launches an op takes is decided in [`lower`](super::lower), with no machine at hand. Two machines run them: a card
//! through its driver, and `ptx-interpreter` in tests, which checks each access.

#[cfg(feature = "cuda")]
mod device;
mod driver;
mod executor;
mod module;

#[cfg(feature = "cuda")]
pub use device::{Card, CardInfo, cards};
pub use driver::{Driver, KernelLaunch};
pub use executor::{CudaExecutor, plan};
pub use module::KernelText;

use super::lower::Caps;
use crate::kernel::Language;

/// What every card from V100 on can do.
pub fn caps() -> Caps {
    Caps {
        language: Language::Ptx,
        f16: false, // no kernel in half precision yet
        groups: [i32::MAX as u32, 65535, 65535],
        storage_buffers: 64,
        binding_bytes: usize::MAX,
        buffer_bytes: usize::MAX,
        workgroup_bytes: 48 << 10,
        ..Caps::default()
    }
}
