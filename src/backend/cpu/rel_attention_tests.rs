//! Relative attention against loops over its definition, central differences and outside implementations.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::real::Real;
use super::rel_attention::{self, Dropout, Inputs, Mask, Outputs, Query, Relative, Segments, Sizes};
use super::rel_attention_grad::{self, Gradients, ParamGrad, Saved};
use crate::op::philox::{self, Keep};

#[derive(Clone, Debug)]
enum OwnedMask {
    None,
    Padding(Vec<i32>),
    Ranks(Vec<i32>, Vec<i32>),
    Bits(Vec<u32>),
}

/// Everything that a call reads, in f64; what is absent is empty.
#[derive(Clone, Debug)]
struct Case {
    sizes: Sizes,
    q: Vec<f64>,
    query_q: Vec<f64>,
    positions: Vec<i32>,
    k: Vec<f64>,
    v: Vec<f64>,
    r: Vec<f64>,
    group: Option<Vec<i32>>,
    w_bias: Vec<f64>,
    r_bias: Vec<f64>,
    s_bias: Vec<f64>,
    seg_embed: Vec<f64>,
    ids: Vec<i32>,
    mask: OwnedMask,
    causal: bool,
    same_length: bool,
    scale: f64,
    dropout: Option<Dropout<'static>>,
    dout: Vec<f64>,
    query_dout: Vec<f64>,
}

const NAMES: [&str; 13] = [
    "out",
    "lse",
    "query_out",
    "query_lse",
    "dq",
    "query_dq",
    "dk",
    "dv",
    "dr",
    "dw_bias",
    "dr_bias",
    "ds_bias",
    "dseg_embed",
];
/// One tensor per name of [`NAMES`].
type Results = [Vec<f64>; 13];

impl Case {
    /// Lengths of the results.
    fn lengths(&self) -> [usize; 13] {
        let d = self.sizes.head_dim;
        let (q, t) = (self.q.len(), self.query_q.len());
        [
            q,
            q / d,
            t,
            t / d,
            q,
            t,
            self.k.len(),
            self.v.len(),
            self.r.len(),
            self.w_bias.len(),
            self.r_bias.len(),
            self.s_bias.len(),
            self.seg_embed.len(),
        ]
    }

    /// Forward and backward by the fast code; parameter gradients are added to `old`.
    fn run<R: Real>(&self, threads: usize, old: Option<f64>) -> Results {
        let cast = |x: &[f64]| x.iter().map(|&x| R::from_f64(x)).collect::<Vec<R>>();
        let [q, query_q, k, v, r] = [&self.q, &self.query_q, &self.k, &self.v, &self.r].map(|x| cast(x));
        let [w, rb, s, e] = [&self.w_bias, &self.r_bias, &self.s_bias, &self.seg_embed].map(|x| cast(x));
        let [dout, query_dout] = [&self.dout, &self.query_dout].map(|x| cast(x));
        let inputs = Inputs {
            content: (!q.is_empty()).then_some(&q[..]),
            query: (!query_q.is_empty()).then_some(Query { q: &query_q, positions: &self.positions }),
            k: &k,
            v: &v,
            relative: (!r.is_empty()).then_some(Relative {
                r: &r,
                group: self.group.as_deref(),
                w_bias: &w,
                r_bias: &rb,
            }),
            segments: (!s.is_empty()).then_some(Segments { s_bias: &s, seg_embed: &e, ids: &self.ids }),
            mask: match &self.mask {
                OwnedMask::None => Mask::None,
                OwnedMask::Padding(padding) => Mask::Padding(padding),
                OwnedMask::Ranks(query, key) => Mask::Ranks { query, key },
                OwnedMask::Bits(bits) => Mask::Bits(bits),
            },
            causal: self.causal,
            same_length: self.same_length,
            scale: R::from_f64(self.scale),
            dropout: self.dropout,
        };
        // What is there before must not matter.
        let mut results = self.lengths().map(|len| vec![R::from_f64(f64::NAN); len]);
        if let Some(old) = old {
            results[9..].iter_mut().for_each(|grad| grad.fill(R::from_f64(old)));
        }
        let [out, lse, query_out, query_lse, dq, query_dq, dk, dv, dr, dw, drb, ds, de] = &mut results;
        let workspace = |len| vec![R::from_f64(f64::NAN); len];
        let mut outputs = Outputs { out, lse, query_out, query_lse };
        let mut space = workspace(rel_attention::workspace_len(&self.sizes, threads));
        rel_attention::forward(&self.sizes, &inputs, &mut outputs, &mut space).unwrap();
        let saved = Saved { out, lse, dout: &dout, query_out, query_lse, query_dout: &query_dout };
        let accumulate = old.is_some();
        let mut gradients = Gradients {
            dq,
            query_dq,
            dk,
            dv,
            dr,
            dw_bias: ParamGrad { data: dw, accumulate },
            dr_bias: ParamGrad { data: drb, accumulate },
            ds_bias: ParamGrad { data: ds, accumulate },
            dseg_embed: ParamGrad { data: de, accumulate },
        };
        let mut space = workspace(rel_attention_grad::workspace_len(&self.sizes, threads));
        rel_attention_grad::backward(&self.sizes, &inputs, &saved, &mut gradients, &mut space).unwrap();
        results.map(|x| x.into_iter().map(R::to_f64).collect())
    }

