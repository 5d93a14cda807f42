//! Layer normalisation.

use xlnet::op::{CopyBlocks, LayerNorm, LayerNormGrad, Target, Write};
use xlnet::tensor::{DType, TensorId};

use super::WRITES;
use crate::case::Case;
use crate::setup::Setup;

/// Rows and row lengths, the last as in a model.
const ROWS: [(usize, usize); 9] =
    [(1, 3), (3, 17), (17, 31), (31, 33), (33, 59), (5, 97), (7, 111), (3, 257), (64, 768)];
/// The original's epsilon.
const EPS: f32 = 1e-12;

/// All cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (r, d) in ROWS {
        for (residual, rate, kept) in
            [(false, 0.0, false), (true, 0.0, true), (true, 0.1, true), (false, 0.5, true), (true, 0.5, false)]
        {
            // Where `sum` goes: nowhere, to a tensor of its own, over `x`.
            for in_place in [false, true] {
                if in_place && !kept {
                    continue;
                }
                let name =
                    format!("layer_norm/{r}x{d} residual {residual} rate {rate} kept {kept} in place {in_place}");
                cases.push(Case::new(name, move |s| {
                    let x = s.normal("x", [r, d]);
                    let residual = residual.then(|| s.normal("residual", [r, d]));
                    let dropout = s.dropout(rate, r);
                    let (gamma, beta) = (s.normal("gamma", [d]), s.normal("beta", [d]));
                    let out = s.output("out", [r, d]);
                    let sum = kept.then(|| if in_place { x } else { s.output("sum", [r, d]) });
                    let mean = kept.then(|| s.output("mean", [r]));
                    let rstd = kept.then(|| s.output("rstd", [r]));
                    s.push(LayerNorm {
                        x,
                        residual,
                        dropout,
                        gamma,
                        beta,
                        out,
                        rounded: None,
                        sum,
                        mean,
                        rstd,
                        eps: EPS,
                    })
                }));
            }
        }
        for write in WRITES {
            for (rate, in_place, frozen) in
                [(0.0, false, false), (0.0, true, true), (0.1, false, false), (0.5, true, false)]
            {
                let name = format!("layer_norm_grad/{r}x{d} rate {rate} in place {in_place} frozen {frozen} {write:?}");
                cases.push(Case::new(name, move |s| grad(s, (r, d), rate, in_place, frozen, write)));
            }
        }
    }
    for (r, d) in ROWS {
        for (dtype, residual, rate) in
            [(DType::Bf16, true, 0.1), (DType::F16, true, 0.5), (DType::Bf16, true, 0.0), (DType::F16, false, 0.0)]
        {
            cases.extend(halves((r, d), dtype, residual, rate));
        }
    }
    for dtype in [DType::Bf16, DType::F16] {
        let name = format!("layer_norm/{dtype} a row of NaN");
        let case = Case::new(name, move |s| {
            let stored = s.stored(dtype);
            let x = s.sixteenths("x", [3, 17], stored);
            let mut values = s.floats_of(x);
            values[20] = f64::NAN;
            s.fill(x, values);
            let (gamma, beta, out) = (s.normal("gamma", [17]), s.normal("beta", [17]), s.output("out", [3, 17]));
            let rounded = s.output_in("rounded", [3, 17], stored);
            let rounded_too = stored.is_half().then_some(rounded);
            let (residual, dropout, sum, mean, rstd) = (None, None, None, None, None);
            s.push(LayerNorm {
                x,
                residual,
                dropout,
                gamma,
                beta,
                out,
                rounded: rounded_too,
                sum,
                mean,
                rstd,
                eps: EPS,
            })?;
            if rounded_too.is_none() {
                copy(s, out, rounded)?;
            }
            Ok(())
        });
        cases.push(case.rounded(dtype, |name, unit| if name == "rounded" { 1.01 * unit } else { 2.4e-6 }));
    }
    let shifted = Case::new("layer_norm/mean far from zero", |s| {
        let x = s.uniform("x", [7, 97], 999.0, 1001.0);
        let (gamma, beta) = (s.normal("gamma", [97]), s.normal("beta", [97]));
        let out = s.output("out", [7, 97]);
        s.push(LayerNorm {
            x,
            residual: None,
            dropout: None,
            gamma,
            beta,
            out,
            rounded: None,
            sum: None,
            mean: None,
            rstd: None,
            eps: EPS,
        })
    });
    cases.push(shifted.wider(200.0, "the mean is rounded at 1000 times the standard deviation"));
    cases.push(Case::new("layer_norm/a row of NaN", |s| {
        let mut values = s.normals(3 * 17);
        values[20] = f64::NAN;
        let x = s.floats("x", [3, 17], values);
        let (gamma, beta) = (s.normal("gamma", [17]), s.normal("beta", [17]));
        let (out, mean, rstd) = (s.output("out", [3, 17]), Some(s.output("mean", [3])), Some(s.output("rstd", [3])));
        s.push(LayerNorm {
            x,
            residual: None,
            dropout: None,
            gamma,
            beta,
            out,
            rounded: None,
            sum: None,
            mean,
            rstd,
            eps: EPS,
        })
    }));
    cases
}

