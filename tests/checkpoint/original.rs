//! Checkpoints of the original: what TensorFlow wrote is read, what is written is the same model, names and places.

use super::common::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use xlnet::config::FeedForwardActivation;
use xlnet::model::heads::{SummaryOptions, SummaryType};
use xlnet::model::hugging_face::{Architecture, ModelWeights, Weight, read_model};
use xlnet::model::original::{OriginalOptions, clean_bundle, find_bundle, read_original, write_original};
use xlnet::model::tensor_file::TensorFile;
use xlnet::model::tensor_source::TensorSource;
use xlnet::model::tf_bundle::TfBundle;
use xlnet::model::weights::{OptimizerKind, OptimizerState};
use xlnet::train::export::{export_hugging_face, export_tensorflow};
use xlnet::train::import::{Format, ImportOptions, Imported, import};
use xlnet::train::step::Objective;

pub fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn read(path: &Path) -> Imported {
    import(path, &ImportOptions::default()).expect("a model")
}
fn with_optimizer(path: &Path) -> Imported {
    import(path, &ImportOptions { optimizer: true, ..Default::default() }).expect("a model")
}

/// The variables that the bundles of `tf_bundles` were made of, as our parameters.
fn expected() -> BTreeMap<String, Weight> {
    let mut file = TensorFile::open(&golden("tf_bundles/expected.safetensors")).expect("a file");
    let mut variable = |name: &str| {
        let shape = file.info(name).unwrap_or_else(|| panic!("no {name}")).0.to_vec();
        Weight { shape, values: file.read_f32(name).expect("readable").expect("floats") }
    };
    let row = |whole: &Weight, layer: usize| {
        let length = whole.values.len() / whole.shape[0];
        Weight { shape: whole.shape[1..].to_vec(), values: whole.values[layer * length..][..length].to_vec() }
    };
    let mut all = BTreeMap::new();
    let mut add = |name: &str, weight: Weight| assert!(all.insert(name.to_owned(), weight).is_none(), "{name}");
    let t = "model/transformer";
    add("transformer.word_embedding.weight", variable(&format!("{t}/word_embedding/lookup_table")));
    add("transformer.mask_emb", variable(&format!("{t}/mask_emb/mask_emb")));
    for i in 0..2 {
        let (ours, theirs) = (format!("transformer.layer.{i}"), format!("{t}/layer_{i}"));
        for name in ["q", "k", "v", "r", "o"] {
            add(&format!("{ours}.rel_attn.{name}"), variable(&format!("{theirs}/rel_attn/{name}/kernel")));
        }
        for name in ["r_w_bias", "r_r_bias", "r_s_bias", "seg_embed"] {
            add(&format!("{ours}.rel_attn.{name}"), row(&variable(&format!("{t}/{name}")), i));
        }
        for part in ["rel_attn", "ff"] {
            for (ours_end, theirs_end) in [("weight", "gamma"), ("bias", "beta")] {
                let stored = variable(&format!("{theirs}/{part}/LayerNorm/{theirs_end}"));
                add(&format!("{ours}.{part}.layer_norm.{ours_end}"), stored);
            }
        }
        for layer in ["layer_1", "layer_2"] {
            add(&format!("{ours}.ff.{layer}.weight"), variable(&format!("{theirs}/ff/{layer}/kernel")).transposed());
            add(&format!("{ours}.ff.{layer}.bias"), variable(&format!("{theirs}/ff/{layer}/bias")));
        }
    }
    add("lm_loss.bias", variable("model/lm_loss/bias"));
    for (ours, theirs) in [
        ("sequence_summary.summary", "model/sequnece_summary/summary"),
        ("logits_proj", "model/classification_imdb/logit"),
    ] {
        add(&format!("{ours}.weight"), variable(&format!("{theirs}/kernel")).transposed());
        add(&format!("{ours}.bias"), variable(&format!("{theirs}/bias")));
    }
    all
}

fn each(weights: &BTreeMap<String, Weight>, change: fn(f32) -> f32) -> BTreeMap<String, Weight> {
    let changed = |weight: &Weight| Weight {
        shape: weight.shape.clone(),
        values: weight.values.iter().map(|&x| change(x)).collect(),
    };
    weights.iter().map(|(name, weight)| (name.clone(), changed(weight))).collect()
}

