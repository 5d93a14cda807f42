//! One program for a whole training step: micro-batches, gradients, global norm, update.
//!
//! Phases: `backward` (forward and backward of every micro-batch, memories carried over), `update`. Gradient
//! accumulation is unrolled in the program, so its loss and gradients are those of the big batch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::schedule::Schedule;
use crate::backend::{Device, Executor};
use crate::config::XlnetConfig;
use crate::model::heads::{
    Accumulator, Classifier, LmHead, SpanHead, SpanInputs, SpanLabels, Summary, SummaryOptions, copy_all,
};
use crate::model::params::{TransformerParams, decay_layer, decays};
use crate::model::{Inputs, OutputGradient, QueryKind, Transformer, TransformerOptions, commit_memory};
use crate::op::{Adam, ElementLoss, ElementLossKind, SoftmaxCrossEntropy, SquareNorm, Target};
use crate::program::{Builder, Program};
use crate::tensor::{DType, Role, TensorId};
use crate::{Error, Result};

/// What is learnt, or computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// Nothing: the outputs are the hidden states, the input of each layer and then the last one's output, `[B, L, d]`,
    /// and the query stream's `[B, T, d]` where there is one.
    Hidden,
    /// Nothing: the output is all logits of the query stream `[B, T, V]`, or of the content stream `[B, L, V]` where
    /// there is none.
    Logits,
    /// Nothing: predictions of a span model. Phase `forward` gives `start_log_probs [B, L]` and `answer_logits [B]`,
    /// phase `end`, for the `start_rows [B]` uploaded in between, `end_log_probs [B, L]`.
    SpanPrediction {
        /// Questions may have no answer.
        answerable: bool,
        /// The last answerability layer has a bias.
        answer_bias: bool,
    },
    /// Permutation language model; inputs `targets`, `target_weights` `[B, T]`.
    LanguageModel,
    /// Classes of whole sequences; inputs `labels`, `weights` `[B]`.
    Classification {
        /// Number of classes.
        classes: usize,
        /// Pooling.
        summary: SummaryOptions,
    },
    /// A number for each sequence; inputs `label_values`, `weights` `[B]`.
    Regression {
        /// Pooling.
        summary: SummaryOptions,
    },
    /// The right one of `choices` neighbouring rows (RACE); inputs `labels`, `weights` `[B / choices]`.
    Choice {
        /// Rows an example.
        choices: usize,
        /// Pooling.
        summary: SummaryOptions,
    },
    /// Start, end and answerability of a span (SQuAD); inputs `start_positions`, `end_positions`, `weights` `[B]`,
    /// `barred [B, L]`, `start_rows`, `cls_rows [B]`, `example_rows [B*L]`, `is_impossible [B]`.
    Span {
        /// Questions may have no answer.
        answerable: bool,
        /// The last answerability layer has a bias.
        answer_bias: bool,
    },
    /// Classes of tokens; inputs `labels`, `weights` `[B, L]`.
    Tokens {
        /// Number of classes.
        classes: usize,
    },
}

/// How layer-wise decay works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerDecay {
    /// Scales the clipped gradient, as the original does; Adam all but cancels it.
    #[default]
    Gradient,
    /// Scales the learning rate.
    LearningRate,
}

/// Optimiser settings, named as the original's flags.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerOptions {
    /// Learning rate by step.
    pub schedule: Schedule,
    /// Largest global norm of the gradient; 0 for no limit.
    pub clip: f32,
    /// 0 is Adam with bias correction, more is AdamWeightDecay without.
    pub weight_decay: f32,
    /// Added to the root of the second moment.
    pub adam_epsilon: f32,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Factor from layer to layer, downwards.
    pub lr_layer_decay_rate: f32,
    /// What it scales.
    pub layer_decay: LayerDecay,
    /// Factor of the loss while gradients are computed; 0 is 1, or adapts itself with products in f16. See [`super::loss_scale::LossScale`].
    pub loss_scale: f64,
}

impl Default for OptimizerOptions {
    /// The original's defaults for pretraining: Adam, clipped at norm 1.
    fn default() -> Self {
        OptimizerOptions {
            schedule: Schedule::default(),
            clip: 1.0,
            weight_decay: 0.0,
            adam_epsilon: 1e-8,
            beta1: 0.9,
            beta2: 0.999,
            lr_layer_decay_rate: 1.0,
            layer_decay: LayerDecay::Gradient,
            loss_scale: 0.0,
        }
    }
}

