//! From the attention ops of a program to the slices of the attention kernels.

use super::arena::{Access, Element};
use super::dropout::split_key;
use super::real::Real;
use super::rel_attention::{self as forward_kernel, Dropout, Inputs, Outputs, Query, Relative, Segments, Sizes};
use super::rel_attention_grad::{self as grad_kernel, Gradients, ParamGrad, Saved};
use super::widened::Widened;
use crate::Result;
use crate::op::philox::Keep;
use crate::op::{Mask, RelAttention, RelAttentionGrad, Target, Write};

/// The kernels' sizes.
pub fn sizes(op: &RelAttention) -> Sizes {
    Sizes {
        batch: op.batch,
        heads: op.heads,
        head_dim: op.head_dim,
        rows: op.length,
        memory: op.memory,
        query_rows: op.targets,
        groups: if op.relative.is_some() { op.groups } else { 0 },
    }
}

/// Elements of scratch of the forward op with this machine's threads.
pub fn workspace_len(op: &RelAttention) -> usize {
    forward_kernel::workspace_len(&sizes(op), rayon::current_num_threads())
}
/// Elements of scratch of the gradient with this machine's threads.
pub fn grad_workspace_len(op: &RelAttentionGrad) -> usize {
    grad_kernel::workspace_len(&sizes(&op.forward), rayon::current_num_threads())
}

fn inputs<'a, R: Real + Element>(op: &RelAttention, w: &mut Widened<'_, 'a, R>) -> Result<Inputs<'a, R>> {
    let query = match &op.query {
        Some(s) => Some(Query { q: w.read(s.q)?, positions: w.access().read(s.positions)? }),
        None => None,
    };
    let relative = match &op.relative {
        Some(t) => Some(Relative {
            r: w.read(t.r)?,
            group: w.access().read_some(t.group)?,
            w_bias: w.read(t.w_bias)?,
            r_bias: w.read(t.r_bias)?,
        }),
        None => None,
    };
    let segments = match &op.segment {
        Some(t) => {
            Some(Segments { s_bias: w.read(t.s_bias)?, seg_embed: w.read(t.seg_embed)?, ids: w.access().read(t.ids)? })
        }
        None => None,
    };
    let access = w.access();
    let mask = match op.mask {
        Mask::None => forward_kernel::Mask::None,
        Mask::Padding(id) => forward_kernel::Mask::Padding(access.read(id)?),
        Mask::Ranks { query, key } => {
            forward_kernel::Mask::Ranks { query: access.read(query)?, key: access.read(key)? }
        }
        Mask::Bits(id) => forward_kernel::Mask::Bits(access.read(id)?),
    };
    let dropout = match op.dropout {
        Some(site) => {
            let (key, batch_rows) = split_key(access.read(site.key)?);
            Some(Dropout {
                keep: Keep::new(key, f64::from(site.rate))?,
                batch_rows,
                content_site: site.site,
                query_site: op.query.map_or(site.site, |s| s.site),
            })
        }
        None => None,
    };
    Ok(Inputs {
        content: w.read_some(op.q)?,
        query,
        k: w.read(op.k)?,
        v: w.read(op.v)?,
        relative,
        segments,
        mask,
        causal: op.causal,
        same_length: op.same_length,
        scale: R::from_f64(f64::from(op.scale)),
        dropout,
    })
}

/// Runs the forward op.
pub fn forward<R: Real + Element>(op: &RelAttention, access: &mut Access) -> Result<()> {
    let mut w = Widened::<R>::new(access)?;
    let inputs = inputs(op, &mut w)?;
    let mut outputs = Outputs {
        out: w.write_some(op.out)?,
        lse: w.write_some(op.lse)?,
        query_out: w.write_some(op.query.map(|s| s.out))?,
        query_lse: w.write_some(op.query.map(|s| s.lse))?,
    };
    forward_kernel::forward(&sizes(op), &inputs, &mut outputs, w.rest())?;
    w.store_some(op.out, outputs.out)?;
    w.store_some(op.query.map(|s| s.out), outputs.query_out)
}

/// Runs the gradient op.
pub fn backward<R: Real + Element>(op: &RelAttentionGrad, access: &mut Access) -> Result<()> {
    let f = &op.forward;
    let mut w = Widened::<R>::new(access)?;
    let inputs = inputs(f, &mut w)?;
    let saved = Saved {
        out: w.read_some(f.out)?.unwrap_or_default(),
        lse: w.read_some(f.lse)?.unwrap_or_default(),
        dout: w.read_some(op.dout)?.unwrap_or_default(),
        query_out: w.read_some(f.query.map(|s| s.out))?.unwrap_or_default(),
        query_lse: w.read_some(f.query.map(|s| s.lse))?.unwrap_or_default(),
        query_dout: w.read_some(op.query.map(|s| s.dout))?.unwrap_or_default(),
    };
    let (relative, segment) = (op.relative, op.segment);
    let (query_dq, dr) = (op.query.map(|s| s.dq), relative.map(|t| t.dr));
    let mut gradients = Gradients {
        dq: w.write_some(op.dq)?,
        query_dq: w.write_some(query_dq)?,
        dk: w.write(op.dk)?,
        dv: w.write(op.dv)?,
        dr: w.write_some(dr)?,
        dw_bias: param(relative.and_then(|t| t.dw_bias), w.access())?,
        dr_bias: param(relative.and_then(|t| t.dr_bias), w.access())?,
        ds_bias: param(segment.and_then(|t| t.ds_bias), w.access())?,
        dseg_embed: param(segment.and_then(|t| t.dseg_embed), w.access())?,
    };
    grad_kernel::backward(&sizes(f), &inputs, &saved, &mut gradients, w.rest())?;
    let Gradients { dq: content, query_dq: query, dk, dv, dr: positions, .. } = gradients;
    for (id, values) in [(op.dq, content), (query_dq, query), (Some(op.dk), dk), (Some(op.dv), dv), (dr, positions)] {
        w.store_some(id, values)?;
    }
    Ok(())
}

/// Gradient of a parameter; empty where it is frozen.
fn param<'a, R: Element>(target: Option<Target>, access: &mut Access<'a>) -> Result<ParamGrad<'a, R>> {
    let data = access.write_some(target.map(|t| t.id))?.unwrap_or_default();
    Ok(ParamGrad { data, accumulate: target.is_some_and(|t| t.write == Write::Add) })
}
