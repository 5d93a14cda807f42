//! One module for each command.

pub mod checkpoint;
pub mod convert;
pub mod corpus;
pub mod demo;
pub mod doctor;
pub mod embed;
pub mod evaluate;
pub mod features;
pub mod finetune;
pub mod generate;
pub mod kernels;
pub mod memory;
pub mod predict;
pub mod pretrain;
pub mod program;
pub mod score;
pub mod serve;
pub mod vocab;

/// Prints completions for `shell`.
pub fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    use clap::CommandFactory;
    let mut text = vec![];
    clap_complete::generate(shell, &mut super::args::Cli::command(), "xlnet", &mut text);
    super::output::print(String::from_utf8_lossy(&text).trim_end());
    Ok(())
}
