//! The CUDA executor without a card: what it asks of its machine, and that rows of ops in one launch are the ops.

#[path = "common/program.rs"]
mod common;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use ptx_interpreter::Schedule;
use xlnet::backend::Executor;
use xlnet::backend::cuda::{Call, CudaExecutor, Driver, KernelText};
use xlnet::op::{Adam, Fill, MatMul, SquareNorm, Target};
use xlnet::program::{Builder, Program};
use xlnet::tensor::{DType, Role, TensorId};
use xlnet_testkit::interpreter::Interpreter;

/// A machine that only writes down what it is asked for.
#[derive(Clone, Default)]
struct Notes {
    calls: Arc<Mutex<Vec<String>>>,
    next: u64,
}

impl Notes {
    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Driver for Notes {
    fn capability(&self) -> (u32, u32) {
        (8, 0)
    }
    fn alloc(&mut self, name: &str, bytes: usize, _: bool) -> xlnet::Result<u64> {
        self.note(format!("alloc {name}"));
        let address = 1 << 32 | self.next;
        self.next += bytes.next_multiple_of(256) as u64;
        Ok(address)
    }
    fn write(&mut self, _: u64, bytes: &[u8]) -> xlnet::Result<()> {
        self.note(format!("write {}", bytes.len()));
        Ok(())
    }
    fn read(&mut self, _: u64, bytes: &mut [u8]) -> xlnet::Result<()> {
        self.note(format!("read {}", bytes.len()));
        Ok(())
    }
    fn load(&mut self, kernel: &KernelText) -> xlnet::Result<usize> {
        self.note(format!("load {}", kernel.rendered.label));
        self.next += 1 << 20;
        Ok(0)
    }
    fn launch(&mut self, _: &Call) -> xlnet::Result<()> {
        self.note("launch");
        Ok(())
    }
    fn record(&mut self, calls: &[&Call]) -> xlnet::Result<usize> {
        self.note(format!("record {}", calls.len()));
        Ok(0)
    }
    fn replay(&mut self, recording: usize) -> xlnet::Result<()> {
        self.note(format!("replay {recording}"));
        Ok(())
    }
    fn sync(&mut self) -> xlnet::Result<()> {
        self.note("sync");
        Ok(())
    }
    fn beside(&mut self, addresses: &[u64]) -> xlnet::Result<Self> {
        self.note(format!("beside {}", addresses.len()));
        Ok(self.clone())
    }
}

/// Sizes of parameters: one element, less than a piece, several pieces and a rest.
const SIZES: [usize; 4] = [1, 3 * 7, 2048, 2 * 16384 + 5];

struct Update {
    program: Arc<Program>,
    inputs: Vec<TensorId>,
    states: Vec<TensorId>,
    hyper: TensorId,
    norm: TensorId,
}

/// A product, the norm of some gradients, and Adam.
fn update() -> Result<Update> {
    let mut b = Builder::new(DType::F32);
    let (x, w, y) = (b.input("x", [4, 8]), b.input("w", [8, 4]), b.output("y", [4, 4]));
    b.phase("backward");
    b.push(MatMul { a: x, b: w, bias: None, out: Target::set(y), m: 4, n: 4, k: 8, trans_a: false, trans_b: false })?;
    b.phase("update");
    let (hyper, norm) = (b.input("hyper", [Adam::HYPER_LEN]), b.output("norm", [1]));
    let (mut all, mut inputs) = (vec![], vec![x, w]);
    for (i, n) in SIZES.into_iter().enumerate() {
        let grad = b.input(format!("grad {i}"), [n]);
        inputs.push(grad);
        let [param, m, v] =
            ["param", "m", "v"].map(|name| b.tensor(format!("{name} {i}"), [n], DType::F32, Role::OptState));
        all.push([grad, param, m, v]);
    }
    for (i, [grad, ..]) in all.iter().enumerate() {
        let out = if i == 0 { Target::set(norm) } else { Target::add(norm) };
        b.push(SquareNorm { x: *grad, out })?;
    }
    for (i, &[grad, param, m, v]) in all.iter().enumerate() {
        let (decays, grad_scale, lr_scale) = (i % 2 == 0, 1.0 - 0.125 * i as f32, 1.0 + 0.25 * i as f32);
        b.push(Adam { param, grad, m, v, square_norm: norm, hyper, decays, grad_scale, lr_scale })?;
    }
    let states = all.iter().flat_map(|[_, param, m, v]| [*param, *m, *v]).collect();
    Ok(Update { program: Arc::new(b.finish()?), inputs, states, hyper, norm })
}

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0).collect()
}

