//! Movement of rows, matrix products, layer normalisation.

use super::Env;
use crate::Result;
use crate::op::{
    Cast, ColumnSum, CopyBlocks, Fill, GatherRows, GatherRowsGrad, LayerNorm, LayerNormGrad, MatMul, MixRows,
    MixRowsGrad, PositionEncoding, WeightedRows, WeightedRowsGrad, Write,
};

pub(super) fn fill(op: &Fill, t: &mut Env) -> Result<()> {
    let out = vec![f64::from(op.value); t.len(op.out)];
    t.set(op.out, &out);
    Ok(())
}

pub(super) fn copy_blocks(op: &CopyBlocks, t: &mut Env) -> Result<()> {
    let (src, mut dst) = (t.floats(op.src), t.floats(op.dst.id));
    for i in 0..op.blocks {
        for e in 0..op.length {
            let value = src[op.src_offset + i * op.src_stride + e];
            let at = &mut dst[op.dst_offset + i * op.dst_stride + e];
            *at = if op.dst.write == Write::Set { value } else { *at + value };
        }
    }
    t.set(op.dst.id, &dst);
    Ok(())
}

pub(super) fn gather_rows(op: &GatherRows, t: &mut Env) -> Result<()> {
    let (table, d) = (t.floats(op.table), t.last(op.table));
    let ids = t.indices(op.ids, i32::MIN, table.len() / d)?;
    let mut out = vec![0.0; ids.len() * d];
    for (r, &id) in ids.iter().enumerate().filter(|(_, id)| **id >= 0) {
        for c in 0..d {
            out[r * d + c] = table[id as usize * d + c];
        }
    }
    t.set(op.out, &out);
    Ok(())
}

pub(super) fn gather_rows_grad(op: &GatherRowsGrad, t: &mut Env) -> Result<()> {
    let (dout, d) = (t.floats(op.dout), t.last(op.dtable.id));
    let mut dtable = vec![0.0; t.len(op.dtable.id)];
    let ids = t.indices(op.ids, i32::MIN, dtable.len() / d)?;
    for (r, &id) in ids.iter().enumerate().filter(|(_, id)| **id >= 0) {
        for c in 0..d {
            dtable[id as usize * d + c] += dout[r * d + c];
        }
    }
    t.put(op.dtable, &dtable);
    Ok(())
}

pub(super) fn mix_rows(op: &MixRows, t: &mut Env) -> Result<()> {
    let (row, n) = (t.floats(op.row), t.len(op.out));
    let d = row.len();
    let weight = op.weight.map_or_else(|| vec![1.0; n / d], |id| t.floats(id));
    let x = op.x.map_or_else(|| vec![0.0; n], |id| t.floats(id));
    let out: Vec<f64> = (0..n).map(|e| weight[e / d] * row[e % d] + (1.0 - weight[e / d]) * x[e]).collect();
    t.set(op.out, &out);
    Ok(())
}

pub(super) fn mix_rows_grad(op: &MixRowsGrad, t: &mut Env) -> Result<()> {
    let dout = t.floats(op.dout);
    // Without weights there is no dx, and `drow` alone says how long a row is.
    let d = match (op.drow, op.weight) {
        (Some(drow), _) => t.len(drow.id),
        (None, Some(weight)) => dout.len() / t.len(weight),
        (None, None) => return Ok(()),
    };
    let weight = op.weight.map_or_else(|| vec![1.0; dout.len() / d], |id| t.floats(id));
    let mut drow_sum = vec![0.0; d];
    let mut dx = vec![0.0; dout.len()];
    for e in 0..dout.len() {
        drow_sum[e % d] += weight[e / d] * dout[e];
        dx[e] = (1.0 - weight[e / d]) * dout[e];
    }
    if let Some(target) = op.drow {
        t.put(target, &drow_sum);
    }
    if let Some(target) = op.dx {
        t.put(target, &dx);
    }
    Ok(())
}

pub(super) fn weighted_rows(op: &WeightedRows, t: &mut Env) -> Result<()> {
    let (x, weight, d) = (t.floats(op.x), t.floats(op.weight), t.last(op.x));
    let l = t.last(op.weight);
    let mut out = vec![0.0; t.len(op.out)];
    for (row, w) in weight.iter().enumerate() {
        for c in 0..d {
            out[row / l * d + c] += w * x[row * d + c];
        }
    }
    t.set(op.out, &out);
    Ok(())
}

pub(super) fn weighted_rows_grad(op: &WeightedRowsGrad, t: &mut Env) -> Result<()> {
    let (x, weight, dout) = (t.floats(op.x), t.floats(op.weight), t.floats(op.dout));
    let (d, l) = (t.last(op.x), t.last(op.weight));
    let mut dx = vec![0.0; x.len()];
    let mut dweight = vec![0.0; weight.len()];
    for (row, w) in weight.iter().enumerate() {
        for c in 0..d {
            dx[row * d + c] = w * dout[row / l * d + c];
            dweight[row] += x[row * d + c] * dout[row / l * d + c];
        }
    }
    t.put(op.dx, &dx);
    if let Some(id) = op.dweight {
        t.set(id, &dweight);
    }
    Ok(())
}

