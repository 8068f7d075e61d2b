//! Plans that were made before, by the shape of the query.
//!
//! A plan is made once for all queries of a [`shape`], for each of their nodes and for each order of magnitude
//! of the number of keys that it is read by, and of the shares of rows that its constants leave. What is left to do for
//! another query are its constants. A plan is made again when statistics have changed by more than a little, or the schema.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use engine::query::{Comparison, NodeId, Place, Query};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use zql_spec::schema::Schema;

use crate::cost::each_comparison;
use crate::error::Result;
use crate::plan::Rel;
use crate::shape::shape;
use crate::stats::TableStats;

/// Shapes that are remembered. An application has some hundreds of queries; past that they are all forgotten, which
/// costs each the tens of microseconds of planning once.
const SHAPES_MAX: usize = 2_000;

/// Magnitudes of constants that are remembered for one shape: three constants of three magnitudes each.
const VARIANTS_MAX: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    schema: Option<Arc<Schema>>,
    shapes: FxHashMap<Box<[u8]>, Arc<OfShape>>,
}

/// What is known of a shape.
#[derive(Debug)]
struct OfShape {
    /// The statistics of each node's table.
    stats: Vec<Arc<TableStats>>,
    /// The statistics of the replica that they were last found to agree with.
    checked: AtomicU64,
    /// The comparisons whose constants make a difference.
    constants: Vec<(NodeId, Place)>,
    /// The plans if there is none.
    only: OnceLock<Arc<ShapePlans>>,
    variants: Mutex<Vec<(Magnitudes, Arc<ShapePlans>)>>,
}

/// Of each constant that makes a difference: the magnitude of the share of rows that it leaves.
type Magnitudes = SmallVec<[i8; 8]>;

/// Plans of a node by the magnitude of the number of its keys.
type ByMagnitude = Vec<(u32, Arc<Rel>)>;

/// The plans of one shape for constants of one magnitude.
#[derive(Debug)]
pub(crate) struct ShapePlans {
    /// The statistics of each node's table with which they are made.
    pub(crate) stats: Vec<Arc<TableStats>>,
    /// The plan of the root, which is read by no keys.
    root: OnceLock<Arc<Rel>>,
    /// By node.
    nodes: Mutex<Vec<ByMagnitude>>,
}

impl Plans {
    /// The plans for a query's shape; `stats` are those of its nodes' tables by these statistics of the replica.
    pub(crate) fn of(
        &self,
        query: &Query,
        schema: &Arc<Schema>,
        statistics: u64,
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
        if let Some(known) = &known
            && known.checked.load(Ordering::Relaxed) >= statistics
        {
            return Ok(known.plans(query));
        }
        let stats = stats()?;
        if let Some(known) = known
            && known.stats.iter().zip(&stats).all(|(known, now)| Arc::ptr_eq(known, now))
        {
            known.checked.store(statistics, Ordering::Relaxed);
            return Ok(known.plans(query));
        }
        let of_shape = Arc::new(OfShape::new(query, stats, statistics));
        let plans = of_shape.plans(query);
        let mut inner = self.inner.lock();
        // Another thread may read another version: its plans are not remembered.
        if inner.schema.as_ref().is_some_and(|known| Arc::ptr_eq(known, schema)) {
            if inner.shapes.len() >= SHAPES_MAX {
                inner.shapes.clear();
            }
            inner.shapes.insert(shape.into_vec().into(), of_shape);
        }
        Ok(plans)
    }
}

impl OfShape {
    fn new(query: &Query, stats: Vec<Arc<TableStats>>, statistics: u64) -> Self {
        let mut constants = Vec::new();
        for (id, (node, stats)) in query.nodes.iter().zip(&stats).enumerate() {
            each_comparison(&node.filter, &mut |comparison| {
                if stats.spread(comparison.column).is_some() {
                    constants.push((id, comparison.place));
                }
            });
        }
        let checked = AtomicU64::new(statistics);
        OfShape { stats, checked, constants, only: OnceLock::new(), variants: Mutex::default() }
    }

