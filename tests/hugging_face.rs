//! Models saved by Hugging Face's library answer here as they do there.

mod common;

use std::path::Path;

use common::{CaseTensors, Report, max_abs_difference, transpose_first_two};
use xlnet::Result;
use xlnet::backend::Device;
use xlnet::config::HuggingFaceConfig;
use xlnet::model::heads::{SummaryOptions, SummaryType};
use xlnet::model::hugging_face::{HuggingFaceModel, read_model};
use xlnet::model::{AttentionType, MaskKind, QueryKind, TransformerOptions};
use xlnet::tensor::DType;
use xlnet::train::load::{LoadOptions, LoadOutcome, load_into};
use xlnet::train::session::Session;
use xlnet::train::step::{Objective, StepOptions};
use xlnet_testkit::devices;
use xlnet_testkit::golden::{self, Case};

/// Outputs are held to the bound of op outputs: 2e-5 of the tensor's largest element.
const BOUND: f64 = 2e-5;

fn options(model: &HuggingFaceModel, case: &Case, ids: &str) -> TransformerOptions {
    let hf = &model.hf;
    let shape = case.shape(ids);
    let (length, batch) = (shape[shape.len() - 1], shape[..shape.len() - 1].iter().product());
    TransformerOptions {
        batch,
        length,
        attention: if hf.attn_type.as_deref() == Some("uni") { AttentionType::Uni } else { AttentionType::Bi },
        same_length: hf.same_length == Some(true),
        clamp_len: hf.clamp_len.filter(|&c| c > 0).map(|c| c as usize),
        bi_data: hf.bi_data == Some(true),
        segments: case.tensors.contains_key("token_type_ids"),
        mask: if case.tensors.contains_key("attention_mask") { MaskKind::Padding } else { MaskKind::None },
        layer_norm_eps: hf.layer_norm_eps.unwrap_or(1e-12) as f32,
        ..TransformerOptions::default()
    }
}

fn summary(hf: &HuggingFaceConfig) -> SummaryOptions {
    let kind = match hf.summary_type.as_deref() {
        None | Some("last") => SummaryType::Last,
        Some("first") => SummaryType::First,
        Some("mean") => SummaryType::Mean,
        Some(other) => panic!("summary_type {other}"),
    };
    SummaryOptions { kind, projection: hf.summary_use_proj != Some(false) }
}

fn session(
    model: &HuggingFaceModel,
    transformer: TransformerOptions,
    objective: Objective,
    device: Device,
) -> Result<Session> {
    let options = StepOptions { transformer, objective, accumulate: 1, float: DType::F32, optimizer: None };
    let mut session = Session::new(&model.config, options, device, 0)?;
    let step = session.program().clone();
    let report = load_into(session.exec(), &step, &model.weights, &LoadOptions::default())?;
    let fresh = report.rows.iter().find(|(_, outcome)| matches!(outcome, LoadOutcome::Initialised(_)));
    assert!(fresh.is_none(), "not in the file: {fresh:?}");
    Ok(session)
}

fn upload(session: &mut Session, case: &Case, ids: &str) -> Result<()> {
    session.input_i32("input_ids", &case.i32(ids))?;
    let batch = session.options().transformer.batch;
    let direction: Vec<i32> = (0..batch).map(|row| i32::from(row >= batch / 2)).collect();
    session.input_i32("direction", &direction)?; // used by models with bi_data only
    if case.tensors.contains_key("token_type_ids") {
        session.input_i32("segment_ids", &case.i32("token_type_ids"))?;
    }
    if case.tensors.contains_key("attention_mask") {
        let padding: Vec<i32> = case.f32("attention_mask").iter().map(|&real| i32::from(real < 0.5)).collect();
        session.input_i32("padding", &padding)?;
    }
    Ok(())
}

fn compare(report: &mut Report, what: &str, got: &[f32], want: &[f32]) {
    let largest = want.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    report.check(what, max_abs_difference(got, want), BOUND * f64::from(largest));
}

/// Runs the forward phase and compares output `index` with a tensor of the case.
fn check_output(session: &mut Session, case: &Case, report: &mut Report, index: usize, name: &str) -> Result<()> {
    let id = session.program().outputs[index];
    let got = session.exec().download_f32(id)?;
    compare(report, name, &got, &case.f32(name));
    Ok(())
}

