//! The `config.json` of Hugging Face: which class a model is, and everything else that `transformers` wants to know.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::heads::{SummaryOptions, SummaryType};
use super::hugging_face::CONFIG_FILE;
use super::tensor_file::write_file;
use super::weights::ModelWeights;
use super::{AttentionType, TransformerOptions};
use crate::config::{HuggingFaceConfig, LAYER_NORM_EPS, XlnetConfig};
use crate::{Error, Result};

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
    /// Spans by two independent layers; Hugging Face's own.
    QuestionAnsweringSimple,
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
            Architecture::QuestionAnsweringSimple => "XLNetForQuestionAnsweringSimple",
        }
    }
    const ALL: [Architecture; 7] = [
        Architecture::Base,
        Architecture::LanguageModel,
        Architecture::SequenceClassification,
        Architecture::TokenClassification,
        Architecture::MultipleChoice,
        Architecture::QuestionAnswering,
        Architecture::QuestionAnsweringSimple,
    ];

    /// The class that has the heads of `weights`; `choice` says that their pooled head chooses one of several texts.
    pub fn of(weights: &ModelWeights, choice: bool) -> Self {
        let has = |name: &str| weights.tensors.contains_key(name);
        match () {
            () if has("start_logits.dense.weight") => Architecture::QuestionAnswering,
            () if has("qa_outputs.weight") => Architecture::QuestionAnsweringSimple,
            () if has("classifier.weight") => Architecture::TokenClassification,
            () if has("logits_proj.weight") && choice => Architecture::MultipleChoice,
            () if has("logits_proj.weight") => Architecture::SequenceClassification,
            () if has("lm_loss.bias") => Architecture::LanguageModel,
            () => Architecture::Base,
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
    /// Other keys, of a `config.json` that was read.
    pub other: Map<String, Value>,
}

/// Key of our own in a `config.json`; `transformers` keeps it and makes nothing of it.
const UPDATES: &str = "training_updates";

impl HuggingFaceSettings {
    /// How many updates made the weights, where the file tells.
    pub fn updates(&self) -> Option<u64> {
        self.other.get(UPDATES).and_then(Value::as_u64)
    }
    /// Notes how many updates made the weights; `None` for weights that no run made.
    pub fn set_updates(&mut self, updates: Option<u64>) {
        match updates {
            Some(updates) => self.other.insert(UPDATES.into(), updates.into()),
            None => self.other.remove(UPDATES),
        };
    }
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
            other: Map::new(),
        }
    }

    /// Settings of a `config.json`; where it names no class that we know, `weights` tell.
    ///
    /// # Errors
    /// When pooling is of a kind that does not exist.
    pub fn from_config(hf: &HuggingFaceConfig, weights: &ModelWeights) -> Result<Self> {
        let named = hf.architectures.iter().flatten().next();
        let known = named.and_then(|name| Architecture::ALL.into_iter().find(|class| class.name() == name));
        let kind = match hf.summary_type.as_deref() {
            None | Some("last") => SummaryType::Last,
            Some("first") => SummaryType::First,
            Some("mean") => SummaryType::Mean,
            Some("attn") => SummaryType::Attn,
            Some(other) => {
                let what = format!("summary_type must be last, first, mean or attn, but is {other:?}");
                return Err(Error::data(&weights.source, what));
            }
        };
        let labels = hf.id2label.iter().flatten();
        let mut labels: Vec<_> = labels.map(|(id, label)| (id.parse::<usize>().ok(), label.clone())).collect();
        labels.sort(); // as numbers: "10" comes after "9"
        Ok(HuggingFaceSettings {
            architecture: known.unwrap_or_else(|| Architecture::of(weights, false)),
            labels: labels.into_iter().map(|(_, label)| label).collect(),
            regression: hf.problem_type.as_deref() == Some("regression"),
            attention: if hf.attn_type.as_deref() == Some("uni") { AttentionType::Uni } else { AttentionType::Bi },
            same_length: hf.same_length == Some(true),
            bi_data: hf.bi_data == Some(true),
            clamp_len: hf.clamp_len.and_then(|len| usize::try_from(len).ok()).filter(|&len| len > 0),
            mem_len: hf.mem_len.unwrap_or(0),
            reuse_len: hf.reuse_len,
            layer_norm_eps: hf.layer_norm_eps.map_or(LAYER_NORM_EPS, |eps| eps as f32),
            dropout: hf.dropout.unwrap_or(0.1),
            summary: SummaryOptions { kind, projection: hf.summary_use_proj != Some(false) },
            other: hf.json.clone(),
        })
    }

    /// Settings of a fine-tuned or pretrained model of the original, whose own configuration has none of them.
    pub fn of_original(weights: &ModelWeights, head: Option<&str>) -> Self {
        let pooling = weights.tensors.contains_key("sequence_summary.summary_bias");
        let kind = if pooling { SummaryType::Attn } else { SummaryType::Last };
        let classes = weights.tensors.get("logits_proj.bias").map_or(0, |bias| bias.values.len());
        let architecture = Architecture::of(weights, head == Some("race"));
        let labelled = architecture == Architecture::SequenceClassification;
        HuggingFaceSettings {
            architecture,
            labels: (0..classes).filter(|_| labelled).map(|class| format!("LABEL_{class}")).collect(),
            regression: head.is_some_and(|head| head.starts_with("regression_")),
            attention: AttentionType::Bi,
            same_length: false,
            bi_data: false,
            clamp_len: None,
            mem_len: 0,
            reuse_len: None,
            layer_norm_eps: LAYER_NORM_EPS,
            dropout: 0.1,
            summary: SummaryOptions { kind, projection: true },
            other: Map::new(),
        }
    }
}

/// Keys that [`config_json`] fills in where nobody said otherwise; those of a file that was read win.
const CONSTANTS: [&str; 10] = [
    "bos_token_id",
    "end_n_top",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "start_n_top",
    "summary_activation",
    "summary_last_dropout",
    "use_mems_eval",
    "use_mems_train",
];

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
    for (key, value) in &s.other {
        let ours = json.get(key).is_some() && !CONSTANTS.contains(&key.as_str());
        // The older name of `dtype`, and aliases of sizes that stand above.
        if !(ours || ["torch_dtype", "n_token", "id2label", "label2id"].contains(&key.as_str())) {
            json[key] = value.clone();
        }
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
