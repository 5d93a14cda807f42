//! Gradients of whole models in double precision: every objective, option and stream against central differences
//! along random directions, dropout on; and programs that must agree to the last bit.

use xlnet::Result;
use xlnet::backend::Device;
use xlnet::config::{FeedForwardActivation, XlnetConfig};
use xlnet::model::heads::{SummaryOptions, SummaryType};
use xlnet::model::{AttentionType, MaskKind, PositionDropout, QueryKind, Recompute, TransformerOptions};
use xlnet::tensor::{DType, Role};
use xlnet::train::schedule::Schedule;
use xlnet::train::session::Session;
use xlnet::train::step::{LayerDecay, Objective, OptimizerOptions, StepOptions};

const LENGTH: usize = 6;
const ROWS: usize = 4;
const TARGETS: usize = 3;

/// A small reproducible source of numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    /// Between -0.5 and 0.5.
    fn real(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 31) as f64 - 0.5
    }
    fn below(&mut self, n: usize) -> i32 {
        (self.next() as usize % n) as i32
    }
    fn below_many(&mut self, count: usize, n: usize) -> Vec<i32> {
        (0..count).map(|_| self.below(n)).collect()
    }
}

fn config(activation: FeedForwardActivation, untie_r: bool) -> XlnetConfig {
    // n_head * d_head is not d_model, on purpose.
    let (ff_activation, n_token) = (activation, 11);
    XlnetConfig { n_layer: 2, d_model: 8, n_head: 3, d_head: 2, d_inner: 12, ff_activation, untie_r, n_token }
}

fn optimizer() -> OptimizerOptions {
    OptimizerOptions {
        schedule: Schedule { learning_rate: 1e-2, ..Schedule::default() },
        ..OptimizerOptions::default()
    }
}

fn pretraining() -> TransformerOptions {
    TransformerOptions {
        batch: ROWS,
        length: LENGTH,
        memory: 4,
        mem_len: 4,
        reuse_len: Some(3),
        mask: MaskKind::Ranks,
        query: QueryKind::Targets(TARGETS),
        dropout: 0.2,
        dropatt: 0.3,
        ..TransformerOptions::default()
    }
}

fn finetuning() -> TransformerOptions {
    TransformerOptions {
        batch: ROWS,
        length: LENGTH,
        mask: MaskKind::Padding,
        dropout: 0.2,
        dropatt: 0.3,
        ..TransformerOptions::default()
    }
}

