//! A configuration of relative attention, and the programs and random tensors that belong to it.

use rand::Rng;
use xlnet::Result;
use xlnet::op::{
    Mask, QueryStream, QueryStreamGrad, RelAttention, RelAttentionGrad, RelativeTerms, RelativeTermsGrad, SegmentTerms,
    SegmentTermsGrad, Write,
};
use xlnet::tensor::{DType, Shape, TensorId};

use crate::setup::Setup;

/// Which mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskKind {
    /// None.
    None,
    /// The first keys of each row are padding.
    Padding,
    /// Every key is padding: without memory, rows of the query stream see nothing.
    AllPadding,
    /// A random order of prediction.
    Ranks,
    /// The same as bits.
    Bits,
    /// Random bits.
    RandomBits,
}

/// Sizes and switches of one attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
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
    /// T; 0: no query stream.
    pub targets: usize,
    /// The last target of each row is padding.
    pub padded: bool,
    /// With content stream.
    pub content: bool,
    /// Mask.
    pub mask: MaskKind,
    /// With position term.
    pub relative: bool,
    /// G.
    pub groups: usize,
    /// With segment term.
    pub segments: bool,
    /// Left to right.
    pub causal: bool,
    /// M + 1 keys a row.
    pub same_length: bool,
    /// Dropout of probabilities.
    pub rate: f32,
    /// How gradients of biases are written.
    pub write: Write,
    /// Biases and segment embedding are not trained.
    pub frozen: bool,
    /// Half precision of inputs, results and their gradients.
    pub half: Option<DType>,
}

impl Attention {
    /// Content stream with position and segment terms.
    pub fn new(batch: usize, heads: usize, head_dim: usize, length: usize, memory: usize) -> Self {
        Attention {
            batch,
            heads,
            head_dim,
            length,
            memory,
            targets: 0,
            padded: false,
            content: true,
            mask: MaskKind::None,
            relative: true,
            groups: 1,
            segments: true,
            causal: false,
            same_length: false,
            rate: 0.0,
            write: Write::Set,
            frozen: false,
            half: None,
        }
    }
    /// With a query stream of `targets` rows.
    pub fn targets(self, targets: usize) -> Self {
        Attention { targets, ..self }
    }
    /// With a mask.
    pub fn mask(self, mask: MaskKind) -> Self {
        Attention { mask, ..self }
    }
    /// With dropout.
    pub fn rate(self, rate: f32) -> Self {
        Attention { rate, ..self }
    }
    /// What tells configurations apart.
    pub fn label(&self) -> String {
        let Attention { batch, heads, head_dim, length, memory, targets, mask, rate, groups, write, .. } = self;
        let half = self.half.map_or(String::new(), |dtype| format!("{dtype} "));
        let mut label = format!("{half}b{batch} h{heads} d{head_dim} l{length} m{memory} t{targets} {mask:?}");
        let switches = [
            (*groups > 1, format!("groups {groups}")),
            (self.padded, "padded".into()),
            (!self.content, "query alone".into()),
            (!self.relative, "no positions".into()),
            (!self.segments, "no segments".into()),
            (self.causal, "causal".into()),
            (self.same_length, "same length".into()),
            (*rate > 0.0, format!("rate {rate}")),
            (*write == Write::Add, "Add".into()),
            (self.frozen, "frozen".into()),
        ];
        for (_, switch) in switches.iter().filter(|(on, _)| *on) {
            label.push(' ');
            label.push_str(switch);
        }
        label
    }

    fn input(&self, s: &mut Setup, name: &str, shape: impl Into<Shape>) -> TensorId {
        match self.half.map(|dtype| s.stored(dtype)) {
            Some(dtype) => s.sixteenths(name, shape, dtype),
            None => s.normal(name, shape),
        }
    }
    fn result(&self, s: &mut Setup, name: &str, shape: impl Into<Shape>) -> TensorId {
        match self.half.map(|dtype| s.stored(dtype)) {
            Some(dtype) => s.output_in(name, shape, dtype),
            None => s.output(name, shape),
        }
    }

    /// Rank of every row as query and as key: a third of the rows is context that all see.
    fn ranks(&self, s: &mut Setup) -> (Vec<i32>, Vec<i32>) {
        let (mut query, mut key) = (vec![], vec![]);
        for _ in 0..self.batch {
            for rank in s.permutation(self.length) {
                let context = s.rng.random_bool(0.3);
                query.push(if context { 0 } else { rank });
                key.push(if context { -1 } else { rank });
            }
        }
        (query, key)
    }
    fn make_mask(&self, s: &mut Setup) -> Mask {
        let (b, l) = (self.batch, self.length);
        match self.mask {
            MaskKind::None => Mask::None,
            MaskKind::Padding => {
                let padding = (0..b * l).map(|e| i32::from(e % l < (l / 3 + e / l).min(l - 1))).collect();
                Mask::Padding(s.ints("padding", [b, l], padding))
            }
            MaskKind::AllPadding => Mask::Padding(s.ints("padding", [b, l], vec![1; b * l])),
            MaskKind::Ranks => {
                let (query, key) = self.ranks(s);
                Mask::Ranks { query: s.ints("query rank", [b, l], query), key: s.ints("key rank", [b, l], key) }
            }
            MaskKind::Bits => {
                let (query, key) = self.ranks(s);
                let words = pack(b, l, |b, i, j| query[b * l + i] <= key[b * l + j]);
                Mask::Bits(s.words("mask", [b, l, l.div_ceil(32)], words))
            }
            MaskKind::RandomBits => {
                let words = pack(b, l, |_, _, _| s.rng.random_bool(0.5));
                Mask::Bits(s.words("mask", [b, l, l.div_ceil(32)], words))
            }
        }
    }

