//! `xlnet convert` and `xlnet checkpoint` from outside.

use super::original::{golden, zip_of};
use std::fs;
use std::path::Path;
use std::process::Command;

fn xlnet(dir: &Path, line: &str) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xlnet"));
    let out =
        command.current_dir(dir).env_remove("XLNET_LOG").args(line.split_whitespace()).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}
#[track_caller]
fn succeeds(dir: &Path, line: &str) -> String {
    let (success, stdout, stderr) = xlnet(dir, line);
    assert!(success, "{line}: {stderr}");
    stdout
}
#[track_caller]
fn fails(dir: &Path, line: &str, part: &str) {
    let (success, _, stderr) = xlnet(dir, line);
    assert!(!success && stderr.starts_with("error: ") && stderr.contains(part), "{line}: no {part:?} in {stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{line}: {stderr}");
}

#[test]
fn there_and_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let adam = golden("tf_bundles/adam.ckpt").display().to_string();
    let out = succeeds(dir, &format!("convert {adam} hf --to hugging-face"));
    assert!(out.contains("logits_proj.weight") && out.contains("loaded from model/classification_imdb/logit/kernel"));
    assert!(out.contains("skipped (state of the optimiser, which was not asked for)"), "{out}");
    assert!(out.contains("XLNetForSequenceClassification") && out.contains("no vocabulary"), "{out}");
    fails(dir, &format!("convert {adam} hf --to hugging-face"), "is not empty");
    fails(dir, "convert hf tf --to tensorflow", "--head");
    fails(dir, "convert hf tf --to tensorflow --optimizer", "has no state of the optimiser");
    fails(dir, "convert absent tf --to tensorflow", "there is no file, directory or TensorFlow prefix");
    fs::write(dir.join("hf/spiece.model"), "pieces").expect("written");
    let out = succeeds(dir, "convert hf tf --to tensorflow --head classification_imdb");
    assert!(out.contains("variables of the original") && dir.join("tf/spiece.model").is_file(), "{out}");
    assert!(!out.contains("no vocabulary"), "{out}");
    succeeds(dir, "convert tf uncased --to hugging-face --uncased");
    succeeds(dir, "convert uncased again --to hugging-face");
    let notes = fs::read_to_string(dir.join("again/tokenizer_config.json")).expect("settings of the tokeniser");
    assert!(notes.contains("\"do_lower_case\": true") && notes.contains("\"keep_accents\": false"), "{notes}");
    assert_eq!(fs::read(dir.join("again/spiece.model")).expect("a vocabulary"), b"pieces");
    for (a, b) in [("hf", "tf"), (adam.as_str(), "tf/xlnet_model.ckpt")] {
        let out = succeeds(dir, &format!("checkpoint diff {a} {b}"));
        assert!(out.trim_end().ends_with("0 tensors differ, 41 are equal bit for bit"), "{out}");
    }
    let out = succeeds(dir, &format!("convert {adam} trained --to tensorflow --optimizer"));
    assert!(out.contains("wrote trained/model.ckpt-5"), "{out}");
    let out = succeeds(dir, "checkpoint inspect trained");
    assert!(out.contains("model/transformer/r_w_bias/Adam_1  float32 [2, 2, 2]") && out.contains("deviation"), "{out}");
    assert!(out.contains("head classification_imdb; state of Adam after 5 updates"), "{out}");
    let out = succeeds(dir, "checkpoint clean trained cleaned");
    assert!(out.contains("dropped beta1_power") && out.contains("37 variables kept"), "{out}");
    let out = succeeds(dir, "checkpoint diff trained cleaned");
    assert!(out.trim_end().ends_with("0 tensors differ, 41 are equal bit for bit"), "{out}");
    // A directory without the optimiser's state still tells how far its weights were trained; a mean was not trained.
    succeeds(dir, &format!("convert {adam} noted --to hugging-face --optimizer"));
    succeeds(dir, "checkpoint clean noted cleaned-again");
    let out = succeeds(dir, "checkpoint inspect --names cleaned-again");
    assert!(out.trim_end().ends_with("weights after 5 updates"), "{out}");
    succeeds(dir, "checkpoint average --output mean noted cleaned-again");
    let out = succeeds(dir, "checkpoint inspect --names mean");
    assert!(!out.contains("updates"), "{out}");
    let listed = succeeds(dir, &format!("checkpoint inspect --names {}", golden("tf_bundles/sliced.ckpt").display()));
    assert!(listed.contains("in slices") && listed.contains("not usable as a model"), "{listed}");
    // A zip is called by its own name, not by that of what it was unpacked to.
    zip_of(&dir.join("z.zip"), &[("", "adam.ckpt.index"), ("", "adam.ckpt.data-00000-of-00001")]);
    let listed = succeeds(dir, "checkpoint inspect --names z.zip");
    assert!(listed.starts_with("z.zip: adam.ckpt.index\n"), "{listed}");
    let (success, _, err) = xlnet(dir, "serve --model_dir z.zip");
    assert!(!success && err.contains("z.zip: is a file") && err.contains("--init_checkpoint"), "{err}");
}

