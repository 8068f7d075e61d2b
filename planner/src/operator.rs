//! What our own operators have in common as DataFusion plans.
//!
//! They run in one partition, are bounded, and are never rewritten by an optimiser, because plans are
//! built in their final form.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{Partitioning, PlanProperties};

/// The properties of an operator that gives rows as it goes, in this order if there is one.
pub(crate) fn properties(schema: &SchemaRef, order: Option<LexOrdering>) -> Arc<PlanProperties> {
    let equivalences = match order {
        Some(order) => EquivalenceProperties::new_with_orderings(Arc::clone(schema), [order]),
        None => EquivalenceProperties::new(Arc::clone(schema)),
    };
    Arc::new(PlanProperties::new(
        equivalences,
        Partitioning::UnknownPartitioning(1),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

/// The parts of `ExecutionPlan` that are the same for all of our operators.
macro_rules! common_plan_methods {
    () => {
        fn name(&self) -> &str {
            Self::static_name()
        }

        fn properties(&self) -> &Arc<PlanProperties> {
            &self.properties
        }

        fn apply_expressions(
            &self,
            _apply: &mut dyn FnMut(
                &Arc<dyn datafusion::physical_plan::PhysicalExpr>,
            ) -> datafusion::common::Result<datafusion::common::tree_node::TreeNodeRecursion>,
        ) -> datafusion::common::Result<datafusion::common::tree_node::TreeNodeRecursion> {
            Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
        }

        fn replace_children(
            self: Arc<Self>,
            children: Vec<Arc<dyn ExecutionPlan>>,
            _options: datafusion::physical_plan::execution_plan::ReplaceChildrenOptions,
        ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
            self.over(children)
        }

        fn with_new_children(
            self: Arc<Self>,
            children: Vec<Arc<dyn ExecutionPlan>>,
        ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
            self.over(children)
        }
    };
}
pub(crate) use common_plan_methods;
