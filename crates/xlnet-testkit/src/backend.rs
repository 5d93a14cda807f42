//! What cases run on: a device of the library, or the CUDA backend on the PTX interpreter.

use std::fmt;
use std::sync::Arc;

use ptx_interpreter::Schedule;
use xlnet::Result;
use xlnet::backend::{Device, Executor};
use xlnet::program::Program;

use crate::interpreter::Interpreter;

const V100: (u32, u32) = (7, 0);
const TURING: (u32, u32) = (7, 5);
const A100: (u32, u32) = (8, 0);
const HOPPER: (u32, u32) = (9, 0);

/// Runs programs in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// A device that users can name.
    Device(Device),
    /// The CUDA backend on the interpreter, as a card of a compute capability.
    Interpreter(Schedule, (u32, u32)),
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
            Backend::Interpreter(schedule, (major, minor)) => {
                f.write_str("cuda:interpreter")?;
                if (*major, *minor) != A100 {
                    write!(f, " {major}.{minor}")?;
                }
                if *schedule == Schedule::Descending { f.write_str(" (descending)") } else { Ok(()) }
            }
        }
    }
}

impl Backend {
    /// The CUDA backend on the interpreter, threads taking turns in both orders.
    pub const INTERPRETERS: [Backend; 2] =
        [Backend::Interpreter(Schedule::Ascending, A100), Backend::Interpreter(Schedule::Descending, A100)];
    /// The same as a card for which some kernels are others.
    pub const HOPPERS: [Backend; 2] =
        [Backend::Interpreter(Schedule::Ascending, HOPPER), Backend::Interpreter(Schedule::Descending, HOPPER)];
    /// The same as cards that are older: without bf16, copies that do not wait and the matrix instructions of A100.
    pub const BEFORE_AMPERE: [Backend; 2] =
        [Backend::Interpreter(Schedule::Ascending, V100), Backend::Interpreter(Schedule::Descending, TURING)];

    /// Opens it and gives it `program`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn open(self, program: Arc<Program>) -> Result<Box<dyn Executor>> {
        match self {
            Backend::Device(device) => device.open(program),
            Backend::Interpreter(schedule, capability) => {
                Ok(Box::new(Interpreter::open(schedule, capability, program)?))
            }
        }
    }
}
