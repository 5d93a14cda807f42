//! Model directories: whole, odd and damaged.

use super::common::*;
use std::fs;
use std::path::PathBuf;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use xlnet::config::HuggingFaceConfig;
use xlnet::model::TransformerOptions;
use xlnet::model::heads::SummaryType;
use xlnet::model::hugging_face::*;
use xlnet::train::init::{InitMethod, InitOptions, initialize};
use xlnet::train::load::{LoadOptions, LoadOutcome, download_weights, load_into};
use xlnet::train::step::Objective;

#[test]
fn model_directories_round_trip() {
    let dir = tempfile::tempdir().expect("a directory");
    for untie_r in [true, false] {
        let config = tiny(untie_r);
        let step = build(&config, Objective::LanguageModel, false);
        let weights = weights(&step, 1);
        write_model(dir.path(), &config, &settings(Architecture::LanguageModel), &weights).expect("written");
        let model = read_model(dir.path()).expect("read");
        assert_eq!(model.config, config);
        assert_eq!(model.hf.architectures, Some(vec!["XLNetLMHeadModel".to_owned()]));
        assert_eq!(model.weights.tensors, weights.tensors);
        assert_eq!(model.weights.tensors.contains_key("transformer.r_w_bias"), !untie_r);

        let mut exec = Store::new(&step);
        let report = load_into(&mut exec, &step, &model.weights, &LoadOptions::default()).expect("loaded");
        assert_eq!(report.counts(), [step.params.len(), 0, 0]);
        assert_eq!(download_weights(&mut exec, &step).expect("weights").tensors, weights.tensors);
        // What transformers sees: a copy of each bias in each layer.
        let file = xlnet::model::tensor_file::TensorFile::open(&dir.path().join(WEIGHTS_FILE)).expect("a file");
        assert!(file.info("transformer.layer.1.rel_attn.r_s_bias").is_some());
        assert!(file.info("transformer.r_s_bias").is_none());
    }
    assert_eq!(fs::read_dir(dir.path()).expect("entries").count(), 2, "temporary files are left");
}

#[test]
fn biases_said_to_be_tied_that_differ() {
    let dir = tempfile::tempdir().expect("a directory");
    let step = build(&tiny(true), Objective::LanguageModel, false);
    write_model(dir.path(), &tiny(false), &settings(Architecture::LanguageModel), &weights(&step, 2)).expect("written");
    let model = read_model(dir.path()).expect("read");
    assert!(model.config.untie_r && model.hf.untie_r == Some(true));
    load_into(&mut Store::new(&step), &step, &model.weights, &LoadOptions::default()).expect("untied biases");
}

