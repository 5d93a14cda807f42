//! `xlnet embed`.

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::bail;
use serde_json::{Value, json};

use super::features::Output;
use crate::cli::args::{EmbedArgs, VectorFormat};
use crate::data::text::TextOptions;
use crate::model::tensor_file::{Dtype, TensorEntry, write_file, write_tensor_file};
use crate::task::embed::{EmbedOptions, Embedded, Embedder, Pooling};
use crate::task::example::read_text;
use crate::train::import::import;

/// Writes vectors of lines of text.
pub fn run(args: &EmbedArgs) -> anyhow::Result<()> {
    let options = EmbedOptions {
        layers: args.layers,
        pooling: args.pooling.into(),
        text: TextOptions { lower: args.uncased, keep_accents: args.keep_accents, ..TextOptions::default() },
        max_seq_length: args.max_seq_length,
        batch: args.batch,
        device: args.device.resolve()?,
    };
    let pooled = options.pooling != Pooling::None;
    let embedder =
        Embedder::of(import(&args.model, &args.sizes.options())?, args.spiece_model_file.as_deref(), options)?;
    let lines: Vec<String> = match &args.input {
        Some(path) => read_text(path)?.lines().map(str::to_owned).collect(),
        None => std::io::stdin().lock().lines().collect::<Result<_, _>>()?,
    };
    match (args.format, &args.output) {
        (VectorFormat::Jsonl, output) => {
            let mut out = Output::new(output.as_deref())?;
            for (part, texts) in lines.chunks(256).enumerate() {
                for (i, embedded) in embedder.embed(texts)?.into_iter().enumerate() {
                    out.line(&line(part * 256 + i, &embedded, pooled).to_string())?;
                }
            }
            Ok(out.finish()?)
        }
        (_, None) => bail!("--format npy and safetensors need --output"),
        (VectorFormat::Npy, Some(path)) => {
            if !pooled {
                bail!("npy holds one vector a line: choose --pooling cls or mean, or the format jsonl or safetensors");
            }
            write_npy(path, &embedder.embed(&lines)?, embedder.width())
        }
        (VectorFormat::Safetensors, Some(path)) => {
            write_safetensors(path, &embedder.embed(&lines)?, embedder.width(), pooled)
        }
    }
}

/// A number with six digits, as a person wrote it.
fn rounded(x: f32) -> Value {
    json!((f64::from(x) * 1e6).round() / 1e6)
}

fn line(index: usize, embedded: &Embedded, pooled: bool) -> Value {
    let values = |vector: &Vec<f32>| vector.iter().map(|&x| rounded(x)).collect::<Vec<_>>();
    if pooled {
        return json!({"linex_index": index, "values": embedded.vectors.first().map(values)});
    }
    let features: Vec<Value> = (embedded.tokens.iter().zip(&embedded.vectors))
        .map(|(token, vector)| {
            let (start, end) = token.characters.unzip();
            json!({"token": token.piece, "start": start, "end": end, "values": values(vector)})
        })
        .collect();
    json!({"linex_index": index, "features": features})
}

/// NumPy's format 1.0: magic, version, a Python literal padded to 64 bytes, the numbers.
fn write_npy(path: &Path, all: &[Embedded], width: usize) -> anyhow::Result<()> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {width}), }}", all.len());
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(length - header.len() - 1));
    header.push('\n');
    let io = |e| crate::Error::io("write", path, e);
    write_file(path, |out: &mut dyn Write| {
        out.write_all(b"\x93NUMPY\x01\x00").map_err(io)?;
        out.write_all(&(header.len() as u16).to_le_bytes()).map_err(io)?;
        out.write_all(header.as_bytes()).map_err(io)?;
        for value in all.iter().flat_map(|e| &e.vectors).flatten() {
            out.write_all(&value.to_le_bytes()).map_err(io)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// `vectors [n, d]`; for tokens also `line [n]`, and `start`, `end [n]` in characters, -1 where there are none.
fn write_safetensors(path: &Path, all: &[Embedded], width: usize, pooled: bool) -> anyhow::Result<()> {
    let count = all.iter().map(|e| e.vectors.len()).sum();
    let entry = |name: &str, shape: Vec<usize>, dtype| TensorEntry { name: name.into(), shape, dtype };
    let mut entries = vec![entry("vectors", vec![count, width], Dtype::F32)];
    let mut columns: Vec<Vec<i32>> = vec![];
    if !pooled {
        entries.extend(["line", "start", "end"].map(|name| entry(name, vec![count], Dtype::I32)));
        let tokens = || all.iter().enumerate().flat_map(|(i, e)| e.tokens.iter().map(move |token| (i, token)));
        let place = |c: Option<usize>| c.map_or(-1, |c| c as i32);
        columns.push(tokens().map(|(i, _)| i as i32).collect());
        columns.push(tokens().map(|(_, t)| place(t.characters.map(|c| c.0))).collect());
        columns.push(tokens().map(|(_, t)| place(t.characters.map(|c| c.1))).collect());
    }
    write_tensor_file(path, &entries, |i, bytes| {
        match i.checked_sub(1) {
            None => bytes.extend(all.iter().flat_map(|e| &e.vectors).flatten().flat_map(|x| x.to_le_bytes())),
            Some(column) => bytes.extend(columns[column].iter().flat_map(|x| x.to_le_bytes())),
        }
        Ok(())
    })?;
    Ok(())
}
