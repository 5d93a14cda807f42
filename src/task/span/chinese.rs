//! The official scores of CMRC 2018 and DRCD.

use std::collections::HashMap;

use super::decode::Answered;
use super::words::words;
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

/// Units of a text without marks: ideographs, and words between them as NLTK cuts them.
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
