//! `sommelier train`: fit on everything and keep the artefact; `sommelier artefacts`: list them, make one answer.

use crate::commands::evaluate::recipe;
use crate::commands::import::{self, ReadArgs};
use crate::config::Config;
use crate::{Global, config, ui};
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier train ease --publish\n  sommelier train ials --set dim=128 --set l2=0.003\n  \
                        sommelier train ease ials --data ml-1m        without a store's log; artefacts go to the space\n  sommelier train sasrec --resume               after Ctrl-C, or a crash"
)]
pub struct TrainArgs {
    /// Recipes by name, or paths of recipe files
    #[arg(required = true, value_name = "RECIPE")]
    recipes: Vec<String>,
    /// Files to use instead of the log
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
    /// Change a recipe's setting, such as l2=250
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Let the artefact answer (the last one, if several recipes are named)
    #[arg(long)]
    publish: bool,
    /// Go on with a training that was interrupted, with the same data, settings and threads
    #[arg(long)]
    resume: bool,
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  sommelier artefacts\n  sommelier artefacts --publish ease-20261121-1")]
pub struct ArtefactsArgs {
    /// Let this artefact answer
    #[arg(long, value_name = "NAME")]
    publish: Option<String>,
}

pub fn run(global: &Global, args: &TrainArgs) -> Result<()> {
    let recipes = args.recipes.iter().map(|name| recipe(name, &args.set)).collect::<Result<Vec<_>>>()?;
    let (space, snapshot) = if let Some(path) = &args.data {
        let snapshot = import::of_files(global, path, &args.read)?;
        (Config::find(global)?.open_engine()?.create_space(&global.space)?, snapshot)
    } else {
        let space = config::open_space(global)?;
        let snapshot = import::of_log(&space)?;
        (space, snapshot)
    };
    let mut context = ui::context(global, args.seed);
    context.resume = args.resume;
    let mut made = Vec::new();
    for recipe in &recipes {
        match (args.resume, space.unfinished(recipe)) {
            (true, false) => ui::say(global, format!("{}: nothing to resume, it begins anew", recipe.name)),
            (false, true) => {
                ui::say(
                    global,
                    format!(
                        "{}: begins anew; --resume would go on with the interrupted training",
                        recipe.name
                    ),
                );
            }
            _ => {}
        }
        let info =
            ui::on_pool(global, || space.train(recipe, &snapshot, &mut context, serde_json::Value::Null))?
                .with_context(|| format!("recipe {}", recipe.name))?;
        let watched = match info.watched {
            0 => String::new(),
            n => format!(", judged by the newest event of {n} people, which it did not learn"),
        };
        ui::say(global, format!("{}: fitted in {:.1} s{watched}", info.name, info.fit_seconds));
        made.push(info);
    }
    if args.publish
        && let Some(last) = made.last()
    {
        space.publish(&last.name)?;
    }
    ui::show(global, &serde_json::json!({ "artefacts": made, "published": args.publish }), || {
        let next = if args.publish {
            "published; next: sommelier serve --open"
        } else {
            "next: sommelier artefacts --publish NAME"
        };
        next.to_owned()
    })
}

pub fn artefacts(global: &Global, args: &ArtefactsArgs) -> Result<()> {
    let space = config::open_space(global)?;
    if let Some(name) = &args.publish {
        space.publish(name)?;
    }
    let all = space.artefacts()?;
    let published = space.published().map(|a| a.name);
    ui::show(global, &serde_json::json!({ "artefacts": all, "published": published }), || {
        if all.is_empty() {
            return "no artefacts yet; next: sommelier train ease --publish".to_owned();
        }
        let mut table = ui::table(&["artefact", "model", "items", "users", "at offset", "answers"]);
        for a in &all {
            let answers = if Some(&a.name) == published.as_ref() { "yes" } else { "" };
            table.add_row([
                &a.name,
                &a.kind,
                &a.items.to_string(),
                &a.users.to_string(),
                &a.offset.to_string(),
                answers,
            ]);
        }
        table.to_string()
    })
}
