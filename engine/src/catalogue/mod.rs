//! The running graphs, and which of them a commit touches.

use crate::commit::Commit;
use crate::graph::{AdvanceError, Graph, QueryDelta, Read};
use crate::hydration::Hydration;

/// Names a running graph. Never used again once removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GraphId(pub u64);

/// The running graphs.
#[derive(Debug, Default)]
pub struct Catalogue {}

impl Catalogue {
    /// Adds a graph that stands at the version of the last commit.
    pub fn insert(&mut self, _graph: Graph) -> GraphId {
        unimplemented!()
    }

    /// Removes a graph.
    pub fn remove(&mut self, _id: GraphId) -> Option<Graph> {
        unimplemented!()
    }

    /// A running graph.
    pub fn get(&self, _id: GraphId) -> Option<&Graph> {
        unimplemented!()
    }

    /// Takes a commit: advances the graphs it touches and returns their deltas, empty ones left out.
    /// A graph that fails is set aside: further commits pass it by until [`Catalogue::rehydrated`] or removal.
    pub fn commit(
        &mut self,
        _commit: &Commit,
        _read: &mut dyn Read,
    ) -> Vec<(GraphId, Result<QueryDelta, AdvanceError>)> {
        unimplemented!()
    }

    /// Brings a graph that was set aside back with a hydration. If commits have come since the hydration's
    /// version, `since` is their composition and a reader at its version. The delta leads from the state in
    /// which the graph was set aside to now. On an error the graph stays aside.
    pub fn rehydrated(
        &mut self,
        _id: GraphId,
        _hydration: &Hydration,
        _since: Option<(&Commit, &mut dyn Read)>,
    ) -> Result<QueryDelta, AdvanceError> {
        unimplemented!()
    }
}
