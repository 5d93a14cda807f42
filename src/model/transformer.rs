//! The stack of layers for one micro-batch: options, inputs, forward and backward.

use serde::{Deserialize, Serialize};

use super::params::TransformerParams;
use super::{attention, embedding, feed_forward, memory};
use crate::config::{LAYER_NORM_EPS, XlnetConfig};
use crate::op::{Dropout, DropoutSite, Groups, KEY_LEN, PositionEncoding, Target};
use crate::program::Builder;
use crate::tensor::{DType, Role, TensorId};
use crate::{Error, Result};

/// Direction of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionType {
    /// Keys on both sides; what the original trains.
    #[default]
    Bi,
    /// Keys up to the row itself.
    Uni,
}

/// Which mask a program takes as input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MaskKind {
    /// None.
    #[default]
    None,
    /// `padding [B, L]`, 1 = padding.
    Padding,
    /// `query_rank`, `key_rank [B, L]`.
    Ranks,
    /// `mask_bits [B, L, ceil(L/32)]`.
    Bits,
}

/// Rows of the query stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum QueryKind {
    /// No query stream: fine-tuning and inference.
    #[default]
    None,
    /// `T` target rows a batch row, at `target_positions`; their input is the mask embedding.
    Targets(usize),
    /// A query row for every position; input is the mask embedding where `input_q` is 1, the token's elsewhere.
    All,
}

/// Whose positions share a dropout mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionDropout {
    /// All rows of a direction: one table of projected positions for the whole batch.
    #[default]
    Shared,
    /// Every row its own, as in the original; a table a row, at `2 d N D` more FLOPs a position and row.
    PerRow,
}

/// What the backward pass keeps and what it computes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Keeps everything but activations and dropout masks.
    #[default]
    None,
    /// Keeps the input of each layer and runs its forward pass again: about a third more FLOPs.
    Layer,
}

/// Everything about a program's transformer that is not the model's size.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerOptions {
    /// Rows of a micro-batch, B.
    pub batch: usize,
    /// Positions of a segment, L.
    pub length: usize,
    /// Memory positions on entry, M.
    pub memory: usize,
    /// Longest memory on exit; 0 makes none.
    pub mem_len: usize,
    /// How many first positions are cached; `None` is all.
    pub reuse_len: Option<usize>,
    /// Direction.
    pub attention: AttentionType,
    /// With [`AttentionType::Uni`]: each row sees `M + 1` keys.
    pub same_length: bool,
    /// Largest relative distance.
    pub clamp_len: Option<usize>,
    /// Rows carry a direction flag; backward rows see negated distances.
    pub bi_data: bool,
    /// The program has segment ids.
    pub segments: bool,
    /// Mask input.
    pub mask: MaskKind,
    /// Query stream.
    pub query: QueryKind,
    /// Dropout of hidden states; 0 in inference.
    pub dropout: f32,
    /// Dropout of attention probabilities; 0 in inference.
    pub dropatt: f32,
    /// Whose positions share a dropout mask.
    pub position_dropout: PositionDropout,
    /// What backward keeps.
    pub recompute: Recompute,
    /// Layers below this one, and the embeddings, are not trained.
    pub frozen_layers: usize,
    /// Operands of products are rounded to this half precision, bf16 or f16, and attention with heads of 64 elements reads
    /// and writes it; sums, weights and everything else stay f32. `None` rounds nothing.
    pub products: Option<DType>,
    /// Epsilon of layer norms.
    pub layer_norm_eps: f32,
    /// The hidden states of the content stream are wanted at the end although there is a query stream.
    pub content_output: bool,
    /// Padding leaves zeros in the memory, as there are before any text: `forgotten [B, L]`, 1 = padding. Texts of any
    /// number of windows then share a batch, and none of them sees how long the others are.
    pub forget_padding: bool,
}

impl Default for TransformerOptions {
    /// One segment, both directions, no mask, no query stream, no dropout.
    fn default() -> Self {
        TransformerOptions {
            batch: 1,
            length: 1,
            memory: 0,
            mem_len: 0,
            reuse_len: None,
            attention: AttentionType::Bi,
            same_length: false,
            clamp_len: None,
            bi_data: false,
            segments: true,
            mask: MaskKind::None,
            query: QueryKind::None,
            dropout: 0.0,
            dropatt: 0.0,
            position_dropout: PositionDropout::Shared,
            recompute: Recompute::None,
            frozen_layers: 0,
            products: None,
            layer_norm_eps: LAYER_NORM_EPS,
            content_output: false,
            forget_padding: false,
        }
    }
}

