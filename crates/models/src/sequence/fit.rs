//! The fit that all sequence models share.

use super::content::Described;
use super::objective::Objective;
use super::windows::Histories;
use super::{Architecture, Batch, Embedder, Encoder, SequenceConfig, SequenceModel};
use crate::model::{plan, require};
use crate::{FitError, LoadError, Weights};
use sommelier_core::{FitContext, Rng, Stopped};
use sommelier_data::Snapshot;
use sommelier_nn::loss::Items;
use sommelier_nn::op::Embed;
use sommelier_nn::train::{Learner, train};
use sommelier_nn::{Params, Table, TableId, Tape, Var};
use std::ops::Range;
use std::sync::Arc;

impl Embedder {
    pub(super) fn new(table: TableId) -> Embedder {
        Embedder { items: Items::Table(table) }
    }

    /// Of items with vectors of their own.
    pub(super) fn described(tape: &mut Tape, table: TableId, by: &Described) -> Embedder {
        Embedder { items: Items::Matrix(by.make(tape, table)) }
    }

    /// Vectors of the items, one row each, with what `with` adds to them.
    pub fn rows(self, tape: &mut Tape, items: &Arc<Vec<u32>>, with: Embed) -> Var {
        tape.embed(self.items, items.clone(), with)
    }

    /// One item's vector.
    pub fn vector<'t>(self, tape: &'t Tape, item: u32) -> &'t [f32] {
        match self.items {
            Items::Table(table) => tape.params().table(table).row(item),
            Items::Matrix(matrix) => {
                let wide = tape.shape(matrix).1;
                &tape.data(matrix)[item as usize * wide..][..wide]
            }
        }
    }

    /// The numbers of all items' vectors.
    pub(super) fn data<'t>(self, tape: &'t Tape) -> &'t [f32] {
        match self.items {
            Items::Table(table) => tape.params().table(table).rows(),
            Items::Matrix(matrix) => tape.data(matrix),
        }
    }

    /// Vectors of all items.
    pub(super) fn all(self, tape: &mut Tape) -> Var {
        match self.items {
            Items::Table(table) => {
                let count = tape.params().table(table).height() as u32;
                tape.embed(self.items, Arc::new((0..count).collect()), Embed::default())
            }
            Items::Matrix(matrix) => matrix,
        }
    }
}

/// Fits any model of the family.
pub(crate) fn fit<A: Architecture>(
    config: &A,
    snapshot: &Snapshot,
    ctx: &FitContext,
) -> Result<SequenceModel, FitError> {
    config.sequence().check()?;
    config.check()?;
    let settings = config.training();
    let start = config.sequence().start.as_ref();
    let learns = settings.epochs > 0 || start.is_some();
    require("training.epochs", settings.epochs as f64, learns, "at least 1, or 0 with sequence.start")?;
    let rate = settings.learning_rate;
    require("training.learning_rate", rate.into(), rate > 0.0, "a finite number above 0")?;

    let histories = Histories::of(snapshot, |_| true);
    let items = snapshot.items.len();
    if histories.windows(1, super::Cut::Last, &mut Rng::new(0)).is_empty() {
        return Err(FitError::NoData(
            "somebody must have two positive events, one to read and one to tell".into(),
        ));
    }
    let mut params = Params::new(ctx.seed);
    let encoder = config.build(&mut params);
    let sequence = config.sequence().clone();
    let table = params.add_table(Table::of_range("items", items, config.dim(), sequence.initial, ctx.seed));
    let counts = histories.counts(items);
    let length = |property: &str, _: &str| snapshot.item_vectors(property).map(|vectors| vectors.dim);
    let maker = config.maker(&length, &mut params).map_err(FitError::NoData)?;
    let described = maker.map(|maker| Described::new(maker, snapshot, &counts)).transpose();
    let described = described.map_err(FitError::NoData)?;
    let dense: usize = params.iter().map(|p| p.value.len()).sum();
    let given = || described.iter().flat_map(|d| &d.given).map(|given| &given.data);
    check_memory(config, (dense, items, given().map(Vec::len).sum()), &histories, ctx)?;
    let mut identity = format!("model {} {config:?}\n{}", A::KIND, snapshot.identity(given().flatten()));
    if let Some(start) = start {
        let digest = start.fill(&mut params, table, snapshot, ctx)?;
        identity = format!("{identity}\nstart {digest:016x}");
    }

    let mut learner = Lessons {
        objective: Objective::new(&sequence, &counts, described.is_some(), config.parts()),
        histories,
        described,
        windows: Vec::new(),
        encoder,
        table,
        sequence,
        seed: ctx.seed,
        ctx,
        kind: A::KIND,
    };
    let trained = train(&mut learner, &mut params, settings, &identity, ctx);
    let Lessons { encoder, described, .. } = learner;
    trained?;
    if let Some(described) = &described {
        described.settle(&mut params, table);
    }
    let maker = described.map(|d| d.maker);
    SequenceModel::new(A::KIND, config.sequence(), params, table, (encoder, maker))
        .map_err(|e| FitError::Numeric(e.to_string()))
}

