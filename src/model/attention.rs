//! Relative two-stream attention with its projections, residual and norm.

use super::memory::copy_positions;
use super::norm;
use super::transformer::{MaskKind, Transformer, accumulate, site};
use crate::Result;
use crate::op::{
    CopyBlocks, DropoutSite, Groups, HALF_HEAD_DIM, Mask, QueryStream, QueryStreamGrad, RelAttention, RelAttentionGrad,
    RelativeTerms, RelativeTermsGrad, SegmentTerms, SegmentTermsGrad, Target, Write,
};
use crate::program::Builder;
use crate::tensor::{DType, TensorId};

/// What the backward pass needs.
pub(super) struct Saved {
    op: RelAttention,
    q: TensorId,     // [R', N*D]
    heads: TensorId, // [R', N*D]
    norm: norm::Saved,
    rows: (usize, usize), // first row of x that is a query row of this layer, number of them
}

/// Element type of what attention reads and writes: that of the products, where there are kernels for these heads.
fn stored(b: &Builder, net: &Transformer) -> DType {
    if net.config.d_head == HALF_HEAD_DIM { b.products() } else { b.float() }
}

/// `[memory; content rows]` as the operand of a product, or the content rows themselves where there is no memory.
fn keys_input(b: &mut Builder, net: &Transformer, layer: usize, x: TensorId) -> Result<TensorId> {
    let o = net.options;
    let content = b.rows(x, 0, o.content_rows())?;
    let Some(&memory) = net.inputs.memory.get(layer) else { return Ok(content) };
    let (memory, content) = (b.operand(memory)?, b.operand(content)?);
    let cat = b.activation_in("cat", [o.batch, o.keys(), net.config.d_model], b.products()); // [B, N, d]
    copy_positions(b, (memory, 0), (Target::set(cat), 0), o.batch, o.memory)?;
    copy_positions(b, (content, 0), (Target::set(cat), o.memory), o.batch, o.length)?;
    Ok(cat)
}

/// Pushes `LN(dropout(attention(x) W_o) + x)`; in a query-only layer the result has the query rows alone.
pub(super) fn forward(b: &mut Builder, net: &Transformer, layer: usize, x: TensorId) -> Result<(TensorId, Saved)> {
    let (o, p, c) = (net.options, &net.params.layers[layer], net.config);
    let (content_rows, query_rows) = (o.content_rows(), o.query_rows());
    let rows = if net.query_only(layer) { (content_rows, query_rows) } else { (0, content_rows + query_rows) };
    let residual = b.rows(x, rows.0, rows.1)?; // [R', d]

    let dtype = stored(b, net);
    let q = p.q.forward_in(b, "q", residual, dtype)?; // [R', N*D]
    let cat = keys_input(b, net, layer, x)?;
    let k = p.k.forward_in(b, "k", cat, dtype)?; // [B*N, N*D]
    let v = p.v.forward_in(b, "v", cat, dtype)?; // [B*N, N*D]
    let r = p.r.forward_in(b, "r", net.positions, dtype)?; // [G*P, N*D]
    let heads = b.activation_in("heads", b.shape(q), dtype); // [R', N*D]
    let term = |b: &mut Builder, param| if dtype == b.float() { Ok(param) } else { b.operand(param) };
    let (w_bias, r_bias) = (term(b, p.r_w_bias)?, term(b, p.r_r_bias)?);
    let segment = match net.inputs.segment_ids.zip(p.segment) {
        Some((ids, (s_bias, seg_embed))) => {
            Some(SegmentTerms { s_bias: term(b, s_bias)?, seg_embed: term(b, seg_embed)?, ids })
        }
        None => None,
    };

    let content = (rows.0 == 0).then_some(());
    let part = |b: &mut Builder, id| content.map(|()| b.rows(id, 0, content_rows)).transpose();
    let (q_content, out) = (part(b, q)?, part(b, heads)?);
    let lse = content.map(|()| b.activation("lse", [o.batch, c.n_head, o.length])); // [B, H, L]
    let query = match net.inputs.target_positions {
        Some(positions) if query_rows > 0 => Some(QueryStream {
            q: b.rows(q, content_rows - rows.0, query_rows)?,
            positions,
            out: b.rows(heads, content_rows - rows.0, query_rows)?,
            lse: b.activation("query_lse", [o.batch, c.n_head, o.targets()]), // [B, H, T]
            site: site::layer(layer, site::QUERY_PROBABILITIES),
        }),
        _ => None,
    };
    let groups = b.shape(net.positions).dims()[0];
    let op = RelAttention {
        q: q_content,
        query,
        k,
        v,
        relative: Some(RelativeTerms { r, group: group_of_rows(net), w_bias, r_bias }),
        segment,
        mask: mask(net),
        causal: o.attention == super::AttentionType::Uni,
        same_length: o.attention == super::AttentionType::Uni && o.same_length,
        scale: 1.0 / (c.d_head as f32).sqrt(),
        dropout: net.dropout_of(site::layer(layer, site::CONTENT_PROBABILITIES), o.dropatt, o.length),
        out,
        lse,
        batch: o.batch,
        heads: c.n_head,
        head_dim: c.d_head,
        length: o.length,
        memory: o.memory,
        targets: o.targets(),
        groups,
    };
    b.push(op.clone())?;

    let products = b.products();
    let branch = p.o.forward_in(b, "attention_sum", heads, products)?; // [R', d]
    let dropout = residual_dropout(net, layer);
    let (out, norm) = norm::forward(b, net, "attention", (branch, residual), p.attention_norm, dropout)?;
    Ok((out, Saved { op, q, heads, norm, rows }))
}

