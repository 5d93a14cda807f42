//! Settings as lists of keys, each of which is a line of a TOML file, a flag of the command line and a field of a
//! struct.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::init::InitMethod;
use super::schedule::DecayMethod;
use super::step::LayerDecay;
use crate::config::FeedForwardActivation;
use crate::distributed::device::Reduce;
use crate::model::heads::SummaryType;
use crate::model::{PositionDropout, Recompute};
use crate::{Error, Result};

/// What a key's value is, for reading it from a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A word or a path.
    Text,
    /// Several of them, with commas in between.
    List,
}

/// A key of a configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in files, and as a flag.
    pub name: &'static str,
    /// What it means, with unit and default.
    pub help: &'static str,
    /// What its value is.
    pub kind: Kind,
}

/// A flag of the original that changes nothing here.
#[derive(Clone, Copy, Debug)]
pub struct DeadKey {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Why it changes nothing.
    pub why: &'static str,
}

pub(crate) const fn dead(name: &'static str, kind: Kind, why: &'static str) -> DeadKey {
    DeadKey { name, kind, why }
}

/// Types that a key may have.
pub(crate) trait KeyType {
    const KIND: Kind;
}
macro_rules! kinds {
    ($($kind:ident: $($type:ty),+;)*) => { $($(impl KeyType for $type { const KIND: Kind = Kind::$kind; })+)* };
}
kinds! {
    Bool: bool;
    Integer: usize, u64, u32, i64;
    Number: f64;
    Text: String, PathBuf, DecayMethod, FeedForwardActivation, InitMethod, PositionDropout, Recompute, Reduce, SummaryType,
        LayerDecay;
    List: Paths, Words;
}
impl<T: KeyType> KeyType for Option<T> {
    const KIND: Kind = T::KIND;
}

/// Directories, in a file as a list or as one string with commas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Paths(pub Vec<PathBuf>);

/// Words, in a file as a list (of numbers too) or as one string with commas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Words(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Word),
    Many(Vec<Word>),
}
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Text(String),
    Number(i64),
}
impl OneOrMany {
    fn words(self) -> Vec<String> {
        let word = |word| match word {
            Word::Text(text) => text,
            Word::Number(number) => number.to_string(),
        };
        match self {
            OneOrMany::One(text) => word(text).split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect(),
            OneOrMany::Many(words) => words.into_iter().map(word).collect(),
        }
    }
}
impl From<OneOrMany> for Paths {
    fn from(from: OneOrMany) -> Self {
        Paths(from.words().into_iter().map(PathBuf::from).collect())
    }
}
impl From<OneOrMany> for Words {
    fn from(from: OneOrMany) -> Self {
        Words(from.words())
    }
}

/// Defines a struct of settings with defaults and the list of its keys.
macro_rules! config_keys {
    ($(#[doc = $about:literal])+ $name:ident, $keys:ident;
     $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr,)*) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[doc = $doc])+ pub $key: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                $name { $($key: $default,)* }
            }
        }

        #[doc = concat!("Every key of [`", stringify!($name), "`], in order.")]
        pub const $keys: &[$crate::train::keys::Key] = &[
            $($crate::train::keys::Key {
                name: stringify!($key),
                help: concat!($($doc),+),
                kind: <$type as $crate::train::keys::KeyType>::KIND,
            },)*
        ];
    };
}
pub(crate) use config_keys;

impl Key {
    /// Reads a value as it stands on a command line; `none` is no value.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn parse(&self, text: &str) -> Result<Option<Value>> {
        let wrong = |expected: &str| Error::config(format!("{} must be {expected}, but is {text:?}", self.name));
        if text.eq_ignore_ascii_case("none") && self.name != "recompute" {
            return Ok(None);
        }
        Ok(Some(match self.kind {
            Kind::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "1" | "yes" => true.into(),
                "false" | "f" | "0" | "no" => false.into(),
                _ => return Err(wrong("true or false")),
            },
            Kind::Integer => text.replace('_', "").parse::<i64>().map_err(|_| wrong("a whole number"))?.into(),
            Kind::Number => text.parse::<f64>().map_err(|_| wrong("a number"))?.into(),
            Kind::Text | Kind::List => text.into(),
        }))
    }
}

/// A struct of settings that is made of keys.
pub trait Keyed: Serialize + DeserializeOwned + Default + 'static {
    /// Its keys, in order.
    const KEYS: &'static [Key];
    /// Flags of the original that are accepted with a warning.
    const DEAD_KEYS: &'static [DeadKey];
    /// The command that reads it, for messages.
    const COMMAND: &'static str;

    /// The value that a key has when nobody sets it, as text; `None` where it is derived.
    fn default_text(key: &Key) -> Option<String> {
        let defaults = Table::try_from(Self::default()).ok()?;
        match defaults.get(key.name)? {
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(text.clone()),
            Value::Array(list) if list.is_empty() => None,
            value => Some(value.to_string()),
        }
    }

    /// Merges a file and flags, which win, over the defaults.
    ///
    /// # Errors
    /// When the file cannot be read, a key is unknown, or a value is of the wrong kind.
    fn load(file: Option<&Path>, flags: Table) -> Result<Self> {
        let mut table = match file {
            Some(path) => read_table(path)?,
            None => Table::new(),
        };
        table.extend(flags);
        Self::from_table(file, table)
    }

    /// Settings of a table whose values came from `file` and from flags.
    ///
    /// # Errors
    /// When a key is unknown, or a value is of the wrong kind.
    fn from_table(file: Option<&Path>, mut table: Table) -> Result<Self> {
        table.retain(|key, _| match Self::DEAD_KEYS.iter().find(|dead| dead.name == key) {
            Some(dead) => {
                tracing::warn!("{key} is ignored: {}", dead.why);
                false
            }
            None => true,
        });
        let fail = |message: String| match file {
            Some(path) => Error::data(path, message),
            None => Error::config(message),
        };
        if let Some(key) = table.keys().find(|key| Self::KEYS.iter().all(|known| known.name != **key)) {
            return Err(fail(unknown::<Self>(key)));
        }
        // Key by key, so that the sentence can name the key.
        for (key, value) in &table {
            let one = Table::from_iter([(key.clone(), value.clone())]);
            one.try_into::<Self>().map_err(|e| fail(format!("{key}: {}", one_line(e.message()))))?;
        }
        table.try_into().map_err(|e: toml::de::Error| fail(one_line(e.message())))
    }

    /// The settings as a TOML file.
    ///
    /// # Errors
    /// Never for a configuration that was read.
    fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::config(format!("these settings cannot be written: {e}")))
    }
}

/// Refuses a key that does not exist and names those that look like it.
fn unknown<K: Keyed>(key: &str) -> String {
    let names = K::KEYS.iter().map(|k| k.name).chain(K::DEAD_KEYS.iter().map(|k| k.name));
    let advice = match near(key, names).as_slice() {
        [] => format!("see `xlnet {} --help` for all keys", K::COMMAND),
        near => format!("did you mean {}?", near.join(" or ")),
    };
    format!("unknown key {key}: {advice}")
}

/// Up to three of `names` that look like `name`, the nearest first.
pub(crate) fn near<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<(f64, &str)> = names.map(|known| (strsim::jaro_winkler(name, known), known)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.iter().take_while(|n| n.0 > 0.8).take(3).map(|n| n.1).collect()
}

/// Toml's messages span lines; ours are sentences.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads a TOML file.
///
/// # Errors
/// When it cannot be read or is no TOML; the sentence names the line.
pub fn read_table(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
        Error::data(path, format!("line {line} is not TOML: {}", one_line(e.message())))
    })
}
