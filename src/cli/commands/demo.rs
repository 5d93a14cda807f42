//! `xlnet demo`: from text to a trained model by the same functions as the single commands.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::{corpus, pretrain};
use crate::cli::args::DemoArgs;
use crate::cli::output::print;
use crate::cli::run::Done;
use crate::data::corpus::CorpusOptions;
use crate::data::text::TextOptions;
use crate::data::tokenizer::Tokenizer;
use crate::data::vocab::{VocabOptions, train_vocab};
use crate::train::keys::Keyed;
use crate::train::run_config::RunConfig;
use crate::train::run_plan::RunPlan;

/// Where text is looked for when none is named: this repository's own documents and sources.
const PATTERNS: [&str; 5] = ["*.md", "docs/**/*.md", "src/**/*.rs", "crates/**/*.rs", "tests/*.rs"];

const SEQ_LEN: usize = 128; // tokens
const BATCH: usize = 8; // sequences

/// Runs all three steps.
pub fn run(args: &DemoArgs) -> anyhow::Result<Done> {
    let inputs = if args.input.is_empty() { own_text()? } else { args.input.clone() };
    let out = &args.output;
    let (run_file, model_dir) = (out.join("demo.toml"), out.join("model"));
    if model_dir.exists() {
        bail!(
            "{} holds an earlier run; `xlnet pretrain {}` goes on with it, --output makes another",
            model_dir.display(),
            quote(&run_file)
        );
    }
    std::fs::create_dir_all(out).map_err(|e| crate::Error::io("create", out, e))?;
    let inputs_text = inputs.iter().map(|path| quote(path)).collect::<Vec<_>>().join(" ");
    let inputs_text = if inputs.len() > 4 { format!("<{} files>", inputs.len()) } else { inputs_text };

    let model = out.join("spiece.model");
    print(&format!(
        "$ xlnet vocab train --input {inputs_text} --output {} --vocab-size {} --soft-limit --preprocess",
        quote(&model),
        args.vocab_size
    ));
    let vocabulary = VocabOptions {
        inputs: inputs.clone(),
        vocab_size: args.vocab_size,
        hard_vocab_limit: false,
        preprocess: Some(TextOptions::default()),
        ..VocabOptions::default()
    };
    let made = train_vocab(&vocabulary, &model)?;
    print(&format!("{} pieces from {} lines\n", made.vocab_size, made.lines));

    let corpus_dir = out.join("corpus");
    print(&format!(
        "$ xlnet corpus build --input {inputs_text} --sp_path {} --save_dir {} --nouncased --lossy \\\n    \
         --bsz_per_host {BATCH} --seq_len {SEQ_LEN}",
        quote(&model),
        quote(&corpus_dir)
    ));
    let options = CorpusOptions {
        inputs,
        sp_path: model.display().to_string(),
        save_dir: corpus_dir.clone(),
        bsz_per_host: BATCH,
        seq_len: SEQ_LEN,
        reuse_len: SEQ_LEN / 2,
        num_predict: Some(SEQ_LEN / 6),
        uncased: false,
        lossy: true,
        ..CorpusOptions::default()
    };
    let tokenizer = Tokenizer::open(&model)?;
    corpus::print_report(&corpus::build_with_bar(&options, &tokenizer)?);

    let config = settings(args, &corpus_dir.join("tfrecords"));
    write(&run_file, &config)?;
    print(&format!("\n$ xlnet pretrain {}", quote(&run_file)));
    let done = pretrain::pretrain(RunPlan::new(config)?)?;
    print(&format!("\nmetrics and loss.svg are in {}", quote(&model_dir)));
    Ok(done)
}

fn settings(args: &DemoArgs, records: &Path) -> RunConfig {
    RunConfig {
        record_info_dir: crate::train::keys::Paths(vec![records.to_owned()]),
        model_dir: args.output.join("model"),
        mem_len: SEQ_LEN / 2,
        train_steps: args.train_steps,
        warmup_steps: (args.train_steps / 10).min(30),
        learning_rate: 1e-3,
        n_layer: Some(4),
        d_model: Some(128),
        n_head: Some(4),
        d_head: Some(32),
        d_inner: Some(512),
        untie_r: Some(true),
        ff_activation: Some(crate::config::FeedForwardActivation::Gelu),
        iterations: (args.train_steps / 20).max(1),
        save_steps: args.train_steps.div_ceil(3).max(1),
        device: args.device.to_string(),
        ..RunConfig::default()
    }
}

fn write(path: &Path, config: &RunConfig) -> crate::Result<()> {
    let mut file = crate::atomic::AtomicFile::create(path)?;
    file.append(config.to_toml()?.as_bytes())?;
    file.commit()
}

fn own_text() -> anyhow::Result<Vec<PathBuf>> {
    let mut files = vec![];
    for pattern in PATTERNS {
        files.extend(corpus::matching(pattern)?);
    }
    if files.is_empty() {
        bail!("there is no text here (looked for {}); name some with --input FILE...", PATTERNS.join(", "));
    }
    Ok(files)
}

/// A path as a shell reads it.
fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
