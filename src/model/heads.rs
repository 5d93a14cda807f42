//! Everything on top of the transformer: language model, pooling, classifiers, spans. Each head declares its
//! parameters, and has its loss's backward pass beside its forward pass.

use serde::{Deserialize, Serialize};

use super::linear::{Layout, Linear};
use super::memory::copy_positions;
use super::params::{NormParams, linear, norm, projection};
use super::transformer::{OutputGradient, Transformer, site};
use crate::config::XlnetConfig;
use crate::op::{
    Activation, ActivationGrad, ActivationKind, CopyBlocks, DropoutSite, Fill, GatherRows, GatherRowsGrad, LayerNorm,
    LayerNormGrad, Mask, MatMul, MixRows, MixRowsGrad, QueryStream, QueryStreamGrad, RelAttention, RelAttentionGrad,
    Softmax, SoftmaxCrossEntropy, SoftmaxGrad, Target, WeightedRows, WeightedRowsGrad,
};
use crate::program::Builder;
use crate::tensor::TensorId;
use crate::{Error, Result};

/// Logits of the language model that exist at one time.
const LOGITS_BYTES: usize = 32 << 20;

/// Output layer of the language model; its matrix is the word embedding.
#[derive(Clone, Copy, Debug)]
pub struct LmHead {
    embedding: TensorId, // [V, d]
    bias: TensorId,      // [V]
}

impl LmHead {
    /// Declares `lm_loss.bias`.
    pub fn declare(b: &mut Builder, config: &XlnetConfig, embedding: TensorId) -> Self {
        LmHead { embedding, bias: b.param("lm_loss.bias", [config.n_token]) }
    }
    /// The head's own parameters.
    pub fn params(&self) -> [TensorId; 1] {
        [self.bias]
    }
    fn linear(&self, b: &Builder) -> Linear {
        let dims = b.shape(self.embedding);
        let (outputs, inputs) = (dims.dims()[0], dims.last());
        Linear { weight: self.embedding, bias: Some(self.bias), inputs, outputs, layout: Layout::OutIn }
    }
    /// Pushes all logits at once, for inference.
    ///
    /// # Errors
    /// When `x` is no rows of width d.
    pub fn logits(&self, b: &mut Builder, x: TensorId, out: TensorId) -> Result<()> {
        let linear = self.linear(b);
        let (m, n, k) = (b.shape(x).len() / linear.inputs, linear.outputs, linear.inputs);
        let out = Target::set(out);
        let (x, weight) = (b.operand(x)?, b.operand(linear.weight)?);
        b.push(MatMul { a: x, b: weight, bias: linear.bias, out, m, n, k, trans_a: false, trans_b: true })
    }
    /// Pushes the loss in chunks of rows, so that the logits of a big vocabulary never exist whole; with `dx` also all
    /// gradients: of the rows (overwritten), the embedding and the bias.
    ///
    /// # Errors
    /// When sizes do not fit.
    pub fn loss(
        &self,
        b: &mut Builder,
        x: TensorId,       // [R, d]
        targets: TensorId, // [R] i32
        weights: TensorId, // [R]
        loss: &mut Accumulator,
        dx: Option<TensorId>, // [R, d]
    ) -> Result<()> {
        let head = self.linear(b);
        let rows = b.shape(x).len() / head.inputs;
        let row_bytes = head.outputs * b.float().size();
        let chunk = (LOGITS_BYTES / row_bytes).clamp(16, rows.max(16));
        let (targets, weights) = (b.reshape(targets, [rows])?, b.reshape(weights, [rows])?);
        let x = b.reshape(x, [rows, head.inputs])?;
        let dx = dx.map(|dx| b.reshape(dx, [rows, head.inputs])).transpose()?;
        for start in (0..rows).step_by(chunk) {
            let count = chunk.min(rows - start);
            let xs = b.rows(x, start, count)?;
            let logits = head.forward(b, "logits", xs)?; // [chunk, V]
            let (labels, weights) = (b.rows(targets, start, count)?, b.rows(weights, start, count)?);
            let loss = loss.target();
            let dlogits = dx.map(|_| logits);
            b.push(SoftmaxCrossEntropy { logits, hidden: None, labels, weights, loss, row_loss: None, dlogits })?;
            if let Some(dx) = dx {
                head.backward_weight(b, xs, logits)?;
                let dxs = b.rows(dx, start, count)?;
                head.backward_input(b, logits, Target::set(dxs))?;
            }
        }
        Ok(())
    }
}

