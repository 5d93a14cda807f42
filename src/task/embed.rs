//! Vectors of tokens and of whole texts.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use super::encoder::Encoder;
use super::feature::{Padding, Sequence};
use super::span::align::{align, cleaned, partner};
use super::texts::layout;
use crate::backend::Device;
use crate::data::special::{CLS, SEP};
use crate::data::text::TextOptions;
use crate::data::tokenizer::{SPACE_MARK, Tokenizer};
use crate::model::{MaskKind, TransformerOptions};
use crate::tensor::DType;
use crate::train::import::{ImportOptions, Imported, import};
use crate::train::load::LoadOptions;
use crate::train::session::Session;
use crate::train::step::{Objective, StepOptions};
use crate::{Error, Result};

/// Which hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// One: 0 is the embedding, n_layer the output of the last layer.
    One(usize),
    /// The output of the last layer.
    Last,
    /// Mean of the outputs of the last so many layers.
    MeanOfLast(usize),
}

impl FromStr for Layers {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::config(format!("layers must be last, a number from 0, or mean:K, but is {text:?}"));
        match text.split_once(':') {
            _ if text == "last" => Ok(Layers::Last),
            Some(("mean", k)) => k.parse().ok().filter(|&k| k > 0).map(Layers::MeanOfLast).ok_or_else(wrong),
            _ => text.parse().map(Layers::One).map_err(|_| wrong()),
        }
    }
}

/// What becomes of the tokens' vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Nothing: one vector a token.
    None,
    /// The vector of CLS.
    Cls,
    /// The mean over the text's own tokens.
    Mean,
}

/// How texts become vectors.
#[derive(Clone, Debug)]
pub struct EmbedOptions {
    /// Which hidden states.
    pub layers: Layers,
    /// What becomes of the tokens.
    pub pooling: Pooling,
    /// Cleaning before the vocabulary.
    pub text: TextOptions,
    /// Tokens of a text at most, SEP and CLS included; what is beyond is cut off.
    pub max_seq_length: usize,
    /// Texts of a batch.
    pub batch: usize,
    /// Where it runs.
    pub device: Device,
}

/// A token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedToken {
    /// Its piece, or `<sep>`, `<cls>`.
    pub piece: String,
    /// Characters of the text, from and to; `None` for SEP and CLS, and where cleaning left no trace of the text.
    pub characters: Option<(usize, usize)>,
}

/// Vectors of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// Its tokens; none when pooled.
    pub tokens: Vec<EmbeddedToken>,
    /// A vector for each token, or one.
    pub vectors: Vec<Vec<f32>>, // [tokens or 1, d]
}

/// A model that embeds texts.
pub struct Embedder {
    model: Imported,
    tokenizer: Tokenizer,
    options: EmbedOptions,
}

/// Tokens of one text, laid out.
struct Prepared {
    sequence: Sequence,
    tokens: Vec<EmbeddedToken>,
}

impl Embedder {
    /// Opens any checkpoint, pretrained or fine-tuned, with its vocabulary or the one that is named.
    ///
    /// # Errors
    /// When a file is missing or damaged, or layers are asked for that are not there.
    pub fn open(named: &Path, vocabulary: Option<&Path>, options: EmbedOptions) -> Result<Self> {
        Self::of(import(named, &ImportOptions::default())?, vocabulary, options)
    }

    /// [`Embedder::open`] of a model that is read already.
    ///
    /// # Errors
    /// Those of [`Embedder::open`].
    pub fn of(model: Imported, vocabulary: Option<&Path>, options: EmbedOptions) -> Result<Self> {
        let tokenizer = model.open_tokenizer(vocabulary)?;
        let n = model.config.n_layer;
        let most = match options.layers {
            Layers::One(layer) => layer,
            Layers::MeanOfLast(k) => k,
            Layers::Last => n,
        };
        if most > n {
            return Err(Error::config(format!("layer {most} is asked for, but the model has {n} layers")));
        }
        if options.max_seq_length < 4 || options.batch == 0 {
            return Err(Error::config("max_seq_length must be at least 4, and the batch at least 1"));
        }
        Ok(Embedder { model, tokenizer, options })
    }
    /// Width of vectors.
    pub fn width(&self) -> usize {
        self.model.config.d_model
    }

