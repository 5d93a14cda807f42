//! Whole training steps of the original program: losses, norms, gradients, final weights, memories, outputs.

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{CaseTensors, Report, max_abs_difference, transpose_first_two};
use serde_json::Value;
use xlnet::Result;
use xlnet::backend::Device;
use xlnet::config::XlnetConfig;
use xlnet::model::heads::{SummaryOptions, SummaryType};
use xlnet::model::original::{OriginalNames, OriginalVariable};
use xlnet::model::{MaskKind, QueryKind, TransformerOptions};
use xlnet::tensor::{DType, TensorId};
use xlnet::train::keys::Keyed as _;
use xlnet::train::pretrain::{Event, Pretraining};
use xlnet::train::run_config::RunConfig;
use xlnet::train::run_plan::RunPlan;
use xlnet::train::schedule::{DecayMethod, Schedule};
use xlnet::train::session::{Session, StepResult};
use xlnet::train::step::{Objective, OptimizerOptions, StepOptions};
use xlnet_testkit::golden::{self, Case};
use xlnet_testkit::learning::{Learning, largest_scale};
use xlnet_testkit::{Backend, devices};

/// A case's settings, by the original's flag names.
struct Flags<'a>(&'a Value);

impl Flags<'_> {
    fn number(&self, key: &str) -> f64 {
        self.0[key].as_f64().unwrap_or_else(|| panic!("flag {key} is no number"))
    }
    fn size(&self, key: &str) -> usize {
        self.number(key).max(0.0) as usize
    }
    fn flag(&self, key: &str) -> bool {
        self.0[key].as_bool().unwrap_or_else(|| panic!("flag {key} is no boolean"))
    }
    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }
    fn model(&self) -> XlnetConfig {
        let keys = ["n_layer", "d_model", "n_head", "d_head", "d_inner", "ff_activation", "untie_r", "n_token"];
        let json: serde_json::Map<_, _> = keys.iter().map(|&key| (key.to_owned(), self.0[key].clone())).collect();
        serde_json::from_value(Value::Object(json)).expect("the original's configuration")
    }
    fn summary(&self) -> SummaryOptions {
        let kind = match self.text("summary_type") {
            "last" => SummaryType::Last,
            "first" => SummaryType::First,
            "mean" => SummaryType::Mean,
            "attn" => SummaryType::Attn,
            other => panic!("summary_type {other}"),
        };
        SummaryOptions { kind, projection: self.flag("use_summ_proj") }
    }
    fn optimizer(&self) -> OptimizerOptions {
        OptimizerOptions {
            schedule: Schedule {
                learning_rate: self.number("learning_rate"),
                warmup_steps: self.size("warmup_steps") as u64,
                train_steps: self.size("train_steps") as u64,
                min_lr_ratio: self.number("min_lr_ratio"),
                decay_method: if self.text("decay_method") == "cos" { DecayMethod::Cos } else { DecayMethod::Poly },
            },
            clip: self.number("clip") as f32,
            weight_decay: self.number("weight_decay") as f32,
            adam_epsilon: self.number("adam_epsilon") as f32,
            lr_layer_decay_rate: self.number("lr_layer_decay_rate") as f32,
            ..OptimizerOptions::default()
        }
    }
}

