//! Relative attention, forward and backward, one stream after the other.
//!
//! Nothing of the size of the scores is stored: scratch holds two bits a pair of row and key, shared by all heads, and a few
//! numbers a row; backward in WGSL also a slab of score gradients (see [`slab`]), and so in half precision (see
//! [`tensor_cores`]). The gradient of what both streams share is written by the first and added to by the second.

mod slab;
mod tensor_cores;

use slab::Slab;

use super::{Context, Launch, Slice};
use crate::kernel::params::{self, Drop, size};
use crate::kernel::{Language, Variant};
use crate::op::{DropoutSite, Mask, RelAttention, RelAttentionGrad, SegmentTerms, Target, Write};
use crate::tensor::TensorId;
use crate::{Error, Result};

/// Invocations of every work group.
const WG: u32 = 64;
/// Rows, keys or rows of r that a work group of PTX owns.
const TILE: usize = 32;
/// Rows of a block in the sums of bias gradients.
const BLOCK: usize = 64;

/// One stream of the op.
#[derive(Clone, Copy)]
struct Stream {
    q: TensorId,                 // [B, rows, H, D]
    out: TensorId,               // [B, rows, H, D]
    lse: TensorId,               // [B, H, rows]
    positions: Option<TensorId>, // [B, rows]; None: row i stands at i
    rows: usize,
    dropout: Option<DropoutSite>,
    /// Of the result and of q; backward alone.
    grads: Option<(TensorId, TensorId)>,
}

/// The streams that there are, content first.
fn streams(op: &RelAttention, grad: Option<&RelAttentionGrad>) -> Vec<Stream> {
    let content = op.q.zip(op.out).zip(op.lse).map(|((q, out), lse)| {
        let grads = grad.and_then(|g| g.dout.zip(g.dq));
        Stream { q, out, lse, positions: None, rows: op.length, dropout: op.dropout, grads }
    });
    let query = op.query.as_ref().map(|s| Stream {
        q: s.q,
        out: s.out,
        lse: s.lse,
        positions: Some(s.positions),
        rows: op.targets,
        dropout: op.dropout.map(|d| DropoutSite { site: s.site, ..d }),
        grads: grad.and_then(|g| g.query).map(|g| (g.dout, g.dq)),
    });
    content.into_iter().chain(query).collect()
}

/// First words of the parts of scratch.
#[derive(Default)]
struct Layout {
    streams: Vec<Parts>,
    column_sums: usize,   // [B, H, N]
    position_sums: usize, // [G, H, P]
    bias_sums: usize,     // [blocks, H, D]
    slab: usize,          // score gradients of a slab, and sums beside them; with halves [G, P, H, D] sums of dr
    pairs: usize,         // with halves: score gradients of some batch rows
    words: usize,         // of all above
    sums: [usize; 3],     // with halves in WGSL: [B, N, H, D] dk, dv and [G, P, H, D] dr before they are rounded
    all: usize,
}

/// Of one stream.
#[derive(Clone, Copy, Default)]
struct Parts {
    starts: usize,   // [B, rows]
    hidden: usize,   // [B, rows, 2, ceil(N/32)]
    scores: usize,   // [B, H, rows, 2]
    deltas: usize,   // [B, H, rows]
    row_sums: usize, // [B, H, rows]
}