    /// Embeds texts; a pair of texts is one with ` ||| ` in between.
    ///
    /// # Errors
    /// When a text cannot be encoded or the device fails.
    pub fn embed(&self, texts: &[String]) -> Result<Vec<Embedded>> {
        let prepared = texts.iter().map(|text| self.prepare(text)).collect::<Result<Vec<_>>>()?;
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, text) in prepared.iter().enumerate() {
            by_length.entry(text.sequence.len().next_multiple_of(16)).or_default().push(i);
        }
        let mut results: Vec<Option<Embedded>> = vec![None; texts.len()];
        for (length, indices) in by_length {
            let batch = self.options.batch.min(indices.len());
            let mut session = self.session(batch, length)?;
            for some in indices.chunks(batch) {
                let rows: Vec<&Prepared> = some.iter().map(|&i| &prepared[i]).collect();
                for (&i, embedded) in some.iter().zip(self.run(&mut session, &rows, length)?) {
                    results[i] = Some(embedded);
                }
            }
        }
        let missing = || Error::plan("a text was not embedded");
        results.into_iter().map(|result| result.ok_or_else(missing)).collect()
    }

    fn session(&self, batch: usize, length: usize) -> Result<Session> {
        let transformer = TransformerOptions {
            batch,
            length,
            clamp_len: self.model.settings.clamp_len,
            mask: MaskKind::Padding,
            layer_norm_eps: self.model.settings.layer_norm_eps,
            ..TransformerOptions::default()
        };
        let options = StepOptions {
            transformer,
            objective: Objective::Hidden,
            accumulate: 1,
            float: DType::F32,
            optimizer: None,
        };
        let mut session = Session::new(&self.model.config, options, self.options.device, 0)?;
        let (program, exec) = session.parts();
        self.model.load_into(exec, program, &LoadOptions::default())?;
        Ok(session)
    }

    fn prepare(&self, text: &str) -> Result<Prepared> {
        let (a, b) = text.split_once(" ||| ").map_or((text, None), |(a, b)| (a, Some(b)));
        let offset = b.map(|_| a.chars().count() + " ||| ".chars().count());
        let mut first = self.tokens(a, 0)?;
        let mut second = b.map(|b| self.tokens(b, offset.unwrap_or(0))).transpose()?.unwrap_or_default();
        let room = self.options.max_seq_length - if second.is_empty() { 2 } else { 3 };
        while first.len() + second.len() > room {
            if first.len() > second.len() {
                first.pop()
            } else {
                second.pop()
            };
        }
        let ids = |tokens: &[(i32, EmbeddedToken)]| tokens.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let sequence = layout(&ids(&first), &ids(&second));
        let mut own = first.into_iter().chain(second).map(|(_, token)| token);
        let special = |piece: &str| EmbeddedToken { piece: piece.into(), characters: None };
        let tokens = (sequence.ids.iter().zip(&sequence.segments))
            .map(|(&id, &segment)| match (id, segment) {
                (CLS, 2) => special("<cls>"),
                (SEP, _) => special("<sep>"),
                _ => own.next().unwrap_or_else(|| special("<unk>")),
            })
            .collect();
        Ok(Prepared { sequence, tokens })
    }

    /// Ids, pieces and characters; `offset` is added to the latter.
    fn tokens(&self, text: &str, offset: usize) -> Result<Vec<(i32, EmbeddedToken)>> {
        let encoder = Encoder { tokenizer: &self.tokenizer, text: self.options.text };
        let tokens = encoder.tokens(text)?;
        let context: Vec<char> = text.chars().collect();
        let pieces: Vec<char> =
            tokens.iter().flat_map(|t| t.piece.chars()).map(|c| if c == SPACE_MARK { ' ' } else { c }).collect();
        let alignment = align(&cleaned(&context, &self.options.text), &pieces);
        let mut at = 0;
        let place = |token: crate::data::tokenizer::Token| {
            let (first, count) = (at, token.piece.chars().count());
            at += count;
            // The space before a word is no part of it.
            let first = first + usize::from(count > 1 && token.piece.starts_with(SPACE_MARK));
            let characters = alignment.as_ref().filter(|_| count > 0).and_then(|alignment| {
                // A space that the vocabulary put before the text stands nowhere.
                let lone = token.piece.chars().all(|c| c == SPACE_MARK);
                let start = match alignment.to_context[first] {
                    Some(at) => at as usize,
                    None if lone => return None,
                    None => partner(&alignment.to_context, first, Some(context.len()), true)?,
                };
                let end = partner(&alignment.to_context, at - 1, Some(context.len()), false)?;
                Some((start + offset, end.max(start) + 1 + offset))
            });
            (token.id as i32, EmbeddedToken { piece: token.piece, characters })
        };
        Ok(tokens.into_iter().map(place).collect())
    }

    fn run(&self, session: &mut Session, rows: &[&Prepared], length: usize) -> Result<Vec<Embedded>> {
        let batch = session.options().transformer.batch;
        let padding = Padding::Left;
        let (mut ids, mut hidden, mut segments) = (vec![], vec![], vec![]);
        for row in 0..batch {
            let sequence = rows.get(row).map(|row| row.sequence.clone()).unwrap_or_default();
            ids.extend(padding.pad(&sequence.ids, 0, length));
            hidden.extend(padding.pad(&vec![0; sequence.len()], 1, length));
            segments.extend(padding.pad(&sequence.segments, padding.segment(), length));
        }
        session.input_i32("input_ids", &ids)?;
        session.input_i32("padding", &hidden)?;
        session.input_i32("segment_ids", &segments)?;
        session.exec().run_phase("forward")?;
        let n = self.model.config.n_layer;
        let wanted = match self.options.layers {
            Layers::One(layer) => layer..=layer,
            Layers::Last => n..=n,
            Layers::MeanOfLast(k) => n + 1 - k..=n,
        };
        let share = 1.0 / wanted.clone().count() as f32;
        let d = self.model.config.d_model;
        let mut states = vec![0f32; batch * length * d];
        for layer in wanted {
            let id = session.program().outputs[layer];
            let values = session.exec().download_f32(id)?;
            states.iter_mut().zip(values).for_each(|(sum, value)| *sum += value * share);
        }
        let embed = |(row, prepared): (usize, &&Prepared)| {
            let first = row * length + padding.offset(prepared.sequence.len(), length);
            let vectors: Vec<Vec<f32>> =
                states[first * d..].chunks(d).take(prepared.sequence.len()).map(<[f32]>::to_vec).collect();
            match self.options.pooling {
                Pooling::None => Embedded { tokens: prepared.tokens.clone(), vectors },
                Pooling::Cls => {
                    Embedded { tokens: vec![], vectors: vectors.into_iter().next_back().into_iter().collect() }
                }
                Pooling::Mean => {
                    let own: Vec<&Vec<f32>> =
                        prepared.tokens.iter().zip(&vectors).filter(|(t, _)| !special(t)).map(|(_, v)| v).collect();
                    let count = own.len().max(1) as f32;
                    let mean = (0..d).map(|i| own.iter().map(|v| v[i]).sum::<f32>() / count).collect();
                    Embedded { tokens: vec![], vectors: vec![mean] }
                }
            }
        };
        Ok(rows.iter().enumerate().map(embed).collect())
    }
}

fn special(token: &EmbeddedToken) -> bool {
    token.characters.is_none() && ["<sep>", "<cls>"].contains(&token.piece.as_str())
}