#[test]
fn a_step_that_was_run_before_is_one_call() -> Result<()> {
    let (update, notes) = (update()?, Notes::default());
    let mut exec = CudaExecutor::new(notes.clone(), update.program.clone())?;
    let made = notes.take();
    let loaded: Vec<_> = made.iter().filter(|call| call.starts_with("load")).collect();
    let different: HashSet<_> = loaded.iter().collect();
    ensure!(loaded.len() > 4 && different.len() == loaded.len(), "a kernel is compiled twice: {made:?}");
    let step = 0..update.program.steps.len();
    exec.run(step.clone())?;
    // The product, squares and their sum, Adam: four launches for nine ops.
    assert_eq!(notes.take(), ["launch"; 4]);
    exec.run(step.clone())?;
    assert_eq!(notes.take(), ["record 4", "replay 0"]);
    for _ in 0..3 {
        // The upload, the step, the answer: no allocation, no waiting, nothing else from the host.
        (&mut exec as &mut dyn Executor).upload_f32(update.hyper, &[0.0; Adam::HYPER_LEN])?;
        exec.run(step.clone())?;
        (&mut exec as &mut dyn Executor).download_f32(update.norm)?;
        assert_eq!(notes.take(), ["write 28", "replay 0", "read 4"]);
    }
    // A part of a row is its ops.
    exec.run(2..3)?;
    assert_eq!(notes.take(), ["launch"; 1]);
    Ok(())
}

#[test]
fn rows_in_one_launch_are_their_ops() -> Result<()> {
    let update = update()?;
    let run = |fused: bool, hyper: [f32; Adam::HYPER_LEN], norm_is: Option<f32>| -> Result<(f32, Vec<f32>)> {
        let mut exec = Interpreter::open(Schedule::Ascending, (8, 0), update.program.clone())?;
        let exec: &mut dyn Executor = &mut exec;
        exec.upload_f32(update.hyper, &hyper)?;
        for (i, &id) in update.inputs.iter().chain(&update.states).enumerate() {
            let mut values = numbers(exec.program().tensor(id).shape.len(), i);
            if exec.program().tensor(id).name.starts_with('v') {
                values.iter_mut().for_each(|v| *v = v.abs());
            }
            if let (true, Some(x)) = (i == 4, norm_is) {
                values[5] = x;
            }
            exec.upload_f32(id, &values)?;
        }
        let step = 0..exec.program().steps.len();
        if fused {
            exec.run(step)?;
        } else {
            step.into_iter().try_for_each(|op| exec.run(op..op + 1))?;
        }
        let mut all = vec![];
        for &id in &update.states {
            all.extend(exec.download_f32(id)?);
        }
        Ok((exec.download_f32(update.norm)?[0], all))
    };
    // Without clipping the norm, whose sum has another order, changes nothing: the same bits.
    let hyper = [0.01, 0.0, 0.9, 0.999, 1e-6, 0.1, 1.0];
    let ((norm, fused), (single_norm, single)) = (run(true, hyper, None)?, run(false, hyper, None)?);
    ensure!(fused == single && (norm / single_norm - 1.0).abs() < 1e-6, "{norm} and {single_norm}");
    let clipped = [0.01, 0.5, 0.9, 0.999, 1e-6, 0.1, 1.0];
    let ((_, fused), (_, single)) = (run(true, clipped, None)?, run(false, clipped, None)?);
    let far = fused.iter().zip(&single).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    ensure!(far < 1e-6, "off by {far}");
    // A norm that is no number changes no weight.
    let (_, unchanged) = run(true, hyper, Some(f32::NAN))?;
    let start: Vec<f32> = update
        .states
        .iter()
        .enumerate()
        .flat_map(|(i, &id)| {
            let desc = update.program.tensor(id);
            let values = numbers(desc.shape.len(), i + update.inputs.len());
            if desc.name.starts_with('v') { values.into_iter().map(f32::abs).collect() } else { values }
        })
        .collect();
    ensure!(unchanged == start);
    Ok(())
}

