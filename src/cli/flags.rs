//! Spellings of flags: the original's underscores, today's dashes, its `--noflag`; and the keys of a run as flags.

use std::ffi::OsString;
use std::marker::PhantomData;

use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::train::keys::{Key, Keyed, Kind};

/// Rewrites flags of `args` to the spelling `command` knows: `--seq-len` or `--seq_len`, `--nobi_data` as
/// `--bi_data=false`. What is still unknown is left for clap to refuse.
pub fn normalize(command: &Command, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut normal: Vec<OsString> = args.next().into_iter().collect();
    let mut here = command;
    let mut options = true;
    for arg in args {
        let Some(text) = arg.to_str().filter(|_| options) else {
            normal.push(arg);
            continue;
        };
        options = text != "--";
        match text.strip_prefix("--").filter(|flag| !flag.is_empty()) {
            Some(flag) => normal.push(spelling(here, flag).map_or(arg.clone(), OsString::from)),
            None => {
                here = here.find_subcommand(text).unwrap_or(here);
                normal.push(arg);
            }
        }
    }
    normal
}

/// The known spelling of `flag`, which may carry `=value`.
fn spelling(command: &Command, flag: &str) -> Option<String> {
    let (name, value) = flag.split_once('=').map_or((flag, String::new()), |(n, v)| (n, format!("={v}")));
    let known = |name: &str| command.get_arguments().find(|arg| arg.get_long() == Some(name));
    let spellings = |name: &str| [name.to_owned(), name.replace('-', "_"), name.replace('_', "-")];
    if let Some(found) = spellings(name).into_iter().find(|name| known(name).is_some()) {
        return Some(format!("--{found}{value}"));
    }
    let negated = name.strip_prefix("no").filter(|_| value.is_empty())?.trim_start_matches(['-', '_']);
    let switch = |name: &String| known(name).is_some_and(is_switch);
    spellings(negated).into_iter().find(switch).map(|found| format!("--{found}=false"))
}

fn is_switch(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|range| range.min_values() == 0)
}

/// A boolean flag as the original's: `--x`, `--nox`, `--x=true`.
pub fn switch(arg: Arg) -> Arg {
    arg.num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_name("BOOL")
        .value_parser(BoolishValueParser::new())
        .action(ArgAction::Set)
}

/// [`switch`] for arguments that hold true or false by default, no change for others.
pub fn switch_if_bool(arg: Arg) -> Arg {
    let bool_default = matches!(arg.get_default_values(), [value] if value == "true" || value == "false");
    if bool_default && matches!(arg.get_action(), ArgAction::Set) { switch(arg) } else { arg }
}

/// Keys of the settings `K` that were given as flags.
#[derive(Clone, Debug)]
pub struct RunFlags<K>(pub toml::Table, PhantomData<K>);

impl<K> Default for RunFlags<K> {
    fn default() -> Self {
        RunFlags(toml::Table::new(), PhantomData)
    }
}

impl<K: Keyed> Args for RunFlags<K> {
    fn augment_args(command: Command) -> Command {
        let live = K::KEYS.iter().map(|key| {
            let plain = key.help.trim().replace('`', "");
            let help = match K::default_text(key) {
                Some(default) => format!("{plain} [default: {default}]"),
                None => plain,
            };
            let arg =
                Arg::new(key.name).long(key.name).help(help).help_heading("Keys of the run").allow_hyphen_values(true);
            match key.kind {
                Kind::Bool => switch(arg),
                Kind::Integer => arg.value_name("N"),
                Kind::Number => arg.value_name("X"),
                Kind::Text => arg.value_name("TEXT"),
                Kind::List => arg.value_name("DIR,..."),
            }
        });
        let dead = K::DEAD_KEYS.iter().map(|dead| {
            let arg = Arg::new(dead.name).long(dead.name).hide(true);
            if dead.kind == Kind::Bool { switch(arg) } else { arg }
        });
        // As with the original, the last of several wins, so that a script can append to a list of flags.
        command.args_override_self(true).args(live).args(dead)
    }
    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<K: Keyed> FromArgMatches for RunFlags<K> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = RunFlags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        for key in K::KEYS.iter().filter(|key| given(key.name)) {
            if let Some(value) = value(key, matches)? {
                self.0.insert(key.name.to_owned(), value);
            }
        }
        for dead in K::DEAD_KEYS.iter().filter(|dead| given(dead.name)) {
            self.0.insert(dead.name.to_owned(), "given".into());
        }
        Ok(())
    }
}

fn value(key: &Key, matches: &ArgMatches) -> Result<Option<toml::Value>, clap::Error> {
    if key.kind == Kind::Bool {
        return Ok(matches.get_one::<bool>(key.name).map(|&value| value.into()));
    }
    let Some(text) = matches.get_one::<String>(key.name) else { return Ok(None) };
    key.parse(text).map_err(|e| clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{e}\n")))
}
