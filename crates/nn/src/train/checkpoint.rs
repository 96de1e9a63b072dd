//! A run on disk: `checkpoint.safetensors` (weights, state of the optimiser, best weights; where it stands as text beside them),
//! `training.jsonl` and `training.svg`. Each file appears whole or not at all. Arrays are written from where they lie and read from
//! the mapped file, so that a checkpoint needs no memory of its own, however large the tables.

use super::{Kept, State, curves};
use crate::LoadError;
use crate::optim::Optimiser;
use crate::params::Params;
use crate::weights::{Mapped, Outgoing};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub struct Checkpoint {
    folder: PathBuf,
}

const FILE: &str = "checkpoint.safetensors";

impl Checkpoint {
    pub fn in_folder(folder: &Path) -> Checkpoint {
        Checkpoint { folder: folder.to_owned() }
    }

    pub fn write(
        &self,
        state: &State,
        params: &Params,
        optimiser: &Optimiser,
        best: Option<&Kept>,
    ) -> Result<(), String> {
        let mut all = Outgoing::default();
        for (p, param) in params.dense.iter().enumerate() {
            let parts = [
                ("dense", Some(&param.value[..])),
                ("first", Some(optimiser.first.get(p).map_or(&[][..], |v| v))),
                ("second", Some(optimiser.second.get(p).map_or(&[][..], |v| v))),
                ("best", best.map(|best| &best.dense[p][..])),
            ];
            for (part, data) in parts.into_iter().filter_map(|(part, data)| Some((part, data?))) {
                all.f32(&format!("{part}/{}", param.name), &[data.len()], data);
            }
        }
        for (t, table) in params.tables.iter().enumerate() {
            table.put_all(&mut all);
            if let Some(best) = best {
                let rows = &best.rows[t];
                all.f32(&format!("best/{}/rows", table.name()), &[rows.len()], rows);
            }
        }
        all.u64("steps", &[1], vec![optimiser.steps].into());
        let note = serde_json::to_string(state).map_err(|e| e.to_string())?;
        let fail = |e: io::Error| format!("cannot write a checkpoint to {}: {e}", self.folder.display());
        fs::create_dir_all(&self.folder).map_err(fail)?;
        replace(&self.folder.join(FILE), |path| all.write(path, &note)).map_err(fail)?;
        let log = state.history.to_json_lines();
        replace(&self.folder.join("training.jsonl"), |path| fs::write(path, &log)).map_err(fail)?;
        let svg = curves(&state.history);
        replace(&self.folder.join("training.svg"), |path| fs::write(path, &svg)).map_err(fail)
    }

    /// Puts what was kept of the same run into `params` and `optimiser`; `None` where there is nothing.
    pub fn read(
        &self,
        identity: &str,
        params: &mut Params,
        optimiser: &mut Optimiser,
    ) -> Result<Option<(State, Option<Kept>)>, String> {
        let path = self.folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let all = Mapped::open(&path).map_err(|e| e.to_string())?;
        let broken = |what: String| {
            format!(
                "{} cannot be gone on from: {what}; train without --resume to begin again",
                path.display()
            )
        };
        let note = all.note.as_ref().ok_or_else(|| broken("it does not say where it stands".into()))?;
        let state: State = serde_json::from_str(note).map_err(|e| broken(e.to_string()))?;
        if state.identity != identity {
            return Err(broken(difference(&state.identity, identity)));
        }
        let mut kept = Kept::default();
        let mut put = || -> Result<(), LoadError> {
            optimiser.first.clear();
            optimiser.second.clear();
            for param in &mut params.dense {
                let get =
                    |part: &str| all.f32(&format!("{part}/{}", param.name)).map(|(_, data)| data.to_vec());
                let value = get("dense")?;
                if value.len() != param.value.len() {
                    let (expected, received) = (vec![param.value.len()], vec![value.len()]);
                    return Err(LoadError::Shape { name: param.name.clone(), expected, received });
                }
                optimiser.first.push(get("first")?);
                optimiser.second.push(get("second")?);
                if state.best.is_some() {
                    kept.dense.push(get("best")?);
                }
                param.value = value;
            }
            for table in &mut params.tables {
                table.take_all(&all)?;
                if state.best.is_some() {
                    kept.rows.push(all.f32(&format!("best/{}/rows", table.name()))?.1.to_vec());
                }
            }
            optimiser.steps = all.u64("steps")?.1.first().copied().unwrap_or(0);
            Ok(())
        };
        put().map_err(|e| broken(e.to_string()))?;
        let best = state.best.is_some().then_some(kept);
        Ok(Some((state, best)))
    }
}

/// The first line in which two identities differ, in words.
fn difference(was: &str, is: &str) -> String {
    let lines = was.lines().zip(is.lines()).find(|(a, b)| a != b);
    match lines {
        Some((a, b)) => format!("it belongs to another run ({a:?}, now {b:?})"),
        None => "it belongs to another run".to_owned(),
    }
}

/// Writes beside the place, makes it durable, then moves it there.
fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    write(&beside)?;
    File::open(&beside)?.sync_all()?;
    fs::rename(&beside, path)?;
    if let Some(folder) = path.parent() {
        // The rename itself; not every file system lets a folder be synced.
        let _ = File::open(folder).and_then(|f| f.sync_all());
    }
    Ok(())
}
