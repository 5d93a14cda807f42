//! Token ids with a fixed meaning in every XLNet vocabulary.

/// `<unk>`, what the vocabulary has no piece for.
pub const UNK: i32 = 0;
/// `<cls>`, last token of every sequence.
pub const CLS: i32 = 3;
/// `<sep>`, after segment A and after segment B.
pub const SEP: i32 = 4;
/// `<eod>`, end of a document: a blank line of a corpus file.
pub const EOD: i32 = 7;
/// The smallest vocabulary that holds all control symbols, `<eop>` (8) included.
pub const SMALLEST_VOCABULARY: usize = 9;

/// Whether `id` is `<sep>` or `<cls>`: a token that is never predicted.
pub fn is_functional(id: i32) -> bool {
    id == SEP || id == CLS
}
