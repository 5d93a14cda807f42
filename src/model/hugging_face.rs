//! Models as Hugging Face directories: `config.json` and `model.safetensors`, whole or in shards.
//!
//! Our parameters carry the names of `transformers`, so little is translated: its bare `XLNetModel` saves without the
//! prefix `transformer.`; it keeps a copy of tied attention biases in every layer where we have one tensor; and
//! `lm_loss.weight` is the word embedding again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::heads::{SummaryOptions, SummaryType};
use super::tensor_file::{Dtype, TensorEntry, TensorFile, write_file, write_tensor_file};
use super::{AttentionType, TransformerOptions};
use crate::config::{HuggingFaceConfig, XlnetConfig};
use crate::{Error, Result};

/// Name of the configuration in a model directory.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the weights in a model directory.
pub const WEIGHTS_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const EMBEDDING: &str = "transformer.word_embedding.weight";
const OUTPUT_LAYER: &str = "lm_loss.weight";
const BIASES: [&str; 3] = ["r_w_bias", "r_r_bias", "r_s_bias"];

/// Values of one tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub values: Vec<f32>,
}

/// Weights of a model by parameter name, as a file or a device gave them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelWeights {
    /// Where they come from, for messages.
    pub source: PathBuf,
    /// Tensors by the names of our parameters.
    pub tensors: BTreeMap<String, Weight>,
    /// Tensors of the source that were left out, with the reason.
    pub ignored: Vec<(String, String)>,
}

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

/// Our name of a stored tensor: bare transformers lack the prefix.
fn parameter_name(stored: &str) -> String {
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
    let path = dir.join(CONFIG_FILE);
    let mut hf = HuggingFaceConfig::read(&path)?;
    check_config(&path, &hf)?;
    let mut config = hf.model();
    let mut weights = read_weights(dir)?;
    check_sizes(&path, &config, &weights)?;
    if !config.untie_r && !tie_biases(&mut weights, config.n_layer) {
        tracing::warn!(model = %dir.display(), "untie_r is false, but layers have different biases: read as untied");
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
    let layers: BTreeSet<usize> = weights.tensors.keys().filter_map(|name| layer_of(name)).collect();
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
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("transformer.layer.")?.split('.').next()?.parse().ok().filter(|&layer| layer < usize::MAX)
}

/// Replaces each layer's copy of a bias by the tied one; false when copies differ or some are missing.
fn tie_biases(weights: &mut ModelWeights, n_layer: usize) -> bool {
    let tensors = &mut weights.tensors;
    let same = |bias: &str| {
        let first = tensors.get(&layer_bias(0, bias));
        // Compared as bits: a NaN equals itself.
        let bits = |w: &Weight| w.values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        (1..n_layer).all(|layer| match (first, tensors.get(&layer_bias(layer, bias))) {
            (Some(a), Some(b)) => a.shape == b.shape && bits(a) == bits(b),
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
        }
    }
    true
}

/// Where each tensor of a sharded model lies.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// Reads the weights of a model directory, without looking at its configuration.
///
/// # Errors
/// As [`read_model`].
pub fn read_weights(dir: &Path) -> Result<ModelWeights> {
    let (single, index) = (dir.join(WEIGHTS_FILE), dir.join(INDEX_FILE));
    let mut weights = ModelWeights::default();
    if single.exists() {
        weights.source = single.clone();
        let mut file = TensorFile::open(&single)?;
        for name in file.names() {
            weights.add(&mut file, &name)?;
        }
    } else if index.exists() {
        weights.source = index.clone();
        for (shard, names) in read_index(&index)? {
            let mut file = TensorFile::open(&dir.join(shard))?;
            for name in names {
                weights.add(&mut file, &name)?;
            }
        }
    } else {
        let other = ["pytorch_model.bin", "tf_model.h5"].into_iter().find(|name| dir.join(name).exists());
        let hint = other.map_or(String::new(), |name| {
            format!("; it has {name}: load that with transformers and save_pretrained it with safe_serialization")
        });
        return Err(Error::data(dir, format!("has neither {WEIGHTS_FILE} nor {INDEX_FILE}{hint}")));
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
    fn add(&mut self, file: &mut TensorFile, stored: &str) -> Result<()> {
        let missing = || Error::data(file.path(), format!("has no tensor {stored}, which the index says it has"));
        let (shape, dtype) = file.info(stored).map(|(s, d)| (s.to_vec(), d)).ok_or_else(missing)?;
        let name = parameter_name(stored);
        let Some(values) = file.read_f32(stored)? else {
            self.ignored.push((name, format!("holds {dtype}, not floating-point numbers")));
            return Ok(());
        };
        if self.tensors.insert(name.clone(), Weight { shape, values }).is_some() {
            return Err(Error::data(file.path(), format!("holds {name} twice, with and without \"transformer.\"")));
        }
        Ok(())
    }

    /// The output layer of a language model must be the word embedding.
    fn drop_output_layer(&mut self) -> Result<()> {
        let Some(output) = self.tensors.remove(OUTPUT_LAYER) else { return Ok(()) };
        let Some(embedding) = self.tensors.get(EMBEDDING) else {
            self.tensors.insert(EMBEDDING.into(), output); // tied tensors are stored once, under either name
            return Ok(());
        };
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        if output.shape != embedding.shape || !output.values.iter().zip(&embedding.values).all(same) {
            let what = format!("{OUTPUT_LAYER} must equal {EMBEDDING} bit for bit, but differs");
            return Err(Error::data(&self.source, format!("{what}; untied output layers are not supported")));
        }
        self.ignored.push((OUTPUT_LAYER.into(), format!("tied: equals {EMBEDDING}")));
        Ok(())
    }
}

/// Which class of `transformers` a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Architecture {
    /// The bare transformer.
    #[default]
    Base,
    /// Permutation language model.
    LanguageModel,
    /// Classification or regression of whole sequences.
    SequenceClassification,
    /// Classification of tokens.
    TokenClassification,
    /// One of several texts.
    MultipleChoice,
    /// Spans by beam search.
    QuestionAnswering,
}

impl Architecture {
    /// Class name.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Base => "XLNetModel",
            Architecture::LanguageModel => "XLNetLMHeadModel",
            Architecture::SequenceClassification => "XLNetForSequenceClassification",
            Architecture::TokenClassification => "XLNetForTokenClassification",
            Architecture::MultipleChoice => "XLNetForMultipleChoice",
            Architecture::QuestionAnswering => "XLNetForQuestionAnswering",
        }
    }
}

