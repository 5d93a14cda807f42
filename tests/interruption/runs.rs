//! Signals, damaged checkpoints, two runs in one directory, evaluation and saves beside the training.

use std::process::Command;

use crate::common::*;
use crate::program::*;

#[test]
fn a_run_stopped_by_a_signal_goes_on_as_if_it_had_not_been() {
    let dir = corpus();
    let dir = dir.path();
    let settings = [("train_steps", "600"), ("save_steps", "1000"), ("iterations", "7")];
    succeeds(dir, &train("whole", &settings));
    for signal in ["INT", "TERM", "TERM"] {
        let mut run = Run::start(dir, &train("stopped", &settings));
        assert!(run.wait_for("gnorm"));
        run.signal(signal);
        let (out, err, status) = run.finish();
        assert_eq!(status.code(), Some(130), "{out:?} {err}");
        assert!(out.last().is_some_and(|line| line.starts_with("stopped; ")), "{out:?}");
    }
    succeeds(dir, &train("stopped", &settings));
    assert_same_run(&dir.join("whole"), &dir.join("stopped"), 600);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_aloud() {
    let dir = corpus();
    let dir = dir.path();
    succeeds(dir, &train("whole", &[("save_steps", "2")]));
    assert!(Command::new("cp").args(["-r", "whole", "damaged"]).current_dir(dir).status().unwrap().success());
    let path = dir.join("damaged/step-6/optimizer.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::remove_dir_all(dir.join("damaged/step-4/state.json")).ok();
    std::fs::write(dir.join("damaged/step-4/state.json"), "").unwrap();
    let (out, err, status) = Run::start(dir, &train("damaged", &[("save_steps", "2")])).finish();
    assert!(status.success(), "{err}");
    for part in ["damaged/step-6", "optimizer.safetensors", "damaged/step-4", "trying the one before"] {
        assert!(err.contains(part), "{part}: {err}");
    }
    assert!(out.iter().any(|line| line == "going on from damaged/step-2 at step 2"), "{out:?}");
    assert_same_run(&dir.join("whole"), &dir.join("damaged"), 6);
}

#[test]
fn one_run_at_a_time_in_a_directory() {
    let dir = corpus();
    let dir = dir.path();
    let long = [("train_steps", "1000000"), ("save_steps", "1000000")];
    let mut run = Run::start(dir, &(train("m", &long) + " --log_dir logs"));
    assert!(run.wait_for("gnorm"));
    let process = format!("process {}", run.child.id());
    fails(dir, &train("m", &[]), 1, &["m: ", &process, "is training here"]);
    fails(dir, &(train("other", &[]) + " --log_dir logs"), 1, &["logs: ", &process]);
    run.child.kill().unwrap();
    run.finish();
    succeeds(dir, &train("m", &[])); // the lock died with it
}

/// Held-out loss has memories, random streams and a place in the data of its own.
#[test]
fn evaluation_leaves_the_training_alone() {
    let dir = corpus();
    let dir = dir.path();
    succeeds(dir, &BUILD.replace("corpus build", "corpus build --split dev"));
    let settings = [("train_steps", "12"), ("iterations", "1")];
    succeeds(dir, &train("without", &settings));
    let evaluated = [("eval_record_info_dir", "corpus/tfrecords"), ("eval_every_steps", "1"), ("eval_steps", "3")];
    succeeds(dir, &train("with", &[&settings[..], &evaluated].concat()));
    let with = losses(&dir.join("with"));
    let (measured, trained): (Vec<_>, Vec<_>) = with.into_iter().partition(|row| row.3.is_some());
    assert_eq!(trained, losses(&dir.join("without")));
    assert_eq!(measured.iter().map(|row| row.0).collect::<Vec<_>>(), (1..=12).collect::<Vec<u64>>());
    assert!(measured.windows(2).all(|pair| pair[0].3 != pair[1].3), "{measured:?}");
    for file in ["model.safetensors", "optimizer.safetensors", "memory.safetensors"] {
        let [a, b] = ["with", "without"].map(|run| std::fs::read(dir.join(run).join("step-12").join(file)).unwrap());
        assert!(a == b, "{file} differs");
    }
}

#[test]
fn saves_by_the_clock() {
    let dir = corpus();
    let dir = dir.path();
    let settings = [("train_steps", "1000000"), ("save_steps", "1000000"), ("save_minutes", "0.003")];
    let mut run = Run::start(dir, &train("m", &settings));
    assert!((0..3).all(|_| run.wait_for("saved m/step-")));
    run.signal("INT");
    let (_, err, status) = run.finish();
    assert_eq!((status.code(), err.as_str()), (Some(130), ""));
}

/// Update 41 ruins the weights; the loss of step 42 tells. The checkpoint of step 41, whose own loss was usual, must not
/// come to be.
#[test]
fn a_loss_that_jumps_stops_the_run_and_keeps_what_was_good() {
    let dir = corpus();
    let dir = dir.path();
    succeeds(dir, &train("m", &[("train_steps", "40"), ("save_steps", "20")]));
    let ruin = [("train_steps", "400"), ("save_steps", "1"), ("learning_rate", "5"), ("loss_spike_steps", "5")];
    let (out, err, status) = Run::start(dir, &train("m", &ruin)).finish();
    assert_eq!(status.code(), Some(1), "{out:?} {err}");
    let parts = [
        "step 42 has loss",
        "error: the loss jumped at step 42 from 4.0",
        "at step 46, so training stops",
        "the last good checkpoint is m/step-40;",
    ];
    for part in parts {
        assert!(err.contains(part), "{part}: {err}");
    }
    assert_eq!(checkpoints(&dir.join("m")), ["step-20", "step-40"]);
    // Weights that became no numbers without a loss that says so are not saved either.
    let (_, err, status) = Run::start(dir, &train("n", &[("learning_rate", "1e38"), ("save_steps", "1")])).finish();
    assert_eq!(status.code(), Some(1), "{err}");
    assert!(err.contains("so training stops; there is no checkpoint yet"), "{err}");
    assert_eq!(checkpoints(&dir.join("n")), Vec::<String>::new());
}

/// Spikes that end, which a low threshold sees in any noise, change nothing but the time of saves.
#[test]
fn the_guard_leaves_the_training_alone() {
    let dir = corpus();
    let dir = dir.path();
    let settings = [("train_steps", "120"), ("save_steps", "10")];
    succeeds(dir, &train("without", &[&settings[..], &[("loss_spike", "0")]].concat()));
    let guarded = train("with", &[&settings[..], &[("loss_spike", "0.1")]].concat());
    let (_, err, status) = Run::start(dir, &guarded).finish();
    assert!(status.success() && err.contains("checkpoints wait") && err.contains("usual again"), "{err}");
    assert_same_run(&dir.join("without"), &dir.join("with"), 120);
}