impl TransformerOptions {
    /// Query rows a batch row, T.
    pub fn targets(&self) -> usize {
        match self.query {
            QueryKind::None => 0,
            QueryKind::Targets(t) => t,
            QueryKind::All => self.length,
        }
    }
    /// Content rows of a micro-batch.
    pub fn content_rows(&self) -> usize {
        self.batch * self.length
    }
    /// Query rows of a micro-batch.
    pub fn query_rows(&self) -> usize {
        self.batch * self.targets()
    }
    /// N = M + L.
    pub fn keys(&self) -> usize {
        self.memory + self.length
    }
    /// Length of the memory on exit.
    pub fn new_memory(&self) -> usize {
        let cached = self.reuse_len.filter(|&r| r > 0).unwrap_or(self.length).min(self.length);
        (self.memory + cached).min(self.mem_len)
    }
    /// Which rows share a position table.
    pub(super) fn groups(&self) -> Groups {
        if self.position_dropout == PositionDropout::PerRow && self.dropout > 0.0 {
            Groups::ByRow
        } else if self.bi_data {
            Groups::ByDirection
        } else {
            Groups::Shared
        }
    }
    /// Number of position tables, G.
    fn position_tables(&self) -> usize {
        match self.groups() {
            Groups::Shared => 1,
            Groups::ByDirection => 2,
            Groups::ByRow => self.batch,
        }
    }
    /// Checks what no op would.
    fn check(&self, config: &XlnetConfig) -> Result<()> {
        config.validate()?;
        if self.batch == 0 || self.length == 0 {
            let (b, l) = (self.batch, self.length);
            return Err(Error::config(format!("batch and sequence length must be at least 1, but are {b} and {l}")));
        }
        for (name, rate) in [("dropout", self.dropout), ("dropatt", self.dropatt)] {
            if !(0.0..1.0).contains(&rate) {
                return Err(Error::config(format!("{name} must be at least 0 and below 1, but is {rate}")));
            }
        }
        if self.frozen_layers > config.n_layer {
            let (frozen, n) = (self.frozen_layers, config.n_layer);
            return Err(Error::config(format!("cannot freeze {frozen} layers of a model that has {n}")));
        }
        Ok(())
    }
}

/// Inputs of a whole batch; a micro-batch uses its rows of each. Names are those the host uploads to.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Tokens.
    pub input_ids: TensorId, // [A*B, L] i32
    /// Segments.
    pub segment_ids: Option<TensorId>, // [A*B, L] i32
    /// 0 forward, 1 backward.
    pub direction: Option<TensorId>, // [A*B] i32
    /// Row number within the micro-batch, for position tables of their own.
    pub row_group: Option<TensorId>, // [A*B] i32
    /// 1 = padding.
    pub padding: Option<TensorId>, // [A*B, L] i32
    /// Ranks as queries.
    pub query_rank: Option<TensorId>, // [A*B, L] i32
    /// Ranks as keys.
    pub key_rank: Option<TensorId>, // [A*B, L] i32
    /// Any mask.
    pub mask_bits: Option<TensorId>, // [A*B, L, ceil(L/32)] u32
    /// Positions of query rows.
    pub target_positions: Option<TensorId>, // [A*B, T] i32
    /// Mix of mask embedding and token.
    pub input_q: Option<TensorId>, // [A*B, L]
    /// Which rows are remembered as zeros.
    pub forgotten: Option<TensorId>, // [A*B, L]
    /// What they are replaced by.
    pub nothing: Option<TensorId>, // [d]
    /// The step's random key and the rows of each micro-batch in the whole batch.
    pub dropout_key: Option<TensorId>, // [A, 2 + B] u32
    /// The step's random key for position tables that all rows share, and numbers of these tables.
    pub position_key: Option<TensorId>, // [2 + G] u32
    /// Hidden states of earlier segments.
    pub memory: Vec<TensorId>, // n_layer of [A*B, M, d]
}

