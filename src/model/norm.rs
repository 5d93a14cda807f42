//! `LN(dropout(branch) + residual)`: the end of both halves of a layer.

use super::params::NormParams;
use super::transformer::Transformer;
use crate::Result;
use crate::op::{DropoutSite, LayerNorm, LayerNormGrad};
use crate::program::Builder;
use crate::tensor::TensorId;

/// What the backward pass needs.
pub(super) struct Saved {
    params: NormParams,
    dropout: Option<DropoutSite>,
    sum: TensorId,  // [R, d]
    mean: TensorId, // [R]
    rstd: TensorId, // [R]
}

/// Pushes the sum and its norm. `branch`, in the type of operands of products, is overwritten where that is the program's.
pub(super) fn forward(
    b: &mut Builder,
    net: &Transformer,
    name: &str,
    (branch, residual): (TensorId, TensorId), // [R, d]
    params: NormParams,
    dropout: Option<DropoutSite>,
) -> Result<(TensorId, Saved)> {
    let (shape, rows) = (b.shape(branch), b.shape(branch).rows());
    let out = b.activation(&format!("{name}_out"), shape);
    let rounded = b.operand_beside(out);
    let sum = if rounded.is_some() { b.activation(&format!("{name}_normed"), shape) } else { branch };
    let [mean, rstd] = ["mean", "rstd"].map(|part| b.activation(&format!("{name}_{part}"), [rows]));
    b.push(LayerNorm {
        x: branch,
        residual: Some(residual),
        dropout,
        gamma: params.gamma,
        beta: params.beta,
        out,
        rounded,
        sum: Some(sum),
        mean: Some(mean),
        rstd: Some(rstd),
        eps: net.options.layer_norm_eps,
    })?;
    b.set_operand(out, rounded);
    Ok((out, Saved { params, dropout, sum, mean, rstd }))
}

/// Pushes the gradients: `dout` becomes that of the residual; returns that of the branch, in the type of operands of
/// products.
pub(super) fn backward(b: &mut Builder, name: &str, saved: Saved, dout: TensorId) -> Result<TensorId> {
    let Saved { params, dropout, sum, mean, rstd } = saved;
    let dtype = b.products();
    let apart = dropout.is_some() || dtype != b.float();
    let dx = apart.then(|| b.activation_in(name, b.shape(dout), dtype)); // [R, d]
    let (dgamma, dbeta) = (b.grad(params.gamma), b.grad(params.beta));
    b.push(LayerNormGrad { dout, sum, mean, rstd, gamma: params.gamma, dsum: dout, dx, dropout, dgamma, dbeta })?;
    Ok(dx.unwrap_or(dout))
}