/// The program itself on a libcuda whose card is the interpreter.
mod program {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use anyhow::{Context, Result, ensure};
    use tempfile::TempDir;

    use xlnet::backend::Device;
    use xlnet::backend::cuda::products;
    use xlnet::tensor::DType;
    use xlnet_testkit::{Support, cases};

    use super::common::{TRAIN, corpus, losses, text};

    /// A folder in which the interpreter is libcuda.
    fn driver() -> Result<TempDir> {
        let tests = std::env::current_exe()?;
        let folders = tests.ancestors().skip(1).take(2);
        let file = |folder: &Path| folder.join("libinterpreted_cuda.so");
        let library: PathBuf = folders.map(file).find(|file| file.is_file()).context("no libinterpreted_cuda.so")?;
        let dir = tempfile::tempdir()?;
        std::fs::copy(library, dir.path().join("libcuda.so"))?;
        Ok(dir)
    }
    fn xlnet(dir: &Path, driver: &Path, line: &str, env: &[(&str, &str)]) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xlnet"));
        command.current_dir(dir).env("LD_LIBRARY_PATH", driver).envs(env.iter().copied());
        Ok(command.args(line.split_whitespace()).output()?)
    }

    /// The same folder with a cuBLASLt, on the same memory: one file by two names is loaded once.
    fn driver_with_products() -> Result<TempDir> {
        let dir = driver()?;
        std::os::unix::fs::symlink(dir.path().join("libcuda.so"), dir.path().join("libcublasLt.so.12"))?;
        Ok(dir)
    }

    /// Dropout on, memories on: recorded steps on the card have the losses of the processor, whoever computes products.
    #[test]
    fn pretraining_has_the_losses_of_the_processor() -> Result<()> {
        let (driver, with_products, dir) = (driver()?, driver_with_products()?, corpus());
        let dir = dir.path();
        let line = TRAIN.replace("0.01", "0.001");
        // Products in half precision, and with heads of 64 elements attention too.
        let kinds = [
            ("f32", "f32", "", 1e-5, 1e-4),
            ("bf16", "bf16", "--use_bfloat16", 1e-3, 2e-2),
            ("bf16-tensor-cores", "bf16", "--use_bfloat16", 1e-3, 2e-2),
            ("f16-tensor-cores", "f16", "--use_float16", 2e-4, 4e-3),
            ("f16-on-7.0", "f32", "--use_float16", 2e-4, 4e-3),
        ];
        for (kind, half, extra, loss_bound, norm_bound) in kinds {
            let tensor_cores = kind.ends_with("tensor-cores");
            let line = if tensor_cores { line.replace("--d_head 8", "--d_head 64") } else { line.clone() };
            let run = |device: &str, driver: &TempDir, name: &str| -> Result<_> {
                let line = format!("{line} --device {device} --model_dir {name}-{kind} {extra}");
                let kernels = dir.join(format!("{name}-{kind}.kernels"));
                let capability = kind.rsplit_once("-on-").map_or("8.0", |(_, capability)| capability);
                let env = [
                    ("XLNET_DUMP_KERNELS", kernels.to_str().context("a path")?),
                    ("XLNET_LOG", "debug"),
                    ("INTERPRETED_CUDA_CAPABILITY", capability),
                ];
                let out = xlnet(dir, driver.path(), &line, &env)?;
                ensure!(out.status.success(), "{line}: {}", text(&out.stderr));
                Ok((losses(&dir.join(format!("{name}-{kind}"))), text(&out.stderr)))
            };
            let (cpu, _) = run("cpu", &driver, "cpu")?;
            let (ours, told) = run("cuda", &driver, "ours")?;
            ensure!(told.contains(" 0 of "), "{told}");
            let (library, told) = run("cuda", &with_products, "library")?;
            let line = told.lines().find_map(|line| line.split_once(" products by a library")?.0.rsplit_once(" of "));
            let (by_library, all) = line.context("not told who computes products")?;
            ensure!(by_library.ends_with(&format!(" {all}")) && all != "0", "{told}");
            for cuda in [ours, library] {
                ensure!(cpu.len() == 3 && cuda.len() == 3, "{cpu:?} and {cuda:?}");
                for (a, b) in cpu.iter().zip(&cuda) {
                    let far =
                        |a: Option<f64>, b: Option<f64>| a.zip(b).map_or(f64::INFINITY, |(a, b)| (a / b - 1.0).abs());
                    ensure!(far(a.1, b.1) < loss_bound && far(a.2, b.2) < norm_bound, "{kind}: {cpu:?} and {cuda:?}");
                }
            }
            let kernels: Vec<_> = std::fs::read_dir(dir.join(format!("ours-{kind}.kernels")))?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<std::io::Result<_>>()?;
            let named = |start: &str| kernels.iter().any(|name| name.starts_with(start));
            ensure!(named("matmul_volta.") == kind.ends_with("-on-7.0"), "{kind}: {kernels:?}");
            for stream in ["band", "rows"] {
                for kernel in ["", "_grad", "_grad_keys", "_grad_positions"] {
                    let (general, fast) = (
                        named(&format!("rel_attention{kernel}.f32.{stream}.")),
                        named(&format!("rel_attention_mma{kernel}.{half}.{stream}.")),
                    );
                    ensure!(fast == tensor_cores && general != fast, "{kind}: {kernel} {stream} of {kernels:?}");
                }
            }
        }
        Ok(())
    }

    /// Programs for texts of several lengths, with one copy of the weights.
    #[test]
    fn predictions_are_those_of_the_processor() -> Result<()> {
        let (driver, dir) = (driver()?, tempfile::tempdir()?);
        let dir = dir.path();
        let row = |i: usize| format!("{}\t{}it is number {i}\n", i % 2, "so and so it goes, ".repeat(i % 3 * 3));
        let rows: String = (0..9).map(row).collect();
        std::fs::write(dir.join("train.tsv"), format!("label\ttext\n{rows}"))?;
        std::fs::copy(dir.join("train.tsv"), dir.join("dev.tsv"))?;
        let sizes = r#"{"n_layer": 2, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "ff_activation": "gelu",
            "untie_r": true, "n_token": 300}"#;
        std::fs::write(dir.join("sizes.json"), sizes)?;
        for line in [
            "vocab train --input train.tsv --output spiece.model --vocab_size 300 --soft-limit",
            "finetune --task_name text --data_dir . --text_a text --label label --model_dir run --train_steps 2 \
             --train_batch_size 2 --max_seq_length 64 --spiece_model_file spiece.model --model_config_path sizes.json \
             --init_std 0.5 --do_eval=false --device cpu",
            "predict --model_dir run --data_dir . --predict_dir cpu --eval_batch_size 2 --device cpu",
            "predict --model_dir run --data_dir . --predict_dir cuda --eval_batch_size 2 --device cuda",
        ] {
            let out = xlnet(dir, driver.path(), line, &[])?;
            ensure!(out.status.success(), "{line}: {}", text(&out.stderr));
        }
        let [cpu, cuda] = ["cpu", "cuda"].map(|device| std::fs::read(dir.join(device).join("text.logits.json")));
        let [cpu, cuda]: [Vec<Vec<f64>>; 2] = [serde_json::from_slice(&cpu?)?, serde_json::from_slice(&cuda?)?];
        ensure!(cpu.len() == 9 && cuda.len() == 9, "{cpu:?} and {cuda:?}");
        for (a, b) in cpu.iter().flatten().zip(cuda.iter().flatten()) {
            ensure!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{cpu:?} and {cuda:?}");
        }
        Ok(())
    }

    /// The next batch is uploaded while a step runs. Where streams do their work as late as they may, all of them or those
    /// of kernels, nothing changes: nobody reads what is not there yet, or writes what is still needed.
    #[test]
    fn batches_uploaded_ahead_change_no_bit() -> Result<()> {
        let (driver, dir) = (driver()?, corpus());
        let row = |i: usize| format!("{}\tthe weather was {} in {}\n", i % 2, ["bad", "good"][i % 2], 1900 + i);
        let rows = format!("label\ttext_a\n{}", (0..40).map(row).collect::<String>());
        let sizes = r#"{"n_layer": 1, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "ff_activation": "gelu",
            "untie_r": true, "n_token": 200}"#;
        let files = [("text.txt", &rows.repeat(10)), ("train.tsv", &rows), ("sizes.json", &sizes.to_owned())];
        files.iter().try_for_each(|(name, content)| std::fs::write(dir.path().join(name), content))?;
        let vocabulary = "vocab train --input text.txt --output spiece.model --vocab-size 100 --soft-limit";
        ensure!(xlnet(dir.path(), driver.path(), vocabulary, &[])?.status.success());
        let finetune = "finetune --task_name csc --data_dir . --spiece_model_file spiece.model --model_config_path sizes.json \
                        --max_seq_length 16 --train_batch_size 4 --train_steps 5 --warmup_steps 1 --iterations 1 --nodo_eval";
        let pretrain = TRAIN.replace("--n_layer 2", "--n_layer 1").replace("--iterations 2", "--iterations 1");
        for (name, line) in [("finetune", finetune), ("pretrain", &pretrain)] {
            let run = |device: &str, late: &str| -> Result<_> {
                let line = format!("{line} --device {device} --model_dir {name}-{device}-{late}");
                let out = xlnet(dir.path(), driver.path(), &line, &[("INTERPRETED_CUDA_LATE", late)])?;
                ensure!(out.status.success(), "{line}: {}", text(&out.stderr));
                Ok(losses(&dir.path().join(format!("{name}-{device}-{late}"))))
            };
            let (cpu, cuda) = (run("cpu", "no")?, run("cuda", "no")?);
            let loss = |row: &(u64, Option<f64>, Option<f64>, Option<f64>)| row.1.unwrap_or(f64::NAN);
            let far = cpu.iter().zip(&cuda).map(|(a, b)| (loss(a) / loss(b) - 1.0).abs()).collect::<Vec<_>>();
            ensure!(far.len() >= 5 && far.iter().all(|far| *far < 1e-4), "{name}: {cpu:?} and {cuda:?}");
            for late in ["all", "kernels"] {
                let got = run("cuda", late)?;
                ensure!(got == cuda, "{name} with {late} late: {got:?} and {cuda:?}");
            }
        }
        Ok(())
    }

    /// Every case of products by a library. Libraries are looked for when a process starts, so the test starts itself.
    #[test]
    fn products_by_a_library() -> Result<()> {
        const NAME: &str = "program::products_by_a_library";
        if std::env::var_os("XLNET_PRODUCTS").is_none() {
            let driver = driver_with_products()?;
            let mut again = Command::new(std::env::current_exe()?);
            again.env("LD_LIBRARY_PATH", driver.path()).env("XLNET_PRODUCTS", "cublaslt");
            let out = again.args(["--exact", NAME, "--nocapture"]).output()?;
            let (told, errors) = (text(&out.stdout), text(&out.stderr));
            ensure!(out.status.success() && told.contains("1 passed"), "{told}{errors}");
            print!("{told}");
            return Ok(());
        }
        let mut cases = cases::all();
        cases.retain(|case| case.name.starts_with("matmul/"));
        let support = Support::run(&[(Device::Cuda(0).into(), DType::F32)], &cases);
        println!("{}, products by {}", support[0], products()?);
        ensure!(cases.len() > 200 && support[0].ok == cases.len(), "{}", support[0]);
        Ok(())
    }

    #[test]
    fn what_is_wrong_with_a_card_is_a_sentence() -> Result<()> {
        let (driver, dir) = (driver()?, corpus());
        let line = format!("{TRAIN} --device cuda --model_dir m");
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
        let wrong: [Case; 4] = [
            (&[("INTERPRETED_CUDA_DRIVER", "11020")], &["driver is too old", "CUDA 11.2", "11.4", "--device cpu"]),
            (&[("INTERPRETED_CUDA_CAPABILITY", "6.1")], &["compute capability 6.1", "7.0 or newer"]),
            (&[("INTERPRETED_CUDA_MEMORY", "268500000")], &["a batch of 4 sequences needs", "free on cuda:0", "fit"]),
            (&[("INTERPRETED_CUDA_CAPABILITY", "7.0")], &["compute capability 8.0", "7.0", "use float16"]),
        ];
        for (env, parts) in wrong {
            let flag = if parts[0].ends_with("8.0") { "--use_bfloat16" } else { "" };
            let out = xlnet(dir.path(), driver.path(), &format!("{line} {flag}"), env)?;
            let told = text(&out.stderr);
            ensure!(out.status.code() == Some(1) && told.trim_end().lines().count() == 1, "{env:?}: {told}");
            for part in parts {
                ensure!(told.contains(part), "{env:?}: no {part:?} in {told}");
            }
        }
        let nothing = tempfile::tempdir()?;
        let out = xlnet(dir.path(), nothing.path(), &line, &[])?;
        ensure!(text(&out.stderr).contains("needs an NVIDIA driver"), "{}", text(&out.stderr));
        let out = xlnet(dir.path(), driver.path(), "doctor", &[])?;
        let told = text(&out.stdout);
        ensure!(
            told.contains("cuda:0   PTX interpreter, compute capability 8.0") && told.contains("auto means cuda:0"),
            "{told}"
        );
        ensure!(told.contains("products by our kernels; this machine has no cuBLASLt"), "{told}");
        Ok(())
    }

    #[test]
    fn who_computes_products_is_told_and_chosen() -> Result<()> {
        let (alone, with_products, dir) = (driver()?, driver_with_products()?, tempfile::tempdir()?);
        type Case<'a> = (&'a TempDir, &'a [(&'a str, &'a str)], &'a str);
        let told: [Case; 5] = [
            (&with_products, &[], "products by cuBLASLt 12.8.5 (libcublasLt.so.12)"),
            (&with_products, &[("XLNET_PRODUCTS", "ptx")], "products by our kernels, as XLNET_PRODUCTS says"),
            // A library for a newer driver is left alone.
            (&with_products, &[("INTERPRETED_CUDA_DRIVER", "11040")], "products by our kernels; this machine has no"),
            (&alone, &[("XLNET_PRODUCTS", "cublaslt")], "but this machine has no cuBLASLt for its driver (libcublasLt"),
            (&alone, &[("XLNET_PRODUCTS", "mkl")], "expected ptx or cublaslt"),
        ];
        for (driver, env, part) in told {
            let out = xlnet(dir.path(), driver.path(), "doctor", env)?;
            ensure!(text(&out.stdout).contains(part), "{env:?}: no {part:?} in {}", text(&out.stdout));
        }
        let line = "bench --quick --steps 1 --task classify --device cuda";
        let out = xlnet(dir.path(), with_products.path(), line, &[])?;
        ensure!(text(&out.stdout).contains("matrix products by cuBLASLt 12.8.5"), "{}", text(&out.stdout));
        let out = xlnet(dir.path(), alone.path(), line, &[("XLNET_PRODUCTS", "cublaslt")])?;
        ensure!(text(&out.stdout).contains("set LD_LIBRARY_PATH"), "{}", text(&out.stdout));
        Ok(())
    }

    /// The driver's own checks stand behind the same command that users have.
    #[test]
    fn a_card_compiles_every_kernel() -> Result<()> {
        let (driver, dir) = (driver()?, tempfile::tempdir()?);
        for (capability, others) in [("8.0", "8"), ("9.0", "0"), ("12.0", "8")] {
            let card = [("INTERPRETED_CUDA_CAPABILITY", capability)];
            let out = xlnet(dir.path(), driver.path(), "kernels check --device cuda", &card)?;
            let told = text(&out.stdout);
            ensure!(
                out.status.success()
                    && told.contains(&format!("variants compile on cuda:0, {others} are for other cards")),
                "{capability}: {told} {}",
                text(&out.stderr)
            );
        }
        Ok(())
    }
}