#[test]
fn bundles_of_tensorflow_are_read() {
    let expected = expected();
    let model = read(&golden("tf_bundles/adam.ckpt"));
    assert_eq!(model.weights.tensors, expected);
    assert_eq!((model.format, model.head.as_deref()), (Format::TensorFlow, Some("classification_imdb")));
    assert_eq!(model.settings.architecture, Architecture::SequenceClassification);
    assert_eq!(model.settings.labels.len(), 3);
    assert_eq!(model.config.ff_activation, FeedForwardActivation::Relu);
    assert_eq!(model.weights.origin("transformer.layer.1.rel_attn.r_w_bias"), "model/transformer/r_w_bias[1]");
    // Every variable is accounted for.
    let bundle = TfBundle::open(&golden("tf_bundles/adam.ckpt")).expect("a bundle");
    let ignored: Vec<&str> = model.weights.ignored.iter().map(|(name, _)| name.as_str()).collect();
    let used = |name: &str| model.weights.origins.values().any(|origin| origin.split('[').next() == Some(name));
    for name in bundle.names() {
        assert!(used(&name) != ignored.contains(&name.as_str()), "{name} is not accounted for once");
    }
    let why =
        |name: &str| model.weights.ignored.iter().find(|(ignored, _)| ignored == name).expect("ignored").1.clone();
    for name in ["global_step", "beta1_power", "model/lm_loss/bias/Adam_1"] {
        assert!(why(name).contains("not asked for"), "{}", why(name));
    }

    for (name, kind) in [("adam.ckpt", OptimizerKind::Adam), ("decay.ckpt", OptimizerKind::AdamWeightDecay)] {
        let model = with_optimizer(&golden("tf_bundles").join(name));
        assert_eq!(model.weights.tensors, expected);
        assert_eq!(model.weights.ignored, []);
        let (first, second) = (each(&expected, |x| 2.0 * x), each(&expected, |x| 3.0 * x * x));
        assert_eq!(model.optimizer, Some(OptimizerState { step: 5, kind: Some(kind), first, second }));
    }
    let sharded = with_optimizer(&golden("tf_bundles/sharded.ckpt"));
    assert_eq!(sharded.weights.tensors, expected);
    assert_eq!(sharded.optimizer, None);

    // Half and double precision; a string is named and left.
    let mixed = read(&golden("tf_bundles/mixed.ckpt"));
    assert!(mixed.weights.ignored.iter().any(|(name, _)| name == "note"));
    let mut halves = 0;
    for (name, weight) in &mixed.weights.tensors {
        let full = &expected[name];
        let half: Vec<f32> = full.values.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect();
        halves += usize::from(weight.values == half && weight.values != full.values);
        assert!(weight == full || weight.values == half, "{name}");
    }
    assert!(halves > 5, "{halves} in half precision");
}

#[test]
fn what_is_not_read_is_named() {
    let error = |name: &str| message(import(&golden("tf_bundles").join(name), &ImportOptions::default()));
    let sliced = error("sliced.ckpt");
    assert!(sliced.contains("model/transformer/word_embedding/lookup_table is stored in slices"), "{sliced}");
    assert!(error("version1.ckpt").contains("is a TensorFlow checkpoint of version 1"));
    assert!(error("absent.ckpt").contains("there is no file, directory or TensorFlow prefix of this name"));
    assert!(message(find_bundle(&golden("tf_bundles"))).contains("holds several checkpoints (adam.ckpt, decay.ckpt"));

    let adam = golden("tf_bundles/adam.ckpt");
    let wanted = |head: &str| ImportOptions { head: Some(head.into()), ..Default::default() };
    let error = message(import(&adam, &wanted("race")));
    assert!(error.contains("has no head race; heads there: classification_imdb"), "{error}");
    import(&adam, &wanted("classification_imdb")).expect("the head that is there");

    let config = read(&adam).config;
    let mut bundle = TfBundle::open(&adam).expect("a bundle");
    let mut error = |change: &dyn Fn(&mut xlnet::config::XlnetConfig)| {
        let mut other = config.clone();
        change(&mut other);
        message(read_original(&mut bundle, &other, &OriginalOptions::default()))
    };
    assert!(error(&|c| c.n_layer = 3).contains("has no layer 2"));
    assert!(error(&|c| c.n_token = 13).contains("lookup_table must have shape [13, 4]"));
    assert!(error(&|c| c.untie_r = false).contains("(untie_r is false)"));
    assert!(error(&|c| c.d_inner = 7).contains("ff/layer_1/kernel must have shape [4, 7]"));
    // Fewer layers than there are: those left over are named.
    let fewer = xlnet::config::XlnetConfig { n_layer: 1, ..config.clone() };
    let other = message(read_original(&mut bundle, &fewer, &OriginalOptions::default()));
    assert!(other.contains("must have shape [1, 2, 2]"), "{other}"); // r_w_bias has a row for every layer
}