impl OptimizerOptions {
    /// Values of the `hyper` input of [`Adam`] for the update that follows `step` updates, from gradients of a loss that was
    /// multiplied by `loss_scale`.
    pub fn hyper(&self, step: u64, loss_scale: f64) -> [f64; Adam::HYPER_LEN] {
        let rate = self.schedule.rate(step);
        let t = (step + 1).min(1 << 30) as i32;
        let corrected = if self.weight_decay > 0.0 {
            rate
        } else {
            rate * (1.0 - self.beta2.powi(t)).sqrt() / (1.0 - self.beta1.powi(t))
        };
        let (clip, eps, decay) = (f64::from(self.clip), f64::from(self.adam_epsilon), f64::from(self.weight_decay));
        [corrected, clip, self.beta1, self.beta2, eps, decay, 1.0 / loss_scale]
    }
}

/// Everything that shapes a program.
#[derive(Clone, Debug)]
pub struct StepOptions {
    /// Micro-batch, sequence, masks, dropout.
    pub transformer: TransformerOptions,
    /// What is learnt.
    pub objective: Objective,
    /// Micro-batches a step.
    pub accumulate: usize,
    /// Element type; f64 is for tests.
    pub float: DType,
    /// `None` builds a program without gradients: phase `forward`.
    pub optimizer: Option<OptimizerOptions>,
}

/// A step's program and the tensors a caller needs.
#[derive(Clone, Debug)]
pub struct StepProgram {
    /// The program.
    pub program: Arc<Program>,
    /// Parameters in order of declaration.
    pub params: Vec<TensorId>,
    /// Weighted sum of losses over the whole batch.
    pub loss: TensorId, // [1]
    /// Weights of the losses of rows or targets; gradients are proportional to them. `None` where nothing is learnt.
    pub weights: Option<TensorId>,
    /// Predictions, as the [`Objective`] says.
    pub outputs: Vec<TensorId>,
    /// The optimiser's tensors; `None` in a program without gradients.
    pub update: Option<Update>,
    /// Memories on the device; a run replaces them by the next segment's where those are as long.
    pub memory: Vec<TensorId>, // n_layer of [A*B, M, d]
    /// The next segment's memories as outputs, where their length differs from those on entry.
    pub new_memory: Vec<TensorId>, // n_layer of [A*B, M', d]
}

/// What the update phase works on.
#[derive(Clone, Debug)]
pub struct Update {
    /// Trained parameters with gradient and both moments.
    pub trained: Vec<Trained>,
    /// Square of the global norm of the gradient, before clipping.
    pub square_norm: TensorId, // [1]
    /// The optimiser's constants, [`OptimizerOptions::hyper`].
    pub hyper: TensorId, // [7]
}

/// Tensors of one trained parameter.
#[derive(Clone, Copy, Debug)]
pub struct Trained {
    /// Values.
    pub param: TensorId,
    /// Gradient.
    pub grad: TensorId,
    /// First moment.
    pub m: TensorId,
    /// Second moment.
    pub v: TensorId,
}

enum Head {
    Hidden,
    Logits(LmHead),
    SpanPrediction(SpanHead),
    LanguageModel(LmHead),
    Pooled(Summary, Classifier),
    Span(SpanHead),
    Tokens(Classifier),
}

/// Label tensors of the whole batch.
#[derive(Default)]
struct Labels {
    labels: Option<TensorId>,
    values: Option<TensorId>,
    weights: Option<TensorId>,
    span: Option<(SpanInputs, Option<SpanLabels>)>,
}