fn options(case: &Case, accumulate: usize) -> (XlnetConfig, StepOptions) {
    let flags = Flags(&case.meta["config"]);
    let kind = case.meta["kind"].as_str().unwrap_or_default();
    let batch = flags.size("batch");
    let pretrain = kind == "pretrain";
    let query = match flags.0["num_predict"].as_u64() {
        _ if !pretrain => QueryKind::None,
        Some(targets) => QueryKind::Targets(targets as usize),
        None => QueryKind::All,
    };
    let choices = if kind == "race" { 4 } else { 1 };
    let transformer = TransformerOptions {
        batch: batch * choices / accumulate,
        length: flags.size("seq_len"),
        memory: flags.size("mem_len"),
        mem_len: flags.size("mem_len"),
        reuse_len: Some(flags.size("reuse_len")),
        clamp_len: (flags.number("clamp_len") > 0.0).then(|| flags.size("clamp_len")),
        bi_data: flags.flag("bi_data"),
        mask: if pretrain { MaskKind::Bits } else { MaskKind::Padding },
        query,
        ..TransformerOptions::default()
    };
    let summary = flags.summary();
    let objective = match kind {
        "pretrain" => Objective::LanguageModel,
        "race" => Objective::Choice { choices, summary },
        "qa" => {
            let answer_bias = case.tensors.contains_key("param/answer_class/dense_1/bias");
            Objective::Span { answerable: true, answer_bias }
        }
        "cls" if flags.flag("is_regression") => Objective::Regression { summary },
        "cls" => {
            let classes = case.shape("step0/out/logits")[1];
            Objective::Classification { classes, summary }
        }
        other => panic!("kind {other}"),
    };
    let optimizer = Some(flags.optimizer());
    (flags.model(), StepOptions { transformer, objective, accumulate, float: DType::F32, optimizer })
}

fn names(case: &Case) -> OriginalNames {
    let flags = Flags(&case.meta["config"]);
    let task = flags.text("task_name").to_lowercase();
    let scope = match flags.text("cls_scope") {
        "" => task.clone(),
        scope => scope.to_owned(),
    };
    let head = match case.meta["kind"].as_str() {
        Some("cls") if flags.flag("is_regression") => Some(format!("regression_{task}")),
        Some("cls") => Some(format!("classification_{scope}")),
        _ => None,
    };
    OriginalNames { head }
}

/// Our parameter's values inside the original's variable `prefix/name`.
fn original_values(case: &Case, prefix: &str, variable: &OriginalVariable) -> Vec<f32> {
    let key = format!("{prefix}/{}", variable.name);
    let (shape, values) = (case.shape(&key), case.f32(&key));
    match (variable.layer, variable.transposed) {
        (Some(layer), _) => {
            let size = values.len() / shape[0];
            values[layer * size..][..size].to_vec()
        }
        (None, true) => transpose_first_two(&values, shape[0], shape[1], 1),
        (None, false) => values,
    }
}

fn upload_step(session: &mut Session, case: &Case, step: usize) -> Result<()> {
    let input = |name: &str| format!("step{step}/in/{name}");
    let config = Flags(&case.meta["config"]);
    let (batch, length) = (config.size("batch"), config.size("seq_len"));
    match case.meta["kind"].as_str().unwrap_or_default() {
        "pretrain" => {
            session.input_i32("input_ids", &case.i32(&input("input_k")))?;
            session.input_i32("segment_ids", &case.i32(&input("seg_id")))?;
            session.input_f32("input_q", &case.f32(&input("input_q")))?;
            session.input_i32("targets", &case.i32(&input("target")))?;
            let mask = case.f32(&input("target_mask"));
            let sum: f32 = mask.iter().sum();
            session.input_f32("target_weights", &mask.iter().map(|w| w / sum).collect::<Vec<_>>())?;
            let positions: Vec<i32> = match case.tensors.get(&input("target_mapping")) {
                None => (0..batch * length).map(|i| (i % length) as i32).collect(),
                Some(_) => case
                    .f32(&input("target_mapping"))
                    .chunks(length)
                    .map(|row| row.iter().position(|&x| x == 1.0).map_or(-1, |at| at as i32))
                    .collect(),
            };
            session.input_i32("target_positions", &positions)?;
            let direction: Vec<i32> = (0..batch).map(|row| i32::from(row >= batch / 2)).collect();
            session.input_i32("direction", &direction)?;
            let words = length.div_ceil(32);
            let mut bits = vec![0u32; batch * length * words];
            for (i, &hidden) in case.f32(&input("perm_mask")).iter().enumerate() {
                let (row, key) = (i / length, i % length);
                bits[row * words + key / 32] |= u32::from(hidden > 0.0) << (key % 32);
            }
            let id = session.program().program.find("mask_bits").expect("a pretraining program");
            session.exec().upload_u32(id, &bits)
        }
        kind => {
            session.input_i32("input_ids", &case.i32(&input("input_ids")))?;
            session.input_i32("segment_ids", &case.i32(&input("segment_ids")))?;
            let padding: Vec<i32> = case.f32(&input("input_mask")).iter().map(|&x| x as i32).collect();
            session.input_i32("padding", &padding)?;
            let weight = if kind == "qa" { 0.5 } else { 1.0 } / batch as f32;
            session.input_f32("weights", &vec![weight; batch])?;
            if kind == "qa" {
                session.input_f32("barred", &case.f32(&input("p_mask")))?;
                session.input_f32("is_impossible", &case.f32(&input("is_impossible")))?;
                let starts = case.i32(&input("start_positions"));
                session.input_i32("start_positions", &starts)?;
                session.input_i32("end_positions", &case.i32(&input("end_positions")))?;
                let per_micro = batch / session.options().accumulate;
                let row = |(i, &at): (usize, &i32)| (i % per_micro * length) as i32 + at;
                session.input_i32("start_rows", &starts.iter().enumerate().map(row).collect::<Vec<_>>())?;
                let cls = case.i32(&input("cls_index"));
                session.input_i32("cls_rows", &cls.iter().enumerate().map(row).collect::<Vec<_>>())
            } else if config.flag("is_regression") {
                session.input_f32("label_values", &case.f32(&input("label_ids")))
            } else {
                session.input_i32("labels", &case.i32(&input("label_ids")))
            }
        }
    }
}

