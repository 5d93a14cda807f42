//! `xlnet features`.

use std::io::Write;

use anyhow::bail;

use crate::atomic::AtomicFile;
use crate::cli::args::FeaturesDumpArgs;
use crate::data::record_info::Split;
use crate::data::tokenizer::Tokenizer;
use crate::task::config::FinetuneConfig;
use crate::task::encoder::Encoder;
use crate::task::example::Remarks;
use crate::train::keys::Keyed;

/// Writes the features of a set as JSON lines.
pub fn dump(args: FeaturesDumpArgs) -> anyhow::Result<()> {
    let config = FinetuneConfig::load(args.run.as_deref(), args.flags.0)?;
    let task = config.task()?;
    let conversion = config.conversion(&task);
    conversion.validate(&task)?;
    let Some(vocabulary) = &config.spiece_model_file else {
        bail!("spiece_model_file is missing: name the SentencePiece model");
    };
    let tokenizer = Tokenizer::open(vocabulary)?;
    tokenizer.check_special_symbols()?;
    let place = config.place(args.split)?;
    let training = args.split == Split::Train;
    let (mut examples, mut remarks) = task.read(&place, training)?;
    if config.eval_examples > 0 {
        examples.truncate(config.eval_examples);
    }
    let encoder = Encoder { tokenizer: &tokenizer, text: conversion.text() };
    let path = task.file(&place);
    let mut out = Output::new(args.output.as_deref())?;
    let mut number = 0;
    let more = conversion.stream(&task, &examples, &encoder, training, &path, &mut |feature| {
        let json = task.feature_json(&feature, &examples, conversion.total_length(), number);
        number += 1;
        out.line(&json.to_string())
    })?;
    out.finish()?;
    remarks.extend(more);
    eprintln!("{} examples, {number} features", examples.len());
    show_remarks(&remarks);
    Ok(())
}

/// Lists what was left out and what is odd on standard error: all of the first, the beginning of the second.
pub fn show_remarks(remarks: &Remarks) {
    const MOST: usize = 20;
    for (what, all) in [("left out", &remarks.skipped), ("odd", &remarks.odd)] {
        if all.is_empty() {
            continue;
        }
        eprintln!("{} examples {what}:", all.len());
        all.iter().take(MOST).for_each(|remark| eprintln!("  {remark}"));
        if all.len() > MOST {
            eprintln!("  and {} more", all.len() - MOST);
        }
    }
}

/// A file that appears whole, or standard output.
pub enum Output {
    /// The file.
    File(AtomicFile),
    /// Standard output.
    Standard(std::io::BufWriter<std::io::Stdout>),
}

impl Output {
    /// Opens `path`, or standard output without one.
    pub fn new(path: Option<&std::path::Path>) -> crate::Result<Self> {
        Ok(match path {
            Some(path) => Output::File(AtomicFile::create(path)?),
            None => Output::Standard(std::io::BufWriter::new(std::io::stdout())),
        })
    }
    /// Writes a line.
    pub fn line(&mut self, text: &str) -> crate::Result<()> {
        match self {
            Output::File(file) => {
                file.append(text.as_bytes())?;
                file.append(b"\n")
            }
            Output::Standard(out) => {
                writeln!(out, "{text}").map_err(|e| crate::Error::io("write", "standard output", e))
            }
        }
    }
    /// Gives the file its name.
    pub fn finish(self) -> crate::Result<()> {
        match self {
            Output::File(file) => file.commit(),
            Output::Standard(mut out) => out.flush().map_err(|e| crate::Error::io("write", "standard output", e)),
        }
    }
}
