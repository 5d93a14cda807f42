//! The CPU backend.

pub mod real;
pub(crate) mod reference;
pub mod tile;
pub mod vector;

use std::ops::Range;
use std::sync::Arc;

use super::{Executor, OpTime};
use crate::Result;
use crate::op::Op;
use crate::program::{Plan, Program};
use crate::tensor::TensorId;

/// Scratch that the fast implementation of `op` needs.
pub fn workspace_bytes(_op: &Op, _program: &Program) -> usize {
    0
}

/// Runs programs on this machine's processor.
pub struct CpuExecutor {
    program: Arc<Program>,
    plan: Plan,
}

impl CpuExecutor {
    /// Takes a program and its plan.
    ///
    /// # Errors
    /// When an op cannot run.
    pub fn new(program: Arc<Program>, plan: Plan, _reference: bool) -> Result<Self> {
        Ok(CpuExecutor { program, plan })
    }
}
impl Executor for CpuExecutor {
    fn program(&self) -> &Arc<Program> {
        &self.program
    }
    fn plan(&self) -> &Plan {
        &self.plan
    }
    fn held_bytes(&self) -> usize {
        0
    }
    fn write(&mut self, _: TensorId, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn read(&mut self, _: TensorId, _: &mut [u8]) -> Result<()> {
        Ok(())
    }
    fn run(&mut self, _: Range<usize>) -> Result<()> {
        Ok(())
    }
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
    fn profile(&mut self, _: bool) -> Vec<OpTime> {
        vec![]
    }
}
