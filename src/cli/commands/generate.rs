//! `xlnet fill` and `xlnet generate`.

use std::io::Write;

use crate::cli::args::{FillArgs, GenerateArgs, LanguageModelArgs};
use crate::cli::output::print;
use crate::data::text::TextOptions;
use crate::task::generate::{LanguageModel, Sampling};
use crate::train::import::import;

fn open(args: &LanguageModelArgs) -> anyhow::Result<LanguageModel> {
    let text = TextOptions { lower: args.uncased, keep_accents: args.keep_accents, ..TextOptions::default() };
    let model = import(&args.model, &args.sizes.options())?;
    Ok(LanguageModel::of(model, args.spiece_model_file.as_deref(), text, args.device.resolve()?)?)
}

/// Prints likely tokens for each mask.
pub fn fill(args: &FillArgs) -> anyhow::Result<()> {
    let model = open(&args.model)?;
    for (i, guesses) in model.fill(&args.text, args.top_k)?.into_iter().enumerate() {
        print(&format!("mask {i}"));
        for guess in guesses {
            print(&format!("  {:8.6}  {:>6}  {}", guess.probability, guess.id, guess.piece));
        }
    }
    Ok(())
}

/// Prints a continuation, piece by piece.
pub fn generate(args: &GenerateArgs) -> anyhow::Result<()> {
    let model = open(&args.model)?;
    let how = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
        tokens: args.tokens,
        mem_len: args.mem_len,
    };
    let mut out = std::io::stdout();
    let _ = write!(out, "{}", args.text);
    model.generate(&args.text, &how, &mut |id| {
        let piece = model.tokenizer().piece(id).unwrap_or_default().replace('\u{2581}', " ");
        // Nobody reading any more ends it.
        write!(out, "{piece}").and_then(|()| out.flush()).is_ok()
    })?;
    print("");
    Ok(())
}
