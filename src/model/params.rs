//! Every parameter of a model, under its Hugging Face name: declared once, used by the program, the initialiser, the
//! checkpoints and the parameter count.

use super::linear::{Layout, Linear};
use crate::config::XlnetConfig;
use crate::program::Builder;
use crate::tensor::{Shape, TensorId};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// The run's initialiser: normal or uniform.
    Weight,
    /// Zeros: biases and shifts.
    Zeros,
    /// Ones: scales.
    Ones,
    /// Uniform in `±sqrt(6 / (1 + d))`: the mask embedding, which the original leaves to TensorFlow's default.
    Glorot,
}

/// How the parameter called `name` starts.
pub fn initializer(name: &str) -> Init {
    let norm = name.contains("layer_norm") || name.contains("LayerNorm");
    if name.ends_with("mask_emb") {
        Init::Glorot
    } else if norm && name.ends_with("weight") {
        Init::Ones
    } else if name.ends_with(".bias") {
        Init::Zeros
    } else {
        Init::Weight // kernels, embeddings, r_*_bias, seg_embed, summary_bias
    }
}

/// Weight decay applies to everything but layer norms and dense biases; `r_*_bias` do decay.
pub fn decays(name: &str) -> bool {
    let attention_bias = ["r_w_bias", "r_r_bias", "r_s_bias"].iter().any(|bias| name.ends_with(bias));
    let norm = name.contains("layer_norm") || name.contains("LayerNorm");
    attention_bias || !(norm || name.contains("bias"))
}

/// The layer a parameter belongs to; `None` for embeddings, tied biases and heads. The original keeps untied biases and
/// segment embeddings of all layers in one tensor outside the layers, so layer-wise decay does not touch them.
pub fn decay_layer(name: &str) -> Option<usize> {
    let shared = ["r_w_bias", "r_r_bias", "r_s_bias", "seg_embed"].iter().any(|bias| name.ends_with(bias));
    if shared { None } else { name.strip_prefix("transformer.layer.")?.split('.').next()?.parse().ok() }
}

/// Scale and shift of a layer norm.
#[derive(Clone, Copy, Debug)]
pub struct NormParams {
    /// Scale.
    pub gamma: TensorId, // [d]
    /// Shift.
    pub beta: TensorId, // [d]
}

/// Parameters of one layer. With tied biases the three `r_*_bias` are the same tensors in every layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerParams {
    /// Queries.
    pub q: Linear, // [d, N, D]
    /// Keys.
    pub k: Linear, // [d, N, D]
    /// Values.
    pub v: Linear, // [d, N, D]
    /// Relative positions.
    pub r: Linear, // [d, N, D]
    /// Output, stored output dimension first.
    pub o: Linear, // [d, N, D]
    /// Content bias.
    pub r_w_bias: TensorId, // [N, D]
    /// Position bias.
    pub r_r_bias: TensorId, // [N, D]
    /// Segment bias and embedding; absent in a program without segments.
    pub segment: Option<(TensorId, TensorId)>, // [N, D], [2, N, D]
    /// Norm after attention.
    pub attention_norm: NormParams,
    /// First feed-forward layer.
    pub ff_1: Linear, // [I, d]
    /// Second feed-forward layer.
    pub ff_2: Linear, // [d, I]
    /// Norm after the feed-forward layer.
    pub ff_norm: NormParams,
}

/// Parameters of the transformer without heads.
#[derive(Clone, Debug)]
pub struct TransformerParams {
    /// Token embedding, also the output matrix of the language model.
    pub word_embedding: TensorId, // [V, d]
    /// Input of masked query rows; only with a query stream.
    pub mask_emb: Option<TensorId>, // [1, 1, d]
    /// Layers in order.
    pub layers: Vec<LayerParams>,
}

/// Declares parameters under a common prefix.
pub(super) fn linear(b: &mut Builder, name: &str, inputs: usize, outputs: usize, bias: bool) -> Linear {
    let weight = b.param(format!("{name}.weight"), [outputs, inputs]);
    let bias = bias.then(|| b.param(format!("{name}.bias"), [outputs]));
    Linear { weight, bias, inputs, outputs, layout: Layout::OutIn }
}
pub(super) fn norm(b: &mut Builder, name: &str, d: usize) -> NormParams {
    NormParams { gamma: b.param(format!("{name}.weight"), [d]), beta: b.param(format!("{name}.bias"), [d]) }
}
/// A projection of attention, `[d, N, D]`; `o` reads it transposed.
pub(super) fn projection(b: &mut Builder, name: &str, config: &XlnetConfig, layout: Layout) -> Linear {
    let (d, heads) = (config.d_model, config.n_head * config.d_head);
    let weight = b.param(name, [d, config.n_head, config.d_head]);
    let (inputs, outputs) = if layout == Layout::InOut { (d, heads) } else { (heads, d) };
    Linear { weight, bias: None, inputs, outputs, layout }
}

impl TransformerParams {
    /// Declares all parameters. `query_stream` adds the mask embedding, `segments` the segment terms.
    pub fn declare(b: &mut Builder, config: &XlnetConfig, query_stream: bool, segments: bool) -> Self {
        let (d, n, dh) = (config.d_model, config.n_head, config.d_head);
        let word_embedding = b.param("transformer.word_embedding.weight", [config.n_token, d]);
        let mask_emb = query_stream.then(|| b.param("transformer.mask_emb", [1, 1, d]));
        let bias =
            |b: &mut Builder, prefix: &str, name: &str| b.param(format!("{prefix}.{name}"), Shape::from([n, dh]));
        let tied = (!config.untie_r).then(|| {
            let content = bias(b, "transformer", "r_w_bias");
            let position = bias(b, "transformer", "r_r_bias");
            (content, position, segments.then(|| bias(b, "transformer", "r_s_bias")))
        });
        let layers = (0..config.n_layer)
            .map(|i| {
                let layer = format!("transformer.layer.{i}");
                let attention = format!("{layer}.rel_attn");
                let (r_w_bias, r_r_bias, r_s_bias) = tied.unwrap_or_else(|| {
                    let content = bias(b, &attention, "r_w_bias");
                    let position = bias(b, &attention, "r_r_bias");
                    (content, position, segments.then(|| bias(b, &attention, "r_s_bias")))
                });
                let segment = r_s_bias.map(|bias| (bias, b.param(format!("{attention}.seg_embed"), [2, n, dh])));
                let mut project = |name: &str, layout| projection(b, &format!("{attention}.{name}"), config, layout);
                let [q, k, v, r] = ["q", "k", "v", "r"].map(|name| project(name, Layout::InOut));
                let o = project("o", Layout::OutIn);
                LayerParams {
                    q,
                    k,
                    v,
                    r,
                    o,
                    r_w_bias,
                    r_r_bias,
                    segment,
                    attention_norm: norm(b, &format!("{attention}.layer_norm"), d),
                    ff_1: linear(b, &format!("{layer}.ff.layer_1"), d, config.d_inner, true),
                    ff_2: linear(b, &format!("{layer}.ff.layer_2"), config.d_inner, d, true),
                    ff_norm: norm(b, &format!("{layer}.ff.layer_norm"), d),
                }
            })
            .collect();
        TransformerParams { word_embedding, mask_emb, layers }
    }
}