    fn hidden(&self, b: usize, i: usize, j: usize, sees_itself: bool) -> bool {
        let Sizes { rows: l, memory: m, .. } = self.sizes;
        if sees_itself && j == m + i {
            return false;
        }
        let masked = j >= m && {
            let (i, j) = (b * l + i, b * l + j - m);
            match &self.mask {
                OwnedMask::None => false,
                OwnedMask::Padding(padding) => padding[j] != 0,
                OwnedMask::Ranks(query, key) => query[i] <= key[j],
                OwnedMask::Bits(bits) => {
                    let j = j - b * l;
                    bits[i * l.div_ceil(32) + j / 32] >> (j % 32) & 1 == 1
                }
            }
        };
        masked || self.causal && j > m + i || self.same_length && j < i
    }

    fn keep(&self, b: usize, h: usize, row: usize, j: usize, site: fn(&Dropout<'_>) -> u32) -> f64 {
        let Some(dropout) = &self.dropout else { return 1.0 };
        let head = dropout.batch_rows[b] * self.sizes.heads as u32 + h as u32;
        let counter = [j as u32 / 8, row as u32, head, site(dropout)];
        let word = philox::block(counter, dropout.keep.key())[j % 8 / 2];
        let bits = word >> (16 * (j % 2)) & 0xFFFF;
        if bits >= dropout.keep.threshold() { dropout.keep.scale() } else { 0.0 }
    }

    /// The definition, element by element.
    fn naive(&self) -> Results {
        let Sizes { batch, heads, head_dim: d, rows: l, memory: m, query_rows, .. } = self.sizes;
        let (n, p) = (self.sizes.keys(), self.sizes.positions());
        let mut results = self.lengths().map(|len| vec![0.0; len]);
        let [out, lse, query_out, query_lse, dq, query_dq, dk, dv, dr, dw, drb, ds_bias, de] = &mut results;
        for query in [false, true] {
            let (q, rows, dout) =
                if query { (&self.query_q, query_rows, &self.query_dout) } else { (&self.q, l, &self.dout) };
            let (out, lse, dq) = if query {
                (&mut *query_out, &mut *query_lse, &mut *query_dq)
            } else {
                (&mut *out, &mut *lse, &mut *dq)
            };
            let site: fn(&Dropout<'_>) -> u32 = if query { |d| d.query_site } else { |d| d.content_site };
            for (b, h, row) in (0..if q.is_empty() { 0 } else { batch * heads * rows })
                .map(|at| (at / rows / heads, at / rows % heads, at % rows))
            {
                let position = if query { self.positions[b * rows + row] } else { row as i32 };
                let Ok(i) = usize::try_from(position) else { continue };
                let group = self.group.as_ref().map_or(0, |group| group[b] as usize);
                let q_at = ((b * rows + row) * heads + h) * d;
                let k_at = |j: usize| ((b * n + j) * heads + h) * d;
                let r_at = |j: usize| ((group * p + l - i + j) * heads + h) * d;
                let different = |j: usize| {
                    let id = if j < m { 0 } else { self.ids[b * l + j - m] };
                    usize::from(id != self.ids[b * l + i])
                };
                let e_at = |j: usize| (different(j) * heads + h) * d;
                let mut score = vec![0.0; n];
                for (j, score) in score.iter_mut().enumerate() {
                    for c in 0..d {
                        let q = q[q_at + c];
                        let w = self.w_bias.get(h * d + c).copied().unwrap_or(0.0);
                        *score += self.scale * (q + w) * self.k[k_at(j) + c];
                        if !self.r.is_empty() {
                            *score += self.scale * (q + self.r_bias[h * d + c]) * self.r[r_at(j) + c];
                        }
                        if !self.s_bias.is_empty() {
                            *score += self.scale * (q + self.s_bias[h * d + c]) * self.seg_embed[e_at(j) + c];
                        }
                    }
                    if self.hidden(b, i, j, !query) {
                        *score = -1e30;
                    }
                }
                let max = score.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = score.iter().map(|s| (s - max).exp()).sum();
                lse[(b * heads + h) * rows + row] = max + sum.ln();
                let prob: Vec<f64> = score.iter().map(|s| (s - max).exp() / sum).collect();
                let keep: Vec<f64> = (0..n).map(|j| self.keep(b, h, row, j, site)).collect();
                let mut dp = vec![0.0; n];
                for (j, dp) in dp.iter_mut().enumerate() {
                    for c in 0..d {
                        out[q_at + c] += keep[j] * prob[j] * self.v[k_at(j) + c];
                        dv[k_at(j) + c] += keep[j] * prob[j] * dout[q_at + c];
                        *dp += keep[j] * dout[q_at + c] * self.v[k_at(j) + c];
                    }
                }
                let delta: f64 = prob.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for j in 0..n {
                    let ds = self.scale * prob[j] * (dp[j] - delta);
                    for c in 0..d {
                        let (at, q) = (h * d + c, q[q_at + c]);
                        let w = self.w_bias.get(at).copied().unwrap_or(0.0);
                        dk[k_at(j) + c] += ds * (q + w);
                        dq[q_at + c] += ds * self.k[k_at(j) + c];
                        if !self.r.is_empty() {
                            dw[at] += ds * self.k[k_at(j) + c];
                            dr[r_at(j) + c] += ds * (q + self.r_bias[at]);
                            drb[at] += ds * self.r[r_at(j) + c];
                            dq[q_at + c] += ds * self.r[r_at(j) + c];
                        }
                        if !self.s_bias.is_empty() {
                            de[e_at(j) + c] += ds * (q + self.s_bias[at]);
                            ds_bias[at] += ds * self.seg_embed[e_at(j) + c];
                            dq[q_at + c] += ds * self.seg_embed[e_at(j) + c];
                        }
                    }
                }
            }
        }
        results
    }

    /// A random case; every choice that the op offers comes up.
    fn random(rng: &mut ChaCha8Rng, lengths: &[usize], dims: &[usize]) -> Self {
        let mut pick = |choices: &[usize]| choices[rng.random_range(0..choices.len())];
        let (batch, heads, head_dim) = (pick(&[1, 2, 3, 4]), pick(&[1, 2, 3]), pick(dims));
        let (l, memory) = (pick(lengths), if pick(&[0, 1]) == 0 { 0 } else { pick(lengths) });
        let (streams, groups) = (pick(&[0, 1, 2]), pick(&[0, 1, 1, 2, batch]));
        let query_rows = if streams == 0 { 0 } else { pick(&[1, 5, 13, l, 2 * l]) };
        let (segments, mask, dropout, attention) =
            (pick(&[0, 1]), pick(&[0, 1, 2, 3]), pick(&[0, 1]), pick(&[0, 0, 1, 2]));
        let (ascending, hide_all) = (pick(&[0, 1, 1]) == 1, pick(&[0, 0, 1]) == 1);
        let sizes = Sizes { batch, heads, head_dim, rows: l, memory, query_rows, groups };
        let mut numbers = |n: usize| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f64>>();
        let hd = heads * head_dim;
        let q_len = if streams == 1 { 0 } else { batch * l * hd };
        let (q, dout) = (numbers(q_len), numbers(q_len));
        let (query_q, query_dout) = (numbers(batch * query_rows * hd), numbers(batch * query_rows * hd));
        let (k, v) = (numbers(batch * sizes.keys() * hd), numbers(batch * sizes.keys() * hd));
        let mut r = numbers(groups * sizes.positions() * hd);
        // Row 0 of every group is never read.
        for row in r.chunks_exact_mut((sizes.positions() * hd).max(1)) {
            row[..hd].fill(f64::NAN);
        }
        let bias = hd * groups.min(1);
        let (w_bias, r_bias) = (numbers(bias), numbers(bias));
        let (s_bias, seg_embed) = (numbers(segments * hd), numbers(segments * 2 * hd));
        let mut integers = |n: usize, range: std::ops::Range<i32>| {
            (0..n).map(|_| rng.random_range(range.clone())).collect::<Vec<i32>>()
        };
        let ids = integers(batch * l, 0..3);
        let mut positions = integers(batch * query_rows, -1..l as i32);
        if ascending {
            positions.chunks_mut(query_rows.max(1)).for_each(<[i32]>::sort_unstable);
        }
        let group = (groups > 1).then(|| integers(batch, 0..groups as i32));
        let mask = match mask {
            0 => OwnedMask::None,
            1 if hide_all => OwnedMask::Padding(vec![1; batch * l]),
            1 => OwnedMask::Padding(integers(batch * l, 0..2)),
            2 if hide_all => OwnedMask::Ranks(vec![0; batch * l], vec![0; batch * l]),
            2 => OwnedMask::Ranks(integers(batch * l, 0..9), integers(batch * l, -1..8)),
            _ => {
                let words = integers(batch * l * l.div_ceil(32), i32::MIN..i32::MAX);
                OwnedMask::Bits(words.iter().map(|&word| if hide_all { u32::MAX } else { word as u32 }).collect())
            }
        };
        Self {
            sizes,
            q,
            query_q,
            positions,
            k,
            v,
            r,
            group,
            w_bias,
            r_bias,
            s_bias,
            seg_embed,
            ids,
            mask,
            causal: attention > 0,
            same_length: attention > 1,
            scale: 1.0 / (head_dim as f64).sqrt(),
            dropout: (dropout == 1).then(|| Dropout {
                keep: Keep::new([3, 4], 0.2).unwrap(),
                batch_rows: &[5, 1, 9, 2],
                content_site: 10,
                query_site: 11,
            }),
            dout,
            query_dout,
        }
    }
}

/// Largest difference relative to the largest element that is wanted, lse and small tensors at least to 1.
fn compare(case: &Case, got: &Results, want: &Results, tolerance: f64) {
    for ((name, got), want) in NAMES.iter().zip(got).zip(want) {
        let size = want.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
        for (at, (got, want)) in got.iter().zip(want).enumerate() {
            let bound = if *name == "lse" || *name == "query_lse" { want.abs().max(1.0) } else { size.max(0.1) };
            let error = (got - want).abs() / bound;
            assert!(
                error <= tolerance,
                "{name}[{at}]: {got} instead of {want}, {:?} causal {} same_length {} dropout {} mask {}",
                case.sizes,
                case.causal,
                case.same_length,
                case.dropout.is_some(),
                match case.mask {
                    OwnedMask::None => "none",
                    OwnedMask::Padding(_) => "padding",
                    OwnedMask::Ranks(..) => "ranks",
                    OwnedMask::Bits(_) => "bits",
                }
            );
        }
    }
}

#[test]
fn agrees_with_the_definition() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for round in 0..160 {
        let lengths: &[usize] = if round % 8 == 0 { &[59, 100] } else { &[1, 3, 17, 33] };
        let case = Case::random(&mut rng, lengths, &[3, 16, 48, 64]);
        let want = case.naive();
        compare(&case, &case.run::<f64>(2, None), &want, 1e-12);
        compare(&case, &case.run::<f32>(2, None), &want, 2e-5);
    }
}

#[test]
fn other_head_dims() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for dim in [1, 15, 32, 65, 128, 130] {
        let case = Case::random(&mut rng, &[20], &[dim]);
        let want = case.naive();
        compare(&case, &case.run::<f64>(1, None), &want, 1e-12);
        compare(&case, &case.run::<f32>(1, None), &want, 2e-5);
    }
}

