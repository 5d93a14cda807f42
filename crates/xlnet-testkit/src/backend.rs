//! What cases run on: a device of the library, or the CUDA backend on the PTX interpreter.

use std::fmt;
use std::sync::Arc;

use ptx_interpreter::Schedule;
use xlnet::Result;
use xlnet::backend::{Device, Executor};
use xlnet::program::Program;

use crate::interpreter::Interpreter;

/// Runs programs in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// A device that users can name.
    Device(Device),
    /// The CUDA backend on the interpreter.
    Interpreter(Schedule),
}

impl From<Device> for Backend {
    fn from(device: Device) -> Self {
        Backend::Device(device)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backend::Device(device) => fmt::Display::fmt(device, f),
            Backend::Interpreter(Schedule::Ascending) => f.write_str("cuda:interpreter"),
            Backend::Interpreter(Schedule::Descending) => f.write_str("cuda:interpreter (descending)"),
        }
    }
}

impl Backend {
    /// The CUDA backend on the interpreter, threads taking turns in both orders.
    pub const INTERPRETERS: [Backend; 2] =
        [Backend::Interpreter(Schedule::Ascending), Backend::Interpreter(Schedule::Descending)];

    /// Opens it and gives it `program`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn open(self, program: Arc<Program>) -> Result<Box<dyn Executor>> {
        match self {
            Backend::Device(device) => device.open(program),
            Backend::Interpreter(schedule) => Ok(Box::new(Interpreter::open(schedule, program)?)),
        }
    }
}
