//! Every command that names a checkpoint takes all formats, and answers the same from each.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use xlnet::api::{Batch, RunConfig, XlnetModel};
use xlnet::backend::Device;
use xlnet::data::text::TextOptions;
use xlnet::task::cache::{Dataset, Reading};
use xlnet::task::config::FinetuneConfig;
use xlnet::task::embed::{EmbedOptions, Embedder, Layers, Pooling};
use xlnet::task::fine_tuned::FineTuned;
use xlnet::task::finetune::Finetuning;
use xlnet::task::generate::LanguageModel;
use xlnet::train::export::export_tensorflow;
use xlnet::train::import::{Format, import};

use crate::common::{Place, belongings, language_model};

/// The model of `dir` as TensorFlow has it; the prefix.
fn bundle(dir: &Path, to: &Path) -> PathBuf {
    let model = import(dir, &Default::default()).unwrap();
    assert!(model.tokenizer.is_some());
    export_tensorflow(to, &model).unwrap().0
}

/// All files of `dir` in a zip, in a folder of their own as the released ones.
fn zip_of(dir: &Path, path: &Path) -> PathBuf {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("model/{}", entry.file_name().to_str().unwrap());
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&fs::read(entry.path()).unwrap()).unwrap();
    }
    zip.finish().unwrap();
    path.to_owned()
}

/// The model of `dir` in three shards.
fn shards(dir: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    for name in ["config.json", "spiece.model"] {
        fs::copy(dir.join(name), to.join(name)).unwrap();
    }
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let mut map = Map::new();
    for (i, shard) in tensors.chunks(tensors.len().div_ceil(3)).enumerate() {
        let file = format!("model-{:05}-of-00003.safetensors", i + 1);
        map.extend(shard.iter().map(|(name, _)| (name.clone(), Value::from(file.clone()))));
        safetensors::serialize_to_file(shard.iter().map(|(n, t)| (n, t)), None, &to.join(&file)).unwrap();
    }
    fs::write(to.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    to.to_owned()
}

/// A pretrained language model in every format, its own directory first.
fn formats(place: &Place) -> Vec<PathBuf> {
    let dir = language_model(place);
    let at = |name: &str| place.path().join(name);
    let prefix = bundle(&dir, &at("tf"));
    let zip = zip_of(&at("tf"), &at("tf.zip"));
    // Chinese zips: the data file lost its suffix.
    let chinese = at("chinese");
    fs::create_dir_all(&chinese).unwrap();
    for entry in fs::read_dir(at("tf")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name != "checkpoint" {
            fs::copy(&path, chinese.join(name.replace("-00000-of-00001", ""))).unwrap();
        }
    }
    let chinese = zip_of(&chinese, &at("chinese.zip"));
    let shards = shards(&dir, &at("shards"));
    let safetensors = dir.join("model.safetensors");
    vec![dir.clone(), safetensors, shards, zip_of(&dir, &at("hf.zip")), at("tf"), prefix, zip, chinese]
}

#[test]
fn language_models_of_every_format() {
    let place = Place::new();
    let options = EmbedOptions {
        layers: Layers::Last,
        pooling: Pooling::None,
        text: TextOptions::default(),
        max_seq_length: 40,
        batch: 2,
        device: Device::Cpu,
    };
    let run = RunConfig { batch: 1, length: 6, ..RunConfig::default() };
    let ids = vec![21, 22, 23, 24, 4, 3];
    let batch = Batch { input_ids: ids, seg_ids: vec![0, 0, 0, 0, 0, 2], input_mask: vec![0; 6] };
    let all = formats(&place);
    let answers: Vec<_> = (all.iter())
        .map(|path| {
            let embedder = Embedder::open(path, None, options.clone()).unwrap();
            let vectors = embedder.embed(&["anna has books".into(), "good".into()]).unwrap();
            let model = LanguageModel::open(path, None, TextOptions::default(), Device::Cpu).unwrap();
            let guesses = model.fill("anna has <mask> books", 5).unwrap();
            let mut model = XlnetModel::from_pretrained(path, &run).unwrap();
            model.run(&batch).unwrap();
            (vectors, guesses, model.sequence_output().unwrap())
        })
        .collect();
    assert_eq!(answers.len(), 8);
    for (path, answer) in all.iter().zip(&answers) {
        assert_eq!(*answer, answers[0], "{}", path.display());
    }
    // Without the vocabulary there is a sentence.
    fs::remove_file(place.path().join("tf/spiece.model")).unwrap();
    let sentence = Embedder::open(&place.path().join("tf"), None, options.clone()).err().unwrap().to_string();
    assert!(sentence.contains("no spiece.model beside it"), "{sentence}");
    Embedder::open(&place.path().join("tf"), Some(&place.path().join("spiece.model")), options).unwrap();
}

/// The layouts of PyTorch's files; they were written by PyTorch.
#[test]
fn torch_files() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch");
    let run = RunConfig { batch: 1, length: 5, ..RunConfig::default() };
    let batch = Batch { input_ids: vec![9, 10, 11, 4, 3], seg_ids: vec![0, 0, 0, 0, 2], input_mask: vec![0; 5] };
    let answer = |file: &str| {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(golden.join("config.json"), dir.path().join("config.json")).unwrap();
        let name = if file.ends_with(".bin") { "pytorch_model.bin" } else { "model.safetensors" };
        fs::copy(golden.join(file), dir.path().join(name)).unwrap();
        let mut model = XlnetModel::from_pretrained(dir.path(), &run).unwrap();
        model.run(&batch).unwrap();
        model.sequence_output().unwrap()
    };
    let want = answer("expected.safetensors");
    assert!(want.iter().all(|x| x.is_finite()) && want.iter().any(|x| x.abs() > 0.1));
    for file in ["zip.bin", "legacy.bin", "views.bin"] {
        assert_eq!(answer(file), want, "{file}");
    }
}

