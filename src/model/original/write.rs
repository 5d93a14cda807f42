//! Bundles under the original's names.

use std::collections::BTreeMap;
use std::path::Path;

use super::{BETA_POWERS, CHECKPOINT_FILE, ORIGINAL_CONFIG_FILE, STEP, names_of};
use crate::atomic::directory_of;
use crate::config::{FeedForwardActivation, XlnetConfig};
use crate::model::tensor_file::write_file;
use crate::model::tf_bundle::{BundleTensor, write_bundle};
use crate::model::weights::{ModelWeights, OptimizerKind, OptimizerState, Weight, layer_of};
use crate::{Error, Result};

/// What was written under which name, and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenOriginal {
    /// Our parameter and the variable that holds it.
    pub written: Vec<(String, String)>,
    /// Tensors that the original has no variable for, with the reason.
    pub skipped: Vec<(String, String)>,
}

/// A variable and the parameters that it is made of.
struct Variable<'a> {
    /// Every layer is a row of it.
    stacked: bool,
    transposed: bool,
    parts: Vec<&'a Weight>,
}

impl Variable<'_> {
    fn tensor(&self) -> BundleTensor {
        let part = |weight: &Weight| if self.transposed { weight.transposed() } else { weight.clone() };
        let parts: Vec<Weight> = self.parts.iter().copied().map(part).collect();
        let mut shape = parts.first().map_or(vec![], |part| part.shape.clone());
        if self.stacked {
            shape.insert(0, parts.len());
        }
        BundleTensor::F32 { shape, values: parts.into_iter().flat_map(|part| part.values).collect() }
    }
}

/// Writes a bundle called `prefix` under the original's names, `xlnet_config.json` and `checkpoint` beside it. `head`
/// names the scope of a pooled head: `classification_<task>`, `regression_<task>` or `race`.
///
/// # Errors
/// When the original cannot compute this model, a layer is missing, a head has no name, or the disk refuses.
pub fn write_original(
    prefix: &Path,
    config: &XlnetConfig,
    weights: &ModelWeights,
    head: Option<&str>,
    optimizer: Option<&OptimizerState>,
) -> Result<WrittenOriginal> {
    if config.ff_activation == FeedForwardActivation::GeluErf {
        return Err(Error::config(
            "the original's gelu is the tanh form, and this model's is the erf form (the gelu of Hugging Face's \
             config.json); where that was never meant, as in models converted from the original, say --ff_activation \
             gelu",
        ));
    }
    if weights.tensors.contains_key("logits_proj.weight") && head.is_none() {
        return Err(Error::config(
            "the original gives logits_proj another name for each task; say which, for example --head \
             classification_imdb, --head regression_sts-b or --head race",
        ));
    }
    let names = names_of(head);
    let mut report = WrittenOriginal::default();
    let mut variables = BTreeMap::new();
    let nothing = BTreeMap::new();
    let kind = optimizer.map(|state| state.kind.unwrap_or(OptimizerKind::Adam));
    let slots = kind.map_or([""; 2], OptimizerKind::slots);
    let (first, second) = optimizer.map_or((&nothing, &nothing), |state| (&state.first, &state.second));
    for (tensors, end) in [(&weights.tensors, ""), (first, slots[0]), (second, slots[1])] {
        for (name, weight) in in_layer_order(tensors) {
            if layer_of(name).is_some_and(|layer| layer >= config.n_layer) {
                report.skipped.push((name.clone(), format!("n_layer is {}", config.n_layer)));
                continue;
            }
            let Some(variable) = names.variable(name, config.untie_r) else {
                report.skipped.push((name.clone(), "the original has no such variable".into()));
                continue;
            };
            let stored = format!("{}{end}", variable.name);
            if end.is_empty() {
                let row = variable.layer.map_or(String::new(), |layer| format!("[{layer}]"));
                report.written.push((name.clone(), format!("{stored}{row}")));
            }
            let new = Variable { stacked: variable.layer.is_some(), transposed: variable.transposed, parts: vec![] };
            let parts = &mut variables.entry(stored.clone()).or_insert(new).parts;
            if let Some(layer) = variable.layer.filter(|layer| *layer != parts.len()) {
                let what = format!("{stored} needs every layer, but {} is missing before {layer}", parts.len());
                return Err(Error::data(&weights.source, what));
            }
            parts.push(weight);
        }
    }
    for (stored, variable) in variables.iter().filter(|(_, variable)| variable.stacked) {
        let (got, n) = (variable.parts.len(), config.n_layer);
        if got != n {
            return Err(Error::data(&weights.source, format!("{stored} needs all {n} layers, but {got} are there")));
        }
    }
    let mut scalars = BTreeMap::new();
    if let Some(state) = optimizer {
        scalars.insert(STEP, BundleTensor::I64(state.step as i64));
        for (name, beta) in BETA_POWERS.into_iter().filter(|_| kind == Some(OptimizerKind::Adam)) {
            let power = beta.powf(state.step as f64 + 1.0) as f32;
            scalars.insert(name, BundleTensor::F32 { shape: vec![], values: vec![power] });
        }
    }
    let all: Vec<String> = variables.keys().cloned().chain(scalars.keys().map(|name| (*name).to_owned())).collect();
    let missing = |name: &str| Error::config(format!("{name} was not prepared"));
    write_bundle(prefix, &all, |name| {
        let variable = variables.get(name).map(Variable::tensor);
        variable.or_else(|| scalars.get(name).cloned()).ok_or_else(|| missing(name))
    })?;
    write_notes(prefix, config)?;
    Ok(report)
}

/// Names sorted so that layers follow each other by number.
fn in_layer_order(tensors: &BTreeMap<String, Weight>) -> Vec<(&String, &Weight)> {
    let mut all: Vec<_> = tensors.iter().collect();
    all.sort_by_key(|(name, _)| layer_of(name));
    all
}

fn write_notes(prefix: &Path, config: &XlnetConfig) -> Result<()> {
    let json = serde_json::to_value(config).map_err(|e| Error::config(format!("sizes are not JSON: {e}")))?;
    write_whole(&directory_of(prefix).join(ORIGINAL_CONFIG_FILE), format!("{json:#}").as_bytes())?;
    write_note(prefix)
}

/// Notes in the file `checkpoint` that `prefix` is the newest of its directory.
pub(super) fn write_note(prefix: &Path) -> Result<()> {
    let name = prefix.file_name().unwrap_or_default().to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    let note = format!("model_checkpoint_path: \"{name}\"\nall_model_checkpoint_paths: \"{name}\"\n");
    write_whole(&directory_of(prefix).join(CHECKPOINT_FILE), note.as_bytes())
}

pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, |out| out.write_all(bytes).map_err(|e| Error::io("write", path, e))).map(drop)
}
