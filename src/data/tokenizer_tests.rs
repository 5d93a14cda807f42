use std::sync::LazyLock;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::data::vocab::{tests::tiny_options, train_vocab};

/// A small model, trained once for all tests, and its directory.
static TINY: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("tiny.model");
    train_vocab(&tiny_options(directory.path()), &path).unwrap();
    (directory, path)
});

fn tiny() -> Tokenizer {
    Tokenizer::open(&TINY.1).unwrap()
}

/// Pieces as the stub model of the reference vectors gives them; no places.
fn stub(pieces: &[&str]) -> Vec<Spanned> {
    pieces.iter().map(|&piece| Spanned { piece: piece.into(), span: 0..0 }).collect()
}

fn split(pieces: &[&str], number: &[&str]) -> Vec<String> {
    let mut asked = Vec::new();
    let result = split_digit_commas(stub(pieces), "", |text| {
        asked.push(text.to_owned());
        Ok(stub(number))
    })
    .unwrap();
    assert!(asked.iter().all(|text| !text.contains([SPACE_MARK, ','])), "{asked:?}");
    result.into_iter().map(|part| part.piece).collect()
}

#[test]
fn digit_commas_split_as_in_the_original() {
    assert_eq!(split(&["▁2000,"], &["▁2000"]), ["▁2000", ","]);
    assert_eq!(split(&["2000,"], &["▁2000"]), ["2000", ","]);
    assert_eq!(split(&["2000,"], &["▁", "2000"]), ["2000", ","]);
    assert_eq!(split(&["2000,"], &["▁20", "00"]), ["20", "00", ","]);
    assert_eq!(split(&["▁2000,"], &["▁", "2000"]), ["▁", "2000", ","]);
    assert_eq!(split(&["a,", ",", "▁,", "1", "1,a"], &["never"]), ["a,", ",", "▁,", "1", "1,a"]);
    // Digits beyond ASCII count, numbers that are no digits do not.
    assert_eq!(split(&["x²,", "٣,"], &["▁n"]), ["n", ",", "n", ","]);
    assert_eq!(split(&["½,", "Ⅷ,"], &["never"]), ["½,", "Ⅷ,"]);
    // A model that gives nothing back loses the number but does not fail.
    assert_eq!(split(&["1,"], &[]), [","]);
    // Every mark goes, not only the first.
    assert_eq!(split(&["▁1▁2,"], &["▁12"]), ["▁12", ","]);
}

#[test]
fn split_numbers_keep_their_places() {
    let part = |piece: &str, span: Range<usize>| Spanned { piece: piece.into(), span };
    let number = |_: &str| Ok(vec![part("▁20", 0..2), part("00", 2..4)]);
    let places = |text: &str, pieces: Vec<Spanned>| {
        let parts = split_digit_commas(pieces, text, number).unwrap();
        parts.into_iter().map(|part| (part.piece, part.span)).collect::<Vec<_>>()
    };
    assert_eq!(
        places("in 2000, we", vec![part("▁2000,", 2..8)]),
        [("▁20".into(), 2..5), ("00".into(), 5..7), (",".into(), 7..8)]
    );
    // Full-width digits: the parts share the number, the comma has its own three bytes.
    assert_eq!(
        places("２０００，", vec![part("2000,", 0..15)]),
        [("20".into(), 0..12), ("00".into(), 0..12), (",".into(), 12..15)]
    );
}

