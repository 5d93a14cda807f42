//! Layouts of features against ones written out by hand, and the original's quirks.

use serde_json::{Value, json};
use xlnet::data::record_info::Split;
use xlnet::task::choices::Levels;
use xlnet::task::convert::Conversion;
use xlnet::task::encoder::Encoder;
use xlnet::task::example::Examples;
use xlnet::task::span::chinese;
use xlnet::task::{Custom, Place as Set, Task};

use crate::common::Place;

fn features(place: &Place, task: &str, split: Split, conversion: &Conversion) -> Vec<Value> {
    let set = Set { dir: place.path().to_owned(), split, file: None };
    let task = Task::named(task, &Custom::default(), &set).unwrap();
    let (examples, _) = task.read(&set, split == Split::Train).unwrap();
    let tokenizer = place.tokenizer();
    let encoder = Encoder { tokenizer: &tokenizer, text: conversion.text() };
    let (features, _) = conversion.convert(&task, &examples, &encoder, split == Split::Train, place.path()).unwrap();
    let json = |(i, f)| task.feature_json(f, &examples, conversion.max_seq_length, i as u64);
    features.iter().enumerate().map(json).collect()
}

fn ids(place: &Place, text: &str) -> Vec<i64> {
    place.tokenizer().encode_ids(text).unwrap().into_iter().map(i64::from).collect()
}
fn list(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect()
}

#[test]
fn pairs_lose_the_end_of_the_longer_text() {
    let place = Place::new();
    let row = |a: &str, b: &str| format!("0\tx\tx\tx\tx\tx\tx\t{a}\t{b}\t2.5\n");
    place.write(
        "train.tsv",
        format!("header\n{}", row("anna has books", "the cats of boris does not like apples and pears")),
    );
    let (a, b) = (ids(&place, "anna has books"), ids(&place, "the cats of boris does not like apples and pears"));
    assert!(a.len() < b.len());
    let room = a.len() + 2;
    let conversion = Conversion { max_seq_length: a.len() + room + 3, ..Conversion::default() };
    let got = features(&place, "sts-b", Split::Train, &conversion).remove(0);
    // `room` is two more than A has, so only B loses tokens.
    let expected: Vec<i64> = a.iter().copied().chain([4]).chain(b[..room].iter().copied()).chain([4, 3]).collect();
    assert_eq!(list(&got["input_ids"]), expected);
    let segments = [vec![0; a.len() + 1], vec![1; room + 1], vec![2]].concat();
    assert_eq!(list(&got["segment_ids"]), segments);
    assert_eq!((&got["label_ids"], &got["id"]), (&json!(2.5), &json!("train-1")));
    let padded = features(&place, "sts-b", Split::Train, &Conversion { max_seq_length: 60, ..conversion }).remove(0);
    let first = list(&padded["input_mask"]).iter().filter(|&&x| x == 1).count();
    assert!(list(&padded["segment_ids"])[..first].iter().all(|&s| s == 4));
    assert!(list(&padded["input_ids"])[..first].iter().all(|&id| id == 0));
    assert_eq!(list(&padded["input_ids"])[59], 3);
}

#[test]
fn options_of_race_see_earlier_ones_only_when_asked() {
    let place = Place::new();
    let passage = json!({"article": "anna has books", "questions": ["she has _"],
        "options": [["cats", "pears", "apples", "horses"]], "answers": ["B"]});
    place.write("dev/middle/1.txt", passage.to_string());
    place.write("dev/high/1.txt", passage.to_string());
    let fixed = Conversion { max_seq_length: 64, max_qa_length: 3, ..Conversion::default() };
    let got = features(&place, "race", Split::Dev, &fixed);
    assert_eq!((got.len(), &got[0]["id"], &got[0]["label_ids"]), (2, &json!("middle/1.txt#0"), &json!(1)));
    let row = |got: &Value, k: usize| -> Vec<i64> {
        let (ids, mask) = (list(&got["input_ids"]), list(&got["input_mask"]));
        ids[k * 64..(k + 1) * 64].iter().zip(&mask[k * 64..]).filter(|(_, m)| **m == 0).map(|(id, _)| *id).collect()
    };
    let context = ids(&place, "anna has books");
    let qa = |option: &str| {
        let all = ids(&place, &format!("she has {option}"));
        [all[all.len().saturating_sub(3)..].to_vec(), vec![4, 3]].concat()
    };
    let join = |parts: &[&[i64]]| parts.concat();
    assert_eq!(row(&got[0], 1), join(&[&context, &[4], &qa("pears")]));
    let original = Conversion { accumulate_options: true, ..fixed };
    let got = features(&place, "race", Split::Dev, &original);
    assert_eq!(row(&got[0], 1), join(&[&context, &[4], &qa("cats"), &[4], &qa("pears")]));
}

