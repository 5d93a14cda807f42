//! Relative-position two-stream attention, forward and backward: the heart of XLNet as one op.
//!
//! For query row `i` of a segment of `L` rows and key `j` of `N = M + L` keys (`M` memory rows first):
//!
//! ```text
//! s(i,j) = scale * ( (q_i + w_bias) . k_j + (q_i + r_bias) . r[L - i + j] + (q_i + s_bias) . seg_embed[diff(i,j)] )
//! p = softmax_j(s), hidden keys at -1e30;  out_i = sum over j of dropout(p)(i,j) v_j
//! ```
//!
//! A row whose keys are all hidden is uniform over all `N` keys. The *content* stream has one query row per segment
//! position and always sees itself; the *query* stream has `T` rows, each with a position of its own (-1: a padded
//! target, whose output row is 0), and does not. Both share k, v and r. (Yang et al. 2019, equations 3 to 6; Dai et al.
//! 2019, appendix B.)
//!
//! All inputs in floating point, results and their gradients may be in half precision, all in the same: what is computed is
//! rounded to it. `lse` and the gradients of biases and segment embedding are in the program's type all the same.

use super::{Operation, Target, Tensors};
use crate::Result;
use crate::tensor::{DType, TensorId};

/// The head size for which there are kernels in half precision.
pub const HALF_HEAD_DIM: usize = 64;

/// Which keys a row may not see. Memory columns are always visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All visible.
    None,
    /// 1 = padding, hidden from every row.
    Padding(TensorId), // [B, L] i32
    /// Key `j` is hidden from row `i` iff `query[i] <= key[j]`.
    Ranks {
        /// Rank of each row as a query.
        query: TensorId, // [B, L] i32
        /// Rank of each row as a key.
        key: TensorId, // [B, L] i32
    },
    /// Any pattern: bit `j % 32` of word `j / 32` of row `i` is set where key `j` is hidden.
    Bits(TensorId), // [B, L, ceil(L/32)] u32
}

impl Mask {
    fn ids(&self) -> Vec<TensorId> {
        match *self {
            Mask::None => vec![],
            Mask::Padding(id) | Mask::Bits(id) => vec![id],
            Mask::Ranks { query, key } => vec![query, key],
        }
    }
}

/// The position term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelativeTerms {
    /// Projected relative positions; row `t` is distance `N - t`.
    pub r: TensorId, // [G, P, H, D], P = N + L
    /// Group of each batch row; `None` when G is 1.
    pub group: Option<TensorId>, // [B] i32
    /// Added to q in the content term.
    pub w_bias: TensorId, // [H, D]
    /// Added to q in the position term.
    pub r_bias: TensorId, // [H, D]
}

/// The segment term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentTerms {
    /// Added to q in the segment term.
    pub s_bias: TensorId, // [H, D]
    /// Embedding of "same segment" (0) and "other segment" (1).
    pub seg_embed: TensorId, // [2, H, D]
    /// Segment of each row; memory counts as segment 0.
    pub ids: TensorId, // [B, L] i32
}

/// The query stream: rows with positions of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryStream {
    /// Queries.
    pub q: TensorId, // [B, T, H, D]
    /// Position of each row in the segment; -1 for a padded target.
    pub positions: TensorId, // [B, T] i32
    /// Result.
    pub out: TensorId, // [B, T, H, D]
    /// Logarithm of the softmax denominator, kept for the gradient.
    pub lse: TensorId, // [B, H, T]
    /// Dropout site of its probabilities; key and rate are the op's.
    pub site: u32,
}

