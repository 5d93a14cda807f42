//! What is wrong with bad input: file, line, expected, got.

use std::path::Path;
use std::process::Command;

use crate::common::Place;

/// Runs `xlnet` in the place; its standard error, and whether it succeeded.
fn xlnet(place: &Path, line: &str) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xlnet"));
    let out = command.current_dir(place).env_remove("XLNET_LOG").args(line.split_whitespace()).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
}

const DUMP: &str = "features dump --spiece_model_file spiece.model --output out.jsonl --data_dir .";

#[track_caller]
fn refuses(place: &Path, line: &str, parts: &[&str]) {
    let (success, stderr) = xlnet(place, line);
    assert!(!success && stderr.starts_with("error: ") && !stderr.contains("panicked"), "{line}: {stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{line}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{line}: no {part:?} in {stderr}");
    }
}

#[test]
fn bad_input_is_named_by_file_and_line() {
    let place = Place::new();
    let dir = place.path();
    let with = |task: &str, split: &str| format!("{DUMP} --task_name {task} --split {split}");
    refuses(dir, &with("csc", "train"), &["train.tsv", "cannot read"]);
    refuses(dir, &with("scs", "train"), &["no task \"scs\"", "csc"]);
    place.write("train.tsv", "label\ttext_a\n1\tgood\n2\tbad\n");
    refuses(dir, &with("csc", "train"), &["train.tsv", "line 3", "one of 0, 1", "\"2\""]);
    place.write("train.tsv", b"label\ttext_a\n1\tgood\n0\tb\xe9d\n");
    refuses(dir, &with("csc", "train"), &["train.tsv", "line 3 is not UTF-8", "0xe9"]);
    place.write("train.tsv", "h\n0\tx\tx\tx\tx\tx\tx\ta\tb\thigh\n");
    refuses(dir, &with("sts-b", "train"), &["line 2", "must be a number", "\"high\""]);
    place.write("train.tsv", "text\tkind\na\tb\n");
    refuses(dir, &with("text", "train"), &["line 1", "no column \"label\"", "text, kind"]);
    place.write("train.txt", "anna B-PER\nhas\n");
    refuses(dir, &with("ner", "train"), &["train.txt", "line 2", "column 1"]);
    place.write("train-v2.0.json", "{\"data\": [{}]}");
    refuses(dir, &with("squad", "train"), &["train-v2.0.json", "missing field `paragraphs`"]);
    place.write(
        "train-v2.0.json",
        r#"{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "7", "question": "b", "answers": []}]}]}]}"#,
    );
    refuses(dir, &with("squad", "train"), &["question 7 has no is_impossible", "squad1.1"]);
    place.write("train.jsonl", "{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": 2}\n");
    refuses(dir, &with("choice", "train"), &["line 1", "below 2, but is 2"]);
    refuses(dir, &format!("{DUMP} --task_name squad --max_seq_length 20"), &["max_seq_length must be at least"]);
    place.write("spiece.model", "damaged");
    place.write("train.tsv", "label\ttext_a\n1\tgood\n");
    refuses(dir, &with("csc", "train"), &["spiece.model", "SentencePiece"]);
}

#[test]
fn what_is_left_out_is_counted_and_listed() {
    let place = Place::new();
    place.write("train.tsv", "label\ttext_a\n1\tgood\n0\t \n1\n0\tawful\n");
    let (success, stderr) = xlnet(place.path(), &format!("{DUMP} --task_name csc --split train"));
    assert!(success, "{stderr}");
    for part in
        ["2 examples, 2 features", "2 examples left out", "train.tsv:3: the text is empty", "train.tsv:4: 2 columns"]
    {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
    let lines = std::fs::read_to_string(place.path().join("out.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 2);
    assert!(lines.contains("\"train-4\""), "numbers are those of the file: {lines}");
}

#[test]
fn models_that_do_not_fit() {
    let place = Place::new();
    let dir = place.path();
    place.write("train.tsv", "label\ttext_a\n1\tgood\n0\tawful\n");
    place.write("dev.tsv", "label\ttext_a\n1\tgood\n0\tawful\n");
    let run = "finetune --task_name csc --data_dir . --model_dir run --max_seq_length 16 --train_steps 2 --train_batch_size 2 --device cpu";
    refuses(dir, run, &["spiece_model_file is missing"]);
    let run = format!("{run} --spiece_model_file spiece.model");
    refuses(dir, &run, &["init_checkpoint is missing"]);
    refuses(dir, &format!("{run} --init_checkpoint nowhere"), &["nowhere"]);
    place.write(
        "tiny.json",
        std::fs::read_to_string(dir.join("sizes.json")).unwrap().replace("\"n_token\":", "\"n_token\": 20, \"x\":"),
    );
    refuses(dir, &format!("{run} --model_config_path tiny.json"), &["tiny.json"]);
    let sizes = r#"{"n_layer": 1, "d_model": 8, "n_head": 1, "d_head": 8, "d_inner": 8, "ff_activation": "relu", "untie_r": true, "n_token": 20}"#;
    place.write("tiny.json", sizes);
    refuses(dir, &format!("{run} --model_config_path tiny.json"), &["spiece.model", "pieces", "n_token"]);
    refuses(dir, "evaluate --model_dir run --data_dir .", &["run", "xlnet finetune"]);
    refuses(dir, "predict --model_dir run --data_dir .", &["predict_dir is missing"]);

    // Two seeds, then the trained directory with another vocabulary.
    let (success, stderr) = xlnet(dir, &format!("{run} --model_config_path sizes.json --seeds 3,4"));
    assert!(success, "{stderr}");
    let summary = std::fs::read_to_string(dir.join("run/seeds.json")).unwrap();
    assert!(summary.contains("\"maximum\"") && summary.contains("\"seed\": 4"), "{summary}");
    let best = "run/seed-3/best";
    let (success, stderr) = xlnet(dir, &format!("evaluate --model_dir {best} --data_dir ."));
    assert!(success, "{stderr}");
    let (success, stderr) = xlnet(dir, &format!("predict --model_dir {best} --predict_file dev.tsv --predict_dir out"));
    assert!(success, "{stderr}");
    let other = Place::new();
    place.write("another.txt", "quite another text\n".repeat(50));
    drop(other);
    let (success, stderr) = xlnet(
        dir,
        "vocab train --input another.txt --output run/seed-3/best/spiece.model --vocab-size 30 --soft-limit",
    );
    assert!(success, "{stderr}");
    refuses(dir, &format!("evaluate --model_dir {best} --data_dir ."), &["spiece.model", "SHA-256 differs"]);
}