impl Inputs {
    /// Declares the inputs of `accumulate` micro-batches. `memory_role` is [`Role::Memory`] where memories stay on the
    /// device from step to step, [`Role::Input`] where the host hands them over.
    pub fn declare(
        b: &mut Builder,
        config: &XlnetConfig,
        options: &TransformerOptions,
        accumulate: usize,
        memory_role: Role,
    ) -> Inputs {
        let rows = accumulate * options.batch;
        let l = options.length;
        let groups = options.groups();
        let mut ints = |name: &str, wanted: bool, shape: [usize; 2]| wanted.then(|| b.input_i32(name, shape));
        let input_ids = ints("input_ids", true, [rows, l]).expect("always wanted");
        let segment_ids = ints("segment_ids", options.segments, [rows, l]);
        // Rows with tables of their own have a direction each; left alone, they are all forward.
        let direction = ints("direction", options.bi_data || groups == Groups::ByRow, [rows, 1]);
        let row_group = ints("row_group", groups == Groups::ByRow, [rows, 1]);
        let padding = ints("padding", options.mask == MaskKind::Padding, [rows, l]);
        let query_rank = ints("query_rank", options.mask == MaskKind::Ranks, [rows, l]);
        let key_rank = ints("key_rank", options.mask == MaskKind::Ranks, [rows, l]);
        let target_positions = ints("target_positions", options.targets() > 0, [rows, options.targets()]);
        let mask_bits = (options.mask == MaskKind::Bits)
            .then(|| b.tensor("mask_bits", [rows, l, l.div_ceil(32)], DType::U32, Role::Input));
        let input_q = (options.query == QueryKind::All).then(|| b.input("input_q", [rows, l]));
        let forgets = options.forget_padding && options.mem_len > 0;
        let forgotten = forgets.then(|| b.input("forgotten", [rows, l]));
        let nothing = forgets.then(|| b.input("nothing", [config.d_model]));
        let dropout_key = (options.dropout > 0.0 || options.dropatt > 0.0)
            .then(|| b.tensor("dropout_key", [accumulate, KEY_LEN + options.batch], DType::U32, Role::Input));
        let tables = options.position_tables();
        let position_key = (options.dropout > 0.0 && groups != Groups::ByRow)
            .then(|| b.tensor("position_key", [KEY_LEN + tables], DType::U32, Role::Input));
        let float = b.float();
        let layers = if options.memory > 0 { config.n_layer } else { 0 };
        let shape = [rows, options.memory, config.d_model];
        let memory = (0..layers).map(|i| b.tensor(format!("memory/{i}"), shape, float, memory_role)).collect();
        Inputs {
            input_ids,
            segment_ids,
            direction,
            row_group,
            padding,
            query_rank,
            key_rank,
            mask_bits,
            target_positions,
            input_q,
            forgotten,
            nothing,
            dropout_key,
            position_key,
            memory,
        }
    }

    /// The rows of micro-batch `micro`.
    ///
    /// # Errors
    /// When there are fewer micro-batches.
    pub fn micro(&self, b: &mut Builder, options: &TransformerOptions, micro: usize) -> Result<Inputs> {
        let rows = options.batch;
        let mut part = |id: TensorId| b.rows(id, micro * rows, rows);
        let mut some = |id: Option<TensorId>| id.map(&mut part).transpose();
        let mut inputs = Inputs {
            input_ids: self.input_ids,
            segment_ids: some(self.segment_ids)?,
            direction: some(self.direction)?,
            row_group: some(self.row_group)?,
            padding: some(self.padding)?,
            query_rank: some(self.query_rank)?,
            key_rank: some(self.key_rank)?,
            mask_bits: some(self.mask_bits)?,
            target_positions: some(self.target_positions)?,
            input_q: some(self.input_q)?,
            forgotten: some(self.forgotten)?,
            nothing: self.nothing,
            dropout_key: None,
            position_key: self.position_key,
            memory: vec![],
        };
        inputs.input_ids = part(self.input_ids)?;
        inputs.memory = self.memory.iter().map(|&id| part(id)).collect::<Result<_>>()?;
        inputs.dropout_key = self.dropout_key.map(|id| b.rows(id, micro, 1)).transpose()?;
        Ok(inputs)
    }
}

/// Dropout sites; part of the random stream, so numbers must not change. Layers take `STRIDE` numbers each.
pub(super) mod site {
    pub const EMBEDDING: u32 = 0;
    pub const POSITIONS: u32 = 1;
    pub const OUTPUT: u32 = 2;
    pub const SUMMARY: u32 = 3;
    pub const ANSWER: u32 = 4;
    pub const POOL_PROBABILITIES: u32 = 5;
    pub const POOL_OUTPUT: u32 = 6;
    const FIRST_LAYER: u32 = 16;
    const STRIDE: u32 = 8;
    pub const CONTENT_PROBABILITIES: u32 = 0;
    pub const QUERY_PROBABILITIES: u32 = 1;
    pub const ATTENTION: u32 = 2;
    pub const FF_HIDDEN: u32 = 3;
    pub const FF_OUTPUT: u32 = 4;
    /// Number of a site inside layer `layer`.
    pub fn layer(layer: usize, site: u32) -> u32 {
        FIRST_LAYER + STRIDE * layer as u32 + site
    }
}

/// A layer's input and what its backward pass needs.
struct SavedLayer {
    x: TensorId, // [R, d]
    attention: attention::Saved,
    feed_forward: feed_forward::Saved,
}