/// A session with random weights, memories and a random batch; rows are `ROWS` whatever the micro-batches.
fn session(
    config: &XlnetConfig,
    transformer: TransformerOptions,
    objective: Objective,
    accumulate: usize,
    device: Device,
) -> Result<Session> {
    let (batch, targets) = (transformer.batch, transformer.targets());
    let float = DType::F64;
    let options = StepOptions { transformer, objective, accumulate, float, optimizer: Some(optimizer()) };
    let mut session = Session::new(config, options, device, 7)?;
    let mut random = Random(3);
    let program = session.program().program.clone();
    for (id, desc) in program.iter().filter(|(_, desc)| desc.view.is_none()) {
        let norm = desc.name.ends_with("norm.weight") || desc.name.ends_with("Norm.weight");
        if matches!(desc.role, Role::Param | Role::Memory) {
            let values: Vec<f64> = (0..desc.shape.len()).map(|_| random.real() + f64::from(u8::from(norm))).collect();
            session.exec().upload_f64(id, &values)?;
        }
    }
    session.input_i32("input_ids", &random.below_many(ROWS * LENGTH, config.n_token))?;
    session.input_i32("segment_ids", &random.below_many(ROWS * LENGTH, 3))?;
    session.input_i32("query_rank", &random.below_many(ROWS * LENGTH, 4))?;
    session.input_i32("key_rank", &random.below_many(ROWS * LENGTH, 4))?;
    session.input_i32("direction", &[0, 1, 1, 0])?;
    session.input_i32("padding", &(0..ROWS * LENGTH).map(|i| i32::from(i % 7 == 0)).collect::<Vec<_>>())?;
    let mut positions = random.below_many(ROWS * targets, LENGTH);
    if targets == LENGTH {
        positions = (0..ROWS * LENGTH).map(|i| (i % LENGTH) as i32).collect();
    } else if targets > 0 {
        positions[1] = -1;
    }
    session.input_i32("target_positions", &positions)?;
    session.input_f32("input_q", &(0..ROWS * LENGTH).map(|i| [0.0, 1.0, 0.25][i % 3]).collect::<Vec<_>>())?;
    session.input_i32("targets", &random.below_many(ROWS * targets, config.n_token))?;
    let weights = |n: usize| (0..n).map(|i| (i % 4) as f32 / (2.0 * n as f32)).collect::<Vec<_>>();
    session.input_f32("target_weights", &weights(ROWS * targets))?;
    for name in ["labels", "label_values", "weights", "is_impossible", "barred", "start_positions", "end_positions"] {
        let Some(id) = program.find(name) else { continue };
        let (len, dtype) = (program.tensor(id).shape.len(), program.tensor(id).dtype);
        match name {
            "weights" => session.exec().upload_f32(id, &weights(len).iter().map(|w| w + 0.05).collect::<Vec<_>>())?,
            "barred" => session
                .exec()
                .upload_f32(id, &(0..len).map(|i| f32::from(u8::from(i % LENGTH == 4))).collect::<Vec<_>>())?,
            _ if dtype == DType::I32 => session.exec().upload_i32(id, &random.below_many(len, 2))?,
            _ => session.exec().upload_f32(id, &(0..len).map(|i| (i % 2) as f32).collect::<Vec<_>>())?,
        }
    }
    let row = |at: i32| (0..ROWS).map(|i| (i % batch * LENGTH) as i32 + at).collect::<Vec<_>>();
    session.input_i32("start_rows", &row(1))?;
    session.input_i32("cls_rows", &row(LENGTH as i32 - 1))?;
    Ok(session)
}

/// Memories as they were: a run replaces them, and a second run of the same step must not see that.
fn restore(session: &mut Session, memory: &[Vec<f64>]) -> Result<()> {
    let ids = session.program().memory.clone();
    ids.iter().zip(memory).try_for_each(|(&id, values)| session.exec().upload_f64(id, values))
}

fn check_gradients(what: &str, mut session: Session) -> Result<()> {
    let step = session.program().clone();
    let ids = step.memory.clone();
    let memory = ids.iter().map(|&id| session.exec().download_f64(id)).collect::<Result<Vec<_>>>()?;
    session.backward()?;
    let trained = step.update.as_ref().expect("a training program").trained.clone();
    let mut random = Random(11);
    let mut checked = 0;
    for t in &trained {
        let gradient = session.exec().download_f64(t.grad)?;
        let values = session.exec().download_f64(t.param)?;
        let direction: Vec<f64> = values.iter().map(|_| random.real()).collect();
        let analytic: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let mut loss_at = |h: f64| -> Result<f64> {
            let moved: Vec<f64> = values.iter().zip(&direction).map(|(v, d)| v + h * d).collect();
            session.exec().upload_f64(t.param, &moved)?;
            restore(&mut session, &memory)?;
            session.backward()
        };
        let h = 1e-4;
        // Four points: the error is of order h^4.
        let numeric = (8.0 * (loss_at(h)? - loss_at(-h)?) - (loss_at(2.0 * h)? - loss_at(-2.0 * h)?)) / (12.0 * h);
        loss_at(0.0)?;
        let name = &step.program.tensor(t.param).name;
        let scale = gradient.iter().map(|g| g * g).sum::<f64>().sqrt() + 1e-3;
        let error = (numeric - analytic).abs() / scale;
        assert!(error < 1e-6, "{what}: {name}: {analytic} by the program, {numeric} by differences");
        checked += 1;
    }
    println!("{what}: {checked} tensors ok");
    assert_eq!(checked, trained.len());
    assert!(checked > 20, "{what}: only {checked} tensors are trained");
    Ok(())
}

const GELU: FeedForwardActivation = FeedForwardActivation::Gelu;

