//! `xlnet pretrain` by several processes: the losses of one, checkpoints that any number goes on from, and deaths.

use std::path::Path;
use std::time::{Duration, Instant};

use super::program::{Metrics, files, losses, succeeds};
#[cfg(not(feature = "mpi"))]
use super::runs::start_on_full_disk;
use super::runs::{End, MPI, build, start, start_each};

const TRAIN: &str = "pretrain --record_info_dir corpus/tfrecords --n_layer 2 --d_model 16 --n_head 2 --d_head 8 \
                     --d_inner 32 --mem_len 16 --learning_rate 0.003 --warmup_steps 1 --iterations 1 --train_steps 6 \
                     --save_steps 3 --eval_record_info_dir corpus/tfrecords --eval_split train --eval_steps 2";

#[track_caller]
fn trains(dir: &Path, ranks: usize, more: &str) -> End {
    let line = format!("{TRAIN} {more}");
    let end = start(dir, ranks, &line).end();
    assert!(end.codes.iter().all(|code| *code == Some(0)), "{ranks} ranks, {line}: {:?}\n{}", end.codes, end.stderr);
    end
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Metrics are equal to `tolerance`, relative to each.
#[track_caller]
fn agree(a: &[Metrics], b: &[Metrics], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{a:?}\n{b:?}");
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.0, b.0);
        for (x, y) in [(a.1, b.1), (a.2, b.2), (a.3, b.3)] {
            let fits = match (x, y) {
                (Some(x), Some(y)) => (x - y).abs() <= tolerance * x.abs(),
                (x, y) => x.is_none() && y.is_none(),
            };
            assert!(fits, "step {}: {x:?} and {y:?}", a.0);
        }
    }
}

fn after(step: u64, rows: Vec<Metrics>) -> Vec<Metrics> {
    rows.into_iter().filter(|row| row.0 > step).collect()
}

#[test]
fn any_number_of_ranks_has_the_losses_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    build(dir, true, 2);
    let train = |name: &str, ranks: usize, more: &str| {
        let end = trains(dir, ranks, &format!("--model_dir {name} {more}"));
        // The first rank alone speaks.
        assert_eq!(end.stdout.matches("[6] | gnorm").count(), 1, "{}", end.stdout);
        let many = format!("{ranks} ranks by {}", if MPI { "MPI" } else { "TCP" });
        assert_eq!(end.stdout.contains(&many), ranks > 1, "{}", end.stdout);
        losses(&dir.join(name))
    };
    // With dropout, all draw the masks of the undivided batch, whoever works on it.
    for dropout in [0.0, 0.1] {
        let train = |name: &str, ranks: usize, accumulate: usize| {
            let more = format!("--dropout {dropout} --dropatt {dropout} --accumulate {accumulate}");
            train(&format!("{name}-{dropout}"), ranks, &more)
        };
        let one = train("one", 1, 1);
        assert!(one.iter().filter(|row| row.3.is_some()).count() == 2, "held-out loss is measured: {one:?}");
        for (name, ranks, accumulate) in [("parts", 1, 4), ("two", 2, 1), ("two-by-two", 2, 2), ("four", 4, 1)] {
            let many = train(name, ranks, accumulate);
            agree(&one[..1], &many[..1], 2e-6);
            agree(&one, &many, 2e-4);
        }
    }
}

#[test]
fn another_number_of_ranks_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    build(dir, true, 1);
    let dropout = "--dropout 0.1 --dropatt 0.1";
    trains(dir, 1, &format!("--model_dir one {dropout}"));
    trains(dir, 4, &format!("--model_dir four {dropout}"));
    // The same number repeats the bits of a run that never stopped.
    copy(&dir.join("four/step-3"), &dir.join("again/step-3"));
    let end = trains(dir, 4, &format!("--model_dir again {dropout}"));
    assert!(end.stdout.contains("going on from again/step-3 at step 3"), "{}", end.stdout);
    assert_eq!(after(3, losses(&dir.join("four"))), after(3, losses(&dir.join("again"))));
    for file in ["model.safetensors", "optimizer.safetensors", "memory.safetensors"] {
        let [a, b] = ["four", "again"].map(|run| std::fs::read(dir.join(run).join("step-6").join(file)).unwrap());
        assert!(a == b, "{file} differs");
    }
    // 4 -> 2 -> 1, in one directory, and from one to four: the same data, memories and masks, other rounding.
    let stages = [(4, 1, 2), (2, 2, 4), (1, 4, 6)];
    for (ranks, accumulate, until) in stages {
        // A run is stopped at a step by what is left of it: its schedule stays that of six.
        let more = format!("--model_dir fewer {dropout} --accumulate {accumulate} --save_steps 2");
        trains(dir, ranks, &more);
        for later in files(&dir.join("fewer"), "").into_iter().filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.strip_prefix("step-").and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > until)
        }) {
            std::fs::remove_dir_all(later).unwrap();
        }
    }
    copy(&dir.join("one/step-3"), &dir.join("more/step-3"));
    trains(dir, 4, &format!("--model_dir more {dropout}"));
    let one = losses(&dir.join("one"));
    agree(&after(3, one.clone()), &after(3, losses(&dir.join("more"))), 2e-4);
    let scalars = |rows: Vec<Metrics>| -> Vec<Metrics> { rows.into_iter().filter(|row| row.1.is_some()).collect() };
    agree(&scalars(one), &scalars(losses(&dir.join("fewer"))), 2e-4);
}

