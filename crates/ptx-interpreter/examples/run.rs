//! Runs one entry of a PTX file on files of raw bytes, under both schedules, and prints what it did:
//!
//! ```sh
//! cargo run -p ptx-interpreter --example run -- kernel.ptx scale 4,1,1 128,1,1 0 file:x.bin out:2048:y.bin params:0000803f
//! ```
//!
//! After the entry come grid, block, bytes of dynamic shared memory, and an argument for each parameter: `file:PATH` (a
//! buffer with that content), `out:BYTES:PATH` (a fresh buffer, saved), `inout:PATH` (both), `u32:N`, `f32:X`,
//! `params:HEX` (a struct), `null` (address 0).

use std::error::Error;
use std::{env, fs};

use ptx_interpreter::{Argument, Machine, Module, Schedule};

fn main() -> Result<(), Box<dyn Error>> {
    let all: Vec<String> = env::args().skip(1).collect();
    let [path, entry, grid, block, shared, rest @ ..] = &all[..] else {
        return Err("usage: run FILE ENTRY X,Y,Z X,Y,Z SHARED_BYTES ARGUMENT... (see the head of this file)".into());
    };
    let module = Module::parse(&fs::read_to_string(path)?)?;
    let triple = |text: &str| -> Result<[u32; 3], Box<dyn Error>> {
        let parts: Vec<u32> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        parts.try_into().map_err(|_| "expected X,Y,Z".into())
    };
    let mut before: Option<Vec<Vec<u8>>> = None;
    for schedule in Schedule::ALL {
        let mut machine = Machine::new();
        machine.schedule(schedule);
        let (mut arguments, mut outputs) = (vec![], vec![]);
        for text in rest {
            let (kind, value) = text.split_once(':').unwrap_or((text, ""));
            arguments.push(match kind {
                "file" => machine.upload(value, &fs::read(value)?).into(),
                "inout" => {
                    let buffer = machine.upload(value, &fs::read(value)?);
                    outputs.push((buffer, value.to_owned()));
                    buffer.into()
                }
                "out" => {
                    let (bytes, path) = value.split_once(':').ok_or("out:BYTES:PATH")?;
                    let buffer = machine.alloc(path, bytes.parse()?);
                    outputs.push((buffer, path.to_owned()));
                    buffer.into()
                }
                "u32" => Argument::U32(value.parse()?),
                "f32" => Argument::F32(value.parse()?),
                "null" => Argument::U64(0),
                "params" => {
                    let digits = (0..value.len()).step_by(2);
                    let bytes = digits.map(|at| u8::from_str_radix(value.get(at..at + 2).unwrap_or("?"), 16));
                    Argument::Bytes(bytes.collect::<Result<_, _>>()?)
                }
                _ => return Err(format!("unknown argument {text}").into()),
            });
        }
        let report = machine.launch(&module, entry, triple(grid)?, triple(block)?, shared.parse()?, &arguments)?;
        let results = outputs.iter().map(|(b, _)| machine.download(*b)).collect::<Result<Vec<_>, _>>()?;
        match before.take() {
            None => before = Some(results),
            Some(before) if before != results => return Err("the schedules disagree".into()),
            Some(_) => {
                println!("{report}");
                outputs.iter().zip(&results).try_for_each(|((_, path), bytes)| fs::write(path, bytes))?;
            }
        }
    }
    Ok(())
}
