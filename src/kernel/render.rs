//! From variant to text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use sha2::{Digest, Sha256};

use super::{Header, Language, Value, Variant, embed};
use crate::{Error, Result};

/// A kernel's text.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The variant's label.
    pub label: String,
    /// The text.
    pub text: String,
    /// Hash of the text, in hexadecimal digits: the key of every cache.
    pub hash: String,
}

/// Renders `variant`.
///
/// # Errors
/// When there is no such template, its keys are not those of the variant, or a line cannot be rendered; names template
/// and line.
pub fn render(language: Language, variant: &Variant) -> Result<Rendered> {
    Header::of(language, variant.template)?.check(variant)?;
    let environment = environment(language)?;
    let file = format!("{}.{}", variant.template, language.extension());
    let failed = |error: minijinja::Error| broken(language, &error);
    let template = environment.get_template(&file).map_err(failed)?;
    let values: BTreeMap<&str, minijinja::Value> =
        variant.keys.iter().map(|&(key, value)| (key, value.into())).collect();
    let text = template.render(values).map_err(failed)?;
    let label = variant.to_string();
    if let Some(folder) = std::env::var_os("XLNET_DUMP_KERNELS") {
        let path = Path::new(&folder).join(format!("{label}.{}", language.extension()));
        std::fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, error))?;
        std::fs::write(&path, &text).map_err(|error| Error::io("write", &path, error))?;
    }
    let hash = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Rendered { label, text, hash })
}

impl From<Value> for minijinja::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Name(name) => name.into(),
            Value::Int(size) => size.into(),
            Value::Flag(flag) => flag.into(),
        }
    }
}

fn broken(language: Language, error: &minijinja::Error) -> Error {
    let (name, line) = (error.name().unwrap_or("?"), error.line().unwrap_or(0));
    let text = embed::files(language).iter().find(|(file, _)| *file == name).map_or("", |(_, text)| *text);
    let quoted = text.lines().nth(line.saturating_sub(1)).unwrap_or("").trim();
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::kernel(format!("{}/{name}, line {line}: {what}: {quoted}", language.folder()))
}

/// All templates of a language, parsed once and checked: keys declared are keys used.
fn environment(language: Language) -> Result<&'static Environment<'static>> {
    static ENVIRONMENTS: [OnceLock<Result<Environment<'static>, String>>; 2] = [OnceLock::new(), OnceLock::new()];
    let environment = ENVIRONMENTS[language as usize].get_or_init(|| load(language).map_err(|error| error.to_string()));
    environment.as_ref().map_err(|what| Error::kernel(what.clone()))
}

fn load(language: Language) -> Result<Environment<'static>> {
    // Braces belong to both languages, and `{%` begins a list of PTX registers.
    let syntax = SyntaxConfig::builder()
        .block_delimiters("/*%", "%*/")
        .variable_delimiters("${", "}")
        .comment_delimiters("/*#", "#*/")
        .line_statement_prefix("//%")
        .line_comment_prefix("//#")
        .keep_trailing_newline(true)
        .build()
        .map_err(|error| broken(language, &error))?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    for (name, text) in embed::files(language) {
        environment.add_template(name, text).map_err(|error| broken(language, &error))?;
    }
    for template in language.templates() {
        check_keys(&environment, language, template)?;
    }
    Ok(environment)
}

fn check_keys(environment: &Environment, language: Language, template: &str) -> Result<()> {
    let file = format!("{template}.{}", language.extension());
    let mut used = BTreeSet::new();
    // What a template sets, the files that it includes may use.
    let mut set = BTreeSet::from(["range".to_owned()]);
    let mut files = vec![file.clone()];
    while let Some(name) = files.pop() {
        let parsed = environment.get_template(&name).map_err(|error| broken(language, &error))?;
        used.extend(parsed.undeclared_variables(false));
        let statements = parsed.source().lines().filter_map(|line| line.trim().strip_prefix("//%"));
        for statement in statements.map(str::trim) {
            if let Some(name) = statement.strip_prefix("include ") {
                files.push(name.trim().trim_matches('"').to_owned());
            } else if let Some((name, _)) = statement.strip_prefix("set ").and_then(|rest| rest.split_once('=')) {
                set.insert(name.trim().to_owned());
            }
        }
    }
    used.retain(|name| !set.contains(name));
    let declared: BTreeSet<String> =
        Header::of(language, template)?.keys.iter().map(|key| key.name.to_owned()).collect();
    let wrong = |what: &str, keys: Vec<&String>| {
        let names = keys.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(", ");
        Err(Error::kernel(format!("{}/{file}: {what} {names}", language.folder())))
    };
    match (used.difference(&declared).collect::<Vec<_>>(), declared.difference(&used).collect::<Vec<_>>()) {
        (missing, _) if !missing.is_empty() => wrong("its header does not declare", missing),
        (_, unused) if !unused.is_empty() => wrong("nothing uses", unused),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_renders_to_its_own_text() {
        for language in [Language::Wgsl, Language::Ptx] {
            let (mut count, mut hashes) = (0, BTreeMap::new());
            for template in language.templates() {
                for variant in Header::of(language, template).unwrap().variants() {
                    let rendered = render(language, &variant).unwrap();
                    let left = ["//%", "//#", "${", "/*"].into_iter().find(|mark| rendered.text.contains(mark));
                    assert_eq!(left, None, "{variant}");
                    count += 1;
                    let other = hashes.insert(rendered.hash, variant.clone());
                    assert_eq!(other, None, "{variant} has the same text");
                }
            }
            println!("{}: {count} variants", language.folder());
        }
        assert!(Language::Wgsl.templates().len() >= 6);
    }

    #[test]
    fn wrong_keys_are_named() {
        let error = render(Language::Wgsl, &Variant::new("fill").name("dtype", "f32")).unwrap_err();
        assert_eq!(error.to_string(), "kernel fill.f32: key wg is not given; it may be 256");
    }
}
