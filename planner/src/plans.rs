//! Plans that were made before, by the shape of the query.
//!
//! A plan is made once for all queries of a [`shape`], for each of their nodes and for each order of magnitude
//! of the number of keys that it is read by. What is left to do for another query are its constants. A plan is
//! made again when the sizes of its tables have changed by more than a little, or the schema.

use std::sync::Arc;
use std::time::Instant;

use engine::query::{NodeId, Query};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use zql_spec::schema::Schema;

use crate::error::Result;
use crate::plan::Rel;
use crate::shape::shape;
use crate::stats::{MAX_AGE, TableStats};

/// Shapes that are remembered. An application has some hundreds of queries; past that they are all forgotten, which
/// costs each the tens of microseconds of planning once.
const SHAPES_MAX: usize = 2_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    schema: Option<Arc<Schema>>,
    shapes: FxHashMap<Box<[u8]>, Arc<ShapePlans>>,
}

/// The plans of one shape.
#[derive(Debug)]
pub(crate) struct ShapePlans {
    /// The statistics of each node's table with which they were made.
    pub(crate) stats: Vec<Arc<TableStats>>,
    checked: Mutex<Instant>,
    /// By node: plans by the magnitude of the number of keys.
    nodes: Mutex<Vec<Vec<(u32, Arc<Rel>)>>>,
}

impl Plans {
    /// The plans for a query's shape; `stats` are the statistics of its nodes' tables as they are now.
    pub(crate) fn of(
        &self,
        query: &Query,
        schema: &Arc<Schema>,
        stats: impl FnOnce() -> Result<Vec<Arc<TableStats>>>,
    ) -> Result<Arc<ShapePlans>> {
        let shape = shape(query);
        let known = {
            let mut inner = self.inner.lock();
            if !inner.schema.as_ref().is_some_and(|known| Arc::ptr_eq(known, schema)) {
                inner.shapes.clear();
                inner.schema = Some(Arc::clone(schema));
            }
            inner.shapes.get(&shape[..]).map(Arc::clone)
        };
        let now = Instant::now();
        if let Some(known) = &known
            && now.duration_since(*known.checked.lock()) < MAX_AGE
        {
            return Ok(Arc::clone(known));
        }
        let stats = stats()?;
        if let Some(known) = known
            && known.stats.iter().zip(&stats).all(|(known, now)| Arc::ptr_eq(known, now))
        {
            *known.checked.lock() = now;
            return Ok(known);
        }
        let nodes = Mutex::new(vec![Vec::new(); query.nodes.len()]);
        let plans = Arc::new(ShapePlans { stats, checked: Mutex::new(now), nodes });
        let mut inner = self.inner.lock();
        // Another thread may read another version: its plans are not remembered.
        if inner.schema.as_ref().is_some_and(|known| Arc::ptr_eq(known, schema)) {
            if inner.shapes.len() >= SHAPES_MAX {
                inner.shapes.clear();
            }
            inner.shapes.insert(shape.into(), Arc::clone(&plans));
        }
        Ok(plans)
    }
}

impl ShapePlans {
    /// The plan of a node that is read by so many keys.
    pub(crate) fn plan(&self, node: NodeId, keys: Option<usize>, choose: impl FnOnce() -> Rel) -> Arc<Rel> {
        let magnitude = keys.map_or(0, |keys| 1 + keys.max(1).ilog2());
        let found = |nodes: &Vec<Vec<(u32, Arc<Rel>)>>| {
            nodes[node].iter().find(|(of, _)| *of == magnitude).map(|(_, plan)| Arc::clone(plan))
        };
        if let Some(plan) = found(&self.nodes.lock()) {
            return plan;
        }
        let plan = Arc::new(choose());
        let mut nodes = self.nodes.lock();
        found(&nodes).unwrap_or_else(|| {
            nodes[node].push((magnitude, Arc::clone(&plan)));
            plan
        })
    }
}