impl Layout {
    fn new(language: Language, op: &RelAttention, backward: bool, halves: bool) -> Self {
        let mut layout = Layout::default();
        let mut take = |words: usize| {
            let first = layout.words;
            layout.words += words;
            first
        };
        let (b, h) = (op.batch, op.heads);
        let rows: Vec<usize> = streams(op, None).iter().map(|s| s.rows).collect();
        let parts = rows.iter().map(|rows| Parts {
            starts: take(b * rows),
            hidden: take(b * rows * 2 * op.keys().div_ceil(32)),
            scores: take(if op.segment.is_some() { b * h * rows * 2 } else { 0 }),
            deltas: take(if backward { b * h * rows } else { 0 }),
            row_sums: take(if backward { b * h * rows } else { 0 }),
        });
        let parts: Vec<_> = parts.collect();
        if backward {
            let blocks = |rows: usize| rows.div_ceil(BLOCK);
            let of_streams: usize = rows.iter().map(|rows| blocks(b * rows)).sum();
            let most = of_streams.max(blocks(b * op.keys())).max(blocks(op.groups * op.positions()));
            let splits = if halves && language == Language::Ptx { tensor_cores::splits(op) } else { 1 };
            let (columns, positions) = (take(b * h * op.keys()), take(splits * op.groups * h * op.positions()));
            let sums = take(most * h * op.head_dim);
            (layout.column_sums, layout.position_sums, layout.bias_sums) = (columns, positions, sums);
            let most = |words: &dyn Fn(usize) -> usize| rows.iter().map(|&rows| words(rows)).max().unwrap_or(0);
            let (slab, pairs) = match language {
                Language::Wgsl => (most(&|rows| Slab::new(op, rows).words()), 0),
                Language::Ptx if halves => {
                    (tensor_cores::position_words(op), most(&|rows| tensor_cores::pairs_words(op, rows)))
                }
                Language::Ptx => (0, 0),
            };
            // Pieces of 16 bytes.
            layout.words = layout.words.next_multiple_of(4);
            (layout.slab, layout.pairs) = (layout.words, layout.words + slab.next_multiple_of(4));
            layout.words = layout.pairs + pairs;
        }
        layout.all = layout.words;
        if backward && halves && language == Language::Wgsl {
            let heads = h * op.head_dim;
            let dr = if op.relative.is_some() { op.groups * op.positions() * heads } else { 0 };
            for (first, words) in layout.sums.iter_mut().zip([b * op.keys() * heads, b * op.keys() * heads, dr]) {
                *first = layout.all.next_multiple_of(4);
                layout.all = *first + words;
            }
        }
        layout.streams = parts;
        layout
    }
}

/// Scratch of the forward op.
pub fn forward_workspace(language: Language, op: &RelAttention, halves: bool) -> usize {
    4 * Layout::new(language, op, false, halves).all
}

/// Scratch of the gradient.
pub fn backward_workspace(language: Language, op: &RelAttentionGrad, halves: bool) -> usize {
    4 * Layout::new(language, &op.forward, true, halves).all
}

/// What the launches of one op share.
struct Attention<'a> {
    op: &'a RelAttention,
    c: &'a Context<'a>,
    layout: Layout,
    work: Slice,
    /// Pieces of 32 columns of a head, a power of two: a key of WGSL's kernels.
    columns: u32,
    /// Element type of inputs and results.
    dtype: &'static str,
    /// The same, where it is half precision and tensor cores multiply it.
    half: Option<&'static str>,
}

impl<'a> Attention<'a> {
    /// # Errors
    /// When element type or head size have no kernel here.
    fn new(op: &'a RelAttention, backward: bool, c: &'a Context<'a>) -> Result<Self> {
        let (language, place) = (c.caps.language, &c.place);
        let dtype = c.element(op.k)?;
        let halves = c.desc(op.k).dtype.is_half();
        let half = (halves && language == Language::Ptx && tensor_cores::serve(op, c)?).then_some(dtype);
        let layout = Layout::new(language, op, backward, halves);
        if op.head_dim > 256 {
            return Err(Error::device(format!(
                "{place}: heads of {} elements are more than the 256 that {language}'s relative attention serves; use \
                 --device cpu",
                op.head_dim
            )));
        }
        let columns = op.head_dim.div_ceil(32).next_power_of_two() as u32;
        let needed = match (language, backward) {
            (Language::Wgsl, false) => slab::FORWARD_BYTES,
            (Language::Wgsl, true) => slab::BACKWARD_BYTES,
            (Language::Ptx, _) => 0, // less than every card has
        };
        let most = c.caps.workgroup_bytes;
        if needed > most {
            return Err(Error::device(format!(
                "{place}: relative attention needs {needed} bytes of work group memory, but this device has {most} \
                 (max_compute_workgroup_storage_size); use --device cpu",
            )));
        }
        let work = c.scratch(0, layout.words)?;
        Ok(Attention { op, c, layout, work, columns, dtype, half })
    }