#[test]
fn configurations() {
    let dir = tempfile::tempdir().expect("a directory");
    let t =
        TransformerOptions { clamp_len: Some(9), mem_len: 7, reuse_len: Some(3), dropout: 0.1, ..Default::default() };
    let mut s = HuggingFaceSettings::new(Architecture::SequenceClassification, &t);
    s.labels = vec!["neg".into(), "pos".into()];
    s.summary.kind = SummaryType::Mean;
    write_config(dir.path(), &tiny(true), &s).expect("written");
    let hf = HuggingFaceConfig::read(&dir.path().join(CONFIG_FILE)).expect("read");
    assert_eq!(hf.model(), tiny(true));
    assert_eq!((hf.clamp_len, hf.mem_len, hf.reuse_len), (Some(9), Some(7), Some(3)));
    assert_eq!((hf.attn_type.as_deref(), hf.summary_type.as_deref()), (Some("bi"), Some("mean")));
    assert_eq!(hf.id2label.expect("labels").get("1").map(String::as_str), Some("pos"));
    let json = config_json(&tiny(true), &s);
    let expected = [
        ("model_type", r#""xlnet""#),
        ("ff_activation", r#""gelu_new""#),
        ("dropout", "0.1"),
        ("layer_norm_eps", "1e-12"),
        ("pad_token_id", "5"),
        ("label2id", r#"{"neg":0,"pos":1}"#),
        ("vocab_size", "20"),
    ];
    for (key, value) in expected {
        assert_eq!(json[key].to_string(), value, "{key}");
    }
    assert!(config_json(&tiny(true), &settings(Architecture::Base))["mem_len"].is_null());

    // Numbers that make no sense.
    let write = |key: &str, value: &str| {
        let mut json = json.clone();
        json[key] = "@".into();
        fs::write(dir.path().join(CONFIG_FILE), json.to_string().replace("\"@\"", value)).expect("written");
    };
    let bad = [
        ("layer_norm_eps", "NaN"),
        ("layer_norm_eps", "1e999"),
        ("layer_norm_eps", "-1"),
        ("dropout", "1.5"),
        ("d_model", "-8"),
        ("d_model", "99999999999999999999999"),
        ("n_layer", "18446744073709551615"),
        ("n_layer", "3"),
        ("n_head", "0"),
        ("mem_len", "18446744073709551615"),
        ("attn_type", "\"both\""),
        ("vocab_size", "21"),
        ("model_type", "\"bert\""),
        ("ff_activation", "\"swish\""),
    ];
    let step = build(&tiny(true), classes(2), false);
    write_model(dir.path(), &tiny(true), &s, &weights(&step, 0)).expect("written");
    for (key, value) in bad {
        write(key, value);
        let error = message(read_model(dir.path()));
        assert!(error.contains(CONFIG_FILE) && error.lines().count() == 1, "{key} = {value}: {error}");
    }
}

#[test]
fn names_types_and_shards_of_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let step = build(&tiny(true), Objective::LanguageModel, false);
    let ours = weights(&step, 3);
    write_config(dir.path(), &tiny(true), &settings(Architecture::Base)).expect("written");
    let file = dir.path().join(WEIGHTS_FILE);

    // Without the prefix and without heads; and with the output layer that equals the embedding.
    let mut bare = listed(&ours);
    bare.retain(|(name, ..)| name.starts_with("transformer."));
    bare.iter_mut().for_each(|(name, ..)| *name = name["transformer.".len()..].to_owned());
    write_f32(&file, &bare);
    let model = read_model(dir.path()).expect("bare names");
    let report = load_into(&mut Store::new(&step), &step, &model.weights, &LoadOptions::default()).expect("loaded");
    assert_eq!(report.counts(), [step.params.len() - 1, 1, 0]);
    assert!(matches!(report.outcome("lm_loss.bias"), Some(LoadOutcome::Initialised(_))));

    let embedding = ours.tensors["transformer.word_embedding.weight"].clone();
    let mut tied = listed(&ours);
    tied.push(("lm_loss.weight".into(), embedding.shape.clone(), embedding.values.clone()));
    write_f32(&file, &tied);
    let model = read_model(dir.path()).expect("a tied output layer");
    assert_eq!(model.weights.tensors, ours.tensors);
    assert_eq!(model.weights.ignored[0].0, "lm_loss.weight");
    tied.retain(|(name, ..)| name != "transformer.word_embedding.weight");
    write_f32(&file, &tied);
    assert_eq!(read_model(dir.path()).expect("stored once, under the other name").weights.tensors, ours.tensors);
    tied.push(("transformer.word_embedding.weight".into(), embedding.shape.clone(), embedding.values.clone()));
    let output = tied.iter_mut().find(|(name, ..)| name == "lm_loss.weight").expect("the output layer");
    output.2[5] = f32::from_bits(output.2[5].to_bits() ^ 1);
    write_f32(&file, &tied);
    assert!(message(read_model(dir.path())).contains("untied output layers are not supported"));

    // Shards.
    let all = listed(&ours);
    let (a, b) = all.split_at(all.len() / 2);
    write_f32(&dir.path().join("a.safetensors"), a);
    write_f32(&dir.path().join("b.safetensors"), b);
    fs::remove_file(&file).expect("removed");
    assert!(message(read_model(dir.path())).contains("has no weights (model.safetensors"));
    let index = |shard_b: &str| {
        let map = |part: &[(String, Vec<usize>, Vec<f32>)], shard: &str| {
            part.iter().map(|(name, ..)| (name.clone(), shard.into())).collect::<serde_json::Map<_, _>>()
        };
        let mut all = map(a, "a.safetensors");
        all.extend(map(b, shard_b));
        let json = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": all});
        fs::write(dir.path().join("model.safetensors.index.json"), json.to_string()).expect("written");
    };
    index("b.safetensors");
    assert_eq!(read_model(dir.path()).expect("shards").weights.tensors, ours.tensors);
    index("a.safetensors");
    assert!(message(read_model(dir.path())).contains("which the index says it has"));
    for outside in ["../b.safetensors", "/etc/passwd", "", ".."] {
        index(outside);
        assert!(message(read_model(dir.path())).contains("must be a file of the same directory"));
    }
    fs::write(dir.path().join("model.safetensors.index.json"), "{").expect("written");
    assert!(message(read_model(dir.path())).contains("not an index of shards"));

    // Element types.
    let values = [1.0f32, -0.333_333, 65504.0, 1e-7];
    let f16 = values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect::<Vec<_>>();
    let bf16 = values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect::<Vec<_>>();
    let f64 = values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect::<Vec<_>>();
    let i64 = vec![0; 32];
    let types = [("f16", Dtype::F16, &f16), ("bf16", Dtype::BF16, &bf16), ("f64", Dtype::F64, &f64)];
    let types = types.into_iter().chain([("position_ids", Dtype::I64, &i64)]);
    let views = types.map(|(name, dtype, bytes)| (name, TensorView::new(dtype, vec![2, 2], bytes).expect("a tensor")));
    serialize_to_file(views, None, &file).expect("a file");
    let read = read_weights(dir.path()).expect("four types");
    assert_eq!(read.tensors["f64"].values, values);
    assert_eq!(read.tensors["f16"].values, values.map(|x| half::f16::from_f32(x).to_f32()));
    assert_eq!(read.tensors["bf16"].values, values.map(|x| half::bf16::from_f32(x).to_f32()));
    assert!(read.ignored.iter().any(|(name, why)| name == "position_ids" && why.contains("I64")));
}

#[test]
fn loading_says_what_happened_to_every_tensor() {
    let (config, options) = (tiny(true), LoadOptions::default());
    let step = build(&config, classes(3), false);
    let three = weights(&step, 4);
    let mut pretrained = weights(&build(&config, Objective::LanguageModel, false), 5);
    pretrained.source = "somewhere/model.safetensors".into();
    let mut exec = Store::new(&step);

    // Fine-tuning: heads are new, what only pretraining needs is ignored.
    let report = load_into(&mut exec, &step, &pretrained, &options).expect("loaded");
    assert_eq!(report.counts(), [step.params.len() - 4, 4, 2]);
    let loaded = download_weights(&mut exec, &step).expect("weights");
    for (name, weight) in &loaded.tensors {
        let shape = &weight.shape;
        match report.outcome(name).expect("a row") {
            LoadOutcome::Loaded(_) => assert_eq!(weight, &pretrained.tensors[name]),
            _ => assert_eq!(weight.values, options.init.values(name, shape), "{name}"),
        }
    }
    let table = report.to_string();
    assert!(table.contains("initialised (not in the file)") && table.contains("lm_loss.bias"), "{table}");

    // Other classes: an error, or new heads on demand. Nothing is uploaded on error.
    let two = build(&config, classes(2), false);
    let mut exec = Store::new(&two);
    let error = message(load_into(&mut exec, &two, &three, &options));
    assert!(error.contains("logits_proj.weight must have shape [2, 8], but has [3, 8]"), "{error}");
    assert!(exec.bytes.is_empty());
    let reset = LoadOptions { reset_heads: true, ..options };
    assert_eq!(load_into(&mut exec, &two, &three, &reset).expect("new heads").counts(), [two.params.len() - 4, 4, 0]);

    // Missing weights.
    let name = "transformer.layer.1.rel_attn.q";
    let q = pretrained.tensors.remove(name).expect("a weight");
    let error = message(load_into(&mut exec, &two, &pretrained, &options));
    assert!(error.contains(name) && error.contains("somewhere/model.safetensors"), "{error}");
    let allowed = LoadOptions { allow_missing: true, ..options };
    let report = load_into(&mut exec, &two, &pretrained, &allowed).expect("missing weights are initialised");
    assert!(matches!(report.outcome(name), Some(LoadOutcome::Initialised(_))));
    pretrained.tensors.insert(name.into(), Weight { values: vec![0.0; 3], ..q });
    assert!(message(load_into(&mut exec, &two, &pretrained, &allowed)).contains("has 3 elements"));
}

#[test]
fn initialisation_does_not_depend_on_threads() {
    let step = build(&tiny(true), Objective::LanguageModel, false);
    let values = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| weights(&step, 6))
    };
    assert_eq!(values(1).tensors, values(3).tensors);
    let uniform = InitOptions { init: InitMethod::Uniform, ..Default::default() };
    initialize(&mut Store::new(&step), &step, &uniform).expect("uniform");
}

