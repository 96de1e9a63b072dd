//! `sommelier codes`: how good the codes of items are, and which items begin alike.

use crate::commands::evaluate::recipe;
use crate::commands::import::{self, ReadArgs};
use crate::{Global, config, ui};
use anyhow::Result;
use clap::Args;
use comfy_table::Table;
use serde::Serialize;
use sommelier_engine::{Branch, CodeTree, Coded, Family, Level, Quality, View};
use std::path::PathBuf;

/// What people are shown of a tree unless they say otherwise: a page of a terminal.
const PAGE: View = View { depth: 2, width: 5 };

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier codes                               the published artefact, later items too\n  \
                  sommelier codes tiger_decoder --data ml-1m    before a model is trained on them\n  \
                  sommelier codes tiger_decoder --set tokenise.by.levels=4\n  \
                  sommelier codes --prefix 12,7                 what begins so\n  \
                  sommelier codes --item i9                     its codes, and who shares them\n\n\
                  --json prints one document with the whole tree, unless --depth or --width cut it:\n  \
                  {\"recipe\" or \"artefact\", \"sizes\": [256, …], \"items\", \"without\", \"later\",\n   \
                  \"quality\": {…}, \"prefix\": [12, 7], \"tree\": {\"code\", \"count\", \"children\": [{…}],\n   \
                  \"more\"}}; where codes end, a branch has \"items\": [{\"id\", \"title\", \"later\"}]. \"more\"\n  \
                  counts the children or items left out. With --item, instead of the tree:\n  \
                  \"item\": {\"id\", \"title\", \"codes\", \"levels\": [{\"beginning\", \"count\", \"items\", \"more\"}]}"
)]
pub struct CodesArgs {
    /// A recipe by name, or the path of a recipe file: it is fitted up to its codes [default: the published artefact]
    recipe: Option<String>,
    /// An artefact that is not published
    #[arg(long, value_name = "NAME", conflicts_with = "recipe")]
    artefact: Option<String>,
    /// Files to use instead of the log
    #[arg(long, value_name = "PATH", requires = "recipe")]
    data: Option<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
    /// Change a recipe's setting, such as tokenise.by.levels=4
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "recipe")]
    set: Vec<String>,
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Only items whose codes begin so
    #[arg(long, value_name = "CODE,…", value_delimiter = ',')]
    prefix: Vec<u32>,
    /// One item's codes, and the items that share their beginnings
    #[arg(long, value_name = "ITEM", conflicts_with_all = ["prefix", "depth"])]
    item: Option<String>,
    /// Levels of the tree [default: 2; all with --json]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    depth: Option<u32>,
    /// Codes after one beginning, the most common first, and titles on a line [default: 5; all with --json]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    width: Option<u32>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    of: Of,
    sizes: &'a [u32],
    items: usize,
    without: usize,
    later: usize,
    quality: &'a Quality,
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    prefix: &'a [u32],
    #[serde(flatten)]
    shown: Shown<'a>,
}