#[test]
fn same_bits_for_any_number_of_threads_and_added_where_asked() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..10 {
        let case = Case::random(&mut rng, &[17, 50], &[16, 64]);
        let one = case.run::<f32>(1, None);
        assert_eq!(one, case.run::<f32>(5, None));
        let mut want = one;
        want[9..].iter_mut().flatten().for_each(|x| *x += 0.5);
        compare(&case, &case.run::<f32>(2, Some(0.5)), &want, 1e-5);
    }
}

#[test]
fn gradients_are_the_central_differences() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let loss = |case: &Case| -> f64 {
        let [out, _, query_out, ..] = case.naive();
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        dot(&out, &case.dout) + dot(&query_out, &case.query_dout)
    };
    for _ in 0..12 {
        let mut case = Case::random(&mut rng, &[3, 6], &[3, 5]);
        if !matches!(case.mask, OwnedMask::None | OwnedMask::Ranks(..)) || case.sizes.memory == 0 {
            // Where a row sees no key, the gradient is by definition not that of the constant -1e30.
            case.mask = OwnedMask::None;
        }
        case.same_length = false;
        let got = case.run::<f64>(2, None);
        let parameters: [fn(&mut Case) -> &mut Vec<f64>; 9] = [
            |c| &mut c.q,
            |c| &mut c.query_q,
            |c| &mut c.k,
            |c| &mut c.v,
            |c| &mut c.r,
            |c| &mut c.w_bias,
            |c| &mut c.r_bias,
            |c| &mut c.s_bias,
            |c| &mut c.seg_embed,
        ];
        for ((name, got), parameter) in NAMES[4..].iter().zip(&got[4..]).zip(parameters) {
            for at in (0..got.len()).step_by(got.len() / 10 + 1) {
                let at_step = |step: f64| {
                    let mut case = case.clone();
                    parameter(&mut case)[at] += step;
                    loss(&case)
                };
                if parameter(&mut case.clone())[at].is_nan() {
                    assert_eq!(got[at], 0.0, "{name}: row 0 of r");
                    continue;
                }
                let want = (at_step(1e-5) - at_step(-1e-5)) / 2e-5;
                assert!((got[at] - want).abs() < 1e-8, "{name}[{at}]: {} instead of {want}", got[at]);
            }
        }
    }
}