/// Weights are rounded at the beginning of a training phase, in one launch.
#[test]
fn weights_are_rounded_in_one_launch() -> Result<()> {
    for half in [DType::Bf16, DType::F16] {
        let mut b = Builder::new(DType::F32);
        b.set_products(half);
        let weights: Vec<TensorId> =
            [1, 3, 2048, 2051, 5000].iter().enumerate().map(|(i, &n)| b.param(format!("weight {i}"), [n])).collect();
        weights.iter().for_each(|&weight| b.train(weight));
        let squares = b.output("squares", [weights.len()]);
        for (i, &weight) in weights.iter().enumerate() {
            let grad = b.grad(weight).context("a gradient")?;
            b.push(Fill { out: grad.id, value: 1.0 })?;
            let (copy, k, out) = (b.operand(weight)?, b.shape(weight).len(), b.rows(squares, i, 1)?);
            let out = Target::set(out);
            b.push(MatMul { a: copy, b: copy, bias: None, out, m: 1, n: 1, k, trans_a: false, trans_b: false })?;
        }
        let program = Arc::new(b.finish()?);
        let first: Vec<&str> = program.steps.iter().take(weights.len()).map(|step| step.op.name()).collect();
        ensure!(first.iter().all(|name| *name == "cast"), "{first:?}");
        let mut exec = Interpreter::open(Schedule::Descending, (8, 0), program.clone())?;
        let exec: &mut dyn Executor = &mut exec;
        for (i, &weight) in weights.iter().enumerate() {
            exec.upload_f32(weight, &numbers(program.tensor(weight).shape.len(), i))?;
        }
        exec.run(0..program.steps.len())?;
        let together = exec.download_f32(squares)?;
        exec.upload_f32(squares, &vec![0.0; weights.len()])?;
        (0..program.steps.len()).try_for_each(|op| exec.run(op..op + 1))?;
        let one_by_one = exec.download_f32(squares)?;
        ensure!(together == one_by_one && together.iter().all(|x| *x > 0.0), "{together:?} and {one_by_one:?}");
    }
    Ok(())
}

