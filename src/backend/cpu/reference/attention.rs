//! Relative attention, one pair of row and key at a time.

use super::{Bits, Env};
use crate::Result;
use crate::op::{DropoutSite, Mask, QueryStream, RelAttention, RelAttentionGrad};
use crate::tensor::TensorId;

/// Score of a hidden key.
const HIDDEN: f64 = -1e30;

/// All inputs shared by both streams.
struct Inputs<'a> {
    op: &'a RelAttention,
    k: Vec<f64>,         // [B, N, H, D]
    v: Vec<f64>,         // [B, N, H, D]
    r: Vec<f64>,         // [G, P, H, D]; zeros without position term, as are the two biases
    group: Vec<i32>,     // [B]
    w_bias: Vec<f64>,    // [H, D]
    r_bias: Vec<f64>,    // [H, D]
    s_bias: Vec<f64>,    // [H, D]; zeros without segment term, as is the embedding
    seg_embed: Vec<f64>, // [2, H, D]
    segment: Vec<i32>,   // [B, L]
    hidden: Vec<bool>,   // [B, L, L]
}

/// One query row: the address of everything that belongs to it.
struct Row {
    b: usize,
    h: usize,
    /// Position in the segment.
    i: usize,
    /// First element of the row in q, out and their gradients.
    at: usize,
}

/// Rows of one stream with its dropout.
struct Stream {
    q: Vec<f64>,         // [B, rows, H, D]
    positions: Vec<i32>, // [B, rows]
    bits: Option<Bits>,
    /// A content row always sees itself.
    sees_itself: bool,
}

/// A row's softmax.
struct Weights {
    p: Vec<f64>,      // [N]
    factor: Vec<f64>, // [N], dropout
    lse: f64,
}