/// One micro-batch's pass through all layers.
pub struct Transformer<'a> {
    pub(super) config: &'a XlnetConfig,
    pub(super) options: &'a TransformerOptions,
    pub(super) params: &'a TransformerParams,
    pub(super) inputs: Inputs,
    /// Dropped position table.
    pub(super) positions: TensorId, // [G, P, d]
    embedding: embedding::Saved,
    layers: Vec<SavedLayer>,
    /// Memories for the next segment, one a layer; empty when none are wanted.
    pub new_memory: Vec<TensorId>, // [B, M', d]
    /// Hidden states of the content stream, after the last dropout; absent when only targets are wanted.
    pub content: Option<TensorId>, // [B*L, d]
    /// Hidden states of the query stream, after the last dropout.
    pub query: Option<TensorId>, // [B*T, d]
    /// Input of each layer, then the output of the last one before dropout: content rows.
    pub hidden_states: Vec<TensorId>, // [B*L, d]
}

impl<'a> Transformer<'a> {
    /// Pushes the forward pass. `keep` says whether a backward pass will follow.
    ///
    /// # Errors
    /// When options and sizes do not fit together.
    pub fn forward(
        b: &mut Builder,
        config: &'a XlnetConfig,
        options: &'a TransformerOptions,
        params: &'a TransformerParams,
        inputs: Inputs,
        keep: bool,
    ) -> Result<Self> {
        options.check(config)?;
        let positions = b.scoped("positions", |b| encode_positions(b, config, options, &inputs))?;
        let (mut x, embedding) = b.scoped("embedding", |b| embedding::forward(b, options, params, &inputs))?;
        let mut net = Transformer {
            config,
            options,
            params,
            inputs,
            positions,
            embedding,
            layers: vec![],
            new_memory: vec![],
            content: None,
            query: None,
            hidden_states: vec![],
        };
        for layer in 0..config.n_layer {
            let content = b.rows(x, 0, options.content_rows())?;
            net.hidden_states.push(content);
            b.scoped(format!("layer.{layer}"), |b| {
                if options.mem_len > 0 {
                    let new = memory::forward(b, options, &net.inputs, layer, content)?;
                    net.new_memory.push(new);
                }
                let (y, saved) = net.layer_forward(b, layer, x)?;
                if keep {
                    net.layers.push(saved);
                }
                x = y;
                Ok(())
            })?;
        }
        b.scoped("output", |b| net.output(b, x, keep))?;
        Ok(net)
    }

    /// True when layer `layer` works on query rows alone, since nobody reads its content rows.
    pub(super) fn query_only(&self, layer: usize) -> bool {
        layer + 1 == self.config.n_layer && self.options.targets() > 0 && !self.options.content_output
    }
    /// Rows of each batch row in the first part of the states of layer `layer`: those of the content stream, or those of
    /// the query stream where they are alone.
    fn lead(&self, layer: usize) -> usize {
        if self.query_only(layer) { self.options.targets() } else { self.options.length }
    }
    /// Dropout of the states of layer `layer`; `None` at rate 0.
    pub(super) fn dropout(&self, site: u32, layer: usize) -> Option<DropoutSite> {
        self.dropout_of(site, self.options.dropout, self.lead(layer))
    }
    /// Dropout of a tensor with `lead` rows a batch row in its first part; `None` at rate 0.
    pub(super) fn dropout_of(&self, site: u32, rate: f32, lead: usize) -> Option<DropoutSite> {
        let key = self.inputs.dropout_key?;
        (rate > 0.0).then_some(DropoutSite { key, site, rate, lead })
    }
    fn layer_forward(&self, b: &mut Builder, layer: usize, x: TensorId) -> Result<(TensorId, SavedLayer)> {
        let (h, attention) = attention::forward(b, self, layer, x)?;
        let (y, feed_forward) = feed_forward::forward(b, self, layer, h)?;
        Ok((y, SavedLayer { x, attention, feed_forward }))
    }

    /// Last dropout; splits the rows into streams.
    fn output(&mut self, b: &mut Builder, x: TensorId, keep: bool) -> Result<()> {
        let query_only = self.query_only(self.config.n_layer - 1);
        let (content_rows, query_rows) = (self.options.content_rows(), self.options.query_rows());
        if !query_only {
            let content = b.rows(x, 0, content_rows)?;
            self.hidden_states.push(content);
        }
        let x = match self.dropout(site::OUTPUT, self.config.n_layer - 1) {
            None => x,
            Some(dropout) => {
                let out = if keep { b.activation("dropped", b.shape(x)) } else { x };
                b.push(Dropout { x, out, dropout })?;
                out
            }
        };
        if query_only {
            self.query = Some(x);
            return Ok(());
        }
        self.content = Some(b.rows(x, 0, content_rows)?);
        if query_rows > 0 {
            self.query = Some(b.rows(x, content_rows, query_rows)?);
        }
        Ok(())
    }

