//! Model configuration: the published JSON of the original program and of Hugging Face.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::op::ActivationKind;
use crate::{Error, Result};

/// Activation of the feed-forward layer, by what it computes. The original's `gelu` is the tanh form, Hugging Face's
/// `gelu` is the erf form; Chinese checkpoints use `relu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FeedForwardActivation {
    /// `0.5 x (1 + tanh(...))`; `gelu` of the original, `gelu_new` of Hugging Face.
    #[serde(rename = "gelu", alias = "gelu_new", alias = "gelu_pytorch_tanh")]
    Gelu,
    /// `0.5 x (1 + erf(x / sqrt 2))`; `gelu` of Hugging Face.
    #[serde(rename = "gelu_erf")]
    GeluErf,
    /// `max(x, 0)`.
    #[serde(rename = "relu")]
    Relu,
}

impl FeedForwardActivation {
    /// The op's activation.
    pub fn kind(self) -> ActivationKind {
        match self {
            FeedForwardActivation::Gelu => ActivationKind::GeluTanh,
            FeedForwardActivation::GeluErf => ActivationKind::GeluErf,
            FeedForwardActivation::Relu => ActivationKind::Relu,
        }
    }
    /// Its name in a Hugging Face config.
    pub fn hugging_face_name(self) -> &'static str {
        match self {
            FeedForwardActivation::Gelu => "gelu_new",
            FeedForwardActivation::GeluErf => "gelu",
            FeedForwardActivation::Relu => "relu",
        }
    }
}

/// Sizes of a model; the keys of the published `xlnet_config.json`, all of them required there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XlnetConfig {
    /// Number of layers.
    pub n_layer: usize,
    /// Width of hidden states.
    pub d_model: usize,
    /// Attention heads.
    pub n_head: usize,
    /// Width of a head; `n_head * d_head` need not be `d_model`.
    pub d_head: usize,
    /// Width of the feed-forward layer.
    pub d_inner: usize,
    /// Its activation.
    pub ff_activation: FeedForwardActivation,
    /// Every layer has attention biases of its own; all released models do.
    pub untie_r: bool,
    /// Vocabulary size.
    pub n_token: usize,
}

impl XlnetConfig {
    /// XLNet-Base as released.
    pub fn base() -> Self {
        XlnetConfig { n_layer: 12, d_model: 768, n_head: 12, d_head: 64, d_inner: 3072, ..Self::large() }
    }
    /// XLNet-Large as released.
    pub fn large() -> Self {
        XlnetConfig {
            n_layer: 24,
            d_model: 1024,
            n_head: 16,
            d_head: 64,
            d_inner: 4096,
            ff_activation: FeedForwardActivation::Gelu,
            untie_r: true,
            n_token: 32000,
        }
    }
    /// Chinese-XLNet-base as released.
    pub fn chinese_base() -> Self {
        XlnetConfig { ff_activation: FeedForwardActivation::Relu, ..Self::base() }
    }
    /// Chinese-XLNet-mid as released.
    pub fn chinese_mid() -> Self {
        XlnetConfig { n_layer: 24, ..Self::chinese_base() }
    }
    /// A named configuration: `base`, `large`, `chinese-base`, `chinese-mid`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "base" => Self::base(),
            "large" => Self::large(),
            "chinese-base" => Self::chinese_base(),
            "chinese-mid" => Self::chinese_mid(),
            _ => return None,
        })
    }

    /// Checks that the sizes make a model.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("n_layer", self.n_layer),
            ("d_model", self.d_model),
            ("n_head", self.n_head),
            ("d_head", self.d_head),
            ("d_inner", self.d_inner),
            ("n_token", self.n_token),
        ];
        // Far beyond any model, and small enough that no product of sizes overflows.
        const LIMIT: usize = 1 << 24;
        for (key, value) in sizes {
            if value == 0 || value > LIMIT {
                return Err(Error::config(format!("{key} must be between 1 and {LIMIT}, but is {value}")));
            }
        }
        if !self.d_model.is_multiple_of(2) {
            let d = self.d_model;
            return Err(Error::config(format!("d_model must be even for the sinusoids of positions, but is {d}")));
        }
        Ok(())
    }

    /// Reads the original's `xlnet_config.json`, or a Hugging Face `config.json` (told by its `model_type` or
    /// `vocab_size`).
    ///
    /// # Errors
    /// When the file cannot be read, misses a key, or (original form) has an unknown one.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| Error::data(path, format!("not a JSON configuration: {e}")))?;
        let hugging_face = json.get("model_type").is_some() || json.get("vocab_size").is_some();
        let config: XlnetConfig = if hugging_face {
            HuggingFaceConfig::from_json(path, json)?.model()
        } else {
            serde_json::from_value(json).map_err(|e| {
                let known = "n_layer, d_model, n_head, d_head, d_inner, ff_activation, untie_r, n_token";
                Error::data(path, format!("not an XLNet configuration: {e}; the keys are {known}"))
            })?
        };
        config.validate().map_err(|e| Error::data(path, e.to_string()))?;
        Ok(config)
    }
}

