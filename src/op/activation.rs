//! Element-wise activations, with dropout of their result fused in.

use super::{DropoutSite, Operation, Target, Tensors};
use crate::Result;
use crate::tensor::TensorId;

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ActivationKind {
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: the original's `gelu`.
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt 2))`: `gelu` of Hugging Face configs.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
}

/// `out = dropout(f(x))`, in the element type of `x`.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// Pre-activation.
    pub x: TensorId, // [R, d]
    /// Result; may be `x` itself.
    pub out: TensorId, // [R, d]
    /// f.
    pub kind: ActivationKind,
    /// Dropout of the result.
    pub dropout: Option<DropoutSite>,
}

/// `dx = f'(x) * dropout_mask * dout`, all in the element type of `x`; the mask is drawn again, not stored.
#[derive(Clone, Debug, PartialEq)]
pub struct ActivationGrad {
    /// Pre-activation, as in the forward op.
    pub x: TensorId, // [R, d]
    /// Gradient of the result.
    pub dout: TensorId, // [R, d]
    /// Gradient of `x`, overwritten; may be `dout` itself.
    pub dx: TensorId, // [R, d]
    /// f.
    pub kind: ActivationKind,
    /// The forward op's dropout.
    pub dropout: Option<DropoutSite>,
}

/// Rough FLOPs of one activation, for rates only.
const FLOPS_PER_ELEMENT: u64 = 20;

impl Operation for Activation {
    const NAME: &'static str = "activation";
    fn reads(&self) -> Vec<TensorId> {
        let mut ids = vec![self.x];
        ids.extend(self.dropout.map(|d| d.key));
        ids
    }
    fn writes(&self) -> Vec<Target> {
        vec![Target::set(self.out)]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        t.expect_float("x", self.x)?;
        t.expect_dtype("out", self.out, t.get(self.x).dtype)?;
        t.expect_len("out", self.out, t.shape(self.x).len())?;
        DropoutSite::check(self.dropout, t, t.shape(self.x).rows())
    }
    fn flops(&self, t: &Tensors) -> u64 {
        FLOPS_PER_ELEMENT * t.shape(self.x).len() as u64
    }
}

impl Operation for ActivationGrad {
    const NAME: &'static str = "activation_grad";
    fn reads(&self) -> Vec<TensorId> {
        let mut ids = vec![self.x, self.dout];
        ids.extend(self.dropout.map(|d| d.key));
        ids
    }
    fn writes(&self) -> Vec<Target> {
        vec![Target::set(self.dx)]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let n = t.shape(self.x).len();
        let dtype = t.get(self.x).dtype;
        t.expect_float("x", self.x)?;
        t.expect_dtype("dout", self.dout, dtype)?;
        t.expect_dtype("dx", self.dx, dtype)?;
        t.expect_len("dout", self.dout, n)?;
        t.expect_len("dx", self.dx, n)?;
        DropoutSite::check(self.dropout, t, t.shape(self.x).rows())
    }
    fn flops(&self, t: &Tensors) -> u64 {
        2 * FLOPS_PER_ELEMENT * t.shape(self.x).len() as u64
    }
}
