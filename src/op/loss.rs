//! Softmax and losses. A loss op gives loss and gradient in one pass, so that logits can be overwritten by their
//! gradient and a big vocabulary can be worked through in chunks of rows.
//!
//! Every loss is `sum over r of weights[r] * loss_r`; the host chooses weights that add up to 1 over the whole batch,
//! micro-batches included, so gradient accumulation has exactly the loss of the big batch.

use super::{Operation, Target, Tensors};
use crate::Result;
use crate::tensor::{DType, TensorId};

/// `out = softmax(x (1 - hidden) - 1e30 hidden)` over the last dimension, or its logarithm.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// Logits.
    pub x: TensorId, // [R, C]
    /// 1 where a column is barred.
    pub hidden: Option<TensorId>, // [R, C]
    /// Probabilities or log-probabilities; may be `x` itself.
    pub out: TensorId, // [R, C]
    /// Logarithm wanted.
    pub log: bool,
}

/// `dx (=|+=) (1 - hidden) * y * (dy - sum over c of y dy)`: gradient of [`Softmax`] without logarithm.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftmaxGrad {
    /// The probabilities.
    pub y: TensorId, // [R, C]
    /// Their gradient.
    pub dy: TensorId, // [R, C]
    /// The forward op's barred columns.
    pub hidden: Option<TensorId>, // [R, C]
    /// Gradient of the logits.
    pub dx: Target, // [R, C]
}

/// `loss (=|+=) sum over r of weights[r] * -log softmax(logits[r])[labels[r]]`,
/// `dlogits = weights[r] * (softmax - onehot) * (1 - hidden)`.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftmaxCrossEntropy {
    /// Logits.
    pub logits: TensorId, // [R, C]
    /// 1 where a column is barred, as in [`Softmax`].
    pub hidden: Option<TensorId>, // [R, C]
    /// Class of each row; rows of weight 0 may hold any class in range.
    pub labels: TensorId, // [R] i32
    /// Weight of each row.
    pub weights: TensorId, // [R]
    /// Weighted sum.
    pub loss: Target, // [1]
    /// Unweighted loss of each row.
    pub row_loss: Option<TensorId>, // [R]
    /// Gradient of the logits, overwritten; may be `logits` itself.
    pub dlogits: Option<TensorId>, // [R, C]
}

/// A loss of single numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementLossKind {
    /// `(x - label)^2`.
    SquaredError,
    /// `max(x, 0) - x label + log(1 + exp(-|x|))`: cross entropy of a sigmoid.
    SigmoidCrossEntropy,
}

/// `loss (=|+=) sum over r of weights[r] * f(x[r], labels[r])` and its gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct ElementLoss {
    /// f.
    pub kind: ElementLossKind,
    /// Predictions.
    pub x: TensorId, // [R]
    /// Wanted values.
    pub labels: TensorId, // [R]
    /// Weight of each row.
    pub weights: TensorId, // [R]
    /// Weighted sum.
    pub loss: Target, // [1]
    /// Unweighted loss of each row.
    pub row_loss: Option<TensorId>, // [R]
    /// Gradient of `x`, overwritten.
    pub dx: Option<TensorId>, // [R]
}

impl Operation for Softmax {
    const NAME: &'static str = "softmax";
    fn reads(&self) -> Vec<TensorId> {
        [Some(self.x), self.hidden].into_iter().flatten().collect()
    }
    fn writes(&self) -> Vec<Target> {
        vec![Target::set(self.out)]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let n = t.shape(self.x).len();
        t.expect_float("x", self.x)?;
        t.expect_len("out", self.out, n)?;
        self.hidden.map_or(Ok(()), |h| t.expect_len("hidden", h, n))
    }
    fn flops(&self, t: &Tensors) -> u64 {
        20 * t.shape(self.x).len() as u64
    }
}

impl Operation for SoftmaxGrad {
    const NAME: &'static str = "softmax_grad";
    fn reads(&self) -> Vec<TensorId> {
        [Some(self.y), Some(self.dy), self.hidden].into_iter().flatten().collect()
    }
    fn writes(&self) -> Vec<Target> {
        vec![self.dx]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let n = t.shape(self.y).len();
        t.expect_float("y", self.y)?;
        t.expect_len("dy", self.dy, n)?;
        t.expect_len("dx", self.dx.id, n)?;
        self.hidden.map_or(Ok(()), |h| t.expect_len("hidden", h, n))
    }
    fn flops(&self, t: &Tensors) -> u64 {
        4 * t.shape(self.y).len() as u64
    }
}

impl Operation for SoftmaxCrossEntropy {
    const NAME: &'static str = "softmax_cross_entropy";
    fn reads(&self) -> Vec<TensorId> {
        [Some(self.logits), self.hidden, Some(self.labels), Some(self.weights)].into_iter().flatten().collect()
    }
    fn writes(&self) -> Vec<Target> {
        let mut out = vec![self.loss];
        out.extend([self.row_loss, self.dlogits].into_iter().flatten().map(Target::set));
        out
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let (n, r) = (t.shape(self.logits).len(), t.shape(self.labels).len());
        t.expect_float("logits", self.logits)?;
        t.expect_dtype("labels", self.labels, DType::I32)?;
        t.expect("labels", r > 0 && n == r * t.shape(self.logits).last(), "one label a row of logits", r)?;
        t.expect_len("weights", self.weights, r)?;
        t.expect_len("loss", self.loss.id, 1)?;
        self.row_loss.map_or(Ok(()), |id| t.expect_len("row_loss", id, r))?;
        self.hidden.map_or(Ok(()), |id| t.expect_len("hidden", id, n))?;
        self.dlogits.map_or(Ok(()), |id| t.expect_len("dlogits", id, n))
    }
    fn flops(&self, t: &Tensors) -> u64 {
        24 * t.shape(self.logits).len() as u64
    }
}

impl Operation for ElementLoss {
    const NAME: &'static str = "element_loss";
    fn reads(&self) -> Vec<TensorId> {
        vec![self.x, self.labels, self.weights]
    }
    fn writes(&self) -> Vec<Target> {
        let mut out = vec![self.loss];
        out.extend([self.row_loss, self.dx].into_iter().flatten().map(Target::set));
        out
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let r = t.shape(self.x).len();
        t.expect_float("x", self.x)?;
        t.expect_float("labels", self.labels)?;
        t.expect_len("labels", self.labels, r)?;
        t.expect_len("weights", self.weights, r)?;
        t.expect_len("loss", self.loss.id, 1)?;
        self.row_loss.map_or(Ok(()), |id| t.expect_len("row_loss", id, r))?;
        self.dx.map_or(Ok(()), |id| t.expect_len("dx", id, r))
    }
    fn flops(&self, t: &Tensors) -> u64 {
        10 * t.shape(self.x).len() as u64
    }
}