    /// The forward op with random inputs.
    pub fn forward(&self, s: &mut Setup) -> RelAttention {
        let Attention { batch: b, heads: h, head_dim: d, length: l, memory: m, targets, groups, .. } = *self;
        let n = m + l;
        let q = self.content.then(|| self.input(s, "q", [b, l, h, d]));
        let (k, v) = (self.input(s, "k", [b, n, h, d]), self.input(s, "v", [b, n, h, d]));
        let relative = self.relative.then(|| RelativeTerms {
            r: self.input(s, "r", [groups, n + l, h, d]),
            group: (groups > 1).then(|| s.indices("group", [b], 0, groups as i32)),
            w_bias: self.input(s, "w_bias", [h, d]),
            r_bias: self.input(s, "r_bias", [h, d]),
        });
        let segment = self.segments.then(|| SegmentTerms {
            s_bias: self.input(s, "s_bias", [h, d]),
            seg_embed: self.input(s, "seg_embed", [2, h, d]),
            ids: s.indices("segments", [b, l], 0, 3),
        });
        let mask = self.make_mask(s);
        let dropout = s.attention_dropout(self.rate, b);
        let query = (targets > 0).then(|| {
            let mut positions = vec![];
            for _ in 0..b {
                positions.extend(s.permutation(l.max(targets)).into_iter().take(targets).map(|p| p % l as i32));
                if self.padded {
                    *positions.last_mut().expect("there is a target") = -1;
                }
            }
            QueryStream {
                q: self.input(s, "query q", [b, targets, h, d]),
                positions: s.ints("positions", [b, targets], positions),
                out: self.result(s, "query out", [b, targets, h, d]),
                lse: s.output("query lse", [b, h, targets]),
                site: 1000,
            }
        });
        RelAttention {
            q,
            query,
            k,
            v,
            relative,
            segment,
            mask,
            causal: self.causal,
            same_length: self.same_length,
            scale: (1.0 / (d as f32)).sqrt(),
            dropout,
            out: self.content.then(|| self.result(s, "out", [b, l, h, d])),
            lse: self.content.then(|| s.output("lse", [b, h, l])),
            batch: b,
            heads: h,
            head_dim: d,
            length: l,
            memory: m,
            targets,
            groups,
        }
    }
    /// The gradient op with random gradients of the results.
    pub fn backward(&self, s: &mut Setup, forward: &RelAttention) -> RelAttentionGrad {
        let Attention { batch: b, heads: h, head_dim: d, length: l, memory: m, targets, groups, .. } = *self;
        let n = m + l;
        let (write, trained) = (self.write, !self.frozen);
        RelAttentionGrad {
            forward: forward.clone(),
            dout: self.content.then(|| self.input(s, "dout", [b, l, h, d])),
            dq: self.content.then(|| self.result(s, "dq", [b, l, h, d])),
            query: (targets > 0).then(|| QueryStreamGrad {
                dout: self.input(s, "query dout", [b, targets, h, d]),
                dq: self.result(s, "query dq", [b, targets, h, d]),
            }),
            dk: self.result(s, "dk", [b, n, h, d]),
            dv: self.result(s, "dv", [b, n, h, d]),
            relative: self.relative.then(|| RelativeTermsGrad {
                dr: self.result(s, "dr", [groups, n + l, h, d]),
                dw_bias: trained.then(|| s.target(write, "dw_bias", [h, d])),
                dr_bias: trained.then(|| s.target(write, "dr_bias", [h, d])),
            }),
            segment: self.segments.then(|| SegmentTermsGrad {
                ds_bias: trained.then(|| s.target(write, "ds_bias", [h, d])),
                dseg_embed: trained.then(|| s.target(write, "dseg_embed", [2, h, d])),
            }),
        }
    }
    /// Pushes forward and backward.
    ///
    /// # Errors
    /// When the configuration does not hold together.
    pub fn push_both(&self, s: &mut Setup) -> Result<()> {
        let forward = self.forward(s);
        s.push(forward.clone())?;
        let backward = self.backward(s, &forward);
        s.push(backward)
    }
}

/// Mask words of a pattern over (batch row, row, key).
pub fn pack(b: usize, l: usize, mut hidden: impl FnMut(usize, usize, usize) -> bool) -> Vec<u32> {
    let width = l.div_ceil(32);
    let mut words = vec![0; b * l * width];
    for row in 0..b * l {
        for j in 0..l {
            words[row * width + j / 32] |= u32::from(hidden(row / l, row % l, j)) << (j % 32);
        }
    }
    words
}

/// Inputs of an attention that have gradients, each with its gradient.
pub fn gradients(forward: &RelAttention, backward: &RelAttentionGrad) -> Vec<(TensorId, TensorId)> {
    let mut pairs = vec![(forward.k, backward.dk), (forward.v, backward.dv)];
    pairs.extend(forward.q.zip(backward.dq));
    pairs.extend(forward.query.zip(backward.query).map(|(s, d)| (s.q, d.dq)));
    if let Some((r, d)) = forward.relative.zip(backward.relative) {
        pairs.push((r.r, d.dr));
        pairs.extend(d.dw_bias.map(|d| (r.w_bias, d.id)));
        pairs.extend(d.dr_bias.map(|d| (r.r_bias, d.id)));
    }
    if let Some((s, d)) = forward.segment.zip(backward.segment) {
        pairs.extend(d.ds_bias.map(|d| (s.s_bias, d.id)));
        pairs.extend(d.dseg_embed.map(|d| (s.seg_embed, d.id)));
    }
    pairs
}
