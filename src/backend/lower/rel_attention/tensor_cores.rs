//! The tensor-core kernels of PTX: halves, heads of 64 elements, cards from A100 on. Blocks own 64 rows, keys or rows of r.
//!
//! Backward finds the score gradients ds once, for some batch rows at a time: `rel_attention_mma_grad_keys` writes them to
//! scratch and sums dk and dv, then `rel_attention_mma_grad` sums dq and `rel_attention_mma_grad_positions` dr, in f32 and in
//! splits of the batch rows, which `rel_attention_mma_grad_positions_sum` adds at the end. As many batch rows are taken as
//! keep a card busy.
//!
//! On Hopper (compute capability 9.0) products of a whole warp group, `wgmma`, take the place of those of a warp where they
//! are many: in the forward kernel and in that of the keys, of the content stream.

use super::{Attention, Stream};
use crate::backend::lower::{AMPERE, Context, FILL, Launch, Slice};
use crate::kernel::Variant;
use crate::kernel::params::{self, size};
use crate::op::{HALF_HEAD_DIM, RelAttention, RelAttentionGrad};
use crate::{Error, Result};

/// Rows, keys or rows of r that a block owns.
const TILE: usize = 64;
/// Threads of a block.
const WG: u32 = 128;
/// Rows of a block where eight lanes own one.
const EIGHTS: usize = WG as usize / 8;
/// Hopper, whose warp-group instructions are its own.
const HOPPER: (u32, u32) = (9, 0);

/// Whether the kernels here serve `op`, which is in half precision; those for all cards and heads take f16 too, in f32.
///
/// # Errors
/// When neither do: names op, layer, and what is missing.
pub fn serve(op: &RelAttention, c: &Context) -> Result<bool> {
    let (place, dtype) = (&c.place, c.desc(op.k).dtype);
    let serves = op.head_dim == HALF_HEAD_DIM;
    if c.half(op.k)? == "f16" {
        return Ok(serves && c.caps.capability >= AMPERE);
    }
    if !serves {
        return Err(Error::device(format!(
            "{place}: relative attention in {dtype} has kernels for heads of {HALF_HEAD_DIM} elements, not of {}; build the \
             program in f16 or in f32",
            op.head_dim
        )));
    }
    Ok(true)
}

/// Batch rows whose ds is in scratch at once, where `fill` blocks keep the card busy.
fn batches(op: &RelAttention, rows: usize, fill: usize) -> usize {
    let tiles = rows.min(op.keys()).div_ceil(TILE);
    fill.div_ceil(op.heads * tiles).clamp(1, op.batch)
}

/// Halves of ds for each row of a head.
fn pairs_of_row(op: &RelAttention) -> usize {
    op.keys().next_multiple_of(TILE)
}

/// Most words of scratch for ds of a stream of `rows` rows.
pub fn pairs_words(op: &RelAttention, rows: usize) -> usize {
    batches(op, rows, FILL) * op.heads * rows * pairs_of_row(op) / 2
}

/// Splits of the sums of dr, so that their blocks keep a card busy.
pub fn splits(op: &RelAttention) -> usize {
    let blocks = op.groups * op.heads * op.positions().div_ceil(TILE);
    FILL.div_ceil(blocks.max(1)).clamp(1, op.batch.max(1))
}

/// Words of scratch for the sums of dr.
pub fn position_words(op: &RelAttention) -> usize {
    if op.relative.is_some() { splits(op) * op.groups * op.positions() * op.heads * op.head_dim } else { 0 }
}