/// A branch in half precision, as products give it; the result for products, and the gradient of the branch.
fn halves((r, d): (usize, usize), dtype: DType, residual: bool, rate: f32) -> [Case; 2] {
    let once = |name: &str, unit: f64| match name {
        "rounded" | "dx" => 1.01 * unit,
        "out" | "sum" | "mean" | "rstd" => 2.4e-6,
        _ => 4.8e-6,
    };
    let name = format!("{dtype} {r}x{d} residual {residual} rate {rate}");
    let forward = Case::new(format!("layer_norm/{name}"), move |s| {
        let stored = s.stored(dtype);
        let x = s.sixteenths("x", [r, d], stored);
        let residual = residual.then(|| s.normal("residual", [r, d]));
        let dropout = s.dropout(rate, r);
        let (gamma, beta) = (s.normal("gamma", [d]), s.normal("beta", [d]));
        let out = s.output("out", [r, d]);
        let rounded = s.output_in("rounded", [r, d], stored);
        let rounded_too = stored.is_half().then_some(rounded);
        let sum = Some(s.output("sum", [r, d]));
        let (mean, rstd) = (Some(s.output("mean", [r])), Some(s.output("rstd", [r])));
        s.push(LayerNorm { x, residual, dropout, gamma, beta, out, rounded: rounded_too, sum, mean, rstd, eps: EPS })?;
        if !stored.is_half() {
            copy(s, out, rounded)?;
        }
        Ok(())
    });
    let backward = Case::new(format!("layer_norm_grad/{name}"), move |s| {
        let (dout, dsum, sum) = (s.normal("dout", [r, d]), s.output("dsum", [r, d]), s.normal("sum", [r, d]));
        let (gamma, stored) = (s.normal("gamma", [d]), s.stored(dtype));
        let (mean, rstd) = statistics(s, sum, (r, d));
        let dropout = s.dropout(rate, r);
        let dx = s.output_in("dx", [r, d], stored);
        let dx_too = (stored.is_half() || dropout.is_some()).then_some(dx);
        let (dgamma, dbeta) = (Some(s.target(Write::Set, "dgamma", [d])), Some(s.target(Write::Set, "dbeta", [d])));
        s.push(LayerNormGrad { dout, sum, mean, rstd, gamma, dsum, dx: dx_too, dropout, dgamma, dbeta })?;
        if dx_too.is_none() {
            copy(s, dsum, dx)?;
        }
        Ok(())
    });
    [forward, backward].map(|case| case.rounded(dtype, once))
}

/// What a program in f64 does where another one rounds.
fn copy(s: &mut Setup, src: TensorId, dst: TensorId) -> xlnet::Result<()> {
    let (length, dst) = (s.builder.shape(src).len(), Target::set(dst));
    s.push(CopyBlocks { src, src_offset: 0, src_stride: 0, dst, dst_offset: 0, dst_stride: 0, blocks: 1, length })
}

/// Mean and reciprocal deviation of the rows of `sum`.
fn statistics(s: &mut Setup, sum: TensorId, (r, d): (usize, usize)) -> (TensorId, TensorId) {
    let rows = s.floats_of(sum);
    let means: Vec<f64> = rows.chunks(d).map(|row| row.iter().sum::<f64>() / d as f64).collect();
    let variance = |(row, mean): (&[f64], &f64)| row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
    let rstds: Vec<f64> = rows.chunks(d).zip(&means).map(|row| 1.0 / variance(row).sqrt()).collect();
    (s.floats("mean", [r], means), s.floats("rstd", [r], rstds))
}

fn grad(
    s: &mut Setup,
    (r, d): (usize, usize),
    rate: f32,
    in_place: bool,
    frozen: bool,
    write: Write,
) -> xlnet::Result<()> {
    let (dout, sum, gamma) = (s.normal("dout", [r, d]), s.normal("sum", [r, d]), s.normal("gamma", [d]));
    let (mean, rstd) = statistics(s, sum, (r, d)); // which belong to the sum
    let dsum = if in_place { dout } else { s.output("dsum", [r, d]) };
    let dropout = s.dropout(rate, r);
    let dx = dropout.map(|_| s.output("dx", [r, d]));
    let dgamma = (!frozen).then(|| s.target(write, "dgamma", [d]));
    let dbeta = (!frozen).then(|| s.target(write, "dbeta", [d]));
    s.push(LayerNormGrad { dout, sum, mean, rstd, gamma, dsum, dx, dropout, dgamma, dbeta })
}