/// The scalar that micro-batches, chunks and heads add their losses to.
#[derive(Clone, Copy, Debug)]
pub struct Accumulator {
    id: TensorId,
    begun: bool,
}

impl Accumulator {
    /// Nothing added yet; the first write overwrites.
    pub fn new(id: TensorId) -> Self {
        Accumulator { id, begun: false }
    }
    /// Where the next contribution goes.
    pub fn target(&mut self) -> Target {
        super::transformer::accumulate(&mut self.begun, self.id)
    }
}

/// How a sequence becomes one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SummaryType {
    /// The last position: CLS, since inputs are padded on the left.
    #[default]
    Last,
    /// The first position.
    First,
    /// Mean over all positions, padding included, as in the original.
    Mean,
    /// A learned query attends to the sequence.
    Attn,
}

/// Pooling with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SummaryOptions {
    /// How.
    pub kind: SummaryType,
    /// Dense layer and tanh afterwards.
    pub projection: bool,
}

/// Learned-query attention of [`SummaryType::Attn`].
#[derive(Clone, Copy, Debug)]
struct AttentionPool {
    query: TensorId, // [d]
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm: NormParams,
}

/// Pooling layer.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    options: SummaryOptions,
    projection: Option<Linear>,
    attention: Option<AttentionPool>,
}

/// What pooling's backward pass needs.
pub struct SummarySaved {
    mean_weights: Option<TensorId>, // [B, L]
    attention: Option<AttentionPoolSaved>,
    pooled: TensorId, // [B, d]
    pre: TensorId,    // [B, d]
    dropout: Option<DropoutSite>,
}
struct AttentionPoolSaved {
    op: RelAttention,
    query: TensorId, // [B, d]
    heads: TensorId, // [B, N*D]
    sum: TensorId,   // [B, d]
    mean: TensorId,  // [B]
    rstd: TensorId,  // [B]
    dropout: Option<DropoutSite>,
}

impl Summary {
    /// Declares `sequence_summary.*`.
    pub fn declare(b: &mut Builder, config: &XlnetConfig, options: SummaryOptions) -> Self {
        let (d, name) = (config.d_model, "sequence_summary");
        let attention = (options.kind == SummaryType::Attn).then(|| {
            let query = b.param(format!("{name}.summary_bias"), [d]);
            let mut project = |part, layout| projection(b, &format!("{name}.abs_attn.{part}"), config, layout);
            let [q, k, v] = ["q", "k", "v"].map(|part| project(part, Layout::InOut));
            let o = project("o", Layout::OutIn);
            AttentionPool { query, q, k, v, o, norm: norm(b, &format!("{name}.abs_attn.layer_norm"), d) }
        });
        let projection = options.projection.then(|| linear(b, &format!("{name}.summary"), d, d, true));
        Summary { options, projection, attention }
    }

    /// Pushes pooling of the content rows; the result is `[B, d]`.
    ///
    /// # Errors
    /// When the transformer has no content rows.
    pub fn forward(&self, b: &mut Builder, net: &Transformer) -> Result<(TensorId, SummarySaved)> {
        let (o, d) = (net.options, net.config.d_model);
        let content = net.content.ok_or_else(no_content)?;
        let mut mean_weights = None;
        let mut attention = None;
        let pooled = match self.options.kind {
            SummaryType::Last | SummaryType::First => {
                let position = if self.options.kind == SummaryType::Last { o.length - 1 } else { 0 };
                let pooled = b.activation("pooled", [o.batch, d]);
                copy_positions(b, (content, position), (Target::set(pooled), 0), o.batch, 1)?;
                pooled
            }
            SummaryType::Mean => {
                let weight = b.activation("mean_weights", [o.batch, o.length]);
                b.push(Fill { out: weight, value: 1.0 / o.length as f32 })?;
                mean_weights = Some(weight);
                let x = b.reshape(content, [o.batch, o.length, d])?;
                let out = b.activation("pooled", [o.batch, d]);
                b.push(WeightedRows { x, weight, out })?;
                out
            }
            SummaryType::Attn => {
                let pool = self.attention.as_ref().ok_or_else(no_content)?;
                let (pooled, saved) = pool.forward(b, net, content)?;
                attention = Some(saved);
                pooled
            }
        };
        let dropout = net.dropout_of(site::SUMMARY, o.dropout, 1);
        let (pre, out) = match self.projection {
            Some(projection) => {
                let pre = projection.forward(b, "summary_pre", pooled)?;
                let out = b.activation("summary", [o.batch, d]);
                b.push(Activation { x: pre, out, kind: ActivationKind::Tanh, dropout })?;
                (pre, out)
            }
            None => match dropout {
                None => (pooled, pooled),
                Some(dropout) => {
                    let out = b.activation("summary", [o.batch, d]);
                    b.push(crate::op::Dropout { x: pooled, out, dropout })?;
                    (pooled, out)
                }
            },
        };
        Ok((out, SummarySaved { mean_weights, attention, pooled, pre, dropout }))
    }