/// Figures that no change may make worse unseen: slices that are read and written without bank conflicts.
#[test]
fn matrix_units_meet_no_bank_twice() -> Result<()> {
    for dtype in [DType::Bf16, DType::F16] {
        for (trans_a, trans_b) in [(false, true), (false, false), (true, false), (true, true)] {
            let (m, n, k) = (128, 64, 96);
            let mut b = Builder::new(DType::F32);
            let mut half = |name: &str, shape: [usize; 2]| b.tensor(name, shape, dtype, Role::Input);
            let left = half("a", if trans_a { [k, m] } else { [m, k] });
            let right = half("b", if trans_b { [n, k] } else { [k, n] });
            let out = Target::set(b.output("out", [m, n]));
            b.push(MatMul { a: left, b: right, bias: None, out, m, n, k, trans_a, trans_b })?;
            let mut exec = Interpreter::open(Schedule::Ascending, (8, 0), Arc::new(b.finish()?))?;
            exec.run(0..1)?;
            let report = exec.driver().report();
            let products = (m * n * k / (16 * 8 * 16)) as u64;
            ensure!(report.issued_of("mma.sync") == products, "{report}");
            ensure!(report.bank_conflicts == 0, "{dtype} {trans_a} {trans_b}: {report}");
        }
    }
    Ok(())
}