/// The keys of a Hugging Face `config.json` that matter here; others are ignored, as their library does.
#[derive(Clone, Debug, Deserialize)]
pub struct HuggingFaceConfig {
    /// Class names, for example `XLNetForSequenceClassification`.
    #[serde(default)]
    pub architectures: Option<Vec<String>>,
    /// Vocabulary size.
    #[serde(alias = "n_token")]
    pub vocab_size: usize,
    /// Width of hidden states.
    pub d_model: usize,
    /// Number of layers.
    pub n_layer: usize,
    /// Attention heads.
    pub n_head: usize,
    /// Width of a head; `d_model / n_head` when absent.
    #[serde(default)]
    pub d_head: Option<usize>,
    /// Width of the feed-forward layer.
    pub d_inner: usize,
    /// Name in the library's table of activations.
    pub ff_activation: String,
    /// Dropped by version 5; true when absent.
    #[serde(default)]
    pub untie_r: Option<bool>,
    /// `bi` or `uni`.
    #[serde(default)]
    pub attn_type: Option<String>,
    /// Largest relative distance; none when 0 or less.
    #[serde(default)]
    pub clamp_len: Option<i64>,
    /// Each row sees the same number of keys (`uni`).
    #[serde(default)]
    pub same_length: Option<bool>,
    /// Half of the batch runs backward.
    #[serde(default)]
    pub bi_data: Option<bool>,
    /// Longest memory.
    #[serde(default)]
    pub mem_len: Option<usize>,
    /// How many first positions are cached; all when absent.
    #[serde(default)]
    pub reuse_len: Option<usize>,
    /// Added to variances.
    #[serde(default)]
    pub layer_norm_eps: Option<f64>,
    /// Dropout of residuals and probabilities.
    #[serde(default)]
    pub dropout: Option<f32>,
    /// Pooling.
    #[serde(default)]
    pub summary_type: Option<String>,
    /// Dense layer after pooling.
    #[serde(default)]
    pub summary_use_proj: Option<bool>,
    /// Class names by id.
    #[serde(default)]
    pub id2label: Option<std::collections::BTreeMap<String, String>>,
    /// Beam width of starts.
    #[serde(default)]
    pub start_n_top: Option<usize>,
    /// Beam width of ends.
    #[serde(default)]
    pub end_n_top: Option<usize>,
    /// `regression`, or what kind of classification.
    #[serde(default)]
    pub problem_type: Option<String>,
    /// The whole file, for keys that are kept as they are.
    #[serde(skip)]
    pub json: serde_json::Map<String, serde_json::Value>,
}

