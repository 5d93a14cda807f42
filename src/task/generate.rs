//! A language model at work: likely tokens for masked places, and continuations of a text.

use std::path::Path;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::encoder::Encoder;
use crate::backend::Device;
use crate::data::special::{CLS, EOD, MASK, SEP};
use crate::data::text::TextOptions;
use crate::data::tokenizer::{SPACE_MARK, Tokenizer};
use crate::model::{MaskKind, QueryKind, TransformerOptions};
use crate::tensor::DType;
use crate::train::import::{ImportOptions, Imported, import};
use crate::train::load::LoadOptions;
use crate::train::session::Session;
use crate::train::step::{Objective, StepOptions};
use crate::{Error, Result};

/// How masked places are written in a text.
pub const MASK_TEXT: &str = "<mask>";

/// A pretrained language model on the host.
pub struct LanguageModel {
    model: Imported,
    tokenizer: Tokenizer,
    text: TextOptions,
    device: Device,
}

/// A token that may stand in a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Guess {
    /// Its id.
    pub id: u32,
    /// Its piece.
    pub piece: String,
    /// Its share among all pieces.
    pub probability: f32,
}

/// How the next token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 always takes the most likely token.
    pub temperature: f32,
    /// Only the most likely so many; 0 is all.
    pub top_k: usize,
    /// Only the most likely that together have this share.
    pub top_p: f32,
    /// Of the drawing.
    pub seed: u64,
    /// Tokens to write at most.
    pub tokens: usize,
    /// Tokens of earlier text that are remembered: time and memory grow with it, not with the text.
    pub mem_len: usize,
}

impl LanguageModel {
    /// Opens any checkpoint of a pretrained model with its vocabulary, or the one that is named.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the model has no language model's output layer.
    pub fn open(named: &Path, vocabulary: Option<&Path>, text: TextOptions, device: Device) -> Result<Self> {
        Self::of(import(named, &ImportOptions::default())?, vocabulary, text, device)
    }

    /// [`LanguageModel::open`] of a model that is read already.
    ///
    /// # Errors
    /// Those of [`LanguageModel::open`].
    pub fn of(model: Imported, vocabulary: Option<&Path>, text: TextOptions, device: Device) -> Result<Self> {
        for needed in ["transformer.mask_emb", "lm_loss.bias"] {
            if !model.weights.tensors.contains_key(needed) {
                let what = format!("has no {needed}: a pretrained language model is needed, not a fine-tuned one");
                return Err(Error::data(&model.path, what));
            }
        }
        let tokenizer = model.open_tokenizer(vocabulary)?;
        Ok(LanguageModel { model, tokenizer, text, device })
    }

    fn session(&self, length: usize, query: QueryKind, memory: usize, reuse_len: usize) -> Result<Session> {
        let options = self.step_options(length, query, memory, reuse_len);
        let mut session = Session::new(&self.model.config, options, self.device, 0)?;
        let (program, exec) = session.parts();
        self.model.load_into(exec, program, &LoadOptions::default())?;
        Ok(session)
    }
    fn step_options(&self, length: usize, query: QueryKind, memory: usize, reuse_len: usize) -> StepOptions {
        let transformer = TransformerOptions {
            batch: 1,
            length,
            memory,
            mem_len: memory,
            reuse_len: Some(reuse_len),
            clamp_len: self.model.settings.clamp_len,
            mask: MaskKind::Ranks,
            query,
            layer_norm_eps: self.model.settings.layer_norm_eps,
            ..TransformerOptions::default()
        };
        StepOptions { transformer, objective: Objective::Logits, accumulate: 1, float: DType::F32, optimizer: None }
    }