/// See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct RelAttention {
    /// Content queries; `None` runs the query stream alone.
    pub q: Option<TensorId>, // [B, L, H, D]
    /// The query stream.
    pub query: Option<QueryStream>,
    /// Keys, memory first.
    pub k: TensorId, // [B, N, H, D]
    /// Values, memory first.
    pub v: TensorId, // [B, N, H, D]
    /// Position term.
    pub relative: Option<RelativeTerms>,
    /// Segment term.
    pub segment: Option<SegmentTerms>,
    /// Hidden keys.
    pub mask: Mask,
    /// Keys after the row's own position are hidden (`uni`).
    pub causal: bool,
    /// With `causal`: each row sees exactly M + 1 keys.
    pub same_length: bool,
    /// Factor of all score terms, usually `1 / sqrt(D)`.
    pub scale: f32,
    /// Dropout of the content probabilities; the query stream shares key and rate.
    pub dropout: Option<super::DropoutSite>,
    /// Content result; given exactly when `q` is.
    pub out: Option<TensorId>, // [B, L, H, D]
    /// Logarithm of the softmax denominator, kept for the gradient.
    pub lse: Option<TensorId>, // [B, H, L]
    /// B.
    pub batch: usize,
    /// H.
    pub heads: usize,
    /// D.
    pub head_dim: usize,
    /// L.
    pub length: usize,
    /// M.
    pub memory: usize,
    /// T; 0 without a query stream.
    pub targets: usize,
    /// G; 1 without position term.
    pub groups: usize,
}

/// Where the gradients of the position term go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RelativeTermsGrad {
    /// Gradient of r, overwritten.
    pub dr: TensorId, // [G, P, H, D]
    /// Gradient of the content bias; `None` when frozen.
    pub dw_bias: Option<Target>, // [H, D]
    /// Gradient of the position bias; `None` when frozen.
    pub dr_bias: Option<Target>, // [H, D]
}

/// Where the gradients of the segment term go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SegmentTermsGrad {
    /// Gradient of the segment bias; `None` when frozen.
    pub ds_bias: Option<Target>, // [H, D]
    /// Gradient of the segment embedding; `None` when frozen.
    pub dseg_embed: Option<Target>, // [2, H, D]
}

/// Gradients of the query stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryStreamGrad {
    /// Gradient of the query stream's result.
    pub dout: TensorId, // [B, T, H, D]
    /// Gradient of its queries, overwritten.
    pub dq: TensorId, // [B, T, H, D]
}

/// Gradient of [`RelAttention`]; probabilities are computed again from the kept `lse`.
#[derive(Clone, Debug, PartialEq)]
pub struct RelAttentionGrad {
    /// The forward op: inputs, results, sizes.
    pub forward: RelAttention,
    /// Gradient of the content result.
    pub dout: Option<TensorId>, // [B, L, H, D]
    /// Gradient of the content queries, overwritten.
    pub dq: Option<TensorId>, // [B, L, H, D]
    /// The query stream's.
    pub query: Option<QueryStreamGrad>,
    /// Gradient of the keys, overwritten.
    pub dk: TensorId, // [B, N, H, D]
    /// Gradient of the values, overwritten.
    pub dv: TensorId, // [B, N, H, D]
    /// The position term's.
    pub relative: Option<RelativeTermsGrad>,
    /// The segment term's.
    pub segment: Option<SegmentTermsGrad>,
}

impl RelAttention {
    /// N = M + L.
    pub fn keys(&self) -> usize {
        self.memory + self.length
    }
    /// P = N + L.
    pub fn positions(&self) -> usize {
        self.keys() + self.length
    }
    /// Rows of both streams.
    fn rows(&self) -> usize {
        self.targets + if self.q.is_some() { self.length } else { 0 }
    }
    /// Pairs of row and key, times D.
    fn pairs(&self) -> u64 {
        (self.batch * self.heads * self.rows() * self.keys() * self.head_dim) as u64
    }
    /// Requires the element type of k, or a type that is no half where `wide`.
    fn expect_float(&self, t: &Tensors, what: &str, id: TensorId, wide: bool) -> Result<()> {
        let (dtype, own) = (t.get(self.k).dtype, t.get(id).dtype);
        if wide && dtype.is_half() {
            return t.expect(what, own.is_float() && !own.is_half(), "the program's type", own);
        }
        t.expect_dtype(what, id, dtype)
    }
}

