//! The loop on a toy: it learns, repeats, goes on where it was stopped, keeps the best, and says what went wrong.

use super::*;
use crate::loss::Items;
use crate::op::{Embed, Linear};
use crate::params::{Init, ParamId, TableId};
use crate::table::Table;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Learns which of 20 rows belongs to which of 4 classes.
struct Toy {
    table: TableId,
    weight: ParamId,
    order: Vec<u32>,
    epoch: usize,
    seed: u64,
    /// Steps until it asks to be stopped.
    stop_after: Option<(AtomicUsize, sommelier_core::Cancel)>,
    /// Quality by epoch, where it is made up.
    quality: Option<Vec<f64>>,
    poison: Option<usize>,
}

impl Learner for Toy {
    type Part = Vec<u32>;

    fn begin(&mut self, epoch: usize) -> usize {
        self.epoch = epoch;
        self.order = (0..20).collect();
        Rng::stream(self.seed, epoch as u64).shuffle(&mut self.order);
        5
    }

    fn deal(&self, step: usize, parts: usize) -> Vec<Vec<u32>> {
        let mine = &self.order[step * 4..step * 4 + 4];
        mine.chunks(4usize.div_ceil(parts)).map(<[u32]>::to_vec).collect()
    }

    fn loss(&self, tape: &mut Tape, part: &Vec<u32>, rng: &mut Rng) -> Var {
        if let Some((left, cancel)) = &self.stop_after
            && left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            cancel.cancel();
        }
        let h = tape.embed(
            Items::Table(self.table),
            Arc::new(part.clone()),
            Embed { dropout: 0.2, ..Embed::default() },
        );
        let h = tape.linear(h, self.weight, Linear::default());
        let noise = rng.unit() as f32 * 0.1;
        let right = Arc::new(part.iter().map(|i| i % 4).collect::<Vec<u32>>());
        let scale = if self.poison == Some(self.epoch) { f32::NAN } else { (1.0 + noise) / 4.0 };
        let eye = (0..16).map(|i| f32::from(u8::from(i / 4 == i % 4))).collect();
        let classes = tape.constant(crate::Tensor::new(4, 4, eye));
        tape.catalogue_softmax(h, Items::Matrix(classes), &right, &[], 1.0, scale)
    }

    fn validate(&self, _: &Params) -> Result<Option<f64>, Stopped> {
        Ok(self.quality.as_ref().map(|q| q[self.epoch.min(q.len() - 1)]))
    }
}

fn toy() -> (Toy, Params) {
    let mut params = Params::new(3);
    let table = params.add_table(Table::of_range("rows", 20, 8, 0.1, 3));
    let weight = params.add("w", 4, 8, Init::Glorot);
    let toy = Toy {
        table,
        weight,
        order: Vec::new(),
        epoch: 0,
        seed: 9,
        stop_after: None,
        quality: None,
        poison: None,
    };
    (toy, params)
}

fn settings(epochs: usize) -> Settings {
    Settings { epochs, learning_rate: 0.05, schedule: Schedule::FLAT, patience: 10, ..Settings::default() }
}

fn numbers(params: &Params) -> Vec<u32> {
    let dense = params.iter().flat_map(|p| &p.value);
    dense.chain(params.tables().flat_map(Table::rows)).map(|v| v.to_bits()).collect()
}

