//! `cargo xtask`: the command line of the house. It parses and prints; the
//! work is in the library beside it.

use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use xtask::surroundings::{Surroundings, cargo_soak, cargo_test};
use xtask::{shims, workspace};

/// What the house needs around its code.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs `cargo test` with PostgreSQL, Python and the shims around it.
    Test {
        /// Passed to `cargo test`; the whole workspace unless they choose packages.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs the tests with `soak` in their name in their long form.
    Soak {
        /// Passed to `cargo test`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs any command with what the tests need around it.
    With {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Builds the preloaded libraries into target/shims.
    Shims,
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().task {
        Task::Test { args } => Surroundings::prepare()?.run(&mut cargo_test(&args)).map(code),
        Task::Soak { args } => Surroundings::prepare()?.run(&mut cargo_soak(&args)).map(code),
        Task::With { command } => {
            let (program, args) = command.split_first().context("there is no command")?;
            Surroundings::prepare()?.run(Command::new(program).args(args)).map(code)
        }
        Task::Shims => {
            shims::build(&workspace::target().join("shims"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The exit code of the command becomes ours.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}
