//! The tape: it runs coarse operations forwards, remembers them, and runs them backwards.
//!
//! An operation is one file in `op/` or `loss/`: a method on [`Tape`] that computes its output and leaves a [`Backward`]
//! behind, which turns the gradient of the output into gradients of the inputs. Everything on a tape is a dense `f32`
//! matrix; ragged batches are matrices with a [`Ragged`](crate::Ragged) beside them. A tape runs on one thread: a batch is
//! dealt to several tapes, and their gradients are added in order (see `train/`).
//!
//! These methods are the seam behind which another engine can stand: all numbers go through them, models see only [`Var`]s.

use crate::params::{ParamId, Params, TableId};
use crate::table::RowGrads;
use sommelier_core::Rng;

/// A dense row-major matrix.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tensor {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f32>,
}

impl Tensor {
    /// Panics if the data are not `rows × cols`.
    pub fn new(rows: usize, cols: usize, data: Vec<f32>) -> Tensor {
        assert_eq!(rows * cols, data.len(), "{rows} × {cols} numbers");
        Tensor { rows, cols, data }
    }

    #[inline]
    pub fn row(&self, r: usize) -> &[f32] {
        &self.data[r * self.cols..][..self.cols]
    }
}

/// Something on a tape: a parameter of the model, or what an operation made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Var {
    Param(ParamId),
    Node(usize),
}

impl From<ParamId> for Var {
    fn from(id: ParamId) -> Var {
        Var::Param(id)
    }
}

/// The way back through one operation.
pub trait Backward: Send {
    /// Adds to the gradients of the inputs. `y` is what the operation made and `dy` its gradient, which may be used up.
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads);
}

/// Values of everything on a tape.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    params: &'a Params,
    nodes: &'a [Tensor],
}

impl<'a> Values<'a> {
    pub fn data(&self, var: impl Into<Var>) -> &'a [f32] {
        match var.into() {
            Var::Param(id) => &self.params.get(id).value,
            Var::Node(n) => &self.nodes[n].data,
        }
    }

    /// Rows and columns.
    pub fn shape(&self, var: impl Into<Var>) -> (usize, usize) {
        match var.into() {
            Var::Param(id) => (self.params.get(id).rows, self.params.get(id).cols),
            Var::Node(n) => (self.nodes[n].rows, self.nodes[n].cols),
        }
    }

    pub fn params(&self) -> &'a Params {
        self.params
    }
}

/// Memory that is used again from step to step: a fresh page costs more than the arithmetic on it.
#[derive(Debug, Default)]
pub struct Workspace {
    free: Vec<Vec<f32>>,
}

impl Workspace {
    /// `len` numbers with anything in them.
    pub(crate) fn take(&mut self, len: usize) -> Vec<f32> {
        let fits = |v: &Vec<f32>| v.capacity() >= len;
        let best =
            (0..self.free.len()).filter(|&i| fits(&self.free[i])).min_by_key(|&i| self.free[i].capacity());
        let mut v = best.map_or_else(Vec::new, |i| self.free.swap_remove(i));
        v.resize(len, 0.0);
        v
    }

    pub(crate) fn zeroed(&mut self, len: usize) -> Vec<f32> {
        let mut v = self.take(len);
        v.fill(0.0);
        v
    }

    pub(crate) fn give(&mut self, v: Vec<f32>) {
        if v.capacity() > 0 {
            self.free.push(v);
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.free.iter().map(|v| v.capacity() * 4).sum()
    }
}

/// Gradients of a model's parameters, of one tape or summed over many.
#[derive(Debug, Default)]
pub struct ParamGrads {
    /// One for each dense parameter; empty where nothing has touched it.
    pub(crate) dense: Vec<Vec<f32>>,
    pub(crate) touched: Vec<bool>,
    pub(crate) tables: Vec<RowGrads>,
}

impl ParamGrads {
    /// No gradient of anything. Keeps the memory.
    pub fn clear(&mut self, params: &Params) {
        self.dense.resize_with(params.dense.len(), Vec::new);
        self.touched.clear();
        self.touched.resize(params.dense.len(), false);
        self.tables.resize_with(params.tables.len(), RowGrads::default);
        for (rows, table) in self.tables.iter_mut().zip(&params.tables) {
            rows.clear(table.dim());
        }
    }