#[test]
fn wrong_lengths_and_indices_are_errors() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let sizes = Sizes { batch: 1, heads: 1, head_dim: 2, rows: 3, memory: 0, query_rows: 1, groups: 1 };
    let x = (0..12).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
    let try_with = |positions: &[i32], group: &[i32], k: &[f32], workspace: usize| {
        let inputs = Inputs {
            content: None,
            query: Some(Query { q: &x[..2], positions }),
            k,
            v: &x[..6],
            relative: Some(Relative { r: &x, group: Some(group), w_bias: &x[..2], r_bias: &x[..2] }),
            segments: None,
            mask: Mask::None,
            causal: false,
            same_length: false,
            scale: 1.0,
            dropout: None,
        };
        let (mut query_out, mut query_lse) = ([0.0; 2], [0.0; 1]);
        let mut outputs = Outputs { out: &mut [], lse: &mut [], query_out: &mut query_out, query_lse: &mut query_lse };
        rel_attention::forward(&sizes, &inputs, &mut outputs, &mut vec![0.0; workspace])
    };
    let enough = rel_attention::workspace_len(&sizes, 1);
    assert!(try_with(&[2], &[0], &x[..6], enough).is_ok());
    assert!(try_with(&[3], &[0], &x[..6], enough).is_err());
    assert!(try_with(&[-2], &[0], &x[..6], enough).is_err());
    assert!(try_with(&[2], &[1], &x[..6], enough).is_err());
    assert!(try_with(&[2], &[0], &x[..5], enough).is_err());
    assert!(try_with(&[2], &[0], &x[..6], enough - 1).is_err());
}