#[test]
fn a_folder_takes_the_place_of_race_s_own() {
    let place = Place::new();
    let passage = |answer: &str| {
        json!({"article": "anna has books", "questions": ["she has _"],
            "options": [["cats", "pears", "apples", "horses"]], "answers": [answer]})
        .to_string()
    };
    place.write("train/high/1.txt", passage("B"));
    place.write("dev/high/1.txt", passage("D"));
    let custom = Custom { levels: Levels::High, ..Custom::default() };
    let label = |file| {
        let set = Set { dir: place.path().to_owned(), split: Split::Dev, file };
        let Examples::Choices(all) = Task::named("race", &custom, &set).unwrap().read(&set, true).unwrap().0 else {
            panic!("no choices")
        };
        all[0].label
    };
    assert_eq!((label(None), label(Some(place.path().join("train")))), (Some(3), Some(1)));
}

#[test]
fn windows_of_paragraphs() {
    let place = Place::new();
    // Doubled quotes and accents change under cleaning; answers still find their characters.
    let context = "``the café'' is good and the weather was nice, 2,000 times or 1900 in the books of galina";
    let answer = "galina";
    let start = context.chars().count() - answer.chars().count();
    let question = |id: &str, start: usize, text: &str| json!({"id": id, "question": "what ?", "is_impossible": false, "answers": [{"text": text, "answer_start": start}]});
    let qas = [question("a", start, answer), question("b", 6, "café"), question("c", 900, "galina")];
    let file = json!({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]});
    place.write("train-v2.0.json", file.to_string());
    let conversion = Conversion { max_seq_length: 24, max_query_length: 4, doc_stride: 8, ..Conversion::default() };
    let got = features(&place, "squad", Split::Train, &conversion);
    let of = |id: &str| got.iter().filter(|f| f["id"] == id).collect::<Vec<_>>();
    assert!(of("c").is_empty(), "its answer is not in the paragraph");
    let windows = of("a");
    assert!(windows.len() > 2);
    let number = |f: &Value, key: &str| f[key].as_u64().unwrap() as usize;
    for f in &windows {
        let (paragraph, cls) = (number(f, "paragraph_len"), number(f, "cls_index"));
        let barred = list(&f["p_mask"]);
        assert!((0..24).all(|i| (barred[i] == 0) == (i < paragraph || i == cls)));
        assert_eq!(list(&f["input_ids"])[cls], 3);
        assert!(list(&f["segment_ids"])[cls + 1..].iter().all(|&s| s == 3));
    }
    let with: Vec<&&Value> = windows.iter().filter(|f| f["is_impossible"] == 0).collect();
    assert!(!with.is_empty() && with.len() < windows.len());
    for f in with {
        let (first, last) = (number(f, "start_positions"), number(f, "end_positions"));
        let from = f["tok_start_to_orig_index"][first].as_u64().unwrap() as usize;
        let to = f["tok_end_to_orig_index"][last].as_u64().unwrap() as usize;
        let text: String = context.chars().skip(from).take(to + 1 - from).collect();
        assert_eq!(text.trim(), answer);
    }
    for f in windows.iter().filter(|f| f["is_impossible"] == 1) {
        assert_eq!((&f["start_positions"], &f["end_positions"]), (&f["cls_index"], &f["cls_index"]));
    }
    let f = of("b").into_iter().find(|f| f["is_impossible"] == 0).unwrap();
    let from = f["tok_start_to_orig_index"][number(f, "start_positions")].as_u64().unwrap();
    let to = f["tok_end_to_orig_index"][number(f, "end_positions")].as_u64().unwrap();
    assert!(from <= 6 && to >= 9, "{from} {to}");
    // Every piece of the paragraph is shown best in exactly one window.
    let best: usize = windows
        .iter()
        .map(|f| f["token_is_max_context"].as_array().unwrap().iter().filter(|b| **b == true).count())
        .sum();
    let last = windows.iter().map(|f| number(f, "doc_span_index") * 8 + number(f, "paragraph_len")).max().unwrap();
    assert_eq!(best, last);
}

/// Words between ideographs, for the scores of CMRC 2018 and DRCD, as the official scorer and NLTK cut them.
#[test]
fn units_of_chinese_answers_are_the_official_ones() {
    let file: Value = serde_json::from_str(include_str!("../golden/words.json")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 300);
    for case in cases {
        let (text, units): (String, Vec<String>) = serde_json::from_value(case.clone()).unwrap();
        assert_eq!(chinese::units(&text), units, "{text:?}");
    }
}
