//! Recurrence: `concat(memory, input[:reuse_len])[-mem_len:]` of every layer, without gradient.

use super::transformer::{Inputs, TransformerOptions};
use crate::op::{CopyBlocks, MixRows, Target};
use crate::program::Builder;
use crate::tensor::TensorId;
use crate::{Error, Result};

/// Copies `count` positions of every batch row from position `from` of `src` to position `to` of `dst`.
pub(super) fn copy_positions(
    b: &mut Builder,
    (src, from): (TensorId, usize),
    (dst, to): (Target, usize),
    batch: usize,
    count: usize,
) -> Result<()> {
    let row = |b: &Builder, id: TensorId| b.shape(id).len() / batch;
    let d = b.shape(src).last();
    b.push(CopyBlocks {
        src,
        src_offset: from * d,
        src_stride: row(b, src),
        dst,
        dst_offset: to * d,
        dst_stride: row(b, dst.id),
        blocks: batch,
        length: count * d,
    })
}

/// Pushes the memory of the next segment, given this one's and the layer's input.
pub(super) fn forward(
    b: &mut Builder,
    options: &TransformerOptions,
    inputs: &Inputs,
    layer: usize,
    x: TensorId, // [B*L, d]
) -> Result<TensorId> {
    let old = inputs.memory.get(layer).copied(); // [B, M, d]
    let (batch, d) = (options.batch, b.shape(x).last());
    let cached = options.reuse_len.filter(|&r| r > 0).unwrap_or(options.length).min(options.length);
    let take = cached.min(options.mem_len);
    let total = options.new_memory();
    let keep = total - take;
    let new = b.activation("new_memory", [batch, total, d]); // [B, M', d]
    if let Some(old) = old
        && keep > 0
    {
        copy_positions(b, (old, options.memory - keep), (Target::set(new), 0), batch, keep)?;
    }
    let x = match (inputs.forgotten, inputs.nothing) {
        (Some(weight), Some(row)) => {
            let out = b.activation("remembered", b.shape(x)); // [B*L, d]
            let weight = b.reshape(weight, [options.content_rows()])?;
            b.push(MixRows { x: Some(x), row, weight: Some(weight), out })?;
            out
        }
        _ => x,
    };
    copy_positions(b, (x, cached - take), (Target::set(new), keep), batch, take)?;
    Ok(new)
}

/// Pushes the copy of the new memory over the old one.
pub(super) fn commit(b: &mut Builder, new: TensorId, old: TensorId) -> Result<()> {
    let (from, to) = (b.shape(new), b.shape(old));
    if from != to {
        let what = "memories grow in this step; start them at their full length mem_len, as zeros";
        return Err(Error::plan(format!("{what} (here {from} would replace {to})")));
    }
    let length = from.len();
    let dst = Target::set(old);
    b.push(CopyBlocks { src: new, src_offset: 0, src_stride: 0, dst, dst_offset: 0, dst_stride: 0, blocks: 1, length })
}