    /// The plans for a query's constants.
    fn plans(&self, query: &Query) -> Arc<ShapePlans> {
        if self.constants.is_empty() {
            return Arc::clone(self.only.get_or_init(|| Arc::new(ShapePlans::new(self.stats.clone()))));
        }
        let magnitude = |&(node, place): &(NodeId, Place)| {
            let comparison = query.comparison(place).map(|(_, comparison)| comparison);
            comparison.map_or(0, |comparison| self.magnitude(node, comparison))
        };
        let magnitudes: Magnitudes = self.constants.iter().map(magnitude).collect();
        let mut variants = self.variants.lock();
        if let Some((_, plans)) = variants.iter().find(|(of, _)| *of == magnitudes) {
            return Arc::clone(plans);
        }
        let plans = Arc::new(ShapePlans::new(self.stats.clone()));
        if variants.len() >= VARIANTS_MAX {
            variants.clear();
        }
        variants.push((magnitudes, Arc::clone(&plans)));
        plans
    }

    /// Powers of four: what differs by less is planned alike.
    fn magnitude(&self, node: NodeId, comparison: &Comparison) -> i8 {
        let stats = &self.stats[node];
        let share = stats.share_of_constant(comparison).unwrap_or(1.0);
        (share.log2() / 2.0).floor() as i8
    }
}

impl ShapePlans {
    fn new(stats: Vec<Arc<TableStats>>) -> Self {
        let nodes = Mutex::new(vec![Vec::new(); stats.len()]);
        ShapePlans { stats, root: OnceLock::new(), nodes }
    }

    /// The plan of a node that is read by so many keys; the root is read by none.
    pub(crate) fn plan(&self, node: NodeId, keys: Option<usize>, choose: impl FnOnce() -> Rel) -> Arc<Rel> {
        let Some(keys) = keys else { return Arc::clone(self.root.get_or_init(|| Arc::new(choose()))) };
        let magnitude = keys.max(1).ilog2();
        let found = |nodes: &[ByMagnitude]| {
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

#[cfg(test)]
mod tests {
    use zql_spec::ast::Ast;
    use zql_spec::json::Json;
    use zql_spec::schema::{Column, Table, ValueType};
    use zql_spec::value::Value;

    use super::*;
    use crate::spread::Spread;

    fn schema() -> Arc<Schema> {
        let column = |name: &str| Column { name: name.into(), value_type: ValueType::String, nullable: false };
        let columns = ["id", "state"].map(column).into();
        Arc::new(Schema::new([Table { name: "t".into(), columns, primary_key: vec![0], unique_keys: vec![vec![0]] }]))
    }

    fn in_state(state: &str, schema: &Schema) -> Query {
        let ast = format!(
            r#"{{"table":"t","where":{{"type":"simple","op":"=","left":{{"type":"column","name":"state"}},
                "right":{{"type":"literal","value":"{state}"}}}}}}"#
        );
        Query::resolve(&Ast::parse_lenient(&Json::parse(&ast).unwrap()).unwrap(), schema).unwrap()
    }

    fn stats(usual: u32) -> Vec<Arc<TableStats>> {
        let common = vec![(Value::string("usual"), usual)];
        let spread = Spread { rows: 1000, common, others: 10, ..Spread::default() };
        let spreads = vec![(1, Arc::new(spread))];
        vec![Arc::new(TableStats { rows: 1e6, indexes: Vec::new(), distinct: Vec::new(), spreads })]
    }

    #[test]
    fn constants_of_one_magnitude_share_plans() {
        let (plans, schema, known) = (Plans::default(), schema(), stats(990));
        let of = |state: &str, statistics: u64, stats: &[Arc<TableStats>]| {
            plans.of(&in_state(state, &schema), &schema, statistics, || Ok(stats.to_vec())).unwrap()
        };
        let (usual, rare) = (of("usual", 1, &known), of("urgent", 1, &known));
        assert!(!Arc::ptr_eq(&usual, &rare));
        assert!(Arc::ptr_eq(&rare, &of("odd", 1, &known)));
        assert!(Arc::ptr_eq(&usual, &of("usual", 1, &known)));
        // Statistics that were found to agree leave plans as they are; others do not.
        assert!(Arc::ptr_eq(&usual, &of("usual", 2, &known)));
        assert!(!Arc::ptr_eq(&usual, &of("usual", 3, &stats(500))));
    }

    #[test]
    fn magnitudes_are_bounded() {
        let (schema, stats) = (schema(), stats(990));
        let of_shape = OfShape::new(&in_state("a", &schema), stats, 0);
        let mut many = of_shape.variants.lock();
        let plans = Arc::new(ShapePlans::new(Vec::new()));
        many.extend(
            (0..VARIANTS_MAX as i8).map(|magnitude| (Magnitudes::from_elem(-64 - magnitude, 1), Arc::clone(&plans))),
        );
        drop(many);
        of_shape.plans(&in_state("usual", &schema));
        assert_eq!(of_shape.variants.lock().len(), 1);
    }
}
