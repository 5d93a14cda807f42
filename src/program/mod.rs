//! Static programs: tensors, ops in order, phases. Built once, planned without a device, run by any backend.
//!
//! There is no tape: model code pushes the forward and the hand-written backward ops itself, and the program *is* the
//! tape. `xlnet program dump` prints it, `xlnet program plan` prints where every byte goes.

mod builder;
mod dump;
mod plan;

use std::ops::Range;

use crate::op::Op;
use crate::tensor::{DType, TensorDesc, TensorId};

pub use builder::Builder;
pub use plan::{ALIGNMENT, Placement, Plan};

/// One op and the layer it belongs to.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is computed.
    pub op: Op,
    /// Index into [`Program::scopes`].
    pub scope: u32,
}

/// A stretch of ops that is run together: "forward", "backward", "update", ...
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// Its ops.
    pub ops: Range<usize>,
}

/// A whole computation.
#[derive(Clone, Debug)]
pub struct Program {
    /// Every tensor, by [`TensorId`].
    pub tensors: Vec<TensorDesc>,
    /// Every op, in order.
    pub steps: Vec<Step>,
    /// Layer names.
    pub scopes: Vec<String>,
    /// Phases in order; together they cover all ops.
    pub phases: Vec<Phase>,
    /// Element type of all floating-point tensors.
    pub float: DType,
}

impl Program {
    /// Description of a tensor.
    pub fn tensor(&self, id: TensorId) -> &TensorDesc {
        &self.tensors[id.index()]
    }
    /// The tensor that owns the bytes of `id`, and the offset in it.
    pub fn base(&self, id: TensorId) -> (TensorId, usize) {
        self.tensor(id).view.map_or((id, 0), |v| (v.base, v.offset))
    }
    /// The tensor called `name`.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.tensors.iter().position(|t| t.name == name).map(|i| TensorId(i as u32))
    }
    /// Layer name of op `index`.
    pub fn scope(&self, index: usize) -> &str {
        &self.scopes[self.steps[index].scope as usize]
    }
    /// Name and layer of op `index`, for messages.
    pub fn place(&self, index: usize) -> String {
        let (name, scope) = (self.steps[index].op.name(), self.scope(index));
        if scope.is_empty() { name.into() } else { format!("{name} in {scope}") }
    }
    /// Ops of the phase called `name`; empty when there is none.
    pub fn phase(&self, name: &str) -> Range<usize> {
        self.phases.iter().find(|p| p.name == name).map_or(0..0, |p| p.ops.clone())
    }
    /// All tensors with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (TensorId, &TensorDesc)> {
        self.tensors.iter().enumerate().map(|(i, t)| (TensorId(i as u32), t))
    }
    /// FLOPs of all ops.
    pub fn flops(&self) -> u64 {
        self.steps.iter().map(|s| s.op.cost(&self.tensors).flops).sum()
    }
}