    fn params(&self, stream: &Stream, parts: &Parts, accumulate: bool) -> Result<params::RelAttention> {
        let (op, drop) = (self.op, Drop::of_attention(stream.dropout)?);
        Ok(params::RelAttention {
            batch: size(op.batch)?,
            heads: size(op.heads)?,
            d: size(op.head_dim)?,
            rows: size(stream.rows)?,
            length: size(op.length)?,
            memory: size(op.memory)?,
            keys: size(op.keys())?,
            positions: size(op.positions())?,
            groups: size(op.groups)?,
            scale: op.scale,
            site: drop.site,
            threshold: drop.threshold,
            keep: drop.scale,
            causal: op.causal.into(),
            same_length: op.same_length.into(),
            query: stream.positions.is_some().into(),
            segments: op.segment.is_some().into(),
            accumulate: accumulate.into(),
            starts: size(parts.starts)?,
            hidden: size(parts.hidden)?,
            scores: size(parts.scores)?,
            deltas: size(parts.deltas)?,
            row_sums: size(parts.row_sums)?,
            column_sums: size(self.layout.column_sums)?,
            position_sums: size(self.layout.position_sums)?,
            first_batch: 0,
            batches: size(op.batch)?,
            first_row: 0,
            slab_rows: size(stream.rows)?,
            slab: 0,
            others: 0,
            splits: 0,
        })
    }

    fn slice(&self, id: TensorId) -> Option<Slice> {
        Some((self.c.slice)(id))
    }

