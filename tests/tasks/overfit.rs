//! A small model learns a few examples of every kind of task.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use xlnet::backend::Device;
use xlnet::task::cache::{Dataset, Reading};
use xlnet::task::config::FinetuneConfig;
use xlnet::task::example::Examples;
use xlnet::task::fine_tuned::FineTuned;
use xlnet::task::finetune::{Event, Finetuning};
use xlnet::task::predict::{Writing, write};
use xlnet::task::{Place as Set, span};
use xlnet::train::pretrain::Outcome;

use crate::common::{COLOURS, NAMES, Place, THINGS, belongings, train};

/// Opens what a run left, answers the dev set again and writes predictions; the scores are those of the run.
fn again(config: &FinetuneConfig, scores: &xlnet::task::metrics::Scores) -> (FineTuned, Dataset) {
    let model = FineTuned::open(&config.model_dir, Device::Cpu, 3).unwrap();
    for (name, value) in scores {
        // JSON's numbers may lose the last bit.
        assert!((model.file.scores[name] - value).abs() <= 1e-12 * value.abs(), "{name}");
    }
    let reading = Reading { labelled: true, training: false, most: 0, cache: None, fresh: false };
    let set: Set = config.eval_place().unwrap();
    let dataset = Dataset::load(&model.file.task, &set, &model.file.conversion, &model.tokenizer, reading).unwrap();
    let outputs = model.setup.answer(&model.weights, &dataset.features, &mut |_| ()).unwrap();
    let got = model.setup.score(&dataset, &outputs, None).unwrap();
    for (name, value) in scores {
        // Other batches, so other roundings.
        assert!((got[name] - value).abs() < 1e-3 * value.abs().max(1.0), "{name}: {} {value}", got[name]);
    }
    let how = Writing { predict_threshold: 0.0, null_threshold: None, split: config.eval_split.parse().unwrap() };
    write(&config.model_dir.join("predictions"), &model, &dataset, &outputs, how).unwrap();
    (model, dataset)
}

