//! The binary: reads the command line and the settings, wires ports to
//! adapters, and serves.

mod audit;
mod backup;
mod event_metrics;
mod figures;
mod graph_metrics;
mod key_metrics;
mod keys;
mod limit_metrics;
mod local;
mod model_metrics;
mod owner;
mod process_metrics;
mod production;
mod sealing;
mod serve;
mod settings;
mod store_metrics;
mod task_metrics;
mod telemetry;
mod token_metrics;
mod webhook_metrics;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::settings::{Auth, Flags, Settings, Switch};

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
    /// Write a backup, while the installation is served or not.
    Backup(BackupArgs),
    /// Put a backup into a data directory that nobody serves.
    Restore(RestoreArgs),
    /// Look whether what is stored agrees with itself.
    Doctor(DoctorArgs),
    /// Make, list and revoke API keys, while the installation is served or not.
    Keys(KeysArgs),
    /// Look whether what was done is told as it was.
    Audit(AuditArgs),
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
    /// Whether episodes are taken and runs are remembered in the graph.
    #[arg(long, value_enum)]
    graph: Option<Switch>,
}

/// Which installation a command is about.
#[derive(Args, Debug)]
struct Installation {
    /// A configuration file; see `agentry settings`.
    #[arg(long, value_name = "FILE", env = "AGENTRY_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// The directory of the embedded database.
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// A postgres:// URL, when the state is there.
    #[arg(long, value_name = "URL", global = true)]
    database: Option<String>,
}

impl Installation {
    fn settings(self) -> anyhow::Result<Settings> {
        let flags = Flags { data: self.data, database: self.database, ..Flags::default() };
        Settings::load(self.config.as_deref(), &flags)
    }
}

#[derive(Args, Debug)]
struct BackupArgs {
    /// Where to write it; must not be there yet.
    file: PathBuf,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Args, Debug)]
struct RestoreArgs {
    /// A file that `agentry backup` wrote.
    file: PathBuf,
    /// Keep what the data directory holds aside, in a directory in it.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Args, Debug)]
struct DoctorArgs {
    /// Read everything: the whole file, and each row with what belongs to it.
    #[arg(long)]
    deep: bool,
    /// Look instead whether settings and surroundings are fit to serve others:
    /// whatever is not comes with the command that mends or shows it.
    #[arg(long, conflicts_with = "deep")]
    production: bool,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Args, Debug)]
struct KeysArgs {
    #[command(subcommand)]
    command: keys::KeysCommand,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Args, Debug)]
struct AuditArgs {
    #[command(subcommand)]
    command: audit::AuditCommand,
    #[command(flatten)]
    installation: Installation,
}

/// Bytes of an error's text that are shown at most.
const TEXT_BYTES_MAX: usize = 4_096;

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
                graph: args.graph,
            };
            serve::run(Settings::load(args.config.as_deref(), &flags)?)?;
        }
        Command::Openapi => {
            println!("{}", agentry_api::openapi_json()?);
        }
        Command::Backup(BackupArgs { file, installation }) => {
            let settings = installation.settings()?;
            println!("{}", alone(backup::make(&settings, &file))?);
        }
        Command::Restore(RestoreArgs { file, force, installation }) => {
            println!("{}", backup::restore(&installation.settings()?, &file, force)?);
        }
        Command::Doctor(DoctorArgs { production: true, installation, .. }) => {
            let (said, code) = production::examine(&installation.settings()?);
            println!("{said}");
            return Ok(code);
        }
        Command::Doctor(DoctorArgs { deep, installation, .. }) => {
            let settings = installation.settings()?;
            let (said, code) = alone(backup::examine(&settings, deep))?;
            println!("{said}");
            return Ok(code);
        }
        Command::Keys(KeysArgs { command, installation }) => {
            let settings = installation.settings()?;
            print!("{}", alone(keys::run(&settings, command))?);
        }
        Command::Audit(AuditArgs { command, installation }) => {
            let settings = installation.settings()?;
            let (said, code) = alone(audit::run(&settings, command))?;
            println!("{said}");
            return Ok(code);
        }
        Command::Settings => {
            print!("{}", settings::DEFAULT_FILE);
        }
        Command::Lab(args) => return Ok(agentry_lab::main(args)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Carries out a command that is no server.
fn alone<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command)
}