/// The model that had these weights.
pub(crate) fn load<A: Architecture>(config: &A, weights: &Weights) -> Result<SequenceModel, LoadError> {
    let mut params = Params::new(0);
    let encoder = config.build(&mut params);
    let length = |_: &str, weight: &str| weights.matrix(weight, None).map(|m| m.1).map_err(|e| e.to_string());
    let maker = config.maker(&length, &mut params).map_err(LoadError::Other)?;
    weights.recall(&mut params)?;
    let (items, dim, rows) = weights.matrix("items", Some(config.dim()))?;
    let mut table = Table::of_range("items", items, dim, 0.0, 0);
    table.rows_mut().copy_from_slice(rows);
    let table = params.add_table(table);
    SequenceModel::new(A::KIND, config.sequence(), params, table, (encoder, maker))
}

/// Bytes at the peak: parameters with the optimiser's state, the best weights and those of the model in validation; on each
/// tape gradients, and everything that one part of a step makes.
fn check_memory<A: Architecture>(
    config: &A,
    (dense, items, given): (usize, usize, usize),
    histories: &Histories,
    ctx: &FitContext,
) -> Result<(), FitError> {
    let sequence = config.sequence();
    let threads = ctx.threads.max(1);
    let rows = items * config.dim();
    let steps = (sequence.batch * sequence.length).min(histories.events().max(1)).div_ceil(threads);
    // The catalogue's softmax keeps a gradient of all rows twice on each tape, the rows transposed unless they are very many, and
    // a tile of scores.
    let softmax = if sequence.loss == super::Loss::Softmax {
        2 * rows + items.min(131_072) * config.dim() + (4 << 20) + 32 * items.min(131_072)
    } else {
        0
    };
    // With vectors from the catalogue, all items' own and their gradient.
    let matrix = if given > 0 { 2 * rows } else { 0 };
    let tape =
        dense + softmax + matrix + steps * (config.numbers_per_step() + 2 * sequence.loss.scores_per_step());
    let all = 6 * (dense + rows) + 2 * given + threads * tape + 3 * histories.events();
    let why = format!(
        "vectors of {} numbers for {items} items, steps of {steps} events on {threads} tapes",
        config.dim()
    );
    let start = sequence.start.as_ref().map_or(0, super::Start::bytes);
    plan(
        ctx,
        all as u64 * 4 + start,
        &why,
        "lower sequence.batch, sequence.length or dim, or use a sampled loss",
    )
}

struct Lessons<'a> {
    histories: Histories,
    objective: Objective,
    /// Of the epoch that is going on.
    windows: Vec<Range<usize>>,
    encoder: Arc<dyn Encoder>,
    table: TableId,
    described: Option<Described>,
    sequence: SequenceConfig,
    seed: u64,
    ctx: &'a FitContext,
    kind: &'static str,
}

impl Learner for Lessons<'_> {
    /// A batch, and the share of each of its rows in the loss.
    type Part = (Batch, f32);

    fn begin(&mut self, epoch: usize) -> usize {
        let mut rng = Rng::stream(self.seed ^ 0x0e90c, epoch as u64);
        self.windows = self.histories.windows(self.sequence.length, self.sequence.cut, &mut rng);
        self.windows.len().div_ceil(self.sequence.batch)
    }

    fn deal(&self, step: usize, parts: usize) -> Vec<(Batch, f32)> {
        let from = step * self.sequence.batch;
        let windows = &self.windows[from..(from + self.sequence.batch).min(self.windows.len())];
        let batches = self.histories.deal(windows, parts, self.encoder.reads_whole());
        let rows: usize = batches.iter().map(|b| self.encoder.rows(b)).sum();
        batches.into_iter().map(|b| (b, 1.0 / rows.max(1) as f32)).collect()
    }

    fn loss(&self, tape: &mut Tape, (batch, share): &(Batch, f32), rng: &mut Rng) -> Var {
        let embedder = match &self.described {
            Some(described) => Embedder::described(tape, self.table, described),
            None => Embedder::new(self.table),
        };
        let lesson = self.encoder.learn(tape, embedder, batch, *share, rng);
        let loss = self.objective.loss(tape, embedder, &lesson, *share, rng);
        let (Some(described), Items::Matrix(made)) = (&self.described, embedder.items) else { return loss };
        match described.maker.aside(tape, &described.given, made) {
            // All parts of a step make the same vectors: together they count once.
            Some(aside) => {
                let whole = *share * self.encoder.rows(batch) as f32;
                tape.add_scaled(&[(loss, 1.0), (aside, whole)])
            }
            None => loss,
        }
    }

    fn validate(&self, params: &Params) -> Result<Option<f64>, Stopped> {
        let Some(validate) = &self.ctx.validate else { return Ok(None) };
        let mut params = params.clone();
        if let Some(described) = &self.described {
            described.settle(&mut params, self.table);
        }
        let made_by = (self.encoder.clone(), self.described.as_ref().map(|d| d.maker.clone()));
        match SequenceModel::new(self.kind, &self.sequence, params, self.table, made_by) {
            Ok(model) => validate.judge(&model).map(Some),
            // Numbers that cannot be searched: the next step says so.
            Err(_) => Ok(None),
        }
    }

    fn metric(&self) -> String {
        self.ctx.validate.as_ref().map_or_else(|| "validation".to_owned(), |v| v.metric())
    }
}