/// Largest element of a tensor.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, x| most.max(x.abs()))
}

/// The case's weights; each parameter's variable of the original.
fn upload_weights(session: &mut Session, case: &Case, untie_r: bool) -> Result<HashMap<TensorId, OriginalVariable>> {
    let (program, names) = (session.program().clone(), names(case));
    let mut variables = HashMap::new();
    for &id in &program.params {
        let name = &program.program.tensor(id).name;
        let variable = names.variable(name, untie_r).unwrap_or_else(|| panic!("{name} has no original"));
        session.exec().upload_f32(id, &original_values(case, "param", &variable))?;
        variables.insert(id, variable);
    }
    Ok(variables)
}

/// A session on `backend`.
fn session(config: &XlnetConfig, options: StepOptions, backend: Backend, seed: u64) -> Result<Session> {
    let Backend::Device(device) = backend else {
        let mut session = Session::new(config, options, Device::Cpu, seed)?;
        session.move_to(|program| backend.open(program))?;
        return Ok(session);
    };
    Session::new(config, options, device, seed)
}

fn run(case: &Case, backend: Backend, accumulate: usize, report: &mut Report) -> Result<()> {
    let (config, options) = options(case, accumulate);
    let batch = options.transformer.batch * accumulate;
    let mut session = session(&config, options, backend, 0)?;
    let program = session.program().clone();

    let variables = upload_weights(&mut session, case, config.untie_r)?;
    for (layer, &id) in program.memory.iter().enumerate() {
        let key = format!("mems/{layer}");
        if case.tensors.contains_key(&key) {
            let shape = case.shape(&key); // [M, B, d]
            let values = transpose_first_two(&case.f32(&key), shape[0], shape[1], shape[2]);
            session.exec().upload_f32(id, &values)?;
        }
    }
    let expected = case.meta["steps"].as_array().cloned().unwrap_or_default();
    for (k, want) in expected.iter().enumerate() {
        upload_step(&mut session, case, k)?;
        let loss = session.backward()?;
        if k == 0 {
            for t in &program.update.as_ref().expect("a training program").trained {
                let got = session.exec().download_f32(t.grad)?;
                let want = original_values(case, "grad0", &variables[&t.param]);
                let error = max_abs_difference(&got, &want);
                // 1e-4 of the largest element of the original's tensor, or 1e-6 where it is zero in theory.
                let bound = f64::from(largest(&want) * 1e-4).max(1e-6);
                report.check(&format!("grad0 {}", program.program.tensor(t.param).name), error, bound);
            }
        }
        let step = session.update(loss)?;
        let (norm, rate) = (step.gradient_norm, step.learning_rate);
        let value = |key: &str| want[key].as_f64().expect("a number");
        let bound = if k == 0 { 1e-5 } else { 1e-4 };
        report.check(&format!("loss of step {k}"), (loss / value("loss") - 1.0).abs(), bound);
        report.check(&format!("gnorm of step {k}"), (norm / value("gnorm") - 1.0).abs(), 1e-4);
        report.check(&format!("lr of step {k}"), (rate - value("lr")).abs(), 1e-9);
        for (layer, &id) in program.memory.iter().enumerate() {
            let key = format!("step{k}/out/mems/{layer}");
            if k > 0 && !case.tensors.contains_key(&key) {
                continue; // cases need not keep the memories of every step
            }
            let (got, shape) = (session.exec().download_f32(id)?, case.shape(&key));
            let want = transpose_first_two(&case.f32(&key), shape[0], shape[1], shape[2]);
            report.check(&key, max_abs_difference(&got, &want), f64::from(largest(&want)) * 1e-4);
        }
        let outputs: &[(&str, usize)] = match case.meta["kind"].as_str() {
            Some("pretrain") => &[],
            Some("qa") => &[("start_log_probs", 0), ("end_log_probs", 1), ("cls_logits", 2)],
            _ => &[("logits", 0)],
        };
        for &(name, output) in outputs {
            let key = format!("step{k}/out/{name}");
            let (got, want) = (session.exec().download_f32(program.outputs[output])?, case.f32(&key));
            // Barred columns hold -1e30 on both sides; compare what is left.
            let open = |values: &[f32]| values.iter().copied().filter(|x| x.abs() < 1e20).collect::<Vec<_>>();
            let (got, want) = (open(&got), open(&want));
            report.check(&key, max_abs_difference(&got, &want), f64::from(largest(&want)) * 1e-4);
        }
    }
    for &id in &program.params {
        let got = session.exec().download_f32(id)?;
        let want = original_values(case, "final", &variables[&id]);
        let name = &program.program.tensor(id).name;
        report.check(&format!("final {name}"), max_abs_difference(&got, &want), 2e-4);
    }
    assert!(batch > 0);
    Ok(())
}