#[test]
fn round_trips_text() {
    let tokenizer = tiny();
    for text in ["the river crossing of seven bridges", "2000, (the) \"river\" - 17.", "Café Über"] {
        let ids = tokenizer.encode_ids(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        let pieces = tokenizer.encode_pieces(text).unwrap();
        assert_eq!(ids, pieces.iter().map(|piece| tokenizer.id(piece).unwrap()).collect::<Vec<_>>());
        let tokens = tokenizer.encode_with_offsets(text).unwrap();
        assert_eq!(ids, tokens.iter().map(|token| token.id).collect::<Vec<_>>());
        assert!(pieces[0].starts_with(SPACE_MARK));
        assert!(pieces.iter().all(|piece| piece == "," || !(piece.len() > 1 && piece.ends_with(','))), "{pieces:?}");
    }
    let unknown = tokenizer.encode_ids("漢字 the").unwrap();
    let tokens = tokenizer.encode_with_offsets("漢字 the").unwrap();
    assert_eq!(unknown, tokens.iter().map(|token| token.id).collect::<Vec<_>>());
    assert!(unknown.contains(&(special::UNK as u32)));
    assert_eq!(tokenizer.decode(&[special::CLS as u32, special::SEP as u32]).unwrap(), "");
}

#[test]
fn empty_and_odd_text() {
    let tokenizer = tiny();
    for text in ["", " ", "\u{3000}\t"] {
        assert_eq!(tokenizer.encode_ids(text).unwrap(), [0u32; 0], "{text:?}");
    }
    assert_eq!(tokenizer.decode(&[]).unwrap(), "");
    for text in ["\0", "a\0b", "\u{10ffff}\u{fffe}", "▁▁", "e\u{301}", "1,", ",", "\u{fdfa}"] {
        for token in tokenizer.encode_with_offsets(text).unwrap() {
            assert!(text.get(token.span.clone()).is_some(), "{text:?} {token:?}");
            assert!((token.id as usize) < tokenizer.vocab_size());
        }
    }
    let long = "river ".repeat(100_000);
    assert!(tokenizer.encode_ids(&long).unwrap().len() >= 100_000);
}

#[test]
fn places_cover_the_text_in_order() {
    let tokenizer = tiny();
    let text = "the river, 1234, ５，６７， Café  “(stones)” ﬁn ½, 漢 2000,17";
    let tokens = tokenizer.encode_with_offsets(text).unwrap();
    assert!(tokens.windows(2).all(|pair| pair[0].span.start <= pair[1].span.start), "{tokens:?}");
    assert_eq!(tokens.last().unwrap().span.end, text.len());
    let covered = tokens.iter().fold(0, |at, token| if token.span.start <= at { at.max(token.span.end) } else { at });
    assert_eq!(covered, text.len());
    assert!(tokens.iter().all(|token| text.get(token.span.clone()).is_some()));
    let river = text.find(" river").unwrap();
    assert!(tokens.iter().any(|token| token.span.start == river), "{tokens:?}");
}

#[test]
fn out_of_range_ids_are_errors() {
    let tokenizer = tiny();
    assert_eq!(tokenizer.piece(150), None);
    assert_eq!(tokenizer.id("no such piece"), None);
    let error = tokenizer.decode(&[17, 150]).unwrap_err().to_string();
    assert!(error.contains("id 1 must be less than the vocabulary size 150, but is 150"), "{error}");
    assert!(tokenizer.decode(&[u32::MAX]).is_err());
}

#[test]
fn threads_share_one_tokenizer() {
    let tokenizer = tiny();
    let texts: Vec<_> = (0..500).map(|n| format!("the river {n}, under {} houses", n * n)).collect();
    let alone: Vec<_> = texts.iter().map(|text| tokenizer.encode_ids(text).unwrap()).collect();
    let together: Vec<_> = texts.par_iter().map(|text| tokenizer.encode_ids(text).unwrap()).collect();
    assert_eq!(alone, together);
}

#[test]
fn hash_is_that_of_the_file() {
    let tokenizer = tiny();
    let bytes = std::fs::read(tokenizer.path()).unwrap();
    let expected = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(tokenizer.vocabulary_hash(), expected);
    assert_eq!(expected.len(), 64);
}

/// Opens bytes as a model; if they open, uses them.
fn open_and_use(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).unwrap();
    let tokenizer = Tokenizer::open(path)?;
    for text in ["the river 2000, (Café)", "ａ２，½ が 한 ﷺ\u{301}\0", "…ǅ ﬃ ㌀ <eop> 漢"] {
        let ids = tokenizer.encode_ids(text)?;
        tokenizer.decode(&ids)?;
    }
    tokenizer.decode(&[0, 1, tokenizer.vocab_size() as u32 - 1])?;
    Ok(())
}