    /// Pushes the gradients; overwrites the content part of `gradient`. `dout` is overwritten too.
    ///
    /// # Errors
    /// When the transformer has no content rows.
    pub fn backward(
        &self,
        b: &mut Builder,
        net: &Transformer,
        saved: &SummarySaved,
        dout: TensorId, // [B, d]
        gradient: &OutputGradient,
    ) -> Result<()> {
        let (o, d) = (net.options, net.config.d_model);
        let content = net.content.ok_or_else(no_content)?;
        let dcontent = gradient.content.ok_or_else(no_content)?;
        let dpooled = match self.projection {
            Some(projection) => {
                let kind = ActivationKind::Tanh;
                b.push(ActivationGrad { x: saved.pre, dout, dx: dout, kind, dropout: saved.dropout })?;
                projection.backward(b, "d_pooled", saved.pooled, dout)?
            }
            None => {
                if let Some(dropout) = saved.dropout {
                    b.push(crate::op::Dropout { x: dout, out: dout, dropout })?;
                }
                dout
            }
        };
        match self.options.kind {
            SummaryType::Last | SummaryType::First => {
                let position = if self.options.kind == SummaryType::Last { o.length - 1 } else { 0 };
                b.push(Fill { out: dcontent, value: 0.0 })?;
                copy_positions(b, (dpooled, 0), (Target::set(dcontent), position), o.batch, 1)
            }
            SummaryType::Mean => {
                let weight = saved.mean_weights.ok_or_else(no_content)?;
                let x = b.reshape(content, [o.batch, o.length, d])?;
                let dx = Target::set(b.reshape(dcontent, [o.batch, o.length, d])?);
                b.push(WeightedRowsGrad { x, weight, dout: dpooled, dx, dweight: None })
            }
            SummaryType::Attn => {
                let (Some(pool), Some(saved)) = (&self.attention, &saved.attention) else { return Err(no_content()) };
                pool.backward(b, content, saved, dpooled, dcontent)
            }
        }
    }
}

fn no_content() -> Error {
    Error::plan("a head over the content stream needs a transformer that computes it")
}

impl AttentionPool {
    /// One query a batch row, absolute attention without position or segment terms, norm without residual.
    fn forward(&self, b: &mut Builder, net: &Transformer, content: TensorId) -> Result<(TensorId, AttentionPoolSaved)> {
        let (o, c) = (net.options, net.config);
        let query = b.activation("pool_query", [o.batch, c.d_model]);
        b.push(MixRows { x: None, row: self.query, weight: None, out: query })?;
        let q = self.q.forward(b, "pool_q", query)?;
        let k = self.k.forward(b, "pool_k", content)?;
        let v = self.v.forward(b, "pool_v", content)?;
        let heads = b.activation("pool_heads", b.shape(q));
        let positions = b.tensor("pool_positions", [o.batch, 1], crate::tensor::DType::I32, crate::tensor::Role::Input);
        let stream = QueryStream {
            q,
            positions, // never uploaded: inputs start as zeros, and position 0 is right for every row
            out: heads,
            lse: b.activation("pool_lse", [o.batch, c.n_head, 1]),
            site: site::POOL_PROBABILITIES,
        };
        let op = RelAttention {
            q: None,
            query: Some(stream),
            k,
            v,
            relative: None,
            segment: None,
            mask: net.inputs.padding.map_or(Mask::None, Mask::Padding),
            causal: false,
            same_length: false,
            scale: 1.0 / (c.d_head as f32).sqrt(),
            dropout: net.dropout_of(site::POOL_PROBABILITIES, o.dropatt, 1),
            out: None,
            lse: None,
            batch: o.batch,
            heads: c.n_head,
            head_dim: c.d_head,
            length: o.length,
            memory: 0,
            targets: 1,
            groups: 1,
        };
        b.push(op.clone())?;
        let sum = self.o.forward(b, "pool_sum", heads)?;
        let (out, mean, rstd) = (
            b.activation("pooled", [o.batch, c.d_model]),
            b.activation("pool_mean", [o.batch]),
            b.activation("pool_rstd", [o.batch]),
        );
        let dropout = net.dropout_of(site::POOL_OUTPUT, o.dropout, 1);
        b.push(LayerNorm {
            x: sum,
            residual: None,
            dropout,
            gamma: self.norm.gamma,
            beta: self.norm.beta,
            out,
            rounded: None,
            sum: Some(sum),
            mean: Some(mean),
            rstd: Some(rstd),
            eps: o.layer_norm_eps,
        })?;
        Ok((out, AttentionPoolSaved { op, query, heads, sum, mean, rstd, dropout }))
    }

