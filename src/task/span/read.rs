//! SQuAD's JSON, which CMRC 2018 and DRCD share.

use std::path::Path;

use serde::Deserialize;

use crate::task::example::{Answer, Question, Questions, Remarks, read_text};
use crate::{Error, Result};

#[derive(Deserialize)]
struct File {
    data: Vec<Article>,
}
#[derive(Deserialize)]
struct Article {
    paragraphs: Vec<Paragraph>,
}
#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Asked>,
}
#[derive(Deserialize)]
struct Asked {
    id: Id,
    question: String,
    #[serde(default)]
    answers: Vec<Given>,
    #[serde(default)]
    is_impossible: Option<bool>,
}
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(serde_json::Number),
}
#[derive(Deserialize)]
struct Given {
    text: String,
    answer_start: i64,
}

/// Reads questions. With `labelled`, answers are needed: questions without one that are not impossible are left out and
/// remarked on. `answerable` says that the file must tell impossible questions.
///
/// # Errors
/// When the file is missing or is no SQuAD file.
pub fn read(path: &Path, answerable: bool, labelled: bool, remarks: &mut Remarks) -> Result<Questions> {
    let text = read_text(path)?;
    let file: File = serde_json::from_str(&text).map_err(|e| {
        let what = format!("this is no SQuAD file: {e}; it needs data, paragraphs, context, qas, id and question");
        Error::data(path, what)
    })?;
    let mut all = Questions::default();
    let (mut several, mut elsewhere) = (0, vec![]);
    for paragraph in file.data.into_iter().flat_map(|article| article.paragraphs) {
        let characters: Vec<char> = paragraph.context.chars().collect();
        let index = all.contexts.len();
        for asked in paragraph.qas {
            let id = match asked.id {
                Id::Text(text) => text,
                Id::Number(number) => number.to_string(),
            };
            if labelled && answerable && asked.is_impossible.is_none() {
                let what = format!("question {id} has no is_impossible; use task squad1.1 for files without it");
                return Err(Error::data(path, what));
            }
            let impossible = asked.is_impossible.unwrap_or(false);
            let answers: Vec<Answer> = (asked.answers.into_iter())
                .map(|given| Answer { text: given.text, start: given.answer_start.try_into().ok() })
                .collect();
            if labelled && !impossible && answers.is_empty() {
                remarks.skip(path, None, format!("question {id} has no answer and is not marked impossible"));
                continue;
            }
            several += usize::from(labelled && !impossible && answers.len() > 1);
            let there = |answer: &Answer| {
                let text = answer.text.chars();
                let from = answer.start.and_then(|start| characters.get(start..));
                from.is_some_and(|from| text.eq(from.iter().copied().take(answer.text.chars().count())))
            };
            if labelled && !impossible && !there(&answers[0]) {
                elsewhere.push(id.clone());
            }
            all.questions.push(Question { id, question: asked.question, paragraph: index, answers, impossible });
        }
        all.contexts.push(paragraph.context);
    }
    for id in elsewhere {
        remarks.note(path, None, format!("question {id}: the answer does not stand at answer_start; kept, as there"));
    }
    if several > 0 {
        remarks.note(path, None, format!("{several} questions have several answers; training uses the first"));
    }
    Ok(all)
}