#[test]
fn damaged_models_are_errors_or_work() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("damaged.model");
    let good = std::fs::read(&TINY.1).unwrap();
    open_and_use(&path, &good).unwrap();

    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut refused = 0;
    for round in 0..300 {
        let mut bytes = good.clone();
        // Most of the file is one normalisation table; pieces and settings lie in front of it and behind it.
        let at = match round % 3 {
            0 => rng.random_range(0..bytes.len()),
            1 => rng.random_range(0..3000.min(bytes.len())),
            _ => bytes.len() - 1 - rng.random_range(0..bytes.len().min(30_000)),
        };
        if round % 5 == 0 {
            bytes.truncate(at);
        } else {
            for _ in 0..1 + round % 4 {
                let near = (at + rng.random_range(0..64usize)).min(bytes.len() - 1);
                bytes[near] ^= 1 << rng.random_range(0..8u32);
            }
        }
        match open_and_use(&path, &bytes) {
            Ok(()) => assert_eq!(bytes.len(), good.len(), "a file cut short was taken for a model"),
            Err(error) => {
                refused += 1;
                let message = error.to_string();
                assert!(message.contains("damaged.model: ") && !message.contains('\n'), "{message}");
            }
        }
    }
    assert!(refused > 60, "only {refused} of 300 were noticed");
}

#[test]
fn files_that_are_no_models() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("x.model");
    let message = |bytes: &[u8]| open_and_use(&path, bytes).unwrap_err().to_string();
    assert!(message(b"").contains("the file is empty"));
    assert!(message(b"version https://git-lfs.github.com/spec/v1\n").contains("does not parse"));
    assert!(message(&[0; 5000]).contains("does not parse"));
    assert!(message(b"\x12\x02\x18\x01").contains("no pieces"));
    assert!(Tokenizer::open(directory.path()).unwrap_err().to_string().starts_with("cannot read"));
    assert!(Tokenizer::open(directory.path().join("no")).unwrap_err().to_string().starts_with("cannot open"));
}

#[test]
fn released_vocabulary_gives_the_known_ids() {
    let Some(path) = std::env::var_os("XLNET_SPIECE") else {
        println!("not run: XLNET_SPIECE does not name the released spiece.model");
        return;
    };
    let tokenizer = Tokenizer::open(path).unwrap();
    tokenizer.check_special_symbols().unwrap();
    assert_eq!(tokenizer.vocab_size(), 32_000);
    let fox = [32, 2049, 3442, 17, 13894, 3380, 23, 95, 18, 17634, 2288, 9];
    assert_eq!(tokenizer.encode_ids("The quick brown fox jumps over the lazy dog.").unwrap(), fox);
    assert_eq!(tokenizer.encode_ids("build xlnet").unwrap(), [1266, 3512, 368, 1942]);
    let pieces: Vec<_> = (0..17).map(|id| tokenizer.piece(id).unwrap()).collect();
    assert_eq!(pieces.join(" "), "<unk> <s> </s> <cls> <sep> <pad> <mask> <eod> <eop> . ( ) \" - – £ €");
}

/// Ids alone come another way than pieces and places; they are the same.
#[test]
fn ids_alone_are_those_of_the_pieces() {
    let tokenizer = tiny();
    let words = [
        "the", "2,000", "1999,", ",", "7,", "12,5", "a\u{301}", "漢字", "\u{ff0c}", "９，", "٣,", "...", "quick",
        "<sep>", " ",
    ];
    for case in 0..3000usize {
        let word = |i: usize| words[(case * 7919 + i * i * 31 + i * case) % words.len()];
        let glue = ["", " ", "  "][case % 3];
        let text = (0..case % 9).map(word).collect::<Vec<_>>().join(glue);
        let places: Vec<u32> = tokenizer.encode_with_offsets(&text).unwrap().iter().map(|token| token.id).collect();
        assert_eq!(tokenizer.encode_ids(&text).unwrap(), places, "{text:?}");
    }
}
