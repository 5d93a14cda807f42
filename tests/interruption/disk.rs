//! Disks that refuse. The system's limit on the size of files stands in for a full one: the write that crosses it is
//! cut short and fails, and it can be lifted while the program runs.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use crate::common::*;
use crate::program::*;

/// `xlnet` that can write no file longer than `bytes`.
fn limited(dir: &Path, bytes: u64, line: &str) -> Run {
    let mut shell = Command::new("sh");
    // Without its signal, which would end the program, the limit is an error of `write` as a full disk is.
    shell.arg("-c").arg(format!("trap '' XFSZ; exec prlimit --fsize={bytes}:unlimited \"$0\" \"$@\""));
    shell.arg(env!("CARGO_BIN_EXE_xlnet"));
    Run::spawn(shell, dir, line)
}

#[test]
fn a_full_disk_ends_with_a_sentence_and_keeps_the_last_checkpoint() {
    let dir = corpus();
    let dir = dir.path();
    for background in ["true", "false"] {
        let line = |run: &str| train(run, &[]) + " --background_save=" + background;
        let (whole, full, empty) =
            (format!("whole-{background}"), format!("full-{background}"), format!("empty-{background}"));
        succeeds(dir, &line(&whole));
        let (_, err, status) = limited(dir, 8192, &line(&empty)).finish();
        assert_eq!(status.code(), Some(1), "{err}");
        let last = err.lines().last().expect("a sentence");
        for part in ["error: the run ends at step 6, which cannot be saved", "model.safetensors", "File too large"] {
            assert!(last.contains(part), "{part}: {last}");
        }
        assert!(err.contains("step 3 is not saved") && last.contains("there is no checkpoint"), "{err}");
        assert_eq!((leftovers(&dir.join(&empty)), checkpoints(&dir.join(&empty))), (0, vec![]));

        std::fs::create_dir(dir.join(&full)).unwrap();
        let from = dir.join(&whole).join("step-3");
        assert!(Command::new("cp").arg("-r").arg(from).arg(dir.join(&full)).status().unwrap().success());
        let (_, err, status) = limited(dir, 8192, &line(&full)).finish();
        assert_eq!(status.code(), Some(1), "{err}");
        assert!(err.contains(&format!("the last good one is {full}/step-3")), "{err}");
        assert_eq!(checkpoints(&dir.join(&full)), ["step-3"]);
        assert!(succeeds(dir, &line(&full)).contains(&format!("going on from {full}/step-3 at step 3")));
        let model = |run: &str| std::fs::read(dir.join(run).join("step-6/model.safetensors")).unwrap();
        assert!(model(&whole) == model(&full));
    }
}

/// Checkpoints and logs fail for a while; then there is room, and in the end nothing is missing.
#[test]
fn a_disk_that_was_full_for_a_while() {
    let dir = corpus();
    let dir = dir.path();
    let settings = [("train_steps", "1500"), ("iterations", "1"), ("save_steps", "100"), ("max_save", "1")];
    succeeds(dir, &train("whole", &settings));
    let mut run = limited(dir, 4096, &train("full", &settings));
    let mut errors = BufReader::new(run.child.stderr.take().expect("a pipe")).lines();
    let mut warned = |part: &str| errors.any(|line| line.is_ok_and(|line| line.contains(part)));
    assert!(warned("step 100 is not saved"));
    assert!(warned("step 200 is not saved"));
    let metrics = dir.join("full/metrics.jsonl");
    let text = std::fs::read_to_string(&metrics).unwrap();
    assert!(text.len() <= 4096 && text.ends_with("}\n"), "whole lines only: {text}");
    let id = run.child.id().to_string();
    let lifted = Command::new("prlimit").args(["--pid", &id, "--fsize=unlimited:unlimited"]).status().unwrap();
    assert!(lifted.success());
    assert!(run.wait_for("saved full/step-"));
    let rest: Vec<String> = run.lines.by_ref().map_while(Result::ok).collect();
    assert!(run.child.wait().unwrap().success(), "{rest:?}");
    assert_same_run(&dir.join("whole"), &dir.join("full"), 1500);
}
