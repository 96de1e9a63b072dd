//! `sommelier serve` answers over HTTP until it is told to stop; `sommelier key` makes what it asks for.

use crate::config::Config;
use crate::{Global, ui};
use anyhow::{Context, Result, anyhow};
use clap::Args;
use sommelier_engine::Engine;
use sommelier_server::{Role, ServerConfig};
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier serve --open                    on this machine, without keys\n  \
                        sommelier serve --listen 0.0.0.0:8000     with the keys of sommelier.toml"
)]
pub struct ServeArgs {
    /// Address to answer on [default: the configuration's, 127.0.0.1:8000]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
    /// Answer without a key; only on a loopback address
    #[arg(long)]
    open: bool,
}

#[derive(Args)]
#[command(after_help = "Example:\n  sommelier key website --role write")]
pub struct KeyArgs {
    /// What the key is for
    name: String,
    /// read, write, or admin
    #[arg(long, default_value = "read")]
    role: Role,
}

pub fn run(global: &Global, args: &ServeArgs) -> Result<()> {
    let config = Config::find(global)?;
    let mut server = config.server.clone();
    if let Some(listen) = args.listen {
        server.listen = listen;
    }
    server.allow_anonymous_loopback |= args.open;
    check(&server)?;
    let engine = config.open_engine()?;
    engine.create_space(&global.space)?;
    listen(global, engine, server, "serving")
}

/// Refuses a configuration under which nobody or everybody could ask, before anything is opened.
fn check(config: &ServerConfig) -> Result<()> {
    config.check().map_err(|error| {
        anyhow!("{error}\n`sommelier key NAME` makes a key; `sommelier serve --open` answers this machine without one")
    })
}

/// Serves until Ctrl-C or SIGTERM. Prints the address once it answers.
pub fn listen(global: &Global, engine: Arc<Engine>, config: ServerConfig, what: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let bound = sommelier_server::bind(engine, config).await?;
        let address = format!("http://{}/", bound.address());
        ui::show(global, &serde_json::json!({ what: address }), || {
            format!("{what} at {address}   (Ctrl-C stops)")
        })?;
        bound.serve(ui::stop().told.notified()).await.context("the server stopped")
    })
}

pub fn key(global: &Global, args: &KeyArgs) -> Result<()> {
    let (key, line) = sommelier_server::new_key(&args.name, &global.space, args.role)?;
    ui::show(global, &serde_json::json!({ "key": key, "toml": line }), || {
        format!(
            "the key, shown only now:\n  {key}\n\nfor sommelier.toml (it holds a hash, not the key):\n{line}"
        )
    })
}
