//! Runs golden attention cases: one relative attention, forward and backward.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use xlnet::op::{
    Mask, QueryStream, QueryStreamGrad, RelAttention, RelAttentionGrad, RelativeTerms, RelativeTermsGrad, SegmentTerms,
    SegmentTermsGrad, Target,
};
use xlnet::tensor::{DType, TensorId};

use crate::Backend;
use crate::attention::pack;
use crate::case::difference;
use crate::golden::Case;
use crate::setup::Setup;

/// Largest error allowed, in units of the largest element of a tensor. The cases are stored in f32.
pub const TOLERANCE: f64 = 2e-5;

/// `[B, H, L, D]`, as cases store it, to `[B, L, H, D]`; its own inverse with H and L exchanged.
fn swap_heads(values: &[f64], dims: &[usize]) -> Vec<f64> {
    let (b, h, l, d) = (dims[0], dims[1], dims[2], dims[3]);
    let mut out = Vec::with_capacity(values.len());
    for row in 0..b * l {
        for head in 0..h {
            let at = ((row / l * h + head) * l + row % l) * d;
            out.extend_from_slice(&values[at..at + d]);
        }
    }
    out
}

/// The program of one case, and which result is compared with which stored tensor.
struct Loader<'a> {
    case: &'a Case,
    setup: Setup,
    results: Vec<(&'static str, TensorId)>,
}

impl Loader<'_> {
    /// Shape and elements in our layout.
    fn stored(&self, name: &str) -> Result<([usize; 4], Vec<f64>)> {
        let (dims, data) = self.case.tensor(name)?;
        let values = data.to_f64();
        Ok(match dims[..] {
            [b, h, l, d] => ([b, l, h, d], swap_heads(&values, dims)),
            [a, h, d] => ([1, a, h, d], values),
            [h, d] => ([1, 1, h, d], values),
            _ => bail!("{name} has shape {dims:?}"),
        })
    }
    fn input(&mut self, name: &str) -> Result<TensorId> {
        let (shape, values) = self.stored(name)?;
        Ok(self.setup.floats(name, shape, values))
    }
    fn output(&mut self, name: &'static str) -> Result<TensorId> {
        let (shape, _) = self.stored(name)?;
        let id = self.setup.output(name, shape);
        self.results.push((name, id));
        Ok(id)
    }
    fn ints(&mut self, name: &str) -> Result<TensorId> {
        let (dims, data) = self.case.tensor(name)?;
        let [b, l] = dims[..] else { bail!("{name} has shape {dims:?}") };
        Ok(self.setup.ints(name, [b, l], data.to_i32()))
    }
    fn target(&mut self, name: &'static str) -> Result<Option<Target>> {
        Ok(Some(Target::set(self.output(name)?)))
    }
}

