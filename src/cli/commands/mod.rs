//! One module for each command.

pub mod bench;
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

/// Prints the manual page of the program, or writes those of all commands into `dir`.
pub fn man(dir: Option<&std::path::Path>) -> anyhow::Result<()> {
    use clap::CommandFactory;
    let command = super::args::Cli::command();
    match dir {
        None => {
            let mut page = vec![];
            clap_mangen::Man::new(command).render(&mut page)?;
            super::output::print(String::from_utf8_lossy(&page).trim_end());
        }
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|e| crate::Error::io("create", dir, e))?;
            clap_mangen::generate_to(command, dir).map_err(|e| crate::Error::io("write to", dir, e))?;
        }
    }
    Ok(())
}