pub(super) fn position_encoding(op: &PositionEncoding, t: &mut Env) -> Result<()> {
    let dims = t.desc(op.out).shape.dims().to_vec();
    let (groups, positions, d) = (dims[0], dims[1], dims[2]);
    let backward: Vec<bool> = match op.direction {
        Some(id) => t.store.ints(id).iter().map(|&direction| direction != 0).collect(),
        None => (0..groups).map(|g| groups == 2 && g == 1).collect(),
    };
    let mut out = vec![];
    for backward in backward {
        for row in 0..positions {
            let distance = op.keys as f64 - row as f64;
            let p = if backward { -distance } else { distance };
            let p = op.clamp_len.map_or(p, |limit| p.clamp(-(limit as f64), limit as f64));
            let angle = |i: usize| p * 10000f64.powf(-2.0 * i as f64 / d as f64);
            out.extend((0..d / 2).map(|i| angle(i).sin()));
            out.extend((0..d / 2).map(|i| angle(i).cos()));
        }
    }
    t.set(op.out, &out);
    Ok(())
}

pub(super) fn cast(op: &Cast, t: &mut Env) -> Result<()> {
    let values = t.floats(op.src);
    t.set(op.out, &values); // which rounds
    Ok(())
}

pub(super) fn matmul(op: &MatMul, t: &mut Env) -> Result<()> {
    let (a, b) = (t.floats(op.a), t.floats(op.b));
    let (m, n, k) = (op.m, op.n, op.k);
    let bias = op.bias.map_or_else(|| vec![0.0; n], |id| t.floats(id));
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for s in 0..k {
            let left = a[if op.trans_a { s * m + i } else { i * k + s }];
            for j in 0..n {
                out[i * n + j] += left * b[if op.trans_b { j * k + s } else { s * n + j }];
            }
        }
        for j in 0..n {
            out[i * n + j] += bias[j];
        }
    }
    t.put(op.out, &out);
    Ok(())
}

pub(super) fn column_sum(op: &ColumnSum, t: &mut Env) -> Result<()> {
    let mut out = vec![0.0; t.len(op.out.id)];
    for row in t.floats(op.x).chunks(out.len()) {
        for (sum, x) in out.iter_mut().zip(row) {
            *sum += x;
        }
    }
    t.put(op.out, &out);
    Ok(())
}

pub(super) fn layer_norm(op: &LayerNorm, t: &mut Env) -> Result<()> {
    let (x, gamma, beta) = (t.floats(op.x), t.floats(op.gamma), t.floats(op.beta));
    let (n, d) = (x.len(), gamma.len());
    let residual = op.residual.map_or_else(|| vec![0.0; n], |id| t.floats(id));
    let factor = t.dropout_factors(op.dropout, n, d)?;
    let sum: Vec<f64> = (0..n).map(|e| x[e] * factor[e] + residual[e]).collect();
    let (mut means, mut rstds, mut out) = (vec![], vec![], vec![]);
    for row in sum.chunks(d) {
        let mean = row.iter().sum::<f64>() / d as f64;
        let variance = row.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / d as f64;
        let rstd = 1.0 / (variance + f64::from(op.eps)).sqrt();
        out.extend((0..d).map(|c| (row[c] - mean) * rstd * gamma[c] + beta[c]));
        means.push(mean);
        rstds.push(rstd);
    }
    // `sum` may be `x` itself: everything has been read by now.
    for (id, values) in [(Some(op.out), &out), (op.rounded, &out), (op.sum, &sum), (op.mean, &means), (op.rstd, &rstds)]
    {
        if let Some(id) = id {
            t.set(id, values);
        }
    }
    Ok(())
}

/// With `n = (sum - mean) * rstd` and `g = dout * gamma`: `dsum = rstd * (g - mean(g) - n * mean(g * n))`,
/// `dgamma = sum of dout * n`, `dbeta = sum of dout`.
pub(super) fn layer_norm_grad(op: &LayerNormGrad, t: &mut Env) -> Result<()> {
    let (dout, sum, gamma) = (t.floats(op.dout), t.floats(op.sum), t.floats(op.gamma));
    let (mean, rstd) = (t.floats(op.mean), t.floats(op.rstd));
    let (n, d) = (dout.len(), gamma.len());
    let (mut dsum, mut dgamma, mut dbeta) = (vec![0.0; n], vec![0.0; d], vec![0.0; d]);
    for r in 0..n / d {
        let normed: Vec<f64> = (0..d).map(|c| (sum[r * d + c] - mean[r]) * rstd[r]).collect();
        let g: Vec<f64> = (0..d).map(|c| dout[r * d + c] * gamma[c]).collect();
        let mean_g = g.iter().sum::<f64>() / d as f64;
        let mean_gn = g.iter().zip(&normed).map(|(g, n)| g * n).sum::<f64>() / d as f64;
        for c in 0..d {
            dsum[r * d + c] = rstd[r] * (g[c] - mean_g - normed[c] * mean_gn);
            dgamma[c] += dout[r * d + c] * normed[c];
            dbeta[c] += dout[r * d + c];
        }
    }
    let factor = t.dropout_factors(op.dropout, n, d)?;
    let dx: Vec<f64> = dsum.iter().zip(&factor).map(|(d, f)| d * f).collect();
    t.set(op.dsum, &dsum);
    if let Some(id) = op.dx {
        t.set(id, &dx);
    }
    if let Some(target) = op.dgamma {
        t.put(target, &dgamma);
    }
    if let Some(target) = op.dbeta {
        t.put(target, &dbeta);
    }
    Ok(())
}
