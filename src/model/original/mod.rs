//! The original TensorFlow program: names and layouts of its variables, its checkpoints in and out.

mod clean;
mod place;
mod read;
mod write;

pub use clean::{Cleaned, clean_bundle};
pub use place::{config_beside, find_bundle};
pub use read::{OriginalModel, OriginalOptions, read_original};
pub use write::{WrittenOriginal, write_original};

use super::weights::OptimizerKind;

/// Name of the configuration beside a released checkpoint.
pub const ORIGINAL_CONFIG_FILE: &str = "xlnet_config.json";
/// The file in which TensorFlow notes a directory's newest checkpoint.
pub const CHECKPOINT_FILE: &str = "checkpoint";
/// How we call the head that chooses one of several texts, whose variables have no task in their names.
const CHOICE_HEAD: &str = "race";
/// Number of updates.
const STEP: &str = "global_step";
/// Powers of Adam's decays, one more than there were updates.
const BETA_POWERS: [(&str, f64); 2] = [("beta1_power", 0.9), ("beta2_power", 0.999)];

impl OptimizerKind {
    /// Ends of the names of both moments.
    fn slots(self) -> [&'static str; 2] {
        match self {
            OptimizerKind::Adam => ["/Adam", "/Adam_1"],
            OptimizerKind::AdamWeightDecay => ["/adam_m", "/adam_v"],
        }
    }
}

/// Names for a head: `classification_<task>`, `regression_<task>` or `race`.
fn names_of(head: Option<&str>) -> OriginalNames {
    OriginalNames { head: head.filter(|head| *head != CHOICE_HEAD).map(str::to_owned) }
}

/// Where a parameter's values lie in a checkpoint of the original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalVariable {
    /// Variable name.
    pub name: String,
    /// Row of the variable's first dimension that belongs to this layer (untied biases, segment embeddings).
    pub layer: Option<usize>,
    /// Our matrix is the transpose of the variable.
    pub transposed: bool,
}

/// Names that depend on the task a model was fine-tuned for.
#[derive(Clone, Debug, Default)]
pub struct OriginalNames {
    /// Scope of the pooled head, for example `classification_imdb` or `regression_sts-b`; `None` for RACE.
    pub head: Option<String>,
}

impl OriginalNames {
    /// The variable that holds our parameter `param`; `None` when the original has no such parameter. `untied` says
    /// whether every layer has attention biases of its own.
    pub fn variable(&self, param: &str, untied: bool) -> Option<OriginalVariable> {
        let plain = |name: String| Some(OriginalVariable { name, layer: None, transposed: false });
        let sliced = |name: &str, i| {
            Some(OriginalVariable { name: format!("model/transformer/{name}"), layer: Some(i), transposed: false })
        };
        if let Some(rest) = param.strip_prefix("transformer.layer.") {
            let (index, rest) = rest.split_once('.')?;
            let i: usize = index.parse().ok()?;
            let layer = format!("model/transformer/layer_{i}");
            return match rest {
                "rel_attn.seg_embed" => sliced("seg_embed", i),
                "rel_attn.r_w_bias" | "rel_attn.r_r_bias" | "rel_attn.r_s_bias" if untied => {
                    sliced(rest.strip_prefix("rel_attn.")?, i)
                }
                "rel_attn.layer_norm.weight" => plain(format!("{layer}/rel_attn/LayerNorm/gamma")),
                "rel_attn.layer_norm.bias" => plain(format!("{layer}/rel_attn/LayerNorm/beta")),
                "ff.layer_norm.weight" => plain(format!("{layer}/ff/LayerNorm/gamma")),
                "ff.layer_norm.bias" => plain(format!("{layer}/ff/LayerNorm/beta")),
                "ff.layer_1.weight" | "ff.layer_1.bias" | "ff.layer_2.weight" | "ff.layer_2.bias" => {
                    dense(&format!("{layer}/ff/{}", rest.split('.').nth(1)?), rest)
                }
                _ => plain(format!("{layer}/rel_attn/{}/kernel", rest.strip_prefix("rel_attn.")?)),
            };
        }
        match param {
            "transformer.word_embedding.weight" => plain("model/transformer/word_embedding/lookup_table".into()),
            "transformer.mask_emb" => plain("model/transformer/mask_emb/mask_emb".into()),
            "transformer.r_w_bias" | "transformer.r_r_bias" | "transformer.r_s_bias" => {
                plain(param.replace("transformer.", "model/transformer/"))
            }
            "lm_loss.bias" => plain("model/lm_loss/bias".into()),
            "sequence_summary.summary.weight" | "sequence_summary.summary.bias" => {
                dense("model/sequnece_summary/summary", param) // the original's spelling
            }
            "sequence_summary.summary_bias" => plain("model/sequnece_summary/summary_bias".into()),
            "sequence_summary.abs_attn.layer_norm.weight" => {
                plain("model/sequnece_summary/abs_attn/LayerNorm/gamma".into())
            }
            "sequence_summary.abs_attn.layer_norm.bias" => {
                plain("model/sequnece_summary/abs_attn/LayerNorm/beta".into())
            }
            "logits_proj.weight" | "logits_proj.bias" => match &self.head {
                Some(scope) => dense(&format!("model/{scope}/logit"), param),
                None => dense("logits/dense", param),
            },
            "end_logits.LayerNorm.weight" => plain("end_logits/LayerNorm/gamma".into()),
            "end_logits.LayerNorm.bias" => plain("end_logits/LayerNorm/beta".into()),
            _ => {
                if let Some(part) = param.strip_prefix("sequence_summary.abs_attn.") {
                    return plain(format!("model/sequnece_summary/abs_attn/{part}/kernel"));
                }
                let (layer, _) = param.rsplit_once('.')?;
                let known = ["start_logits.", "end_logits.", "answer_class."].iter().any(|p| param.starts_with(p));
                if known { dense(&layer.replace('.', "/"), param) } else { None }
            }
        }
    }
}

/// Kernel or bias of a dense layer, told by the end of our name; kernels are stored `[inputs, outputs]` there.
fn dense(layer: &str, param: &str) -> Option<OriginalVariable> {
    let kernel = param.ends_with(".weight");
    let name = format!("{layer}/{}", if kernel { "kernel" } else { "bias" });
    Some(OriginalVariable { name, layer: None, transposed: kernel })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_original() {
        let names = OriginalNames { head: Some("classification_imdb".into()) };
        let of = |param: &str| names.variable(param, true).map(|v| (v.name, v.layer, v.transposed));
        let plain = |name: &str| Some((name.to_owned(), None, false));
        let kernel = |name: &str| Some((name.to_owned(), None, true));
        assert_eq!(of("transformer.layer.3.rel_attn.q"), plain("model/transformer/layer_3/rel_attn/q/kernel"));
        assert_eq!(
            of("transformer.layer.10.ff.layer_2.weight"),
            kernel("model/transformer/layer_10/ff/layer_2/kernel")
        );
        assert_eq!(
            of("transformer.layer.1.rel_attn.r_s_bias"),
            Some(("model/transformer/r_s_bias".to_owned(), Some(1), false))
        );
        assert_eq!(of("logits_proj.bias"), plain("model/classification_imdb/logit/bias"));
        assert_eq!(of("end_logits.dense_0.weight"), kernel("end_logits/dense_0/kernel"));
        assert_eq!(of("sequence_summary.abs_attn.q"), plain("model/sequnece_summary/abs_attn/q/kernel"));
        assert_eq!(of("classifier.weight"), None);
    }
}
