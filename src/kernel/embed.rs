//! The templates, compiled into the library: a plain list, which a test compares with the directory.

use std::path::Path;
use std::sync::OnceLock;

use super::Language;

macro_rules! files {
    ($folder:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../", $folder, "/", $name)))),*]
    };
}

/// File name within `shaders/` and content.
const SHADERS: &[(&str, &str)] = files! { "shaders":
    "lib/dropout.wgsl"
    "lib/dropout_rows.wgsl"
    "lib/dtype.wgsl"
    "lib/flat.wgsl"
    "lib/half.wgsl"
    "lib/math.wgsl"
    "lib/reduce.wgsl"
    "lib/rel_attention.wgsl"
    "lib/rel_attention_score.wgsl"
    "lib/rel_attention_tile.wgsl"
    "lib/stored.wgsl"
    "lib/wide.wgsl"
    "activation.wgsl"
    "activation_grad.wgsl"
    "adam.wgsl"
    "cast_half.wgsl"
    "column_sum.wgsl"
    "copy_blocks.wgsl"
    "dropout.wgsl"
    "element_loss.wgsl"
    "fill.wgsl"
    "gather_rows.wgsl"
    "gather_rows_grad.wgsl"
    "gather_rows_grad_links.wgsl"
    "layer_norm.wgsl"
    "layer_norm_grad.wgsl"
    "layer_norm_grad_columns.wgsl"
    "matmul.wgsl"
    "matmul_cooperative.wgsl"
    "mix_rows.wgsl"
    "mix_rows_grad.wgsl"
    "position_encoding.wgsl"
    "rel_attention.wgsl"
    "rel_attention_grad.wgsl"
    "rel_attention_grad_bias.wgsl"
    "rel_attention_grad_bias_sum.wgsl"
    "rel_attention_grad_deltas.wgsl"
    "rel_attention_grad_positions.wgsl"
    "rel_attention_grad_rows.wgsl"
    "rel_attention_rows.wgsl"
    "rel_attention_segments.wgsl"
    "softmax.wgsl"
    "softmax_cross_entropy.wgsl"
    "softmax_grad.wgsl"
    "sum.wgsl"
    "weighted_rows.wgsl"
    "weighted_rows_grad.wgsl"
};

/// File name within `kernels/` and content.
const KERNELS: &[(&str, &str)] = files! { "kernels":
    "lib/dropout.ptx"
    "lib/eights.ptx"
    "lib/element.ptx"
    "lib/flat.ptx"
    "lib/half_tile.ptx"
    "lib/head.ptx"
    "lib/head_sm80.ptx"
    "lib/math.ptx"
    "lib/mma.ptx"
    "lib/octet.ptx"
    "lib/reduce.ptx"
    "lib/rel_attention.ptx"
    "lib/rel_attention_mma.ptx"
    "lib/row.ptx"
    "lib/score.ptx"
    "lib/tile.ptx"
    "lib/wgmma.ptx"
    "activation.ptx"
    "activation_grad.ptx"
    "adam.ptx"
    "adam_all.ptx"
    "cast.ptx"
    "cast_all.ptx"
    "column_sum.ptx"
    "copy_blocks.ptx"
    "dropout.ptx"
    "element_loss.ptx"
    "fill.ptx"
    "gather_rows.ptx"
    "gather_rows_grad.ptx"
    "gather_rows_grad_links.ptx"
    "layer_norm.ptx"
    "layer_norm_grad.ptx"
    "layer_norm_grad_columns.ptx"
    "matmul.ptx"
    "matmul_half.ptx"
    "matmul_volta.ptx"
    "mix_rows.ptx"
    "mix_rows_grad.ptx"
    "position_encoding.ptx"
    "rel_attention.ptx"
    "rel_attention_grad.ptx"
    "rel_attention_grad_bias.ptx"
    "rel_attention_grad_bias_sum.ptx"
    "rel_attention_grad_keys.ptx"
    "rel_attention_grad_positions.ptx"
    "rel_attention_mma.ptx"
    "rel_attention_mma_deltas.ptx"
    "rel_attention_mma_grad.ptx"
    "rel_attention_mma_grad_keys.ptx"
    "rel_attention_mma_grad_positions.ptx"
    "rel_attention_mma_grad_positions_sum.ptx"
    "rel_attention_mma_segments.ptx"
    "rel_attention_rows.ptx"
    "rel_attention_segments.ptx"
    "rel_attention_wgmma.ptx"
    "rel_attention_wgmma_grad_keys.ptx"
    "softmax.ptx"
    "softmax_cross_entropy.ptx"
    "softmax_grad.ptx"
    "square_norm_all.ptx"
    "sum.ptx"
    "weighted_rows.ptx"
    "weighted_rows_grad.ptx"
};

/// Name and content.
type File = (&'static str, &'static str);

/// All files of a language: name within its folder, content. Where `XLNET_TEMPLATES` names a folder, files in its
/// `shaders` and `kernels` take the place of those compiled in, so that a kernel is changed without a build.
pub fn files(language: Language) -> &'static [File] {
    static FILES: [OnceLock<Vec<File>>; 2] = [OnceLock::new(), OnceLock::new()];
    let embedded = match language {
        Language::Wgsl => SHADERS,
        Language::Ptx => KERNELS,
    };
    let Some(folder) = std::env::var_os("XLNET_TEMPLATES") else { return embedded };
    let folder = Path::new(&folder).join(language.folder());
    let read = |&(name, text): &File| {
        let changed = std::fs::read_to_string(folder.join(name)).ok();
        (name, changed.map_or(text, |text| &*text.leak())) // once a process
    };
    FILES[language as usize].get_or_init(|| embedded.iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_the_directories() {
        for language in [Language::Wgsl, Language::Ptx] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(language.folder());
            let mut there = vec![];
            for folder in ["", "lib"] {
                for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
                    if entry.path().is_file() {
                        let name = entry.file_name().to_string_lossy().into_owned();
                        there.push(if folder.is_empty() { name } else { format!("{folder}/{name}") });
                    }
                }
            }
            let mut listed: Vec<&str> = files(language).iter().map(|(name, _)| *name).collect();
            there.sort();
            listed.sort_unstable();
            assert_eq!(listed, there, "{}", language.folder());
        }
    }
}
