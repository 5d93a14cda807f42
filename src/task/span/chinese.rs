//! The official scores of CMRC 2018 and DRCD.

use std::collections::HashMap;

use super::decode::Answered;
use crate::data::text::is_space;
use crate::task::example::Questions;
use crate::task::metrics::Scores;

/// Marks that are units of their own, and that exact match and F1 leave out. The official list also has a double
/// ellipsis, which never equals a character.
const MARKS: &str = "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』";

fn is_mark(c: char) -> bool {
    MARKS.contains(c)
}
fn is_ideograph(c: char) -> bool {
    ('\u{4e00}'..='\u{9fa5}').contains(&c)
}
fn lower(text: &str) -> String {
    text.to_lowercase().trim_matches(is_space).to_owned()
}

/// Units of a text without marks: ideographs, and words between them.
pub fn units(text: &str) -> Vec<String> {
    let (mut units, mut run) = (vec![], String::new());
    for c in lower(text).chars().filter(|&c| !is_mark(c)) {
        if is_ideograph(c) {
            units.extend(words(&std::mem::take(&mut run)));
            units.push(c.to_string());
        } else {
            run.push(c);
        }
    }
    units.extend(words(&run));
    units
}

/// Words of a run without ideographs, by the rules of the Penn treebank that NLTK's `word_tokenize` follows, as far as
/// lower-cased text without marks meets them.
fn words(run: &str) -> Vec<String> {
    if run.is_empty() {
        return vec![];
    }
    let mut text = String::with_capacity(run.len() + 16);
    let chars: Vec<char> = run.chars().collect();
    let last = chars.iter().rposition(|c| !is_space(*c));
    for (i, &c) in chars.iter().enumerate() {
        let (before, after) = (i.checked_sub(1).map(|i| chars[i]), chars.get(i + 1).copied());
        match c {
            ';' | '@' | '#' | '$' | '%' | '&' | '?' | '!' | '[' | ']' | '(' | ')' | '{' | '}' | '<' | '>' | '«'
            | '»' | '‘' | '„' | '–' | '—' => text.extend([' ', c, ' ']),
            // An opening quote becomes two back-ticks, a closing one two apostrophes: no token of a prediction differs.
            '"' => {
                let opens = before.is_none_or(|b| " ([{<«‘„".contains(b)) || text.ends_with(" `` ");
                text.push_str(if opens { " `` " } else { " '' " });
            }
            ',' if after.is_some_and(|a| !a.is_numeric()) => text.extend([' ', ',']),
            ',' if after.is_none() => text.push_str(" , "),
            '.' if before == Some('.') || after == Some('.') => {
                // Dots in a row are one token.
                let spaces = (before != Some('.'), after != Some('.'));
                text.push_str(if spaces.0 { " ." } else { "." });
                text.push_str(if spaces.1 { " " } else { "" });
            }
            '.' if before.is_some_and(|b| b != '.') && ends_sentence(&chars, i, last) => text.push_str(" . "),
            other => text.push(other),
        }
    }
    text.push(' ');
    let mut words = vec![];
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        split_contraction(word, &mut words);
    }
    words
}

/// The last full stop of the text (closing marks may follow), or one before a space that ends no initial.
fn ends_sentence(chars: &[char], at: usize, last: Option<usize>) -> bool {
    let rest = &chars[at + 1..];
    if last == Some(at) || rest.iter().all(|c| is_space(*c) || "])}>\"'»”’".contains(*c)) {
        return true;
    }
    let word: Vec<char> = chars[..at].iter().rev().take_while(|c| !is_space(**c)).copied().collect();
    let letters = word.iter().filter(|c| c.is_alphanumeric()).count();
    rest.first().is_some_and(|c| is_space(*c)) && letters > 1 && !word.contains(&'.')
}

