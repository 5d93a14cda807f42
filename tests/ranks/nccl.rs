//! Gradients added up on cards: the interpreter as CUDA's driver and as NCCL, in every rank.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::program::{Metrics, losses};
use super::runs::{End, build, start_as};

const TRAIN: &str = "pretrain --record_info_dir corpus/tfrecords --n_layer 1 --d_model 16 --n_head 2 --d_head 8 \
                     --d_inner 32 --mem_len 16 --learning_rate 0.003 --warmup_steps 1 --iterations 1 --train_steps 4 \
                     --save_steps 2 --dropout 0.1 --dropatt 0.1 --clip 0.5";

/// A folder in which the interpreter is libcuda and cuBLASLt, which is faster, and libnccl where asked for: one file by several
/// names is loaded once.
fn libraries(with_nccl: bool) -> TempDir {
    let tests = std::env::current_exe().unwrap();
    let file = |folder: &Path| folder.join("libinterpreted_cuda.so");
    let library: PathBuf = tests.ancestors().skip(1).take(2).map(file).find(|file| file.is_file()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(library, dir.path().join("libcuda.so")).unwrap();
    let others = ["libcublasLt.so.12", "libnccl.so.2"];
    for name in others.into_iter().take(if with_nccl { 2 } else { 1 }) {
        symlink(dir.path().join("libcuda.so"), dir.path().join(name)).unwrap();
    }
    dir
}

/// `env` of each rank.
fn run(
    dir: &Path,
    libraries: &TempDir,
    ranks: usize,
    line: &str,
    env: &dyn Fn(usize) -> Vec<(&'static str, &'static str)>,
) -> End {
    let program = |rank| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xlnet"));
        command.env("LD_LIBRARY_PATH", libraries.path()).envs(env(rank));
        command
    };
    start_as(dir, ranks, |_| line.to_owned(), program).end()
}

#[track_caller]
fn agree(a: &[Metrics], b: &[Metrics], tolerance: f64) {
    assert_eq!((a.len(), b.len()), (4, 4), "{a:?}\n{b:?}");
    for (a, b) in a.iter().zip(b) {
        let far = |x: Option<f64>, y: Option<f64>| x.zip(y).map_or(f64::INFINITY, |(x, y)| (x / y - 1.0).abs());
        assert!(far(a.1, b.1) < tolerance && far(a.2, b.2) < tolerance, "{a:?}\n{b:?}");
    }
}

#[test]
fn cards_add_up_the_big_batch() {
    let (dir, libraries) = (tempfile::tempdir().unwrap(), libraries(true));
    let dir = dir.path();
    build(dir, true, 1);
    let train = |name: &str, ranks: usize, more: &str, told: &str| {
        let line = format!("{TRAIN} --device cuda --model_dir {name} {more}");
        let end = run(dir, &libraries, ranks, &line, &|_| vec![("INTERPRETED_CUDA_LATE", "all")]);
        assert!(end.codes.iter().all(|code| *code == Some(0)), "{line}: {}", end.stderr);
        assert!(end.stdout.contains(told), "{}", end.stdout);
        losses(&dir.join(name))
    };
    let one = train("one", 1, "", "parameters");
    let cards = train("cards", 2, "", "2 ranks by TCP, gradients added up by NCCL 2.20.5");
    let host = train("host", 2, "--reduce host", "2 ranks by TCP, gradients added up in host memory");
    agree(&one, &cards, 2e-4);
    agree(&host, &cards, 2e-5);
    // The clip is at work, and it is that of the whole gradient; the same run has the same bits.
    assert!(cards.iter().all(|row| row.2.is_some_and(|norm| norm > 0.5)), "{cards:?}");
    assert_eq!(cards, train("again", 2, "--reduce nccl", "by NCCL"));
    let weights = |name: &str| std::fs::read(dir.join(name).join("step-4/model.safetensors")).unwrap();
    assert!(weights("cards") == weights("again"));
}

/// It dies in a sum, for which the other would wait for ever.
#[test]
fn a_rank_that_dies_in_a_sum_is_named() {
    let (dir, libraries) = (tempfile::tempdir().unwrap(), libraries(true));
    build(dir.path(), true, 1);
    for dead in [0, 1] {
        let env = |rank| if rank == dead { vec![("INTERPRETED_NCCL_DIES", "3")] } else { vec![] };
        let began = Instant::now();
        let line = format!("{TRAIN} --device cuda --model_dir dies-{dead}");
        let end = run(dir.path(), &libraries, 2, &line, &env);
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        assert!(end.codes.iter().all(|code| *code != Some(0)), "{:?}", end.codes);
        let sentence = format!("error: rank {}: rank {dead} (process ", 1 - dead);
        assert!(end.stderr.contains(&sentence), "{}", end.stderr);
        assert!(end.stderr.contains("has ended without a word"), "{}", end.stderr);
    }
}

#[test]
fn where_nccl_cannot_be_had() {
    let (dir, with, without) = (tempfile::tempdir().unwrap(), libraries(true), libraries(false));
    let dir = dir.path();
    build(dir, true, 1);
    let line = |more: &str| {
        format!("{TRAIN} --model_dir m {more}").replace("--train_steps 4 --save_steps 2", "--train_steps 2")
    };
    let fails = |libraries: &TempDir, device: &str, env: &[(&'static str, &'static str)], part: &str| {
        let end = run(dir, libraries, 2, &line(&format!("--reduce nccl --device {device}")), &|_| env.to_vec());
        assert!(end.codes.iter().all(|code| *code != Some(0)), "{:?}", end.codes);
        assert!(end.stderr.contains("reduce is nccl, but ") && end.stderr.contains(part), "{part}: {}", end.stderr);
    };
    fails(&without, "cuda", &[], "rank 0 has none: there is no NCCL (libnccl.so.2); install it");
    fails(&with, "cuda", &[("INTERPRETED_NCCL_VERSION", "21205")], "is NCCL 2.12.5, which is too old");
    fails(&with, "cuda", &[("INTERPRETED_CUDA_CARD", "7")], "ranks 0 and 1 are on the same card");
    fails(&with, "cpu", &[], "the device of rank 0 is no NVIDIA card");
    // Left alone, the ranks take the other way, and say why.
    let end = run(dir, &without, 2, &line("--device cuda"), &|_| vec![]);
    assert!(end.codes.iter().all(|code| *code == Some(0)), "{}", end.stderr);
    let told = "gradients added up in host memory, since rank 0 has none: there is no NCCL";
    assert!(end.stdout.contains(told), "{}", end.stdout);
}