impl Operation for RelAttention {
    const NAME: &'static str = "rel_attention";
    fn reads(&self) -> Vec<TensorId> {
        let mut ids = vec![self.k, self.v];
        ids.extend(self.q);
        ids.extend(self.query.iter().flat_map(|s| [s.q, s.positions]));
        ids.extend(self.relative.iter().flat_map(|r| [r.r, r.w_bias, r.r_bias].into_iter().chain(r.group)));
        ids.extend(self.segment.iter().flat_map(|s| [s.s_bias, s.seg_embed, s.ids]));
        ids.extend(self.mask.ids());
        ids.extend(self.dropout.map(|d| d.key));
        ids
    }
    fn writes(&self) -> Vec<Target> {
        let mut ids: Vec<TensorId> = self.out.into_iter().chain(self.lse).collect();
        ids.extend(self.query.iter().flat_map(|s| [s.out, s.lse]));
        ids.into_iter().map(Target::set).collect()
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let (b, h, d, l) = (self.batch, self.heads, self.head_dim, self.length);
        let n = self.keys();
        t.expect("sizes", b * h * d * l > 0, "positive sizes", format_args!("B {b}, H {h}, D {d}, L {l}"))?;
        t.expect_float("k", self.k)?;
        let stored: Vec<(&str, TensorId)> = [("v", Some(self.v)), ("q", self.q), ("out", self.out)]
            .into_iter()
            .chain(self.query.iter().flat_map(|s| [("query q", Some(s.q)), ("query out", Some(s.out))]))
            .chain(
                self.relative
                    .iter()
                    .flat_map(|r| [("r", Some(r.r)), ("w_bias", Some(r.w_bias)), ("r_bias", Some(r.r_bias))]),
            )
            .chain(self.segment.iter().flat_map(|s| [("s_bias", Some(s.s_bias)), ("seg_embed", Some(s.seg_embed))]))
            .filter_map(|(what, id)| Some((what, id?)))
            .collect();
        stored.into_iter().try_for_each(|(what, id)| self.expect_float(t, what, id, false))?;
        let lse = [self.lse, self.query.map(|s| s.lse)];
        lse.into_iter().flatten().try_for_each(|id| self.expect_float(t, "lse", id, true))?;
        t.expect_len("k", self.k, b * n * h * d)?;
        t.expect_len("v", self.v, b * n * h * d)?;
        t.expect("streams", self.q.is_some() || self.query.is_some(), "at least one stream", "none")?;
        let same = self.q.is_some() == self.out.is_some() && self.q.is_some() == self.lse.is_some();
        t.expect("out", same, "q, out and lse together", "some alone")?;
        if let (Some(q), Some(out), Some(lse)) = (self.q, self.out, self.lse) {
            t.expect_len("q", q, b * l * h * d)?;
            t.expect_len("out", out, b * l * h * d)?;
            t.expect_len("lse", lse, b * h * l)?;
        }
        t.expect("targets", self.query.is_some() == (self.targets > 0), "rows in the query stream", self.targets)?;
        if let Some(s) = &self.query {
            let rows = self.targets;
            t.expect_len("query q", s.q, b * rows * h * d)?;
            t.expect_len("query out", s.out, b * rows * h * d)?;
            t.expect_len("query lse", s.lse, b * h * rows)?;
            t.expect_dtype("positions", s.positions, DType::I32)?;
            t.expect_len("positions", s.positions, b * rows)?;
        }
        if let Some(r) = &self.relative {
            t.expect_len("r", r.r, self.groups * self.positions() * h * d)?;
            t.expect_len("w_bias", r.w_bias, h * d)?;
            t.expect_len("r_bias", r.r_bias, h * d)?;
            t.expect("group", self.groups == 1 || r.group.is_some(), "the group of each row", "none")?;
            if let Some(group) = r.group {
                t.expect_dtype("group", group, DType::I32)?;
                t.expect_len("group", group, b)?;
            }
        }
        if let Some(s) = &self.segment {
            t.expect_len("s_bias", s.s_bias, h * d)?;
            t.expect_len("seg_embed", s.seg_embed, 2 * h * d)?;
            t.expect_dtype("segment ids", s.ids, DType::I32)?;
            t.expect_len("segment ids", s.ids, b * l)?;
        }
        match self.mask {
            Mask::None => {}
            Mask::Padding(id) => {
                t.expect_dtype("padding", id, DType::I32)?;
                t.expect_len("padding", id, b * l)?;
            }
            Mask::Ranks { query, key } => {
                for (what, id) in [("query rank", query), ("key rank", key)] {
                    t.expect_dtype(what, id, DType::I32)?;
                    t.expect_len(what, id, b * l)?;
                }
            }
            Mask::Bits(id) => {
                t.expect_dtype("mask bits", id, DType::U32)?;
                t.expect_len("mask bits", id, b * l * l.div_ceil(32))?;
            }
        }
        t.expect("same_length", self.causal || !self.same_length, "causal attention", "both directions")?;
        super::DropoutSite::check_attention(self.dropout, t, b)
    }
    fn flops(&self, _: &Tensors) -> u64 {
        self.pairs() * if self.relative.is_some() { 6 } else { 4 }
    }
}

