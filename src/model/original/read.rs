//! Variables of the original as our parameters.

use std::collections::{BTreeMap, BTreeSet};

use super::{BETA_POWERS, CHOICE_HEAD, OriginalNames, OriginalVariable, STEP, names_of};
use crate::config::XlnetConfig;
use crate::model::heads::{Classifier, LmHead, SpanHead, Summary, SummaryOptions, SummaryType};
use crate::model::params::TransformerParams;
use crate::model::tensor_source::TensorSource;
use crate::model::tf_bundle::TfBundle;
use crate::model::weights::{ModelWeights, OptimizerKind, OptimizerState, Weight};
use crate::program::Builder;
use crate::tensor::{DType, TensorId};
use crate::{Error, Result};

/// What is wanted of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginalOptions {
    /// Head to read where there are several: `classification_<task>`, `regression_<task>` or `race`.
    pub head: Option<String>,
    /// The one that is taken when it is among several and none is named.
    pub usual_head: Option<String>,
    /// Moments of the optimiser and the number of updates are read too.
    pub optimizer: bool,
}

/// A checkpoint of the original in memory.
#[derive(Clone, Debug)]
pub struct OriginalModel {
    /// All parameters.
    pub weights: ModelWeights,
    /// The head that was read: `classification_<task>`, `regression_<task>` or `race`.
    pub head: Option<String>,
    /// State of the optimiser, where it was wanted and is there.
    pub optimizer: Option<OptimizerState>,
}

/// Every parameter that a checkpoint of the original may have, with its shape.
fn parameters(config: &XlnetConfig, classes: usize) -> Vec<(String, Vec<usize>)> {
    let mut b = Builder::new(DType::F32);
    let transformer = TransformerParams::declare(&mut b, config, true, true);
    LmHead::declare(&mut b, config, transformer.word_embedding);
    Summary::declare(&mut b, config, SummaryOptions { kind: SummaryType::Attn, projection: true });
    Classifier::declare(&mut b, config, "logits_proj", classes);
    SpanHead::declare(&mut b, config, true, true);
    let descs = (0..b.len()).map(|i| b.desc(TensorId(i as u32)));
    descs.map(|desc| (desc.name.clone(), desc.shape.dims().to_vec())).collect()
}

/// The head that a variable is the kernel of.
fn head_of(variable: &str) -> Option<&str> {
    if variable == "logits/dense/kernel" {
        return Some(CHOICE_HEAD);
    }
    let scope = variable.strip_prefix("model/")?.strip_suffix("/logit/kernel")?;
    ["classification_", "regression_"].iter().any(|kind| scope.starts_with(kind)).then_some(scope)
}

/// The variable of its kernel.
fn kernel_of(head: &str) -> String {
    names_of(Some(head)).variable("logits_proj.weight", true).map_or(String::new(), |variable| variable.name)
}

/// Reads a model of the sizes of `config` out of a bundle.
///
/// # Errors
/// When the bundle is damaged, is of other sizes, or lacks the head that is wanted.
pub fn read_original(bundle: &mut TfBundle, config: &XlnetConfig, options: &OriginalOptions) -> Result<OriginalModel> {
    config.validate()?;
    let stored = bundle.names();
    check_layers(bundle, config, &stored)?;
    let heads: Vec<&str> = stored.iter().filter_map(|name| head_of(name)).collect();
    let usual = options.usual_head.as_deref().filter(|usual| heads.contains(usual));
    let head = choose_head(bundle, &heads, options.head.as_deref().or(usual))?;
    let names = names_of(head.as_deref());
    let kernel = head.as_deref().map(kernel_of);
    let classes = kernel.and_then(|kernel| bundle.info(&kernel)).and_then(|info| info.shape.get(1).copied());

    let mut reader = Reader { bundle, config, used: BTreeSet::new() };
    let mut weights = ModelWeights { source: reader.bundle.path().to_owned(), ..Default::default() };
    let parameters = parameters(config, classes.unwrap_or(1));
    for (name, shape) in &parameters {
        if name.starts_with("logits_proj.") && head.is_none() {
            continue;
        }
        let Some(variable) = names.variable(name, config.untie_r) else { continue };
        if let Some(weight) = reader.parameter(&variable.name, &variable, shape)? {
            let row = variable.layer.map_or(String::new(), |i| format!("[{i}]"));
            weights.note_origin(name, &format!("{}{row}", variable.name));
            weights.tensors.insert(name.clone(), weight);
        }
    }
    if weights.tensors.is_empty() {
        let example = stored.first().map_or("nothing", String::as_str);
        let what = format!("has none of XLNet's variables (model/transformer/...); it has {example}");
        return Err(Error::data(reader.bundle.path(), what));
    }
    let optimizer = if options.optimizer { reader.optimizer(&names, &parameters)? } else { None };
    let used = std::mem::take(&mut reader.used);
    for name in stored.iter().filter(|name| !used.contains(*name)) {
        weights.ignored.push((name.clone(), why_ignored(name, config, &heads, options)));
    }
    Ok(OriginalModel { weights, head, optimizer })
}

/// Compares the number of layers before anything of that number is made.
fn check_layers(bundle: &TfBundle, config: &XlnetConfig, stored: &[String]) -> Result<()> {
    let layer = |name: &String| layer_of(name);
    let layers: BTreeSet<usize> = stored.iter().filter_map(layer).collect();
    if layers.is_empty() {
        return Ok(()); // another model's; the reader says so
    }
    let n = config.n_layer;
    match (0..n).find(|layer| !layers.contains(layer)) {
        Some(missing) => {
            let what =
                format!("has no layer {missing} (they count from 0), but n_layer is {n}; is this its configuration?");
            Err(Error::data(bundle.path(), what))
        }
        None => Ok(()),
    }
}

