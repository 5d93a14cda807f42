//! Files of every kind, damaged a thousand times: one clear sentence or the right model, never a panic.

use super::common::*;
use super::original::{golden, zip_of};
use super::torch;
use std::fs;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use xlnet::model::hugging_face::{Architecture, Weight, write_model};
use xlnet::train::import::{ImportOptions, import};
use xlnet::train::step::Objective;

/// How much a format tells about damage.
#[derive(Clone, Copy, PartialEq)]
enum Checks {
    /// Check sums cover everything: a model that is read is the right one.
    Sums,
    /// Only sizes and shapes can be checked.
    Sizes,
}

/// Damages `victim` 1 000 times and reads `named` each time.
fn damage(victim: &Path, named: &Path, checks: Checks, seed: u64) {
    let options = ImportOptions { optimizer: true, ..Default::default() };
    let right = import(named, &options).expect("the whole model");
    let whole = fs::read(victim).expect("a file");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut noticed = 0;
    for round in 0..1000 {
        let mut bytes = whole.clone();
        let random = rng.next_u64() as usize;
        match round % 5 {
            0 => bytes.truncate(random % whole.len()),
            1 => bytes[random % whole.len()] = (random >> 32) as u8,
            2 => bytes.extend_from_slice(&random.to_le_bytes()),
            _ => bytes[random % whole.len()] ^= 1 << (round / 5 % 8),
        }
        if bytes == whole {
            continue;
        }
        fs::write(victim, &bytes).expect("written");
        match import(named, &options) {
            Err(error) => {
                noticed += 1;
                let error = error.to_string();
                assert_eq!(error.lines().count(), 1, "{error}");
                assert!(error.len() < 1000, "{error}");
            }
            Ok(read) if checks == Checks::Sums => {
                assert!(read.weights.tensors == right.weights.tensors, "a wrong tensor in round {round}");
                assert_eq!(read.optimizer, right.optimizer, "a wrong moment in round {round}");
            }
            // Damaged names, sizes and values are another model's; nothing is made up all the same.
            Ok(read) => {
                let fits = |weight: &Weight| weight.values.len() == weight.shape.iter().product::<usize>();
                assert!(read.weights.tensors.values().all(fits), "round {round}");
            }
        }
    }
    fs::write(victim, &whole).expect("written");
    println!("{}: {noticed} of 1000 noticed", victim.display());
    assert!(noticed > 150, "only {noticed} of 1000 were noticed in {}", victim.display());
    assert_eq!(import(named, &options).expect("whole again").weights.tensors, right.weights.tensors);
}

#[test]
fn tensorflow_bundles() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["adam.ckpt.index", "adam.ckpt.data-00000-of-00001", "xlnet_config.json"] {
        fs::copy(golden("tf_bundles").join(name), dir.path().join(name)).expect("copied");
    }
    let named = dir.path().join("adam.ckpt");
    damage(&dir.path().join("adam.ckpt.index"), &named, Checks::Sums, 1);
    damage(&dir.path().join("adam.ckpt.data-00000-of-00001"), &named, Checks::Sums, 2);
    damage(&dir.path().join("xlnet_config.json"), &named, Checks::Sums, 3);
    let zip = dir.path().join("all.zip");
    zip_of(&zip, &[("", "adam.ckpt.index"), ("", "adam.ckpt.data-00000-of-00001"), ("", "xlnet_config.json")]);
    damage(&zip, &zip, Checks::Sums, 4);
}

/// The check sum of a zip's member is that of a whole storage; parts of one (`views.bin`) have none.
#[test]
fn pytorch_files() {
    for (i, (name, checks)) in
        [("zip.bin", Checks::Sums), ("views.bin", Checks::Sizes), ("legacy.bin", Checks::Sizes)].into_iter().enumerate()
    {
        let dir = torch::directory_with(name);
        damage(&dir.path().join("pytorch_model.bin"), dir.path(), checks, 10 + i as u64);
    }
}

#[test]
fn hugging_face_directories() {
    let dir = tempfile::tempdir().expect("a directory");
    let weights = weights(&build(&tiny(false), Objective::LanguageModel, false), 7);
    write_model(dir.path(), &tiny(false), &settings(Architecture::LanguageModel), &weights).expect("written");
    damage(&dir.path().join("model.safetensors"), dir.path(), Checks::Sizes, 20);
    let map: serde_json::Map<_, _> = xlnet::model::tensor_file::TensorFile::open(&dir.path().join("model.safetensors"))
        .expect("a file")
        .names()
        .into_iter()
        .map(|name| (name, "model.safetensors".into()))
        .collect();
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).expect("written");
    damage(&index, &index, Checks::Sizes, 21);
}
