//! The program `xlnet` run by tests, on a made-up corpus.
#![allow(dead_code)] // every test binary uses its part

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs `xlnet` in `dir` with the words of `line`.
pub fn xlnet(dir: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xlnet"));
    command.current_dir(dir).env_remove("XLNET_LOG").args(line.split_whitespace());
    command.output().expect("the program starts")
}

/// Bytes that the program printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The command succeeds; what it printed.
#[track_caller]
pub fn succeeds(dir: &Path, line: &str) -> String {
    let out = xlnet(dir, line);
    assert!(out.status.success(), "{line}: {}\n{}", out.status, text(&out.stderr));
    text(&out.stdout)
}

/// The command fails with `code` and one sentence that contains every one of `parts`.
#[track_caller]
pub fn fails(dir: &Path, line: &str, code: i32, parts: &[&str]) {
    let out = xlnet(dir, line);
    let stderr = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{line}: {stderr}");
    assert!(!stderr.contains("panicked"), "{line}: {stderr}");
    assert!(stderr.starts_with("error: "), "{line}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{line}: no {part:?} in {stderr}");
    }
    if code == 1 {
        assert_eq!(stderr.trim_end().lines().count(), 1, "{line}: {stderr}");
    }
}

/// Token ids of made-up text with structure enough to be learnt: 40 documents of 20 lines.
pub fn write_ids(dir: &Path) {
    let line = |n: usize| (0..12).map(|i| (9 + (n * 7 + i * i) % 50).to_string()).collect::<Vec<_>>().join(" ");
    let document = |d: usize| (0..20).map(|n| line(d + n)).collect::<Vec<_>>().join("\n");
    let all = (0..40).map(document).collect::<Vec<_>>().join("\n\n");
    std::fs::write(dir.join("ids.txt"), all).unwrap();
}

/// Makes [`corpus`].
pub const BUILD: &str = "corpus build --input ids.txt --nofrom_raw_text --vocab_size 64 --save_dir corpus --bsz_per_host 4 \
                     --seq_len 32 --nouncased";
/// Six updates of a tiny model with dropout and memories, a checkpoint every three; lacks `--model_dir`.
pub const TRAIN: &str = "pretrain --record_info_dir corpus/tfrecords --n_layer 2 --d_model 16 --n_head 2 --d_head 8 \
                     --d_inner 32 --mem_len 16 --dropout 0.1 --dropatt 0.1 --learning_rate 0.01 --iterations 2 \
                     --train_steps 6 --save_steps 3";

/// A directory with a corpus.
pub fn corpus() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_ids(dir.path());
    succeeds(dir.path(), BUILD);
    dir
}

/// Files whose names end in `suffix`, sorted.
pub fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    found.sort();
    found
}

/// Step, loss, norm of the gradient, held-out loss.
pub type Metrics = (u64, Option<f64>, Option<f64>, Option<f64>);

/// Lines of metrics without what depends on the clock.
pub fn losses(dir: &Path) -> Vec<Metrics> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let row = |line: &str| serde_json::from_str::<xlnet::train::metrics::Row>(line).unwrap();
    text.lines().map(row).map(|row| (row.step, row.loss, row.gnorm, row.eval_loss)).collect()
}
