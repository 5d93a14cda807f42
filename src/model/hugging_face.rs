//! Models as Hugging Face directories: `config.json` and `model.safetensors` or `pytorch_model.bin`, whole or in shards.
//!
//! Our parameters carry the names of `transformers`, so little is translated: its bare `XLNetModel` saves without the
//! prefix `transformer.`; it keeps a copy of tied attention biases in every layer where we have one tensor; and
//! `lm_loss.weight` is the word embedding again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use super::hugging_face_config::{Architecture, HuggingFaceSettings, config_json, write_config};
use super::tensor_file::{Dtype, TensorEntry, TensorFile, write_tensor_file};
use super::tensor_source::TensorSource;
use super::torch_file::TorchFile;
pub use super::weights::{ModelWeights, Weight};
use crate::config::{HuggingFaceConfig, XlnetConfig};
use crate::{Error, Result};

/// Name of the configuration in a model directory.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the weights in a model directory.
pub const WEIGHTS_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const TORCH_FILE: &str = "pytorch_model.bin";
const TORCH_INDEX_FILE: &str = "pytorch_model.bin.index.json";
const EMBEDDING: &str = "transformer.word_embedding.weight";
const OUTPUT_LAYER: &str = "lm_loss.weight";
const BIASES: [&str; 3] = ["r_w_bias", "r_r_bias", "r_s_bias"];

/// A model directory in memory.
#[derive(Clone, Debug)]
pub struct HuggingFaceModel {
    /// Sizes; `untie_r` says what the weights say.
    pub config: XlnetConfig,
    /// The rest of `config.json`.
    pub hf: HuggingFaceConfig,
    /// All tensors.
    pub weights: ModelWeights,
}

/// Names under which the parameter `name` is stored: one, or one a layer for tied biases.
pub fn stored_names(name: &str, n_layer: usize) -> Vec<String> {
    match name.strip_prefix("transformer.").filter(|bias| BIASES.contains(bias)) {
        Some(bias) => (0..n_layer).map(|layer| layer_bias(layer, bias)).collect(),
        None => vec![name.to_owned()],
    }
}
fn layer_bias(layer: usize, bias: &str) -> String {
    format!("transformer.layer.{layer}.rel_attn.{bias}")
}

/// Our name of a stored tensor: bare transformers lack the prefix, `DataParallel` adds one, and files of the first
/// versions call scale and shift of a norm as TensorFlow does.
fn parameter_name(stored: &str) -> String {
    let stored = stored.strip_prefix("module.").unwrap_or(stored);
    let renamed = stored.strip_suffix(".gamma").map(|norm| format!("{norm}.weight"));
    let renamed = renamed.or_else(|| stored.strip_suffix(".beta").map(|norm| format!("{norm}.bias")));
    let stored = renamed.as_deref().unwrap_or(stored);
    let bare = ["layer.", "word_embedding.", "mask_emb", "r_w_bias", "r_r_bias", "r_s_bias"];
    if bare.iter().any(|part| stored.starts_with(part)) { format!("transformer.{stored}") } else { stored.to_owned() }
}

/// Reads a model directory.
///
/// Weights in f16, bf16 or f64 become f32. When `config.json` says that attention biases are tied but the layers
/// disagree, the model is read as untied, with a warning, and the returned `config` says so.
///
/// # Errors
/// When a file is missing, damaged or contradicts another, or the output layer of a language model is not tied to the
/// word embedding.
pub fn read_model(dir: &Path) -> Result<HuggingFaceModel> {
    read_model_of(&weights_file(dir)?)
}

/// [`read_model`] with the weights of one file of the directory, or of the shards that an index names.
///
/// # Errors
/// As [`read_model`].
pub fn read_model_of(weights: &Path) -> Result<HuggingFaceModel> {
    let path = weights.with_file_name(CONFIG_FILE);
    let mut hf = HuggingFaceConfig::read(&path)?;
    check_config(&path, &hf)?;
    let mut config = hf.model();
    let mut weights = read_weights_file(weights)?;
    check_sizes(&path, &config, &weights)?;
    if !config.untie_r && !tie_biases(&mut weights, config.n_layer) {
        let source = weights.source.display();
        tracing::warn!(%source, "untie_r is false, but layers have different biases: read as untied");
        config.untie_r = true;
    }
    hf.untie_r = Some(config.untie_r);
    Ok(HuggingFaceModel { config, hf, weights })
}