/// Runs `case` with its permutation as bits (`bits`) or ranks; the worst tensor and its error in units of its largest
/// element.
///
/// # Errors
/// When the case is not as its kind should be, or the device fails.
pub fn run(case: &Case, device: Backend, float: DType, bits: bool) -> Result<(&'static str, f64)> {
    let (b, h, d) = (case.size("batch")?, case.size("heads")?, case.size("head_dim")?);
    let (l, m, t) = (case.size("q_len")?, case.size("mem_len")?, case.size("query_rows")?);
    let groups = if case.meta["bidirectional"] == true { 2 } else { 1 };
    let mut load = Loader { case, setup: Setup::new(0, float), results: vec![] };
    let group =
        (groups == 2).then(|| load.setup.ints("group", [b], (0..b).map(|row| i32::from(row >= b / 2)).collect()));
    let mask = match case.meta["mask"].as_str() {
        Some("none") => Mask::None,
        Some("padding") => Mask::Padding(load.ints("key_padding")?),
        Some("perm") if bits => {
            let dense = case.tensor("perm_mask")?.1.to_i32();
            let words = pack(b, l, |b, i, j| dense[(b * l + i) * l + j] != 0);
            Mask::Bits(load.setup.words("mask", [b, l, l.div_ceil(32)], words))
        }
        Some("perm") => Mask::Ranks { query: load.ints("query_rank")?, key: load.ints("key_rank")? },
        _ => bail!("unknown mask {}", case.meta["mask"]),
    };
    let segments = case.meta["segments"] == true;
    let query = |load: &mut Loader| -> Result<QueryStream> {
        Ok(QueryStream {
            q: load.input("query_q")?,
            positions: load.ints("query_positions")?,
            out: load.output("query_out")?,
            lse: load.setup.output("query lse", [b, h, t]),
            site: 1,
        })
    };
    let segment = |load: &mut Loader| -> Result<SegmentTerms> {
        let (s_bias, seg_embed) = (load.input("r_s_bias")?, load.input("seg_embed")?);
        Ok(SegmentTerms { s_bias, seg_embed, ids: load.ints("segment_ids")? })
    };
    let (w_bias, r_bias) = (load.input("r_w_bias")?, load.input("r_r_bias")?);
    let forward = RelAttention {
        q: Some(load.input("q")?),
        query: (t > 0).then(|| query(&mut load)).transpose()?,
        k: load.input("k")?,
        v: load.input("v")?,
        relative: Some(RelativeTerms { r: load.input("r")?, group, w_bias, r_bias }),
        segment: segments.then(|| segment(&mut load)).transpose()?,
        mask,
        causal: false,
        same_length: false,
        scale: case.meta["scale"].as_f64().context("no scale")? as f32,
        dropout: None,
        out: Some(load.output("out")?),
        lse: Some(load.setup.output("lse", [b, h, l])),
        batch: b,
        heads: h,
        head_dim: d,
        length: l,
        memory: m,
        targets: t,
        groups,
    };
    let query_grad = |load: &mut Loader| -> Result<QueryStreamGrad> {
        Ok(QueryStreamGrad { dout: load.input("query_dout")?, dq: load.output("dquery_q")? })
    };
    let segment_grad = |load: &mut Loader| -> Result<SegmentTermsGrad> {
        Ok(SegmentTermsGrad { ds_bias: load.target("dr_s_bias")?, dseg_embed: load.target("dseg_embed")? })
    };
    let (dw_bias, dr_bias) = (load.target("dr_w_bias")?, load.target("dr_r_bias")?);
    let backward = RelAttentionGrad {
        forward: forward.clone(),
        dout: Some(load.input("dout")?),
        dq: Some(load.output("dq")?),
        query: (t > 0).then(|| query_grad(&mut load)).transpose()?,
        dk: load.output("dk")?,
        dv: load.output("dv")?,
        relative: Some(RelativeTermsGrad { dr: load.output("dr")?, dw_bias, dr_bias }),
        segment: segments.then(|| segment_grad(&mut load)).transpose()?,
    };
    load.setup.push(forward)?;
    load.setup.push(backward)?;
    let Loader { setup, results, .. } = load;
    let wanted: Vec<Vec<f64>> = {
        let again = Loader { case, setup: Setup::new(0, float), results: vec![] };
        results.iter().map(|(name, _)| Ok(again.stored(name)?.1)).collect::<Result<_>>()?
    };
    let (program, values) = setup.finish()?;
    let mut executor = device.open(Arc::new(program))?;
    for (id, values) in &values {
        values.upload(&mut *executor, *id)?;
    }
    executor.run_phase("run")?;
    let mut worst = ("", 0.0);
    for ((name, id), want) in results.into_iter().zip(wanted) {
        let got = executor.download_f64(id)?;
        let error = difference(&got, &want).map_err(|what| anyhow::anyhow!("{name}: {what}"))?;
        if error >= worst.1 {
            worst = (name, error);
        }
    }
    Ok(worst)
}
