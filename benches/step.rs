//! Whole steps of a model: tokens a second and peak memory, as one line of JSON. `compare_transformers.py` runs it
//! beside Hugging Face XLNet; by itself:
//!
//! ```text
//! cargo bench --bench step -- --mode train --model base --batch 8 --seq-len 128 --steps 5 [--profile]
//! ```

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use xlnet::backend::Device;
use xlnet::config::XlnetConfig;
use xlnet::model::TransformerOptions;
use xlnet::model::heads::{SummaryOptions, SummaryType};
use xlnet::op::Op;
use xlnet::tensor::DType;
use xlnet::train::session::Session;
use xlnet::train::step::{Objective, OptimizerOptions, StepOptions};

/// Options after their names, with defaults.
fn arguments() -> Result<HashMap<String, String>> {
    let defaults =
        [("mode", "train"), ("model", "base"), ("batch", "8"), ("seq-len", "128"), ("steps", "3"), ("device", "cpu")];
    let mut all: HashMap<String, String> = defaults.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let name = arg.strip_prefix("--").with_context(|| format!("unexpected argument {arg}"))?.to_owned();
        let value = if name == "profile" {
            "yes".to_owned()
        } else {
            args.next().with_context(|| format!("{arg} needs a value"))?
        };
        all.insert(name, value);
    }
    Ok(all)
}

/// Most memory this process ever held, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

fn main() -> Result<()> {
    let args = arguments()?;
    let number = |name: &str| args[name].parse::<usize>().with_context(|| format!("--{name} must be a number"));
    let (batch, length, steps) = (number("batch")?, number("seq-len")?, number("steps")?);
    let config = XlnetConfig::named(&args["model"]).with_context(|| format!("unknown model {}", args["model"]))?;
    let train = match args["mode"].as_str() {
        "train" => true,
        "inference" => false,
        other => bail!("--mode must be train or inference, not {other}"),
    };
    let rate = if train { 0.1 } else { 0.0 };
    let transformer = TransformerOptions { batch, length, dropout: rate, dropatt: rate, ..Default::default() };
    let optimizer = train.then(OptimizerOptions::default);
    let summary = SummaryOptions { kind: SummaryType::Last, projection: true };
    let objective = Objective::Classification { classes: 2, summary };
    let options = StepOptions { transformer, objective, accumulate: 1, float: DType::F32, optimizer };
    let mut session = Session::new(&config, options, args["device"].parse::<Device>()?, 1)?;
    let program = session.program().clone();

    // Small random weights: speed must not depend on values, and denormals would.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    for &id in &program.params {
        let desc = program.program.tensor(id);
        let norm = desc.name.contains("layer_norm") && desc.name.ends_with("weight");
        let values: Vec<f32> = (0..desc.shape.len()).map(|_| if norm { 1.0 } else { random() * 0.07 }).collect();
        session.exec().upload_f32(id, &values)?;
    }
    let ids: Vec<i32> = (0..batch * length).map(|i| (i * 7919 % config.n_token) as i32).collect();
    session.input_i32("input_ids", &ids)?;
    let segments: Vec<i32> = (0..batch * length).map(|i| i32::from(i % length > length / 2)).collect();
    session.input_i32("segment_ids", &segments)?;
    session.input_i32("labels", &(0..batch).map(|row| (row % 2) as i32).collect::<Vec<_>>())?;
    session.input_f32("weights", &vec![1.0 / batch as f32; batch])?;

    let step =
        |session: &mut Session| -> Result<f64> { Ok(if train { session.train()?.loss } else { session.evaluate()? }) };
    let mut loss = step(&mut session)?; // warm-up
    if args.contains_key("profile") {
        session.exec().profile(true);
    }
    let mut seconds = vec![];
    for _ in 0..steps {
        let start = Instant::now();
        loss = step(&mut session)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    if args.contains_key("profile") {
        print_profile(&mut session, steps);
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let tokens = (batch * length) as f64 / median;
    let gflops = program.program.flops() as f64 / median / 1e9;
    let (held, peak) = (session.exec().held_bytes(), peak_memory());
    println!(
        "{{\"mode\": {:?}, \"batch\": {batch}, \"seq_len\": {length}, \"tokens_per_s\": {tokens:.1}, \
         \"seconds\": {median:.4}, \"gflop_per_s\": {gflops:.1}, \"planned_bytes\": {held}, \"peak_bytes\": {peak}, \
         \"loss\": {loss:.4}}}",
        args["mode"]
    );
    Ok(())
}

/// Time of each kind of op, biggest first.
fn print_profile(session: &mut Session, steps: usize) {
    let times = session.exec().profile(false);
    let program = session.program().program.clone();
    let mut kinds: HashMap<String, (f64, u64, u64)> = HashMap::new();
    for t in times {
        let op = &program.steps[t.op].op;
        let cost = op.cost(&program.tensors);
        let name = match op {
            Op::MatMul(p) => {
                let mark = |transposed| if transposed { "'" } else { "" };
                format!("matmul {}x{}x{} a{} b{}", p.m, p.n, p.k, mark(p.trans_a), mark(p.trans_b))
            }
            _ => op.name().to_owned(),
        };
        let entry = kinds.entry(name).or_default();
        entry.0 += t.time.as_secs_f64();
        entry.1 += cost.flops * t.runs;
        entry.2 += cost.bytes * t.runs;
    }
    let mut rows: Vec<_> = kinds.into_iter().collect();
    rows.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    let total: f64 = rows.iter().map(|r| r.1.0).sum();
    eprintln!("{:<34} {:>9} {:>6} {:>9} {:>8}", "op", "ms/step", "share", "GFLOP/s", "GB/s");
    for (name, (time, flops, bytes)) in rows {
        let (ms, share) = (time * 1e3 / steps as f64, 100.0 * time / total);
        let (gflops, gbytes) = (flops as f64 / time / 1e9, bytes as f64 / time / 1e9);
        eprintln!("{name:<34} {ms:>9.2} {share:>5.1}% {gflops:>9.1} {gbytes:>8.1}");
    }
}
