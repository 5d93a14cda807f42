//! Layer normalisation with the residual sum and its dropout fused in (post-norm transformers).

use super::{DropoutSite, Operation, Target, Tensors};
use crate::Result;
use crate::tensor::TensorId;

/// `sum = dropout(x) + residual; out = (sum - mean) * rstd * gamma + beta`, statistics over the last dimension,
/// `rstd = 1 / sqrt(variance + eps)` with the population variance.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Branch output.
    pub x: TensorId, // [R, d]
    /// What is added to it.
    pub residual: Option<TensorId>, // [R, d]
    /// Dropout of `x` before the sum.
    pub dropout: Option<DropoutSite>,
    /// Scale.
    pub gamma: TensorId, // [d]
    /// Shift.
    pub beta: TensorId, // [d]
    /// Result.
    pub out: TensorId, // [R, d]
    /// The normalised sum's input, kept for the gradient; may be `x` itself.
    pub sum: Option<TensorId>, // [R, d]
    /// Mean of each row, kept for the gradient.
    pub mean: Option<TensorId>, // [R]
    /// Reciprocal standard deviation of each row, kept for the gradient.
    pub rstd: Option<TensorId>, // [R]
    /// Added to the variance.
    pub eps: f32,
}

/// Gradient of [`LayerNorm`]; `dsum` is the gradient of the residual, `dx = dropout_mask * dsum`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNormGrad {
    /// Gradient of the result.
    pub dout: TensorId, // [R, d]
    /// The kept sum.
    pub sum: TensorId, // [R, d]
    /// The kept means.
    pub mean: TensorId, // [R]
    /// The kept reciprocal deviations.
    pub rstd: TensorId, // [R]
    /// Scale.
    pub gamma: TensorId, // [d]
    /// Gradient of the sum, overwritten; may be `dout` itself.
    pub dsum: TensorId, // [R, d]
    /// Gradient of `x`, overwritten; `None` where the op had no dropout, since then it equals `dsum`.
    pub dx: Option<TensorId>, // [R, d]
    /// The forward op's dropout.
    pub dropout: Option<DropoutSite>,
    /// Gradient of `gamma`; `None` for a frozen layer.
    pub dgamma: Option<Target>, // [d]
    /// Gradient of `beta`; `None` for a frozen layer.
    pub dbeta: Option<Target>, // [d]
}

impl Operation for LayerNorm {
    const NAME: &'static str = "layer_norm";
    fn reads(&self) -> Vec<TensorId> {
        let mut ids = vec![self.x, self.gamma, self.beta];
        ids.extend(self.residual);
        ids.extend(self.dropout.map(|d| d.key));
        ids
    }
    fn writes(&self) -> Vec<Target> {
        [Some(self.out), self.sum, self.mean, self.rstd].into_iter().flatten().map(Target::set).collect()
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let (d, n) = (t.shape(self.gamma).len(), t.shape(self.x).len());
        t.expect_float("x", self.x)?;
        t.expect("gamma", d > 0 && n.is_multiple_of(d), "a divisor of the size of x", d)?;
        t.expect_len("beta", self.beta, d)?;
        t.expect_len("out", self.out, n)?;
        for (what, id) in [("residual", self.residual), ("sum", self.sum)] {
            id.map_or(Ok(()), |id| t.expect_len(what, id, n))?;
        }
        for (what, id) in [("mean", self.mean), ("rstd", self.rstd)] {
            id.map_or(Ok(()), |id| t.expect_len(what, id, n / d))?;
        }
        t.expect("eps", self.eps >= 0.0, "0 or more", self.eps)?;
        DropoutSite::check(self.dropout, t, n / d)
    }
    fn flops(&self, t: &Tensors) -> u64 {
        8 * t.shape(self.x).len() as u64
    }
}

impl Operation for LayerNormGrad {
    const NAME: &'static str = "layer_norm_grad";
    fn reads(&self) -> Vec<TensorId> {
        let mut ids = vec![self.dout, self.sum, self.mean, self.rstd, self.gamma];
        ids.extend(self.dropout.map(|d| d.key));
        ids
    }
    fn writes(&self) -> Vec<Target> {
        let mut out = vec![Target::set(self.dsum)];
        out.extend(self.dx.map(Target::set));
        out.extend(self.dgamma.into_iter().chain(self.dbeta));
        out
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let (d, n) = (t.shape(self.gamma).len(), t.shape(self.dout).len());
        t.expect("gamma", d > 0 && n.is_multiple_of(d), "a divisor of the size of dout", d)?;
        t.expect_len("sum", self.sum, n)?;
        t.expect_len("mean", self.mean, n / d)?;
        t.expect_len("rstd", self.rstd, n / d)?;
        t.expect_len("dsum", self.dsum, n)?;
        self.dx.map_or(Ok(()), |id| t.expect_len("dx", id, n))?;
        t.expect("dx", self.dx.is_some() == self.dropout.is_some(), "dx exactly when there is dropout", "one alone")?;
        for (what, target) in [("dgamma", self.dgamma), ("dbeta", self.dbeta)] {
            target.map_or(Ok(()), |g| t.expect_len(what, g.id, d))?;
        }
        DropoutSite::check(self.dropout, t, n / d)
    }
    fn flops(&self, t: &Tensors) -> u64 {
        14 * t.shape(self.dout).len() as u64
    }
}