impl Attention<'_> {
    fn mma(
        &self,
        variant: Variant,
        params: &params::RelAttention,
        buffers: &[Option<Slice>],
        blocks: usize,
    ) -> Result<Launch> {
        let variant = variant.int("d", HALF_HEAD_DIM as u32).int("wg", WG);
        if let Some(odd) = buffers.iter().flatten().find(|slice| slice.element == 2 && !slice.offset.is_multiple_of(16))
        {
            let (place, offset) = (&self.c.place, odd.offset);
            return Err(Error::plan(format!(
                "{place}: kernel {variant} takes tensors at multiples of 16 bytes, but one lies at byte {offset}"
            )));
        }
        self.c.launch_slices(variant, params, buffers, self.c.flat(blocks, 1)?)
    }
    fn tiles(&self, template: &'static str, dtype: &'static str, stream: &Stream) -> Variant {
        Variant::new(template).name("dtype", dtype).name("relative", self.relative(stream))
    }
    /// `warp_group` where it serves this stream, else `warp`.
    fn products(&self, warp: &'static str, warp_group: &'static str, stream: &Stream) -> &'static str {
        let serves = self.c.caps.capability == HOPPER && stream.positions.is_none();
        if serves { warp_group } else { warp }
    }

    /// The forward launch of a stream.
    pub(super) fn forward_mma(
        &self,
        dtype: &'static str,
        stream: &Stream,
        params: &params::RelAttention,
        buffers: &[Option<Slice>],
    ) -> Result<Launch> {
        let blocks = self.op.batch * self.op.heads * stream.rows.div_ceil(TILE);
        let template = self.products("rel_attention_mma", "rel_attention_wgmma", stream);
        self.mma(self.tiles(template, dtype, stream), params, buffers, blocks)
    }

    /// Scores of the segment term of a stream; `buffers` are q, s_bias, seg_embed and the scratch.
    pub(super) fn segments_mma(
        &self,
        dtype: &'static str,
        stream: &Stream,
        params: &params::RelAttention,
        buffers: &[Option<Slice>],
    ) -> Result<Launch> {
        let rows = self.op.batch * self.op.heads * stream.rows;
        let variant = Variant::new("rel_attention_mma_segments").name("dtype", dtype);
        self.mma(variant, params, buffers, rows.div_ceil(EIGHTS))
    }

    /// The backward launches of a stream, one of `all`; `params` are those of the whole stream.
    pub(super) fn backward_mma(
        &self,
        dtype: &'static str,
        grad: &RelAttentionGrad,
        (stream, all): (&Stream, &[Stream]),
        params: params::RelAttention,
        launches: &mut Vec<Launch>,
    ) -> Result<()> {
        let (op, c, work) = (self.op, self.c, Some(self.work));
        let Some((dout, dq)) = stream.grads else { return Ok(()) };
        let [q, dout, dq, lse, out] = [stream.q, dout, dq, stream.lse, stream.out].map(|id| self.slice(id));
        let [k, dk, dv] = [op.k, grad.dk, grad.dv].map(|id| self.slice(id));
        let (r, seg_embed) =
            (op.relative.and_then(|r| self.slice(r.r)), op.segment.and_then(|s| self.slice(s.seg_embed)));
        let rows = op.batch * op.heads * stream.rows;
        let variant = Variant::new("rel_attention_mma_deltas").name("dtype", dtype);
        launches.push(self.mma(variant, &params, &[dout, out, work], rows.div_ceil(EIGHTS))?);

        let part = batches(op, stream.rows, c.caps.fill.min(FILL));
        for first in (0..op.batch).step_by(part) {
            let batches = part.min(op.batch - first);
            let (first_batch, slab) = (size(first)?, size(self.layout.slab)?);
            let params = params::RelAttention { first_batch, batches: size(batches)?, slab, ..params };
            let words = batches * op.heads * stream.rows * pairs_of_row(op) / 2;
            let pairs = Some(Slice { element: 2, ..c.scratch(self.layout.pairs, words)? });
            let blocks = |length: usize| batches * op.heads * length.div_ceil(TILE);

            let mut buffers = self.inputs(stream);
            buffers.extend([self.key(), dout, lse, work, pairs, dk, dv]);
            let template = self.products("rel_attention_mma_grad_keys", "rel_attention_wgmma_grad_keys", stream);
            let variant = self.tiles(template, dtype, stream);
            launches.push(self.mma(variant, &params, &buffers, blocks(op.keys()))?);

            let variant = self.tiles("rel_attention_mma_grad", dtype, stream);
            launches.push(self.mma(variant, &params, &[k, r, seg_embed, work, pairs, dq], blocks(stream.rows))?);

            let (Some(terms), Some(relative)) = (&op.relative, &grad.relative) else { continue };
            let accumulate = u32::from(params.accumulate == 1 || first > 0);
            let splits = splits(op);
            let params = params::RelAttention { accumulate, splits: size(splits)?, ..params };
            let [w_bias, r_bias, dr] = [terms.w_bias, terms.r_bias, relative.dr].map(|id| self.slice(id));
            let variant = self.tiles("rel_attention_mma_grad_positions", dtype, stream);
            let blocks = op.groups * op.heads * op.positions().div_ceil(TILE);
            launches.push(self.mma(variant, &params, &[q, w_bias, r_bias, work, pairs], splits * blocks)?);
            if first + batches == op.batch && all.last().is_some_and(|last| last.q == stream.q) {
                let variant = Variant::new("rel_attention_mma_grad_positions_sum").name("dtype", dtype);
                let pairs = op.groups * op.positions() * op.heads * op.head_dim / 2;
                launches.push(self.mma(variant, &params, &[work, dr], pairs.div_ceil(WG as usize))?);
            }
        }
        Ok(())
    }
}