impl StepProgram {
    /// Builds the program.
    ///
    /// # Errors
    /// When sizes and options do not fit together.
    pub fn build(config: &XlnetConfig, options: &StepOptions) -> Result<StepProgram> {
        if let Some(optimizer) = &options.optimizer {
            optimizer.schedule.validate()?;
        }
        if options.accumulate == 0 {
            return Err(Error::config("accumulate must be at least 1, but is 0"));
        }
        config.validate()?;
        let mut t = options.transformer.clone();
        t.content_output |= options.objective == Objective::Hidden;
        let (t, objective) = (&t, options.objective);
        let mut builder = Builder::new(options.float);
        let b = &mut builder;
        if let Some(dtype) = t.products {
            b.set_products(dtype);
        }
        let params = TransformerParams::declare(b, config, t.query != QueryKind::None, t.segments);
        let head = declare_head(b, config, &params, objective);
        let all_params: Vec<TensorId> = (0..).map(TensorId).take(b.len()).collect();
        let training = options.optimizer.is_some();
        if training {
            for &id in &all_params {
                let name = b.desc(id).name.clone();
                if is_trained(&name, t.frozen_layers) {
                    b.train(id);
                }
            }
        }
        let inputs = Inputs::declare(b, config, t, options.accumulate, Role::Memory);
        let labels = declare_labels(b, options);
        let loss_id = b.output("loss", [1]);
        let outputs = declare_outputs(b, config, options)?;
        let mut loss = Accumulator::new(loss_id);
        let mut new_memory = vec![];

        if training && t.forget_padding && t.memory > 0 {
            remember(b, config, options, &params, &inputs)?;
        }
        b.phase(if training { "backward" } else { "forward" });
        for micro in 0..options.accumulate {
            let part = inputs.micro(b, t, micro)?;
            let net = Transformer::forward(b, config, t, &params, part, training)?;
            let gradient = if training { Some(net.output_gradient(b)?) } else { None };
            let step = Micro { options, net: &net, index: micro };
            b.scoped("head", |b| step.loss(b, &head, &labels, &mut loss, &outputs, gradient.as_ref()))?;
            let (new, old) = (net.new_memory.clone(), net.old_memory().to_vec());
            if let Some(gradient) = &gradient {
                net.backward(b, gradient)?;
            }
            if t.memory > 0 && t.memory == t.new_memory() {
                commit_memory(b, &new, &old)?;
            } else {
                for (layer, &new) in new.iter().enumerate() {
                    let rows = options.accumulate * t.batch;
                    if micro == 0 {
                        let shape = [rows, t.new_memory(), config.d_model];
                        new_memory.push(b.output(format!("new_memory/{layer}"), shape));
                    }
                    let out = b.rows(new_memory[layer], micro * t.batch, t.batch)?;
                    copy_all(b, new, out)?;
                }
            }
        }
        let update = options.optimizer.as_ref().map(|o| Update::push(b, config, o)).transpose()?;
        Ok(StepProgram {
            program: Arc::new(builder.finish()?),
            params: all_params,
            loss: loss_id,
            weights: labels.weights,
            outputs,
            update,
            memory: inputs.memory,
            new_memory,
        })
    }

    /// Number of trainable values.
    pub fn parameter_count(&self) -> usize {
        self.params.iter().map(|&id| self.program.tensor(id).shape.len()).sum()
    }

    /// Opens `device` with this program; parameters are zeros until they are uploaded.
    ///
    /// # Errors
    /// When the device is missing.
    pub fn open(&self, device: Device) -> Result<Box<dyn Executor>> {
        device.open(self.program.clone())
    }
}

/// The phase in which a training program reads an earlier window of its texts: forward, without dropout, for the
/// memories alone.
fn remember(
    b: &mut Builder,
    config: &XlnetConfig,
    options: &StepOptions,
    params: &TransformerParams,
    inputs: &Inputs,
) -> Result<()> {
    let t = &options.transformer;
    b.phase("remember");
    for micro in 0..options.accumulate {
        let part = Inputs { dropout_key: None, ..inputs.micro(b, t, micro)? };
        let net = Transformer::forward(b, config, t, params, part, false)?;
        commit_memory(b, &net.new_memory, net.old_memory())?;
    }
    Ok(())
}

impl Update {
    fn push(b: &mut Builder, config: &XlnetConfig, o: &OptimizerOptions) -> Result<Update> {
        b.phase("update");
        let float = b.float();
        let mut trained = vec![];
        let square_norm = b.output("square_norm", [1]);
        let hyper = b.input("hyper", [Adam::HYPER_LEN]);
        for (param, grad) in b.trained() {
            let (name, shape) = (b.desc(param).name.clone(), b.shape(param));
            let [m, v] =
                ["m", "v"].map(|moment| b.tensor(format!("adam_{moment}/{name}"), shape, float, Role::OptState));
            trained.push(Trained { param, grad, m, v });
        }
        let decay = |b: &Builder, t: &Trained| {
            let name = &b.desc(t.param).name;
            let layers = decay_layer(name).map_or(0, |layer| config.n_layer - 1 - layer);
            (decays(name), o.lr_layer_decay_rate.powi(layers as i32))
        };
        // What is updated alike comes together, as in the plan: backends then need one launch for all of it.
        let mut ordered = trained.clone();
        ordered.sort_by_key(|t| {
            let (decays, scale) = decay(b, t);
            (decays, scale.to_bits())
        });
        b.scoped("norm", |b| {
            for (i, t) in ordered.iter().enumerate() {
                let out = if i == 0 { Target::set(square_norm) } else { Target::add(square_norm) };
                b.push(SquareNorm { x: t.grad, out })?;
            }
            Ok(())
        })?;
        b.scoped("adam", |b| {
            for t in &ordered {
                let (decays, scale) = decay(b, t);
                let (grad_scale, lr_scale) = match o.layer_decay {
                    LayerDecay::Gradient => (scale, 1.0),
                    LayerDecay::LearningRate => (1.0, scale),
                };
                let &Trained { param, grad, m, v } = t;
                b.push(Adam { param, grad, m, v, square_norm, hyper, decays, grad_scale, lr_scale })?;
            }
            Ok(())
        })?;
        Ok(Update { trained, square_norm, hyper })
    }
}