/// The header is checked before it is believed: offsets, lengths, sizes.
#[test]
fn headers_that_lie() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(WEIGHTS_FILE);
    let most = u64::MAX / 8; // bytes of a tensor; the end of eight of them overflows when a header's length is added
    let chain: Vec<String> = (0..8)
        .map(|i| (i * most, (i + 1) * most))
        .map(|(from, to)| format!(r#""t{from}":{{"dtype":"U8","shape":[{most}],"data_offsets":[{from},{to}]}}"#))
        .collect();
    let headers = [
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,16]}}"#.to_owned(),
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#.into(),
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#
            .into(),
        r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#.into(),
        r#"{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}"#.into(),
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#.into(),
        r#"{"a":{"dtype":"F77","shape":[2],"data_offsets":[0,8]}}"#.into(),
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.into(),
        format!("{{{}}}", chain.join(",")),
        "[".repeat(5000),
        "null".into(),
        String::new(),
    ];
    for header in headers {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 8]);
        fs::write(&path, bytes).expect("written");
        let error = message(read_weights(dir.path()));
        assert!(error.contains("not a whole safetensors file") && error.lines().count() == 1, "{header}: {error}");
    }
    for bytes in [vec![], vec![1, 2, 3], vec![0xff; 64], (1u64 << 40).to_le_bytes().to_vec()] {
        fs::write(&path, bytes).expect("written");
        assert!(message(read_weights(dir.path())).contains("not a whole safetensors file"));
    }
}

