//! From arguments to exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use tracing_subscriber::EnvFilter;

use super::args::{Cli, Command, CorpusCommand, FeaturesCommand, KernelsCommand, ProgramCommand, VocabCommand};
use super::checkpoint_args::CheckpointCommand;
use super::{commands, flags};
use crate::distributed::launch::Launch;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const INTERRUPTED: u8 = 130; // 128 + SIGINT, as shells count

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// All of it.
    Completely,
    /// Stopped by a signal; what was done is saved.
    Interrupted,
}

/// The whole program.
pub fn main() -> ExitCode {
    let arguments = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    if let Err(error) = start_logging(arguments.log.as_deref()) {
        return fail(&error, USAGE);
    }
    match run(arguments.command) {
        Ok(Done::Completely) => ExitCode::SUCCESS,
        Ok(Done::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => fail(&error, FAILED),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(code)
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    command.build(); // global flags reach subcommands, where spellings are looked up
    let args = flags::normalize(&command, args);
    Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}

fn start_logging(level: Option<&str>) -> anyhow::Result<()> {
    let named = level.map(str::to_owned).or_else(|| std::env::var("XLNET_LOG").ok());
    // What all ranks would say, the first one says.
    let other_rank = Launch::from_env().is_ok_and(|launch| launch.rank() > 0);
    let text = named.unwrap_or_else(|| if other_rank { "error" } else { "warn" }.into());
    let filter =
        EnvFilter::try_new(&text).map_err(|e| anyhow::anyhow!("{text:?} is no level or filter of log: {e}"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    Ok(())
}

fn run(command: Command) -> anyhow::Result<Done> {
    match command {
        Command::Demo(args) => return commands::demo::run(&args),
        Command::Pretrain(args) => return commands::pretrain::run(*args),
        Command::Finetune(args) => return commands::finetune::run(*args),
        Command::Evaluate(args) => commands::evaluate::run(*args),
        Command::Predict(args) => commands::predict::run(*args),
        Command::Vocab(VocabCommand::Train(args)) => commands::vocab::train(&args),
        Command::Vocab(VocabCommand::Encode(args)) => commands::vocab::encode(&args),
        Command::Corpus(CorpusCommand::Build(args)) => commands::corpus::build(&args),
        Command::Corpus(CorpusCommand::Inspect(args)) => commands::corpus::inspect(&args),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Checkpoint(CheckpointCommand::Inspect(args)) => commands::checkpoint::inspect(&args),
        Command::Checkpoint(CheckpointCommand::Clean(args)) => commands::checkpoint::clean(&args),
        Command::Checkpoint(CheckpointCommand::Average(args)) => commands::checkpoint::average(&args),
        Command::Checkpoint(CheckpointCommand::Diff(args)) => commands::checkpoint::diff(&args),
        Command::Score(args) => commands::score::run(&args),
        Command::Serve(args) => commands::serve::run(&args),
        Command::Embed(args) => commands::embed::run(&args),
        Command::Fill(args) => commands::generate::fill(&args),
        Command::Generate(args) => commands::generate::generate(&args),
        Command::Features(FeaturesCommand::Dump(args)) => commands::features::dump(*args),
        Command::Program(ProgramCommand::Dump(args)) => commands::program::dump(&args),
        Command::Program(ProgramCommand::Plan(args)) => commands::program::plan(&args),
        Command::Kernels(KernelsCommand::List) => commands::kernels::list(),
        Command::Kernels(KernelsCommand::Dump(args)) => commands::kernels::dump(&args),
        Command::Kernels(KernelsCommand::Check(args)) => commands::kernels::check(&args),
        Command::Kernels(KernelsCommand::Support) => commands::kernels::support(),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Memory(args) => commands::memory::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Completions { shell } => commands::completions(shell),
        Command::Man { dir } => commands::man(dir.as_deref()),
    }?;
    Ok(Done::Completely)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Result<Command, clap::Error> {
        parse(line.split(' ').map(OsString::from)).map(|cli| cli.command)
    }

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }
    #[test]
    fn the_original_s_spellings() {
        let line = "xlnet corpus build --input_glob=a --sp-path s --nobi_data --uncased=False --use_eod --num_predict none --bsz-per-host 4";
        let Ok(Command::Corpus(CorpusCommand::Build(args))) = command(line) else { panic!("{:?}", command(line)) };
        assert!(!args.bi_data && !args.uncased && args.use_eod && args.from_raw_text);
        assert_eq!((args.bsz_per_host, args.num_predict.map(|n| n.0)), (4, Some(None)));
        let line = "xlnet pretrain run.toml --train-batch-size=4 --nountie_r --tensorboard --clamp_len -1 --nouse_tpu --num_hosts 3";
        let Ok(Command::Pretrain(args)) = command(line) else { panic!("{:?}", command(line)) };
        let flags = args.flags.0;
        assert_eq!(flags["train_batch_size"].as_integer(), Some(4));
        assert_eq!(flags["untie_r"].as_bool(), Some(false));
        assert_eq!(flags["tensorboard"].as_bool(), Some(true));
        assert_eq!(flags["clamp_len"].as_integer(), Some(-1));
        assert_eq!(flags.len(), 6, "{flags:?}");
        assert!(args.run.is_some());
    }
    #[test]
    fn unknown_flags_name_near_ones() {
        let sentence = command("xlnet pretrain --learning_rat 1").unwrap_err().to_string();
        assert!(sentence.contains("--learning_rate"), "{sentence}");
        assert!(command("xlnet pretrain --n_layer six").is_err());
    }
}