/// Numbers that parse but make no sense.
fn check_config(path: &Path, hf: &HuggingFaceConfig) -> Result<()> {
    let wrong = |key: &str, expected: &str, got: String| {
        Err(Error::data(path, format!("{key} must be {expected}, but is {got}")))
    };
    if let Some(eps) = hf.layer_norm_eps.filter(|eps| !(eps.is_finite() && (0.0..1.0).contains(eps))) {
        return wrong("layer_norm_eps", "at least 0 and below 1", eps.to_string());
    }
    if let Some(rate) = hf.dropout.filter(|rate| !(0.0..1.0).contains(rate)) {
        return wrong("dropout", "at least 0 and below 1", rate.to_string());
    }
    const LIMIT: usize = 1 << 24;
    for (key, value) in [("mem_len", hf.mem_len), ("reuse_len", hf.reuse_len)] {
        if let Some(value) = value.filter(|&value| value > LIMIT) {
            return wrong(key, &format!("at most {LIMIT}"), value.to_string());
        }
    }
    match hf.attn_type.as_deref() {
        None | Some("bi" | "uni") => Ok(()),
        Some(other) => wrong("attn_type", "\"bi\" or \"uni\"", format!("{other:?}")),
    }
}

/// Compares the configuration with the weights before anyone builds a program of its sizes.
fn check_sizes(path: &Path, config: &XlnetConfig, weights: &ModelWeights) -> Result<()> {
    if let Some(embedding) = weights.tensors.get(EMBEDDING) {
        let expected = [config.n_token, config.d_model];
        if embedding.shape != expected {
            let (got, file) = (&embedding.shape, weights.source.display());
            let what = format!("says that {EMBEDDING} has shape {expected:?}, but in {file} it has {got:?}");
            return Err(Error::data(path, what));
        }
    }
    let layers = weights.layers();
    let (n, file) = (config.n_layer, weights.source.display());
    if let Some(missing) = (0..n).find(|layer| !layers.contains(layer)) {
        return Err(Error::data(
            path,
            format!("n_layer is {n}, but {file} has no layer {missing} (they count from 0)"),
        ));
    }
    if layers.len() > n {
        tracing::warn!(config = %path.display(), "n_layer is {n}, so {} layers of {file} are not used", layers.len() - n);
    }
    Ok(())
}

/// Replaces each layer's copy of a bias by the tied one; false when copies differ or some are missing.
fn tie_biases(weights: &mut ModelWeights, n_layer: usize) -> bool {
    let tensors = &mut weights.tensors;
    let same = |bias: &str| {
        let first = tensors.get(&layer_bias(0, bias));
        (1..n_layer).all(|layer| match (first, tensors.get(&layer_bias(layer, bias))) {
            (Some(a), Some(b)) => a.same_bits(b),
            (None, None) => true,
            _ => false,
        })
    };
    if !BIASES.iter().all(|bias| same(bias)) {
        return false;
    }
    for bias in BIASES {
        if let Some(tied) = tensors.remove(&layer_bias(0, bias)) {
            (1..n_layer).for_each(|layer| drop(tensors.remove(&layer_bias(layer, bias))));
            tensors.insert(format!("transformer.{bias}"), tied);
            weights
                .origins
                .insert(format!("transformer.{bias}"), format!("{}, the same in every layer", layer_bias(0, bias)));
        }
    }
    true
}

/// Where each tensor of a sharded model lies.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// Files that hold the weights of a model directory, the first that is there: whole ones before shards, safetensors
/// before PyTorch's.
const WEIGHT_FILES: [&str; 4] = [WEIGHTS_FILE, INDEX_FILE, TORCH_FILE, TORCH_INDEX_FILE];

/// Reads the weights of a model directory, without looking at its configuration.
///
/// # Errors
/// As [`read_model`].
pub fn read_weights(dir: &Path) -> Result<ModelWeights> {
    read_weights_file(&weights_file(dir)?)
}