#[test]
fn training_steps_of_the_original() {
    let cases = golden::cases("train").expect("readable cases");
    assert!(cases.len() >= 10, "the committed cases are missing: found {}", cases.len());
    let mut report = Report::new("train");
    let backends: Vec<Backend> = devices().expect("devices").into_iter().map(Backend::from).collect();
    let [ascending, descending] = Backend::INTERPRETERS;
    for case in &cases {
        let both = case.name.contains("pretrain_mems_bidata"); // the interpreter is slow
        let slow = [Device::CpuReference.into(), ascending, descending];
        for &backend in backends.iter().chain(&slow[..if both { 3 } else { 2 }]) {
            report.case(&case.name, backend, |report| run(case, backend, 1, report));
        }
    }
    report.finish();
}

/// The same steps from two micro-batches: gradient accumulation has the loss and gradient of the big batch.
#[test]
fn accumulated_steps_are_those_of_the_big_batch() {
    let mut report = Report::new("accumulate");
    // Memories and directions belong to rows, which micro-batches keep, so every case that halves takes part.
    let even = |case: &&Case| Flags(&case.meta["config"]).size("batch").is_multiple_of(2);
    let cases = golden::cases("train").expect("readable cases");
    for case in cases.iter().filter(even) {
        report.case(&case.name, Device::Cpu, |report| run(case, Device::Cpu.into(), 2, report));
    }
    report.finish();
}

