//! Permissions as deployed upstream: what they mean is [`zql_spec::permissions`], here is where they come from.

pub(crate) mod live;

pub(crate) use zql_spec::permissions::{Permissions, Write};