#[test]
fn of_pretraining() {
    let lm = Objective::LanguageModel;
    let per_row = PositionDropout::PerRow;
    let base = pretraining();
    for (what, config, transformer) in [
        ("two streams", config(GELU, true), base.clone()),
        ("tied biases, erf", config(FeedForwardActivation::GeluErf, false), base.clone()),
        ("directions", config(GELU, true), TransformerOptions { bi_data: true, ..base.clone() }),
        (
            "directions, positions dropped per row",
            config(GELU, true),
            TransformerOptions { bi_data: true, position_dropout: per_row, clamp_len: Some(3), ..base.clone() },
        ),
        (
            "a query row for every token",
            config(GELU, true),
            TransformerOptions { query: QueryKind::All, ..base.clone() },
        ),
        ("content rows to the end", config(GELU, true), TransformerOptions { content_output: true, ..base.clone() }),
        (
            "causal, same length",
            config(GELU, true),
            TransformerOptions { attention: AttentionType::Uni, same_length: true, ..base.clone() },
        ),
        ("recomputed layers", config(GELU, true), TransformerOptions { recompute: Recompute::Layer, ..base.clone() }),
    ] {
        let session = session(&config, transformer, lm, 1, Device::Cpu).expect("a session");
        check_gradients(what, session).expect("a run");
    }
}

#[test]
fn of_every_head() {
    let summary = |kind, projection| SummaryOptions { kind, projection };
    let config = config(GELU, true);
    for (what, objective) in [
        ("last", Objective::Classification { classes: 3, summary: summary(SummaryType::Last, true) }),
        ("first", Objective::Classification { classes: 2, summary: summary(SummaryType::First, false) }),
        ("mean", Objective::Regression { summary: summary(SummaryType::Mean, true) }),
        ("attention pooling", Objective::Classification { classes: 2, summary: summary(SummaryType::Attn, true) }),
        ("choice", Objective::Choice { choices: 2, summary: summary(SummaryType::Last, true) }),
        ("span", Objective::Span { answerable: true, answer_bias: true }),
        ("span of Chinese tasks", Objective::Span { answerable: false, answer_bias: false }),
        ("tokens", Objective::Tokens { classes: 4 }),
    ] {
        let session = session(&config, finetuning(), objective, 1, Device::Cpu).expect("a session");
        check_gradients(what, session).expect("a run");
    }
}

#[test]
fn of_frozen_lower_layers() {
    let objective = Objective::Tokens { classes: 4 };
    let transformer = TransformerOptions { frozen_layers: 1, ..finetuning() };
    let config = XlnetConfig { n_layer: 3, ..config(GELU, true) };
    let mut session = session(&config, transformer, objective, 1, Device::Cpu).expect("a session");
    let step = session.program().clone();
    let frozen: Vec<_> = step
        .params
        .iter()
        .copied()
        .filter(|&id| {
            let name = &step.program.tensor(id).name;
            name.contains("layer.0.") || name.contains("word_embedding")
        })
        .collect();
    assert!(frozen.len() > 10);
    let before: Vec<_> = frozen.iter().map(|&id| session.exec().download_f64(id).expect("a download")).collect();
    session.train().expect("a step");
    let after: Vec<_> = frozen.iter().map(|&id| session.exec().download_f64(id).expect("a download")).collect();
    assert_eq!(before, after, "frozen parameters moved");
    check_gradients("frozen lower layers", session).expect("a run");
}

/// Loss, gradients and memories of one step.
fn outcome(mut session: Session) -> (f64, Vec<Vec<f64>>) {
    let step = session.program().clone();
    let loss = session.backward().expect("a run");
    let grads = step.update.as_ref().expect("a training program").trained.iter().map(|t| t.grad);
    let ids: Vec<_> = grads.chain(step.memory.iter().copied()).collect();
    (loss, ids.into_iter().map(|id| session.exec().download_f64(id).expect("a download")).collect())
}

#[test]
fn recomputed_layers_change_no_bit() {
    let run = |recompute| {
        let transformer = TransformerOptions { recompute, ..pretraining() };
        outcome(session(&config(GELU, true), transformer, Objective::LanguageModel, 1, Device::Cpu).expect("a session"))
    };
    assert_eq!(run(Recompute::None), run(Recompute::Layer));
}

