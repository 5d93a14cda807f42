//! Placeholder of the reference implementation.
use crate::op::Op;
use crate::tensor::{TensorDesc, TensorId};
use crate::{Error, Result};

/// Tensors by id, whatever their element type and wherever their bytes.
#[expect(dead_code, reason = "the reference calls it")]
pub(crate) trait Store {
    fn floats(&self, id: TensorId) -> Vec<f64>;
    fn ints(&self, id: TensorId) -> Vec<i32>;
    fn words(&self, id: TensorId) -> Vec<u32>;
    fn set_floats(&mut self, id: TensorId, values: &[f64]);
}

/// Runs one op.
pub(crate) fn run(op: &Op, _tensors: &[TensorDesc], _store: &mut dyn Store) -> Result<()> {
    Err(Error::device(format!("{}: this build has no reference implementation; use --device cpu", op.name())))
}