/// What a `config.json` says beyond the model's sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct HuggingFaceSettings {
    /// Class.
    pub architecture: Architecture,
    /// Class names by id; empty when there are no classes.
    pub labels: Vec<String>,
    /// The head predicts a number, not a class.
    pub regression: bool,
    /// Direction of attention.
    pub attention: AttentionType,
    /// Each row sees the same number of keys.
    pub same_length: bool,
    /// Half of the batch runs backward.
    pub bi_data: bool,
    /// Largest relative distance.
    pub clamp_len: Option<usize>,
    /// Longest memory; 0 is none.
    pub mem_len: usize,
    /// How many first positions are cached; `None` is all.
    pub reuse_len: Option<usize>,
    /// Epsilon of layer norms.
    pub layer_norm_eps: f32,
    /// Dropout in training.
    pub dropout: f32,
    /// Pooling.
    pub summary: SummaryOptions,
}

impl HuggingFaceSettings {
    /// Settings of a program's transformer; pooling is the last position with a projection, and there are no labels.
    pub fn new(architecture: Architecture, t: &TransformerOptions) -> Self {
        HuggingFaceSettings {
            architecture,
            labels: vec![],
            regression: false,
            attention: t.attention,
            same_length: t.same_length,
            bi_data: t.bi_data,
            clamp_len: t.clamp_len,
            mem_len: t.mem_len,
            reuse_len: t.reuse_len,
            layer_norm_eps: t.layer_norm_eps,
            dropout: t.dropout,
            summary: SummaryOptions { kind: SummaryType::Last, projection: true },
        }
    }
}

/// A number as a person wrote it: 0.1, not the 0.10000000149011612 that its f32 is.
fn decimal(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// The `config.json` of a model, in the form of `transformers` 4 and 5.
pub fn config_json(config: &XlnetConfig, s: &HuggingFaceSettings) -> Value {
    let mut json = json!({
        "architectures": [s.architecture.name()],
        "attn_type": s.attention,
        "bi_data": s.bi_data,
        "bos_token_id": 1,
        "clamp_len": s.clamp_len.map_or(-1, |len| len as i64),
        "d_head": config.d_head,
        "d_inner": config.d_inner,
        "d_model": config.d_model,
        "dropout": decimal(s.dropout),
        "dtype": "float32",
        "end_n_top": 5,
        "eos_token_id": 2,
        "ff_activation": config.ff_activation.hugging_face_name(),
        "initializer_range": 0.02,
        "layer_norm_eps": decimal(s.layer_norm_eps),
        "mem_len": (s.mem_len > 0).then_some(s.mem_len),
        "model_type": "xlnet",
        "n_head": config.n_head,
        "n_layer": config.n_layer,
        "pad_token_id": 5,
        "reuse_len": s.reuse_len.filter(|&len| len > 0),
        "same_length": s.same_length,
        "start_n_top": 5,
        "summary_activation": "tanh",
        "summary_last_dropout": decimal(s.dropout),
        "summary_type": s.summary.kind,
        "summary_use_proj": s.summary.projection,
        "tie_word_embeddings": true,
        "untie_r": config.untie_r,
        "use_mems_eval": true,
        "use_mems_train": false,
        "vocab_size": config.n_token,
    });
    if !s.labels.is_empty() {
        let labels = || s.labels.iter().enumerate();
        json["id2label"] = labels().map(|(i, label)| (i.to_string(), json!(label))).collect::<Map<_, _>>().into();
        json["label2id"] = labels().map(|(i, label)| (label.clone(), json!(i))).collect::<Map<_, _>>().into();
    }
    if s.regression {
        json["problem_type"] = json!("regression");
    }
    json
}

/// Writes `config.json` into `dir`; returns its SHA-256 in hexadecimal.
///
/// # Errors
/// When the disk refuses.
pub fn write_config(dir: &Path, config: &XlnetConfig, settings: &HuggingFaceSettings) -> Result<String> {
    let path = dir.join(CONFIG_FILE);
    let text = format!("{:#}\n", config_json(config, settings));
    write_file(&path, |out: &mut dyn Write| out.write_all(text.as_bytes()).map_err(|e| Error::io("write", &path, e)))
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
