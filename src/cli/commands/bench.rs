//! `xlnet bench`: whole training steps of Base and Large, and every op of them, on one device, beside what it can do.

mod chart;
mod limits;
mod report;

use crate::backend::Device;
use crate::cli::args::{BenchArgs, Recomputation, ShapeArgs, Task};
use crate::cli::output::print;
use crate::cli::shape;
use crate::config::XlnetConfig;
use crate::program::Program;
use crate::tensor::DType;
use crate::train::init::{InitOptions, initialize};
use crate::train::loss_scale::products;
use crate::train::session::Session;
use crate::{ErrorKind, Result};
use limits::Limits;
use report::{OpRow, Report, StepRow, Yield};

/// Lengths of the memory table.
const LENGTHS: [usize; 4] = [64, 128, 256, 512];

/// Measures, prints the table, and writes it as JSON and SVG.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let device = args.device.resolve()?;
    let products = products(args.bf16, args.f16);
    let limits = Limits::of(device, products, args.quick)?;
    let mut report = Report::new(device, products, limits);
    print(&report.head());
    for (name, config) in models(args)? {
        for &task in &args.task {
            for length in lengths(args) {
                let row = measure(args, device, &name, &config, task, length, &report.limits)?;
                print(&row.line());
                report.steps.push(row);
            }
        }
    }
    print(&report.ops());
    report.write(&args.output)?;
    chart::write(&args.output.with_extension("svg"), &report)?;
    print(&format!("\n{0}.json and {0}.svg hold all of this", args.output.display()));
    Ok(())
}

fn models(args: &BenchArgs) -> Result<Vec<(String, XlnetConfig)>> {
    if args.quick {
        let tiny = XlnetConfig {
            n_layer: 2,
            d_model: 64,
            n_head: 2,
            d_head: 32,
            d_inner: 128,
            n_token: 200,
            ..XlnetConfig::base()
        };
        return Ok(vec![("tiny".into(), tiny)]);
    }
    args.model.iter().map(|name| Ok((name.clone(), shape::model(name)?))).collect()
}

fn lengths(args: &BenchArgs) -> Vec<usize> {
    match (args.quick, args.seq_len.is_empty()) {
        (true, _) => vec![32],
        (_, true) => LENGTHS.to_vec(),
        _ => args.seq_len.clone(),
    }
}

/// Tokens of a step where nobody says: enough to fill a card, few enough for a processor to end.
fn tokens(args: &BenchArgs, device: Device) -> usize {
    args.tokens.unwrap_or(match device {
        _ if args.quick => 64,
        Device::Cuda(_) => 32 * 512,
        Device::Wgpu(_) => 8 * 512,
        _ => 512,
    })
}

fn measure(
    args: &BenchArgs,
    device: Device,
    name: &str,
    config: &XlnetConfig,
    task: Task,
    length: usize,
    limits: &Limits,
) -> Result<StepRow> {
    let shape = ShapeArgs {
        seq_len: length,
        mem_len: (args.quick && task == Task::Pretrain).then_some(16),
        num_predict: None,
        dropout: args.dropout,
        recompute: Recomputation::None,
        bf16: args.bf16,
        f16: args.f16,
        accumulate: 1,
        inference: false,
        device,
    };
    let mut row = StepRow { model: name.into(), task: report::word(task), length, ..StepRow::default() };
    let unit = if task == Task::Pretrain { 2 } else { 1 }; // both directions
    let mut batch = (tokens(args, device) / length).max(1).next_multiple_of(unit);
    let mut session = loop {
        let options = shape::options(task, &shape, batch)?;
        match Session::new(config, options, device, 1) {
            Ok(session) => break session,
            // A smaller batch may fit.
            Err(error) if matches!(error.kind(), ErrorKind::Device(_)) && batch > unit => {
                batch = (batch / 2).next_multiple_of(unit);
            }
            Err(error) => {
                row.skipped = Some(error.to_string());
                return Ok(row);
            }
        }
    };
    fill(&mut session, config)?;
    // The first step compiles, the second one is recorded where the device records.
    for _ in 0..2 {
        session.train()?;
    }
    let mut seconds = vec![];
    for _ in 0..args.steps.max(1) {
        let started = std::time::Instant::now();
        session.train()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    session.exec().profile(true);
    session.train()?;
    let times = session.exec().profile(false);
    let program = session.program().program.clone();
    let costs: Vec<_> = program.steps.iter().map(|step| step.op.cost(&program.tensors)).collect();
    for time in times {
        let (name, cost) = (op_name(&program, time.op), costs[time.op]);
        let line = match row.ops.iter_mut().find(|line| line.op == name) {
            Some(line) => line,
            None => {
                row.ops.push(OpRow { op: name, ..OpRow::default() });
                row.ops.last_mut().expect("pushed just now")
            }
        };
        line.count += 1;
        line.work.add(cost, time.time.as_secs_f64(), limits);
    }
    row.ops.sort_by(|a, b| b.work.seconds.total_cmp(&a.work.seconds));
    row.batch = batch;
    row.held_bytes = session.exec().held_bytes();
    let mut work = Yield::default();
    costs.into_iter().for_each(|cost| work.add(cost, 0.0, limits));
    work.seconds = seconds[seconds.len() / 2];
    (row.work, row.least_seconds, row.most_seconds) = (work, seconds[0], seconds[seconds.len() - 1]);
    row.tokens_per_s = (batch * length) as f64 / row.work.seconds;
    Ok(row)
}

/// An op's name; products of the head, of which there are few and big ones, apart from those of layers.
fn op_name(program: &Program, op: usize) -> String {
    let name = program.steps[op].op.name();
    let head = name == "matmul" && !program.scope(op).contains("layer.");
    if head { "matmul, head and embedding".into() } else { name.into() }
}

/// Random weights, and inputs that look like text.
fn fill(session: &mut Session, config: &XlnetConfig) -> Result<()> {
    let (program, exec) = session.parts();
    initialize(exec, program, &InitOptions::default())?;
    session.reset_memory()?;
    let inputs: Vec<_> = {
        let program = &session.program().program;
        let inputs = program.iter().filter(|(_, desc)| desc.role == crate::tensor::Role::Input && desc.view.is_none());
        inputs.map(|(_, desc)| (desc.name.clone(), desc.shape, desc.dtype)).collect()
    };
    for (name, shape, dtype) in inputs {
        let (n, last) = (shape.len(), shape.last());
        let length = session.options().transformer.length;
        let integers = |f: &dyn Fn(usize) -> usize| (0..n).map(|i| f(i) as i32).collect::<Vec<_>>();
        let values = match name.as_str() {
            "input_ids" | "targets" => integers(&|i| i * 7919 % config.n_token),
            "segment_ids" => integers(&|i| usize::from(i % last > last / 2)),
            // Every position sees about half of the others.
            "query_rank" | "key_rank" => integers(&|i| i % last * 37 % last),
            "target_positions" => integers(&|i| i % last * length / last),
            "labels" | "start_positions" | "end_positions" => integers(&|i| i % 2),
            "direction" => integers(&|i| usize::from(2 * i >= n)),
            _ if dtype == DType::I32 => continue, // zeros, or a constant of the session
            _ if dtype == DType::F32 && name.ends_with("weights") => {
                session.input_f32(&name, &vec![1.0 / n as f32; n])?;
                continue;
            }
            _ => continue,
        };
        session.input_i32(&name, &values)?;
    }
    Ok(())
}
