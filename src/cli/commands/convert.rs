//! `xlnet convert`.

use std::path::Path;

use crate::cli::checkpoint_args::{ConvertArgs, ResultArgs, Target};
use crate::cli::output::print;
use crate::train::export::{export_hugging_face, export_tensorflow, new_directory};
use crate::train::import::{Imported, TokenizerFiles, import};

/// Converts as the arguments say; prints what became of every tensor.
pub fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let mut model = import(&args.input, &args.source.options(args.optimizer))?;
    if args.optimizer && model.optimizer.is_none() {
        anyhow::bail!("{} has no state of the optimiser; drop --optimizer", args.input.display());
    }
    if model.head.is_none() {
        model.head.clone_from(&args.source.head);
    }
    new_directory(&args.output)?;
    export(&args.output, model, args.to, &args.result)
}

/// Writes `model` and prints an account of it.
pub fn export(output: &Path, mut model: Imported, to: Target, result: &ResultArgs) -> anyhow::Result<()> {
    if let Some(path) = &result.sp_path {
        model.tokenizer = Some(TokenizerFiles::read(path)?);
    }
    if let Some(tokenizer) = &mut model.tokenizer {
        tokenizer.uncased |= result.uncased;
        tokenizer.keep_accents |= result.keep_accents;
    }
    let model = &model;
    print(&account(model));
    match to {
        Target::HuggingFace => {
            let notes = export_hugging_face(output, model)?;
            notes.iter().for_each(|note| print(&format!("note: {note}")));
            let class = model.settings.architecture.name();
            print(&format!("wrote {}: {class}, {} tensors", output.display(), model.weights.tensors.len()));
        }
        Target::TensorFlow => {
            let (prefix, written) = export_tensorflow(output, model)?;
            written.skipped.iter().for_each(|(name, why)| print(&format!("note: {name} was not written: {why}")));
            let mut variables: Vec<&str> =
                written.written.iter().map(|(_, v)| v.split('[').next().unwrap_or_default()).collect();
            variables.sort_unstable();
            variables.dedup();
            print(&format!("wrote {}: {} variables of the original", prefix.display(), variables.len()));
        }
    }
    if model.tokenizer.is_none() {
        print("no vocabulary: name one with --sp_path to have it beside the model");
    }
    Ok(())
}

/// One line a tensor, and the counts.
fn account(model: &Imported) -> String {
    let weights = &model.weights;
    let width = weights.tensors.keys().map(String::len).max().unwrap_or(0);
    let mut lines: Vec<String> =
        weights.tensors.keys().map(|name| format!("{name:width$}  loaded from {}", weights.origin(name))).collect();
    lines.extend(weights.ignored.iter().map(|(name, why)| format!("{name:width$}  skipped ({why})")));
    let (loaded, skipped) = (weights.tensors.len(), weights.ignored.len());
    lines.push(format!("{}: {}, {loaded} loaded, {skipped} skipped", model.path.display(), model.format));
    lines.join("\n")
}
