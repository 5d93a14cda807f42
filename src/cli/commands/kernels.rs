//! `xlnet kernels`.

use std::path::Path;

use crate::cli::args::{KernelsCheckArgs, KernelsDumpArgs};
use crate::cli::output::print;
use crate::kernel::{Header, Language, Value, Variant, render};
use crate::op::Op;

/// Prints every template with what it computes and its keys.
pub fn list() -> anyhow::Result<()> {
    for language in [Language::Wgsl, Language::Ptx] {
        for template in language.templates() {
            let header = Header::of(language, template)?;
            let line = |name: &str| header.lines.iter().find(|(n, _)| *n == name).map_or("", |(_, text)| text);
            let (folder, extension) = (language.folder(), language.extension());
            print(&format!("{folder}/{template}.{extension}, {} variants", header.variants().len()));
            print(&format!("    {}", line("computes")));
            print(&format!("    keys: {}", line("keys")));
        }
    }
    Ok(())
}

/// Variants whose label begins with `label`.
fn variants(label: &str) -> anyhow::Result<Vec<(Language, Variant)>> {
    let mut all = vec![];
    for language in [Language::Wgsl, Language::Ptx] {
        for template in language.templates() {
            let variants = Header::of(language, template)?.variants().into_iter();
            all.extend(variants.map(|variant| (language, variant)));
        }
    }
    let whole = |text: &str| text.strip_prefix(label).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    all.retain(|(_, variant)| label.is_empty() || whole(&variant.to_string()));
    anyhow::ensure!(!all.is_empty(), "no kernel is called {label}; `xlnet kernels list` shows all");
    Ok(all)
}

/// Prints the text of one variant, or writes all that match to a folder.
pub fn dump(args: &KernelsDumpArgs) -> anyhow::Result<()> {
    let all = variants(&args.label)?;
    let Some(folder) = &args.output else {
        let (language, variant) = &all[0];
        print(render(*language, variant)?.text.trim_end());
        return Ok(());
    };
    std::fs::create_dir_all(folder)?;
    for (language, variant) in &all {
        write(folder, *language, variant)?;
    }
    print(&format!("{} kernels in {}", all.len(), folder.display()));
    Ok(())
}

fn write(folder: &Path, language: Language, variant: &Variant) -> anyhow::Result<()> {
    let rendered = render(language, variant)?;
    std::fs::write(folder.join(format!("{}.{}", rendered.label, language.extension())), rendered.text)?;
    Ok(())
}

/// Renders every variant, and has an adapter compile those that it can.
pub fn check(args: &KernelsCheckArgs) -> anyhow::Result<()> {
    let all = variants(&args.label)?;
    for (language, variant) in &all {
        render(*language, variant)?;
    }
    print(&format!("{} variants render", all.len()));
    compile_ptx(args, &all)?;
    compile(args, &all)
}

/// Has a card's driver compile the PTX.
#[cfg(feature = "cuda")]
fn compile_ptx(args: &KernelsCheckArgs, all: &[(Language, Variant)]) -> anyhow::Result<()> {
    use crate::backend::Device;
    use crate::backend::cuda::{Card, Driver, KernelText};
    let Device::Cuda(number) = args.device else { return Ok(()) };
    let mut card = Card::open(number)?;
    let (mut compiled, mut others) = (0, 0);
    for (_, variant) in all.iter().filter(|(language, _)| *language == Language::Ptx) {
        let kernel = KernelText::new(variant)?;
        if !kernel.runs_on(card.capability()) {
            others += 1;
            continue;
        }
        card.load(&kernel)?;
        compiled += 1;
    }
    print(&format!("{compiled} variants compile on {}, {others} are for other cards", args.device));
    Ok(())
}
#[cfg(not(feature = "cuda"))]
fn compile_ptx(_: &KernelsCheckArgs, _: &[(Language, Variant)]) -> anyhow::Result<()> {
    Ok(())
}

#[cfg(feature = "wgpu")]
fn compile(args: &KernelsCheckArgs, all: &[(Language, Variant)]) -> anyhow::Result<()> {
    use std::collections::BTreeMap;

    use crate::backend::Device;
    use crate::backend::wgpu::Gpu;
    let Device::Wgpu(number) = args.device else { return Ok(()) };
    let gpu = Gpu::open(number)?;
    let (mut compiled, mut lacking) = (0, BTreeMap::<_, usize>::new());
    for (language, variant) in all.iter().filter(|(language, _)| *language == Language::Wgsl) {
        if let Some(what) = gpu.info.caps.lacks(variant, &render(*language, variant)?.text) {
            *lacking.entry(what).or_default() += 1;
            continue;
        }
        gpu.compile_variant(variant)?;
        compiled += 1;
    }
    print(&format!("{compiled} variants compile on {}", gpu.name()));
    for (what, count) in lacking {
        print(&format!("{count} variants are for adapters with {what}"));
    }
    Ok(())
}
#[cfg(not(feature = "wgpu"))]
fn compile(args: &KernelsCheckArgs, _: &[(Language, Variant)]) -> anyhow::Result<()> {
    args.device.resolve()?;
    Ok(())
}

/// Element types that kernels of `op` take, by their headers.
fn types(language: Language, op: &str) -> anyhow::Result<String> {
    // Tensor cores have kernels of their own; a sum of squares is a launch of `sum`.
    let owner = |template: &str| {
        let plain = template.replace("_wgmma", "").replace("_mma", "");
        let begins = |op: &&&str| plain.strip_prefix(**op).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
        let op = Op::NAMES.iter().filter(begins).max_by_key(|op| op.len()).copied();
        if template == "sum" { Some("square_norm") } else { op }
    };
    let mut found = vec![];
    for template in language.templates().into_iter().filter(|template| owner(template) == Some(op)) {
        found.extend(Header::of(language, template)?.keys.into_iter().flat_map(|key| key.values));
    }
    // Copies of 16 bits serve both.
    let bits = found.contains(&Value::Name("b16"));
    let types = ["f32", "f16", "bf16"];
    let types = types.into_iter().filter(|name| found.contains(&Value::Name(name)) || bits && *name != "f32");
    let types = types.collect::<Vec<_>>().join(" ");
    Ok(if types.is_empty() { "-".into() } else { types })
}

/// Prints which ops have kernels in which language, and for which types of elements.
pub fn support() -> anyhow::Result<()> {
    print(&format!("{:<24}{:<6}{:<12}{}", "op", "cpu", "wgsl", "ptx"));
    for op in Op::NAMES {
        let [wgsl, ptx] = [types(Language::Wgsl, op)?, types(Language::Ptx, op)?];
        print(&format!("{op:<24}{:<6}{wgsl:<12}{ptx}", "yes"));
    }
    Ok(())
}
