//! Inputs of both streams: token embedding, mask embedding, first dropout.

use super::params::TransformerParams;
use super::transformer::{Inputs, QueryKind, Transformer, TransformerOptions, site};
use crate::Result;
use crate::op::{Dropout, DropoutSite, GatherRows, GatherRowsGrad, MixRows, MixRowsGrad, Target};
use crate::program::Builder;
use crate::tensor::TensorId;

/// What the backward pass needs.
pub(super) struct Saved {
    dropout: Option<DropoutSite>,
}

/// Pushes `[E[input]; query input]` with dropout.
pub(super) fn forward(
    b: &mut Builder,
    options: &TransformerOptions,
    params: &TransformerParams,
    inputs: &Inputs,
) -> Result<(TensorId, Saved)> {
    let d = b.shape(params.word_embedding).last();
    let (content_rows, query_rows) = (options.content_rows(), options.query_rows());
    let x = b.activation("x", [content_rows + query_rows, d]); // [B*L + B*T, d]
    let content = b.rows(x, 0, content_rows)?;
    b.push(GatherRows { table: params.word_embedding, ids: inputs.input_ids, out: content })?;
    if let Some(row) = params.mask_emb
        && query_rows > 0
    {
        let out = b.rows(x, content_rows, query_rows)?;
        let kept = if options.query == QueryKind::All { Some(content) } else { None };
        b.push(MixRows { x: kept, row, weight: inputs.input_q, out })?;
    }
    let dropout = inputs.dropout_key.filter(|_| options.dropout > 0.0).map(|key| DropoutSite {
        key,
        site: site::EMBEDDING,
        rate: options.dropout,
        lead: options.length,
    });
    if let Some(dropout) = dropout {
        b.push(Dropout { x, out: x, dropout })?;
    }
    Ok((x, Saved { dropout }))
}

/// Pushes the gradients of both embeddings.
pub(super) fn backward(b: &mut Builder, net: &Transformer, saved: &Saved, dx: TensorId) -> Result<()> {
    let (options, params) = (net.options, net.params);
    if let Some(dropout) = saved.dropout {
        b.push(Dropout { x: dx, out: dx, dropout })?;
    }
    let content = b.rows(dx, 0, options.content_rows())?;
    if let Some(mask_emb) = params.mask_emb
        && options.targets() > 0
    {
        let dout = b.rows(dx, options.content_rows(), options.query_rows())?;
        let kept = (options.query == QueryKind::All).then_some(Target::add(content));
        let drow = b.grad(mask_emb);
        if drow.is_some() || kept.is_some() {
            b.push(MixRowsGrad { dout, weight: net.inputs.input_q, drow, dx: kept })?;
        }
    }
    if let Some(dtable) = b.grad(params.word_embedding) {
        b.push(GatherRowsGrad { dout: content, ids: net.inputs.input_ids, dtable })?;
    }
    Ok(())
}
