//! The client schemas of all groups, each once, and what was made of it for the replica at hand.
//!
//! Every group has one, and nearly all have the same: an application has as many as it has releases in use. What is
//! here lives as long as a group holds it. It must not know records or queries; `T` is what groups make of a schema.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::Value;
use zql_spec::schema::Schema;

/// Schemas at which what is left of others is swept for the first time: more than an application's releases.
const MIN_SWEEP: usize = 64;

/// The schemas in use.
#[derive(Debug)]
pub(crate) struct ClientSchemas<T> {
    known: Mutex<Known<T>>,
}

#[derive(Debug)]
struct Known<T> {
    by_text: FxHashMap<Box<str>, Entry<T>>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Entry<T> {
    schema: Weak<Value>,
    /// For this schema of the replica.
    made: Option<(Weak<Schema>, Weak<T>)>,
}

impl<T> Default for ClientSchemas<T> {
    fn default() -> Self {
        ClientSchemas { known: Mutex::new(Known { by_text: FxHashMap::default(), sweep_at: MIN_SWEEP }) }
    }
}

impl<T> ClientSchemas<T> {
    /// The schema that is equal to this one and that all share.
    pub(crate) fn share(&self, schema: Value) -> Arc<Value> {
        // The same for equal schemas: members are sorted.
        let text = schema.to_string();
        let mut known = self.known.lock();
        if let Some(shared) = known.by_text.get(&*text).and_then(|entry| entry.schema.upgrade()) {
            return shared;
        }
        if known.by_text.len() >= known.sweep_at {
            known.by_text.retain(|_, entry| entry.schema.strong_count() > 0);
            known.sweep_at = MIN_SWEEP.max(known.by_text.len() * 2);
        }
        let shared = Arc::new(schema);
        let entry = Entry { schema: Arc::downgrade(&shared), made: None };
        known.by_text.insert(text.into(), entry);
        shared
    }

    /// What is made of a schema for a schema of the replica, made once for all that ask.
    pub(crate) fn made<E>(
        &self,
        schema: &Value,
        replica: &Arc<Schema>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let text = schema.to_string();
        let made = |known: &Known<T>| {
            let (of, made) = known.by_text.get(&*text)?.made.as_ref()?;
            made.upgrade().filter(|_| of.as_ptr() == Arc::as_ptr(replica))
        };
        if let Some(made) = made(&self.known.lock()) {
            return Ok(made);
        }
        // Not under the lock: others with other schemas need not wait. Who makes the same makes it for itself.
        let fresh = Arc::new(make()?);
        if let Some(entry) = self.known.lock().by_text.get_mut(&*text) {
            entry.made = Some((Arc::downgrade(replica), Arc::downgrade(&fresh)));
        }
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use zql_spec::schema::Schema;

    use super::{ClientSchemas, MIN_SWEEP};

    #[test]
    fn equal_schemas_are_one() {
        let schemas = ClientSchemas::<u32>::default();
        let one = schemas.share(json!({ "a": 1, "b": 2 }));
        assert!(Arc::ptr_eq(&one, &schemas.share(json!({ "b": 2, "a": 1 }))));
        assert!(!Arc::ptr_eq(&one, &schemas.share(json!({ "b": 2 }))));
        for number in 0..10 * MIN_SWEEP {
            schemas.share(json!(number));
        }
        assert!(schemas.known.lock().by_text.len() <= MIN_SWEEP);
        assert!(Arc::ptr_eq(&one, &schemas.share(json!({ "b": 2, "a": 1 }))));
    }

    #[test]
    fn things_are_made_once_for_a_replica() {
        let schemas = ClientSchemas::<u32>::default();
        let schema = schemas.share(json!("s"));
        let (here, there) = (Arc::<Schema>::default(), Arc::<Schema>::default());
        let make = |replica: &Arc<Schema>, value: Result<u32, ()>| schemas.made(&schema, replica, || value);
        assert_eq!(make(&here, Err(())), Err(()));
        let one = make(&here, Ok(1)).expect("made");
        assert_eq!((make(&here, Ok(2)), make(&there, Ok(3))), (Ok(Arc::clone(&one)), Ok(Arc::new(3))));
        drop(one);
        assert_eq!(make(&here, Ok(4)), Ok(Arc::new(4)), "nobody had it any more");
    }
}
