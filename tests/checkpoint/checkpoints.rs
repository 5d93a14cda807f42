//! Checkpoints: round trips, pruning, failures, damage.

use super::common::*;
use std::fs;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use xlnet::config::XlnetConfig;
use xlnet::model::hugging_face::*;
use xlnet::tensor::DType;
use xlnet::train::checkpoint::{Checkpoint, ModelDescription, latest, load_checkpoint, save_checkpoint};
use xlnet::train::guard::LossGuard;
use xlnet::train::load::{LoadOptions, load_into};
use xlnet::train::state::TrainState;
use xlnet::train::step::Objective;

fn description(config: XlnetConfig) -> ModelDescription {
    ModelDescription { config, settings: settings(Architecture::LanguageModel) }
}
fn state(step: u64) -> TrainState {
    TrainState {
        step,
        data: serde_json::json!({"record": 12}),
        seed: 99,
        loss_window: vec![2.5, 1.0 / 3.0],
        loss_scale: serde_json::from_str(r#"{"scale": 512.0, "good_steps": 7}"#).unwrap(),
        vocabulary: Some("00".into()),
        guard: LossGuard::default(),
        settings: serde_json::json!({"learning_rate": 0.001}),
    }
}
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).expect("entries").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn checkpoints_round_trip_bit_for_bit() {
    for (untie_r, float) in [(true, DType::F32), (false, DType::F32), (false, DType::F64)] {
        let dir = tempfile::tempdir().expect("a directory");
        let config = tiny(untie_r);
        let step = build_as(&config, Objective::LanguageModel, true, float);
        assert!(!step.memory.is_empty() && step.update.is_some());
        let mut exec = Store::random(&step, 10);
        let path = save_checkpoint(dir.path(), &step, &mut exec, &description(config.clone()), &state(7), 2);
        let path = path.expect("saved");
        assert_eq!(names(dir.path()), ["step-7"]);
        assert_eq!(names(&path).len(), 6);

        let mut other = Store::new(&step);
        assert_eq!(load_checkpoint(&path, &step, &mut other).expect("loaded"), state(7));
        assert_eq!(other.bytes, exec.bytes);
        // Also a model directory.
        let model = read_model(&path).expect("a model");
        assert_eq!(model.config, config);
        load_into(&mut Store::new(&step), &step, &model.weights, &LoadOptions::default()).expect("loaded");
        // And loadable without optimiser.
        let forward = build_as(&config, Objective::LanguageModel, false, float);
        let mut evaluation = Store::new(&forward);
        Checkpoint::open(&path).and_then(|c| c.load(&forward, &mut evaluation)).expect("no optimiser wanted");
        assert_eq!(evaluation.bytes.len(), forward.params.len() + forward.memory.len());
    }
}

#[test]
fn older_checkpoints_are_pruned() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = tiny(true);
    let step = build(&config, Objective::LanguageModel, true);
    let mut exec = Store::random(&step, 11);
    let description = description(config);
    let mut save = |n: u64, keep: usize| {
        save_checkpoint(dir.path(), &step, &mut exec, &description, &state(n), keep).expect("saved");
        names(dir.path())
    };
    assert_eq!(save(9, 0), ["step-9"]);
    assert_eq!(save(10, 0), ["step-10", "step-9"]);
    assert_eq!(save(100, 2), ["step-10", "step-100"]); // by number, not by name
    assert_eq!(save(20, 1), ["step-100", "step-20"]); // the one just written stays, and so do later ones
    fs::create_dir(dir.path().join("step-notes")).expect("a directory");
    fs::create_dir(dir.path().join(".tmp-step-killed")).expect("a directory");
    fs::write(dir.path().join(".tmp-step-killed/model.safetensors"), "half").expect("written");
    assert_eq!(save(20, 1), ["step-100", "step-20", "step-notes"]); // same step again; rubbish is gone
    fs::create_dir(dir.path().join(".tmp-step-killed")).expect("a directory");
    fs::rename(dir.path().join("step-100"), dir.path().join(".tmp-step-killed/step-100")).expect("renamed");
    assert_eq!(save(20, 1), ["step-100", "step-20", "step-notes"]); // cut short while it was replaced
    assert_eq!(latest(dir.path()).expect("readable").expect("a checkpoint").state().step, 100);
}

#[test]
fn a_failed_save_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = tiny(true);
    let step = build(&config, Objective::LanguageModel, true);
    let description = description(config);
    let mut exec = Store::random(&step, 12);
    save_checkpoint(dir.path(), &step, &mut exec, &description, &state(5), 1).expect("saved");
    for reads in [0, 1, step.params.len() + 3] {
        exec.reads_left = reads;
        for n in [5, 6] {
            let error = message(save_checkpoint(dir.path(), &step, &mut exec, &description, &state(n), 1));
            assert_eq!(error, "the device is gone");
            assert_eq!(names(dir.path()), ["step-5"]);
        }
    }
    exec.reads_left = usize::MAX;
    assert_eq!(load_checkpoint(&dir.path().join("step-5"), &step, &mut exec).expect("loaded"), state(5));
    fs::write(dir.path().join("step-6"), "mine").expect("written");
    let error = message(save_checkpoint(dir.path(), &step, &mut exec, &description, &state(6), 1));
    assert!(error.contains("step-6") && error.contains("move it away"), "{error}");
    assert_eq!(names(dir.path()), ["step-5", "step-6"]);
    let error = message(save_checkpoint(&dir.path().join("step-6"), &step, &mut exec, &description, &state(6), 1));
    assert!(error.contains("cannot create"), "{error}");
}