    fn backward(
        &self,
        b: &mut Builder,
        content: TensorId,
        saved: &AttentionPoolSaved,
        dout: TensorId,
        dcontent: TensorId,
    ) -> Result<()> {
        let dx = saved.dropout.map(|_| b.activation("d_pool_sum", b.shape(dout)));
        let (dgamma, dbeta) = (b.grad(self.norm.gamma), b.grad(self.norm.beta));
        b.push(LayerNormGrad {
            dout,
            sum: saved.sum,
            mean: saved.mean,
            rstd: saved.rstd,
            gamma: self.norm.gamma,
            dsum: dout,
            dx,
            dropout: saved.dropout,
            dgamma,
            dbeta,
        })?;
        let dheads = self.o.backward(b, "d_pool_heads", saved.heads, dx.unwrap_or(dout))?;
        let dq = b.activation("d_pool_q", b.shape(dheads));
        let (dk, dv) = (b.activation("d_pool_k", b.shape(saved.op.k)), b.activation("d_pool_v", b.shape(saved.op.v)));
        b.push(RelAttentionGrad {
            forward: saved.op.clone(),
            dout: None,
            dq: None,
            query: Some(QueryStreamGrad { dout: dheads, dq }),
            dk,
            dv,
            relative: None,
            segment: None,
        })?;
        let dquery = self.q.backward(b, "d_pool_query", saved.query, dq)?;
        let drow = b.grad(self.query);
        if drow.is_some() {
            b.push(MixRowsGrad { dout: dquery, weight: None, drow, dx: None })?;
        }
        self.k.backward_weight(b, content, dk)?;
        self.v.backward_weight(b, content, dv)?;
        self.k.backward_input(b, dk, Target::set(dcontent))?;
        self.v.backward_input(b, dv, Target::add(dcontent))
    }
}

/// One dense layer: class logits of a pooled vector (`logits_proj`) or of every position (`classifier`).
#[derive(Clone, Copy, Debug)]
pub struct Classifier {
    /// The layer.
    pub linear: Linear,
}

impl Classifier {
    /// Declares `{name}.weight` and `{name}.bias`.
    pub fn declare(b: &mut Builder, config: &XlnetConfig, name: &str, classes: usize) -> Self {
        Classifier { linear: linear(b, name, config.d_model, classes, true) }
    }
}

/// Start, end and answerability of a span (SQuAD).
#[derive(Clone, Copy, Debug)]
pub struct SpanHead {
    start: Linear,
    end_0: Linear,
    end_norm: NormParams,
    end_1: Linear,
    answer: Option<(Linear, Linear)>,
}

/// Inputs of a [`SpanHead`]; row numbers count rows of the content stream, `b * L + position`.
#[derive(Clone, Copy, Debug)]
pub struct SpanInputs {
    /// 1 where no answer may lie.
    pub barred: TensorId, // [B, L]
    /// Rows of the given starts.
    pub start_rows: TensorId, // [B] i32
    /// Rows of the CLS tokens.
    pub cls_rows: TensorId, // [B] i32
    /// Batch row of every content row.
    pub example_rows: TensorId, // [B*L] i32
}

/// Labels of a [`SpanHead`].
#[derive(Clone, Copy, Debug)]
pub struct SpanLabels {
    /// Positions of starts.
    pub start: TensorId, // [B] i32
    /// Positions of ends.
    pub end: TensorId, // [B] i32
    /// 1 where there is no answer.
    pub is_impossible: Option<TensorId>, // [B]
    /// Half the weight of each example: the loss is half of both cross entropies plus half of the answerability's.
    pub weights: TensorId, // [B]
}