/// The file with the weights of a model directory.
///
/// # Errors
/// When there is none.
pub fn weights_file(dir: &Path) -> Result<PathBuf> {
    WEIGHT_FILES.iter().map(|name| dir.join(name)).find(|path| path.exists()).ok_or_else(|| {
        let keras = dir.join("tf_model.h5").exists();
        let hint = if keras { "; load its tf_model.h5 with transformers 4 and save_pretrained it" } else { "" };
        Error::data(dir, format!("has no weights ({}){hint}", WEIGHT_FILES.join(", ")))
    })
}

/// Opens one file of weights, by its name: PyTorch's end in `.bin`, `.pt` or `.pth`.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn open_weights_file(path: &Path) -> Result<Box<dyn TensorSource>> {
    let torch = path.extension().is_some_and(|end| ["bin", "pt", "pth"].iter().any(|torch| end == *torch));
    Ok(if torch { Box::new(TorchFile::open(path)?) } else { Box::new(TensorFile::open(path)?) })
}

/// The files that a file of weights stands for: itself, or the shards of an index.
///
/// # Errors
/// When an index cannot be read.
pub fn weights_files(path: &Path) -> Result<Vec<PathBuf>> {
    if !is_index(path) {
        return Ok(vec![path.to_owned()]);
    }
    Ok(read_index(path)?.into_keys().map(|shard| path.with_file_name(shard)).collect())
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "json")
}

fn read_weights_file(path: &Path) -> Result<ModelWeights> {
    let mut weights = ModelWeights { source: path.to_owned(), ..Default::default() };
    if is_index(path) {
        for (shard, names) in read_index(path)? {
            let mut file = open_weights_file(&path.with_file_name(shard))?;
            for name in names {
                weights.add(&mut *file, &name, &parameter_name(&name))?;
            }
        }
    } else {
        let mut file = open_weights_file(path)?;
        for name in file.names() {
            weights.add(&mut *file, &name, &parameter_name(&name))?;
        }
    }
    weights.drop_output_layer()?;
    Ok(weights)
}

/// Names of tensors by shard.
fn read_index(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let index: ShardIndex =
        serde_json::from_str(&text).map_err(|e| Error::data(path, format!("not an index of shards: {e}")))?;
    let mut shards = BTreeMap::<String, Vec<String>>::new();
    for (name, shard) in index.weight_map {
        if Path::new(&shard).file_name().is_none_or(|file| file != shard.as_str()) {
            return Err(Error::data(path, format!("shard {shard:?} of {name} must be a file of the same directory")));
        }
        shards.entry(shard).or_default().push(name);
    }
    Ok(shards)
}

impl ModelWeights {
    /// The output layer of a language model must be the word embedding.
    fn drop_output_layer(&mut self) -> Result<()> {
        let Some(output) = self.tensors.remove(OUTPUT_LAYER) else { return Ok(()) };
        let Some(embedding) = self.tensors.get(EMBEDDING) else {
            self.tensors.insert(EMBEDDING.into(), output); // tied tensors are stored once, under either name
            self.origins.insert(EMBEDDING.into(), OUTPUT_LAYER.into());
            return Ok(());
        };
        if !output.same_bits(embedding) {
            let what = format!("{OUTPUT_LAYER} must equal {EMBEDDING} bit for bit, but differs");
            return Err(Error::data(&self.source, format!("{what}; untied output layers are not supported")));
        }
        self.ignored.push((OUTPUT_LAYER.into(), format!("tied: equals {EMBEDDING}")));
        Ok(())
    }
}

/// Writes a model directory that `transformers` opens with `from_pretrained`.
///
/// # Errors
/// When the directory cannot be made or the disk refuses.
pub fn write_model(
    dir: &Path,
    config: &XlnetConfig,
    settings: &HuggingFaceSettings,
    weights: &ModelWeights,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let mut entries = vec![];
    let mut sources = vec![];
    for (name, weight) in &weights.tensors {
        for name in stored_names(name, config.n_layer) {
            entries.push(TensorEntry { name, shape: weight.shape.clone(), dtype: Dtype::F32 });
            sources.push(weight);
        }
    }
    // Weights first: a directory with a configuration is a whole one.
    write_tensor_file(&dir.join(WEIGHTS_FILE), &entries, |i, bytes| {
        bytes.extend(sources[i].values.iter().flat_map(|x| x.to_le_bytes()));
        Ok(())
    })?;
    write_config(dir, config, settings).map(drop)
}