impl Operation for RelAttentionGrad {
    const NAME: &'static str = "rel_attention_grad";
    fn reads(&self) -> Vec<TensorId> {
        let mut ids = self.forward.reads();
        ids.extend(self.forward.writes().iter().map(|w| w.id));
        ids.extend(self.dout);
        ids.extend(self.query.map(|s| s.dout));
        ids
    }
    fn writes(&self) -> Vec<Target> {
        let mut out = vec![Target::set(self.dk), Target::set(self.dv)];
        out.extend(self.dq.map(Target::set));
        out.extend(self.query.map(|s| Target::set(s.dq)));
        if let Some(r) = &self.relative {
            out.push(Target::set(r.dr));
            out.extend(r.dw_bias.into_iter().chain(r.dr_bias));
        }
        if let Some(s) = &self.segment {
            out.extend(s.ds_bias.into_iter().chain(s.dseg_embed));
        }
        out
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let f = &self.forward;
        f.check(t)?;
        let hd = f.heads * f.head_dim;
        let (query, relative, segment) = (self.query, self.relative, self.segment);
        let stored = [
            ("dk", Some(self.dk)),
            ("dv", Some(self.dv)),
            ("dq", self.dq),
            ("dout", self.dout),
            ("query dq", query.map(|s| s.dq)),
            ("query dout", query.map(|s| s.dout)),
            ("dr", relative.map(|r| r.dr)),
        ];
        let sums = [
            ("dw_bias", relative.and_then(|r| r.dw_bias)),
            ("dr_bias", relative.and_then(|r| r.dr_bias)),
            ("ds_bias", segment.and_then(|s| s.ds_bias)),
            ("dseg_embed", segment.and_then(|s| s.dseg_embed)),
        ];
        for (what, id) in stored {
            id.map_or(Ok(()), |id| f.expect_float(t, what, id, false))?;
        }
        for (what, target) in sums {
            target.map_or(Ok(()), |target| f.expect_float(t, what, target.id, true))?;
        }
        t.expect_len("dk", self.dk, f.batch * f.keys() * hd)?;
        t.expect_len("dv", self.dv, f.batch * f.keys() * hd)?;
        let streams = f.q.is_some() == self.dq.is_some()
            && f.q.is_some() == self.dout.is_some()
            && f.query.is_some() == self.query.is_some();
        t.expect("gradients", streams, "those of every stream", "some missing")?;
        if let (Some(dq), Some(dout)) = (self.dq, self.dout) {
            t.expect_len("dq", dq, f.batch * f.length * hd)?;
            t.expect_len("dout", dout, f.batch * f.length * hd)?;
        }
        if let Some(s) = &self.query {
            t.expect_len("query dq", s.dq, f.batch * f.targets * hd)?;
            t.expect_len("query dout", s.dout, f.batch * f.targets * hd)?;
        }
        let terms = f.relative.is_some() == self.relative.is_some() && f.segment.is_some() == self.segment.is_some();
        t.expect("gradients", terms, "those of every score term", "some missing")?;
        if let Some(r) = &self.relative {
            t.expect_len("dr", r.dr, f.groups * f.positions() * hd)?;
            for (what, target) in [("dw_bias", r.dw_bias), ("dr_bias", r.dr_bias)] {
                target.map_or(Ok(()), |g| t.expect_len(what, g.id, hd))?;
            }
        }
        if let Some(s) = &self.segment {
            s.ds_bias.map_or(Ok(()), |g| t.expect_len("ds_bias", g.id, hd))?;
            s.dseg_embed.map_or(Ok(()), |g| t.expect_len("dseg_embed", g.id, 2 * hd))?;
        }
        Ok(())
    }
    fn flops(&self, _: &Tensors) -> u64 {
        self.forward.pairs() * if self.forward.relative.is_some() { 16 } else { 10 }
    }
}
