//! Made-up texts and a vocabulary of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::json;
use xlnet::backend::Device;
use xlnet::config::XlnetConfig;
use xlnet::data::tokenizer::Tokenizer;
use xlnet::data::vocab::{VocabOptions, train_vocab};
use xlnet::model::hugging_face::{Architecture, HuggingFaceSettings, write_model};
use xlnet::model::{QueryKind, TransformerOptions};
use xlnet::task::config::FinetuneConfig;
use xlnet::task::finetune::Finetuning;
use xlnet::task::metrics::Scores;
use xlnet::tensor::DType;
use xlnet::train::init::{InitOptions, initialize};
use xlnet::train::load::download_weights;
use xlnet::train::session::Session;
use xlnet::train::step::{Objective, StepOptions};

pub const NAMES: [&str; 8] = ["anna", "boris", "clara", "dimitri", "elena", "fyodor", "galina", "henry"];
pub const COLOURS: [&str; 4] = ["red", "green", "yellow", "brown"];
pub const THINGS: [&str; 5] = ["apples", "pears", "horses", "books", "cats"];

/// What `name` number `i` has.
pub fn belongings(i: usize) -> String {
    format!("{} {} {}", i + 2, COLOURS[i % 4], THINGS[i % 5])
}

/// A directory with a vocabulary and a small model's sizes.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sentence = |i: usize| {
            let (name, other) = (NAMES[i % 8], NAMES[(i + 3) % 8]);
            format!(
                "{name} has {} and {other} of question number {i} does not like what is bad, the café is good, \
                 the weather was nice or awful in {} , 2,000 times. \u{6211}\u{4eec}\u{7684}\u{4e66}\u{5f88}\u{597d}\n",
                belongings(i),
                1900 + i
            )
        };
        let text = dir.path().join("text.txt");
        fs::write(&text, (0..400).map(sentence).collect::<String>()).unwrap();
        let options = VocabOptions {
            inputs: vec![text],
            vocab_size: 400,
            hard_vocab_limit: false,
            threads: 1,
            ..VocabOptions::default()
        };
        let made = train_vocab(&options, dir.path().join("spiece.model")).unwrap();
        let sizes = json!({"n_layer": 2, "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64,
            "ff_activation": "gelu", "untie_r": true, "n_token": made.vocab_size});
        fs::write(dir.path().join("sizes.json"), sizes.to_string()).unwrap();
        Place { dir }
    }
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
    pub fn tokenizer(&self) -> Tokenizer {
        Tokenizer::open(self.path().join("spiece.model")).unwrap()
    }
    /// Writes a file of the data directory.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
    /// Settings that learn a few examples by heart.
    pub fn config(&self, task: &str, run: &str) -> FinetuneConfig {
        FinetuneConfig {
            task_name: task.into(),
            data_dir: self.path().to_owned(),
            model_dir: self.path().join(run),
            spiece_model_file: Some(self.path().join("spiece.model")),
            model_config_path: Some(self.path().join("sizes.json")),
            max_seq_length: Some(48),
            max_query_length: 16,
            doc_stride: 16,
            max_qa_length: 16,
            learning_rate: Some(3e-3),
            lr_layer_decay_rate: Some(1.0),
            adam_epsilon: Some(1e-8),
            train_batch_size: Some(8),
            train_steps: Some(150),
            warmup_steps: Some(10),
            save_steps: Some(50),
            dropout: 0.0,
            dropatt: 0.0,
            init_std: 0.1,
            device: "cpu".into(),
            tensorboard: false,
            ..FinetuneConfig::default()
        }
    }
}

/// Trains and returns the best scores.
pub fn train(config: FinetuneConfig) -> Scores {
    let mut run = Finetuning::prepare(config).unwrap();
    run.run(&AtomicBool::new(false), &mut |_| ()).unwrap();
    run.best().unwrap().scores.clone()
}

/// A language model of random weights as a directory.
pub fn language_model(place: &Place) -> PathBuf {
    let config = XlnetConfig::read(&place.path().join("sizes.json")).unwrap();
    let transformer =
        TransformerOptions { batch: 1, length: 4, query: QueryKind::Targets(1), ..TransformerOptions::default() };
    let settings = HuggingFaceSettings::new(Architecture::LanguageModel, &transformer);
    let options =
        StepOptions { transformer, objective: Objective::Logits, accumulate: 1, float: DType::F32, optimizer: None };
    let mut session = Session::new(&config, options, Device::Cpu, 0).unwrap();
    let (program, exec) = session.parts();
    initialize(exec, program, &InitOptions { init_std: 0.3, ..InitOptions::default() }).unwrap();
    let weights = download_weights(exec, program).unwrap();
    let dir = place.path().join("lm");
    write_model(&dir, &config, &settings, &weights).unwrap();
    fs::copy(place.path().join("spiece.model"), dir.join("spiece.model")).unwrap();
    dir
}
