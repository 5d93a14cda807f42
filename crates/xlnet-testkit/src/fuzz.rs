//! What fuzzers feed: one function a reader, which takes any bytes and must neither panic nor hang nor take memory
//! without bound. `fuzz/` runs them under cargo-fuzz; an ordinary test replays `fuzz/corpus`.

use std::fs;
use std::path::{Path, PathBuf};

use xlnet::config::{HuggingFaceConfig, XlnetConfig};
use xlnet::data::example::Example;
use xlnet::data::tfrecord::RecordReader;
use xlnet::data::tokenizer::Tokenizer;
use xlnet::model::tensor_file::TensorFile;
use xlnet::model::tensor_source::TensorSource;
use xlnet::model::tf_bundle::TfBundle;
use xlnet::model::torch_file::TorchFile;
use xlnet::train::keys::Keyed;
use xlnet::train::run_config::RunConfig;

/// A reader under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, that of its fuzz target and of its folder in the corpus.
    pub name: &'static str,
    /// Reads any bytes.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 6] = [
    Target { name: "tf_bundle", run: tf_bundle },
    Target { name: "torch_file", run: torch_file },
    Target { name: "safetensors", run: safetensors },
    Target { name: "tfrecord", run: tfrecord },
    Target { name: "spiece", run: spiece },
    Target { name: "config", run: config },
];

/// A file with these bytes, for as long as `read` runs.
fn with_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    thread_local! {
        static DIRECTORY: PathBuf = {
            let name = format!("xlnet-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
            std::env::temp_dir().join(name.replace(['(', ')'], ""))
        };
    }
    DIRECTORY.with(|directory| {
        fs::create_dir_all(directory).expect("a temporary directory");
        let path = directory.join(name);
        fs::write(&path, bytes).expect("a temporary file");
        read(&path);
        fs::remove_dir_all(directory).expect("the temporary directory goes");
    });
}

/// Reads every tensor; what it holds must fit its shape.
fn read_all(source: &mut dyn TensorSource) {
    for name in source.names() {
        let info = source.info(&name).expect("a tensor that was named");
        if let Ok(Some(values)) = source.read_f32(&name) {
            assert_eq!(values.len(), info.shape.iter().product::<usize>(), "{name}");
        }
    }
}

/// An index of a TensorFlow checkpoint and its data: the length of the index as a little-endian u32, the index, the data.
pub fn tf_bundle(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return };
    let length = (u32::from_le_bytes(*length) as usize).min(rest.len());
    let (index, data) = rest.split_at(length);
    with_file("x.index", index, |path| {
        fs::write(path.with_file_name("x.data-00000-of-00001"), data).expect("a temporary file");
        if let Ok(mut bundle) = TfBundle::open(&path.with_file_name("x")) {
            read_all(&mut bundle);
        }
    });
}

/// A file of PyTorch, in any layout.
pub fn torch_file(bytes: &[u8]) {
    with_file("pytorch_model.bin", bytes, |path| {
        if let Ok(mut file) = TorchFile::open(path) {
            read_all(&mut file);
        }
    });
}

/// A safetensors file.
pub fn safetensors(bytes: &[u8]) {
    with_file("model.safetensors", bytes, |path| {
        if let Ok(mut file) = TensorFile::open(path) {
            read_all(&mut file);
        }
    });
}

/// A TFRecord file, and every payload as a `tf.train.Example`.
pub fn tfrecord(bytes: &[u8]) {
    with_file("a.tfrecords", bytes, |path| {
        let Ok(mut reader) = RecordReader::open(path) else { return };
        for record in 0.. {
            match reader.next_record() {
                Ok(Some(payload)) => drop(Example::decode(payload, path, record)),
                Ok(None) | Err(_) => break,
            }
        }
    });
}

/// A SentencePiece model.
pub fn spiece(bytes: &[u8]) {
    with_file("spiece.model", bytes, |path| {
        if let Ok(tokenizer) = Tokenizer::open(path) {
            let _ = tokenizer.check_special_symbols();
            let _ = tokenizer.encode_ids("The quick brown fox, 2,000 pounds.");
        }
    });
}

/// Configurations: the original's and Hugging Face's JSON, and a run's TOML.
pub fn config(bytes: &[u8]) {
    with_file("config.json", bytes, |path| {
        let _ = XlnetConfig::read(path);
        let _ = HuggingFaceConfig::read(path);
        let _ = RunConfig::load(Some(path), toml::Table::new());
    });
}
