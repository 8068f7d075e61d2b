//! Schema changes in the stream.
//!
//! Event triggers write the published schema before and after a command into the stream. A change that
//! the replica's tables do not show (a default, a comment, an index on something unpublished) needs
//! nothing; any other means that the replica must be copied again.

use serde::Deserialize;

use crate::error::Error;
use crate::published::PublishedSchema;

/// A message of the event triggers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DdlMessage {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    schema: Option<PublishedSchema>,
    #[serde(default)]
    event: Option<DdlTag>,
}

#[derive(Debug, Deserialize)]
struct DdlTag {
    tag: String,
}

/// A published schema that a command left.
#[derive(Debug)]
pub(crate) struct SchemaChange {
    /// The command's tag.
    pub(crate) tag: String,
    /// The schema after it.
    pub(crate) schema: PublishedSchema,
}

/// Reads a message of the event triggers; `None` if it announces no schema.
pub(crate) fn parse(content: &[u8]) -> Result<Option<SchemaChange>, Error> {
    let message: DdlMessage = serde_json::from_slice(content)
        .map_err(|error| Error::ResetRequired(format!("a schema change that cannot be read: {error}")))?;
    if !matches!(message.kind.as_str(), "ddlStart" | "ddlUpdate" | "schemaSnapshot") {
        return Ok(None);
    }
    let Some(schema) = message.schema else { return Ok(None) };
    let tag = message.event.map_or_else(|| "UNKNOWN".to_owned(), |event| event.tag);
    Ok(Some(SchemaChange { tag, schema }))
}