    /// Ids of a text in which `<mask>` stands for one token.
    fn masked_ids(&self, text: &str) -> Result<Vec<i32>> {
        let encoder = Encoder { tokenizer: &self.tokenizer, text: self.text };
        let mut ids = vec![];
        for (i, part) in text.split(MASK_TEXT).enumerate() {
            if i > 0 {
                ids.push(MASK);
            }
            let mut tokens = encoder.tokens(part)?;
            // The vocabulary begins every text with a space, which is not there after a mask.
            if i > 0
                && !part.starts_with(char::is_whitespace)
                && let Some(first) = tokens.first_mut()
                && let Some(rest) = first.piece.strip_prefix(SPACE_MARK)
            {
                match self.tokenizer.id(rest) {
                    _ if rest.is_empty() => drop(tokens.remove(0)),
                    Some(id) => first.id = id,
                    None => {}
                }
            }
            ids.extend(tokens.iter().map(|token| token.id as i32));
        }
        Ok(ids)
    }

    /// The `count` most likely tokens of every `<mask>` of a text, each judged with all masked places hidden.
    ///
    /// # Errors
    /// When there is no mask, or the device fails.
    pub fn fill(&self, text: &str, count: usize) -> Result<Vec<Vec<Guess>>> {
        let mut ids = self.masked_ids(text)?;
        let targets: Vec<usize> = (0..ids.len()).filter(|&i| ids[i] == MASK).collect();
        if targets.is_empty() {
            return Err(Error::config(format!("there is no {MASK_TEXT} in the text {text:?}")));
        }
        let mut segments = vec![0; ids.len()];
        ids.extend([SEP, CLS]);
        segments.extend([0, 2]);
        let length = ids.len();
        let mut session = self.session(length, QueryKind::Targets(targets.len()), 0, 0)?;
        // Nobody sees a masked place; everybody sees the rest.
        let ranks: Vec<i32> = (0..length).map(|i| if targets.contains(&i) { 1 } else { -1 }).collect();
        let positions: Vec<i32> = targets.iter().map(|&at| at as i32).collect();
        session.input_i32("input_ids", &ids)?;
        session.input_i32("segment_ids", &segments)?;
        session.input_i32("query_rank", &vec![0; length])?;
        session.input_i32("key_rank", &ranks)?;
        session.input_i32("target_positions", &positions)?;
        session.exec().run_phase("forward")?;
        let out = session.program().outputs[0];
        let logits = session.exec().download_f32(out)?; // [T, V]
        Ok(logits.chunks(self.model.config.n_token).map(|logits| self.guesses(logits, count)).collect())
    }

