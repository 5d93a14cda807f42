//! Every op on every backend: the contract against `cpu:reference`, gradients against difference quotients, and golden
//! attention cases. `cargo test --test ops -- --nocapture` prints the support table.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anyhow::Result;
use xlnet::ErrorKind;
use xlnet::backend::{Device, Executor};
use xlnet::op::{Fill, MatMul, Op, Target};
use xlnet::program::{Builder, Program};
use xlnet::tensor::DType;
use xlnet_testkit::{Backend, Case, Support, case::Tolerance, cases, golden, golden_attention, gradients, op_devices};

#[test]
fn contract() -> Result<()> {
    let (mut cases, columns) = (cases::all(), op_devices()?);
    // While a kernel is written: XLNET_CASES=rel_attention XLNET_BACKEND=wgpu runs some of the cases on one backend.
    if let Ok(part) = std::env::var("XLNET_CASES") {
        cases.retain(|case| case.name.contains(&part));
    }
    assert!(!columns.is_empty() && !cases.is_empty(), "nothing is left to run");
    let lines = Support::run(&columns, &cases);
    for line in &lines {
        println!("{line}");
    }
    assert_eq!(lines.len(), columns.len());
    for line in &lines {
        assert_eq!(line.ran(), cases.len());
        assert!(line.failed.is_empty(), "{line}");
        // CPU and PTX do everything; other devices may refuse, but say why.
        let everything = line.name.starts_with("cpu ") || line.name.starts_with("cuda:interpreter");
        assert!(!everything || line.unsupported.is_empty(), "{line}");
        // WGSL has no bf16, and f16 where the adapter has it.
        for (name, why) in line.unsupported.iter().filter(|_| line.name.starts_with("wgpu")) {
            let lacks = if name.contains("/bf16 ") { "WGSL has no bf16" } else { "lacks SHADER_F16" };
            assert!(name.contains("f16 ") && why.contains(lacks), "{}: {name}: {why}", line.name);
        }
    }
    Ok(())
}

/// Heads of any size, with tensor cores or without: what WGSL has beyond the contract.
#[test]
fn attention_in_f16_has_heads_of_any_size_in_wgsl() -> Result<()> {
    let is_wgpu = |(backend, _): &(Backend, DType)| matches!(backend, Backend::Device(Device::Wgpu(_)));
    let columns: Vec<_> = op_devices()?.into_iter().filter(is_wgpu).collect();
    let cases = cases::rel_attention::f16_heads();
    for line in Support::run(&columns, &cases) {
        println!("{line}");
        assert!(line.failed.is_empty() && line.ran() == cases.len(), "{line}");
        assert!(line.unsupported.iter().all(|(_, why)| why.contains("lacks SHADER_F16")), "{line}");
    }
    Ok(())
}

/// Where a card of a newer generation has kernels of its own.
#[test]
fn hopper() -> Result<()> {
    let mut cases = cases::all();
    cases.retain(|case| {
        case.name.starts_with("rel_attention_grad/bf16") || case.name.starts_with("rel_attention_grad/f16")
    });
    assert!(!cases.is_empty());
    for line in Support::run(&Backend::HOPPERS.map(|backend| (backend, DType::F32)), &cases) {
        println!("{line}");
        assert!(line.failed.is_empty() && line.unsupported.is_empty(), "{line}");
        assert_eq!(line.ran(), cases.len());
    }
    Ok(())
}

/// V100 and Turing, for which products and attention in f16 have kernels of their own: every case in half precision, those in
/// bf16 being refused in a sentence that says what to do. Kernels in f32 are the same on every card; XLNET_CASES= runs all.
#[test]
fn before_ampere() -> Result<()> {
    let mut cases = cases::all();
    let part = std::env::var("XLNET_CASES").unwrap_or_else(|_| "f16".into());
    cases.retain(|case| case.name.contains(&part));
    // Copies do not care what they copy.
    let brain = |name: &str| name.contains("bf16") && !name.starts_with("copy_blocks");
    let brain = cases.iter().filter(|case| brain(&case.name)).count();
    for line in Support::run(&Backend::BEFORE_AMPERE.map(|backend| (backend, DType::F32)), &cases) {
        println!("{line}");
        assert!(line.failed.is_empty(), "{line}");
        assert_eq!((line.ok, line.unsupported.len()), (cases.len() - brain, brain), "{line}");
        for (case, why) in &line.unsupported {
            assert!(case.contains("bf16") && why.contains("8.0") && why.contains("use float16"), "{why}");
        }
    }
    Ok(())
}

