//! The program on the first adapter of wgpu, a driver for the processor being as good as hardware: training follows the
//! CPU, a stopped run goes on, compiled kernels are kept on disk.
#![cfg(feature = "wgpu")]

#[path = "common/program.rs"]
mod program;

use std::path::Path;
use std::process::Command;

use program::*;
use xlnet::backend::Device;
use xlnet::backend::lower::{Caps, Context, Slice, fuse};
use xlnet::backend::wgpu::Gpu;
use xlnet::config::XlnetConfig;
use xlnet::op::Op;
use xlnet::tensor::DType;
use xlnet::train::session::Session;
use xlnet::train::step::{Objective, OptimizerOptions, StepOptions, StepProgram};
use xlnet_testkit::learning::{Learning, largest_scale};

/// False where there is no adapter; in CI, that is a failure.
fn there() -> bool {
    match Device::Wgpu(0).resolve() {
        Ok(_) => true,
        Err(error) if std::env::var_os("XLNET_REQUIRE_WGPU").is_none() => {
            println!("not tested: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// Trains on `device`, with compiled kernels kept in `cache`.
fn train(dir: &Path, device: &str, more: &str) {
    let line = format!("{TRAIN} --device {device} {more}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xlnet"));
    command.current_dir(dir).env_remove("XLNET_LOG").env("XLNET_CACHE_DIR", dir.join("cache"));
    let out = command.args(line.split_whitespace()).output().expect("the program starts");
    assert!(out.status.success(), "{line}: {}\n{}", text(&out.stdout), text(&out.stderr));
}

#[test]
fn pretraining_follows_the_cpu() {
    if !there() {
        return;
    }
    let dir = corpus();
    let dir = dir.path();
    let more = "--train_steps 24 --save_steps 12 --accumulate 2 --model_dir";
    train(dir, "cpu", &format!("{more} cpu"));
    train(dir, "wgpu", &format!("{more} wgpu"));
    let (cpu, wgpu) = (losses(&dir.join("cpu")), losses(&dir.join("wgpu")));
    assert!(cpu.len() >= 12 && cpu.len() == wgpu.len(), "{cpu:?} {wgpu:?}");
    let mut worst: f64 = 0.0;
    for (a, b) in cpu.iter().zip(&wgpu) {
        assert_eq!(a.0, b.0);
        for (a, b) in [(a.1, b.1), (a.2, b.2)] {
            let (a, b) = (a.expect("a number"), b.expect("a number"));
            worst = worst.max((a - b).abs() / a.abs());
        }
    }
    println!("24 updates with dropout: losses and norms of wgpu are those of the cpu to {worst:.1e}");
    assert!(worst < 2e-4, "{worst:.1e}: {cpu:?} {wgpu:?}");
    // A run that lost its last checkpoint goes on from the one before, to the same bits.
    let last = dir.join("wgpu/step-24");
    let weights = || std::fs::read(last.join("model.safetensors")).expect("a checkpoint");
    let before = weights();
    std::fs::remove_dir_all(&last).expect("a checkpoint");
    train(dir, "wgpu", &format!("{more} wgpu"));
    assert_eq!(losses(&dir.join("wgpu")), wgpu);
    assert!(weights() == before);
    // Kernels were kept, and a cache that is damaged is passed over.
    let kept = files(&dir.join("cache"), "");
    let features = xlnet::backend::wgpu::Gpu::open(0).expect("an adapter").device.features();
    assert_eq!(kept.len(), usize::from(features.contains(wgpu::Features::PIPELINE_CACHE)), "{kept:?}");
    for path in kept {
        assert!(std::fs::metadata(&path).expect("a file").len() > 32, "a hash and nothing else");
        std::fs::write(&path, "no cache").expect("a file");
        train(dir, "wgpu", "--train_steps 2 --model_dir again");
        assert!(std::fs::metadata(&path).expect("a file").len() > 32, "it was not written anew");
    }
}

/// Norms and updates of all parameters: one sum in two launches, and one update each of what decays and what does not.
#[test]
fn a_step_updates_all_parameters_in_four_launches() {
    let small = XlnetConfig { n_layer: 3, d_model: 32, n_head: 2, d_head: 16, d_inner: 64, ..XlnetConfig::base() };
    let options = StepOptions {
        transformer: Default::default(),
        objective: Objective::Tokens { classes: 3 },
        accumulate: 1,
        float: DType::F32,
        optimizer: Some(OptimizerOptions::default()),
    };
    let program = StepProgram::build(&small, &options).expect("a program").program;
    let plan = Device::Wgpu(0).plan(&program).expect("a plan");
    let slice = |id| {
        let placement = plan.placement(id);
        Slice { buffer: placement.role as usize, offset: placement.offset, bytes: placement.bytes, element: 4 }
    };
    let caps = Caps::default();
    let context = |index| Context {
        tensors: &program.tensors,
        slice: &slice,
        workspace: plan.workspace(index).map(|p| Slice { buffer: 9, offset: p.offset, bytes: p.bytes, element: 4 }),
        caps: &caps,
        place: program.place(index),
    };
    let fused = fuse(&program, context).expect("launches");
    let updates = program.steps.iter().filter(|step| matches!(step.op, Op::Adam(_) | Op::SquareNorm(_))).count();
    let (ops, launches) =
        (fused.iter().map(|f| f.ops.len()).sum::<usize>(), fused.iter().map(|f| f.launches.len()).sum::<usize>());
    println!("{ops} norms and updates in {launches} launches");
    assert!(updates > 80 && ops == updates && launches == 4, "{ops} of {updates} in {launches}");
}

/// Training steps with products and attention in f16: near the losses of f32, and not the same; the processor agrees.
#[test]
fn products_in_f16_learn_like_f32() {
    if !there() {
        return;
    }
    if !Gpu::find(0).expect("an adapter").caps.f16 {
        return println!("not tested: no SHADER_F16");
    }
    // Heads of 64 elements, so that attention is in half precision too.
    let small =
        XlnetConfig { n_layer: 2, d_model: 36, n_head: 2, d_head: 64, d_inner: 60, n_token: 50, ..XlnetConfig::base() };
    let session = |half: bool, loss_scale: f64, device: Device| -> Session {
        let products = half.then_some(DType::F16);
        let small = Learning { model: small.clone(), length: 17, dropout: 0.1, products, loss_scale };
        let session = small.open(device).expect("a session");
        let halves = |name: &str| {
            let program = session.program().program.steps.iter().filter(|step| step.op.name() == name);
            program
                .filter(|step| step.op.reads().iter().any(|id| session.program().program.tensor(*id).dtype.is_half()))
                .count()
        };
        let used = [
            "matmul",
            "activation",
            "activation_grad",
            "layer_norm",
            "column_sum",
            "copy_blocks",
            "rel_attention",
            "rel_attention_grad",
        ]
        .map(halves);
        assert!(used.iter().all(|count| (*count > 0) == half), "{used:?}");
        session
    };
    let run = |half: bool, device: Device| -> Vec<(f64, f64)> {
        // A scale that overflows nowhere: all steps are updates.
        let mut session = session(half, 256.0, device);
        let steps = (0..10).map(|_| session.train().map(|step| (step.loss, step.gradient_norm)));
        steps.collect::<xlnet::Result<_>>().expect("ten steps")
    };
    let (f32s, halves, cpu) = (run(false, Device::Cpu), run(true, Device::Wgpu(0)), run(true, Device::Cpu));
    assert!(f32s[9].0 < f32s[0].0 - 0.2, "it learns: {f32s:?}");
    let far = |a: &[(f64, f64)], b: &[(f64, f64)]| {
        let apart = a.iter().zip(b).map(|(a, b)| ((b.0 / a.0 - 1.0).abs(), (b.1 / a.1 - 1.0).abs()));
        apart.fold((0.0, 0.0), |(loss, norm): (f64, f64), (l, n)| (loss.max(l), norm.max(n)))
    };
    let (from_f32, from_cpu) = (far(&f32s, &halves), far(&cpu, &halves));
    println!(
        "ten steps in f16 on wgpu: losses and norms are those of f32 to {:.1e} and {:.1e}, of f16 on the cpu to {:.1e} and {:.1e}",
        from_f32.0, from_f32.1, from_cpu.0, from_cpu.1
    );
    // An eighth of the bounds of bf16 on CUDA, whose precision is an eighth.
    assert!(from_f32.0 < 1.25e-4 && from_f32.1 < 2.5e-3, "{f32s:?} and {halves:?}");
    assert!(from_cpu.0 < 1.25e-4 && from_cpu.1 < 2.5e-3, "{cpu:?} and {halves:?}");
    assert!(f32s != halves, "f16 is f32");
    // From the largest scale of the loss, steps overflow until it is small enough.
    let mut overflowing = session(true, 0.0, Device::Wgpu(0));
    overflowing.resume_loss_scale(largest_scale());
    let steps: Vec<_> = (0..6).map(|_| overflowing.train().expect("a step")).collect();
    assert!(steps[0].overflowed && !steps[5].overflowed && steps[5].gradient_norm.is_finite(), "{steps:?}");
}

/// Where cooperative matrices are asked for and the adapter has none, no device opens, and users are told why.
#[test]
fn cooperative_matrices_are_refused_in_a_sentence() {
    if !there() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_xlnet"));
    command.env("XLNET_COOPERATIVE", "on").args(["kernels", "check", "--device", "wgpu", "matmul_cooperative"]);
    let out = command.output().expect("the program starts");
    let (told, wrong) = (text(&out.stdout), text(&out.stderr));
    // An adapter that has them, for f32 or f16 or both, compiles those of its size.
    let compiles = told.contains("48 variants compile") || told.contains("24 variants compile");
    let refused =
        wrong.contains("XLNET_COOPERATIVE=on asks for cooperative matrices, but") && wrong.contains("; unset it");
    assert!(out.status.success() == compiles && compiles != refused, "{told}{wrong}");
}