fn hidden_states(model: &HuggingFaceModel, case: &Case, device: Device, report: &mut Report) -> Result<()> {
    let mut session = session(model, options(model, case, "input_ids"), Objective::Hidden, device)?;
    upload(&mut session, case, "input_ids")?;
    session.exec().run_phase("forward")?;
    let layers = model.config.n_layer;
    for layer in (0..=layers).filter(|layer| case.tensors.contains_key(&format!("hidden_states.{layer}"))) {
        check_output(&mut session, case, report, layer, &format!("hidden_states.{layer}"))?;
    }
    check_output(&mut session, case, report, layers, "last_hidden_state")
}

/// Three calls, each with the memories of the one before.
fn memories(model: &HuggingFaceModel, case: &Case, device: Device, report: &mut Report) -> Result<()> {
    let mut memory: Vec<Vec<f32>> = vec![]; // n_layer of [B, M, d]
    let mut length = 0;
    for call in (0..).take_while(|call| case.tensors.contains_key(&format!("call{call}.input_ids"))) {
        let ids = format!("call{call}.input_ids");
        let transformer = TransformerOptions {
            memory: length,
            mem_len: model.hf.mem_len.unwrap_or(0),
            reuse_len: model.hf.reuse_len,
            ..options(model, case, &ids)
        };
        let batch = transformer.batch;
        let mut session = session(model, transformer, Objective::Hidden, device)?;
        let program = session.program().clone();
        for (&id, values) in program.memory.iter().zip(&memory) {
            session.exec().upload_f32(id, values)?;
        }
        upload(&mut session, case, &ids)?;
        session.exec().run_phase("forward")?;
        let layers = model.config.n_layer;
        check_output(&mut session, case, report, layers, &format!("call{call}.last_hidden_state"))
            .map_err(|e| xlnet::Error::config(format!("call {call}: {e}")))?;
        memory.clear();
        for layer in 0..layers {
            // Memories of full length stay on the device, shorter ones come out as outputs.
            let id = if program.new_memory.is_empty() { program.memory[layer] } else { program.new_memory[layer] };
            let values = session.exec().download_f32(id)?;
            let name = format!("call{call}.mems.{layer}");
            let shape = case.shape(&name); // [M, B, d]
            let want = transpose_first_two(&case.f32(&name), shape[0], shape[1], shape[2]);
            compare(report, &name, &values, &want);
            length = values.len() / batch / model.config.d_model;
            memory.push(values);
        }
    }
    Ok(())
}

fn language_model(model: &HuggingFaceModel, case: &Case, device: Device, report: &mut Report) -> Result<()> {
    let (targets, length) = (case.shape("target_mapping")[1], case.shape("input_ids")[1]);
    let transformer = TransformerOptions {
        query: QueryKind::Targets(targets),
        mask: MaskKind::Bits,
        ..options(model, case, "input_ids")
    };
    let words = length.div_ceil(32);
    let mut hidden = case.f32("perm_mask"); // [B, L, L]
    if case.tensors.contains_key("attention_mask") {
        let real = case.f32("attention_mask"); // [B, L]
        for (i, hidden) in hidden.iter_mut().enumerate() {
            *hidden += 1.0 - real[i / (length * length) * length + i % length];
        }
    }
    let mut bits = vec![0u32; hidden.len() / length * words];
    for (i, &hidden) in hidden.iter().enumerate() {
        bits[i / length * words + i % length / 32] |= u32::from(hidden > 0.0) << (i % length % 32);
    }
    let mapping = case.f32("target_mapping");
    let positions: Vec<i32> =
        mapping.chunks(length).map(|row| row.iter().position(|&x| x == 1.0).map_or(-1, |at| at as i32)).collect();

    let mut logits = session(model, transformer.clone(), Objective::Logits, device)?;
    let mut loss = session(model, transformer, Objective::LanguageModel, device)?;
    for session in [&mut logits, &mut loss] {
        upload(session, case, "input_ids")?;
        let id = session.program().program.find("mask_bits").expect("an input");
        session.exec().upload_u32(id, &bits)?;
        session.input_i32("target_positions", &positions)?;
        session.input_i32("targets", &case.i32("labels"))?;
        session.input_f32("target_weights", &vec![1.0 / positions.len() as f32; positions.len()])?;
        session.exec().run_phase("forward")?;
    }
    check_output(&mut logits, case, report, 0, "logits")?;
    let id = loss.program().loss;
    let got = loss.exec().download_f32(id)?;
    let want = f64::from(case.f32("loss")[0]);
    report.check("loss", (f64::from(got[0]) / want - 1.0).abs(), 1e-5);
    Ok(())
}

