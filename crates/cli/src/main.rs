//! The `sommelier` binary: what a person types and what they see. All work is done in the crates below.

mod commands;
mod config;
mod ui;

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Answering makes and drops many small strings on many threads, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(
    name = "sommelier",
    version,
    about = "A recommender engine in one binary: import, train, evaluate, serve.",
    after_help = "Start here:\n  sommelier demo                                a sample world in your browser\n  \
                  sommelier demo --from ratings.csv             the same with your own data\n\n\
                  Or step by step:\n  sommelier init . && sommelier import events.csv items.csv\n  \
                  sommelier doctor\n  sommelier train ease --publish\n  sommelier serve"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options every command understands.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Print one JSON document on stdout; logs and progress go to stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// The configuration file [default: sommelier.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE", env = "SOMMELIER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Which space (tenant) to work on
    #[arg(long, global = true, value_name = "NAME", default_value = "default", env = "SOMMELIER_SPACE")]
    pub space: String,
    /// Threads for fitting and evaluation [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Memory a long job may plan for, such as 4GB or 800MB [default: three quarters of what is free]
    #[arg(long, global = true, value_name = "SIZE", value_parser = ui::parse_bytes)]
    pub memory: Option<u64>,
    /// No progress on stderr
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// A sample world (or your data) from import to a page in the browser
    Demo(commands::demo::DemoArgs),
    /// Write a sommelier.toml to edit
    Init(commands::init::InitArgs),
    /// Bring events, items and users into the log
    Import(commands::import::ImportArgs),
    /// Write the log's events, items and users to files
    Export(commands::export::ExportArgs),
    /// What is wrong with this data, and what it can support
    Doctor(commands::doctor::DoctorArgs),
    /// Fit recipes to the log (or to files) and keep the artefacts
    Train(commands::train::TrainArgs),
    /// Fit and measure recipes on a split of the data
    Evaluate(commands::evaluate::EvaluateArgs),
    /// How good the codes of items are, and which items begin alike
    Codes(commands::codes::CodesArgs),
    /// Published figures beside ours
    Reproduce(commands::reproduce::ReproduceArgs),
    /// Ask for a slate without a server
    Recommend(commands::recommend::RecommendArgs),
    /// Why an item is recommended to a user
    Explain(commands::recommend::ExplainArgs),
    /// Erase a user or an item from the log
    Forget(commands::forget::ForgetArgs),
    /// Answer over HTTP
    Serve(commands::serve::ServeArgs),
    /// List artefacts, or make one answer
    Artefacts(commands::train::ArtefactsArgs),
    /// Copy a space's log into one file, while it is written to
    Backup(commands::backup::BackupArgs),
    /// Bring a backup into an empty folder, or check a store for damage
    Restore(commands::backup::RestoreArgs),
    /// A hashed API key for the configuration
    Key(commands::serve::KeyArgs),
    /// Completions for your shell
    Completions { shell: clap_complete::Shell },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Whoever runs a server wants its access log; everybody else only what went wrong.
    ui::start_logging(if matches!(cli.command, Command::Serve(_)) { "info" } else { "warn" });
    match run(&cli.global, cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui::print_error(&cli.global, &error);
            ExitCode::FAILURE
        }
    }
}

fn run(global: &Global, command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => commands::demo::run(global, &args),
        Command::Init(args) => commands::init::run(global, &args),
        Command::Import(args) => commands::import::run(global, &args),
        Command::Export(args) => commands::export::run(global, &args),
        Command::Doctor(args) => commands::doctor::run(global, &args),
        Command::Train(args) => commands::train::run(global, &args),
        Command::Evaluate(args) => commands::evaluate::run(global, &args),
        Command::Codes(args) => commands::codes::run(global, &args),
        Command::Reproduce(args) => commands::reproduce::run(global, &args),
        Command::Recommend(args) => commands::recommend::run(global, &args),
        Command::Explain(args) => commands::recommend::explain(global, &args),
        Command::Forget(args) => commands::forget::run(global, &args),
        Command::Serve(args) => commands::serve::run(global, &args),
        Command::Artefacts(args) => commands::train::artefacts(global, &args),
        Command::Backup(args) => commands::backup::run(global, &args),
        Command::Restore(args) => commands::backup::restore(global, &args),
        Command::Key(args) => commands::serve::key(global, &args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sommelier", &mut script);
            ui::print(&script)
        }
    }
}
