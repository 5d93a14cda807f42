//! TensorFlow checkpoints of the original, read without TensorFlow, answer as they did there.

mod common;

use std::path::Path;

use common::{CaseTensors, Report, max_abs_difference};
use xlnet::Result;
use xlnet::backend::Device;
use xlnet::model::{AttentionType, MaskKind, QueryKind, TransformerOptions};
use xlnet::tensor::DType;
use xlnet::train::import::{Format, ImportOptions, Imported, import};
use xlnet::train::load::{LoadOptions, LoadOutcome, load_into};
use xlnet::train::session::Session;
use xlnet::train::step::{Objective, StepOptions};
use xlnet_testkit::golden::{self, Case};

/// Outputs are of size 1; both sides compute in single precision.
const BOUND: f64 = 2e-6;

/// The author loaded these checkpoints in his mode "uni".
fn options(case: &Case) -> TransformerOptions {
    let shape = case.shape("input_ids");
    let memory = if case.tensors.contains_key("mems_0") { case.shape("mems_0")[1] } else { 0 };
    TransformerOptions {
        batch: shape[0],
        length: shape[1],
        memory,
        mem_len: memory,
        attention: AttentionType::Uni,
        ..TransformerOptions::default()
    }
}

fn session(
    model: &Imported,
    case: &Case,
    transformer: TransformerOptions,
    objective: Objective,
    device: Device,
) -> Result<Session> {
    let options = StepOptions { transformer, objective, accumulate: 1, float: DType::F32, optimizer: None };
    let mut session = Session::new(&model.config, options, device, 0)?;
    let step = session.program().clone();
    let report = load_into(session.exec(), &step, &model.weights, &LoadOptions::default())?;
    let loaded = report.rows.iter().filter(|(_, outcome)| matches!(outcome, LoadOutcome::Loaded(_))).count();
    assert_eq!(loaded, step.params.len(), "{report}");
    session.input_i32("input_ids", &case.i32("input_ids"))?;
    session.input_i32("segment_ids", &case.i32("seg_ids"))?;
    for (layer, &id) in step.memory.iter().enumerate() {
        session.exec().upload_f32(id, &case.f32(&format!("mems_{layer}")))?; // [B, M, d]
    }
    Ok(session)
}

/// Hidden states, and the memories of the next segment.
fn hidden(model: &Imported, case: &Case, name: &str, device: Device, report: &mut Report) -> Result<()> {
    let mut session = session(model, case, options(case), Objective::Hidden, device)?;
    session.exec().run_phase("forward")?;
    let step = session.program().clone();
    let got = session.exec().download_f32(step.outputs[model.config.n_layer])?;
    report.check(name, max_abs_difference(&got, &case.f32(name)), BOUND);
    for (layer, &id) in step.memory.iter().enumerate() {
        let name = format!("tune_new_mems_{layer}");
        let got = session.exec().download_f32(id)?;
        report.check(&name, max_abs_difference(&got, &case.f32(&name)), BOUND);
    }
    Ok(())
}

/// Two streams, a query row for every position, which never sees its own token: probabilities of all tokens.
fn pretraining(model: &Imported, case: &Case, device: Device, report: &mut Report) -> Result<()> {
    let transformer = TransformerOptions { query: QueryKind::All, mask: MaskKind::Bits, ..options(case) };
    let (batch, length) = (transformer.batch, transformer.length);
    let mut session = session(model, case, transformer, Objective::Logits, device)?;
    let own: Vec<u32> = (0..batch * length).map(|row| 1 << (row % length)).collect(); // [B, L, 1]
    let id = session.program().program.find("mask_bits").expect("an input");
    session.exec().upload_u32(id, &own)?;
    let positions: Vec<i32> = (0..batch * length).map(|row| (row % length) as i32).collect(); // [B, L]
    session.input_i32("target_positions", &positions)?;
    session.input_f32("input_q", &case.f32("input_query"))?;
    session.exec().run_phase("forward")?;
    let step = session.program().clone();
    let logits = session.exec().download_f32(step.outputs[0])?;
    let softmax = |row: &[f32]| {
        let most = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
        row.iter().map(|x| (f64::from(x - most).exp() / sum) as f32).collect::<Vec<f32>>()
    };
    let got: Vec<f32> = logits.chunks(model.config.n_token).flat_map(softmax).collect();
    report.check("pre_output", max_abs_difference(&got, &case.f32("pre_output")), 1e-7);
    for (layer, &id) in step.memory.iter().enumerate() {
        let name = format!("pre_new_mems_{layer}");
        let got = session.exec().download_f32(id)?;
        report.check(&name, max_abs_difference(&got, &case.f32(&name)), BOUND);
    }
    Ok(())
}

fn run(dir: &Path, device: Device, report: &mut Report) -> Result<()> {
    let model = import(dir, &ImportOptions::default())?;
    assert_eq!(model.format, Format::TensorFlow);
    let case = Case::read(&dir.join("expected.safetensors")).expect("what the model answered");
    match dir.file_name().and_then(|name| name.to_str()) {
        Some("empty") => hidden(&model, &case, "empty_output", device, report),
        Some("tune") => hidden(&model, &case, "tune_output", device, report),
        Some("pre") => pretraining(&model, &case, device, report),
        other => panic!("no test for {other:?}"),
    }
}

#[test]
fn checkpoints_of_the_original_answer_the_same() {
    let folders = golden::entries("tf_checkpoints").expect("a folder of cases");
    assert_eq!(folders.len(), 3, "the committed checkpoints are missing");
    let mut report = Report::new("tf_checkpoints");
    for dir in &folders {
        let name = dir.file_name().expect("a name").to_string_lossy();
        for device in [Device::Cpu, Device::CpuReference] {
            report.case(&name, device, |report| run(dir, device, report));
        }
    }
    report.finish();
}
