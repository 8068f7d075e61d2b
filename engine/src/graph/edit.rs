//! The edits of a state that an advance has computed. Applying them cannot fail.

use super::packed::Packed;
use super::state::{Group, Members, NodeState};
use crate::query::NodeId;

#[derive(Debug)]
pub(super) enum Edit {
    /// More or fewer parents of a group that stays active.
    Parents { node: NodeId, group: Packed, change: i64 },
    /// A group that became active.
    Open { node: NodeId, group: Packed, content: Group },
    /// A group that is not active any more.
    Close { node: NodeId, group: Packed },
    /// Rows that left and came to a group that keeps all.
    Set { node: NodeId, group: Packed, remove: Vec<Packed>, insert: Vec<Packed> },
    /// Places that became free in a window, and rows with their new places.
    Window { node: NodeId, group: Packed, remove: Vec<Packed>, insert: Vec<(Packed, Packed)> },
    /// The witnesses of a group.
    Witnesses { node: NodeId, group: Packed, members: Members },
}

/// A group of a node became active (`true`) or ceased to be.
pub(crate) type Activation = (NodeId, Packed, bool);

/// Applies edits and tells which groups became active or ceased to be.
pub(super) fn apply(nodes: &mut [NodeState], edits: Vec<Edit>) -> Vec<Activation> {
    let mut activations = Vec::new();
    for edit in edits {
        match edit {
            Edit::Parents { node, group, change } => {
                if let Some(group) = nodes[node].groups.get_mut(&group) {
                    group.parents = u32::try_from(i64::from(group.parents) + change).unwrap_or(0);
                    debug_assert!(group.parents > 0, "a group without parents is closed");
                }
            }
            Edit::Open { node, group, content } => {
                activations.push((node, group.clone(), true));
                nodes[node].groups.insert(group, content);
            }
            Edit::Close { node, group } => {
                nodes[node].groups.remove(&group);
                activations.push((node, group, false));
            }
            Edit::Set { node, group, remove, insert } => {
                let Some(group) = nodes[node].groups.get_mut(&group) else { continue };
                remove.iter().for_each(|key| group.members.remove_key(key));
                insert.into_iter().for_each(|key| group.members.insert_key(key));
            }
            Edit::Window { node, group, remove, insert } => {
                let Some(group) = nodes[node].groups.get_mut(&group) else { continue };
                let Members::Window(window) = &mut group.members else { continue };
                for place in remove {
                    window.remove(&place);
                }
                window.extend(insert);
            }
            Edit::Witnesses { node, group, members } => {
                if let Some(group) = nodes[node].groups.get_mut(&group) {
                    group.members = members;
                }
            }
        }
    }
    activations
}
