//! Trains [SentencePiece](https://github.com/google/sentencepiece) models, and encodes text to ids alone.
//!
//! The crate `sentencepiece` encodes and decodes, but binds no training, and makes pieces, surfaces and places whenever
//! it encodes. The C++ library that it is built on can do both; this crate adds what was missing, [`train`] and
//! [`IdEncoder`]. A C++ compiler and cmake are needed, as for `sentencepiece` itself.

mod encoder;

pub use encoder::IdEncoder;

use std::ffi::{CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

// Links libsentencepiece, which the trainer stands on.
use sentencepiece_sys as _;

type NextLine = unsafe extern "C" fn(context: *mut c_void, line: *mut *const c_char, length: *mut usize) -> c_int;

unsafe extern "C" {
    fn spt_train(
        keys: *const *const c_char,
        values: *const *const c_char,
        options: usize,
        next: NextLine,
        context: *mut c_void,
        out: *mut *mut c_char,
        out_length: *mut usize,
    ) -> c_int;
    fn spt_free(bytes: *mut c_char);
}

/// Where the training sentences come from: writes the next one into the string (which arrives empty) and says
/// whether there was one. An error ends the training.
pub type Lines<'a> = dyn FnMut(&mut String) -> Result<bool, String> + 'a;

/// Why a training stopped, in SentencePiece's words or in those of the [`Lines`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainError(pub String);

impl std::fmt::Display for TrainError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for TrainError {}

struct Source<'a> {
    lines: &'a mut Lines<'a>,
    line: String,
    error: Option<String>,
}

/// Trains a model and returns it serialised: the bytes of a `.model` file.
///
/// `options` are the flags of `spm_train` without their dashes, for example `("vocab_size", "32000")`; `input` and
/// `model_prefix` must not be among them, because `lines` and the returned bytes stand in their place. Lists such as
/// `control_symbols` are CSV: see [`quote_list`].
///
/// # Errors
/// Options that SentencePiece does not know or accept, text too small for the vocabulary asked for, and whatever
/// `lines` reports.
///
/// SentencePiece ends the *process* when there is no sentence at all, or none that survives its normalisation;
/// a caller has to make sure that there is one.
pub fn train(options: &[(&str, String)], lines: &mut Lines<'_>) -> Result<Vec<u8>, TrainError> {
    let no_nul = |text: &str| CString::new(text).map_err(|_| TrainError(format!("{text:?} contains a NUL")));
    let keys = options.iter().map(|(key, _)| no_nul(key)).collect::<Result<Vec<_>, _>>()?;
    let values = options.iter().map(|(_, value)| no_nul(value)).collect::<Result<Vec<_>, _>>()?;
    let key_pointers: Vec<_> = keys.iter().map(|key| key.as_ptr()).collect();
    let value_pointers: Vec<_> = values.iter().map(|value| value.as_ptr()).collect();

    // A second closure, so that the lifetime of `Source` is that of this call.
    let mut lines = |line: &mut String| lines(line);
    let mut source = Source { lines: &mut lines, line: String::new(), error: None };
    let mut out = std::ptr::null_mut();
    let mut out_length = 0;
    // SAFETY: the pointer arrays have `options.len()` entries and outlive the call, as does `source`, which is
    // reached only through `next_line` meanwhile; the C side lets no exception out.
    let trained = unsafe {
        spt_train(
            key_pointers.as_ptr(),
            value_pointers.as_ptr(),
            options.len(),
            next_line,
            (&raw mut source).cast(),
            &mut out,
            &mut out_length,
        )
    };
    if out.is_null() {
        return Err(TrainError("out of memory".into()));
    }
    // SAFETY: `spt_train` returned `out_length` bytes at `out`, ours until they are freed, once, below.
    let bytes = unsafe { std::slice::from_raw_parts(out.cast::<u8>(), out_length) }.to_vec();
    // SAFETY: as above.
    unsafe { spt_free(out) };

    if let Some(error) = source.error {
        return Err(TrainError(error));
    }
    if trained == 1 { Ok(bytes) } else { Err(TrainError(String::from_utf8_lossy(&bytes).into_owned())) }
}