/// Intermediate tensors of the end network.
struct EndSaved {
    cat: TensorId,    // [B*L, 2d]
    pre: TensorId,    // [B*L, d]
    act: TensorId,    // [B*L, d]
    norm: TensorId,   // [B*L, d]
    mean: TensorId,   // [B*L]
    rstd: TensorId,   // [B*L]
    logits: TensorId, // [B, L]
}
/// Intermediate tensors of the answerability network.
struct AnswerSaved {
    probabilities: TensorId, // [B, L]
    cat: TensorId,           // [B, 2d]
    pre: TensorId,           // [B, d]
    act: TensorId,           // [B, d]
    logits: TensorId,        // [B]
    dropout: Option<DropoutSite>,
}

impl SpanHead {
    /// Declares `start_logits.*`, `end_logits.*` and, with `answerable`, `answer_class.*`. `answer_bias` adds the bias
    /// of the last answerability layer, which some checkpoints of the original have and Hugging Face's have not.
    pub fn declare(b: &mut Builder, config: &XlnetConfig, answerable: bool, answer_bias: bool) -> Self {
        let d = config.d_model;
        SpanHead {
            start: linear(b, "start_logits.dense", d, 1, true),
            end_0: linear(b, "end_logits.dense_0", 2 * d, d, true),
            end_norm: norm(b, "end_logits.LayerNorm", d),
            end_1: linear(b, "end_logits.dense_1", d, 1, true),
            answer: answerable.then(|| {
                let dense_0 = linear(b, "answer_class.dense_0", 2 * d, d, true);
                (dense_0, linear(b, "answer_class.dense_1", d, 1, answer_bias))
            }),
        }
    }

    fn start_logits(&self, b: &mut Builder, net: &Transformer, content: TensorId) -> Result<TensorId> {
        let logits = self.start.forward(b, "start_logits", content)?;
        b.reshape(logits, [net.options.batch, net.options.length])
    }

    fn end_forward(&self, b: &mut Builder, net: &Transformer, content: TensorId, i: &SpanInputs) -> Result<EndSaved> {
        let (o, d) = (net.options, net.config.d_model);
        let rows = o.content_rows();
        let start = b.activation("start_state", [o.batch, d]);
        b.push(GatherRows { table: content, ids: i.start_rows, out: start })?;
        let spread = b.activation("start_states", [rows, d]);
        b.push(GatherRows { table: start, ids: i.example_rows, out: spread })?;
        let cat = b.activation("end_input", [rows, 2 * d]);
        copy_columns(b, (content, 0, d), (Target::set(cat), 0, 2 * d), rows, d)?;
        copy_columns(b, (spread, 0, d), (Target::set(cat), d, 2 * d), rows, d)?;
        let pre = self.end_0.forward(b, "end_pre", cat)?;
        let act = b.activation("end_act", [rows, d]);
        b.push(Activation { x: pre, out: act, kind: ActivationKind::Tanh, dropout: None })?;
        let normed = b.activation("end_norm", [rows, d]);
        let (mean, rstd) = (b.activation("end_mean", [rows]), b.activation("end_rstd", [rows]));
        b.push(LayerNorm {
            x: act,
            residual: None,
            dropout: None,
            gamma: self.end_norm.gamma,
            beta: self.end_norm.beta,
            out: normed,
            rounded: None,
            sum: None,
            mean: Some(mean),
            rstd: Some(rstd),
            eps: o.layer_norm_eps,
        })?;
        let logits = self.end_1.forward(b, "end_logits", normed)?;
        let logits = b.reshape(logits, [o.batch, o.length])?;
        Ok(EndSaved { cat, pre, act, norm: normed, mean, rstd, logits })
    }