    /// How rows of a stream find their rows of r: those of the content stream lie in order, so that it is a band.
    fn relative(&self, stream: &Stream) -> &'static str {
        match stream.positions {
            _ if self.op.relative.is_none() => "none",
            Some(_) => "rows",
            None => "band",
        }
    }

    /// One launch of a PTX kernel over the tiles of `outer` lists of `length` rows, keys or rows of r, and the pieces of 64
    /// columns of a head.
    fn tiled(
        &self,
        template: &'static str,
        stream: &Stream,
        params: &params::RelAttention,
        buffers: &[Option<Slice>],
        (outer, length): (usize, usize),
    ) -> Result<Launch> {
        let relative = self.relative(stream);
        let variant = Variant::new(template).name("dtype", self.dtype).name("relative", relative).int("wg", WG);
        let tiles = outer * length.div_ceil(TILE) * self.op.head_dim.div_ceil(64);
        self.c.launch_slices(variant, params, buffers, self.c.flat(tiles, 1)?)
    }

    /// What the other kernels find in scratch: where rows begin, who sees whom, scores of the segment term.
    fn prepare(&self, stream: &Stream, params: &params::RelAttention) -> Result<Vec<Launch>> {
        let (op, c) = (self.op, self.c);
        let group = op.relative.and_then(|r| r.group);
        let (mask, query_rank, key_rank) = match op.mask {
            Mask::None => ("none", None, None),
            Mask::Padding(id) => ("padding", None, Some(id)),
            Mask::Ranks { query, key } => ("ranks", Some(query), Some(key)),
            Mask::Bits(id) => ("bits", None, Some(id)),
        };
        let variant = Variant::new("rel_attention_rows")
            .name("mask", mask)
            .flag("positioned", stream.positions.is_some())
            .flag("grouped", group.is_some())
            .flag("segments", op.segment.is_some())
            .int("wg", WG);
        let slice = |id: Option<TensorId>| id.map(|id| (c.slice)(id));
        let ids = op.segment.map(|s| s.ids);
        let buffers =
            [slice(stream.positions), slice(group), slice(query_rank), slice(key_rank), slice(ids), Some(self.work)];
        let words = op.batch * stream.rows * op.keys().div_ceil(32);
        let mut launches = vec![c.launch_slices(variant, params, &buffers, c.flat(words, WG as usize)?)?];
        if let Some(SegmentTerms { s_bias, seg_embed, .. }) = op.segment {
            let buffers = [self.slice(stream.q), self.slice(s_bias), self.slice(seg_embed), Some(self.work)];
            launches.push(match self.half {
                Some(dtype) => self.segments_mma(dtype, stream, params, &buffers)?,
                None => {
                    let variant = Variant::new("rel_attention_segments").name("dtype", self.dtype).int("wg", WG);
                    let rows = op.batch * op.heads * stream.rows;
                    c.launch_slices(variant, params, &buffers, c.flat(rows, WG as usize)?)?
                }
            });
        }
        Ok(launches)
    }

    /// q, k, v, and the position term's r, w_bias and r_bias: the first buffers of every tiled kernel.
    fn inputs(&self, stream: &Stream) -> Vec<Option<Slice>> {
        let terms = self.op.relative.map(|r| [r.r, r.w_bias, r.r_bias]);
        let terms = terms.map_or([None; 3], |ids| ids.map(|id| self.slice(id)));
        [stream.q, self.op.k, self.op.v].map(|id| self.slice(id)).into_iter().chain(terms).collect()
    }

    fn key(&self) -> Option<Slice> {
        self.op.dropout.and_then(|d| self.slice(d.key))
    }

    /// Sums of `weights * x` over rows, in blocks from block `first` on; returns the number of blocks so far.
    fn bias_blocks(&self, sums: &Weighted, first: usize, launches: &mut Vec<Launch>) -> Result<usize> {
        let (op, c, n) = (self.op, self.c, self.op.heads * self.op.head_dim);
        let rows = sums.outer * sums.length;
        let params = params::RelAttentionGradBias {
            rows: size(rows)?,
            length: size(sums.length)?,
            heads: size(op.heads)?,
            d: size(op.head_dim)?,
            block: BLOCK as u32,
            weights: size(sums.weights)?,
            sums: size(self.layout.bias_sums + first * n)?,
        };
        let variant =
            Variant::new("rel_attention_grad_bias").name("dtype", self.dtype).name("source", sums.source).int("wg", WG);
        let blocks = rows.div_ceil(BLOCK);
        let grid = c.fits([size(n.div_ceil(WG as usize))?, size(blocks)?, 1])?;
        let buffers = [self.slice(sums.x), sums.bias.and_then(|id| self.slice(id)), Some(self.work)];
        launches.push(c.launch_slices(variant, &params, &buffers, grid)?);
        Ok(first + blocks)
    }

    /// The blocks' sum, times `factor`, into `target` from element `first` on.
    fn bias_sum(&self, target: Target, first: usize, factor: f32, blocks: usize) -> Result<Launch> {
        let (c, n) = (self.c, self.op.heads * self.op.head_dim);
        let params = params::RelAttentionGradBiasSum {
            n: size(n)?,
            blocks: size(blocks)?,
            sums: size(self.layout.bias_sums)?,
            first: size(first)?,
            factor,
        };
        let variant = Variant::new("rel_attention_grad_bias_sum")
            .name("dtype", "f32")
            .flag("add", target.write == Write::Add)
            .int("wg", WG);
        let grid = c.fits([size(n.div_ceil(WG as usize))?, 1, 1])?;
        c.launch_slices(variant, &params, &[Some(self.work), self.slice(target.id)], grid)
    }
}

/// Operands of a weighted sum of rows.
struct Weighted {
    source: &'static str,
    x: TensorId,
    bias: Option<TensorId>,
    /// First word of the weights, `[outer, H, length]`.
    weights: usize,
    outer: usize,
    length: usize,
}

pub fn forward(op: &RelAttention, c: &Context) -> Result<Vec<Launch>> {
    let attention = Attention::new(op, false, c)?;
    let mut launches = vec![];
    for (stream, parts) in streams(op, None).iter().zip(&attention.layout.streams) {
        let params = attention.params(stream, parts, false)?;
        launches.extend(attention.prepare(stream, &params)?);
        let mut buffers = attention.inputs(stream);
        buffers.extend([attention.key(), Some(attention.work)]);
        buffers.extend([stream.out, stream.lse].map(|id| attention.slice(id)));
        if c.caps.language == Language::Wgsl {
            launches.push(attention.forward(stream, &params, &buffers)?);
            continue;
        }
        if let Some(dtype) = attention.half {
            launches.push(attention.forward_mma(dtype, stream, &params, &buffers)?);
            continue;
        }
        let tiles = (op.batch * op.heads, stream.rows);
        launches.push(attention.tiled("rel_attention", stream, &params, &buffers, tiles)?);
    }
    Ok(launches)
}