/// Updates with dropout: every device draws the masks of the CPU, and a second run has the bits of the first.
#[test]
fn devices_follow_the_cpu_through_dropout() {
    let cases = golden::cases("train").expect("readable cases");
    let case = cases.iter().find(|case| case.name.contains("pretrain_mems_bidata")).expect("a committed case");
    let steps = case.meta["steps"].as_array().map_or(0, Vec::len);
    let losses = |backend, rate| -> Result<Vec<f64>> {
        let (config, mut options) = options(case, 1);
        (options.transformer.dropout, options.transformer.dropatt) = (rate, rate);
        let mut session = session(&config, options, backend, 7)?;
        upload_weights(&mut session, case, config.untie_r)?;
        let mut step = |k: usize| {
            upload_step(&mut session, case, k % steps)?;
            let loss = session.backward()?;
            session.update(loss).map(|_| loss)
        };
        // The interpreter is slow.
        let updates = if matches!(backend, Backend::Device(_)) { 10 } else { 3 };
        (0..updates).map(&mut step).collect()
    };
    let reference = Device::CpuReference.into();
    let want = losses(reference, 0.1).expect("the reference");
    assert_ne!(want, losses(reference, 0.0).expect("the reference"), "dropout drops nothing");
    let backends = devices().expect("devices").into_iter().map(Backend::from);
    for device in backends.chain([Backend::INTERPRETERS[0]]) {
        let got = losses(device, 0.1).expect("a run");
        let worst = got.iter().zip(&want).map(|(got, want)| (got / want - 1.0).abs()).fold(0.0, f64::max);
        println!("{device}: losses of {} updates with dropout are off by at most {worst:.1e}: {got:?}", got.len());
        assert!(worst <= 1e-4, "{device}: {got:?}, expected {want:?}");
        assert_eq!(got, losses(device, 0.1).expect("a second run"), "{device} does not repeat its bits");
    }
}

/// One step of `xlnet pretrain` on real records: the run moves to the PTX interpreter, and comes to the same numbers.
#[test]
fn a_pretraining_step_on_the_interpreter_is_that_of_the_cpu() -> Result<()> {
    let records = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/records/bi");
    let folder = tempfile::tempdir().expect("a folder");
    let step = |backend: Backend| {
        let settings = format!(
            "record_info_dir = {:?}\nmodel_dir = {:?}\ntrain_batch_size = 8\nseq_len = 32\nreuse_len = 16\n\
             mem_len = 8\nbi_data = true\nnum_predict = 5\nn_layer = 2\nd_model = 16\nn_head = 2\nd_head = 8\n\
             d_inner = 32\ndropout = 0.1\ndropatt = 0.1\ntrain_steps = 2\nseed = 3\nlearning_rate = 1e-3\n",
            format!("{records}/tfrecords"),
            folder.path().join(backend.to_string()),
        );
        let config = RunConfig::load(None, settings.parse().expect("a table"))?;
        let mut run = Pretraining::prepare(RunPlan::new(config)?)?;
        if !matches!(backend, Backend::Device(_)) {
            run.session().move_to(|program| backend.open(program))?;
        }
        (0..2).map(|_| run.step()).collect::<Result<Vec<_>>>()
    };
    let want = step(Device::Cpu.into())?;
    let got = step(Backend::INTERPRETERS[0])?;
    for (got, want) in got.iter().zip(&want) {
        println!("{got:?}, expected {want:?}");
        assert!((got.loss / want.loss - 1.0).abs() < 1e-5, "{got:?}, expected {want:?}");
        assert!((got.gradient_norm / want.gradient_norm - 1.0).abs() < 1e-4, "{got:?}, expected {want:?}");
    }
    Ok(())
}