#[test]
fn means_and_differences() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let source = golden("torch/zip.bin");
    for name in ["a", "b"] {
        fs::create_dir(dir.join(name)).expect("a directory");
        fs::copy(golden("torch/config.json"), dir.join(name).join("config.json")).expect("copied");
        fs::copy(&source, dir.join(name).join("pytorch_model.bin")).expect("copied");
    }
    succeeds(dir, "checkpoint average a b --output same");
    let out = succeeds(dir, "checkpoint diff a same");
    assert!(out.contains("0 tensors differ"), "{out}");
    // One is all zeros: the mean is half of the other.
    let mut model = xlnet::train::import::import(&dir.join("a"), &Default::default()).expect("a model");
    model.weights.tensors.values_mut().for_each(|weight| weight.values.fill(0.0));
    xlnet::train::export::export_hugging_face(&dir.join("zero"), &model).expect("exported");
    succeeds(dir, "checkpoint average a zero --output half --to tensorflow");
    let half = xlnet::train::import::import(&dir.join("half"), &Default::default()).expect("a model");
    let whole = xlnet::train::import::import(&dir.join("a"), &Default::default()).expect("a model");
    for (name, weight) in &whole.weights.tensors {
        let want: Vec<f32> = weight.values.iter().map(|x| x / 2.0).collect();
        assert_eq!(half.weights.tensors[name].values, want, "{name}");
    }
    let out = succeeds(dir, "checkpoint diff a half --top 2");
    assert!(out.contains("relative 5.000e-1") && out.contains("not shown"), "{out}");
    let other = golden("tf_bundles/adam.ckpt").display().to_string();
    fails(dir, &format!("checkpoint average a {other} --output c"), "sizes or activation differ");
    let out = succeeds(dir, &format!("checkpoint diff a {other}"));
    assert!(out.contains("configurations differ") && out.contains("only in"), "{out}");
}

/// The original's checkpoint goes on here: weights, moments and the number of updates.
#[test]
fn pretraining_starts_from_a_bundle() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let line = |n: usize| (0..12).map(|i| (9 + (n + i * i) % 3).to_string()).collect::<Vec<_>>().join(" ");
    let text = (0..400).map(|n| line(n) + if n % 20 == 0 { "\n\n" } else { "\n" }).collect::<String>();
    fs::write(dir.join("ids.txt"), text).expect("written");
    succeeds(
        dir,
        "corpus build --input ids.txt --nofrom_raw_text --vocab_size 12 --save_dir corpus --bsz_per_host 4 --seq_len 32 \
         --nouncased",
    );
    let config = golden("tf_bundles/xlnet_config.json").display().to_string();
    let run = |more: &str, model_dir: &str| {
        let line = format!(
            "--log info pretrain --record_info_dir corpus/tfrecords --model_dir {model_dir} --model_config_path {config} \
             --mem_len 16 --train_steps 7 --iterations 1 {more}"
        );
        let (success, stdout, stderr) = xlnet(dir, &line);
        assert!(success, "{line}: {stderr}");
        (stdout, stderr)
    };
    let adam = golden("tf_bundles/adam.ckpt").display().to_string();
    let (out, log) = run(&format!("--init_checkpoint {adam} --init_optimizer"), "a");
    assert!(dir.join("a/step-7").is_dir() && !out.contains("[5]"), "{out}");
    assert!(log.contains("loaded from model/transformer/seg_embed[1]"), "{log}");
    assert!(log.contains("no such parameter"), "{log}"); // the classifier
    let model = xlnet::train::import::import(
        &dir.join("a"),
        &xlnet::train::import::ImportOptions { optimizer: true, ..Default::default() },
    );
    let state = model.expect("our checkpoint").optimizer.expect("moments");
    assert_eq!(state.step, 7);
    // Back to the original, with everything that it needs to go on.
    succeeds(dir, "convert a tf --to tensorflow --optimizer");
    let out = succeeds(dir, "checkpoint inspect tf");
    assert!(out.contains("state of Adam after 7 updates"), "{out}");
    assert!(succeeds(dir, "checkpoint diff a tf").contains("0 tensors differ"));
    let (success, _, stderr) = xlnet(
        dir,
        &format!(
            "pretrain --record_info_dir corpus/tfrecords --model_dir b --model_config_path {config} --init_optimizer \
             --init_checkpoint {}",
            golden("tf_bundles/sharded.ckpt").display()
        ),
    );
    assert!(!success && stderr.contains("has no state of the optimiser"), "{stderr}");
}