    fn answer_forward(
        &self,
        b: &mut Builder,
        net: &Transformer,
        content: TensorId,
        start_logits: TensorId,
        i: &SpanInputs,
    ) -> Result<Option<AnswerSaved>> {
        let Some((dense_0, dense_1)) = self.answer else { return Ok(None) };
        let (o, d) = (net.options, net.config.d_model);
        let probabilities = b.activation("start_probabilities", [o.batch, o.length]);
        b.push(Softmax { x: start_logits, hidden: Some(i.barred), out: probabilities, log: false })?;
        let expected = b.activation("expected_start", [o.batch, d]);
        let x = b.reshape(content, [o.batch, o.length, d])?;
        b.push(WeightedRows { x, weight: probabilities, out: expected })?;
        let cls = b.activation("cls_state", [o.batch, d]);
        b.push(GatherRows { table: content, ids: i.cls_rows, out: cls })?;
        let cat = b.activation("answer_input", [o.batch, 2 * d]);
        copy_columns(b, (expected, 0, d), (Target::set(cat), 0, 2 * d), o.batch, d)?;
        copy_columns(b, (cls, 0, d), (Target::set(cat), d, 2 * d), o.batch, d)?;
        let pre = dense_0.forward(b, "answer_pre", cat)?;
        let act = b.activation("answer_act", [o.batch, d]);
        let dropout = net.dropout_of(site::ANSWER, o.dropout, 1);
        b.push(Activation { x: pre, out: act, kind: ActivationKind::Tanh, dropout })?;
        let logits = dense_1.forward(b, "answer_logits", act)?;
        Ok(Some(AnswerSaved { probabilities, cat, pre, act, logits, dropout }))
    }

    /// Pushes loss and all gradients; overwrites the content part of `gradient`. `outputs` receives start and end
    /// log-probabilities `[B, L]` and answerability logits `[B]`.
    ///
    /// # Errors
    /// When the transformer has no content rows, or labels are missing.
    pub fn train(
        &self,
        b: &mut Builder,
        net: &Transformer,
        i: &SpanInputs,
        labels: &SpanLabels,
        loss: &mut Accumulator,
        outputs: [TensorId; 3],
        gradient: &OutputGradient,
    ) -> Result<()> {
        let (o, d) = (net.options, net.config.d_model);
        let rows = o.content_rows();
        let content = net.content.ok_or_else(no_content)?;
        let dcontent = gradient.content.ok_or_else(no_content)?;
        let hidden = Some(i.barred);

        let start_logits = self.start_logits(b, net, content)?;
        let end = self.end_forward(b, net, content, i)?;
        let answer = self.answer_forward(b, net, content, start_logits, i)?;
        b.push(Softmax { x: start_logits, hidden, out: outputs[0], log: true })?;
        b.push(Softmax { x: end.logits, hidden, out: outputs[1], log: true })?;

        let cross_entropy = |b: &mut Builder, logits, labels_: TensorId, loss: Target, name: &str| {
            let dlogits = b.activation(name, [o.batch, o.length]);
            let weights = labels.weights;
            b.push(SoftmaxCrossEntropy {
                logits,
                hidden,
                labels: labels_,
                weights,
                loss,
                row_loss: None,
                dlogits: Some(dlogits),
            })?;
            Ok::<_, Error>(dlogits)
        };
        let dstart = cross_entropy(b, start_logits, labels.start, loss.target(), "d_start_logits")?;
        let dend = cross_entropy(b, end.logits, labels.end, loss.target(), "d_end_logits")?;

        // End network: the content half of its input is the first gradient of the content rows.
        let dnorm = self.end_1.backward(b, "d_end_norm", end.norm, dend)?;
        let (dgamma, dbeta) = (b.grad(self.end_norm.gamma), b.grad(self.end_norm.beta));
        b.push(LayerNormGrad {
            dout: dnorm,
            sum: end.act,
            mean: end.mean,
            rstd: end.rstd,
            gamma: self.end_norm.gamma,
            dsum: dnorm,
            dx: None,
            dropout: None,
            dgamma,
            dbeta,
        })?;
        b.push(ActivationGrad { x: end.pre, dout: dnorm, dx: dnorm, kind: ActivationKind::Tanh, dropout: None })?;
        let dcat = self.end_0.backward(b, "d_end_input", end.cat, dnorm)?;
        copy_columns(b, (dcat, 0, 2 * d), (Target::set(dcontent), 0, d), rows, d)?;
        let dspread = b.activation("d_start_states", [rows, d]);
        copy_columns(b, (dcat, d, 2 * d), (Target::set(dspread), 0, d), rows, d)?;
        let dstate = b.activation("d_start_state", [o.batch, d]);
        b.push(GatherRowsGrad { dout: dspread, ids: i.example_rows, dtable: Target::set(dstate) })?;
        b.push(GatherRowsGrad { dout: dstate, ids: i.start_rows, dtable: Target::add(dcontent) })?;

        if let (Some(answer), Some((dense_0, dense_1))) = (answer, self.answer) {
            let labels_ =
                labels.is_impossible.ok_or_else(|| Error::plan("an answerable span head needs is_impossible"))?;
            let dlogits = b.activation("d_answer_logits", [o.batch]);
            let x = b.reshape(answer.logits, [o.batch])?;
            b.push(crate::op::ElementLoss {
                kind: crate::op::ElementLossKind::SigmoidCrossEntropy,
                x,
                labels: labels_,
                weights: labels.weights,
                loss: loss.target(),
                row_loss: None,
                dx: Some(dlogits),
            })?;
            copy_all(b, x, outputs[2])?;
            let dact = dense_1.backward(b, "d_answer_act", answer.act, dlogits)?;
            let (kind, dropout) = (ActivationKind::Tanh, answer.dropout);
            b.push(ActivationGrad { x: answer.pre, dout: dact, dx: dact, kind, dropout })?;
            let dcat = dense_0.backward(b, "d_answer_input", answer.cat, dact)?;
            let [dexpected, dcls] = ["d_expected_start", "d_cls_state"].map(|name| b.activation(name, [o.batch, d]));
            copy_columns(b, (dcat, 0, 2 * d), (Target::set(dexpected), 0, d), o.batch, d)?;
            copy_columns(b, (dcat, d, 2 * d), (Target::set(dcls), 0, d), o.batch, d)?;
            b.push(GatherRowsGrad { dout: dcls, ids: i.cls_rows, dtable: Target::add(dcontent) })?;
            let dweight = b.activation("d_start_probabilities", [o.batch, o.length]);
            let x = b.reshape(content, [o.batch, o.length, d])?;
            let dx = Target::add(b.reshape(dcontent, [o.batch, o.length, d])?);
            let weight = answer.probabilities;
            b.push(WeightedRowsGrad { x, weight, dout: dexpected, dx, dweight: Some(dweight) })?;
            b.push(SoftmaxGrad { y: answer.probabilities, dy: dweight, hidden, dx: Target::add(dstart) })?;
        }
        self.start.backward_weight(b, content, dstart)?;
        self.start.backward_input(b, dstart, Target::add(dcontent))
    }