/// A small language model on the same batch again and again, in what `products` says.
fn small_session(products: Option<DType>, loss_scale: f64, device: Device) -> Result<Session> {
    let model =
        XlnetConfig { n_layer: 2, d_model: 32, n_head: 2, d_head: 16, d_inner: 64, n_token: 50, ..XlnetConfig::base() };
    let session = Learning { model, length: 16, dropout: 0.0, products, loss_scale }.open(device)?;
    let casts = session.program().program.steps.iter().filter(|step| step.op.name() == "cast").count();
    assert!((casts > 0) == products.is_some(), "{casts} roundings");
    Ok(session)
}

/// All parameters.
fn weights(session: &mut Session) -> Result<Vec<f32>> {
    let (program, exec) = session.parts();
    let all: Result<Vec<_>> = program.params.iter().map(|&id| exec.download_f32(id)).collect();
    Ok(all?.concat())
}

/// Products of operands in half precision: near the losses of f32, and not the same; the two CPU backends agree.
#[test]
fn products_in_halves_learn_like_f32() -> Result<()> {
    let run = |products: Option<DType>, device: Device| -> Result<Vec<(f64, f64)>> {
        // In f16 a scale that overflows nowhere.
        let scale = if products == Some(DType::F16) { 256.0 } else { 0.0 };
        let mut session = small_session(products, scale, device)?;
        (0..8).map(|_| session.train().map(|step| (step.loss, step.gradient_norm))).collect()
    };
    let f32s = run(None, Device::Cpu)?;
    assert!(f32s[7].0 < f32s[0].0 - 0.2, "it learns: {f32s:?}");
    for (half, loss_bound, norm_bound) in [(DType::Bf16, 0.01, 0.05), (DType::F16, 0.00125, 0.00625)] {
        let (halves, reference) = (run(Some(half), Device::Cpu)?, run(Some(half), Device::CpuReference)?);
        for (name, others) in [("fast", &halves), ("reference", &reference)] {
            for (a, b) in f32s.iter().zip(others) {
                let (loss, norm) = ((b.0 / a.0 - 1.0).abs(), (b.1 / a.1 - 1.0).abs());
                assert!(loss < loss_bound && norm < norm_bound, "{half}, {name}: {f32s:?} and {others:?}");
            }
            assert!(f32s != *others, "{half}, {name} is f32");
        }
        let far = |a: &(f64, f64), b: &(f64, f64)| (a.0 / b.0 - 1.0).abs();
        let apart = halves.iter().zip(&reference).map(|(a, b)| far(a, b)).fold(0.0, f64::max);
        assert!(apart < 1e-3, "{half}: the backends are {apart:.1e} apart");
    }
    Ok(())
}

/// A power of two moves exponents alone: losses, norms and weights are those of the loss as it is, bit for bit.
#[test]
fn the_scale_of_the_loss_changes_no_bit() -> Result<()> {
    type Run = (Vec<(f64, f64)>, Vec<f32>);
    let run = |loss_scale: f64| -> Result<Run> {
        let mut session = small_session(None, loss_scale, Device::Cpu)?;
        let steps: Result<Vec<_>> = (0..4).map(|_| session.train()).collect();
        let steps = steps?;
        assert!(steps.iter().all(|step| step.loss_scale == loss_scale && !step.overflowed));
        Ok((steps.iter().map(|step| (step.loss, step.gradient_norm)).collect(), weights(&mut session)?))
    };
    let one = run(1.0)?;
    for scale in [1024.0, 0.25] {
        assert!(run(scale)? == one, "{scale}");
    }
    // The gradients themselves are scaled: this is no test of nothing.
    let gradients = |scale: f64| -> Result<Vec<f32>> {
        let mut session = small_session(None, scale, Device::Cpu)?;
        session.backward()?;
        let all: Result<Vec<_>> = session.gradients().into_iter().map(|id| session.exec().download_f32(id)).collect();
        Ok(all?.concat())
    };
    let scaled = gradients(1024.0)?;
    assert!(gradients(1.0)?.iter().zip(&scaled).all(|(&one, &scaled)| one * 1024.0 == scaled));
    Ok(())
}

