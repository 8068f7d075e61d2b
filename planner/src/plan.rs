//! The planner's own relational plan: what is read how, before DataFusion is involved.
//!
//! A [`Rel`] is a tree of operators with the columns it gives and what it is expected to cost. It is what
//! [`crate::explain`] prints and what [`crate::physical`] turns into DataFusion operators, one for one. A plan answers one
//! node of a query, so it grows with the conditions of that node and of the EXISTS below it.

use std::sync::Arc;

use engine::query::{Filter, NodeId};
use engine::sql::Likelihoods;
use zql_spec::ast::Direction;

use crate::statement::Shapes;

/// A column of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Col {
    /// Position of a whole row in the hydration's arena.
    Row,
    /// SQLite's rowid.
    RowId,
    /// A column of the node's table.
    Column(usize),
    /// The truth of a part of the filter, found by SQLite: position in [`Leaf::truths`].
    Truth(usize),
    /// The truth of an EXISTS, found by a mark join.
    Mark(NodeId),
}

/// A statement of SQLite that gives rows of one node.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    /// The node that is read.
    pub(crate) node: NodeId,
    /// What it must satisfy; an EXISTS in it is a correlated EXISTS that probes an index.
    pub(crate) filter: Filter,
    /// Parts of the filter whose truth is wanted as a column.
    pub(crate) truths: Vec<Filter>,
    /// What must equal the key in a look-up.
    pub(crate) lookup: Probe,
    /// Whether the rows come in the node's order.
    pub(crate) order: bool,
    /// Rows wanted (per key in a look-up).
    pub(crate) limit: Option<usize>,
    /// Whether many more rows may be read than are wanted or fit well in memory: the reader then runs on a
    /// thread of its own, a bounded number of batches ahead, and stops when its batches are no longer taken.
    pub(crate) stream: bool,
    /// What SQLite is told of the constants.
    pub(crate) likelihoods: Arc<Likelihoods>,
    /// Its statements, once they were written.
    pub(crate) shapes: Shapes,
}

/// What a statement looks rows up by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Nothing: a scan.
    None,
    /// Columns of the table.
    Columns(Vec<usize>),
    /// SQLite's rowid; filter and cursor have been applied before.
    RowId,
}

/// Truth of a condition over columns of a relation.
#[derive(Clone, Debug)]
pub(crate) enum Truth {
    /// The column.
    Col(Col),
    /// Its negation.
    Not(Col),
    /// All of them.
    And(Vec<Truth>),
    /// One of them.
    Or(Vec<Truth>),
}

/// How rows and the keys of an EXISTS (or of the parents) meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Rows that have a key.
    Semi,
    /// Rows that have none.
    Anti,
    /// All rows, with a mark.
    Mark(NodeId),
}

/// An operator.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Nothing: the filter is false.
    Empty,
    /// The distinct keys of the parent rows.
    Keys,
    /// Reads a table.
    Scan(Leaf),
    /// Reads a table by the keys of its input.
    Lookup {
        /// Gives the keys.
        input: Box<Rel>,
        /// Positions of the key in the input.
        by: Vec<usize>,
        /// What is read for each.
        leaf: Leaf,
    },
    /// Joins rows with keys.
    Join {
        /// Gives the keys.
        keys: Box<Rel>,
        /// Gives the rows.
        input: Box<Rel>,
        /// Positions that must be equal, of the keys and of the rows.
        on: Vec<(usize, usize)>,
        /// What becomes of the rows.
        kind: Match,
        /// Whether the hash table is built over the rows rather than the keys.
        build_rows: bool,
    },
    /// Keeps rows for which a condition over their columns is true.
    Filter {
        /// Gives the rows.
        input: Box<Rel>,
        /// The condition.
        truth: Truth,
    },
    /// Distinct rows of these columns.
    Distinct {
        /// Gives the rows.
        input: Box<Rel>,
    },
    /// The rows of one input after the other, their columns in one order. Rows may repeat.
    Concat {
        /// Give the rows.
        inputs: Vec<Rel>,
    },
    /// Sorts.
    Sort {
        /// Gives the rows.
        input: Box<Rel>,
        /// The order.
        order: Vec<(usize, Direction)>,
        /// How many to keep.
        fetch: Option<usize>,
    },
    /// Keeps the first rows, of each key if there are keys.
    First {
        /// Gives the rows.
        input: Box<Rel>,
        /// Positions of the key.
        keys: Vec<usize>,
        /// How many to keep.
        limit: usize,
    },
}

/// A relation: an operator, its columns, and what it is expected to give and cost.
#[derive(Clone, Debug)]
pub(crate) struct Rel {
    /// The operator.
    pub(crate) op: Op,
    /// The node whose columns these are.
    pub(crate) node: NodeId,
    /// The columns.
    pub(crate) columns: Vec<Col>,
    /// Expected rows.
    pub(crate) rows: f64,
    /// Expected cost in microseconds, inputs included.
    pub(crate) cost: f64,
}

impl Rel {
    /// The position of a column.
    pub(crate) fn position(&self, column: Col) -> Option<usize> {
        self.columns.iter().position(|&other| other == column)
    }

    /// How many operators it has.
    pub(crate) fn size(&self) -> usize {
        1 + self.inputs().into_iter().map(Rel::size).sum::<usize>()
    }

    /// The inputs.
    pub(crate) fn inputs(&self) -> Vec<&Rel> {
        match &self.op {
            Op::Empty | Op::Keys | Op::Scan(_) => Vec::new(),
            Op::Lookup { input, .. } | Op::Filter { input, .. } | Op::Distinct { input } => vec![input],
            Op::Concat { inputs } => inputs.iter().collect(),
            Op::Sort { input, .. } | Op::First { input, .. } => vec![input],
            Op::Join { keys, input, .. } => vec![input, keys],
        }
    }
}
