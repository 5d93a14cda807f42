//! Reads a SentencePiece model file and decides whether the C++ library may see it.
//!
//! The library trusts its models: a piece with a NUL throws, a damaged normalisation table is read out of bounds,
//! text that is not UTF-8 comes back as a panic. So whatever it takes on trust is checked here first. Damage that
//! leaves a well-formed model (a flipped bit in a score) cannot be seen;
//! [`vocabulary_hash`](super::tokenizer::Tokenizer::vocabulary_hash) tells.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use prost::Message;

/// The parts of `ModelProto` that are checked or used; the rest is skipped.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
    #[prost(message, optional, tag = "5")]
    denormalizer: Option<Normalizer>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

/// Strings are declared so that they are checked to be UTF-8: some of them turn up in decoded text.
#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(string, optional, tag = "44")]
    unk_surface: Option<String>,
    #[prost(string, optional, tag = "45")]
    unk_piece: Option<String>,
    #[prost(string, optional, tag = "46")]
    bos_piece: Option<String>,
    #[prost(string, optional, tag = "47")]
    eos_piece: Option<String>,
    #[prost(string, optional, tag = "48")]
    pad_piece: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Normalizer {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "2")]
    charsmap: Option<Vec<u8>>,
}

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const KINDS: RangeInclusive<i32> = 1..=6;
const UNIGRAM: i32 = 1;
const BPE: i32 = 2;

/// The vocabulary: pieces by id and ids by piece.
#[derive(Debug)]
pub(super) struct PieceTable {
    pieces: Vec<String>, // [vocab_size]
    ids: HashMap<String, u32>,
    unknown: u32,
}

impl PieceTable {
    /// Parses and checks a model file; the error is the second half of a sentence about the file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let model = Model::decode(bytes).map_err(|error| format!("it does not parse ({error})"))?;
        if model.pieces.is_empty() {
            return Err("it has no pieces".into());
        }
        // They follow the pieces; a file cut between two pieces parses.
        let (Some(trainer), Some(_)) = (&model.trainer, &model.normalizer) else {
            return Err("its settings are missing, as if the file were cut short".into());
        };
        let model_type = trainer.model_type.unwrap_or(UNIGRAM);
        if model_type != UNIGRAM && model_type != BPE {
            return Err(format!("its model type must be unigram (1) or BPE (2), but is {model_type}"));
        }
        for normalizer in [&model.normalizer, &model.denormalizer].into_iter().flatten() {
            // An empty table means no normalisation.
            if let Some(charsmap) = normalizer.charsmap.as_deref().filter(|charsmap| !charsmap.is_empty()) {
                check_charsmap(charsmap).map_err(|what| format!("its normalisation table is damaged: {what}"))?;
            }
        }
        Self::from_pieces(model.pieces)
    }

    fn from_pieces(pieces: Vec<Piece>) -> Result<Self, String> {
        let mut table =
            Self { pieces: Vec::with_capacity(pieces.len()), ids: HashMap::with_capacity(pieces.len()), unknown: 0 };
        let mut unknowns = 0;
        for (id, Piece { text, score, kind }) in (0u32..).zip(pieces) {
            let text = text.unwrap_or_default();
            if text.is_empty() {
                return Err(format!("piece {id} is empty"));
            }
            if text.contains('\0') {
                return Err(format!("piece {id} contains a NUL"));
            }
            let score = score.unwrap_or(0.0);
            if !score.is_finite() {
                return Err(format!("the score of piece {id} ({text:?}) is {score}"));
            }
            let kind = kind.unwrap_or(NORMAL);
            if !KINDS.contains(&kind) {
                return Err(format!("piece {id} ({text:?}) is of the unknown type {kind}"));
            }
            if kind == UNKNOWN {
                unknowns += 1;
                table.unknown = id;
            }
            // Control pieces and ordinary ones may share a text; SentencePiece then finds the control piece.
            let ordinary = [NORMAL, USER_DEFINED, UNUSED].contains(&kind);
            if !ordinary || !table.ids.contains_key(&text) {
                table.ids.insert(text.clone(), id);
            }
            table.pieces.push(text);
        }
        if unknowns != 1 {
            return Err(format!("it must have one piece of type unknown, but has {unknowns}"));
        }
        Ok(table)
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }
    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize).map(String::as_str)
    }
    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.ids.get(piece).copied()
    }
    pub(super) fn unknown(&self) -> u32 {
        self.unknown
    }
}