/// Lower layers and embeddings of a partly frozen model are not trained.
fn is_trained(name: &str, frozen_layers: usize) -> bool {
    if frozen_layers == 0 {
        return true;
    }
    if name == "transformer.word_embedding.weight" || name == "transformer.mask_emb" {
        return false;
    }
    let layer = name.strip_prefix("transformer.layer.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    layer.is_none_or(|layer| layer >= frozen_layers)
}

fn declare_head(b: &mut Builder, config: &XlnetConfig, params: &TransformerParams, objective: Objective) -> Head {
    let pooled = |b: &mut Builder, summary, classes| {
        Head::Pooled(Summary::declare(b, config, summary), Classifier::declare(b, config, "logits_proj", classes))
    };
    match objective {
        Objective::Hidden => Head::Hidden,
        Objective::Logits => Head::Logits(LmHead::declare(b, config, params.word_embedding)),
        Objective::SpanPrediction { answerable, answer_bias } => {
            Head::SpanPrediction(SpanHead::declare(b, config, answerable, answer_bias))
        }
        Objective::LanguageModel => Head::LanguageModel(LmHead::declare(b, config, params.word_embedding)),
        Objective::Classification { classes, summary } => pooled(b, summary, classes),
        Objective::Regression { summary } | Objective::Choice { summary, .. } => pooled(b, summary, 1),
        Objective::Span { answerable, answer_bias } => {
            Head::Span(SpanHead::declare(b, config, answerable, answer_bias))
        }
        Objective::Tokens { classes } => Head::Tokens(Classifier::declare(b, config, "classifier", classes)),
    }
}

fn declare_labels(b: &mut Builder, options: &StepOptions) -> Labels {
    let t = &options.transformer;
    let (rows, l) = (options.accumulate * t.batch, t.length);
    let one_each = |b: &mut Builder, rows: usize| {
        let labels = Some(b.input_i32("labels", [rows]));
        Labels { labels, weights: Some(b.input("weights", [rows])), ..Labels::default() }
    };
    let span_inputs = |b: &mut Builder| SpanInputs {
        barred: b.input("barred", [rows, l]),
        start_rows: b.input_i32("start_rows", [rows]),
        cls_rows: b.input_i32("cls_rows", [rows]),
        example_rows: b.input_i32("example_rows", [rows, l]),
    };
    match options.objective {
        Objective::Hidden | Objective::Logits => Labels::default(),
        Objective::SpanPrediction { .. } => Labels { span: Some((span_inputs(b), None)), ..Labels::default() },
        Objective::LanguageModel => {
            let shape = [rows, t.targets()];
            let labels = Some(b.input_i32("targets", shape));
            Labels { labels, weights: Some(b.input("target_weights", shape)), ..Labels::default() }
        }
        Objective::Classification { .. } => one_each(b, rows),
        Objective::Choice { choices, .. } => one_each(b, rows / choices.max(1)),
        Objective::Regression { .. } => {
            let values = Some(b.input("label_values", [rows]));
            Labels { values, weights: Some(b.input("weights", [rows])), ..Labels::default() }
        }
        Objective::Tokens { .. } => {
            let labels = Some(b.input_i32("labels", [rows, l]));
            Labels { labels, weights: Some(b.input("weights", [rows, l])), ..Labels::default() }
        }
        Objective::Span { answerable, .. } => {
            let weights = b.input("weights", [rows]);
            let inputs = span_inputs(b);
            let labels = SpanLabels {
                start: b.input_i32("start_positions", [rows]),
                end: b.input_i32("end_positions", [rows]),
                is_impossible: answerable.then(|| b.input("is_impossible", [rows])),
                weights,
            };
            Labels { weights: Some(weights), span: Some((inputs, Some(labels))), ..Labels::default() }
        }
    }
}

/// Outputs of a step. A language model's loss has none: its logits are too big to exist whole.
fn declare_outputs(b: &mut Builder, config: &XlnetConfig, options: &StepOptions) -> Result<Vec<TensorId>> {
    let t = &options.transformer;
    let (rows, l) = (options.accumulate * t.batch, t.length);
    Ok(match options.objective {
        Objective::LanguageModel => vec![],
        Objective::Hidden => {
            let shape = [rows, l, config.d_model];
            let mut all: Vec<_> = (0..=config.n_layer).map(|i| b.output(format!("hidden_states/{i}"), shape)).collect();
            if t.targets() > 0 {
                all.push(b.output("query_states", [rows, t.targets(), config.d_model]));
            }
            all
        }
        Objective::Logits => {
            let positions = if t.targets() > 0 { t.targets() } else { l };
            vec![b.output("logits", [rows, positions, config.n_token])]
        }
        Objective::SpanPrediction { .. } => vec![
            b.output("start_log_probs", [rows, l]),
            b.output("answer_logits", [rows]),
            b.output("end_log_probs", [rows, l]),
        ],
        Objective::Classification { classes, .. } => vec![b.output("logits", [rows, classes])],
        Objective::Regression { .. } => vec![b.output("logits", [rows, 1])],
        Objective::Choice { choices, .. } => {
            if choices == 0 || !t.batch.is_multiple_of(choices) {
                let batch = t.batch;
                return Err(Error::config(format!(
                    "{choices} choices an example do not divide a batch of {batch} rows"
                )));
            }
            vec![b.output("logits", [rows / choices, choices])]
        }
        Objective::Tokens { classes } => vec![b.output("logits", [rows, l, classes])],
        Objective::Span { .. } => vec![
            b.output("start_log_probs", [rows, l]),
            b.output("end_log_probs", [rows, l]),
            b.output("answer_logits", [rows]),
        ],
    })
}

/// One micro-batch while its loss is built.
struct Micro<'a> {
    options: &'a StepOptions,
    net: &'a Transformer<'a>,
    index: usize,
}