/// Copies the bundle `adam.ckpt` under other names; `None` leaves a file out.
fn copied(dir: &Path, index: &str, data: &str, config: Option<&str>) {
    let from = golden("tf_bundles");
    fs::copy(from.join("adam.ckpt.index"), dir.join(index)).expect("copied");
    fs::copy(from.join("adam.ckpt.data-00000-of-00001"), dir.join(data)).expect("copied");
    if let Some(name) = config {
        fs::copy(from.join("xlnet_config.json"), dir.join(name)).expect("copied");
    }
}

#[test]
fn places_and_names() {
    let expected = expected();
    let data = "xlnet_model.ckpt.data-00000-of-00001";
    let new = || tempfile::tempdir().expect("a directory");
    // Data that lost their suffix, as in Chinese zips, or their name.
    for (data, config) in [
        (data, "xlnet_config.json"),
        ("xlnet_model.ckpt", "xlnet_config.json"),
        ("xlnet_model.ckpt.data", "config.json"),
        ("renamed.data-00000-of-00001", "config.json"),
    ] {
        let dir = new();
        copied(dir.path(), "xlnet_model.ckpt.index", data, Some(config));
        for named in ["", "xlnet_model.ckpt", "xlnet_model.ckpt.index", "xlnet_model.ckpt.meta", "latest", data] {
            if named == "renamed.data-00000-of-00001" {
                continue;
            }
            let model = read(&dir.path().join(named));
            assert_eq!(model.weights.tensors, expected, "{named} of {data}");
        }
    }
    let dir = new();
    copied(dir.path(), "xlnet_model.ckpt.index", data, None);
    let error = message(import(dir.path(), &ImportOptions::default()));
    assert!(error.contains("has no xlnet_config.json beside it"), "{error}");
    let config = golden("tf_bundles/xlnet_config.json");
    let options = ImportOptions { model_config: Some(config.clone()), ..Default::default() };
    assert_eq!(import(dir.path(), &options).expect("a configuration elsewhere").weights.tensors, expected);
    fs::remove_file(dir.path().join(data)).expect("removed");
    let error = message(import(dir.path(), &options));
    assert!(error.contains("its data are missing") && error.contains(data), "{error}");

    // Several checkpoints, with TensorFlow's note of the newest; the directory was moved since.
    let dir = new();
    copied(dir.path(), "model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001", Some("config.json"));
    copied(dir.path(), "model.ckpt-2.index", "model.ckpt-2.data-00000-of-00001", None);
    assert!(message(find_bundle(dir.path())).contains("name one of them"));
    for noted in ["model.ckpt-2", "/somewhere/else/model.ckpt-2"] {
        fs::write(dir.path().join("checkpoint"), format!("model_checkpoint_path: \"{noted}\"\n")).expect("written");
        let found = find_bundle(dir.path()).expect("readable").expect("a bundle");
        assert_eq!(found, dir.path().join("model.ckpt-2"));
    }
    fs::write(dir.path().join("checkpoint"), "model_checkpoint_path: \"gone\"\n").expect("written");
    assert!(message(find_bundle(dir.path())).contains("there is no gone.index"));
    fs::write(dir.path().join("checkpoint"), "nonsense").expect("written");
    assert!(message(find_bundle(dir.path())).contains("names no checkpoint"));

    // In a zip, with a folder around it and what macOS adds.
    let dir = new();
    let path = dir.path().join("xlnet_cased_L-2.zip");
    zip_of(&path, &[("model/", "adam.ckpt.index"), ("model/", "adam.ckpt.data-00000-of-00001")]);
    let model = import(&path, &options).expect("a zip");
    assert_eq!((model.weights.tensors, model.path), (expected, path.clone()));
    let whole = fs::read(&path).expect("a file");
    fs::write(&path, &whole[..whole.len() / 2]).expect("written");
    assert!(message(import(&path, &options)).contains("not a whole zip file"));
}