/// Steps whose gradients overflow f16 change nothing but the scale; with a smaller one the model learns.
#[test]
fn steps_that_overflow_are_left_out() -> Result<()> {
    for device in [Device::Cpu, Device::CpuReference] {
        let mut session = small_session(Some(DType::F16), 0.0, device)?;
        session.resume_loss_scale(largest_scale());
        let before = weights(&mut session)?;
        let mut overflows = 0;
        let first = loop {
            let step = session.train()?;
            if !step.overflowed {
                break step;
            }
            overflows += 1;
            assert_eq!(step.loss_scale, 16777216.0 / f64::from(1 << (overflows - 1)));
            assert!(step.loss.is_finite() && !step.gradient_norm.is_finite() && !step.diverged(), "{step:?}");
            assert!(weights(&mut session)? == before, "{device}: step {} changed weights", step.step);
        };
        assert!((2..10).contains(&overflows), "{device}: {overflows}");
        assert!(first.gradient_norm.is_finite() && weights(&mut session)? != before, "{first:?}");
        let mut last = first;
        for _ in 0..7 {
            last = session.train()?;
        }
        assert!(last.loss < first.loss - 0.2 && !last.overflowed, "{device}: {first:?} to {last:?}");
    }
    // A scale that people have set does not change, and what it breaks is told.
    let mut session = small_session(Some(DType::F16), 16777216.0, Device::Cpu)?;
    let step = session.train()?;
    assert!(step.diverged() && !step.overflowed, "{step:?}");
    Ok(())
}

/// A run in f16 that is stopped among steps that overflow goes on as if it had not been.
#[test]
fn a_run_in_f16_resumes_its_scale() -> Result<()> {
    let records = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/records/bi");
    let folder = tempfile::tempdir().expect("a folder");
    let prepare = |name: &str| -> Result<Pretraining> {
        let settings = format!(
            "record_info_dir = {:?}\nmodel_dir = {:?}\ntrain_batch_size = 8\nseq_len = 32\nreuse_len = 16\n\
             mem_len = 8\nbi_data = true\nnum_predict = 5\nn_layer = 2\nd_model = 16\nn_head = 2\nd_head = 8\n\
             d_inner = 32\ndropout = 0.1\ndropatt = 0.1\ntrain_steps = 9\nseed = 3\nlearning_rate = 1e-3\n\
             use_float16 = true\niterations = 1\n",
            format!("{records}/tfrecords"),
            folder.path().join(name),
        );
        Pretraining::prepare(RunPlan::new(RunConfig::load(None, settings.parse().expect("a table"))?)?)
    };
    let run = |mut training: Pretraining, until: u64| -> Result<Vec<StepResult>> {
        let (mut steps, stop) = (vec![], AtomicBool::new(false));
        training.run(&stop, &mut |event| {
            if let Event::Step { result, .. } = event {
                steps.push(*result);
                stop.store(result.step == until, Ordering::Relaxed);
            }
        })?;
        Ok(steps)
    };
    let from_largest = |name: &str| -> Result<Pretraining> {
        let mut training = prepare(name)?;
        training.session().resume_loss_scale(largest_scale());
        Ok(training)
    };
    let whole = run(from_largest("whole")?, 9)?;
    let mut parts = run(from_largest("parts")?, 2)?;
    assert_eq!(parts.len(), 2);
    parts.extend(run(prepare("parts")?, 9)?);
    let overflows = whole.iter().filter(|step| step.overflowed).count();
    assert!(whole[0].overflowed && whole[1].overflowed && (2..8).contains(&overflows), "{whole:?}");
    // As text: a norm that overflowed may be no number.
    assert_eq!(format!("{whole:?}"), format!("{parts:?}"));
    let metrics = std::fs::read_to_string(folder.path().join("parts/metrics.jsonl")).expect("metrics");
    assert!(metrics.lines().next().is_some_and(|line| line.contains(r#""loss_scale":16777216.0"#)), "{metrics}");
    assert_eq!(metrics.lines().count(), 9);
    Ok(())
}