#[test]
fn a_dead_rank_ends_the_run_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    build(dir, true, 1);
    let line = format!("{TRAIN} --model_dir m").replace("--train_steps 6", "--train_steps 1000000");
    let mut run = start(dir, 4, &line);
    run.wait_for(&dir.join("m/step-6"));
    run.signal(2, "-KILL");
    let began = Instant::now();
    let end = run.end();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(end.codes.iter().all(|code| *code != Some(0)), "{:?}", end.codes);
    if MPI {
        assert!(end.stderr.contains("rank 2 "), "{}", end.stderr);
    } else {
        let sentence = |rank| format!("error: rank {rank}: rank 2 (process ");
        for rank in [0, 1, 3] {
            assert!(end.stderr.contains(&sentence(rank)), "rank {rank}: {}", end.stderr);
        }
        assert_eq!(end.stderr.matches("has ended without a word").count(), 3, "{}", end.stderr);
    }
    // The last checkpoint is a good one: two ranks go on from it.
    let newest = files(&dir.join("m"), "")
        .iter()
        .filter_map(|path| path.to_str()?.rsplit("step-").next()?.parse::<u64>().ok())
        .max();
    let steps = newest.expect("a checkpoint") + 2;
    let line = line.replace("1000000", &steps.to_string());
    let end = start(dir, 2, &line).end();
    assert!(end.codes.iter().all(|code| *code == Some(0)), "{}", end.stderr);
    assert!(end.stdout.contains(&format!("at step {}", steps - 2)), "{}", end.stdout);
    assert!(dir.join(format!("m/step-{steps}")).is_dir());
}

/// What only rank 0 notices ends all of them. Not under MPI, whose shared memory would hit the limit too.
#[cfg(not(feature = "mpi"))]
#[test]
fn a_full_disk_of_the_first_rank_ends_all() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    build(dir, true, 1);
    let end = start_on_full_disk(dir, 2, 8192, &format!("{TRAIN} --model_dir m")).end();
    assert!(end.codes.iter().all(|code| *code != Some(0)), "{:?}\n{}", end.codes, end.stderr);
    for part in ["step 3 is not saved", "error: rank 0: the run ends at step 6, which cannot be saved"] {
        assert!(end.stderr.contains(part), "{part}: {}", end.stderr);
    }
    let told = end.stderr.lines().find(|line| line.starts_with("error: rank 1: rank 0 (process "));
    assert!(told.is_some_and(|line| line.contains("failed: the run ends at step 6")), "{}", end.stderr);
    trains(dir, 2, "--model_dir m");
    assert!(dir.join("m/step-6/state.json").is_file());
}

/// A signal to any rank stops all of them at the same step, saved.
#[test]
fn a_signal_to_one_rank_saves_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    build(dir, true, 1);
    let line = format!("{TRAIN} --model_dir m").replace("--train_steps 6", "--train_steps 1000000");
    let mut run = start(dir, 2, &line);
    run.wait_for(&dir.join("m/step-3"));
    run.signal(1, "-INT");
    let end = run.end();
    assert!(end.codes.iter().all(|code| *code == Some(130)), "{:?}\n{}", end.codes, end.stderr);
    let at = end.stdout.lines().find_map(|line| line.strip_prefix("stopped; the same command goes on from "));
    assert!(dir.join(at.expect("where it goes on")).join("state.json").is_file(), "{}", end.stdout);
}

#[test]
fn what_does_not_fit_is_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    build(dir, true, 1);
    let fails = |ranks: usize, line: &dyn Fn(usize) -> String, part: &str| {
        let end = start_each(dir, ranks, line).end();
        assert!(end.codes.iter().all(|code| *code != Some(0)), "{:?}", end.codes);
        assert!(end.stderr.contains(part), "{part}: {}", end.stderr);
        assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
    };
    let train = |more: &str| format!("{TRAIN} --model_dir m {more}");
    fails(3, &|_| train(""), "3 ranks cannot share a batch of 8 sequences equally; start a number of 1, 2, 4, 8");
    fails(
        4,
        &|_| train("--accumulate 4"),
        "accumulate must divide the batch of 2 sequences of a rank (1, 2), but is 4",
    );
    fails(2, &|_| train("--resume absent"), "absent");
    if !MPI {
        let other = |rank| train(if rank == 1 { "--learning_rate 0.5" } else { "" });
        fails(2, &other, "rank 0 has learning_rate = 0.003, but rank 1 has learning_rate = 0.5");
    }
    assert!(!dir.join("m/step-3").exists());
    // Without the feature, ranks of mpirun are told what to do.
    if !MPI {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xlnet"));
        command.current_dir(dir).envs([("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")]);
        let out = command.args(train("").split_whitespace()).output().unwrap();
        let sentence = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && sentence.contains("built without MPI"), "{sentence}");
    }
    let told = succeeds(dir, "doctor");
    assert!(told.contains("mpi        ") && told.contains("not built in") != MPI, "{told}");
}