impl<'a> Inputs<'a> {
    fn load(op: &'a RelAttention, t: &Env) -> Result<Self> {
        let (b, l, hd) = (op.batch, op.length, op.heads * op.head_dim);
        let or_zeros = |id: Option<TensorId>, len: usize| id.map_or_else(|| vec![0.0; len], |id| t.floats(id));
        let group = op.relative.as_ref().and_then(|r| r.group);
        Ok(Inputs {
            op,
            k: t.floats(op.k),
            v: t.floats(op.v),
            r: or_zeros(op.relative.map(|r| r.r), op.groups * op.positions() * hd),
            group: group.map_or_else(|| Ok(vec![0; b]), |id| t.indices(id, 0, op.groups))?,
            w_bias: or_zeros(op.relative.map(|r| r.w_bias), hd),
            r_bias: or_zeros(op.relative.map(|r| r.r_bias), hd),
            s_bias: or_zeros(op.segment.map(|s| s.s_bias), hd),
            seg_embed: or_zeros(op.segment.map(|s| s.seg_embed), 2 * hd),
            segment: op.segment.map_or_else(|| vec![0; b * l], |s| t.store.ints(s.ids)),
            hidden: hidden(op, t),
        })
    }
    fn content(&self, q: TensorId, t: &Env) -> Result<Stream> {
        let (b, l) = (self.op.batch, self.op.length);
        let positions = (0..b * l).map(|row| (row % l) as i32).collect();
        Ok(Stream { q: t.floats(q), positions, bits: bits(self.op.dropout, t)?, sees_itself: true })
    }
    fn query(&self, s: &QueryStream, t: &Env) -> Result<Stream> {
        let site = self.op.dropout.map(|d| DropoutSite { site: s.site, ..d });
        let positions = t.indices(s.positions, -1, self.op.length)?;
        Ok(Stream { q: t.floats(s.q), positions, bits: bits(site, t)?, sees_itself: false })
    }
    /// First element of key `j`.
    fn key(&self, row: &Row, j: usize) -> usize {
        ((row.b * self.op.keys() + j) * self.op.heads + row.h) * self.op.head_dim
    }
    /// First element of the relative position of a pair.
    fn position(&self, row: &Row, j: usize) -> usize {
        let at = self.group[row.b] as usize * self.op.positions() + self.op.length - row.i + j;
        (at * self.op.heads + row.h) * self.op.head_dim
    }
    /// First element of the segment embedding of a pair.
    fn pair_segment(&self, row: &Row, j: usize) -> usize {
        let (m, l) = (self.op.memory, self.op.length);
        let key = if j < m { 0 } else { self.segment[row.b * l + j - m] };
        let differs = usize::from(self.segment[row.b * l + row.i] != key);
        (differs * self.op.heads + row.h) * self.op.head_dim
    }
    fn is_hidden(&self, row: &Row, j: usize, sees_itself: bool) -> bool {
        let (m, l, i) = (self.op.memory, self.op.length, row.i);
        if sees_itself && j == m + i {
            return false;
        }
        let outside = self.op.causal && (j > m + i || self.op.same_length && j < i);
        outside || j >= m && self.hidden[(row.b * l + i) * l + j - m]
    }
    /// Probabilities of one row.
    fn weights(&self, stream: &Stream, row: &Row, index: usize) -> Weights {
        let (n, d, bias) = (self.op.keys(), self.op.head_dim, row.h * self.op.head_dim);
        let score = |j: usize| {
            if self.is_hidden(row, j, stream.sees_itself) {
                return HIDDEN;
            }
            let (key, position, segment) = (self.key(row, j), self.position(row, j), self.pair_segment(row, j));
            let mut score = 0.0;
            for c in 0..d {
                let q = stream.q[row.at + c];
                score += (q + self.w_bias[bias + c]) * self.k[key + c];
                score += (q + self.r_bias[bias + c]) * self.r[position + c];
                score += (q + self.s_bias[bias + c]) * self.seg_embed[segment + c];
            }
            score * f64::from(self.op.scale)
        };
        let scores: Vec<f64> = (0..n).map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let factor = |j: usize| {
            stream.bits.as_ref().map_or(1.0, |bits| {
                let head = bits.batch_rows[row.b].wrapping_mul(self.op.heads as u32).wrapping_add(row.h as u32);
                bits.factor([(j >> 3) as u32, index as u32, head], j)
            })
        };
        Weights {
            p: scores.iter().map(|s| (s - max).exp() / sum).collect(),
            factor: (0..n).map(factor).collect(),
            lse: max + sum.ln(),
        }
    }
    /// Calls `visit` with every row that has a position, and its index in the stream.
    fn each_row(&self, stream: &Stream, mut visit: impl FnMut(&Row, usize)) {
        let (heads, d, rows) = (self.op.heads, self.op.head_dim, stream.positions.len() / self.op.batch);
        for b in 0..self.op.batch {
            for index in 0..rows {
                let Ok(i) = usize::try_from(stream.positions[b * rows + index]) else { continue };
                for h in 0..heads {
                    let at = ((b * rows + index) * heads + h) * d;
                    visit(&Row { b, h, i, at }, index);
                }
            }
        }
    }
    /// Result and lse of one stream.
    fn attend(&self, stream: &Stream) -> (Vec<f64>, Vec<f64>) {
        let rows = stream.positions.len() / self.op.batch;
        let mut out = vec![0.0; stream.q.len()];
        let mut lse = vec![0.0; stream.positions.len() * self.op.heads];
        self.each_row(stream, |row, index| {
            let w = self.weights(stream, row, index);
            lse[(row.b * self.op.heads + row.h) * rows + index] = w.lse;
            for j in 0..self.op.keys() {
                let key = self.key(row, j);
                for c in 0..self.op.head_dim {
                    out[row.at + c] += w.p[j] * w.factor[j] * self.v[key + c];
                }
            }
        });
        (out, lse)
    }
}

/// The data mask, written out.
fn hidden(op: &RelAttention, t: &Env) -> Vec<bool> {
    let (b, l) = (op.batch, op.length);
    let pairs = (0..b * l * l).map(|e| (e / (l * l), e / l % l, e % l));
    match op.mask {
        Mask::None => vec![false; b * l * l],
        Mask::Padding(id) => {
            let padding = t.store.ints(id);
            pairs.map(|(b, _, j)| padding[b * l + j] != 0).collect()
        }
        Mask::Ranks { query, key } => {
            let (query, key) = (t.store.ints(query), t.store.ints(key));
            pairs.map(|(b, i, j)| query[b * l + i] <= key[b * l + j]).collect()
        }
        Mask::Bits(id) => {
            let (words, width) = (t.store.words(id), l.div_ceil(32));
            pairs.map(|(b, i, j)| words[(b * l + i) * width + j / 32] >> (j % 32) & 1 == 1).collect()
        }
    }
}

fn bits(site: Option<DropoutSite>, t: &Env) -> Result<Option<Bits>> {
    site.map(|site| t.bits(&site)).transpose()
}