/// Checks a table of normalisation rules: `u32` size of the trie in bytes, the trie, NUL-terminated replacements.
///
/// The trie is a double array of `u32` units (darts-clone). From a node with base `b`, byte `c` leads to unit
/// `b ^ c` when that unit carries the label `c`; the new base is the unit's own position `^` its offset. A unit
/// with the leaf flag ends a rule, and the unit at the new base holds where its replacement begins.
fn check_charsmap(charsmap: &[u8]) -> Result<(), String> {
    /// Matches of one look-up that the C++ code has room for.
    const MAX_MATCHES: i8 = 32;
    let (size, rest) = charsmap.split_first_chunk().ok_or("it has no size")?;
    let size = u32::from_le_bytes(*size) as usize;
    if size == 0 || !size.is_multiple_of(1024) || size >= rest.len() {
        return Err(format!("a trie of {size} bytes in a table of {}", charsmap.len()));
    }
    let (trie, replacements) = rest.split_at(size);
    if replacements.last() != Some(&0) {
        return Err("the replacements do not end with a NUL".into());
    }
    let units: Vec<u32> = trie.as_chunks().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect(); // [n], 256 | n
    let offset = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
    let is_value = |unit: u32| unit >> 31 == 1;

    // Every unit with a label belongs to one base only, position ^ label.
    let mut children: Vec<(u32, u32)> = // (base, position)
        (0u32..).zip(&units).filter(|&(_, &unit)| !is_value(unit)).map(|(p, unit)| (p ^ (unit & 0xff), p)).collect();
    children.sort_unstable();

    // The most rules that end on a path to each base. Bases are visited again only for more, so this ends.
    let mut matches = vec![-1i8; units.len()]; // [n]
    let mut open = vec![(offset(units[0]), 0i8)];
    while let Some((base, count)) = open.pop() {
        // Bases below n keep all 256 children below n, because n is a multiple of 256.
        let best = matches.get_mut(base as usize).ok_or("a branch leads out of the trie")?;
        if count <= *best {
            continue;
        }
        *best = count;
        let first = children.partition_point(|&(parent, _)| parent < base);
        for &(_, position) in children[first..].iter().take_while(|&&(parent, _)| parent == base) {
            let unit = units[position as usize];
            let next = position ^ offset(unit);
            let mut count = count;
            if unit >> 8 & 1 == 1 {
                count += 1;
                let leaf = *units.get(next as usize).ok_or("a rule leads out of the trie")?;
                let text = replacements.get((leaf & 0x7fff_ffff) as usize..).ok_or("a rule has no replacement")?;
                let end = text.iter().position(|&byte| byte == 0).ok_or("a rule has no replacement")?;
                std::str::from_utf8(&text[..end]).map_err(|_| "a replacement is not UTF-8")?;
            }
            if count > MAX_MATCHES {
                return Err("its rules are nested without end".into());
            }
            open.push((next, count));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, score: f32, kind: i32) -> Piece {
        Piece { text: Some(text.into()), score: Some(score), kind: Some(kind) }
    }
    fn model(pieces: Vec<Piece>) -> Model {
        Model { pieces, trainer: Some(Default::default()), normalizer: Some(Default::default()), denormalizer: None }
    }
    fn parse(model: &Model) -> Result<PieceTable, String> {
        PieceTable::parse(&model.encode_to_vec())
    }

    #[test]
    fn looks_pieces_up() {
        let table = parse(&model(vec![piece("<unk>", 0.0, 2), piece("▁a", -1.0, 1), piece("<s>", 0.0, 3)])).unwrap();
        assert_eq!(table.len(), 3);
        assert_eq!(table.unknown(), 0);
        assert_eq!((table.piece(1), table.piece(3)), (Some("▁a"), None));
        assert_eq!((table.id("<s>"), table.id("a")), (Some(2), None));
    }

    #[test]
    fn refuses_what_the_library_trusts() {
        let refused = |pieces: Vec<Piece>, what: &str| {
            let error = parse(&model(pieces)).unwrap_err();
            assert!(error.contains(what), "{error}");
        };
        let unk = piece("<unk>", 0.0, 2);
        refused(vec![], "no pieces");
        refused(vec![piece("a", 0.0, 1)], "one piece of type unknown, but has 0");
        refused(vec![unk.clone(), unk.clone()], "has 2");
        refused(vec![unk.clone(), piece("", 0.0, 1)], "piece 1 is empty");
        refused(vec![unk.clone(), piece("a\0", 0.0, 1)], "NUL");
        refused(vec![unk.clone(), piece("a", f32::NAN, 1)], "NaN");
        refused(vec![unk.clone(), piece("a", 0.0, 7)], "unknown type 7");
        let word = Model {
            trainer: Some(Trainer { model_type: Some(3), ..Default::default() }),
            ..model(vec![unk, piece("a", 0.0, 1)])
        };
        assert!(parse(&word).unwrap_err().contains("unigram"));
        let cut = Model { normalizer: None, ..word };
        assert!(parse(&cut).unwrap_err().contains("cut short"));
    }

    /// A trie in which "a" is a rule: root base 0, unit 97 labelled 'a' with base `97 ^ 96 = 1`, value at 1.
    fn charsmap(value: u32) -> Vec<u8> {
        let mut units = [0u32; 256];
        units[97] = 96 << 10 | 1 << 8 | 97;
        units[1] = 1 << 31 | value;
        let mut bytes = 1024u32.to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(b"xy\0\xff\0");
        bytes
    }

    #[test]
    fn checks_the_normalisation_table() {
        assert_eq!(check_charsmap(&charsmap(0)), Ok(()));
        assert_eq!(check_charsmap(&charsmap(1)), Ok(()));
        assert!(check_charsmap(&charsmap(3)).unwrap_err().contains("UTF-8"));
        assert!(check_charsmap(&charsmap(9)).unwrap_err().contains("no replacement"));
        assert!(check_charsmap(&charsmap(0)[..4]).unwrap_err().contains("1024 bytes"));
        assert!(check_charsmap(&[1]).is_err());
        let edited = |at: usize, unit: u32| {
            let mut bytes = charsmap(0);
            bytes[4 + 4 * at..][..4].copy_from_slice(&unit.to_le_bytes());
            check_charsmap(&bytes).unwrap_err()
        };
        assert!(edited(97, 999 << 10 | 97).contains("out of the trie"));
        // "a" leads back to where it came from: every further "a" is one more match.
        assert!(edited(97, 97 << 10 | 1 << 8 | 97).contains("without end"));
    }
}
