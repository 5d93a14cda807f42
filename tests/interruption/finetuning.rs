//! Fine-tuning that is killed, runs into a full disk, or goes wrong.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tempfile::TempDir;
use xlnet::model::tensor_file::TensorFile;

use crate::common::*;
use crate::program::*;

const STEPS: u64 = 150;

/// A vocabulary, sizes of a model, and examples of two classes.
fn place() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| {
        let word = ["bad", "good", "awful", "nice"][i % 4];
        format!("{}\tthe weather was {word} in {} and anna has {} books\n", i % 2, 1900 + i, i % 7)
    };
    let rows = format!("label\ttext_a\n{}", (0..40).map(row).collect::<String>());
    fs::write(dir.path().join("text.txt"), (0..400).map(row).collect::<String>()).unwrap();
    fs::write(dir.path().join("train.tsv"), &rows).unwrap();
    fs::write(dir.path().join("dev.tsv"), &rows).unwrap();
    let line = "vocab train --input text.txt --output spiece.model --vocab-size 150 --soft-limit";
    succeeds(dir.path(), line);
    let sizes = r#"{"n_layer": 2, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "ff_activation": "gelu",
        "untie_r": true, "n_token": 200}"#;
    fs::write(dir.path().join("sizes.json"), sizes).unwrap();
    dir
}

fn finetune(model_dir: &str, settings: &[(&str, &str)]) -> String {
    let mut line = format!(
        "finetune --task_name csc --data_dir . --spiece_model_file spiece.model --model_config_path sizes.json \
         --max_seq_length 32 --train_batch_size 4 --train_steps {STEPS} --warmup_steps 5 --save_steps 5 --iterations 2 \
         --learning_rate 0.003 --max_save 2 --model_dir {model_dir}"
    );
    for (key, value) in settings {
        line += &format!(" --{key}={value}");
    }
    line
}

/// The same metrics and events, last checkpoint and best model.
#[track_caller]
fn assert_same_runs(a: &Path, b: &Path, steps: u64) {
    assert_same_run(a, b, steps);
    for file in ["model.safetensors", "config.json", "xlnet_task.json", "spiece.model"] {
        let [a, b] = [a, b].map(|run| fs::read(run.join("best").join(file)).expect("the best model"));
        assert!(a == b, "best/{file} differs");
    }
}

#[test]
fn kills_change_nothing() {
    let dir = place();
    let dir = dir.path();
    let began = Instant::now();
    succeeds(dir, &finetune("whole", &[]));
    let length = began.elapsed();
    // A checkpoint holds what the best model holds: all that the classes of transformers have.
    let names = |folder: &str| {
        let file = TensorFile::open(&dir.join("whole").join(folder).join("model.safetensors")).expect("a model");
        let mut names = file.names();
        names.sort();
        names
    };
    assert_eq!(names("best"), names(&format!("step-{STEPS}")));
    assert!(names("best").contains(&"transformer.mask_emb".to_owned()));
    let line = finetune("killed", &[]);
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let mut random = |below: u32| (rng.next_u64() % u64::from(below)) as u32;
    for kill in 1..=12 {
        let mut run = Run::start(dir, &line);
        let alive = (0..random(5)).all(|_| run.wait_for("saved "));
        assert!(alive, "life {kill} ended by itself: {:?}", run.finish());
        std::thread::sleep(length.min(Duration::from_secs(5)) / 60 * random(1000) / 1000);
        run.child.kill().expect("SIGKILL");
        let (out, err, status) = run.finish();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "life {kill}: {out:?} {err}");
    }
    let out = succeeds(dir, &line);
    assert!(out.contains("going on at step "), "{out}");
    assert_same_runs(&dir.join("whole"), &dir.join("killed"), STEPS);
    assert_eq!(leftovers(&dir.join("killed")), 0);
    // Nothing is left to do, and nothing changes.
    succeeds(dir, &line);
    assert_same_runs(&dir.join("whole"), &dir.join("killed"), STEPS);
}

#[test]
fn a_full_disk_ends_with_a_sentence_and_the_run_goes_on() {
    let dir = place();
    let dir = dir.path();
    // A model larger than its vocabulary.
    let sizes = fs::read_to_string(dir.join("sizes.json")).unwrap();
    let sizes = sizes.replace("\"d_model\": 16", "\"d_model\": 64").replace("\"d_head\": 8", "\"d_head\": 32");
    fs::write(dir.join("sizes.json"), sizes.replace("\"d_inner\": 32", "\"d_inner\": 256")).unwrap();
    // Room for the best model and not for the moments; for neither.
    for (background, room) in [("true", 500), ("false", 500), ("true", -500)] {
        let (whole, full) = (format!("whole-{background}{room}"), format!("full-{background}{room}"));
        let settings = [("background_save", background), ("do_eval", "false"), ("train_steps", "40")];
        let line = |run: &str| finetune(run, &settings);
        succeeds(dir, &line(&whole));
        let mut run = Run::start(dir, &line(&full));
        assert!(run.wait_for(&format!("saved {full}/step-10")));
        run.signal("INT");
        run.finish();
        let kept = checkpoints(&dir.join(&full));
        let file = dir.join(&full).join(&kept[0]).join("model.safetensors");
        let most = fs::metadata(file).unwrap().len().strict_add_signed(room);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("trap '' XFSZ; exec prlimit --fsize={most}:unlimited \"$0\" \"$@\""));
        shell.arg(env!("CARGO_BIN_EXE_xlnet"));
        let (out, err, status) = Run::spawn(shell, dir, &line(&full)).finish();
        assert_eq!(status.code(), Some(1), "{out:?} {err}");
        for part in [" is not saved: ", "the run ends at step 40, which cannot be saved", "the last good one is full-"]
        {
            assert!(err.contains(part), "{part}: {err}");
        }
        assert_eq!(checkpoints(&dir.join(&full)), kept);
        succeeds(dir, &line(&full));
        assert_same_runs(&dir.join(&whole), &dir.join(&full), 40);
    }
}

#[test]
fn one_run_at_a_time_and_a_loss_that_is_no_number() {
    let dir = place();
    let dir = dir.path();
    let mut run = Run::start(dir, &finetune("m", &[("train_steps", "1000000")]));
    assert!(run.wait_for("saved m/step-10"));
    fails(dir, &finetune("m", &[]), 1, &["m: ", &format!("process {}", run.child.id()), "is training here"]);
    run.signal("INT");
    let (out, _, status) = run.finish();
    assert_eq!(status.code(), Some(130), "{out:?}");
    let hot = [("learning_rate", "1e30"), ("clip", "0"), ("loss_spike", "0")];
    fails(dir, &finetune("hot", &hot), 1, &["so training stops; ", "checkpoint", "lower learning_rate"]);
    let spike = [
        ("learning_rate", "30"),
        ("clip", "0"),
        ("loss_spike_steps", "5"),
        ("warmup_steps", "100"),
        ("loss_spike", "1"),
    ];
    let stopped = xlnet(dir, &finetune("spike", &spike));
    assert!(!stopped.status.success());
    assert!(text(&stopped.stderr).contains("so training stops"), "{}", text(&stopped.stderr));
}
