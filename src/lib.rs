//! XLNet (Yang et al. 2019): pretraining and fine-tuning steps on hand-written kernels, under a thin layer of Rust.
//!
//! A training step is a *static program*. Model code ([`model`]) pushes plain-struct ops ([`op`]), forward and
//! hand-written backward, into a [`program::Builder`], which checks every one. A [`program::Plan`] gives every tensor an
//! address by its life, with no device at hand. A backend ([`backend`]) runs the result; today that is the CPU, in a
//! fast implementation and in the reference that defines each op.
//!
//! | to | read |
//! |---|---|
//! | know what is computed | [`op`], one struct a computation, formula first |
//! | see how XLNet is made of it | [`model::Transformer`], [`model::heads`] |
//! | run a model as the original's `XLNetModel` | [`api`] |
//! | fine-tune, evaluate, predict | [`task`] |
//! | run steps | [`train::session::Session`], [`train::step::StepOptions`] |
//! | turn text into batches | [`data`] |
//! | add a backend | [`backend::Executor`] |
//! | train on several devices | [`distributed`] |
//!
//! One training step of a tiny language model:
//!
//! ```
//! use xlnet::backend::Device;
//! use xlnet::config::XlnetConfig;
//! use xlnet::model::{QueryKind, TransformerOptions};
//! use xlnet::tensor::DType;
//! use xlnet::train::init::{InitOptions, initialize};
//! use xlnet::train::session::Session;
//! use xlnet::train::step::{Objective, OptimizerOptions, StepOptions};
//!
//! let config = XlnetConfig { n_layer: 2, d_model: 32, n_head: 2, d_head: 16, d_inner: 64, n_token: 100, ..XlnetConfig::base() };
//! let transformer =
//!     TransformerOptions { batch: 2, length: 8, query: QueryKind::Targets(3), ..TransformerOptions::default() };
//! let options = StepOptions {
//!     transformer,
//!     objective: Objective::LanguageModel,
//!     accumulate: 1,
//!     float: DType::F32,
//!     optimizer: Some(OptimizerOptions::default()),
//! };
//! let mut session = Session::new(&config, options, Device::Cpu, 1)?;
//! let (program, exec) = session.parts();
//! initialize(exec, program, &InitOptions::default())?;
//!
//! session.input_i32("input_ids", &[5; 16])?; // [B, L]
//! session.input_i32("target_positions", &[1, 2, 5, 0, 3, -1])?; // [B, T], -1 where there is no target
//! session.input_i32("targets", &[7, 8, 9, 7, 8, 0])?; // [B, T]
//! session.input_f32("target_weights", &[0.2, 0.2, 0.2, 0.2, 0.2, 0.0])?; // [B, T], 1 in all
//! let step = session.train()?;
//! assert!((step.loss - 100f64.ln()).abs() < 0.5); // nothing is known yet
//! # Ok::<(), xlnet::Error>(())
//! ```

mod atomic;
mod checksum;
mod error;
mod size;

pub use error::{Error, ErrorKind, Result};

pub mod api;
pub mod backend;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod data;
pub mod distributed;
pub mod kernel;
pub mod model;
pub mod op;
pub mod program;
pub mod task;
pub mod tensor;
pub mod train;
