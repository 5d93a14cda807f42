//! The house rules that a compiler does not check.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Modules of this crate that a file names after `crate::`.
fn modules_named(text: &str) -> Vec<&str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.match_indices("crate::").map(|(at, _)| &line[at + 7..]))
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default())
        .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect()
}

/// tensor <- op <- program <- backend, and tensor <- op <- program <- model <- train <- task <- cli: model code never
/// names a backend, a backend never names a model, data stands alone.
#[test]
fn dependence_runs_one_way() {
    let allowed: [(&str, &[&str]); 11] = [
        ("tensor", &[]),
        ("op", &["tensor", "op"]),
        ("program", &["tensor", "op", "program"]),
        ("kernel", &["tensor", "op", "kernel"]),
        ("backend", &["tensor", "op", "program", "kernel", "backend"]),
        ("distributed", &["tensor", "op", "program", "backend", "distributed"]),
        ("config", &["op"]),
        ("model", &["tensor", "op", "program", "config", "model"]),
        ("data", &["data"]),
        ("train", &["tensor", "op", "program", "backend", "config", "model", "data", "distributed", "train"]),
        ("task", &["tensor", "op", "program", "backend", "config", "model", "data", "distributed", "train", "task"]),
    ];
    let source = root().join("src");
    let mut files = vec![];
    rust_files(&source, &mut files);
    let mut checked = 0;
    for file in &files {
        let relative = file.strip_prefix(&source).expect("a file of src");
        let module = relative.iter().next().expect("a name").to_string_lossy().replace(".rs", "");
        let Some((_, allowed)) = allowed.iter().find(|(name, _)| *name == module) else { continue };
        checked += 1;
        let text = fs::read_to_string(file).expect("a source file");
        for named in modules_named(&text) {
            // Files that appear whole or not at all, sizes in messages, TensorFlow's check sum: everyone's.
            let free = ["atomic", "size", "checksum"].contains(&named);
            assert!(free || allowed.contains(&named), "{} names crate::{named}", relative.display());
        }
    }
    assert!(checked > 20, "only {checked} files were checked");
}

/// Every public op has its name in the table once, and its name is the stem of its files.
#[test]
fn op_names_are_unique_stems() {
    let names = xlnet::op::Op::NAMES;
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), names.len());
    assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')));
}