impl HuggingFaceConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// When it cannot be read, misses a key or is not an XLNet's.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let json =
            serde_json::from_str(&text).map_err(|e| Error::data(path, format!("not a JSON configuration: {e}")))?;
        Self::from_json(path, json)
    }
    fn from_json(path: &Path, json: serde_json::Value) -> Result<Self> {
        if let Some(kind) = json.get("model_type").and_then(|k| k.as_str())
            && kind != "xlnet"
        {
            return Err(Error::data(path, format!("model_type must be \"xlnet\", but is {kind:?}")));
        }
        let whole = json.as_object().cloned().unwrap_or_default();
        let mut config: HuggingFaceConfig = serde_json::from_value(json)
            .map_err(|e| Error::data(path, format!("not a Hugging Face XLNet configuration: {e}")))?;
        config.json = whole;
        config.activation().map_err(|e| Error::data(path, e.to_string()))?;
        config.model().validate().map_err(|e| Error::data(path, e.to_string()))?;
        Ok(config)
    }
    fn activation(&self) -> Result<FeedForwardActivation> {
        match self.ff_activation.as_str() {
            "gelu" => Ok(FeedForwardActivation::GeluErf),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(FeedForwardActivation::Gelu),
            "relu" => Ok(FeedForwardActivation::Relu),
            other => {
                let known = "gelu, gelu_new, gelu_pytorch_tanh, gelu_fast or relu";
                Err(Error::config(format!("ff_activation must be {known}, but is {other:?}")))
            }
        }
    }
    /// The model's sizes.
    pub fn model(&self) -> XlnetConfig {
        XlnetConfig {
            n_layer: self.n_layer,
            d_model: self.d_model,
            n_head: self.n_head,
            d_head: self.d_head.unwrap_or(self.d_model / self.n_head.max(1)),
            d_inner: self.d_inner,
            ff_activation: self.activation().unwrap_or(FeedForwardActivation::GeluErf),
            untie_r: self.untie_r.unwrap_or(true),
            n_token: self.vocab_size,
        }
    }
}

/// Epsilon of every layer norm of the original.
pub const LAYER_NORM_EPS: f32 = 1e-12;

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &str = r#"{"d_head": 64, "d_inner": 3072, "d_model": 768, "ff_activation": "gelu", "n_head": 12,
        "n_layer": 12, "n_token": 32000, "untie_r": true}"#;
    const HUGGING_FACE: &str = r#"{"model_type": "xlnet", "vocab_size": 32000, "d_model": 768, "n_layer": 12,
        "n_head": 12, "d_inner": 3072, "ff_activation": "gelu", "transformers_version": "5.0.0"}"#;

    fn read(text: &str) -> Result<XlnetConfig> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("a write");
        XlnetConfig::read(file.path())
    }

    #[test]
    fn both_published_forms() {
        assert_eq!(read(ORIGINAL).expect("the original's"), XlnetConfig::base());
        // The same word means another function there.
        let erf = XlnetConfig { ff_activation: FeedForwardActivation::GeluErf, ..XlnetConfig::base() };
        assert_eq!(read(HUGGING_FACE).expect("Hugging Face's"), erf);
        let tanh = HUGGING_FACE.replace("\"gelu\"", "\"gelu_new\"");
        assert_eq!(read(&tanh).expect("Hugging Face's"), XlnetConfig::base());
    }

    #[test]
    fn wrong_files_are_sentences() {
        for (from, to, said) in [
            ("\"n_layer\": 12,", "", "n_layer"),
            ("\"n_layer\"", "\"n_layers\"", "n_layers"),
            ("\"gelu\"", "\"swish\"", "swish"),
            ("\"n_head\": 12", "\"n_head\": 0", "n_head must be between"),
            ("\"n_head\": 12", "\"n_head\": -1", "invalid value"),
            ("\"d_model\": 768", "\"d_model\": 769", "even"),
            ("\"d_model\": 768", "\"d_model\": 1e99", "invalid"),
            ("\"d_model\": 768", "\"d_model\": \"768\"", "invalid type"),
            ("\"n_token\": 32000", "\"n_token\": 18446744073709551615", "n_token must be between"),
            ("}", "", "not a JSON"),
        ] {
            let error = read(&ORIGINAL.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(said), "{to}: {error}");
            assert!(!error.contains('\n'), "{to}: {error}");
        }
        for (from, to, said) in [
            ("\"xlnet\"", "\"bert\"", "model_type must be"),
            ("\"gelu\"", "\"silu\"", "ff_activation must be"),
            ("\"d_inner\": 3072,", "", "d_inner"),
        ] {
            let error = read(&HUGGING_FACE.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(said), "{to}: {error}");
        }
        assert!(read("").expect_err("empty").to_string().contains("not a JSON"));
        let missing = XlnetConfig::read(Path::new("/nowhere/config.json")).expect_err("no file").to_string();
        assert!(missing.contains("cannot read /nowhere/config.json"), "{missing}");
    }
}
