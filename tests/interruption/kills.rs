//! A run killed fifty times.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::common::*;
use crate::program::*;

const KILLS: u32 = 50;
const STEPS: u64 = 1200;

/// Kills at moments drawn at random: in the start, while it trains, evaluates, saves. Each life makes a few updates
/// more; what the run leaves at its end must be what a run leaves that was never stopped.
#[test]
fn fifty_kills_change_nothing() {
    let dir = corpus();
    let dir = dir.path();
    succeeds(dir, &BUILD.replace("corpus build", "corpus build --split dev"));
    let steps = STEPS.to_string();
    let settings = [
        ("train_steps", steps.as_str()),
        ("save_steps", "5"),
        ("max_save", "2"),
        ("iterations", "2"),
        ("eval_record_info_dir", "corpus/tfrecords"),
        ("eval_steps", "1"),
        ("eval_every_steps", "7"),
    ];
    let began = Instant::now();
    succeeds(dir, &train("whole", &settings));
    let a_step = began.elapsed() / STEPS as u32;

    let killed = dir.join("killed");
    let line = train("killed", &settings);
    let mut rng = ChaCha8Rng::seed_from_u64(50);
    let mut random = |below: u32| (rng.next_u64() % u64::from(below)) as u32;
    let (mut during_start, mut during_save) = (0, 0);
    for kill in 1..=KILLS {
        let mut run = Run::start(dir, &line);
        let saves = random(4);
        let alive = (0..saves).all(|_| run.wait_for("saved "));
        assert!(alive, "life {kill} ended by itself: {:?}", run.finish());
        // Up to the length of a start, or of two saves.
        let longest = if saves == 0 { Duration::from_millis(120) } else { 10 * a_step };
        std::thread::sleep(longest * random(1000) / 1000);
        run.child.kill().expect("SIGKILL");
        let (out, err, status) = run.finish();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "life {kill}: {out:?} {err}");
        assert!(err.is_empty(), "life {kill} complains: {err}");
        during_start += u32::from(saves == 0);
        during_save += u32::from(leftovers(&killed) > 0);
    }
    let (out, err, status) = Run::start(dir, &line).finish();
    assert!(status.success() && err.is_empty(), "{out:?} {err}");
    let last_life = out.iter().find(|line| line.starts_with("going on from ")).expect("a checkpoint to go on from");
    println!("{KILLS} kills, {during_start} near the start, {during_save} left a file half-written; then {last_life}");
    assert!(during_save > 0, "no kill met a save");
    assert_same_run(&dir.join("whole"), &killed, STEPS);
    assert_eq!(leftovers(&killed), 0);
}