#[test]
fn every_op_has_cases_and_names_are_unique() -> Result<()> {
    let (mut names, mut ops) = (HashSet::new(), HashSet::new());
    for case in cases::all() {
        assert!(names.insert(case.name.clone()), "two cases are called {}", case.name);
        ops.extend(case.program(DType::F64)?.0.steps.iter().map(|step| step.op.name()));
        assert_eq!(case.tolerance.reason.is_empty(), case.tolerance.f32 == Tolerance::DEFAULT.f32, "{}", case.name);
    }
    let missing: Vec<_> = Op::NAMES.iter().filter(|name| !ops.contains(*name)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
    Ok(())
}

#[test]
fn indices_out_of_range_are_errors() -> Result<()> {
    let devices: HashSet<Backend> = op_devices()?.into_iter().map(|(device, _)| device).collect();
    for device in devices.into_iter().chain([Device::CpuReference.into()]) {
        let mut unsupported = 0;
        for case in cases::invalid::cases() {
            let refused = case.run_alone(device, DType::F32);
            let Err(error) = refused else { panic!("{} ran on {device}", case.name) };
            match error.kind() {
                ErrorKind::Shape { .. } => {}
                ErrorKind::Device(_) if !matches!(device, Backend::Device(Device::Cpu | Device::CpuReference)) => {
                    unsupported += 1
                }
                _ => panic!("{} on {device}: {error}", case.name),
            }
        }
        println!(
            "{device}: {} wrong inputs, {unsupported} of ops that it does not support",
            cases::invalid::cases().len()
        );
    }
    Ok(())
}

/// The biggest case of every op twice: the same bits.
#[test]
fn two_runs_give_the_same_bits() -> Result<()> {
    let mut biggest = BTreeMap::<String, (usize, Case)>::new();
    for case in cases::all() {
        let elements = case.program(DType::F64)?.0.tensors.iter().map(|t| t.shape.len()).sum();
        let op = case.name.split('/').next().unwrap_or_default().to_owned();
        if biggest.get(&op).is_none_or(|(most, _)| *most < elements) {
            biggest.insert(op, (elements, case));
        }
    }
    for (device, float) in op_devices()? {
        let mut same = 0;
        for (op, (_, case)) in &biggest {
            let Ok(first) = case.results(device, float) else { continue };
            let second = case.results(device, float)?;
            assert!(first.iter().zip(&second).all(|(a, b)| a.is_same(b)), "{op} on {device}: {}", case.name);
            same += 1;
        }
        println!("{device} {float}: {same} ops twice, the same bits");
        assert!(same >= Op::NAMES.len() - 2, "{same} ops ran on {device}");
    }
    Ok(())
}

#[test]
fn gradients_are_those_of_the_forward_ops() -> Result<()> {
    for device in [Device::CpuReference, Device::Cpu] {
        let (mut worst, mut wrong) = ((0.0, String::new()), vec![]);
        let checks = gradients::checks();
        for check in &checks {
            for (input, error) in check.run(device)? {
                let line = format!("{}: gradient of {input}", check.name);
                if error > gradients::TOLERANCE {
                    wrong.push(format!("{line} is off by {error:.1e}"));
                }
                if error > worst.0 {
                    worst = (error, line);
                }
            }
        }
        println!("gradients on {device}: {} ops, largest error {:.1e} ({})", checks.len(), worst.0, worst.1);
        assert!(wrong.is_empty(), "{device}:\n{}", wrong.join("\n"));
    }
    Ok(())
}

#[test]
fn golden_attention_cases() -> Result<()> {
    let cases = golden::cases("attention")?;
    assert!(cases.len() >= 6, "the cases of tests/golden/attention are missing");
    let mut all_ok = true;
    for case in &cases {
        let reference = [DType::F32, DType::F64].map(|float| (Device::CpuReference.into(), float));
        for (device, float) in reference.into_iter().chain(op_devices()?) {
            let forms: &[bool] = if case.meta["mask"] == "perm" { &[false, true] } else { &[false] };
            for &bits in forms {
                let result = golden_attention::run(case, device, float, bits);
                let form = if bits { " as bits" } else { "" };
                let ok = matches!(result, Ok((_, error)) if error <= golden_attention::TOLERANCE);
                let verdict = if ok { "ok" } else { "FAILED" };
                let name = &case.name;
                match result {
                    Ok((tensor, error)) => {
                        println!("{name}{form} {device} {float}: largest error {error:.1e} ({tensor}), {verdict}");
                    }
                    Err(error) => println!("{name}{form} {device} {float}: {error:#}, {verdict}"),
                }
                all_ok &= ok;
            }
        }
    }
    assert!(all_ok, "see the lines above");
    Ok(())
}

/// Two programs of different sizes with one copy of the parameters, on every backend.
#[test]
fn programs_share_parameters() -> Result<()> {
    // y = x w, for some rows; `more` writes w, has another parameter or another name.
    let program = |rows: usize, more: &str| -> Result<Arc<Program>> {
        let mut b = Builder::new(DType::F32);
        let (x, y) = (b.input("x", [rows, 40]), b.output("y", [rows, 7]));
        let spare = b.param("spare", [3]);
        let w = b.param(if more == "name" { "v" } else { "w" }, [40, 7]);
        let out = Target::set(y);
        b.push(MatMul { a: x, b: w, bias: None, out, m: rows, n: 7, k: 40, trans_a: false, trans_b: false })?;
        match more {
            "write" => b.push(Fill { out: spare, value: 1.0 })?,
            "parameter" => {
                b.param("other", [2]);
            }
            _ => {}
        }
        Ok(Arc::new(b.finish()?))
    };
    let run = |exec: &mut dyn Executor, value: f32| -> xlnet::Result<Vec<f32>> {
        let id = |name: &str| exec.program().find(name).expect("a tensor");
        let (x, y) = (id("x"), id("y"));
        let count = exec.program().tensor(x).shape.len();
        exec.upload_f32(x, &vec![value; count])?;
        exec.run_phase("run")?;
        exec.download_f32(y)
    };
    let weights: Vec<f32> = (0..280).map(|i| i as f32 / 64.0).collect();
    let column = |j: usize| (0..40).map(|i| weights[i * 7 + j]).sum::<f32>();
    let expected = |rows: usize, value: f32| (0..rows * 7).map(|i| value * column(i % 7)).collect::<Vec<_>>();
    let backends: HashSet<Backend> = op_devices()?.into_iter().map(|(device, _)| device).collect();
    for backend in backends.into_iter().chain([Device::CpuReference.into()]) {
        let mut first = backend.open(program(2, "")?)?;
        let w = first.program().find("w").expect("a tensor");
        first.upload_f32(w, &weights)?;
        let alone = backend.open(program(5, "")?)?.held_bytes();
        let mut second = first.open_beside(program(5, "")?)?;
        let shared = alone - second.held_bytes();
        assert!([4 * 283, 256 + 1280].contains(&shared), "{backend}: {shared} bytes are shared"); // the latter aligned
        let mut third = second.open_beside(program(9, "")?)?;
        // Each runs between the others, and the last one after them.
        for value in [1.0, 2.0] {
            for (exec, rows) in [(&mut first, 2), (&mut second, 5), (&mut third, 9)] {
                assert_eq!(run(&mut **exec, value)?, expected(rows, value), "{backend}, {rows} rows");
            }
        }
        for exec in [&mut first, &mut second] {
            let text = exec.upload_f32(w, &weights).unwrap_err().to_string();
            assert!(text.contains("w is shared with other programs"), "{backend}: {text}");
        }
        for (more, part) in [("write", "fill writes spare"), ("parameter", "got other"), ("name", "expected w [40, 7]")]
        {
            let text = first.open_beside(program(2, more)?).err().expect("refused").to_string();
            assert!(text.contains(part), "{backend}: {text}");
        }
        drop((first, second));
        assert_eq!(run(&mut *third, 3.0)?, expected(9, 3.0), "{backend}");
    }
    Ok(())
}