pub fn backward(op: &RelAttentionGrad, c: &Context) -> Result<Vec<Launch>> {
    let f = &op.forward;
    let attention = Attention::new(f, true, c)?;
    let (layout, work) = (&attention.layout, Some(attention.work));
    let mut launches = vec![];
    let all = streams(f, Some(op));
    for (index, (stream, parts)) in all.iter().zip(&layout.streams).enumerate() {
        let Some((dout, dq)) = stream.grads else { continue };
        let [dout, dq, lse] = [dout, dq, stream.lse].map(|id| attention.slice(id));
        let params = attention.params(stream, parts, index > 0)?;
        launches.extend(attention.prepare(stream, &params)?);
        if c.caps.language == Language::Wgsl {
            attention.backward(op, stream, params, &mut launches)?;
            continue;
        }
        if let Some(dtype) = attention.half {
            attention.backward_mma(dtype, op, (stream, &all), params, &mut launches)?;
            continue;
        }
        let inputs = attention.inputs(stream);
        let with = |more: &[Option<Slice>]| inputs.iter().chain(more).copied().collect::<Vec<_>>();
        let heads = f.batch * f.heads;

        let seg_embed = f.segment.and_then(|s| attention.slice(s.seg_embed));
        let out = attention.slice(stream.out);
        let buffers = with(&[seg_embed, attention.key(), dout, out, lse, work, dq]);
        launches.push(attention.tiled("rel_attention_grad", stream, &params, &buffers, (heads, stream.rows))?);

        let [dk, dv] = [op.dk, op.dv].map(|id| attention.slice(id));
        let buffers = with(&[attention.key(), dout, lse, work, dk, dv]);
        launches.push(attention.tiled("rel_attention_grad_keys", stream, &params, &buffers, (heads, f.keys()))?);

        if let Some(relative) = &op.relative {
            let buffers = with(&[attention.key(), dout, lse, work, attention.slice(relative.dr)]);
            let tiles = (f.groups * f.heads, f.positions());
            launches.push(attention.tiled("rel_attention_grad_positions", stream, &params, &buffers, tiles)?);
        }
    }
    if c.caps.language == Language::Wgsl {
        attention.round(op, &mut launches)?;
    }
    if let (Some(terms), Some(grads)) = (&f.relative, &op.relative) {
        let (content, position) = (layout.column_sums, layout.position_sums);
        let rows = |x, weights, outer, length| Weighted { source: "rows", x, bias: None, weights, outer, length };
        let sums = [
            (grads.dw_bias, rows(f.k, content, f.batch, f.keys())),
            (grads.dr_bias, rows(terms.r, position, f.groups, f.positions())),
        ];
        for (target, sums) in sums {
            if let Some(target) = target {
                let blocks = attention.bias_blocks(&sums, 0, &mut launches)?;
                launches.push(attention.bias_sum(target, 0, 1.0, blocks)?);
            }
        }
    }
    if let (Some(terms), Some(grads)) = (&f.segment, &op.segment) {
        let over_streams = |source, launches: &mut Vec<Launch>| -> Result<usize> {
            let mut blocks = 0;
            for (stream, parts) in all.iter().zip(&layout.streams) {
                let (x, bias) = match source {
                    "biased" => (stream.q, Some(terms.s_bias)),
                    _ => (terms.seg_embed, None),
                };
                let (weights, outer, length) = (parts.row_sums, f.batch, stream.rows);
                let sums = Weighted { source, x, bias, weights, outer, length };
                blocks = attention.bias_blocks(&sums, blocks, launches)?;
            }
            Ok(blocks)
        };
        if let Some(target) = grads.ds_bias {
            let blocks = over_streams("segments", &mut launches)?;
            launches.push(attention.bias_sum(target, 0, 1.0, blocks)?);
        }
        if let Some(target) = grads.dseg_embed {
            // The gradients of a row's scores sum to 0: what one embedding gains the other loses.
            let blocks = over_streams("biased", &mut launches)?;
            launches.push(attention.bias_sum(target, 0, -1.0, blocks)?);
            launches.push(attention.bias_sum(target, f.heads * f.head_dim, 1.0, blocks)?);
        }
    }
    Ok(launches)
}
