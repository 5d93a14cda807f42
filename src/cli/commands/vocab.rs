//! `xlnet vocab`.

use std::io::BufRead;

use crate::cli::args::{Pieces, VocabEncodeArgs, VocabTrainArgs};
use crate::cli::output::print;
use crate::data::text::{TextOptions, preprocess_text};
use crate::data::tokenizer::Tokenizer;
use crate::data::vocab::{ModelType, VocabOptions, train_vocab};

/// Trains a vocabulary.
pub fn train(args: &VocabTrainArgs) -> anyhow::Result<()> {
    let clean = TextOptions { lower: args.uncased, ..TextOptions::default() };
    let options = VocabOptions {
        inputs: args.input.clone(),
        vocab_size: args.vocab_size,
        character_coverage: args.character_coverage,
        model_type: match args.model_type {
            Pieces::Unigram => ModelType::Unigram,
            Pieces::Bpe => ModelType::Bpe,
        },
        input_sentence_size: args.input_sentence_size,
        seed: args.seed,
        max_sentence_length: args.max_sentence_length,
        threads: args.threads,
        hard_vocab_limit: !args.soft_limit,
        preprocess: args.preprocess.then_some(clean),
        ..VocabOptions::default()
    };
    let made = train_vocab(&options, &args.output)?;
    print(&format!("{}: {} pieces from {} lines", args.output.display(), made.vocab_size, made.lines));
    for (count, what) in [(made.too_long, "were too long and left out"), (made.not_utf8, "were not UTF-8 and repaired")]
    {
        if count > 0 {
            print(&format!("  {count} lines {what}"));
        }
    }
    Ok(())
}

/// Prints each text's pieces, then its ids.
pub fn encode(args: &VocabEncodeArgs) -> anyhow::Result<()> {
    let tokenizer = Tokenizer::open(&args.model)?;
    let clean = TextOptions { lower: args.uncased, keep_accents: args.keep_accents, ..TextOptions::default() };
    let show = |text: &str| -> anyhow::Result<()> {
        let tokens = tokenizer.encode_with_offsets(&preprocess_text(text, &clean))?;
        let join = |words: Vec<String>| words.join(" ");
        print(&join(tokens.iter().map(|t| t.piece.clone()).collect()));
        print(&join(tokens.iter().map(|t| t.id.to_string()).collect()));
        Ok(())
    };
    if !args.text.is_empty() {
        return args.text.iter().try_for_each(|text| show(text));
    }
    for line in std::io::stdin().lock().lines() {
        show(&line.map_err(|e| anyhow::anyhow!("cannot read standard input: {e}; it must be UTF-8 text"))?)?;
    }
    Ok(())
}