pub(super) fn forward(op: &RelAttention, t: &mut Env) -> Result<()> {
    let inputs = Inputs::load(op, t)?;
    if let (Some(q), Some(out), Some(lse)) = (op.q, op.out, op.lse) {
        let (values, logs) = inputs.attend(&inputs.content(q, t)?);
        t.set(out, &values);
        t.set(lse, &logs);
    }
    if let Some(query) = &op.query {
        let (values, logs) = inputs.attend(&inputs.query(query, t)?);
        t.set(query.out, &values);
        t.set(query.lse, &logs);
    }
    Ok(())
}

/// Gradients of what both streams share, summed over them.
struct Gradients {
    dk: Vec<f64>,
    dv: Vec<f64>,
    dr: Vec<f64>,
    dw_bias: Vec<f64>,
    dr_bias: Vec<f64>,
    ds_bias: Vec<f64>,
    dseg_embed: Vec<f64>,
}

impl Gradients {
    fn zeros(inputs: &Inputs) -> Self {
        let zeros = |like: &[f64]| vec![0.0; like.len()];
        Gradients {
            dk: zeros(&inputs.k),
            dv: zeros(&inputs.v),
            dr: zeros(&inputs.r),
            dw_bias: zeros(&inputs.w_bias),
            dr_bias: zeros(&inputs.r_bias),
            ds_bias: zeros(&inputs.s_bias),
            dseg_embed: zeros(&inputs.seg_embed),
        }
    }
    /// Adds one stream's share and returns the gradient of its queries.
    ///
    /// The mask adds a constant to the score, so hidden keys take part in the gradient as much as their probability
    /// says: not at all, unless all keys of the row are hidden.
    fn add(&mut self, inputs: &Inputs, stream: &Stream, dout: &[f64]) -> Vec<f64> {
        let (n, d, scale) = (inputs.op.keys(), inputs.op.head_dim, f64::from(inputs.op.scale));
        let mut dq = vec![0.0; stream.q.len()];
        inputs.each_row(stream, |row, index| {
            let w = inputs.weights(stream, row, index);
            let dp: Vec<f64> = (0..n)
                .map(|j| {
                    let key = inputs.key(row, j);
                    w.factor[j] * (0..d).map(|c| dout[row.at + c] * inputs.v[key + c]).sum::<f64>()
                })
                .collect();
            let delta: f64 = w.p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            for (j, dp) in dp.iter().enumerate() {
                let ds = w.p[j] * (dp - delta) * scale;
                let (key, position) = (inputs.key(row, j), inputs.position(row, j));
                let segment = inputs.pair_segment(row, j);
                for c in 0..d {
                    let (q, bias) = (stream.q[row.at + c], row.h * d + c);
                    let (k, r, s) = (inputs.k[key + c], inputs.r[position + c], inputs.seg_embed[segment + c]);
                    dq[row.at + c] += ds * (k + r + s);
                    self.dv[key + c] += w.p[j] * w.factor[j] * dout[row.at + c];
                    self.dk[key + c] += ds * (q + inputs.w_bias[bias]);
                    self.dr[position + c] += ds * (q + inputs.r_bias[bias]);
                    self.dseg_embed[segment + c] += ds * (q + inputs.s_bias[bias]);
                    self.dw_bias[bias] += ds * k;
                    self.dr_bias[bias] += ds * r;
                    self.ds_bias[bias] += ds * s;
                }
            }
        });
        dq
    }
}

pub(super) fn backward(op: &RelAttentionGrad, t: &mut Env) -> Result<()> {
    let inputs = Inputs::load(&op.forward, t)?;
    let mut grads = Gradients::zeros(&inputs);
    if let (Some(q), Some(dout), Some(dq)) = (op.forward.q, op.dout, op.dq) {
        let values = grads.add(&inputs, &inputs.content(q, t)?, &t.floats(dout));
        t.set(dq, &values);
    }
    if let (Some(query), Some(grad)) = (&op.forward.query, &op.query) {
        let values = grads.add(&inputs, &inputs.query(query, t)?, &t.floats(grad.dout));
        t.set(grad.dq, &values);
    }
    t.set(op.dk, &grads.dk);
    t.set(op.dv, &grads.dv);
    let mut targets = vec![];
    if let Some(r) = &op.relative {
        t.set(r.dr, &grads.dr);
        targets.extend([(r.dw_bias, &grads.dw_bias), (r.dr_bias, &grads.dr_bias)]);
    }
    if let Some(s) = &op.segment {
        targets.extend([(s.ds_bias, &grads.ds_bias), (s.dseg_embed, &grads.dseg_embed)]);
    }
    for (target, values) in targets {
        if let Some(target) = target {
            t.put(target, values);
        }
    }
    Ok(())
}
