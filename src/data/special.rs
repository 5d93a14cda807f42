//! Token ids with a fixed meaning in every XLNet vocabulary.

/// `<unk>`, what the vocabulary has no piece for.
pub const UNK: i32 = 0;
/// `<cls>`, last token of every sequence.
pub const CLS: i32 = 3;
/// `<sep>`, after segment A and after segment B.
pub const SEP: i32 = 4;
/// `<pad>`; reserved, never emitted.
pub const PAD: i32 = 5;
/// `<mask>`; reserved, never emitted.
pub const MASK: i32 = 6;
/// `<eod>`, end of a document: a blank line of a corpus file.
pub const EOD: i32 = 7;
/// `<eop>`, end of a paragraph.
pub const EOP: i32 = 8;
/// The symbols by name.
pub const ALL: [(&str, i32); 7] =
    [("<unk>", UNK), ("<cls>", CLS), ("<sep>", SEP), ("<pad>", PAD), ("<mask>", MASK), ("<eod>", EOD), ("<eop>", EOP)];
/// The smallest vocabulary that holds all of them.
pub const SMALLEST_VOCABULARY: usize = 9;

/// Whether `id` is `<sep>` or `<cls>`: a token that is never predicted.
pub fn is_functional(id: i32) -> bool {
    id == SEP || id == CLS
}
