//! `xlnet program`.

use crate::cli::args::ProgramArgs;
use crate::cli::output::print;
use crate::cli::shape;
use crate::train::step::StepProgram;

fn build(args: &ProgramArgs) -> anyhow::Result<StepProgram> {
    Ok(shape::build(&shape::model(&args.model)?, args.task, &args.shape, args.batch)?)
}

/// Prints the ops.
pub fn dump(args: &ProgramArgs) -> anyhow::Result<()> {
    print(build(args)?.program.dump().trim_end());
    Ok(())
}

/// Prints the addresses.
pub fn plan(args: &ProgramArgs) -> anyhow::Result<()> {
    let program = build(args)?.program;
    print(args.shape.device.plan(&program)?.table(&program).trim_end());
    Ok(())
}