    /// The gradient of a dense parameter; `None` where nothing has touched it.
    pub fn dense(&self, id: ParamId) -> Option<&[f32]> {
        self.touched[id.0].then(|| &self.dense[id.0][..])
    }

    pub fn table(&self, id: TableId) -> &RowGrads {
        &self.tables[id.0]
    }
}

/// Gradients of everything on a tape while it runs backwards.
pub struct Grads<'a> {
    nodes: Vec<Option<Vec<f32>>>,
    wanted: &'a [bool],
    params: &'a Params,
    of_params: &'a mut ParamGrads,
    pub(crate) workspace: &'a mut Workspace,
    lengths: &'a [usize],
}

impl Grads<'_> {
    /// Whether anybody will look at the gradient of `var`.
    pub fn wants(&self, var: impl Into<Var>) -> bool {
        match var.into() {
            Var::Param(_) => true,
            Var::Node(n) => self.wanted[n],
        }
    }

    /// Where the gradient of `var` is gathered, and what to multiply it with before adding: 0 if nobody has written there
    /// yet and it may hold anything, else 1.
    pub fn slot(&mut self, var: impl Into<Var>) -> (&mut [f32], f32) {
        match var.into() {
            Var::Param(ParamId(p)) => {
                let dense = &mut self.of_params.dense[p];
                dense.resize(self.params.dense[p].value.len(), 0.0);
                let beta = f32::from(u8::from(self.of_params.touched[p]));
                self.of_params.touched[p] = true;
                (dense, beta)
            }
            Var::Node(n) => {
                let fresh = self.nodes[n].is_none();
                let len = self.lengths[n];
                let slot = self.nodes[n].get_or_insert_with(|| self.workspace.take(len));
                (slot, if fresh { 0.0 } else { 1.0 })
            }
        }
    }

    /// As [`Self::slot`], with zeros where nobody has written: for operations that scatter.
    pub fn sum(&mut self, var: impl Into<Var>) -> &mut [f32] {
        let (slot, beta) = self.slot(var);
        if beta == 0.0 {
            slot.fill(0.0);
        }
        slot
    }

    /// Adds to the gradient of `var`.
    pub fn add(&mut self, var: impl Into<Var>, gradient: &[f32]) {
        let (slot, beta) = self.slot(var);
        if beta == 0.0 {
            slot.copy_from_slice(gradient);
        } else {
            crate::kernel::axpy(1.0, gradient, slot);
        }
    }

    pub fn table(&mut self, id: TableId) -> &mut RowGrads {
        &mut self.of_params.tables[id.0]
    }
}

struct Step {
    way_back: Box<dyn Backward>,
    node: usize,
}

/// See the module's description.
pub struct Tape<'m> {
    params: &'m Params,
    nodes: Vec<Tensor>,
    wanted: Vec<bool>,
    steps: Vec<Step>,
    /// `None` when only answering: nothing is dropped out and nothing remembered.
    training: Option<Rng>,
    /// Whether numbers are dropped out in training.
    drops: bool,
    workspace: Workspace,
}

impl<'m> Tape<'m> {
    /// A tape to learn on; `rng` decides what is dropped out.
    pub fn training(params: &'m Params, rng: Rng, workspace: Workspace) -> Tape<'m> {
        Tape { training: Some(rng), ..Tape::answering(params, workspace) }
    }

    /// A tape that only runs forwards.
    pub fn answering(params: &'m Params, workspace: Workspace) -> Tape<'m> {
        let (nodes, wanted, steps) = (Vec::new(), Vec::new(), Vec::new());
        Tape { params, nodes, wanted, steps, training: None, drops: true, workspace }
    }

    /// From here on nothing is dropped out, whatever operations say.
    pub fn drop_nothing(&mut self) {
        self.drops = false;
    }

    pub fn is_training(&self) -> bool {
        self.training.is_some()
    }

    pub fn params(&self) -> &'m Params {
        self.params
    }

    pub fn values(&self) -> Values<'_> {
        Values { params: self.params, nodes: &self.nodes }
    }

