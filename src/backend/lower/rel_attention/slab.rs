//! The tiled kernels of WGSL: work groups own 32 rows or keys, and backward finds the score gradients ds once, for a slab
//! of rows at a time, small enough to stay in a GPU's cache: `rel_attention_grad` writes them to scratch and sums dk and
//! dv, then `rel_attention_grad_rows` sums dq and `rel_attention_grad_positions` dr.
//!
//! With T pairs of row and key, backward takes 16 T D operations instead of the 28 T D of three kernels that each find ds.

use super::{Attention, Stream, WG};
use crate::Result;
use crate::backend::lower::movement::cast_slice;
use crate::backend::lower::{Launch, Slice};
use crate::kernel::Variant;
use crate::kernel::params::{self, size};
use crate::op::{RelAttention, RelAttentionGrad};
use crate::tensor::TensorId;

/// Rows, keys or rows of r that a work group owns.
const TILE: usize = 32;
/// Most words of a slab, unless a single tile of rows needs more.
const SLAB_WORDS: usize = 16 << 20; // 64 MiB

/// Work group memory of the forward kernel: operands of a step, probabilities, partial sums, decisions, rows.
pub const FORWARD_BYTES: usize = 16 * (795 + 288 + 64) + 4 * (128 + 32);
/// Work group memory of the largest backward kernel, which has the gradient's operands and two tiles.
pub const BACKWARD_BYTES: usize = 16 * (1115 + 2 * 288 + 64) + 4 * (128 + 3 * 32);

/// A part of the batch and of a stream's rows.
#[derive(Clone, Copy, Debug)]
pub struct Slab {
    batches: usize,
    rows: usize,      // a multiple of TILE
    key_tiles: usize, // of TILE keys
    heads: usize,
}

impl Slab {
    /// As many rows of all batch rows as fit, else one tile of rows of as many batch rows as fit.
    pub fn new(op: &RelAttention, rows: usize) -> Self {
        let (heads, key_tiles) = (op.heads, op.keys().div_ceil(TILE));
        let one = Slab { batches: 1, rows: TILE, key_tiles, heads };
        let fit = (SLAB_WORDS / one.words()).max(1);
        if fit < op.batch {
            return Slab { batches: fit, ..one };
        }
        let tiles = rows.div_ceil(TILE).min(fit / op.batch);
        Slab { batches: op.batch, rows: TILE * tiles, ..one }
    }
    /// Words of ds.
    fn pairs(&self) -> usize {
        self.batches * self.heads * self.rows * self.key_tiles * TILE
    }
    /// Words in all: a sum beside each 32 of ds.
    pub fn words(&self) -> usize {
        self.pairs() + self.pairs() / TILE
    }
}