/// `'s`, `n't` and the like are words of their own.
fn split_contraction(word: &str, words: &mut Vec<String>) {
    for end in ["'ll", "'re", "'ve", "n't", "'s", "'m", "'d", "'"] {
        if let Some(stem) = word.strip_suffix(end).filter(|stem| !stem.is_empty() && !stem.ends_with('\'')) {
            words.extend([stem.to_owned(), end.to_owned()]);
            return;
        }
    }
    let pair = match word {
        "cannot" => Some(("can", "not")),
        "gimme" => Some(("gim", "me")),
        "gonna" => Some(("gon", "na")),
        "gotta" => Some(("got", "ta")),
        "lemme" => Some(("lem", "me")),
        "wanna" => Some(("wan", "na")),
        "'tis" => Some(("'t", "is")),
        "'twas" => Some(("'t", "was")),
        _ => None,
    };
    match pair {
        Some((a, b)) => words.extend([a.to_owned(), b.to_owned()]),
        None => words.push(word.to_owned()),
    }
}

/// Length of the longest run that both have.
fn longest_run(a: &[String], b: &[String]) -> usize {
    let (mut above, mut most) = (vec![0; b.len() + 1], 0);
    for x in a {
        let mut row = vec![0; b.len() + 1];
        for (j, y) in b.iter().enumerate() {
            if x == y {
                row[j + 1] = above[j] + 1;
                most = most.max(row[j + 1]);
            }
        }
        above = row;
    }
    most
}

/// F1 of the longest run of units that two texts share.
pub fn f1(gold: &str, predicted: &str) -> f64 {
    let (gold, predicted) = (units(gold), units(predicted));
    let run = longest_run(&gold, &predicted);
    if run == 0 {
        return 0.0;
    }
    let (precision, recall) = (run as f64 / predicted.len() as f64, run as f64 / gold.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Whether two texts are the same without marks.
pub fn exact(gold: &str, predicted: &str) -> bool {
    let bare = |text: &str| lower(text).chars().filter(|&c| !is_mark(c)).collect::<String>();
    bare(gold) == bare(predicted)
}

/// `AVERAGE`, `F1`, `EM` in percent over all questions, `TOTAL`, and `SKIP`, the questions without an answer.
pub fn score(questions: &Questions, answers: &[Answered]) -> Scores {
    let given: HashMap<&str, &str> = answers.iter().map(|a| (a.id.trim(), a.text())).collect();
    let (mut f1_sum, mut exact_sum, mut skipped) = (0.0, 0.0, 0);
    for question in &questions.questions {
        let Some(&text) = given.get(question.id.trim()) else {
            skipped += 1;
            continue;
        };
        f1_sum += question.answers.iter().map(|a| f1(&a.text, text)).fold(0.0, f64::max);
        exact_sum += f64::from(u8::from(question.answers.iter().any(|a| exact(&a.text, text))));
    }
    let total = questions.questions.len();
    let (f1, exact) = (100.0 * f1_sum / total.max(1) as f64, 100.0 * exact_sum / total.max(1) as f64);
    Scores::from([
        ("AVERAGE".into(), (exact + f1) * 0.5),
        ("F1".into(), f1),
        ("EM".into(), exact),
        ("TOTAL".into(), total as f64),
        ("SKIP".into(), f64::from(skipped)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_ideographs_and_words() {
        assert_eq!(units("《Windows 7》，是微软的"), ["windows", "7", "是", "微", "软", "的"]);
        assert_eq!(units("约3.5%（1,000人）"), ["约", "3.5", "%", "1,000", "人"]);
        assert_eq!(units("it's a dog."), ["it", "'s", "a", "dog", "."]);
        assert_eq!(units("1982–2013年，\"s. elunchun"), ["1982", "–", "2013", "年", "``", "s.", "elunchun"]);
    }
    #[test]
    fn runs_are_contiguous() {
        assert_eq!(f1("中国北京市", "北京"), 2.0 * 1.0 * 0.4 / 1.4);
        assert_eq!(f1("中国", "美"), 0.0);
        assert!(exact("《中国》", " 中国。"));
        assert!(!exact("中国", "中国人"));
    }
}