impl Micro<'_> {
    /// This micro-batch's part of a tensor of the whole batch.
    fn part(&self, b: &mut Builder, id: TensorId) -> Result<TensorId> {
        let count = b.shape(id).dims()[0] / self.options.accumulate;
        b.rows(id, self.index * count, count)
    }

    fn loss(
        &self,
        b: &mut Builder,
        head: &Head,
        labels: &Labels,
        loss: &mut Accumulator,
        outputs: &[TensorId],
        gradient: Option<&OutputGradient>,
    ) -> Result<()> {
        let net = self.net;
        let missing = || Error::plan("an objective without its labels");
        let no_content = || Error::plan("this objective needs the content stream at the end");
        let weights = labels.weights.map(|id| self.part(b, id)).transpose()?.ok_or_else(missing);
        let targets = labels.labels.map(|id| self.part(b, id)).transpose()?;
        match head {
            Head::Hidden => {
                for (&state, &out) in net.hidden_states.iter().zip(outputs) {
                    let out = self.part(b, out)?;
                    copy_all(b, state, out)?;
                }
                if let (Some(query), Some(&out)) = (net.query, outputs.get(net.hidden_states.len())) {
                    let out = self.part(b, out)?;
                    copy_all(b, query, out)?;
                }
                Ok(())
            }
            Head::Logits(head) => {
                let x = net.query.or(net.content).ok_or_else(no_content)?;
                let out = self.part(b, outputs[0])?;
                head.logits(b, x, out)
            }
            Head::SpanPrediction(head) => {
                let inputs = self.span_inputs(b, &labels.span.as_ref().ok_or_else(missing)?.0)?;
                let [start, answer, end] = [outputs[0], outputs[1], outputs[2]].map(|id| self.part(b, id));
                head.predict_start(b, net, &inputs, start?, answer?)?;
                b.phase("end");
                head.predict_end(b, net, &inputs, end?)
            }
            Head::LanguageModel(head) => {
                let x = net.query.ok_or_else(|| Error::config("a language model needs a query stream"))?;
                let dx = gradient.and_then(|g| g.query);
                if let Some(content) = gradient.and_then(|g| g.content) {
                    b.push(crate::op::Fill { out: content, value: 0.0 })?;
                }
                head.loss(b, x, targets.ok_or_else(missing)?, weights?, loss, dx)
            }
            Head::Pooled(summary, classifier) => {
                let (pooled, saved) = summary.forward(b, net)?;
                let logits = classifier.linear.forward(b, "logits", pooled)?; // [B, C]
                let out = self.part(b, outputs[0])?;
                copy_all(b, logits, out)?;
                let dlogits = gradient.map(|_| b.activation("d_logits", b.shape(logits)));
                self.pooled_loss(b, (logits, dlogits), labels, weights?, targets, loss)?;
                if let (Some(gradient), Some(dlogits)) = (gradient, dlogits) {
                    let dpooled = classifier.linear.backward(b, "d_summary", pooled, dlogits)?;
                    summary.backward(b, net, &saved, dpooled, gradient)?;
                }
                Ok(())
            }
            Head::Tokens(classifier) => {
                let content = net.content.ok_or_else(no_content)?;
                let logits = classifier.linear.forward(b, "logits", content)?; // [B*L, C]
                let out = self.part(b, outputs[0])?;
                copy_all(b, logits, out)?;
                let rows = b.shape(content).rows();
                let labels = b.reshape(targets.ok_or_else(missing)?, [rows])?;
                let weights = b.reshape(weights?, [rows])?;
                let dlogits = gradient.map(|_| logits);
                let loss = loss.target();
                b.push(SoftmaxCrossEntropy { logits, hidden: None, labels, weights, loss, row_loss: None, dlogits })?;
                if let Some(dcontent) = gradient.and_then(|g| g.content) {
                    classifier.linear.backward_weight(b, content, logits)?;
                    classifier.linear.backward_input(b, logits, Target::set(dcontent))?;
                }
                Ok(())
            }
            Head::Span(head) => {
                let (inputs, wanted) = labels.span.as_ref().ok_or_else(missing)?;
                let wanted = wanted.as_ref().ok_or_else(missing)?;
                let inputs = self.span_inputs(b, inputs)?;
                let mut part = |id| self.part(b, id);
                let wanted = SpanLabels {
                    start: part(wanted.start)?,
                    end: part(wanted.end)?,
                    is_impossible: wanted.is_impossible.map(&mut part).transpose()?,
                    weights: weights?,
                };
                let outputs = [part(outputs[0])?, part(outputs[1])?, part(outputs[2])?];
                let gradient = gradient.ok_or_else(|| Error::plan("prediction of spans has a program of its own"))?;
                head.train(b, net, &inputs, &wanted, loss, outputs, gradient)
            }
        }
    }

    fn span_inputs(&self, b: &mut Builder, all: &SpanInputs) -> Result<SpanInputs> {
        let rows = self.part(b, all.example_rows)?;
        Ok(SpanInputs {
            barred: self.part(b, all.barred)?,
            start_rows: self.part(b, all.start_rows)?,
            cls_rows: self.part(b, all.cls_rows)?,
            example_rows: b.reshape(rows, [self.options.transformer.content_rows()])?,
        })
    }

    fn pooled_loss(
        &self,
        b: &mut Builder,
        (logits, dlogits): (TensorId, Option<TensorId>),
        labels: &Labels,
        weights: TensorId,
        targets: Option<TensorId>,
        loss: &mut Accumulator,
    ) -> Result<()> {
        let missing = || Error::plan("an objective without its labels");
        let batch = self.options.transformer.batch;
        match self.options.objective {
            Objective::Regression { .. } => {
                let labels = self.part(b, labels.values.ok_or_else(missing)?)?;
                let (kind, x) = (ElementLossKind::SquaredError, b.reshape(logits, [batch])?);
                let dx = dlogits.map(|d| b.reshape(d, [batch])).transpose()?;
                b.push(ElementLoss { kind, x, labels, weights, loss: loss.target(), row_loss: None, dx })
            }
            objective => {
                let (rows, classes) = match objective {
                    Objective::Choice { choices, .. } => (batch / choices, choices),
                    _ => (batch, b.shape(logits).last()),
                };
                let logits = b.reshape(logits, [rows, classes])?;
                let dlogits = dlogits.map(|d| b.reshape(d, [rows, classes])).transpose()?;
                let (labels, loss) = (targets.ok_or_else(missing)?, loss.target());
                b.push(SoftmaxCrossEntropy { logits, hidden: None, labels, weights, loss, row_loss: None, dlogits })
            }
        }
    }
}
