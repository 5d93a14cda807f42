//! Kernel text without a device: every variant that can be rendered is valid WGSL, binds what its header says, and has
//! the params struct of its name.
#![cfg(feature = "wgpu")]

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use wgpu::naga;
use xlnet::kernel::{Header, Language, Rendered, Variant, params, render};
use xlnet::op::Op;

/// Parses and validates; errors quote the line of the rendered text.
fn module(rendered: &Rendered) -> naga::Module {
    let Rendered { label, text, .. } = rendered;
    let parsed = naga::front::wgsl::parse_str(text);
    let module = parsed.unwrap_or_else(|error| panic!("{label}: {}", error.emit_to_string_with_path(text, label)));
    use naga::valid::Capabilities;
    let capabilities = Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP | Capabilities::COOPERATIVE_MATRIX;
    let valid = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities).validate(&module);
    valid.unwrap_or_else(|error| panic!("{label}: {}", error.emit_to_string_with_path(text, label)));
    module
}

/// Names, types and byte offsets of a struct.
fn fields(module: &naga::Module, name: &str) -> Vec<(String, String, u32)> {
    let named = |(_, ty): &(_, &naga::Type)| ty.name.as_deref() == Some(name);
    let Some((_, ty)) = module.types.iter().find(named) else { return vec![] };
    let naga::TypeInner::Struct { members, .. } = &ty.inner else { return vec![] };
    let scalar = |ty: naga::Handle<naga::Type>| match module.types[ty].inner {
        naga::TypeInner::Scalar(naga::Scalar::U32) => "u32",
        naga::TypeInner::Scalar(naga::Scalar::I32) => "i32",
        naga::TypeInner::Scalar(naga::Scalar::F32) => "f32",
        _ => "no scalar of 4 bytes",
    };
    members.iter().map(|m| (m.name.clone().unwrap_or_default(), scalar(m.ty).to_owned(), m.offset)).collect()
}

fn check(variant: &Variant, header: &Header) {
    let rendered = render(Language::Wgsl, variant).unwrap_or_else(|error| panic!("{error}"));
    let module = module(&rendered);
    let [entry] = &module.entry_points[..] else { panic!("{variant}: not one entry point") };
    assert_eq!(entry.name, variant.template);
    // Params lie where the host writes them.
    let (_, expected) = params::ALL.iter().find(|(name, _)| *name == variant.template).expect("a params struct");
    let expected: Vec<_> =
        expected.iter().enumerate().map(|(i, (name, ty))| (name.to_string(), ty.to_string(), 4 * i as u32)).collect();
    assert_eq!(fields(&module, "Params"), expected, "{variant}");
    // First elements follow the order of the buffers.
    let at: Vec<_> =
        header.buffers.iter().enumerate().map(|(i, b)| (b.to_string(), "u32".to_owned(), 4 * i as u32)).collect();
    assert_eq!(fields(&module, "At"), at, "{variant}");
    for (_, variable) in module.global_variables.iter() {
        let name = variable.name.as_deref().unwrap_or_default();
        let Some(binding) = variable.binding else { continue };
        if binding.group == 1 {
            assert_eq!(variable.space, naga::AddressSpace::Uniform, "{variant}: {name}");
            assert_eq!(name, ["p", "at"][binding.binding as usize], "{variant}");
            continue;
        }
        assert_eq!(Some(&name), header.buffers.get(binding.binding as usize), "{variant}");
        let naga::AddressSpace::Storage { access } = variable.space else { panic!("{variant}: {name} is no storage") };
        let both = naga::StorageAccess::LOAD | naga::StorageAccess::STORE;
        assert!(access.contains(both), "{variant}: {name} must be read_write");
    }
}

#[test]
fn every_variant_is_valid_and_binds_what_its_header_says() {
    let mut count = 0;
    for template in Language::Wgsl.templates() {
        let header = Header::of(Language::Wgsl, template).unwrap_or_else(|error| panic!("{error}"));
        for variant in header.variants() {
            check(&variant, &header);
            count += 1;
        }
    }
    println!("{count} variants are valid WGSL");
    assert!(count > 20);
}

/// One variant of each template as it is rendered, so that a change of a template shows what it does.
/// `XLNET_BLESS=1 cargo test --test kernels` writes them anew.
#[test]
fn rendered_text_is_the_reviewed_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let bless = std::env::var_os("XLNET_BLESS").is_some();
    let mut changed = vec![];
    for language in [Language::Wgsl, Language::Ptx] {
        for template in language.templates() {
            let header = Header::of(language, template).unwrap_or_else(|error| panic!("{error}"));
            // The last one has every flag; dtype stays at its first value, which is f32.
            let mut all = header.variants().into_iter().filter(|v| v.get("dtype") == header.variants()[0].get("dtype"));
            let variant = all.next_back().expect("a variant");
            let text = render(language, &variant).unwrap_or_else(|error| panic!("{error}")).text;
            let path = folder.join(format!("{template}.{}", language.extension()));
            if bless {
                fs::create_dir_all(&folder).expect("a folder");
                fs::write(&path, &text).expect("a file");
            } else if fs::read_to_string(&path).ok() != Some(text) {
                changed.push(template);
            }
        }
    }
    assert!(changed.is_empty(), "{changed:?} differ from tests/snapshots; XLNET_BLESS=1 writes them anew");
}

#[test]
fn every_params_struct_has_a_template() {
    let templates: HashSet<_> = [Language::Wgsl, Language::Ptx].into_iter().flat_map(Language::templates).collect();
    for (name, fields) in params::ALL {
        assert!(templates.contains(name), "no template is called {name}");
        assert!(4 * fields.len() <= 256, "the params of {name} do not fit");
    }
}

/// The table that users see: every op in f32 in both languages, and in half precision what programs of it run.
#[test]
fn every_op_has_types_in_both_languages() {
    let out =
        Command::new(env!("CARGO_BIN_EXE_xlnet")).args(["kernels", "support"]).output().expect("the program starts");
    let table = String::from_utf8(out.stdout).expect("text");
    let words = |op: &str| {
        let row = table.lines().find(|row| row.split_whitespace().next() == Some(op));
        row.unwrap_or_else(|| panic!("no {op} in {table}")).split_whitespace().skip(2).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(words("cast"), "f16 f16 bf16");
    let halves = [
        "matmul",
        "column_sum",
        "layer_norm",
        "layer_norm_grad",
        "activation",
        "activation_grad",
        "copy_blocks",
        "rel_attention",
        "rel_attention_grad",
    ];
    for op in halves {
        assert_eq!(words(op), "f32 f16 f32 f16 bf16", "{op} in {table}");
    }
    for op in Op::NAMES.iter().filter(|op| **op != "cast" && !halves.contains(op)) {
        assert_eq!(words(op), "f32 f32", "{op} in {table}");
    }
}