/// Fine-tuning starts from every format with the same weights; what it makes is evaluated as our own and as the
/// original's checkpoint.
#[test]
fn fine_tuning_from_every_format_and_back() {
    let place = Place::new();
    let row = |i: usize| format!("{}\tthe weather was {} , {}\n", i % 2, ["bad", "good"][i % 2], belongings(i));
    let rows = format!("label\ttext_a\n{}", (0..12).map(row).collect::<String>());
    place.write("train.tsv", &rows);
    place.write("dev.tsv", &rows);
    let config = |run: &str, from: &Path| FinetuneConfig {
        init_checkpoint: Some(from.to_owned()),
        model_config_path: None,
        spiece_model_file: None,
        train_steps: Some(3),
        warmup_steps: Some(1),
        save_steps: Some(3),
        ..place.config("csc", run)
    };
    let all = formats(&place);
    let scores: Vec<_> = (all.iter().enumerate())
        .map(|(i, path)| {
            let mut run = Finetuning::prepare(config(&format!("run{i}"), path)).unwrap();
            run.run(&AtomicBool::new(false), &mut |_| ()).unwrap();
            run.best().unwrap().scores.clone()
        })
        .collect();
    for (path, got) in all.iter().zip(&scores) {
        assert_eq!(*got, scores[0], "{}", path.display());
    }
    // The run goes on without what it started from; its own checkpoint has sizes and vocabulary.
    fs::remove_dir_all(place.path().join("tf")).unwrap();
    let longer = FinetuneConfig { train_steps: Some(4), ..config("run4", &all[4]) };
    let mut run = Finetuning::prepare(longer).unwrap();
    run.run(&AtomicBool::new(false), &mut |_| ()).unwrap();

    // As a checkpoint of the original, which says nothing of its task, in a directory and in a zip.
    let best = place.path().join("run0/best");
    let mut model = import(&best, &Default::default()).unwrap();
    model.head = Some("classification_csc".into());
    let original = place.path().join("original");
    export_tensorflow(&original, &model).unwrap();
    assert_eq!(import(&original, &Default::default()).unwrap().format, Format::TensorFlow);
    let zip = zip_of(&original, &place.path().join("original.zip"));
    let settings = FinetuneConfig { predict_file: None, ..config("none", &best) };
    let answers: Vec<_> = [&best, &original, &zip]
        .map(|path| {
            let ours = FineTuned::is_one(path);
            assert_eq!(ours, *path == best);
            let model = match ours {
                true => FineTuned::open(path, Device::Cpu, 32).unwrap(),
                false => FineTuned::import(path, &settings, Device::Cpu).unwrap(),
            };
            let reading = Reading { labelled: true, training: false, most: 0, cache: None, fresh: false };
            let (place, conversion) = (settings.eval_place().unwrap(), &model.file.conversion);
            let set = Dataset::load(&model.file.task, &place, conversion, &model.tokenizer, reading).unwrap();
            model.setup.answer(&model.weights, &set.features, &mut |_| ()).unwrap()
        })
        .into();
    assert_eq!(answers[1], answers[0]);
    assert_eq!(answers[2], answers[0]);
    // A pretrained model cannot answer.
    let sentence = FineTuned::import(&all[0], &settings, Device::Cpu).unwrap_err().to_string();
    assert!(sentence.contains("no logits_proj.weight, which the task csc needs"), "{sentence}");
}
