//! PyTorch's files: both layouts, element types, strides; hostile pickles.

use super::common::*;
use super::original::golden;
use std::fs;

use xlnet::model::hugging_face::{ModelWeights, read_model, read_weights};
use xlnet::model::tensor_file::TensorFile;
use xlnet::model::torch_file::TorchFile;

/// A model directory with one of the files of `tests/golden/torch`.
pub fn directory_with(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::copy(golden("torch/config.json"), dir.path().join("config.json")).expect("copied");
    fs::copy(golden("torch").join(name), dir.path().join("pytorch_model.bin")).expect("copied");
    dir
}

/// What all of them hold.
pub fn expected() -> ModelWeights {
    let dir = tempfile::tempdir().expect("a directory");
    fs::copy(golden("torch/expected.safetensors"), dir.path().join("model.safetensors")).expect("copied");
    read_weights(dir.path()).expect("weights")
}

#[test]
fn layouts_types_and_strides() {
    let expected = expected();
    for name in ["zip.bin", "legacy.bin", "views.bin"] {
        let dir = directory_with(name);
        let model = read_model(dir.path()).expect("a model");
        assert_eq!(model.weights.tensors, expected.tensors, "{name}");
        let ignored: Vec<_> = model.weights.ignored.iter().map(|(name, _)| name.as_str()).collect();
        let steps = if name == "views.bin" { &["steps", "lm_loss.weight"][..] } else { &["lm_loss.weight"] };
        assert_eq!(ignored, steps, "{name}");
    }
    let rounded = |name: &str, round: fn(f32) -> f32| {
        let read = read_weights(directory_with(name).path()).expect("weights");
        for (tensor, weight) in &expected.tensors {
            let want: Vec<f32> = weight.values.iter().map(|&x| round(x)).collect();
            assert_eq!(read.tensors[tensor].values, want, "{name}: {tensor}");
        }
    };
    rounded("bfloat16.bin", |x| half::bf16::from_f32(x).to_f32());
    rounded("float16_legacy.bin", |x| half::f16::from_f32(x).to_f32());
}

#[test]
fn shards_and_names_of_old_files() {
    let dir = directory_with("zip.bin");
    let file = TensorFile::open(&golden("torch/expected.safetensors")).expect("a file");
    let all: Vec<(String, &str)> = file.names().into_iter().map(|name| (name, "pytorch_model.bin")).collect();
    let map: serde_json::Map<_, _> = all.into_iter().map(|(name, file)| (name, file.into())).collect();
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(dir.path().join("pytorch_model.bin.index.json"), index.to_string()).expect("written");
    let read = |file: &str| {
        xlnet::model::hugging_face::read_model_of(&dir.path().join(file)).expect("a model").weights.tensors
    };
    assert_eq!(read("pytorch_model.bin.index.json"), expected().tensors);
    assert_eq!(read("pytorch_model.bin"), expected().tensors);

    // Norms called as in TensorFlow, and the prefix of DataParallel.
    let weights = expected();
    let renamed = listed(&weights).into_iter().map(|(name, shape, values)| {
        let name = name.replace("layer_norm.weight", "layer_norm.gamma").replace("layer_norm.bias", "layer_norm.beta");
        (format!("module.{name}"), shape, values)
    });
    write_f32(&dir.path().join("model.safetensors"), &renamed.collect::<Vec<_>>());
    assert_eq!(read_weights(dir.path()).expect("weights").tensors, weights.tensors);
}

/// Pickles that would run something, or claim more than there is.
#[test]
fn hostile_pickles() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("pytorch_model.bin");
    let refused = |pickle: &[u8]| {
        fs::write(&path, pickle).expect("written");
        match TorchFile::open(&path) {
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("not a whole PyTorch file") && error.lines().count() == 1, "{error}");
            }
            // A dictionary without tensors is harmless.
            Ok(file) => assert!(xlnet::model::tensor_source::TensorSource::names(&file).is_empty()),
        }
    };
    let marker = dir.path().join("ran");
    let command = format!("touch {}", marker.display()).into_bytes();
    let length = (command.len() as u32).to_le_bytes();
    refused(&[b"\x80\x02cos\nsystem\nq\x00X", &length[..], &command, b"\x85R."].concat());
    refused(format!("cos\nsystem\n(S'touch {}'\ntR.", marker.display()).as_bytes());
    refused(b"\x80\x02c__builtin__\neval\nq\x00X\x02\x00\x00\x001+q\x01\x85q\x02Rq\x03.");
    assert!(!marker.exists(), "a pickle ran a command");
    // A list that doubles itself sixty times.
    let mut bomb = b"\x80\x02]q\x00X\x03\x00\x00\x00lola".to_vec();
    for i in 0..60u8 {
        bomb.extend_from_slice(&[b']', b'q', i + 1, b'h', i, b'a', b'h', i, b'a']);
    }
    bomb.push(b'.');
    refused(&bomb);
    refused(&[b"\x80\x02".as_slice(), &b"]".repeat(100_000), b"."].concat()); // deep
    refused(b"\x80\x02B\xff\xff\xff\x7f."); // two gigabytes of bytes
    refused(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.");
    for bytes in [&b""[..], b".", b"\x80", b"\x80\x02.", b"PK\x03\x04", b"\x80\x02}q\x00."] {
        refused(bytes);
    }
}