/// A thousand damaged files: an error in one sentence or a model, never a panic.
#[test]
fn damaged_models() {
    let dir = tempfile::tempdir().expect("a directory");
    let step = build(&tiny(false), Objective::LanguageModel, false);
    let config = tiny(false);
    write_model(dir.path(), &config, &settings(Architecture::LanguageModel), &weights(&step, 7)).expect("written");
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut failures = 0;
    for name in [WEIGHTS_FILE, CONFIG_FILE] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).expect("a file");
        let header = whole.len().min(8 + 9000); // most flips go where they hurt
        for round in 0..1000 {
            let mut bytes = whole.clone();
            let random = rng.next_u64() as usize;
            match round % 4 {
                0 => bytes.truncate(random % whole.len()),
                1 => bytes[random % whole.len()] ^= 1 << (round / 4 % 8),
                _ => bytes[random % header] ^= 1 << (round / 4 % 8),
            }
            fs::write(&path, &bytes).expect("written");
            let mut exec = Store::new(&step);
            let loaded = read_model(dir.path())
                .and_then(|model| load_into(&mut exec, &step, &model.weights, &LoadOptions::default()));
            if let Err(e) = loaded {
                failures += 1;
                let error = e.to_string();
                assert!(
                    error.lines().count() == 1 && error.contains("safetensors") | error.contains("config"),
                    "{error}"
                );
            }
        }
        fs::write(&path, whole).expect("written");
    }
    assert!(failures > 600, "only {failures} of 2000 were noticed");
    read_model(dir.path()).expect("whole again");
}

/// Directories that `transformers` wrote: `tests/golden/hf` and those of `XLNET_GOLDEN`.
#[test]
fn golden_directories_load() {
    let extra = std::env::var("XLNET_GOLDEN").unwrap_or_default();
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let roots = std::iter::once(own).chain(extra.split(':').filter(|p| !p.is_empty()).map(PathBuf::from));
    let cases: Vec<PathBuf> = roots
        .flat_map(|root| fs::read_dir(root.join("hf")).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.join(CONFIG_FILE).exists())
        .collect();
    for dir in cases {
        let model = read_model(&dir).expect("a model");
        let architecture = model.hf.architectures.clone().unwrap_or_default().join(" ");
        let labels = model.hf.id2label.as_ref().map_or(2, |labels| labels.len());
        let objective = match architecture.as_str() {
            "XLNetModel" | "XLNetLMHeadModel" => Objective::LanguageModel,
            "XLNetForSequenceClassification" => classes(labels),
            "XLNetForTokenClassification" => Objective::Tokens { classes: labels },
            "XLNetForMultipleChoice" => Objective::Choice { choices: 2, summary: SUMMARY },
            "XLNetForQuestionAnswering" => Objective::Span { answerable: true, answer_bias: false },
            other => panic!("no program for {other}"),
        };
        let step = build(&model.config, objective, true);
        let mut exec = Store::new(&step);
        let report = load_into(&mut exec, &step, &model.weights, &LoadOptions::default()).expect("weights that fit");
        let [loaded, initialised, ignored] = report.counts();
        println!("{}: {loaded} loaded, {initialised} initialised, {ignored} ignored", dir.display());
        // A bare transformer has no output bias; only the language model has a use for the mask embedding.
        assert_eq!(initialised, usize::from(architecture == "XLNetModel"), "{report}");
        assert_eq!(ignored, usize::from(objective != Objective::LanguageModel), "{report}");
        // Written again, it is the same model.
        let copy = tempfile::tempdir().expect("a directory");
        write_model(copy.path(), &model.config, &settings(Architecture::Base), &model.weights).expect("written");
        assert_eq!(read_weights(copy.path()).expect("read").tensors, model.weights.tensors);
    }
}
