//! PTX kernels as text: every variant is accepted by NVIDIA's assembler and by the interpreter, spills nothing, and reads
//! its parameters where the library puts them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use ptx_interpreter::{Module, ptxas};
use rayon::prelude::*;
use xlnet::backend::cuda::KernelText;
use xlnet::kernel::{Header, Language, params};

/// One architecture of each generation, for every variant.
const GENERATIONS: [&str; 4] = ["sm_70", "sm_80", "sm_90", "sm_120"];
/// The others, for one variant of each template, the one with every flag.
const RELATIVES: [&str; 5] = ["sm_75", "sm_86", "sm_89", "sm_90a", "sm_100"];

/// 70 of `sm_70`, 90 of `sm_90a`.
fn architecture(target: &str) -> Result<u32> {
    let digits = target.trim_start_matches("sm_").trim_end_matches('a');
    digits.parse().with_context(|| format!("{target} is no target"))
}

/// Every variant of every template, and whether it is the last of its template.
fn variants() -> Result<Vec<(KernelText, bool)>> {
    let mut all = vec![];
    for template in Language::Ptx.templates() {
        let variants = Header::of(Language::Ptx, template)?.variants();
        for (i, variant) in variants.iter().enumerate() {
            all.push((KernelText::new(variant)?, i + 1 == variants.len()));
        }
    }
    Ok(all)
}

/// Registers, shared memory, and the target that asks for them.
type Need = (u32, u32, &'static str);

/// Entry and needs of one kernel, for each target that its text is for.
fn assemble(kernel: &KernelText, last: bool) -> Result<Vec<(&'static str, Need)>> {
    let (label, text) = (&kernel.rendered.label, &kernel.rendered.text);
    let relatives = if last { &RELATIVES[..] } else { &[] };
    let module = Module::parse(text)?;
    let oldest = architecture(module.target())?;
    let alone = module.target().ends_with('a');
    let targets: Vec<&'static str> = match alone {
        true => RELATIVES.into_iter().filter(|target| *target == module.target()).collect(), // the text is for one card
        false => GENERATIONS.iter().chain(relatives).copied().collect(),
    };
    ensure!(!targets.is_empty(), "{label}: its target {} is not checked", module.target());
    let mut found = vec![];
    for target in targets {
        if architecture(target)? < oldest {
            continue; // the text is for newer cards
        }
        let all = ptxas::assemble(text, target).with_context(|| label.clone())?;
        let usage = all.first().with_context(|| format!("{label}: no entry"))?;
        ensure!(all.len() == 1 && usage.entry == kernel.entry, "{label}: the entry is not {}", kernel.entry);
        ensure!((usage.spills, usage.stack) == (0, 0), "{label} for {target}: registers spill: {usage:?}");
        let threads: u32 = kernel.block.iter().product();
        ensure!(usage.registers * threads <= 65536, "{label} for {target}: {usage:?} with {threads} threads");
        found.push((kernel.entry, (usage.registers, usage.shared, target)));
    }
    Ok(found)
}

#[test]
fn every_kernel_assembles_for_every_target_without_spills() -> Result<()> {
    let all: Vec<_> = variants()?.par_iter().map(|(kernel, last)| assemble(kernel, *last)).collect::<Result<_>>()?;
    let mut worst = BTreeMap::new();
    for (entry, usage) in all.into_iter().flatten() {
        let most = worst.entry(entry).or_insert((0, 0, ""));
        *most = (*most).max(usage);
    }
    for (entry, (registers, shared, target)) in &worst {
        println!("{entry}: at most {registers} registers ({target}), {shared} bytes of shared memory");
    }
    ensure!(worst.len() >= 20, "only {} kernels", worst.len());
    Ok(())
}

/// `ld.param.u32 %n, [params+8]; // rows`: the comment is the field's name; place and type are those of the struct.
#[test]
fn parameters_are_read_where_the_library_puts_them() -> Result<()> {
    for (kernel, _) in variants()? {
        let (label, text) = (&kernel.rendered.label, &kernel.rendered.text);
        let module = Module::parse(text).with_context(|| label.clone())?;
        let entry = &module.kernels()[0];
        let header = Header::of(Language::Ptx, kernel.entry)?;
        let Some((_, fields)) = params::ALL.iter().find(|(name, _)| *name == kernel.entry) else {
            bail!("{label}: there is no params struct of this name");
        };
        let parameters: Vec<(String, usize)> =
            entry.parameters().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let buffers = header.buffers.iter().map(|buffer| (format!("{buffer}_param"), 8));
        let want: Vec<_> = [("params".to_owned(), 4 * fields.len())].into_iter().chain(buffers).collect();
        ensure!(parameters == want, "{label}: its parameters are {parameters:?}, expected {want:?}");
        for line in text.lines().filter(|line| line.contains("[params")) {
            let offset = line.split("[params").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
            let offset: usize = offset.trim_start_matches('+').parse().unwrap_or(0);
            let comment = line.split("//").nth(1).unwrap_or_default().trim();
            let (name, kind) = fields[offset / 4];
            let kind = kind.replace('i', "s");
            ensure!(
                comment == name && line.trim().starts_with(&format!("ld.param.{kind} ")),
                "{label}: {:?} should read {name}, a {kind}",
                line.trim()
            );
        }
    }
    Ok(())
}
