//! The templates, compiled into the library: a plain list, which a test compares with the directory.

use super::Language;

macro_rules! files {
    ($folder:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../", $folder, "/", $name)))),*]
    };
}

/// File name within `shaders/` and content.
const SHADERS: &[(&str, &str)] = files! { "shaders":
    "lib/dropout.wgsl"
    "lib/dtype.wgsl"
    "lib/flat.wgsl"
    "lib/math.wgsl"
    "activation.wgsl"
    "activation_grad.wgsl"
    "copy_blocks.wgsl"
    "dropout.wgsl"
    "fill.wgsl"
    "gather_rows.wgsl"
};

/// File name within `kernels/` and content.
const KERNELS: &[(&str, &str)] = &[];

/// All files of a language: name within its folder, content.
pub fn files(language: Language) -> &'static [(&'static str, &'static str)] {
    match language {
        Language::Wgsl => SHADERS,
        Language::Ptx => KERNELS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

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
            (there.sort(), listed.sort_unstable());
            assert_eq!(listed, there, "{}", language.folder());
        }
    }
}