impl Attention<'_> {
    /// Four elements at once where every head of every operand begins at a multiple of four.
    fn vec(&self, stream: &Stream, grad: Option<&RelAttentionGrad>) -> bool {
        let op = self.op;
        let mut ids = vec![op.k, op.v, stream.q, stream.out];
        ids.extend(op.relative.iter().flat_map(|r| [r.r, r.w_bias, r.r_bias]));
        ids.extend(op.segment.map(|s| s.seg_embed));
        ids.extend(stream.grads.iter().flat_map(|&(dout, dq)| [dout, dq]));
        ids.extend(grad.iter().flat_map(|g| [g.dk, g.dv]));
        ids.extend(grad.and_then(|g| g.relative).map(|r| r.dr));
        op.head_dim.is_multiple_of(4) && ids.iter().all(|&id| self.c.first(id).is_multiple_of(4))
    }

    /// A template with keys; `streamed` ones know how rows of the stream find their rows of r.
    fn variant(&self, template: &'static str, params: &params::RelAttention, streamed: bool, vec: bool) -> Variant {
        let mut variant = Variant::new(template).name("dtype", self.dtype);
        if streamed {
            // Rows of the content stream lie in order, so that their rows of r are a band.
            let streams = if params.query == 1 { "rows" } else { "band" };
            variant = variant.name("relative", if self.op.relative.is_some() { streams } else { "none" });
        }
        variant.flag("vec", vec).int("columns", self.columns).int("wg", WG)
    }

    /// The forward launch of a stream.
    pub(super) fn forward(
        &self,
        stream: &Stream,
        params: &params::RelAttention,
        buffers: &[Option<Slice>],
    ) -> Result<Launch> {
        let tiles = self.op.batch * self.op.heads * stream.rows.div_ceil(TILE);
        let variant = self.variant("rel_attention", params, true, self.vec(stream, None));
        self.c.launch_slices(variant, params, buffers, self.c.flat(tiles, 1)?)
    }

    /// Tensors that are sums over slabs and streams: dk, dv, dr.
    fn summed(grad: &RelAttentionGrad) -> [Option<TensorId>; 3] {
        [Some(grad.dk), Some(grad.dv), grad.relative.map(|r| r.dr)]
    }

    /// Where [`Self::summed`] are added up, in f32: in place, or with halves in scratch.
    fn sums(&self, grad: &RelAttentionGrad) -> Result<[Option<Slice>; 3]> {
        let mut slices = [None; 3];
        for ((slice, id), first) in slices.iter_mut().zip(Self::summed(grad)).zip(self.layout.sums) {
            let Some(id) = id else { continue };
            *slice = match self.dtype {
                "f32" => self.slice(id),
                _ => Some(self.c.scratch(first, self.c.len(id))?),
            };
        }
        Ok(slices)
    }

    /// Rounds them at the end, once.
    pub(super) fn round(&self, grad: &RelAttentionGrad, launches: &mut Vec<Launch>) -> Result<()> {
        if self.dtype == "f32" {
            return Ok(());
        }
        for (id, sums) in Self::summed(grad).into_iter().zip(self.sums(grad)?) {
            let (Some(id), Some(sums)) = (id, sums) else { continue };
            launches.push(cast_slice(sums, id, self.c)?);
        }
        Ok(())
    }

    /// The backward launches of a stream, slab by slab; `params` are those of the whole stream.
    pub(super) fn backward(
        &self,
        grad: &RelAttentionGrad,
        stream: &Stream,
        params: params::RelAttention,
        launches: &mut Vec<Launch>,
    ) -> Result<()> {
        let (op, c, work) = (self.op, self.c, Some(self.work));
        let Some((dout, dq)) = stream.grads else { return Ok(()) };
        let [dout, dq, lse, out] = [dout, dq, stream.lse, stream.out].map(|id| self.slice(id));
        let [dk, dv, dr] = self.sums(grad)?;
        let variant = Variant::new("rel_attention_grad_deltas").name("dtype", self.dtype).int("wg", WG);
        let rows = op.batch * op.heads * stream.rows;
        launches.push(c.launch_slices(variant, &params, &[dout, out, work], c.flat(rows, WG as usize)?)?);

        let (slab, vec) = (Slab::new(op, stream.rows), self.vec(stream, Some(grad)));
        for first_batch in (0..op.batch).step_by(slab.batches) {
            for first_row in (0..stream.rows).step_by(slab.rows) {
                let batches = slab.batches.min(op.batch - first_batch);
                let params = params::RelAttention {
                    first_batch: size(first_batch)?,
                    batches: size(batches)?,
                    first_row: size(first_row)?,
                    slab_rows: size(slab.rows)?,
                    slab: size(self.layout.slab)?,
                    others: size(self.layout.slab + slab.pairs())?,
                    accumulate: u32::from(params.accumulate == 1 || first_row > 0),
                    ..params
                };
                let mut buffers = self.inputs(stream);
                buffers.extend([self.key(), dout, lse, work, dk, dv]);
                let variant = self.variant("rel_attention_grad", &params, true, vec);
                let grid = c.flat(batches * op.heads * slab.key_tiles, 1)?;
                launches.push(c.launch_slices(variant, &params, &buffers, grid)?);

                let r = op.relative.and_then(|r| self.slice(r.r));
                let seg_embed = op.segment.and_then(|s| self.slice(s.seg_embed));
                let (k, buffers) = (self.slice(op.k), [r, seg_embed, work, dq]);
                let buffers: Vec<_> = [k].into_iter().chain(buffers).collect();
                let variant = self.variant("rel_attention_grad_rows", &params, true, vec);
                let grid = c.flat(batches * op.heads * slab.rows / TILE, 1)?;
                launches.push(c.launch_slices(variant, &params, &buffers, grid)?);

                let (Some(terms), Some(_)) = (&op.relative, dr) else { continue };
                let accumulate = u32::from(params.accumulate == 1 || first_batch > 0);
                let params = params::RelAttention { accumulate, ..params };
                let buffers = [stream.q, terms.r_bias].map(|id| self.slice(id));
                let buffers = [buffers[0], buffers[1], work, dr];
                let variant = self.variant("rel_attention_grad_positions", &params, false, vec);
                let grid = c.flat(op.groups * op.heads * op.positions().div_ceil(TILE), 1)?;
                launches.push(c.launch_slices(variant, &params, &buffers, grid)?);
            }
        }
        Ok(())
    }
}
