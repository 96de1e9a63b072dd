//! `sommelier recommend` and `explain`: one query, one slate, without a server.

use crate::{Global, config, ui};
use anyhow::Result;
use clap::Args;
use sommelier_core::{HistoryEntry, Query, Slate};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier recommend --user u42\n  sommelier recommend --history i1,i2 -k 5 --explain\n  \
                        sommelier recommend --like i9                 similar items\n  \
                        sommelier recommend --wish 'whale'            search\n  \
                        sommelier recommend --user u42 --filter 'item.year < 1900'"
)]
pub struct RecommendArgs {
    #[arg(long)]
    user: Option<String>,
    /// Items seen, oldest first
    #[arg(long, value_delimiter = ',', value_name = "ITEM,…")]
    history: Vec<String>,
    /// What is wanted, in words
    #[arg(long, value_name = "TEXT")]
    wish: Option<String>,
    /// Something like this item
    #[arg(long, value_name = "ITEM")]
    like: Vec<String>,
    /// How many
    #[arg(short = 'k', long = "count", default_value_t = 10)]
    count: u32,
    /// Only items for which this holds
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Print the reasons
    #[arg(long)]
    explain: bool,
}

#[derive(Args)]
#[command(after_help = "Example:\n  sommelier explain --user u42 --item i9")]
pub struct ExplainArgs {
    #[arg(long)]
    user: String,
    #[arg(long)]
    item: String,
}

pub fn run(global: &Global, args: &RecommendArgs) -> Result<()> {
    let space = config::open_space(global)?;
    let query = Query {
        user: args.user.clone(),
        history: args.history.iter().cloned().map(HistoryEntry::Item).collect(),
        wish: args.wish.clone(),
        like: args.like.clone(),
        count: Some(args.count),
        filter: args.filter.clone(),
        ..Query::default()
    };
    let slate = space.answer(&query)?;
    ui::show(global, &slate, || people(&slate, args.explain))
}

fn people(slate: &Slate, explain: bool) -> String {
    let mut table = ui::table(&["", "item", "title", "score", "source"]);
    for (place, item) in slate.items.iter().enumerate() {
        let title =
            item.properties.as_ref().and_then(|p| p.get("title")).and_then(|t| t.as_str()).unwrap_or("");
        table.add_row([
            (place + 1).to_string(),
            item.item.clone(),
            title.to_owned(),
            format!("{:.3}", item.score),
            item.source.clone(),
        ]);
        if explain {
            let why: Vec<&str> = item.reasons.iter().map(|r| r.text.as_str()).collect();
            table.add_row([String::new(), String::new(), why.join("; "), String::new(), String::new()]);
        }
    }
    let by = slate.artefact.as_deref().unwrap_or("no artefact");
    let mut words = if slate.items.is_empty() {
        "nothing is left to recommend: every item is seen, filtered out or withdrawn".to_owned()
    } else {
        table.to_string()
    };
    let remarks =
        slate.fallback.iter().map(|why| format!("fallback: {why}")).chain(slate.notes.iter().cloned());
    for line in std::iter::once(format!("answered by {by}")).chain(remarks) {
        words.push('\n');
        words.push_str(&line);
    }
    words
}

pub fn explain(global: &Global, args: &ExplainArgs) -> Result<()> {
    let space = config::open_space(global)?;
    let reasons = space.explain(&args.user, &args.item)?;
    ui::show(global, &serde_json::json!({ "user": args.user, "item": args.item, "reasons": reasons }), || {
        if reasons.is_empty() {
            return "no reason can be given: the published artefact has nothing of this user to point to"
                .to_owned();
        }
        reasons.iter().map(|r| r.text.clone()).collect::<Vec<_>>().join("\n")
    })
}
