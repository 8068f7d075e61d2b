//! How many rows of a node its conditions let through to those that are not simple, and what may go wrong with that number.
//!
//! Estimates are wrong at times. Most errors cost a factor; two cost the size of the table for every row of it or of
//! the answer, and are priced as risks.

/// What reaches the conditions that are not simple.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Rows that satisfy the simple conditions.
    pub(crate) rows: f64,
    /// What reading them costs.
    pub(crate) cost: f64,
    /// How many may reach them if the estimates are wrong.
    pub(crate) worst: f64,
    /// Whether rows are read in the node's order until there are enough, although a filter's index may find them.
    pub(crate) walks: bool,
}

impl Reach {
    /// Rows that EXISTS are to be priced for if they are probed. Without an index a probe is a scan, and a scan for each row
    /// of a table is what must not happen, however few rows are expected to be probed.
    pub(crate) fn probed(self) -> f64 {
        self.rows + (self.worst - self.rows).max(0.0) * WORST_SHARE
    }
}

/// How likely it is taken to be that all rows are probed that may be: it makes joining cheaper than scanning for each row from
/// some hundred rows on.
const WORST_SHARE: f64 = 0.02;

/// How much cheaper walking an order must seem than finding rows and sorting them: the rows that are wanted may all stand at
/// its end.
pub(crate) const WALK_RISK: f64 = 2.0;