/// A zip of files of `tf_bundles`, each under a prefix.
pub fn zip_of(path: &Path, members: &[(&str, &str)]) {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(fs::File::create(path).expect("a file"));
    let options = zip::write::SimpleFileOptions::default();
    for (prefix, name) in members {
        zip.start_file(format!("{prefix}{name}"), options).expect("a member");
        zip.write_all(&fs::read(golden("tf_bundles").join(name)).expect("a file")).expect("written");
    }
    zip.start_file("__MACOSX/rubbish", options).expect("a member");
    zip.finish().expect("a zip");
}

/// Every head of the original, tied and untied, out and in again.
#[test]
fn original_checkpoints_round_trip() {
    let attn = SummaryOptions { kind: SummaryType::Attn, projection: true };
    let heads = [
        (Objective::LanguageModel, None, Architecture::LanguageModel),
        (classes(3), Some("classification_mnli"), Architecture::SequenceClassification),
        (Objective::Regression { summary: SUMMARY }, Some("regression_sts-b"), Architecture::SequenceClassification),
        (Objective::Choice { choices: 2, summary: attn }, Some("race"), Architecture::MultipleChoice),
        (Objective::Span { answerable: true, answer_bias: true }, None, Architecture::QuestionAnswering),
        (Objective::Span { answerable: false, answer_bias: false }, None, Architecture::QuestionAnswering),
    ];
    for (i, (objective, head, architecture)) in heads.into_iter().enumerate() {
        for untie_r in [true, false] {
            let dir = tempfile::tempdir().expect("a directory");
            let config = tiny(untie_r);
            let weights = weights(&build(&config, objective, true), i as u64);
            let state = |kind| OptimizerState {
                step: 123,
                kind: Some(kind),
                first: each(&weights.tensors, |x| 0.5 * x),
                second: each(&weights.tensors, |x| 7.0 * x),
            };
            let prefix = dir.path().join("model.ckpt-123");
            for optimizer in [None, Some(state(OptimizerKind::Adam)), Some(state(OptimizerKind::AdamWeightDecay))] {
                let report = write_original(&prefix, &config, &weights, head, optimizer.as_ref()).expect("written");
                assert_eq!((report.written.len(), report.skipped.len()), (weights.tensors.len(), 0));
                let model = with_optimizer(dir.path());
                assert_eq!(model.weights.tensors, weights.tensors);
                assert_eq!(model.config, config);
                assert_eq!(model.optimizer, optimizer);
                assert_eq!((model.head.as_deref(), model.settings.architecture), (head, architecture));
                assert_eq!(model.weights.ignored, []);
            }
            // Cleaned, it has lost its optimiser and nothing else.
            let clean = tempfile::tempdir().expect("a directory");
            let cleaned = clean_bundle(&prefix, clean.path()).expect("cleaned");
            assert!(cleaned.dropped.contains(&"global_step".to_owned()) && cleaned.dropped.len() > cleaned.kept);
            let model = with_optimizer(clean.path());
            assert_eq!((&model.weights.tensors, model.optimizer), (&weights.tensors, None));
            let mut bundle = TfBundle::open(&cleaned.prefix).expect("a bundle");
            assert_eq!(bundle.read_i64("global_step").expect("readable"), Some(0));
        }
    }
}

