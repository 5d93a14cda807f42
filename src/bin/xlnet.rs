//! The `xlnet` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    xlnet::cli::main()
}
