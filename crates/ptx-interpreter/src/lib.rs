//! Runs hand-written PTX on the CPU, warp by warp, and checks every step.
//!
//! Kernels that were never near a GPU are wrong in ways that results alone do not show: a barrier that is missing, an
//! index that runs over by one, a lane that reads what another has not written yet. This interpreter runs the text that
//! a driver would compile, and stops at the first instruction that breaks a rule, with kernel, line, block and thread:
//!
//! - a register, predicate or byte of memory that was never written is read;
//! - an access is out of bounds or misaligned (each buffer lies alone, so that an overrun never hits a neighbour);
//! - two threads touch the same bytes, one of them writes, and no barrier orders them ([`Rule::Race`]); lanes of a warp
//!   are ordered by `bar.warp.sync`, not by running in lockstep; blocks of one launch are not ordered at all;
//! - a shuffle, vote or matrix instruction is reached by other lanes than its mask names;
//! - a barrier is reached by a part of a warp, is used with two counts, or never completes;
//! - bytes of a `cp.async` are touched before the wait;
//! - registers of a `wgmma.mma_async` are touched before its wait or without `wgmma.fence`, shared memory is overwritten that
//!   it may still read, or reaches it without `fence.proxy.async`;
//! - bytes of a bulk copy are touched by who has not waited at its `mbarrier`, or an `mbarrier` never completes.
//!
//! ```
//! use ptx_interpreter::{Machine, Module};
//!
//! let module = Module::parse("
//! .version 6.4
//! .target sm_70
//! .address_size 64
//! .visible .entry double(.param .u64 x) {
//!     .reg .b64 %x;
//!     .reg .b32 %i;
//!     .reg .f32 %v;
//!     ld.param.u64 %x, [x];
//!     mov.u32 %i, %tid.x;
//!     mad.wide.u32 %x, %i, 4, %x;
//!     ld.global.f32 %v, [%x];
//!     add.f32 %v, %v, %v;
//!     st.global.f32 [%x], %v;
//!     ret;
//! }").unwrap();
//! let mut machine = Machine::new();
//! let x = machine.upload("x", &1.5_f32.to_le_bytes().repeat(32));
//! let report = machine.launch(&module, "double", [1, 1, 1], [32, 1, 1], 0, &[x.into()]).unwrap();
//! assert_eq!(machine.download(x).unwrap(), 3.0_f32.to_le_bytes().repeat(32));
//! assert_eq!(report.global_read_bytes, 128);
//! // One thread too many:
//! let error = machine.launch(&module, "double", [1, 1, 1], [33, 1, 1], 0, &[x.into()]).unwrap_err();
//! assert!(error.to_string().contains("line 12 `ld.global.f32 %v, [%x];`, block (0, 0, 0), thread 32"), "{error}");
//! ```
//!
//! # How it works
//! Text is decoded once into instructions over numbered registers; a register of a warp is 32 values and a mask of the
//! lanes that wrote it. Each instruction is one function over all lanes. Lanes that part go on by the lowest position
//! first and meet again. The warps of a block run one after another, each until it waits; [`Schedule`] gives the order.
//!
//! # What it is not
//! It knows the instructions that this project's kernels use and refuses all others by name. `.approx` functions and
//! tensor-core sums are exact functions rounded once, so a card differs in the last bits. Ordering by atomics and fences
//! between blocks is not modelled: such kernels are reported as races. A lane that arrives or waits at an `mbarrier` does so
//! for its warp: a `bar.warp.sync` that is missing there is not found. Speed of a card cannot be seen, only its causes:
//! instructions, bytes, sectors, bank conflicts ([`Report`]).

mod decode;
mod error;
mod exec;
mod float;
mod kernel;
mod lanes;
mod lexer;
mod machine;
mod memory;
mod mma;
mod parse;
pub mod ptxas;
mod report;
mod shadow;
mod syntax;
mod warp;
mod wgmma;

pub use error::{Error, ErrorKind, Finding, Result, Rule};
pub use exec::Schedule;
pub use kernel::Kernel;
pub use machine::{Argument, Buffer, Machine, Module};
pub use report::{Count, Report};