fn residual_dropout(net: &Transformer, layer: usize) -> Option<DropoutSite> {
    net.dropout(site::layer(layer, site::ATTENTION), layer)
}

fn group_of_rows(net: &Transformer) -> Option<TensorId> {
    match net.options.groups() {
        Groups::Shared => None,
        Groups::ByDirection => net.inputs.direction,
        Groups::ByRow => net.inputs.row_group,
    }
}

fn mask(net: &Transformer) -> Mask {
    let i = &net.inputs;
    match net.options.mask {
        MaskKind::None => Mask::None,
        MaskKind::Padding => i.padding.map_or(Mask::None, Mask::Padding),
        MaskKind::Bits => i.mask_bits.map_or(Mask::None, Mask::Bits),
        MaskKind::Ranks => match (i.query_rank, i.key_rank) {
            (Some(query), Some(key)) => Mask::Ranks { query, key },
            _ => Mask::None,
        },
    }
}

/// Pushes the gradients; returns the gradient of `x`, all rows of both streams. `dout` is overwritten.
pub(super) fn backward(
    b: &mut Builder,
    net: &Transformer,
    layer: usize,
    x: TensorId,
    saved: Saved,
    dout: TensorId, // [R', d]
) -> Result<TensorId> {
    let (o, p) = (net.options, &net.params.layers[layer]);
    let (content_rows, query_rows) = (o.content_rows(), o.query_rows());
    let dbranch = norm::backward(b, "d_attention_sum", saved.norm, dout)?; // [R', d]
    let dresidual = dout;
    let dtype = stored(b, net);
    let dheads = p.o.backward_in(b, "d_heads", saved.heads, dbranch, dtype)?; // [R', N*D]

    let op = saved.op;
    let like = |b: &mut Builder, name, id| b.activation_in(name, b.shape(id), dtype);
    let dq = like(b, "dq", saved.q); // [R', N*D]
    let (dk, dv) = (like(b, "dk", op.k), like(b, "dv", op.v)); // [B*N, N*D]
    let dr = op.relative.map(|r| like(b, "dr", r.r)); // [G*P, N*D]
    let content = op.q.is_some().then_some(());
    let part = |b: &mut Builder, id| content.map(|()| b.rows(id, 0, content_rows)).transpose();
    let (d_content, dq_content) = (part(b, dheads)?, part(b, dq)?);
    let query = match op.query {
        None => None,
        Some(_) => Some(QueryStreamGrad {
            dout: b.rows(dheads, content_rows - saved.rows.0, query_rows)?,
            dq: b.rows(dq, content_rows - saved.rows.0, query_rows)?,
        }),
    };
    let relative = dr.map(|dr| RelativeTermsGrad { dr, dw_bias: b.grad(p.r_w_bias), dr_bias: b.grad(p.r_r_bias) });
    let segment = op.segment.and(p.segment);
    let segment =
        segment.map(|(s_bias, seg_embed)| SegmentTermsGrad { ds_bias: b.grad(s_bias), dseg_embed: b.grad(seg_embed) });
    b.push(RelAttentionGrad { forward: op, dout: d_content, dq: dq_content, query, dk, dv, relative, segment })?;

    // The rows that are no residual here (content rows of a query-only layer) begin with the keys' gradient.
    let (dx, mut begun) = if saved.rows.0 == 0 {
        (dresidual, true)
    } else {
        let dx = b.activation("dx", b.shape(x)); // [R, d]
        let tail = b.rows(dx, saved.rows.0, saved.rows.1)?;
        let length = b.shape(tail).len();
        let dst = Target::set(tail);
        let (src, blocks) = (dresidual, 1);
        b.push(CopyBlocks { src, src_offset: 0, src_stride: 0, dst, dst_offset: 0, dst_stride: 0, blocks, length })?;
        (dx, false)
    };
    let residual = b.rows(x, saved.rows.0, saved.rows.1)?;
    let dresidual = b.rows(dx, saved.rows.0, saved.rows.1)?;
    p.q.backward_weight(b, residual, dq)?;
    p.q.backward_input(b, dq, Target { id: dresidual, write: Write::Add })?;

    let cat = keys_input(b, net, layer, x)?;
    p.k.backward_weight(b, cat, dk)?;
    p.v.backward_weight(b, cat, dv)?;
    if let Some(dr) = dr {
        p.r.backward_weight(b, net.positions, dr)?;
    }
    let dcontent = b.rows(dx, 0, content_rows)?;
    for (linear, d, name) in [(p.k, dk, "dk_content"), (p.v, dv, "dv_content")] {
        let d = content_part(b, net, d, name)?;
        let target = accumulate(&mut begun, dcontent);
        linear.backward_input(b, d, target)?;
    }
    Ok(dx)
}

/// The rows of `[B*N, w]` that belong to the segment, without the memory's: memories get no gradient.
fn content_part(b: &mut Builder, net: &Transformer, id: TensorId, name: &str) -> Result<TensorId> {
    let o = net.options;
    if o.memory == 0 {
        return Ok(id);
    }
    let width = b.shape(id).last();
    let part = b.activation_in(name, [o.content_rows(), width], b.desc(id).dtype); // [B*L, w]
    copy_positions(b, (id, o.memory), (Target::set(part), 0), o.batch, o.length)?;
    Ok(part)
}
