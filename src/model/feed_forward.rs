//! `LN(dropout(dropout(act(x W1 + b1)) W2 + b2) + x)`, all rows of both streams at once. What lies between the two products is
//! in the type of their operands.

use super::transformer::{Transformer, site};
use crate::Result;
use crate::op::{Activation, ActivationGrad, LayerNorm, LayerNormGrad, Target};
use crate::program::Builder;
use crate::tensor::TensorId;

/// What the backward pass needs; the activation itself is computed again.
pub(super) struct Saved {
    x: TensorId,    // [R, d]
    pre: TensorId,  // [R, I]
    sum: TensorId,  // [R, d]
    mean: TensorId, // [R]
    rstd: TensorId, // [R]
}

/// Pushes the layer's second half.
pub(super) fn forward(b: &mut Builder, net: &Transformer, layer: usize, x: TensorId) -> Result<(TensorId, Saved)> {
    let p = &net.params.layers[layer];
    let rate = net.options.dropout;
    let products = b.products();
    let pre = p.ff_1.forward_in(b, "ff_pre", x, products)?; // [R, I]
    let act = activation(b, net, layer, pre)?;
    let sum = p.ff_2.forward(b, "ff_sum", act)?; // [R, d]
    let rows = b.shape(sum).rows();
    let (out, mean, rstd) =
        (b.activation("ff_out", b.shape(sum)), b.activation("ff_mean", [rows]), b.activation("ff_rstd", [rows]));
    b.push(LayerNorm {
        x: sum,
        residual: Some(x),
        dropout: net.dropout(site::layer(layer, site::FF_OUTPUT), rate),
        gamma: p.ff_norm.gamma,
        beta: p.ff_norm.beta,
        out,
        sum: Some(sum),
        mean: Some(mean),
        rstd: Some(rstd),
        eps: net.options.layer_norm_eps,
    })?;
    Ok((out, Saved { x, pre, sum, mean, rstd }))
}

fn activation(b: &mut Builder, net: &Transformer, layer: usize, pre: TensorId) -> Result<TensorId> {
    let act = b.activation_in("ff_act", b.shape(pre), b.desc(pre).dtype); // [R, I]
    let dropout = net.dropout(site::layer(layer, site::FF_HIDDEN), net.options.dropout);
    b.push(Activation { x: pre, out: act, kind: net.config.ff_activation.kind(), dropout })?;
    Ok(act)
}

/// Pushes the gradients; returns the gradient of the layer half's input. `dout` is overwritten.
pub(super) fn backward(
    b: &mut Builder,
    net: &Transformer,
    layer: usize,
    saved: Saved,
    dout: TensorId,
) -> Result<TensorId> {
    let p = &net.params.layers[layer];
    let dropout = net.dropout(site::layer(layer, site::FF_OUTPUT), net.options.dropout);
    let dx = dout; // the residual's gradient, to which the branch's is added
    let dy = dropout.map(|_| b.activation("d_ff_sum", b.shape(dout))); // [R, d]
    let (dgamma, dbeta) = (b.grad(p.ff_norm.gamma), b.grad(p.ff_norm.beta));
    b.push(LayerNormGrad {
        dout,
        sum: saved.sum,
        mean: saved.mean,
        rstd: saved.rstd,
        gamma: p.ff_norm.gamma,
        dsum: dx,
        dx: dy,
        dropout,
        dgamma,
        dbeta,
    })?;
    let dy = dy.unwrap_or(dx);
    let act = activation(b, net, layer, saved.pre)?;
    let products = b.products();
    let dpre = p.ff_2.backward_in(b, "d_ff_pre", act, dy, products)?; // [R, I]
    let dropout = net.dropout(site::layer(layer, site::FF_HIDDEN), net.options.dropout);
    let kind = net.config.ff_activation.kind();
    b.push(ActivationGrad { x: saved.pre, dout: dpre, dx: dpre, kind, dropout })?;
    p.ff_1.backward_weight(b, saved.x, dpre)?;
    p.ff_1.backward_input(b, dpre, Target::add(dx))?;
    Ok(dx)
}