/// Cases by outside implementations, in the directories of `XLNET_GOLDEN`.
#[test]
fn agrees_with_golden_cases() {
    let directories = std::env::var("XLNET_GOLDEN").unwrap_or_default();
    for directory in directories.split(':').filter(|directory| !directory.is_empty()) {
        let Ok(files) = std::fs::read_dir(std::path::Path::new(directory).join("attention")) else { continue };
        for file in
            files.map(|file| file.unwrap().path()).filter(|file| file.extension().is_some_and(|e| e == "safetensors"))
        {
            let (case, want) = golden(&file);
            compare_golden(&file, &case.run::<f32>(2, None), &want);
        }
    }
}

/// Within 2e-5 of the largest element; tensors that the file has not are not compared.
fn compare_golden(file: &std::path::Path, got: &Results, want: &Results) {
    let mut worst = (0.0, "");
    for ((name, got), want) in NAMES.iter().zip(got).zip(want) {
        let size = want.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
        for (got, want) in got.iter().zip(want) {
            let error = (got - want).abs() / size;
            assert!(error <= 2e-5, "{}: {name} {got} instead of {want}", file.display());
            if error > worst.0 {
                worst = (error, name);
            }
        }
    }
    println!("{}: cpu, largest error {:.1e} in {}, ok", file.file_stem().unwrap().display(), worst.0, worst.1);
}