/// Dropout is drawn by row of the whole batch, so that micro-batches drop what the big batch drops.
#[test]
fn micro_batches_add_up_to_the_big_batch() {
    let language = Objective::LanguageModel;
    let summary = SummaryOptions { kind: SummaryType::Last, projection: true };
    let classes = Objective::Classification { classes: 3, summary };
    for position_dropout in [PositionDropout::Shared, PositionDropout::PerRow] {
        for (objective, options) in [(language, pretraining()), (classes, finetuning())] {
            let run = |accumulate: usize, rate: f32| {
                let bi_data = objective == language;
                let (batch, dropout) = (ROWS / accumulate, rate);
                let transformer =
                    TransformerOptions { batch, dropout, bi_data, position_dropout, dropatt: rate, ..options.clone() };
                outcome(
                    session(&config(GELU, true), transformer, objective, accumulate, Device::Cpu).expect("a session"),
                )
            };
            let (loss, tensors) = run(1, 0.2);
            assert!((loss - run(1, 0.0).0).abs() > 1e-6, "dropout drops nothing");
            for accumulate in [2, 4] {
                let (other_loss, others) = run(accumulate, 0.2);
                let what = format!("{position_dropout:?}, {objective:?} in {accumulate}: {loss} {other_loss}");
                assert!((loss - other_loss).abs() < 1e-13, "{what}");
                for (a, b) in tensors.iter().flatten().zip(others.iter().flatten()) {
                    assert!((a - b).abs() < 1e-12, "{a} {b}");
                }
            }
        }
    }
}

#[test]
fn layer_decay_scales_gradient_or_rate() {
    let run = |rate: f32, layer_decay| {
        let mut options = optimizer();
        (options.lr_layer_decay_rate, options.layer_decay, options.clip) = (rate, layer_decay, 0.0);
        let transformer = TransformerOptions { dropout: 0.0, dropatt: 0.0, ..finetuning() };
        let objective = Objective::Tokens { classes: 4 };
        let config = config(GELU, true);
        let built = session(&config, transformer.clone(), objective, 1, Device::Cpu).expect("a session");
        let accumulate = 1;
        let step_options =
            StepOptions { transformer, objective, accumulate, float: DType::F64, optimizer: Some(options) };
        let mut decayed = Session::new(&config, step_options, Device::Cpu, 7).expect("a session");
        copy(built, &mut decayed);
        let step = decayed.program().clone();
        let before: Vec<_> = step.params.iter().map(|&id| decayed.exec().download_f64(id).expect("values")).collect();
        decayed.train().expect("a step");
        let moved = |(&id, before): (&_, &Vec<f64>)| {
            let after = decayed.exec().download_f64(id).expect("values");
            let change = after.iter().zip(before).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            (step.program.tensor(id).name.clone(), change)
        };
        step.params.iter().zip(&before).map(moved).collect::<Vec<_>>()
    };
    let plain = run(1.0, LayerDecay::Gradient);
    let gradient = run(0.5, LayerDecay::Gradient);
    let rate = run(0.5, LayerDecay::LearningRate);
    for ((name, plain), ((_, gradient), (_, rate))) in plain.iter().zip(gradient.iter().zip(&rate)) {
        // Adam's first step has the size of the learning rate, whatever the gradient's.
        assert!((gradient / plain - 1.0).abs() < 0.02, "{name}: {gradient} {plain}");
        let shared = ["r_w_bias", "r_r_bias", "r_s_bias", "seg_embed"].iter().any(|part| name.ends_with(part));
        let factor = if name.contains("layer.0.") && !shared { 0.5 } else { 1.0 };
        assert!((rate / plain - factor).abs() < 1e-9, "{name}: {rate} {plain}");
    }
}

/// Copies parameters and inputs of one session to another of the same program.
fn copy(mut from: Session, to: &mut Session) {
    let program = from.program().program.clone();
    for (id, desc) in program.iter().filter(|(_, desc)| desc.view.is_none()) {
        if matches!(desc.role, Role::Param | Role::Memory | Role::Input) {
            let mut bytes = vec![0; desc.bytes()];
            from.exec().read(id, &mut bytes).expect("a read");
            to.exec().write(id, &bytes).expect("a write");
        }
    }
}
