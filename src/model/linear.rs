//! Dense layers: forward and backward side by side.

use crate::Result;
use crate::op::{ColumnSum, MatMul, Target, Write};
use crate::program::Builder;
use crate::tensor::{DType, TensorId};

/// How the weight matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[outputs, inputs]`: feed-forward layers, heads, and `o` of attention.
    OutIn,
    /// `[inputs, outputs]`: `q`, `k`, `v`, `r` of attention.
    InOut,
}

/// `y = x W + b`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// W.
    pub weight: TensorId,
    /// b.
    pub bias: Option<TensorId>, // [outputs]
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
    /// Storage of W.
    pub layout: Layout,
}

impl Linear {
    /// Pushes `y = x W + b` and returns y.
    pub fn forward(&self, b: &mut Builder, name: &str, x: TensorId) -> Result<TensorId> {
        let float = b.float();
        self.forward_in(b, name, x, float)
    }
    /// As [`Self::forward`], with y in the program's type or that of operands of products.
    pub fn forward_in(&self, b: &mut Builder, name: &str, x: TensorId, dtype: DType) -> Result<TensorId> {
        let rows = b.shape(x).len() / self.inputs;
        let y = b.activation_in(name, [rows, self.outputs], dtype); // [R, outputs]
        let (x, weight) = (b.operand(x)?, b.operand(self.weight)?);
        let bias = match self.bias {
            Some(bias) if dtype != b.float() => Some(b.operand(bias)?),
            bias => bias,
        };
        b.push(MatMul {
            a: x,
            b: weight,
            bias,
            out: Target::set(y),
            m: rows,
            n: self.outputs,
            k: self.inputs,
            trans_a: false,
            trans_b: self.layout == Layout::OutIn,
        })?;
        Ok(y)
    }

    /// Pushes the gradients of weight and bias, where they are trained.
    pub fn backward_weight(&self, b: &mut Builder, x: TensorId, dy: TensorId) -> Result<()> {
        let rows = b.shape(x).len() / self.inputs;
        if let Some(out) = b.grad(self.weight) {
            let (left, right, m, n) = match self.layout {
                Layout::OutIn => (dy, x, self.outputs, self.inputs),
                Layout::InOut => (x, dy, self.inputs, self.outputs),
            };
            let (left, right) = (b.operand(left)?, b.operand(right)?);
            b.push(MatMul { a: left, b: right, bias: None, out, m, n, k: rows, trans_a: true, trans_b: false })?;
        }
        if let Some(bias) = self.bias
            && let Some(out) = b.grad(bias)
        {
            b.push(ColumnSum { x: dy, out })?;
        }
        Ok(())
    }

    /// Pushes `dx (=|+=) dy W^T`.
    pub fn backward_input(&self, b: &mut Builder, dy: TensorId, dx: Target) -> Result<()> {
        let rows = b.shape(dy).len() / self.outputs;
        let (dy, weight) = (b.operand(dy)?, b.operand(self.weight)?);
        b.push(MatMul {
            a: dy,
            b: weight,
            bias: None,
            out: dx,
            m: rows,
            n: self.inputs,
            k: self.outputs,
            trans_a: false,
            trans_b: self.layout == Layout::InOut,
        })
    }

    /// [`Self::backward_weight`], then the gradient of x in a tensor of its own.
    pub fn backward(&self, b: &mut Builder, name: &str, x: TensorId, dy: TensorId) -> Result<TensorId> {
        let float = b.float();
        self.backward_in(b, name, x, dy, float)
    }
    /// As [`Self::backward`], with the gradient of x in the program's type or that of operands of products.
    pub fn backward_in(
        &self,
        b: &mut Builder,
        name: &str,
        x: TensorId,
        dy: TensorId,
        dtype: DType,
    ) -> Result<TensorId> {
        self.backward_weight(b, x, dy)?;
        let rows = b.shape(dy).len() / self.outputs;
        let dx = b.activation_in(name, [rows, self.inputs], dtype); // [R, inputs]
        self.backward_input(b, dy, Target { id: dx, write: Write::Set })?;
        Ok(dx)
    }
}
