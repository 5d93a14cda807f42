//! Which kernel: a template and values for its keys.

use std::fmt;

/// Language of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// WebGPU's shading language, in `shaders/`.
    Wgsl,
    /// NVIDIA's virtual instruction set, in `kernels/`.
    Ptx,
}

impl Language {
    /// Folder of the templates, and ending of their names.
    pub fn folder(self) -> &'static str {
        match self {
            Language::Wgsl => "shaders",
            Language::Ptx => "kernels",
        }
    }
    /// Ending of file names.
    pub fn extension(self) -> &'static str {
        match self {
            Language::Wgsl => "wgsl",
            Language::Ptx => "ptx",
        }
    }
    /// Names of all templates of this language, in alphabetical order.
    pub fn templates(self) -> Vec<&'static str> {
        let stem = |name: &'static str| name.strip_suffix(self.extension())?.strip_suffix('.');
        let files = super::embed::files(self).iter().map(|(name, _)| *name);
        let mut names: Vec<_> = files.filter(|name| !name.starts_with("lib/")).filter_map(stem).collect();
        names.sort_unstable();
        names
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Language::Wgsl => "WGSL",
            Language::Ptx => "PTX",
        })
    }
}

/// Value of a template key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// One of several words: an element type, a function.
    Name(&'static str),
    /// A size.
    Int(u32),
    /// Something is there or not.
    Flag(bool),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Name(name) => f.write_str(name),
            Value::Int(value) => value.fmt(f),
            Value::Flag(value) => value.fmt(f),
        }
    }
}

/// A template with a value for each of its keys: one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Stem of the template's file.
    pub template: &'static str,
    /// Keys and values, in the order given; labels follow this order.
    pub keys: Vec<(&'static str, Value)>,
}

impl Variant {
    /// `template` without keys yet.
    pub fn new(template: &'static str) -> Self {
        Variant { template, keys: vec![] }
    }
    /// Adds a key whose value is a word.
    pub fn name(mut self, key: &'static str, value: &'static str) -> Self {
        self.keys.push((key, Value::Name(value)));
        self
    }
    /// Adds a size.
    pub fn int(mut self, key: &'static str, value: u32) -> Self {
        self.keys.push((key, Value::Int(value)));
        self
    }
    /// Adds a flag.
    pub fn flag(mut self, key: &'static str, value: bool) -> Self {
        self.keys.push((key, Value::Flag(value)));
        self
    }
    /// Value of a key.
    pub fn get(&self, key: &str) -> Option<Value> {
        self.keys.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }
}

/// The label: `rel_attention.f16.head_dim64.dropout`; words stand alone, sizes with their key, flags where they are true.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.template)?;
        for (key, value) in &self.keys {
            match value {
                Value::Name(name) => write!(f, ".{name}")?,
                Value::Int(size) => write!(f, ".{key}{size}")?,
                Value::Flag(true) => write!(f, ".{key}")?,
                Value::Flag(false) => {}
            }
        }
        Ok(())
    }
}