#[test]
fn it_learns_and_repeats_bit_for_bit() {
    let run = |threads| {
        let (mut toy, mut params) = toy();
        let ctx = FitContext { threads, ..FitContext::quiet(1) };
        let history = train(&mut toy, &mut params, &settings(30), "toy", &ctx).unwrap();
        (history, numbers(&params))
    };
    let (history, weights) = run(2);
    assert_eq!(history.epochs.len(), 30);
    assert!(history.epochs[29].loss < 0.2 * history.epochs[0].loss, "{history:?}");
    assert_eq!(run(2).1, weights);
    assert!(run(1).0.epochs[29].loss < 0.2 * history.epochs[0].loss);
    let lines = history.to_json_lines();
    assert_eq!(lines.lines().count(), 30);
    assert!(lines.starts_with(r#"{"epoch":1,"step":5,"loss":"#), "{lines}");
    let svg = curves(&history);
    assert!(svg.contains("after epoch 30") && svg.contains("<polyline"), "{svg}");
}

#[test]
fn a_run_stopped_anywhere_ends_the_same() {
    let (mut whole, mut unbroken) = toy();
    train(&mut whole, &mut unbroken, &settings(6), "toy", &FitContext::quiet(1)).unwrap();
    // Two parts in each of 30 steps.
    for stop in [1, 2, 9, 10, 11, 35, 57] {
        let folder = tempfile::tempdir().unwrap();
        let mut ctx = FitContext { checkpoints: Some(folder.path().to_owned()), ..FitContext::quiet(1) };
        let (mut first, mut params) = toy();
        first.stop_after = Some((AtomicUsize::new(stop), ctx.cancel.clone()));
        let error = train(&mut first, &mut params, &settings(6), "toy", &ctx).unwrap_err();
        assert!(matches!(error, TrainError::Stopped(_)), "{error}");
        ctx.cancel = sommelier_core::Cancel::default();
        ctx.resume = true;
        let (mut second, mut params) = toy();
        let history = train(&mut second, &mut params, &settings(6), "toy", &ctx).unwrap();
        assert_eq!(history.epochs.len(), 6);
        assert_eq!(numbers(&params), numbers(&unbroken), "stopped after {stop} parts");
        assert!(folder.path().join("training.svg").exists() && folder.path().join("training.jsonl").exists());
        let error = train(&mut second, &mut params, &settings(7), "toy", &ctx).unwrap_err().to_string();
        assert!(error.contains("another run") && error.contains("--resume"), "{error}");
    }
}

#[test]
fn the_best_weights_are_kept_and_a_run_ends_when_it_gets_no_better() {
    let (mut toy_, mut params) = toy();
    toy_.quality = Some(vec![0.1, 0.3, 0.2, 0.25, 0.1, 0.1]);
    let patient = Settings { patience: 3, ..settings(6) };
    let history = train(&mut toy_, &mut params, &patient, "toy", &FitContext::quiet(1)).unwrap();
    assert_eq!((history.epochs.len(), history.best), (5, Some(2)));
    let (mut two, mut after_two) = toy();
    train(&mut two, &mut after_two, &settings(2), "toy", &FitContext::quiet(1)).unwrap();
    assert_eq!(numbers(&params), numbers(&after_two));
    assert!(curves(&history).contains("best 0.3000 in epoch 2"));
}

#[test]
fn what_is_not_finite_ends_a_run_with_words() {
    let (mut toy, mut params) = toy();
    toy.poison = Some(1);
    let before = settings(3);
    let error = train(&mut toy, &mut params, &before, "toy", &FitContext::quiet(1)).unwrap_err().to_string();
    assert!(error.contains("the loss is NaN at step 6 (epoch 2, batch 1 of 5)"), "{error}");
    assert!(error.contains("learning_rate, now 0.05") && error.contains("clip"), "{error}");
}

#[test]
fn a_checkpoint_that_cannot_be_written_or_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let ctx = FitContext { checkpoints: Some(file.join("below")), ..FitContext::quiet(1) };
    let (mut toy_, mut params) = toy();
    let error = train(&mut toy_, &mut params, &settings(1), "toy", &ctx).unwrap_err().to_string();
    assert!(error.contains("cannot write a checkpoint"), "{error}");
    std::fs::write(folder.path().join("checkpoint.safetensors"), "rubbish").unwrap();
    let ctx =
        FitContext { checkpoints: Some(folder.path().to_owned()), resume: true, ..FitContext::quiet(1) };
    let (mut toy, mut params) = toy();
    assert!(train(&mut toy, &mut params, &settings(1), "toy", &ctx).is_err());
}