    /// Pushes the first half of prediction: start probabilities' logarithms into `start_log_probs [B, L]` and the
    /// answerability logit into `answer [B]`.
    ///
    /// # Errors
    /// When the transformer has no content rows.
    pub fn predict_start(
        &self,
        b: &mut Builder,
        net: &Transformer,
        i: &SpanInputs,
        start_log_probs: TensorId,
        answer: TensorId,
    ) -> Result<()> {
        let content = net.content.ok_or_else(no_content)?;
        let logits = self.start_logits(b, net, content)?;
        b.push(Softmax { x: logits, hidden: Some(i.barred), out: start_log_probs, log: true })?;
        if let Some(saved) = self.answer_forward(b, net, content, logits, i)? {
            copy_all(b, saved.logits, answer)?;
        }
        Ok(())
    }

    /// Pushes the second half, for one start a row: logarithms of the end probabilities into `[B, L]`.
    ///
    /// # Errors
    /// When the transformer has no content rows.
    pub fn predict_end(
        &self,
        b: &mut Builder,
        net: &Transformer,
        i: &SpanInputs,
        end_log_probs: TensorId,
    ) -> Result<()> {
        let content = net.content.ok_or_else(no_content)?;
        let end = self.end_forward(b, net, content, i)?;
        b.push(Softmax { x: end.logits, hidden: Some(i.barred), out: end_log_probs, log: true })
    }
}

/// Copies `count` columns of `rows` rows: `(tensor, first column, row width)` on both sides.
fn copy_columns(
    b: &mut Builder,
    (src, src_offset, src_stride): (TensorId, usize, usize),
    (dst, dst_offset, dst_stride): (Target, usize, usize),
    rows: usize,
    count: usize,
) -> Result<()> {
    b.push(CopyBlocks { src, src_offset, src_stride, dst, dst_offset, dst_stride, blocks: rows, length: count })
}

/// Copies a whole tensor.
pub(crate) fn copy_all(b: &mut Builder, src: TensorId, dst: TensorId) -> Result<()> {
    let length = b.shape(src).len();
    copy_columns(b, (src, 0, length), (Target::set(dst), 0, length), 1, length)
}
