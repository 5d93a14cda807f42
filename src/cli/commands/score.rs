//! `xlnet score`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cli::args::ScoreArgs;
use crate::cli::output::print;
use crate::data::record_info::Split;
use crate::task::example::{Examples, read_text};
use crate::task::metrics::Scores;
use crate::task::span::decode::{Answered, Candidate};
use crate::task::span::{chinese, english};
use crate::task::{Answer, Custom, Place, Source, Task};

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<BTreeMap<String, T>> {
    let text = read_text(path)?;
    serde_json::from_str(&text)
        .map_err(|e| crate::Error::data(path, format!("this is no object of question ids: {e}")).into())
}

/// Prints the official scores of a predictions file.
pub fn run(args: &ScoreArgs) -> anyhow::Result<()> {
    let place = Place { dir: PathBuf::new(), split: Split::Dev, file: Some(args.gold.clone()) };
    let task = Task::named(&args.task_name, &Custom::default(), &place)?;
    let (Examples::Questions(questions), _) = task.read(&place, false)? else {
        bail!("{} has no official scorer of predictions; the tasks are squad, squad1.1, cmrc2018, drcd", task.name);
    };
    let texts: BTreeMap<String, String> = read(&args.predictions)?;
    let odds: BTreeMap<String, f32> = match &args.null_odds {
        Some(path) => read(path)?,
        None => BTreeMap::new(),
    };
    let answer = |(id, text): (String, String)| Answered {
        no_answer: odds.get(&id).copied().unwrap_or(0.0),
        candidates: vec![Candidate {
            text,
            probability: 1.0,
            start_log_prob: 0.0,
            end_log_prob: 0.0,
            characters: None,
        }],
        id,
    };
    let answers: Vec<Answered> = texts.into_iter().map(answer).collect();
    let json = match (&task.source, &task.answer) {
        (Source::Squad { chinese: true, .. }, _) => {
            print(&chinese_line(&chinese::score(&questions, &answers), &args.predictions));
            return Ok(());
        }
        (_, Answer::Span { answerable: true }) => {
            let mut scores = english::score_v2(&questions, &answers, args.null_threshold);
            if args.null_odds.is_none() {
                scores.retain(|name, _| !name.starts_with("best_"));
            }
            json!(scores)
        }
        _ => json!(english::score_v1(&questions, &answers)),
    };
    print(&format!("{json:#}"));
    Ok(())
}

/// The line that the official scorer of CMRC 2018 prints, to the byte.
fn chinese_line(scores: &Scores, predictions: &Path) -> String {
    let percent = |name: &str| json!(format!("{:.3}", scores[name]));
    let count = |name: &str| json!(scores[name] as u64);
    let values = [
        ("AVERAGE", percent("AVERAGE")),
        ("F1", percent("F1")),
        ("EM", percent("EM")),
        ("TOTAL", count("TOTAL")),
        ("SKIP", count("SKIP")),
        ("FILE", json!(predictions.display().to_string())),
    ];
    let values = values.map(|(name, value)| format!("\"{name}\": {value}"));
    format!("{{{}}}", values.join(", "))
}
