//! From the attention ops of a program to the slices of the attention kernels.

use super::arena::{Access, Element};
use super::dropout::split_key;
use super::real::Real;
use super::rel_attention::{self as forward_kernel, Dropout, Inputs, Outputs, Query, Relative, Segments, Sizes};
use super::rel_attention_grad::{self as grad_kernel, Gradients, ParamGrad, Saved};
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

fn inputs<'a, R: Real + Element>(op: &RelAttention, access: &mut Access<'a>) -> Result<Inputs<'a, R>> {
    let query = match &op.query {
        Some(s) => Some(Query { q: access.read(s.q)?, positions: access.read(s.positions)? }),
        None => None,
    };
    let relative = match &op.relative {
        Some(t) => Some(Relative {
            r: access.read(t.r)?,
            group: access.read_some(t.group)?,
            w_bias: access.read(t.w_bias)?,
            r_bias: access.read(t.r_bias)?,
        }),
        None => None,
    };
    let segments = match &op.segment {
        Some(t) => Some(Segments {
            s_bias: access.read(t.s_bias)?,
            seg_embed: access.read(t.seg_embed)?,
            ids: access.read(t.ids)?,
        }),
        None => None,
    };
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
        content: access.read_some(op.q)?,
        query,
        k: access.read(op.k)?,
        v: access.read(op.v)?,
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
    let inputs = inputs::<R>(op, access)?;
    let mut outputs = Outputs {
        out: access.write_some(op.out)?.unwrap_or_default(),
        lse: access.write_some(op.lse)?.unwrap_or_default(),
        query_out: access.write_some(op.query.map(|s| s.out))?.unwrap_or_default(),
        query_lse: access.write_some(op.query.map(|s| s.lse))?.unwrap_or_default(),
    };
    forward_kernel::forward(&sizes(op), &inputs, &mut outputs, access.workspace()?)
}

/// Runs the gradient op.
pub fn backward<R: Real + Element>(op: &RelAttentionGrad, access: &mut Access) -> Result<()> {
    let f = &op.forward;
    let inputs = inputs::<R>(f, access)?;
    let saved = Saved {
        out: access.read_some(f.out)?.unwrap_or_default(),
        lse: access.read_some(f.lse)?.unwrap_or_default(),
        dout: access.read_some(op.dout)?.unwrap_or_default(),
        query_out: access.read_some(f.query.map(|s| s.out))?.unwrap_or_default(),
        query_lse: access.read_some(f.query.map(|s| s.lse))?.unwrap_or_default(),
        query_dout: access.read_some(op.query.map(|s| s.dout))?.unwrap_or_default(),
    };
    let (relative, segment) = (op.relative, op.segment);
    let mut gradients = Gradients {
        dq: access.write_some(op.dq)?.unwrap_or_default(),
        query_dq: access.write_some(op.query.map(|s| s.dq))?.unwrap_or_default(),
        dk: access.write(op.dk)?,
        dv: access.write(op.dv)?,
        dr: access.write_some(relative.map(|t| t.dr))?.unwrap_or_default(),
        dw_bias: param(relative.and_then(|t| t.dw_bias), access)?,
        dr_bias: param(relative.and_then(|t| t.dr_bias), access)?,
        ds_bias: param(segment.and_then(|t| t.ds_bias), access)?,
        dseg_embed: param(segment.and_then(|t| t.dseg_embed), access)?,
    };
    grad_kernel::backward(&sizes(f), &inputs, &saved, &mut gradients, access.workspace()?)
}

/// Gradient of a parameter; empty where it is frozen.
fn param<'a, R: Element>(target: Option<Target>, access: &mut Access<'a>) -> Result<ParamGrad<'a, R>> {
    let data = access.write_some(target.map(|t| t.id))?.unwrap_or_default();
    Ok(ParamGrad { data, accumulate: target.is_some_and(|t| t.write == Write::Add) })
}
