//! Layer normalisation with the residual sum and its dropout fused in (post-norm transformers).

use super::{DropoutSite, Operation, Target, Tensors};
use crate::Result;
use crate::tensor::TensorId;

/// `sum = dropout(x) + residual; out = (sum - mean) * rstd * gamma + beta`, statistics over the last dimension,
/// `rstd = 1 / sqrt(variance + eps)` with the population variance. `x` may be in half precision; then `out` is given in it too.
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
    /// Result in half precision; given exactly when `x` is in half precision, the same.
    pub rounded: Option<TensorId>, // [R, d]
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
    /// Gradient of `x`, overwritten, maybe in half precision; `None` where it would equal `dsum`.
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
        [Some(self.out), self.rounded, self.sum, self.mean, self.rstd].into_iter().flatten().map(Target::set).collect()
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let (d, n) = (t.shape(self.gamma).len(), t.shape(self.x).len());
        t.expect_float("x", self.x)?;
        t.expect("gamma", d > 0 && n.is_multiple_of(d), "a divisor of the size of x", d)?;
        t.expect_len("beta", self.beta, d)?;
        t.expect_len("out", self.out, n)?;
        let dtype = t.get(self.x).dtype;
        let same = self.rounded.map_or(!dtype.is_half(), |id| dtype.is_half() && t.get(id).dtype == dtype);
        t.expect("rounded", same, "out in half precision exactly when x is in it", dtype)?;
        for (what, id) in [("residual", self.residual), ("sum", self.sum), ("rounded", self.rounded)] {
            id.map_or(Ok(()), |id| t.expect_len(what, id, n))?;
        }
        let wide = [Some(self.out), self.residual, self.sum, self.mean, self.rstd, Some(self.gamma), Some(self.beta)];
        if let Some(id) = wide.into_iter().flatten().find(|id| t.get(*id).dtype.is_half()) {
            t.expect(&t.get(id).name, false, "the program's type", t.get(id).dtype)?;
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
        let wide = [self.dout, self.sum, self.mean, self.rstd, self.gamma, self.dsum];
        if let Some(id) = wide.into_iter().find(|id| t.get(*id).dtype.is_half()) {
            t.expect(&t.get(id).name, false, "the program's type", t.get(id).dtype)?;
        }
        let half = self.dx.is_some_and(|id| t.get(id).dtype.is_half());
        let apart = self.dropout.is_some() || half;
        t.expect("dx", self.dx.is_some() == apart, "dx exactly when there is dropout or half precision", "one alone")?;
        for (what, target) in [("dgamma", self.dgamma), ("dbeta", self.dbeta)] {
            target.map_or(Ok(()), |g| t.expect_len(what, g.id, d))?;
        }
        DropoutSite::check(self.dropout, t, n / d)
    }
    fn flops(&self, t: &Tensors) -> u64 {
        14 * t.shape(self.dout).len() as u64
    }
}