    fn guesses(&self, logits: &[f32], count: usize) -> Vec<Guess> {
        let shares = shares(logits, 1.0);
        let mut order: Vec<usize> = (0..shares.len().min(self.tokenizer.vocab_size())).collect();
        order.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]));
        let guess = |id: usize| Guess {
            id: id as u32,
            piece: self.tokenizer.piece(id as u32).unwrap_or_default().to_owned(),
            probability: shares[id],
        };
        order.into_iter().take(count).map(guess).collect()
    }

    /// Continues a text; `each` gets every new token's id and may stop by returning false. Memories of the text before
    /// make every token cost the same. Returns the new text.
    ///
    /// # Errors
    /// When the text is empty, or the device fails.
    pub fn generate(&self, text: &str, how: &Sampling, each: &mut dyn FnMut(u32) -> bool) -> Result<String> {
        const CHUNK: usize = 64; // tokens of the text that are read at once
        let encoder = Encoder { tokenizer: &self.tokenizer, text: self.text };
        let ids = encoder.ids(text)?;
        let Some((&last, before)) = ids.split_last() else {
            return Err(Error::config("the text to continue is empty"));
        };
        if how.mem_len == 0 || !(how.temperature >= 0.0 && how.temperature.is_finite()) {
            return Err(Error::config("mem_len must be at least 1, and the temperature a number of at least 0"));
        }
        // One token, and the place of the next, which nobody sees.
        let mut session = self.session(2, QueryKind::Targets(1), how.mem_len, 1)?;
        session.reset_memory()?;
        let chunks = before.chunks_exact(CHUNK);
        let rest = chunks.remainder();
        if chunks.len() > 0 {
            let options = self.step_options(CHUNK, QueryKind::Targets(1), how.mem_len, CHUNK);
            let mut reader = session.beside(&self.model.config, options, self.device)?;
            reader.reset_memory()?;
            for chunk in chunks {
                reader.input_i32("input_ids", chunk)?;
                reader.input_i32("query_rank", &[0; CHUNK])?;
                reader.input_i32("key_rank", &[-1; CHUNK])?;
                reader.exec().run_phase("forward")?;
            }
            let pairs: Vec<_> = reader.program().memory.iter().copied().zip(session.program().memory.clone()).collect();
            for (from, to) in pairs {
                let values = reader.exec().download_f32(from)?;
                session.exec().upload_f32(to, &values)?;
            }
        }
        session.input_i32("query_rank", &[0, 0])?;
        session.input_i32("key_rank", &[-1, 1])?;
        session.input_i32("target_positions", &[1])?;
        for &id in rest {
            session.input_i32("input_ids", &[id, MASK])?;
            session.exec().run_phase("forward")?;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(how.seed);
        let (mut current, mut made) = (last, vec![]);
        let out = session.program().outputs[0];
        while made.len() < how.tokens {
            session.input_i32("input_ids", &[current, MASK])?;
            session.exec().run_phase("forward")?;
            let logits = session.exec().download_f32(out)?; // [1, V]
            let next = draw(&logits[..logits.len().min(self.tokenizer.vocab_size())], how, &mut rng);
            if next as i32 == EOD {
                break;
            }
            made.push(next);
            if !each(next) {
                break;
            }
            current = next as i32;
        }
        self.tokenizer.decode(&made)
    }

    /// The vocabulary.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

/// Softmax of logits at a temperature.
fn shares(logits: &[f32], temperature: f32) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let all: Vec<f32> = logits.iter().map(|x| ((x - most) / temperature).exp()).collect();
    let sum: f32 = all.iter().sum();
    all.into_iter().map(|x| x / sum).collect()
}

/// Draws a token.
fn draw(logits: &[f32], how: &Sampling, rng: &mut ChaCha8Rng) -> u32 {
    if how.temperature == 0.0 {
        return super::metrics::argmax(logits) as u32;
    }
    let shares = shares(logits, how.temperature);
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]));
    if how.top_k > 0 {
        order.truncate(how.top_k);
    }
    let mut sum = 0.0;
    // The token that crosses the share still belongs to it.
    let kept = order.iter().take_while(|&&id| {
        let inside = sum < how.top_p;
        sum += shares[id];
        inside
    });
    let kept = kept.count().max(1);
    order.truncate(kept);
    let total: f32 = order.iter().map(|&id| shares[id]).sum();
    let mut left = rng.random::<f32>() * total;
    for &id in &order {
        left -= shares[id];
        if left <= 0.0 {
            return id as u32;
        }
    }
    order[order.len() - 1] as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_keeps_to_its_limits() {
        let logits = [1.0, 3.0, 2.0, -5.0];
        let how = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0, tokens: 1, mem_len: 1 };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = |how: Sampling| {
            let mut counts = [0; 4];
            (0..2000).for_each(|_| counts[draw(&logits, &how, &mut rng) as usize] += 1);
            counts
        };
        let all = seen(how);
        // Shares: 0.0900, 0.6650, 0.2447, 0.0002.
        assert!((1250..1410).contains(&all[1]) && (420..560).contains(&all[2]), "{all:?}");
        assert_eq!(seen(Sampling { temperature: 0.0, ..how }), [0, 2000, 0, 0]);
        assert_eq!(seen(Sampling { top_k: 2, ..how })[0], 0);
        assert_eq!(seen(Sampling { top_p: 0.5, ..how }), [0, 2000, 0, 0]);
        assert_eq!(seen(Sampling { top_p: 0.7, ..how })[0], 0);
    }
}