    /// A zeroed tensor for the gradient of the output rows, with its content and query parts.
    ///
    /// # Errors
    /// Never, for a program whose forward pass was built.
    pub fn output_gradient(&self, b: &mut Builder) -> Result<OutputGradient> {
        let query_only = self.query_only(self.config.n_layer - 1);
        let content_rows = if query_only { 0 } else { self.options.content_rows() };
        let query_rows = self.options.query_rows();
        let all = b.activation("d_output", [content_rows + query_rows, self.config.d_model]);
        let part = |b: &mut Builder, start, rows| (rows > 0).then(|| b.rows(all, start, rows)).transpose();
        Ok(OutputGradient { all, content: part(b, 0, content_rows)?, query: part(b, content_rows, query_rows)? })
    }

    /// Pushes the backward pass, given the complete gradient of the output rows.
    ///
    /// # Errors
    /// When options and sizes do not fit together.
    pub fn backward(mut self, b: &mut Builder, gradient: &OutputGradient) -> Result<()> {
        let mut dx = gradient.all;
        if let Some(dropout) = self.dropout(site::OUTPUT, self.config.n_layer - 1) {
            b.scoped("output", |b| b.push(Dropout { x: dx, out: dx, dropout }))?;
        }
        for layer in (self.options.frozen_layers..self.config.n_layer).rev() {
            let saved = self.layers.pop().ok_or_else(|| Error::plan("backward without a kept forward pass"))?;
            dx = b.scoped(format!("layer.{layer}"), |b| {
                let SavedLayer { x, attention, feed_forward } = match self.options.recompute {
                    Recompute::None => saved,
                    Recompute::Layer => self.layer_forward(b, layer, saved.x)?.1,
                };
                let dh = feed_forward::backward(b, &self, layer, feed_forward, dx)?;
                attention::backward(b, &self, layer, x, attention, dh)
            })?;
        }
        if self.options.frozen_layers > 0 {
            return Ok(());
        }
        b.scoped("embedding", |b| embedding::backward(b, &self, &self.embedding, dx))
    }

    /// Memories on entry, one a layer.
    pub fn old_memory(&self) -> &[TensorId] {
        &self.inputs.memory
    }
}

/// Pushes the copies that make the new memories those of the next run.
///
/// # Errors
/// When a memory on entry has another length than on exit.
pub fn commit_memory(b: &mut Builder, new: &[TensorId], old: &[TensorId]) -> Result<()> {
    for (layer, (&new, &old)) in new.iter().zip(old).enumerate() {
        b.scoped(format!("layer.{layer}"), |b| memory::commit(b, new, old))?;
    }
    Ok(())
}

/// Gradient of the output rows of a [`Transformer`]; every part must be written before the backward pass.
pub struct OutputGradient {
    /// All rows.
    pub all: TensorId, // [R, d]
    /// Rows of the content stream.
    pub content: Option<TensorId>, // [B*L, d]
    /// Rows of the query stream.
    pub query: Option<TensorId>, // [B*T, d]
}

fn encode_positions(
    b: &mut Builder,
    config: &XlnetConfig,
    options: &TransformerOptions,
    inputs: &Inputs,
) -> Result<TensorId> {
    let by_row = options.groups() == Groups::ByRow;
    let direction = match inputs.direction.filter(|_| by_row) {
        Some(id) => Some(b.reshape(id, [options.batch])?),
        None => None,
    };
    let (keys, lead) = (options.keys(), options.keys() + options.length);
    let out = b.activation("table", [options.position_tables(), lead, config.d_model]);
    b.push(PositionEncoding { direction, out, keys, clamp_len: options.clamp_len })?;
    let key = if by_row { inputs.dropout_key } else { inputs.position_key };
    if let Some(key) = key.filter(|_| inputs.dropout_key.is_some() && options.dropout > 0.0) {
        let dropout = DropoutSite { key, site: site::POSITIONS, rate: options.dropout, lead };
        b.push(Dropout { x: out, out, dropout })?;
    }
    Ok(out)
}

/// `Add` where the tensor holds something already, `Set` where it does not.
pub(super) fn accumulate(begun: &mut bool, id: TensorId) -> Target {
    let target = if *begun { Target::add(id) } else { Target::set(id) };
    *begun = true;
    target
}
