//! Parameters that several programs of one device use: which may write them, and which programs fit together.

use super::Executor;
use crate::program::{Plan, Program};
use crate::tensor::{Role, TensorDesc, TensorId};
use crate::{Error, Result};

/// Whose the parameters of an executor are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parameters {
    /// Its own.
    #[default]
    Own,
    /// Its own, but other programs read them.
    Lent,
    /// Another executor's.
    Borrowed,
}

impl Parameters {
    /// What they are for a lender from now on.
    #[must_use]
    pub fn lend(self) -> Self {
        if self == Parameters::Own { Parameters::Lent } else { self }
    }
    /// Bytes of a plan that its executor holds itself.
    pub fn held_bytes(self, plan: &Plan) -> usize {
        let others = if self == Parameters::Borrowed { plan.arena_bytes(Role::Param) } else { 0 };
        plan.total_bytes() - others
    }
    /// Requires that the host may write a tensor of `program`.
    ///
    /// # Errors
    /// When other programs read it; names it.
    pub fn check_write(self, program: &Program, id: TensorId) -> Result<()> {
        match program.tensors.get(id.index()) {
            Some(desc) if self != Parameters::Own && desc.role == Role::Param => Err(Error::plan(format!(
                "transfer: {} is shared with other programs, so nothing may write it",
                desc.name
            ))),
            _ => Ok(()),
        }
    }
}

/// Requires that `program`, planned as `plan` for the same device, can use the parameters of `lender`: both have the same
/// ones at the same addresses, and no op of either writes them.
///
/// # Errors
/// Names the parameter that differs, or the op that writes one.
pub fn check_parameters(lender: &dyn Executor, program: &Program, plan: &Plan) -> Result<()> {
    for program in [lender.program(), program] {
        let writes = |op: usize| program.steps[op].op.writes().into_iter().map(|write| write.id);
        let written = |op: usize| writes(op).find(|id| program.tensor(program.base(*id).0).role == Role::Param);
        if let Some((op, id)) = (0..program.steps.len()).find_map(|op| Some((op, written(op)?))) {
            return Err(Error::plan(format!(
                "{} writes {}, which another program would share; only programs that read their parameters share them",
                program.place(op),
                program.tensor(id).name
            )));
        }
    }
    let theirs = parameters(lender.program());
    let ours = parameters(program);
    let same = |((a, x), (b, y)): (&(TensorId, &TensorDesc), &(TensorId, &TensorDesc))| {
        (&x.name, x.shape, x.dtype) == (&y.name, y.shape, y.dtype) && lender.plan().placement(*a) == plan.placement(*b)
    };
    let differs = theirs.iter().zip(&ours).position(|pair| !same(pair));
    let at = differs.unwrap_or(theirs.len().min(ours.len()));
    let named = |all: &[(TensorId, &TensorDesc)]| {
        all.get(at).map_or("none".into(), |(_, desc)| format!("{} {} {}", desc.name, desc.shape, desc.dtype))
    };
    if at == theirs.len() && at == ours.len() {
        return Ok(());
    }
    let what = format!("parameter {at} of a program that shares the parameters of another");
    Err(Error::plan(format!("{what}: expected {}, got {}", named(&theirs), named(&ours))))
}

fn parameters(program: &Program) -> Vec<(TensorId, &TensorDesc)> {
    program.iter().filter(|(_, desc)| desc.role == Role::Param && desc.view.is_none()).collect()
}
