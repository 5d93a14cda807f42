//! Checkpoints out: directories that `transformers` loads, and bundles that TensorFlow loads.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::import::{Imported, TOKENIZER_FILE, TokenizerFiles, VOCABULARY_FILE};
use crate::config::XlnetConfig;
use crate::model::heads::SummaryType;
use crate::model::hugging_face::{Architecture, write_model};
use crate::model::original::{WrittenOriginal, write_original};
use crate::model::tensor_file::write_file;
use crate::model::weights::{ModelWeights, Weight};
use crate::{Error, Result};

/// Input of masked positions; only a query stream reads it.
pub(super) const MASK: &str = "transformer.mask_emb";
/// Bias of the last answerability layer, which some models of the original have and Hugging Face's class has not.
const ANSWER_BIAS: &str = "answer_class.dense_1.bias";

/// Adds the input of masked positions where it is missing, as zeros: programs without a query stream have none, but every
/// class of `transformers` has it, and would draw one at random. Returns whether it did.
pub(crate) fn add_mask(weights: &mut Cow<ModelWeights>, config: &XlnetConfig) -> bool {
    if weights.tensors.contains_key(MASK) {
        return false;
    }
    let mask = Weight { shape: vec![1, 1, config.d_model], values: vec![0.0; config.d_model] };
    weights.to_mut().tensors.insert(MASK.into(), mask);
    true
}

/// Refuses a directory that holds anything, so that no two models mix.
///
/// # Errors
/// When it is no directory, or not an empty one.
pub fn new_directory(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let mut entries = fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Error::data(dir, "is not empty; name a new directory for the result")),
    }
}

/// Writes a Hugging Face directory. Returns what a user must know, a sentence each: what `transformers` cannot do with
/// this model, what was left out, what was initialised.
///
/// # Errors
/// When a head cannot be said in Hugging Face's terms, or the disk refuses.
pub fn export_hugging_face(dir: &Path, model: &Imported) -> Result<Vec<String>> {
    let Imported { config, settings, .. } = model;
    let mut weights = Cow::Borrowed(&model.weights); // copied only where a tensor must come or go
    let mut notes = vec![];
    if let Some(bias) = weights.tensors.get(ANSWER_BIAS) {
        if bias.values.iter().any(|&x| x != 0.0) {
            let what = "is not zero, and XLNetForQuestionAnswering has no such bias: answers would differ";
            return Err(Error::data(&weights.source, format!("{ANSWER_BIAS} {what}")));
        }
        weights.to_mut().tensors.remove(ANSWER_BIAS);
        notes.push(format!("{ANSWER_BIAS} was left out: it is zero, and transformers has no such bias"));
    }
    if add_mask(&mut weights, config) {
        notes
            .push(format!("{MASK} is initialised with zeros: every class of transformers has it, the source does not"));
    }
    if config.d_head * config.n_head != config.d_model {
        let (n, d, d_head) = (config.n_head, config.d_model, config.d_head);
        notes.push(format!(
            "transformers refuses heads of width {d_head}, because {n} of them are not d_model {d}; xlnet reads it"
        ));
    }
    let pooled = matches!(settings.architecture, Architecture::SequenceClassification | Architecture::MultipleChoice);
    if pooled && settings.summary.kind == SummaryType::Attn {
        notes.push("transformers has no pooling by attention (summary_type attn); xlnet reads it".into());
    }
    if model.optimizer.is_some() {
        notes.push("a Hugging Face directory has no place for the optimiser's state, so it was left out".into());
    }
    write_model(dir, config, settings, &weights)?;
    if let Some(tokenizer) = &model.tokenizer {
        write_tokenizer(dir, tokenizer)?;
    }
    Ok(notes)
}

/// `spiece.model` and the settings that make `transformers` clean text as the original does.
fn write_tokenizer(dir: &Path, tokenizer: &TokenizerFiles) -> Result<()> {
    write(&dir.join(VOCABULARY_FILE), &tokenizer.spiece)?;
    let mask = json!({"__type": "AddedToken", "content": "<mask>", "lstrip": true, "normalized": false,
        "rstrip": false, "single_word": false, "special": true});
    let settings = json!({
        "additional_special_tokens": ["<eop>", "<eod>"],
        "bos_token": "<s>",
        "cls_token": "<cls>",
        "do_lower_case": tokenizer.uncased,
        "eos_token": "</s>",
        "keep_accents": tokenizer.keep_accents,
        "mask_token": mask,
        "pad_token": "<pad>",
        "padding_side": "left",
        "remove_space": true,
        "sep_token": "<sep>",
        "tokenizer_class": "XLNetTokenizer",
        "unk_token": "<unk>",
    });
    write(&dir.join(TOKENIZER_FILE), format!("{settings:#}\n").as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, |out| out.write_all(bytes).map_err(|e| Error::io("write", path, e))).map(drop)
}

/// Writes a TensorFlow checkpoint into `dir`, called `model.ckpt-<step>` where there is a state of the optimiser and
/// `xlnet_model.ckpt` else. Returns its prefix and what became of every tensor.
///
/// # Errors
/// When the original cannot compute this model, its head needs a name, or the disk refuses.
pub fn export_tensorflow(dir: &Path, model: &Imported) -> Result<(PathBuf, WrittenOriginal)> {
    fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let name = model.optimizer.as_ref().map_or("xlnet_model.ckpt".into(), |state| format!("model.ckpt-{}", state.step));
    let prefix = dir.join(name);
    let choice = model.settings.architecture == Architecture::MultipleChoice;
    let head = model.head.as_deref().or(choice.then_some("race"));
    let written = write_original(&prefix, &model.config, &model.weights, head, model.optimizer.as_ref())?;
    if let Some(tokenizer) = &model.tokenizer {
        write(&dir.join(VOCABULARY_FILE), &tokenizer.spiece)?;
    }
    Ok((prefix, written))
}
