use super::*;
use crate::data::tokenizer::Tokenizer;
use tempfile::TempDir;

/// Deterministic English-like text with numbers, quotes and paragraph ends.
pub(crate) fn sample_text(lines: usize) -> String {
    const WORDS: [&str; 24] = [
        "the", "river", "crossing", "of", "seven", "bridges", "and", "morning", "light", "was", "quietly", "walking",
        "under", "houses", "where", "children", "played", "with", "stones", "before", "evening", "came", "Café",
        "Über",
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut text = String::new();
    for n in 0..lines {
        let words: Vec<_> = (0..rng.random_range(4..12)).map(|_| WORDS[rng.random_range(0..24usize)]).collect();
        let number = rng.random_range(0..3000);
        let end = if n % 5 == 4 { "<eop>" } else { "" };
        text.push_str(&format!("{} {number}, ({}) \"{}\" - {n}.{end}\n", words.join(" "), words[0], words[1]));
    }
    text
}

pub(crate) fn tiny_options(directory: &Path) -> VocabOptions {
    let input = directory.join("text.txt");
    std::fs::write(&input, sample_text(400)).unwrap();
    VocabOptions { inputs: vec![input], vocab_size: 150, threads: 2, ..Default::default() }
}

fn train(edit: impl FnOnce(&mut VocabOptions)) -> (TempDir, Result<VocabSummary>) {
    let directory = TempDir::new().unwrap();
    let mut options = tiny_options(directory.path());
    edit(&mut options);
    let result = train_vocab(&options, directory.path().join("out.model"));
    (directory, result)
}
fn train_on(text: &[u8]) -> Result<VocabSummary> {
    train(|options| std::fs::write(&options.inputs[0], text).unwrap()).1
}
fn model(directory: &TempDir) -> Vec<u8> {
    std::fs::read(directory.path().join("out.model")).unwrap()
}

#[test]
fn fixed_symbols_have_their_published_ids() {
    let (directory, summary) = train(|_| ());
    assert_eq!(summary.unwrap(), VocabSummary { vocab_size: 150, lines: 400, too_long: 0, not_utf8: 0 });
    let tokenizer = Tokenizer::open(directory.path().join("out.model")).unwrap();
    tokenizer.check_special_symbols().unwrap();
    let expected = "<unk> <s> </s> <cls> <sep> <pad> <mask> <eod> <eop> . ( ) \" - – £ €";
    let pieces: Vec<_> = (0..17).map(|id| tokenizer.piece(id).unwrap()).collect();
    assert_eq!(pieces.join(" "), expected);
    // User symbols are found in text, control symbols are not.
    assert_eq!(tokenizer.encode_ids("<eop>\"-–£€").unwrap()[1..], [8, 12, 13, 14, 15, 16]);
    assert!(!tokenizer.encode_ids("the <sep> river").unwrap().contains(&4));
}

#[test]
fn the_same_text_gives_the_same_bytes_and_no_paths() {
    let (first, _) = train(|_| ());
    let (second, _) = train(|_| ());
    assert_eq!(model(&first), model(&second));
    let path = first.path().to_str().unwrap();
    assert!(!String::from_utf8_lossy(&model(&first)).contains(path));
    let files: Vec<_> = first.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
}

#[test]
fn draws_lines_by_seed() {
    let drawn = |seed| {
        let (directory, result) = train(|options| {
            options.input_sentence_size = 150;
            options.vocab_size = 100;
            options.seed = seed;
        });
        result.unwrap();
        model(&directory)
    };
    assert_eq!(drawn(Some(1)), drawn(Some(1)));
    assert_ne!(drawn(Some(1)), drawn(Some(2)));
    assert_ne!(drawn(Some(1)), drawn(None));
}

#[test]
fn bpe_and_preprocessing() {
    let (directory, result) = train(|options| options.model_type = ModelType::Bpe);
    result.unwrap();
    assert!(Tokenizer::open(directory.path().join("out.model")).unwrap().encode_ids("the river").unwrap().len() > 1);

    let has_accent = |preprocess| {
        let (directory, result) = train(|options| options.preprocess = preprocess);
        result.unwrap();
        let tokenizer = Tokenizer::open(directory.path().join("out.model")).unwrap();
        (0..150).any(|id| tokenizer.piece(id).unwrap().contains(['é', 'Ü']))
    };
    assert!(has_accent(None));
    assert!(!has_accent(Some(TextOptions::default())));
}

#[test]
fn too_little_text_names_the_largest_vocabulary() {
    let error = train(|options| options.vocab_size = 30_000).1.unwrap_err().to_string();
    assert!(
        error.starts_with("training a vocabulary of 30000 pieces on 400 lines: Vocabulary size too high"),
        "{error}"
    );
    assert!(error.contains("<= "), "{error}");
    let (directory, result) = train(|options| {
        options.vocab_size = 30_000;
        options.hard_vocab_limit = false;
    });
    let size = result.unwrap().vocab_size;
    assert!((100..30_000).contains(&size));
    assert_eq!(Tokenizer::open(directory.path().join("out.model")).unwrap().vocab_size(), size);
    let error = train(|options| options.vocab_size = 20).1.unwrap_err().to_string();
    assert!(error.contains("smaller than required_chars"), "{error}");
}

#[test]
fn text_that_teaches_nothing_is_an_error_not_an_exit() {
    for text in ["", "\n \n\t\n", "\u{200b}\n\u{feff}\n", "...\n(-)\n", "<eop>\n<sep> <eop>\n", "a\u{2585}\n"] {
        let error = train_on(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("no line"), "{text:?}: {error}");
    }
    // One word is enough not to end the process, though not for a vocabulary.
    for text in ["a\n", "<eop>x\n", "\u{e9}\0\n", "1\n"] {
        let error = train_on(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("Vocabulary size"), "{text:?}: {error}");
    }
}

#[test]
fn odd_lines_are_counted() {
    let mut text = sample_text(400).into_bytes();
    text.extend(b"caf\xe9 latin\n");
    text.extend(b"long ".repeat(1000));
    assert_eq!(train_on(&text).unwrap(), VocabSummary { vocab_size: 150, lines: 401, too_long: 1, not_utf8: 1 });
}

#[test]
fn refuses_bad_options_and_files() {
    let message = |edit: fn(&mut VocabOptions)| train(edit).1.unwrap_err().to_string();
    assert!(message(|options| options.inputs.clear()).contains("input files must be given"));
    assert!(message(|options| options.vocab_size = 17).contains("vocab_size must be more than 17, but is 17"));
    assert!(message(|options| options.character_coverage = f64::NAN).contains("character_coverage"));
    assert!(message(|options| options.input_sentence_size = 100).contains("input_sentence_size"));
    assert!(message(|options| options.max_sentence_length = 9).contains("max_sentence_length"));
    assert!(message(|options| options.threads = 0).contains("threads"));
    assert!(message(|options| options.inputs[0] = "no/such/file".into()).contains("no/such/file"));
    let directory = TempDir::new().unwrap();
    let options = tiny_options(directory.path());
    let missing = directory.path().join("missing/out.model");
    assert!(train_vocab(&options, &missing).unwrap_err().to_string().starts_with("cannot create"));
    assert!(train_vocab(&options, directory.path()).is_err());
}

#[test]
fn large_texts_switch_to_wide_indices() {
    let flag = |lines, bytes| {
        let options = VocabOptions { input_sentence_size: lines, ..Default::default() };
        options.flags(bytes, false).into_iter().find(|(key, _)| *key == "train_extremely_large_corpus").unwrap().1
    };
    assert_eq!(flag(0, 1 << 30), "false");
    assert_eq!(flag(0, (1 << 30) + 1), "true");
    assert_eq!(flag(1000, 1 << 40), "false");
}
