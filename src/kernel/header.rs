//! The seven lines at the head of every template.

use super::{Language, Value, Variant, embed};
use crate::{Error, Result};

/// Names of the lines, in their order.
const LINES: [&str; 7] = ["computes", "parallel", "keys", "buffers", "launch", "numerics", "history"];

/// A key with the values it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name in the template.
    pub name: &'static str,
    /// Every allowed value.
    pub values: Vec<Value>,
}

/// What a template says about itself.
#[derive(Clone, Debug)]
pub struct Header {
    /// Stem of the file.
    pub template: &'static str,
    /// The seven lines: name and text.
    pub lines: Vec<(&'static str, String)>,
    /// Keys, in the order of labels.
    pub keys: Vec<Key>,
    /// Storage bindings, in their order.
    pub buffers: Vec<&'static str>,
}

impl Header {
    /// Reads the header of a template.
    ///
    /// # Errors
    /// When there is no such template, or a line is missing or cannot be read.
    pub fn of(language: Language, template: &str) -> Result<Header> {
        let file = format!("{template}.{}", language.extension());
        let found = embed::files(language).iter().find(|(name, _)| **name == file);
        let Some(&(name, text)) = found else {
            return Err(Error::kernel(format!("there is no kernel {}/{file}", language.folder())));
        };
        let template = &name[..template.len()];
        parse(template, text).map_err(|what| Error::kernel(format!("{}/{file}: {what}", language.folder())))
    }

    /// Every combination of key values.
    pub fn variants(&self) -> Vec<Variant> {
        let mut all = vec![Variant::new(self.template)];
        for key in &self.keys {
            let with = |variant: &Variant, value: Value| {
                let mut variant = variant.clone();
                variant.keys.push((key.name, value));
                variant
            };
            all = all.iter().flat_map(|variant| key.values.iter().map(move |&value| with(variant, value))).collect();
        }
        all
    }

    /// Requires that `variant` gives each key one of its values, and nothing else.
    ///
    /// # Errors
    /// Names the key and what it may be.
    pub fn check(&self, variant: &Variant) -> Result<()> {
        let wrong = |what: String| Err(Error::kernel(format!("kernel {variant}: {what}")));
        for key in &self.keys {
            let allowed = || key.values.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
            match variant.get(key.name) {
                None => return wrong(format!("key {} is not given; it may be {}", key.name, allowed())),
                Some(value) if !key.values.contains(&value) => {
                    return wrong(format!("key {} may be {}, but is {value}", key.name, allowed()));
                }
                Some(_) => {}
            }
        }
        let declared = |name: &str| self.keys.iter().any(|key| key.name == name);
        match variant.keys.iter().find(|(name, _)| !declared(name)) {
            Some((name, _)) => wrong(format!("the template does not declare key {name}")),
            None => Ok(()),
        }
    }
}

fn parse(template: &'static str, text: &'static str) -> Result<Header, String> {
    let mut lines: Vec<(&'static str, String)> = vec![];
    let mut keys_text = vec![];
    let mut buffers_text = vec![];
    for line in text.lines().map_while(|line| line.strip_prefix("//#")) {
        let (name, rest) = match line.strip_prefix("  ") {
            Some(more) => (lines.last().map_or("", |(name, _)| *name), more.trim()),
            None => line.trim().split_once(' ').map_or((line.trim(), ""), |(name, rest)| (name, rest.trim())),
        };
        match lines.last_mut() {
            Some((last, text)) if *last == name => *text = format!("{text} {rest}"),
            _ => lines.push((name, rest.to_owned())),
        }
        match name {
            "keys" => keys_text.push(rest),
            "buffers" => buffers_text.push(rest),
            _ => {}
        }
    }
    if lines.iter().map(|(name, _)| *name).ne(LINES) || lines.iter().any(|(_, text)| text.is_empty()) {
        return Err(format!("it must begin with one //# line each for {}", LINES.join(", ")));
    }
    let keys = entries(keys_text).map(parse_key).collect::<Result<_, _>>()?;
    Ok(Header { template, lines, keys, buffers: entries(buffers_text).collect() })
}

/// Entries between commas; none of `none`.
fn entries(lines: Vec<&'static str>) -> impl Iterator<Item = &'static str> {
    lines.into_iter().flat_map(|line| line.split(',')).map(str::trim).filter(|entry| !matches!(*entry, "" | "none"))
}

fn parse_key(entry: &'static str) -> Result<Key, String> {
    let (name, values) = entry.split_once('=').ok_or(format!("key {entry:?} needs values: name = a|b"))?;
    let values: Vec<Value> = match values.trim() {
        "flag" => vec![Value::Flag(false), Value::Flag(true)],
        values => values.split('|').map(str::trim).map(|v| v.parse().map_or(Value::Name(v), Value::Int)).collect(),
    };
    Ok(Key { name: name.trim(), values })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "//# computes a\n//# parallel b\n//# keys dtype = f32|f16, wg = 64,\n//#      bias = flag\n\
                        //# buffers x, out\n//# launch c\n//# numerics d\n//# history e\nfn main() {}\n//# late";

    #[test]
    fn reads_lines_keys_and_buffers() {
        let header = parse("matmul", GOOD).unwrap();
        assert_eq!(header.buffers, ["x", "out"]);
        assert_eq!(header.lines[2].1, "dtype = f32|f16, wg = 64, bias = flag");
        let labels: Vec<_> = header.variants().iter().map(Variant::to_string).collect();
        assert_eq!(labels, ["matmul.f32.wg64", "matmul.f32.wg64.bias", "matmul.f16.wg64", "matmul.f16.wg64.bias"]);
        for variant in header.variants() {
            header.check(&variant).unwrap();
        }
    }

    #[test]
    fn wrong_headers_and_keys_are_refused() {
        assert!(parse("x", &GOOD.replace("launch", "start").leak()[..]).unwrap_err().contains("launch"));
        assert!(parse("x", &GOOD.replace("//# buffers x, out\n", "").leak()[..]).is_err());
        let header = parse("matmul", GOOD).unwrap();
        let variant = Variant::new("matmul").name("dtype", "bf16").int("wg", 64).flag("bias", true);
        let text = header.check(&variant).unwrap_err().to_string();
        assert_eq!(text, "kernel matmul.bf16.wg64.bias: key dtype may be f32, f16, but is bf16");
        let missing = Variant::new("matmul").name("dtype", "f32").int("wg", 64);
        assert!(header.check(&missing).unwrap_err().to_string().contains("bias is not given"));
        let unknown = missing.flag("bias", true).flag("mask", true);
        assert!(header.check(&unknown).unwrap_err().to_string().contains("does not declare key mask"));
        assert!(Header::of(Language::Wgsl, "nothing").is_err());
    }
}