fn layer_of(variable: &str) -> Option<usize> {
    variable.strip_prefix("model/transformer/layer_")?.split('/').next()?.parse().ok()
}

fn choose_head(bundle: &TfBundle, heads: &[&str], wanted: Option<&str>) -> Result<Option<String>> {
    match (wanted, heads) {
        (Some(wanted), _) if heads.contains(&wanted) => Ok(Some(wanted.to_owned())),
        (Some(wanted), _) => {
            let there = if heads.is_empty() { "none".to_owned() } else { heads.join(", ") };
            Err(Error::data(bundle.path(), format!("has no head {wanted}; heads there: {there}")))
        }
        (None, [one]) => Ok(Some((*one).to_owned())),
        (None, _) => Ok(None),
    }
}

fn why_ignored(name: &str, config: &XlnetConfig, heads: &[&str], options: &OriginalOptions) -> String {
    let slot = [OptimizerKind::Adam, OptimizerKind::AdamWeightDecay].iter().flat_map(|kind| kind.slots());
    let state = name == STEP || BETA_POWERS.iter().any(|(power, _)| *power == name);
    let head = heads.iter().find(|head| name.starts_with(kernel_of(head).trim_end_matches("kernel")));
    if state || slot.into_iter().any(|end| name.ends_with(end)) {
        let unwanted = "state of the optimiser, which was not asked for";
        return if options.optimizer { "state of the optimiser without a counterpart" } else { unwanted }.into();
    }
    match (head, layer_of(name)) {
        (Some(head), _) if options.head.is_none() => {
            format!("belongs to {head}, one of several heads ({}); name one to have it", heads.join(", "))
        }
        (Some(head), _) => format!("belongs to another head, {head}"),
        (None, Some(layer)) if layer >= config.n_layer => format!("n_layer is {}", config.n_layer),
        _ => "no parameter of XLNet has this name".into(),
    }
}

struct Reader<'a> {
    bundle: &'a mut TfBundle,
    config: &'a XlnetConfig,
    used: BTreeSet<String>,
}

impl Reader<'_> {
    /// Our parameter of `shape` out of the variable called `name`; `None` when there is no such variable.
    fn parameter(&mut self, name: &str, variable: &OriginalVariable, shape: &[usize]) -> Result<Option<Weight>> {
        let Some(info) = self.bundle.info(name) else { return Ok(None) };
        let mut expected = shape.to_vec();
        if variable.transposed {
            expected.reverse();
        }
        if variable.layer.is_some() {
            expected.insert(0, self.config.n_layer);
        }
        if info.shape != expected {
            let hint = if name.ends_with("_bias") && name.starts_with("model/transformer/r_") {
                format!(" (untie_r is {})", self.config.untie_r)
            } else {
                String::new()
            };
            let what =
                format!("{name} must have shape {expected:?} by its configuration{hint}, but has {:?}", info.shape);
            return Err(Error::data(self.bundle.path(), what));
        }
        let Some(mut values) = self.bundle.read_f32(name)? else {
            let what = format!("{name} must hold floating-point numbers, but holds {}", info.dtype);
            return Err(Error::data(self.bundle.path(), what));
        };
        self.used.insert(name.to_owned());
        if let Some(layer) = variable.layer {
            let length: usize = shape.iter().product();
            values = values[layer * length..][..length].to_vec();
        }
        if variable.transposed {
            return Ok(Some(Weight { shape: expected, values }.transposed()));
        }
        Ok(Some(Weight { shape: shape.to_vec(), values }))
    }

    /// Moments and step; `None` when there are no moments.
    fn optimizer(
        &mut self,
        names: &OriginalNames,
        parameters: &[(String, Vec<usize>)],
    ) -> Result<Option<OptimizerState>> {
        for kind in [OptimizerKind::Adam, OptimizerKind::AdamWeightDecay] {
            let mut moments = [BTreeMap::new(), BTreeMap::new()];
            for (moments, end) in moments.iter_mut().zip(kind.slots()) {
                for (name, shape) in parameters {
                    let Some(variable) = names.variable(name, self.config.untie_r) else { continue };
                    let slot = format!("{}{end}", variable.name);
                    if let Some(weight) = self.parameter(&slot, &variable, shape)? {
                        moments.insert(name.clone(), weight);
                    }
                }
            }
            let [first, second] = moments;
            if !first.is_empty() || !second.is_empty() {
                let step = self.step(kind)?;
                return Ok(Some(OptimizerState { step, kind: Some(kind), first, second }));
            }
        }
        Ok(None)
    }

    fn step(&mut self, kind: OptimizerKind) -> Result<u64> {
        let step = self.bundle.read_i64(STEP)?;
        let step = step.ok_or_else(|| Error::data(self.bundle.path(), format!("has moments, but no {STEP}")))?;
        self.used.insert(STEP.to_owned());
        let wrong = || Error::data(self.bundle.path(), format!("{STEP} must not be negative, but is {step}"));
        let step = u64::try_from(step).map_err(|_| wrong())?;
        for (name, beta) in BETA_POWERS.iter().filter(|_| kind == OptimizerKind::Adam) {
            if self.bundle.info(name).is_none() {
                continue;
            }
            let power = self.bundle.read_f32(name)?.and_then(|values| values.first().copied()).unwrap_or(0.0);
            self.used.insert((*name).to_owned());
            let expected = beta.powf(step as f64 + 1.0);
            // Tiny powers have lost their bits, and correct nothing any more.
            if (f64::from(power) - expected).abs() > 1e-3 * expected && expected.max(f64::from(power)) > 1e-4 {
                tracing::warn!(
                    "{name} is {power}, but {expected:e} belongs to step {step}: bias correction will differ"
                );
            }
        }
        Ok(step)
    }
}
