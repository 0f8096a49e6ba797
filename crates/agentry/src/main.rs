//! The binary: reads the command line and the settings, wires ports to
//! adapters, and serves.

mod event_metrics;
mod owner;
mod serve;
mod settings;
mod store_metrics;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::settings::{Auth, Flags, Settings};

// Many small allocations live as long as one request; mimalloc serves those
// from the thread's own pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A self-hosted backend for AI agents.
#[derive(Debug, Parser)]
#[command(name = "agentry", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API.
    Serve(ServeArgs),
    /// Print the OpenAPI document.
    Openapi,
    /// Print every setting with its default, as a configuration file.
    Settings,
    /// Load and measure this or any other HTTP server.
    Lab(agentry_lab::LabArgs),
}

#[derive(Args, Debug)]
struct ServeArgs {
    /// A configuration file; see `agentry settings`.
    #[arg(long, value_name = "FILE", env = "AGENTRY_CONFIG")]
    config: Option<PathBuf>,
    /// Where to listen, such as 127.0.0.1:8881; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
    /// The directory of the embedded database.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A postgres:// URL, to keep the state there.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Who may use the server.
    #[arg(long, value_enum)]
    auth: Option<Auth>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("agentry: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what these commands print is their result")]
fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(args) => {
            let flags = Flags {
                listen: args.listen,
                data: args.data,
                database: args.database,
                auth: args.auth,
            };
            serve::run(Settings::load(args.config.as_deref(), &flags)?)?;
        }
        Command::Openapi => {
            println!("{}", agentry_api::openapi_json()?);
        }
        Command::Settings => {
            print!("{}", settings::DEFAULT_FILE);
        }
        Command::Lab(args) => return Ok(agentry_lab::main(args)),
    }
    Ok(ExitCode::SUCCESS)
}