    pub fn data(&self, var: impl Into<Var>) -> &[f32] {
        self.values().data(var)
    }

    /// Rows and columns.
    pub fn shape(&self, var: impl Into<Var>) -> (usize, usize) {
        self.values().shape(var)
    }

    /// Numbers that are given, not learned.
    pub fn constant(&mut self, tensor: Tensor) -> Var {
        self.nodes.push(tensor);
        self.wanted.push(false);
        Var::Node(self.nodes.len() - 1)
    }

    /// `len` numbers to be filled, from the workspace.
    pub(crate) fn take(&mut self, len: usize) -> Vec<f32> {
        self.workspace.take(len)
    }

    pub(crate) fn zeroed(&mut self, len: usize) -> Vec<f32> {
        self.workspace.zeroed(len)
    }

    pub(crate) fn give(&mut self, v: Vec<f32>) {
        self.workspace.give(v);
    }

    /// Dropout with probability `p` for one operation; `None` where nothing is to be dropped.
    pub(crate) fn dropout(&mut self, p: f32) -> Option<crate::kernel::Dropout> {
        let rng = self.training.as_mut()?;
        (self.drops && p > 0.0).then(|| crate::kernel::Dropout::new(p, rng.next_u64() as u32))
    }

    /// Whether the gradient of `var` will be asked for.
    pub(crate) fn wants(&self, var: impl Into<Var>) -> bool {
        self.training.is_some()
            && match var.into() {
                Var::Param(_) => true,
                Var::Node(n) => self.wanted[n],
            }
    }

    /// Puts what an operation made on the tape, with its way back where one is needed.
    pub(crate) fn push(
        &mut self,
        value: Tensor,
        wanted: bool,
        way_back: impl FnOnce() -> Box<dyn Backward>,
    ) -> Var {
        let node = self.nodes.len();
        let wanted = wanted && self.training.is_some();
        self.nodes.push(value);
        self.wanted.push(wanted);
        if wanted {
            self.steps.push(Step { way_back: way_back(), node });
        }
        Var::Node(node)
    }

    /// Runs backwards from a 1 × 1 loss and adds the gradients of all parameters to `grads`. Values of nodes are gone after it.
    pub fn backward(&mut self, loss: Var, grads: &mut ParamGrads) {
        self.backward_from(loss, &[1.0], grads);
    }

    /// Runs backwards from any node, given its gradient.
    pub fn backward_from(&mut self, from: Var, gradient: &[f32], grads: &mut ParamGrads) {
        let Var::Node(start) = from else { return };
        let mut seed = self.workspace.take(gradient.len());
        seed.copy_from_slice(gradient);
        let mut nodes: Vec<Option<Vec<f32>>> = vec![None; self.nodes.len()];
        nodes[start] = Some(seed);
        let lengths: Vec<usize> = self.nodes.iter().map(|t| t.data.len()).collect();
        let mut at = Grads {
            nodes,
            wanted: &self.wanted,
            params: self.params,
            of_params: grads,
            workspace: &mut self.workspace,
            lengths: &lengths,
        };
        while let Some(Step { way_back, node }) = self.steps.pop() {
            if let Some(mut dy) = at.nodes[node].take() {
                let values = Values { params: self.params, nodes: &self.nodes };
                way_back.backward(&values.nodes[node], &mut dy, &values, &mut at);
                at.workspace.give(dy);
            }
            // Whoever read this node has gone back already: nobody will look at it again.
            at.workspace.give(std::mem::take(&mut self.nodes[node].data));
        }
        let left = std::mem::take(&mut at.nodes);
        left.into_iter().flatten().for_each(|v| self.workspace.give(v));
    }

    /// Ends the tape and gives its memory back.
    pub fn finish(mut self) -> Workspace {
        for tensor in self.nodes.drain(..) {
            self.workspace.give(tensor.data);
        }
        self.workspace
    }
}