/// Whose codes they are.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Of {
    Recipe(String),
    Artefact(String),
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Shown<'a> {
    Tree(Branch<'a>),
    Item(Family<'a>),
}

pub fn run(global: &Global, args: &CodesArgs) -> Result<()> {
    let (of, codes) = match &args.recipe {
        Some(name) => of_recipe(global, args, name)?,
        None => of_artefact(global, args.artefact.as_deref())?,
    };
    let view = view(args, if global.json { View::ALL } else { PAGE });
    let shown = match &args.item {
        Some(id) => Shown::Item(codes.family(id, view.width)?),
        None => Shown::Tree(codes.under(&args.prefix, view)?),
    };
    let document = Document {
        of,
        sizes: &codes.sizes,
        items: codes.items(),
        without: codes.without(),
        later: codes.later(),
        quality: &codes.quality,
        prefix: &args.prefix,
        shown,
    };
    ui::show(global, &document, || people(&document))
}

fn of_recipe(global: &Global, args: &CodesArgs, name: &str) -> Result<(Of, CodeTree)> {
    let recipe = recipe(name, &args.set)?;
    let snapshot = match &args.data {
        Some(path) => import::of_files(global, path, &args.read)?,
        None => import::of_log(&*config::open_space(global)?)?,
    };
    let mut context = ui::context(global, args.seed);
    let codes = ui::on_pool(global, || CodeTree::of_recipe(&recipe, &snapshot, &mut context))??;
    Ok((Of::Recipe(codes.name.clone()), codes))
}

/// Of the published artefact where none is named.
fn of_artefact(global: &Global, name: Option<&str>) -> Result<(Of, CodeTree)> {
    let codes = config::open_space(global)?.codes(name)?;
    Ok((Of::Artefact(codes.name.clone()), codes))
}

fn view(args: &CodesArgs, usual: View) -> View {
    let or = |given: Option<u32>, usual: usize| given.map_or(usual, |n| n as usize);
    View { depth: or(args.depth, usual.depth), width: or(args.width, usual.width) }
}

fn people(document: &Document) -> String {
    let (Of::Recipe(name) | Of::Artefact(name)) = &document.of;
    let sizes: Vec<String> = document.sizes.iter().map(u32::to_string).collect();
    let mut text = format!("{name}: {} items with codes of {}", document.items, sizes.join(" × "));
    if document.later + document.without > 0 {
        let (later, without) = (document.later, document.without);
        text = format!("{text}\n{later} later than the fit, {without} without codes");
    }
    text.push_str("\n\n");
    match &document.shown {
        Shown::Item(family) => text + &of_item(family),
        Shown::Tree(tree) if document.prefix.is_empty() => {
            text + &quality(document.quality) + "\n\n" + &of_tree(tree, document.prefix)
        }
        Shown::Tree(tree) => text + &of_tree(tree, document.prefix),
    }
}

fn quality(quality: &Quality) -> String {
    let number = |n: Option<f64>| n.map_or("–".to_owned(), |n| format!("{n:.3}"));
    let share = |n: Option<f64>| n.map_or("–".to_owned(), percent);
    let mut table = ui::lines(&["how good they are", "", ""], &[1]);
    for (name, value, words) in [
        ("items", quality.items.to_string(), "that codes were fitted on"),
        ("collisions", percent(quality.collisions), "share the tokeniser's codes; 0 is best"),
        ("largest group", quality.largest_group.to_string(), "items that share the same; 1 is best"),
        ("reconstruction", number(quality.reconstruction), "of what vectors tell is lost; 0 is best"),
        ("neighbours", share(quality.neighbours), "of ten nearest are so by codes; 100 % is best"),
    ] {
        table.add_row(ui::line([name.to_owned(), value, words.to_owned()]));
    }
    format!("{table}\n\n{}{LEVELS}", levels(&quality.levels))
}

/// What the columns of [`levels`] mean.
const LEVELS: &str = "
 used        of the level's codes some item has; 100 % wastes none
 entropy     that a code tells, at most log2 of codes; the more the better
 perplexity  as many codes, all as common, would tell as much
 beginnings  distinct up to here; in the end as many as items is best
 gini        of items over beginnings: 0 is even, near 1 a few hold most
 shared      of an item's ten nearest begin as it does; the more the better";

fn levels(levels: &[Level]) -> Table {
    let header = ["level", "codes", "used", "entropy", "perplexity", "beginnings", "gini", "shared"];
    let mut table = ui::lines(&header, &[0, 1, 2, 3, 4, 5, 6, 7]);
    for (n, level) in (1..).zip(levels) {
        table.add_row(ui::line([
            n.to_string(),
            level.codes.to_string(),
            percent(level.used),
            format!("{:.2} bits", level.entropy),
            format!("{:.1}", level.perplexity),
            level.prefixes.to_string(),
            format!("{:.2}", level.gini),
            percent(level.shared),
        ]));
    }
    table
}

fn of_tree(tree: &Branch, prefix: &[u32]) -> String {
    let mut table = ui::lines(&["codes", "items", "titles"], &[1]);
    let cut = draw(tree, prefix.to_vec(), ("", ""), &mut table);
    let hint = "… is what is left out; --depth, --width and --prefix (codes as above) show it";
    if cut { format!("{table}\n{hint}") } else { table.to_string() }
}

/// A line for a branch and for each below it: its beginning, how many items have it and, where it ends, which. Codes that no
/// others stand beside share a line. True if something is left out.
fn draw(branch: &Branch, mut beginning: Vec<u32>, (hook, margin): (&str, &str), table: &mut Table) -> bool {
    let mut branch = branch;
    while let ([only], 0) = (&branch.children[..], branch.more) {
        branch = only;
        beginning.extend(branch.code);
    }
    let name = if beginning.is_empty() { "all".to_owned() } else { codes(&beginning) };
    table.add_row(ui::line([
        format!("{hook}{name}"),
        branch.count.to_string(),
        titles(&branch.items, branch.more),
    ]));
    let mut cut = branch.more > 0;
    for (n, child) in (1..).zip(&branch.children) {
        let last = n == branch.children.len() && branch.more == 0;
        let (hook, below) = if last { ("└ ", "  ") } else { ("├ ", "│ ") };
        let own = beginning.iter().copied().chain(child.code).collect();
        cut |= draw(child, own, (&format!("{margin}{hook}"), &format!("{margin}{below}")), table);
    }
    if branch.more > 0 && !branch.children.is_empty() {
        let listed: usize = branch.children.iter().map(|child| child.count).sum();
        let words = format!("{} further code{}", branch.more, if branch.more == 1 { "" } else { "s" });
        table.add_row(ui::line([format!("{margin}└ …"), (branch.count - listed).to_string(), words]));
    }
    cut
}

fn of_item(family: &Family) -> String {
    let mut table = ui::lines(&["codes begin", "items", "others that go on with another code"], &[1]);
    for (n, level) in (1..).zip(&family.levels) {
        let mut others = titles(&level.items, level.more);
        if n == family.levels.len() {
            others = format!("the same codes: {}", if others.is_empty() { "none" } else { &others });
        }
        table.add_row(ui::line([codes(level.beginning), level.count.to_string(), others]));
    }
    format!("{} ({}) has the codes {}\n\n{table}", title(family.item), family.item.id, codes(family.codes))
}

fn title(item: &Coded) -> &str {
    item.title.as_deref().unwrap_or(&item.id)
}

fn titles(items: &[&Coded], more: usize) -> String {
    let mut titles: Vec<&str> = items.iter().map(|item| title(item)).collect();
    titles.extend((more > 0 && !items.is_empty()).then_some("…"));
    titles.join(" · ")
}

/// As `--prefix` takes them.
fn codes(codes: &[u32]) -> String {
    codes.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