/// Hands the next line to C++.
///
/// # Safety
/// `context` is the `Source` given to `spt_train`; `line` and `length` can be written.
unsafe extern "C" fn next_line(context: *mut c_void, line: *mut *const c_char, length: *mut usize) -> c_int {
    // SAFETY: by contract.
    let source = unsafe { &mut *context.cast::<Source<'_>>() };
    source.line.clear();
    // A panic must not unwind through C++.
    let next = catch_unwind(AssertUnwindSafe(|| (source.lines)(&mut source.line)))
        .unwrap_or_else(|_| Err("the source of the sentences panicked".into()));
    match next {
        Ok(false) => 0,
        Ok(true) => {
            // SAFETY: by contract; C++ copies the line before it asks for another.
            unsafe {
                *line = source.line.as_ptr().cast();
                *length = source.line.len();
            }
            1
        }
        Err(error) => {
            source.error = Some(error);
            -1
        }
    }
}

/// A list in the form that SentencePiece's options take: every entry in quotes.
///
/// Without them an entry that is itself a quote swallows the entries after it.
///
/// ```
/// assert_eq!(sentencepiece_train::quote_list(["(", "\"", "-"]), r#""(","""","-""#);
/// ```
pub fn quote_list<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> String {
    let quoted: Vec<_> =
        entries.into_iter().map(|entry| format!("\"{}\"", entry.as_ref().replace('"', "\"\""))).collect();
    quoted.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(vocab_size: usize) -> Vec<(&'static str, String)> {
        vec![("vocab_size", vocab_size.to_string()), ("minloglevel", "2".into()), ("num_threads", "2".into())]
    }

    fn counting_lines() -> impl FnMut(&mut String) -> Result<bool, String> {
        let mut n = 0;
        move |line: &mut String| {
            n += 1;
            line.push_str(&format!("{} counted lines and {} more", n * 7919 % 1009, n * 31 % 97));
            Ok(n <= 200)
        }
    }

    #[test]
    fn trains_a_model() {
        let model = train(&options(40), &mut counting_lines()).unwrap();
        // Field 1, a piece: length 14 = string of 5 bytes, float, enum.
        assert!(model.starts_with(b"\x0a\x0e\x0a\x05<unk>"), "{:?}", &model[..16]);
    }

    /// The ids are those of the crate `sentencepiece`'s own way, which its tests compare; here: what can be known.
    #[test]
    fn encodes_to_ids() {
        let model = train(&options(40), &mut counting_lines()).unwrap();
        let encoder = IdEncoder::new(&model).unwrap();
        let encode = |text: &str| {
            let mut ids = vec![7];
            assert!(encoder.encode(text, &mut ids));
            assert_eq!(ids.remove(0), 7);
            ids
        };
        assert_eq!(encode(""), []);
        let long = "17 counted lines and 4 more ".repeat(30_000); // a workspace that is not kept
        let (short, many) = (encode("17 counted lines and 4 more"), encode(&long));
        assert_eq!(many[..short.len()], short);
        assert_eq!(encode("17 counted lines and 4 more"), short);
        assert!(encode("\u{6211}\u{4eec}").contains(&0), "unknown characters are the unknown piece");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|_| assert_eq!(encode("17 counted lines and 4 more"), short)));
            }
        });
        assert!(IdEncoder::new(b"no model").is_none());
    }

    #[test]
    fn passes_on_what_the_trainer_says() {
        let error = train(&options(30_000), &mut counting_lines()).unwrap_err();
        assert!(error.0.contains("Please set it to a value <="), "{error}");
        let error = train(&[("no_such_option", "1".into())], &mut counting_lines()).unwrap_err();
        assert!(error.0.contains("no_such_option"), "{error}");
    }

    #[test]
    fn errors_and_panics_of_the_lines_end_the_training() {
        let error = train(&options(40), &mut |_| Err("disk on fire".into())).unwrap_err();
        assert_eq!(error.0, "disk on fire");
        let error = train(&options(40), &mut |_| panic!("expected in this test")).unwrap_err();
        assert!(error.0.contains("panicked"));
    }
}