#[test]
fn what_the_original_cannot_hold() {
    let dir = tempfile::tempdir().expect("a directory");
    let prefix = dir.path().join("model.ckpt");
    let config = tiny(true);
    let step = build(&config, classes(2), false);
    let all = weights(&step, 1);
    assert!(message(write_original(&prefix, &config, &all, None, None)).contains("--head"));
    let erf = xlnet::config::XlnetConfig { ff_activation: FeedForwardActivation::GeluErf, ..config.clone() };
    let error = message(write_original(&prefix, &erf, &all, Some("race"), None));
    assert!(error.contains("tanh form") && error.contains("--ff_activation gelu"), "{error}");
    let mut missing = all.clone();
    missing.tensors.remove("transformer.layer.0.rel_attn.r_w_bias");
    let error = message(write_original(&prefix, &config, &missing, Some("race"), None));
    assert!(error.contains("model/transformer/r_w_bias") && error.contains("missing"), "{error}");
    let mut extra = all;
    extra.tensors.insert("classifier.weight".into(), Weight { shape: vec![1], values: vec![1.0] });
    let report = write_original(&prefix, &config, &extra, Some("race"), None).expect("written");
    assert_eq!(report.skipped, [("classifier.weight".into(), "the original has no such variable".into())]);
}

/// Directories that `transformers` wrote: out again, and through the original's format, without the change of a bit.
#[test]
fn golden_models_survive_both_formats() {
    let folders: Vec<PathBuf> =
        fs::read_dir(golden("hf")).expect("entries").flatten().map(|entry| entry.path()).collect();
    assert!(folders.len() >= 8);
    for dir in folders {
        let mut model = read(&dir);
        let copy = tempfile::tempdir().expect("a directory");
        let notes = export_hugging_face(copy.path(), &model).expect("exported");
        assert_eq!(notes, Vec::<String>::new());
        let again = read(copy.path());
        assert_eq!(again.weights.tensors, model.weights.tensors, "{}", dir.display());
        assert_eq!(again.config, model.config);
        let (before, after) = (read_model(&dir).expect("read").hf, read_model(copy.path()).expect("read").hf);
        for (key, value) in &before.json {
            // What the weights say of untie_r stands in the configuration that was compared above.
            if !["dtype", "torch_dtype", "untie_r", "label2id"].contains(&key.as_str()) {
                let close = value.as_f64().zip(after.json[key].as_f64()).is_some_and(|(a, b)| a == b);
                assert!(close || after.json[key] == *value, "{}: {key}: {value} {}", dir.display(), after.json[key]);
            }
        }

        model.config.ff_activation = FeedForwardActivation::Gelu; // the original has no other gelu
        model.head = Some("classification_x".into())
            .filter(|_| model.settings.architecture == Architecture::SequenceClassification);
        let bundle = tempfile::tempdir().expect("a directory");
        let (_, written) = export_tensorflow(bundle.path(), &model).expect("exported");
        let back = read(bundle.path());
        let mut kept: ModelWeights = model.weights.clone();
        written.skipped.iter().for_each(|(name, _)| drop(kept.tensors.remove(name)));
        assert_eq!(back.weights.tensors, kept.tensors, "{}", dir.display());
        assert_eq!(back.config, model.config);
        if written.skipped.is_empty() {
            assert_eq!(back.settings.architecture, model.settings.architecture);
        }
    }
}

#[test]
fn what_transformers_must_be_told() {
    let mut model = read(&golden("tf_checkpoints/empty"));
    assert!(!model.weights.tensors.contains_key("transformer.mask_emb"));
    let dir = tempfile::tempdir().expect("a directory");
    let notes = export_hugging_face(dir.path(), &model).expect("exported");
    assert!(notes.len() == 1 && notes[0].contains("mask_emb is initialised with zeros"), "{notes:?}");
    let again = read(dir.path());
    assert_eq!(again.weights.tensors["transformer.mask_emb"].values, [0.0; 6]);
    assert_eq!(again.weights.tensors.len(), model.weights.tensors.len() + 1);

    model.config.d_head = 5;
    let notes = export_hugging_face(dir.path(), &model).expect("exported");
    assert!(notes[0].contains("xlnet reads it") || notes[1].contains("xlnet reads it"), "{notes:?}");
    let bias = |value: f32| Weight { shape: vec![1], values: vec![value] };
    model.weights.tensors.insert("answer_class.dense_1.bias".into(), bias(0.0));
    export_hugging_face(dir.path(), &model).expect("a bias of zero changes nothing");
    model.weights.tensors.insert("answer_class.dense_1.bias".into(), bias(0.5));
    assert!(message(export_hugging_face(dir.path(), &model)).contains("answers would differ"));
}