fn golden(file: &std::path::Path) -> (Case, Results) {
    let bytes = std::fs::read(file).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let meta: serde_json::Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["case"]).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f64> {
        let Ok(tensor) = tensors.tensor(name) else { return vec![] };
        tensor.data().as_chunks::<4>().0.iter().map(|&x| f64::from(f32::from_le_bytes(x))).collect()
    };
    // [B,heads,length,d] -> [B,length,heads,d]
    let heads_inside = |name: &str| {
        let x = floats(name);
        let Ok(tensor) = tensors.tensor(name) else { return vec![] };
        let &[_, h, l, d] = tensor.shape() else { panic!("{name} has four dimensions") };
        (0..x.len()).map(|at| x[(((at / (l * h * d)) * h + at / d % h) * l + at / (h * d) % l) * d + at % d]).collect()
    };
    let integers = |name: &str| -> Vec<i32> {
        let Ok(tensor) = tensors.tensor(name) else { return vec![] };
        match tensor.dtype() {
            safetensors::Dtype::U8 => tensor.data().iter().map(|&x| i32::from(x)).collect(),
            _ => tensor.data().as_chunks::<4>().0.iter().map(|&x| i32::from_le_bytes(x)).collect(),
        }
    };
    let size = |name: &str| meta[name].as_u64().unwrap() as usize;
    let two = meta["bidirectional"].as_bool().unwrap();
    let batch = size("batch");
    let case = Case {
        sizes: Sizes {
            batch,
            heads: size("heads"),
            head_dim: size("head_dim"),
            rows: size("q_len"),
            memory: size("mem_len"),
            query_rows: size("query_rows"),
            groups: if two { 2 } else { 1 },
        },
        q: heads_inside("q"),
        query_q: heads_inside("query_q"),
        positions: integers("query_positions"),
        k: heads_inside("k"),
        v: heads_inside("v"),
        r: heads_inside("r"),
        group: two.then(|| (0..batch).map(|b| (2 * b / batch) as i32).collect()),
        w_bias: floats("r_w_bias"),
        r_bias: floats("r_r_bias"),
        s_bias: floats("r_s_bias"),
        seg_embed: floats("seg_embed"),
        ids: integers("segment_ids"),
        mask: match meta["mask"].as_str().unwrap() {
            "none" => OwnedMask::None,
            "padding" => OwnedMask::Padding(integers("key_padding")),
            "perm" => OwnedMask::Ranks(integers("query_rank"), integers("key_rank")),
            other => panic!("no mask is called {other}"),
        },
        causal: false,
        same_length: false,
        scale: meta["scale"].as_f64().unwrap(),
        dropout: None,
        dout: heads_inside("dout"),
        query_dout: heads_inside("query_dout"),
    };
    let want = [
        heads_inside("out"),
        vec![],
        heads_inside("query_out"),
        vec![],
        heads_inside("dq"),
        heads_inside("dquery_q"),
        heads_inside("dk"),
        heads_inside("dv"),
        heads_inside("dr"),
        floats("dr_w_bias"),
        floats("dr_r_bias"),
        floats("dr_s_bias"),
        floats("dseg_embed"),
    ];
    (case, want)
}