#[test]
fn classes_of_single_texts() {
    let place = Place::new();
    let row = |i: usize| {
        let (label, word) = if i.is_multiple_of(2) { ("1", "good") } else { ("0", "awful") };
        format!("{label}\tthe weather was {word} , {} has {}\n", NAMES[i % 8], belongings(i))
    };
    let rows = format!("label\ttext_a\n{}", (0..24).map(row).collect::<String>());
    place.write("train.tsv", &rows);
    place.write("dev.tsv", &rows);
    let config = FinetuneConfig { output_dir: Some(place.path().join("cache")), ..place.config("csc", "run") };
    let scores = train(config.clone());
    assert!(scores["eval_accuracy"] > 0.95 && scores["eval_f1"] > 0.95, "{scores:?}");
    let (_, dataset) = again(&config, &scores);
    let tsv = fs::read_to_string(config.model_dir.join("predictions/csc.tsv")).unwrap();
    assert_eq!(tsv.lines().count(), 25, "padding is never predicted");
    assert!(tsv.starts_with("index\tprediction\n0\t1\n1\t0\n"), "{tsv}");

    // The cache is used while nothing changes, and only then.
    let files = |end: &str| {
        let all = fs::read_dir(place.path().join("cache")).unwrap().map(|e| e.unwrap().path());
        all.filter(|path| path.to_string_lossy().ends_with(end)).collect::<Vec<_>>()
    };
    assert_eq!(files(".features").len(), 2);
    let (cache, tokenizer) = (place.path().join("cache"), place.tokenizer());
    let task = config.task().unwrap();
    let load = |conversion, fresh| {
        let reading = Reading { labelled: true, training: false, most: 0, cache: Some(&cache), fresh };
        Dataset::load(&task, &config.eval_place().unwrap(), &conversion, &tokenizer, reading).unwrap()
    };
    let conversion = config.conversion(&task);
    assert_eq!(load(conversion.clone(), false), dataset);
    assert_eq!(files(".features").len(), 2);
    let mut shorter = conversion.clone();
    shorter.max_seq_length = 9;
    assert_eq!(load(shorter, false).longest(), 9);
    assert_eq!(files(".features").len(), 3);
    place.write("dev.tsv", rows.replace("good", "nice"));
    assert_ne!(load(conversion.clone(), false), dataset);
    assert_eq!(files(".features").len(), 4);
    // A damaged file is made again.
    for path in files(".features") {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    place.write("dev.tsv", &rows);
    assert_eq!(load(conversion, false), dataset);
}

#[test]
fn numbers_of_pairs() {
    let place = Place::new();
    // The same word in both texts is worth five, none is worth zero.
    let row = |i: usize| {
        let (a, b) = (THINGS[i % 5], THINGS[(i * 2) % 5]);
        let score = if a == b { 5.0 } else { (i % 5) as f64 / 2.0 };
        format!("{i}\tx\tx\tx\tx\tx\tx\t{} has {a}\t{} has {b}\t{score}\n", NAMES[i % 8], NAMES[(i + 1) % 8])
    };
    let header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n";
    let rows = format!("{header}{}", (0..24).map(row).collect::<String>());
    place.write("train.tsv", &rows);
    place.write("dev.tsv", &rows);
    let config = place.config("sts-b", "run");
    let scores = train(config.clone());
    assert!(scores["eval_pearsonr"] > 0.95 && scores["eval_spearmanr"] > 0.9, "{scores:?}");
    again(&config, &scores);
}

#[test]
fn columns_by_name_with_labels_of_the_file() {
    let place = Place::new();
    let object = |i: usize| {
        let label = COLOURS[i % 4];
        json!({"title": NAMES[i % 8], "body": format!("it is {label} or {}", THINGS[i % 5]), "kind": label}).to_string()
    };
    let lines: String = (0..24).map(|i| object(i) + "\n").collect();
    let train_file = Some(place.write("mine.jsonl", &lines));
    let config = FinetuneConfig {
        predict_file: train_file.clone(),
        train_file,
        text_a: Some("title".into()),
        text_b: Some("body".into()),
        label: Some("kind".into()),
        accumulate: 2,
        ..place.config("text", "run")
    };
    let scores = train(config.clone());
    assert!(scores["eval_accuracy"] > 0.95, "{scores:?}");
    assert!(!scores.contains_key("eval_f1"), "four classes have no single F1");
    let (model, _) = again(&config, &scores);
    let labels =
        serde_json::from_str::<serde_json::Value>(&fs::read_to_string(model.path.join("config.json")).unwrap())
            .unwrap()["id2label"]
            .clone();
    assert_eq!(labels, json!({"0": "brown", "1": "green", "2": "red", "3": "yellow"}));
}

#[test]
fn choices() {
    let place = Place::new();
    let passage = |i: usize| {
        let options: Vec<String> = (0..4).map(|k| belongings(i + k)).collect();
        let right = i % 4;
        let article = format!("{} has {} .", NAMES[i % 8], options[right]);
        json!({"article": article, "questions": ["what does she have ?", "she has _ ."],
            "options": [options, options], "answers": [(b'A' + right as u8) as char, (b'A' + right as u8) as char]})
    };
    for set in ["train", "dev"] {
        for i in 0..8 {
            let level = if i < 4 { "middle" } else { "high" };
            place.write(&format!("{set}/{level}/{i}.txt"), passage(i).to_string());
        }
    }
    let config = FinetuneConfig { train_batch_size: Some(4), train_steps: Some(250), ..place.config("race", "run") };
    let scores = train(config.clone());
    assert!(scores["eval_accuracy"] > 0.9, "{scores:?}");
    assert!(scores.contains_key("eval_accuracy_middle") && scores.contains_key("eval_accuracy_high"));
    again(&config, &scores);
}

/// Two questions about each of 8 paragraphs, the second of which has no answer when `answerable`.
fn paragraphs(answerable: bool) -> String {
    let paragraph = |i: usize| {
        let (first, second) = (belongings(i), belongings(i + 3));
        let context = format!("{} has {first}. {} has {second}.", NAMES[i % 8], NAMES[(i + 1) % 8]);
        let ask = |k: usize, answer: &str| {
            let start = context.find(answer).unwrap();
            json!({"id": format!("{i}-{k}"), "question": format!("what does {} have ?", NAMES[(i + k) % 8]),
                "answers": [{"text": answer, "answer_start": start}], "is_impossible": false})
        };
        let other = if answerable {
            json!({"id": format!("{i}-1"), "question": format!("what does {} like ?", NAMES[(i + 4) % 8]),
                "answers": [], "is_impossible": true})
        } else {
            ask(1, &second)
        };
        json!({"context": context, "qas": [ask(0, &first), other]})
    };
    json!({"version": "v2.0", "data": [{"title": "t", "paragraphs": (0..8).map(paragraph).collect::<Vec<_>>()}]})
        .to_string()
}

#[test]
fn spans_with_and_without_answers() {
    let place = Place::new();
    place.write("train-v2.0.json", paragraphs(true));
    place.write("dev-v2.0.json", paragraphs(true));
    let config = FinetuneConfig { train_steps: Some(300), max_seq_length: Some(48), ..place.config("squad", "run") };
    let scores = train(config.clone());
    assert!(scores["best_f1"] > 90.0 && scores["has_ans_f1"] > 0.9, "{scores:?}");
    again(&config, &scores);
    let read = |name: &str| -> serde_json::Value {
        let path = config.model_dir.join("predictions").join(name);
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let (best, all, odds) = (read("predictions.json"), read("nbest_predictions.json"), read("null_odds.json"));
    assert_eq!(best.as_object().unwrap().len(), 16);
    assert_eq!(best["0-0"], all["0-0"][0]["text"]);
    let odds_of = |id: &str| odds[id].as_f64().unwrap();
    assert!(odds_of("3-0") < odds_of("3-1"), "{odds}");
}

#[test]
fn spans_scored_as_chinese() {
    let place = Place::new();
    place.write("DRCD_training.json", paragraphs(false));
    place.write("DRCD_dev.json", paragraphs(false));
    let config = FinetuneConfig { train_steps: Some(300), ..place.config("drcd", "run") };
    let scores = train(config.clone());
    assert!(scores["EM"] > 90.0 && scores["AVERAGE"] > 90.0 && scores["SKIP"] == 0.0, "{scores:?}");
    let (_, dataset) = again(&config, &scores);
    assert!(config.model_dir.join("predictions/dev_predictions.json").exists());
    assert!(!config.model_dir.join("predictions/dev_null_odds.json").exists());
    let Examples::Questions(questions) = &dataset.examples else { panic!("questions") };
    // An answer that was not given is skipped, and counts as wrong.
    let half: Vec<_> = (questions.questions.iter().take(8))
        .map(|q| span::decode::Answered {
            id: q.id.clone(),
            candidates: vec![span::decode::Candidate {
                text: q.answers[0].text.clone(),
                probability: 1.0,
                start_log_prob: 0.0,
                end_log_prob: 0.0,
                characters: None,
            }],
            no_answer: 0.0,
        })
        .collect();
    let scores = span::chinese::score(questions, &half);
    assert_eq!((scores["EM"], scores["F1"], scores["SKIP"], scores["TOTAL"]), (50.0, 50.0, 8.0, 16.0));
}

#[test]
fn tags_of_words() {
    let place = Place::new();
    let sentence = |i: usize| {
        let words = [
            (NAMES[i % 8], "B-PER"),
            ("has", "O"),
            (COLOURS[i % 4], "B-THING"),
            (THINGS[i % 5], "I-THING"),
            (".", "O"),
        ];
        words.map(|(word, tag)| format!("{word} x {tag}\n")).concat() + "\n"
    };
    let text = format!("-DOCSTART- x O\n\n{}", (0..20).map(sentence).collect::<String>());
    place.write("train.txt", &text);
    place.write("dev.txt", &text);
    let config = place.config("ner", "run");
    let scores = train(config.clone());
    assert!(scores["eval_f1"] > 0.95 && scores["eval_accuracy"] > 0.95, "{scores:?}");
    again(&config, &scores);
    let conll = fs::read_to_string(config.model_dir.join("predictions/ner.conll")).unwrap();
    assert!(conll.starts_with("anna\tB-PER\nhas\tO\nred\tB-THING\napples\tI-THING\n.\tO\n\n"), "{conll}");
}

/// A run that was stopped goes on as one that was not; patience ends one that gets no better.
#[test]
fn stopping_and_going_on() {
    let place = Place::new();
    let row = |i: usize| format!("{}\t{} has {}\n", i % 2, NAMES[i % 8], belongings(i));
    let rows = format!("label\ttext_a\n{}", (0..12).map(row).collect::<String>());
    place.write("train.tsv", &rows);
    place.write("dev.tsv", &rows);
    let config = |run: &str| FinetuneConfig {
        train_steps: Some(12),
        warmup_steps: Some(2),
        save_steps: None,
        max_save: 0,
        dropout: 0.1,
        dropatt: 0.1,
        ..place.config("csc", run)
    };
    let stop = AtomicBool::new(false);
    let losses = |run: &mut Finetuning, stop_at: u64| {
        let mut losses = vec![];
        let outcome = run
            .run(&stop, &mut |event| {
                if let Event::Step(result) = event {
                    losses.push(result.loss);
                    stop.store(result.step == stop_at, Ordering::Relaxed);
                }
            })
            .unwrap();
        stop.store(false, Ordering::Relaxed);
        (losses, outcome)
    };
    let whole = losses(&mut Finetuning::prepare(config("whole")).unwrap(), 0);
    assert_eq!(whole.1, Outcome::Finished);
    let (mut parts, outcome) = losses(&mut Finetuning::prepare(config("parts")).unwrap(), 5);
    assert_eq!((outcome, parts.len()), (Outcome::Interrupted, 5));
    parts.extend(losses(&mut Finetuning::prepare(config("parts")).unwrap(), 0).0);
    assert_eq!(parts, whole.0);
    // Another task can't go on there.
    let other = FinetuneConfig { max_seq_length: Some(20), ..config("parts") };
    let sentence = Finetuning::prepare(other).err().unwrap().to_string();
    assert!(sentence.contains("another task, vocabulary or lengths"), "{sentence}");

    let still = FinetuneConfig {
        learning_rate: Some(0.0),
        train_steps: Some(100),
        save_steps: Some(2),
        patience: 3,
        frozen_layers: 1,
        ..config("still")
    };
    let mut run = Finetuning::prepare(still).unwrap();
    assert_eq!(losses(&mut run, 0).0.len(), 8);
    assert_eq!(run.best().unwrap().step, 2);
    assert_eq!(FineTuned::all(&place.path().join("still")).unwrap().len(), 4);
}