/// One of seven kinds of damage, drawn at random; `other` is a whole file of the same directory.
fn damaged(whole: &[u8], other: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let mut random = |below: usize| rng.next_u64() as usize % below;
    let at = random(whole.len());
    match random(7) {
        0 => bytes.truncate(at),
        1 | 2 => bytes[at] ^= 1 << random(8),
        3 => bytes.extend_from_slice(&whole[..at]),
        4 => {
            let end = (at + 1 + random(512)).min(whole.len()); // a block that never reached the disk
            bytes[at..end].fill(0);
        }
        5 => bytes.rotate_left(at),
        _ => bytes = other.to_vec(),
    }
    bytes
}

/// More than a thousand damages over all files of a checkpoint: each is noticed, or has changed nothing; and the
/// checkpoint before is used.
#[test]
fn damage_is_noticed_and_the_one_before_is_used() {
    const ROUNDS: usize = 180; // of each file
    let dir = tempfile::tempdir().expect("a directory");
    assert!(latest(&dir.path().join("nowhere")).expect("no directory").is_none());
    assert!(latest(dir.path()).expect("empty").is_none());
    let config = tiny(true);
    let step = build(&config, Objective::LanguageModel, true);
    let mut exec = Store::random(&step, 13);
    let description = description(config);
    for n in [1, 2] {
        save_checkpoint(dir.path(), &step, &mut exec, &description, &state(n), 0).expect("saved");
    }
    let newest = dir.path().join("step-2");
    let files: Vec<(String, Vec<u8>)> =
        names(&newest).into_iter().map(|name| (name.clone(), fs::read(newest.join(&name)).expect("a file"))).collect();
    assert_eq!(files.len(), 6);
    let mut rng = ChaCha8Rng::seed_from_u64(14);
    let mut noticed = 0;
    for (i, (file, whole)) in files.iter().enumerate() {
        let path = newest.join(file);
        for round in 0..ROUNDS {
            let bytes = damaged(whole, &files[(i + 1 + round % 5) % 6].1, &mut rng);
            let same = bytes == *whole;
            fs::write(&path, bytes).expect("written");
            let mut loaded = Store::new(&step);
            match load_checkpoint(&newest, &step, &mut loaded) {
                Ok(read) => assert!(same && read == state(2) && loaded.bytes == exec.bytes, "{file}, round {round}"),
                Err(e) => {
                    let error = e.to_string();
                    assert!(error.lines().count() == 1 && error.contains("step-2"), "{file}: {error}");
                    assert!(!same && loaded.bytes.is_empty(), "{file}, round {round}: {error}");
                    noticed += 1;
                }
            }
            if !same {
                assert_eq!(latest(dir.path()).expect("readable").expect("the one before").state(), &state(1));
            }
        }
        fs::remove_file(&path).expect("removed");
        assert_eq!(latest(dir.path()).expect("readable").expect("the one before").state(), &state(1));
        fs::write(&path, whole).expect("written");
    }
    println!("{noticed} of {} damages noticed, the others changed no byte", 6 * ROUNDS);
    assert!(noticed >= 1000, "{noticed}");
    assert_eq!(latest(dir.path()).expect("readable").expect("whole again").state(), &state(2));
    for n in [1, 2] {
        fs::write(dir.path().join(format!("step-{n}/memory.safetensors")), "x").expect("written");
    }
    let error = message(latest(dir.path()));
    assert!(error.contains("all 2 checkpoints are damaged"), "{error}");
}

#[test]
fn checkpoints_of_other_programs() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = tiny(true);
    let step = build(&config, Objective::LanguageModel, true);
    let mut exec = Store::random(&step, 15);
    let path = save_checkpoint(dir.path(), &step, &mut exec, &description(config.clone()), &state(1), 0);
    let path = path.expect("saved");
    let wider = XlnetConfig { d_inner: 16, ..config.clone() };
    let deeper = XlnetConfig { n_layer: 3, ..config.clone() };
    let shallower = XlnetConfig { n_layer: 1, ..config.clone() };
    for (other, objective, expected) in [
        (&wider, Objective::LanguageModel, "must be F32 [16, 8], but is F32 [12, 8]"),
        (&deeper, Objective::LanguageModel, "has no tensor transformer.layer.2"),
        (&shallower, Objective::LanguageModel, "has a tensor transformer.layer.1"),
        (&tiny(false), Objective::LanguageModel, "untie_r is true"),
        (&config, classes(2), "that the program has not"),
    ] {
        let other = build(other, objective, true);
        let mut exec = Store::new(&other);
        let error = message(load_checkpoint(&path, &other, &mut exec));
        assert!(error.contains(expected), "{error}");
        assert!(exec.bytes.is_empty());
    }
}