fn span(model: &HuggingFaceModel, case: &Case, device: Device, report: &mut Report) -> Result<()> {
    let transformer = options(model, case, "input_ids");
    let (batch, length) = (transformer.batch, transformer.length);
    let objective = Objective::SpanPrediction { answerable: true, answer_bias: false };
    let mut session = session(model, transformer, objective, device)?;
    upload(&mut session, case, "input_ids")?;
    session.input_f32("barred", &case.f32("p_mask"))?;
    let row = |(b, &at): (usize, &i32)| (b * length) as i32 + at;
    let cls: Vec<i32> = case.i32("cls_index").iter().enumerate().map(row).collect();
    session.input_i32("cls_rows", &cls)?;
    session.exec().run_phase("forward")?;
    let [starts, answers, ends] = [0, 1, 2].map(|i| session.program().outputs[i]);
    let got = session.exec().download_f32(answers)?;
    compare(report, "cls_logits", &got, &case.f32("cls_logits"));

    let probabilities = |values: Vec<f32>| values.into_iter().map(f32::exp).collect::<Vec<_>>();
    let start = probabilities(session.exec().download_f32(starts)?);
    let (top, beam) = (model.hf.start_n_top.unwrap_or(5), model.hf.end_n_top.unwrap_or(5));
    let want_index = case.i32("start_top_index");
    let at: Vec<f32> = want_index.iter().enumerate().map(|(i, &j)| start[i / top * length + j as usize]).collect();
    compare(report, "start_top_log_probs", &at, &case.f32("start_top_log_probs"));
    assert_eq!(best(&start, length, top), want_index, "best starts");

    let (want_end, want_index) = (case.f32("end_top_log_probs"), case.i32("end_top_index"));
    for k in 0..top {
        let rows: Vec<i32> =
            (0..batch).map(|b| (b * length) as i32 + case.i32("start_top_index")[b * top + k]).collect();
        session.input_i32("start_rows", &rows)?;
        session.exec().run_phase("end")?;
        let end = probabilities(session.exec().download_f32(ends)?);
        let indices = best(&end, length, beam);
        // Stored as [B, end_n_top, start_n_top].
        for b in 0..batch {
            for e in 0..beam {
                let stored = (b * beam + e) * top + k;
                let index = indices[b * beam + e];
                assert_eq!(index, want_index[stored], "end {e} of start {k} in row {b}");
                let got = end[b * length + index as usize];
                compare(report, "end_top_log_probs", &[got], &want_end[stored..=stored]);
            }
        }
    }
    Ok(())
}

/// Indices of the `count` largest values of each row, largest first.
fn best(values: &[f32], width: usize, count: usize) -> Vec<i32> {
    let row = |row: &[f32]| {
        let mut order: Vec<i32> = (0..width as i32).collect();
        order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        order.truncate(count);
        order
    };
    values.chunks(width).flat_map(row).collect()
}

fn run(dir: &Path, device: Device, report: &mut Report) -> Result<()> {
    let model = read_model(dir)?;
    let case = Case::read(&dir.join("expected.safetensors")).expect("what the model answered");
    let hf = model.hf.clone();
    let architecture = hf.architectures.as_ref().and_then(|names| names.first()).map_or("", String::as_str);
    let classes = || *case.shape("logits").last().expect("classes");
    let forward = |objective, report: &mut Report| {
        let mut session = session(&model, options(&model, &case, "input_ids"), objective, device)?;
        upload(&mut session, &case, "input_ids")?;
        session.exec().run_phase("forward")?;
        check_output(&mut session, &case, report, 0, "logits")
    };
    match architecture {
        "XLNetModel" if case.tensors.contains_key("call0.input_ids") => memories(&model, &case, device, report),
        "XLNetModel" => hidden_states(&model, &case, device, report),
        "XLNetLMHeadModel" => language_model(&model, &case, device, report),
        "XLNetForSequenceClassification" => {
            forward(Objective::Classification { classes: classes(), summary: summary(&hf) }, report)
        }
        "XLNetForMultipleChoice" => {
            forward(Objective::Choice { choices: case.shape("input_ids")[1], summary: summary(&hf) }, report)
        }
        "XLNetForTokenClassification" => forward(Objective::Tokens { classes: classes() }, report),
        "XLNetForQuestionAnswering" => span(&model, &case, device, report),
        other => panic!("{}: architecture {other}", dir.display()),
    }
}

#[test]
fn models_of_hugging_face_answer_the_same() {
    let folders = golden::entries("hf").expect("a folder of cases");
    assert!(folders.len() >= 8, "the committed models are missing: found {}", folders.len());
    let mut report = Report::new("hf");
    let devices = devices().expect("devices");
    for dir in &folders {
        let name = dir.file_name().expect("a name").to_string_lossy();
        for &device in devices.iter().chain(&[Device::CpuReference]) {
            report.case(&name, device, |report| run(dir, device, report));
        }
    }
    report.finish();
}
