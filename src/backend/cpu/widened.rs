//! Tensors in half precision as the program's type: copies in scratch that the kernels of an op work on.

use half::{bf16, f16};

use super::arena::{Access, Element};
use super::movement;
use super::real::Real;
use crate::op::Op;
use crate::program::Program;
use crate::tensor::{DType, TensorId};
use crate::{Error, Result};

/// Elements of scratch that `op` needs for copies of its tensors in half precision.
pub fn workspace_len(op: &Op, program: &Program) -> usize {
    let ids = op.reads().into_iter().chain(op.writes().into_iter().map(|target| target.id));
    let halves = ids.map(|id| program.tensor(id)).filter(|desc| desc.dtype.is_half());
    halves.map(|desc| desc.shape.len()).sum()
}

/// Hands out the tensors of one op as slices of `R`, whatever floating-point type they are stored in.
pub struct Widened<'b, 'a, R> {
    access: &'b mut Access<'a>,
    scratch: &'a mut [R],
}

impl<'b, 'a, R: Real + Element> Widened<'b, 'a, R> {
    /// Takes the scratch of the op.
    ///
    /// # Errors
    /// Those of [`Access::workspace`].
    pub fn new(access: &'b mut Access<'a>) -> Result<Self> {
        let scratch = access.workspace()?;
        Ok(Widened { access, scratch })
    }
    /// Tensors that are no floating-point numbers.
    pub fn access(&mut self) -> &mut Access<'a> {
        self.access
    }
    /// What is left of the scratch when everything has been handed out.
    pub fn rest(&mut self) -> &'a mut [R] {
        std::mem::take(&mut self.scratch)
    }
    fn take(&mut self, len: usize) -> Result<&'a mut [R]> {
        let Some((first, rest)) = self.rest().split_at_mut_checked(len) else {
            return Err(Error::plan(format!("{}: the plan has no scratch for {len} elements", self.access.place())));
        };
        self.scratch = rest;
        Ok(first)
    }
    fn copy<H: Element + Into<f64> + Send + Sync>(&mut self, id: TensorId) -> Result<&'a [R]> {
        let copy = self.take(self.access.len(id))?;
        self.access.visit::<H>(id, |halves| movement::cast(copy, halves, |x| R::from_f64(x.into())))?;
        Ok(copy)
    }
    /// A tensor to read.
    ///
    /// # Errors
    /// When it is of another type than `R` and halves, the op also writes it, or the scratch is too small.
    pub fn read(&mut self, id: TensorId) -> Result<&'a [R]> {
        match self.access.dtype(id) {
            DType::Bf16 => self.copy::<bf16>(id),
            DType::F16 => self.copy::<f16>(id),
            _ => self.access.read(id),
        }
    }
    /// As [`Self::read`]; `None` where there is no tensor.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read_some(&mut self, id: Option<TensorId>) -> Result<Option<&'a [R]>> {
        id.map(|id| self.read(id)).transpose()
    }
    /// A tensor to overwrite; what is stored in half precision holds nothing yet, and needs [`Self::store`] afterwards.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn write(&mut self, id: TensorId) -> Result<&'a mut [R]> {
        match self.access.dtype(id) {
            DType::Bf16 | DType::F16 => self.take(self.access.len(id)),
            _ => self.access.write(id),
        }
    }
    /// As [`Self::write`]; empty where there is no tensor.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn write_some(&mut self, id: Option<TensorId>) -> Result<&'a mut [R]> {
        id.map_or(Ok(Default::default()), |id| self.write(id))
    }
    /// Rounds what [`Self::write`] gave for `id` where it is stored in half precision.
    ///
    /// # Errors
    /// Those of [`Access::write`].
    pub fn store(&mut self, id: TensorId, values: &[R]) -> Result<()> {
        match self.access.dtype(id) {
            DType::Bf16 => movement::cast(self.access.write(id)?, values, |x| bf16::from_f64(x.to_f64())),
            DType::F16 => movement::cast(self.access.write(id)?, values, |x| f16::from_f64(x.to_f64())),
            _ => {}
        }
        Ok(())
    }
    /// As [`Self::store`], where there is a tensor.
    ///
    /// # Errors
    /// Those of `store`.
    pub fn store_some(&mut self, id: Option<TensorId>, values: &[R]) -> Result<()> {
        id.map_or(Ok(()), |id| self.store(id, values))
    }
}
