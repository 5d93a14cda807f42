//! Texts longer than a window: earlier windows are remembered.

use xlnet::backend::Device;
use xlnet::task::cache::{Dataset, Reading};
use xlnet::task::config::FinetuneConfig;
use xlnet::task::evaluate::Output;
use xlnet::task::fine_tuned::FineTuned;
use xlnet::task::predict::{Predictor, Request, Response};

use crate::common::{NAMES, Place, belongings, train};

const WORDS: [&str; 2] = ["good", "awful"];

/// Classes say how a text begins and how it ends; between lie up to two windows, the same for all four.
fn text(i: usize) -> String {
    let n = i / 4;
    let middle: String = (0..1 + n % 3).map(|k| format!("{} has {} ", NAMES[(n + k) % 8], belongings(n + k))).collect();
    format!("{} {middle}{}", WORDS[i % 2], WORDS[i / 2 % 2])
}

fn long_texts(place: &Place, run: &str) -> FinetuneConfig {
    let rows: String = (0..48).map(|i| format!("{}\t{}\n", i % 4, text(i))).collect();
    let file = place.write("long.tsv", format!("label\ttext\n{rows}"));
    FinetuneConfig {
        train_file: Some(file.clone()),
        predict_file: Some(file),
        text_a: Some("text".into()),
        label: Some("label".into()),
        max_seq_length: Some(24),
        windows: 3,
        mem_len: Some(48),
        accumulate: 2,
        train_steps: Some(400),
        save_steps: Some(100),
        ..place.config("text", run)
    }
}

#[test]
fn the_beginning_of_a_long_text_is_remembered() {
    let place = Place::new();
    let config = long_texts(&place, "run");
    let scores = train(config.clone());
    assert!(scores["eval_accuracy"] > 0.95, "{scores:?}");
    // Without memories the end of most texts is cut off.
    let blind = train(FinetuneConfig { windows: 1, mem_len: None, ..long_texts(&place, "blind") });
    assert!(blind["eval_accuracy"] < 0.8, "texts that are cut off can't be told apart: {blind:?}");

    // Neither the batch nor the lengths of its other texts change an answer.
    let open = |batch| FineTuned::open(&config.model_dir, Device::Cpu, batch).unwrap();
    let model = open(7);
    let reading = Reading { labelled: true, training: false, most: 0, cache: None, fresh: false };
    let task = &model.file.task;
    let set = config.eval_place().unwrap();
    let dataset = Dataset::load(task, &set, &model.file.conversion, &model.tokenizer, reading).unwrap();
    let lengths: Vec<usize> = dataset.features.iter().map(|feature| feature.longest()).collect();
    assert!(
        lengths.iter().all(|&n| n < 72) && lengths.iter().any(|&n| n <= 24) && lengths.iter().any(|&n| n > 48),
        "{lengths:?}"
    );
    let alone = open(1).setup.answer(&model.weights, &dataset.features, &mut |_| ()).unwrap();
    let mut session = model.setup.session(7, 24, &model.weights).unwrap();
    let mut mixed = vec![];
    for some in dataset.features.iter().collect::<Vec<_>>().chunks(7) {
        mixed.extend(model.setup.answer_batch(&mut session, some).unwrap());
    }
    for (a, b) in alone.iter().zip(&mixed) {
        let (Output::Logits(a), Output::Logits(b)) = (a, b) else { panic!("no logits") };
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0), "{a} {b}");
        }
    }
    // The predictor reads windows too.
    let predictor = Predictor::new(model, 2).unwrap();
    for i in [0, 5, 10, 47] {
        let request = Request { text: Some(text(i)), ..Request::default() };
        let Ok(Response::Class { label, .. }) = predictor.predict(&[request]).remove(0) else { panic!("no class") };
        assert_eq!(label, (i % 4).to_string(), "{}", text(i));
    }
}

#[test]
fn windows_that_make_no_sense() {
    let place = Place::new();
    let says = |change: &dyn Fn(&mut FinetuneConfig)| {
        let mut config = long_texts(&place, "run");
        change(&mut config);
        let task = config.task().unwrap();
        config.resolve(&task, 48).unwrap_err().to_string()
    };
    assert!(says(&|config| config.windows = 0).contains("windows must be between 1 and"));
    assert!(says(&|config| config.windows = 1).contains("windows is 1; raise it"));
    assert!(says(&|config| config.mem_len = Some(0)).contains("mem_len must be at least 1"));
    assert!(says(&|config| config.task_name = "squad".into()).contains("squad answers at every token"));
    let mean = says(&|config| config.summary_type = xlnet::model::heads::SummaryType::Mean);
    assert!(mean.contains("use last or first"), "{mean}");
}
