//! `LN(dropout(dropout(act(x W1 + b1)) W2 + b2) + x)`, all rows of both streams at once. What lies between the two products is
//! in the type of their operands.

use super::norm;
use super::transformer::{Transformer, site};
use crate::Result;
use crate::op::{Activation, ActivationGrad, Target};
use crate::program::Builder;
use crate::tensor::TensorId;

/// What the backward pass needs; the activation itself is computed again.
pub(super) struct Saved {
    x: TensorId,   // [R, d]
    pre: TensorId, // [R, I]
    norm: norm::Saved,
}

/// Pushes the layer's second half.
pub(super) fn forward(b: &mut Builder, net: &Transformer, layer: usize, x: TensorId) -> Result<(TensorId, Saved)> {
    let p = &net.params.layers[layer];
    let products = b.products();
    let pre = p.ff_1.forward_in(b, "ff_pre", x, products)?; // [R, I]
    let act = activation(b, net, layer, pre)?;
    let branch = p.ff_2.forward_in(b, "ff_sum", act, products)?; // [R, d]
    let dropout = net.dropout(site::layer(layer, site::FF_OUTPUT), layer);
    let (out, norm) = norm::forward(b, net, "ff", (branch, x), p.ff_norm, dropout)?;
    Ok((out, Saved { x, pre, norm }))
}

fn activation(b: &mut Builder, net: &Transformer, layer: usize, pre: TensorId) -> Result<TensorId> {
    let act = b.activation_in("ff_act", b.shape(pre), b.desc(pre).dtype); // [R, I]
    let dropout = net.dropout(site::layer(layer, site::FF_HIDDEN), layer);
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
    let dx = dout; // the residual's gradient, to which the branch's is added
    let dy = norm::backward(b, "d_ff_sum", saved.norm, dout)?; // [R, d]
    let act = activation(b, net, layer, saved.pre)?;
    let products = b.products();
    let dpre = p.ff_2.backward_in(b, "d_ff_pre", act, dy, products)?; // [R, I]
    let dropout = net.dropout(site::layer(layer, site::FF_HIDDEN), layer);
    let kind = net.config.ff_activation.kind();
    b.push(ActivationGrad { x: saved.pre, dout: dpre, dx: dpre, kind, dropout })?;
    p.ff_1.backward_weight(b, saved.x, dpre)?;
    p.ff_1.backward_input(b, dpre, Target::add(dx))?;
    Ok(dx)
}
