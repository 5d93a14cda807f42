//! The official scores of SQuAD 1.1 and 2.0, and the search for the threshold of "no answer".

use std::collections::{BTreeMap, HashMap};

use unicode_normalization::char::is_combining_mark;

use super::decode::Answered;
use crate::data::text::is_space;
use crate::task::example::Questions;
use crate::task::metrics::Scores;

/// Lower case, without ASCII punctuation and articles, words with one space in between.
pub fn normalize(text: &str) -> String {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let is_word = |c: char| (c.is_alphanumeric() && !is_combining_mark(c)) || c == '_';
    let mut clean = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars().chain([' ']) {
        if is_word(c) {
            word.push(c);
            continue;
        }
        clean.push_str(if ["a", "an", "the"].contains(&word.as_str()) { " " } else { &word });
        word.clear();
        clean.push(c);
    }
    words(&clean).join(" ")
}

fn words(text: &str) -> Vec<&str> {
    text.split(is_space).filter(|word| !word.is_empty()).collect()
}

/// Whether two texts are the same once normalised.
pub fn exact(gold: &str, predicted: &str) -> bool {
    normalize(gold) == normalize(predicted)
}

/// F1 of the words that two texts share. Texts without words are equal to each other only.
pub fn f1(gold: &str, predicted: &str) -> f64 {
    let (gold, predicted) = (normalize(gold), normalize(predicted));
    let (gold, predicted) = (words(&gold), words(&predicted));
    if gold.is_empty() || predicted.is_empty() {
        return f64::from(u8::from(gold == predicted));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &gold {
        *left.entry(word).or_default() += 1;
    }
    let mut same = 0;
    for word in &predicted {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            same += 1;
        }
    }
    if same == 0 {
        return 0.0;
    }
    let (precision, recall) = (f64::from(same) / predicted.len() as f64, f64::from(same) / gold.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// One question's scores.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scored {
    exact: f64,
    f1: f64,
    answerable: bool,
    empty: bool,
    no_answer: f64,
}

/// Scores of SQuAD 1.1: `exact` and `f1` in percent over all questions.
pub fn score_v1(questions: &Questions, answers: &[Answered]) -> Scores {
    let given: HashMap<&str, &str> = answers.iter().map(|a| (a.id.as_str(), a.text())).collect();
    let (mut exact_sum, mut f1_sum) = (0.0, 0.0);
    for question in &questions.questions {
        let Some(&text) = given.get(question.id.as_str()) else { continue };
        let best = |score: &dyn Fn(&str) -> f64| question.answers.iter().map(|a| score(&a.text)).fold(0.0, f64::max);
        exact_sum += best(&|gold| f64::from(u8::from(exact(gold, text))));
        // The older scorer has no rule for texts without words: they share nothing.
        f1_sum += best(&|gold| if normalize(gold).is_empty() { 0.0 } else { f1(gold, text) });
    }
    let percent = |sum: f64| 100.0 * sum / questions.questions.len().max(1) as f64;
    Scores::from([("exact".into(), percent(exact_sum)), ("f1".into(), percent(f1_sum))])
}

/// Scores of SQuAD 2.0 by the official names. `exact` and `f1` are those of the answers after `threshold` (all texts
/// without one); `best_*` of the best thresholds, as the original logs; its `has_ans_*` are fractions.
pub fn score_v2(questions: &Questions, answers: &[Answered], threshold: Option<f64>) -> Scores {
    let by_id: HashMap<&str, &Answered> = answers.iter().map(|a| (a.id.as_str(), a)).collect();
    let mut all = vec![];
    for question in &questions.questions {
        let Some(answer) = by_id.get(question.id.as_str()) else { continue };
        let texts = question.answers.iter().map(|a| a.text.as_str()).filter(|text| !normalize(text).is_empty());
        let mut gold: Vec<&str> = texts.collect();
        let answerable = !question.answers.is_empty();
        if gold.is_empty() {
            gold.push("");
        }
        let text = answer.text();
        let best = |score: &dyn Fn(&str) -> f64| gold.iter().map(|gold| score(gold)).fold(0.0, f64::max);
        all.push(Scored {
            exact: best(&|gold| f64::from(u8::from(exact(gold, text)))),
            f1: best(&|gold| f1(gold, text)),
            answerable,
            empty: text.is_empty(),
            no_answer: f64::from(answer.no_answer),
        });
    }
    let mut scores = BTreeMap::new();
    let refused = |s: &Scored| threshold.is_some_and(|t| s.no_answer > t);
    let after = |s: &Scored, score: f64| if refused(s) { f64::from(u8::from(!s.answerable)) } else { score };
    let mean = |wanted: &dyn Fn(&Scored) -> bool, score: &dyn Fn(&Scored) -> f64| {
        let some: Vec<f64> = all.iter().filter(|s| wanted(s)).map(score).collect();
        (!some.is_empty()).then(|| 100.0 * some.iter().sum::<f64>() / some.len() as f64)
    };
    type Part = (&'static str, fn(&Scored) -> bool);
    let parts: [Part; 3] = [("", |_| true), ("HasAns_", |s| s.answerable), ("NoAns_", |s| !s.answerable)];
    for (part, wanted) in parts {
        let exact = mean(&wanted, &|s| after(s, s.exact));
        let f1 = mean(&wanted, &|s| after(s, s.f1));
        scores.extend(exact.map(|value| (format!("{part}exact"), value)));
        scores.extend(f1.map(|value| (format!("{part}f1"), value)));
        let total = all.iter().filter(|s| wanted(s)).count();
        scores.insert(format!("{part}total"), total as f64);
    }
    // All questions of the file count here, those that were not answered too, as in the official script.
    let unanswerable = questions.questions.iter().filter(|q| q.answers.is_empty()).count();
    for (name, score) in [("exact", (|s: &Scored| s.exact) as fn(&Scored) -> f64), ("f1", |s| s.f1)] {
        let (best, threshold) = best_threshold(&all, unanswerable, score);
        scores.insert(format!("best_{name}"), best);
        scores.insert(format!("best_{name}_thresh"), threshold);
        if let Some(percent) = mean(&|s| s.answerable, &score) {
            scores.insert(format!("has_ans_{name}"), percent / 100.0);
        }
    }
    scores
}

/// Walks up the thresholds from "answer nothing": the best score in percent, and the threshold it has.
fn best_threshold(all: &[Scored], unanswerable: usize, score: fn(&Scored) -> f64) -> (f64, f64) {
    let mut sorted: Vec<&Scored> = all.iter().collect();
    sorted.sort_by(|a, b| a.no_answer.total_cmp(&b.no_answer));
    let mut current = unanswerable as f64;
    let (mut best, mut threshold) = (current, 0.0);
    for s in sorted {
        current += match (s.answerable, s.empty) {
            (true, _) => score(s),
            (false, false) => -1.0,
            (false, true) => 0.0,
        };
        if current > best {
            (best, threshold) = (current, s.no_answer);
        }
    }
    (100.0 * best / all.len().max(1) as f64, threshold)
}

#[cfg(test)]
mod tests {
    use super::super::decode::Candidate;
    use super::*;
    use crate::task::example::{Answer, Question};

    #[test]
    fn normalisation_is_the_official_one() {
        assert_eq!(normalize("The  Cat's, an A-team \u{a0}(the) end"), "cats ateam end");
        assert_eq!(normalize("a"), "");
        assert_eq!(normalize("theory an–the x"), "theory – x");
    }
    #[test]
    fn words_in_common() {
        assert_eq!(f1("the cat sat", "cat cat sat down"), 2.0 * (2.0 / 4.0) * 1.0 / (2.0 / 4.0 + 1.0));
        assert_eq!((f1("", ""), f1("x", ""), f1("x", "y")), (1.0, 0.0, 0.0));
    }
    fn answered(id: &str, text: &str, no_answer: f32) -> Answered {
        let candidate =
            Candidate { text: text.into(), probability: 1.0, start_log_prob: 0.0, end_log_prob: 0.0, characters: None };
        Answered { id: id.into(), candidates: vec![candidate], no_answer }
    }
    fn question(id: &str, answers: &[&str]) -> Question {
        let answers = answers.iter().map(|&text| Answer { text: text.into(), start: Some(0) }).collect();
        Question { id: id.into(), answers, ..Question::default() }
    }
    #[test]
    fn thresholds_weigh_refusals_against_answers() {
        let questions = Questions {
            contexts: vec![],
            questions: vec![
                question("a", &["x y", "x"]),
                question("b", &[]),
                question("c", &["z"]),
                question("d", &[]),
            ],
        };
        let answers =
            [answered("a", "x", -3.0), answered("b", "w", -2.0), answered("c", "z", -1.0), answered("d", "v", 4.0)];
        let scores = score_v2(&questions, &answers, None);
        // Nothing answered 2, then a 3, b 2, c 3, d 2.
        assert_eq!((scores["best_exact"], scores["best_exact_thresh"]), (75.0, -3.0));
        assert_eq!(
            (scores["exact"], scores["HasAns_f1"], scores["NoAns_f1"], scores["has_ans_f1"]),
            (50.0, 100.0, 0.0, 1.0)
        );
        let refused = score_v2(&questions, &answers, Some(-2.5));
        assert_eq!((refused["exact"], refused["HasAns_exact"], refused["NoAns_exact"]), (75.0, 50.0, 100.0));
        let v1 = score_v1(&questions, &answers);
        assert_eq!((v1["exact"], v1["f1"]), (50.0, 50.0));
    }
}
