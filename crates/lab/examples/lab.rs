//! The lab as a program of its own: what `agentry lab` does, built in a
//! fraction of the time.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    lab: agentry_lab::LabArgs,
}

fn main() -> ExitCode {
    agentry_lab::main(Cli::parse().lab)
}
