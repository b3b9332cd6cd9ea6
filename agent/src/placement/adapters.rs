use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use llmdeck_engine::adapter::Adapter;
use llmdeck_engine::model::Model;

use super::budget::Reservation;

/// Adapters that are kept ready beside those of revisions; the one that was not asked for longest goes first.
const MOST_KEPT: usize = 16;
/// How long a name is taken to mean what it meant.
const NAME_HOLDS: Duration = Duration::from_secs(1);

/// Adapters that requests choose by name, loaded when they are first asked for.
#[derive(Default)]
pub(super) struct Adapters {
    /// The last used is last.
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    name: String,
    named: Instant,
    digest: String,
    model: Weak<Model>,
    adapter: Arc<Adapter>,
    /// Given back when it goes; a request under way may hold it a moment longer.
    _reservation: Reservation,
}

impl Adapters {
    /// What a name meant a moment ago, for a model.
    pub(super) fn by_name(&self, name: &str, model: &Arc<Model>) -> Option<Arc<Adapter>> {
        self.take(model, |kept| kept.name == name && kept.named.elapsed() < NAME_HOLDS, |_| {})
    }

    /// One that a name means again, for a model.
    pub(super) fn by_digest(&self, name: &str, digest: &str, model: &Arc<Model>) -> Option<Arc<Adapter>> {
        let named_again = |kept: &mut Kept| {
            name.clone_into(&mut kept.name);
            kept.named = Instant::now();
        };
        self.take(model, |kept| kept.digest == digest, named_again)
    }

    fn take(
        &self,
        model: &Arc<Model>,
        is_it: impl Fn(&Kept) -> bool,
        change: impl FnOnce(&mut Kept),
    ) -> Option<Arc<Adapter>> {
        let mut kept = self.lock();
        let model = Arc::downgrade(model);
        let found = kept.iter().position(|known| Weak::ptr_eq(&known.model, &model) && is_it(known))?;
        let mut used = kept.remove(found);
        change(&mut used);
        let adapter = Arc::clone(&used.adapter);
        kept.push(used);
        Some(adapter)
    }

    /// Forgets those of models that are gone, and the one that was not asked for longest.
    ///
    /// Whether there was one.
    pub(super) fn give_way(&self) -> bool {
        let mut kept = self.lock();
        let before = kept.len();
        kept.retain(|known| known.model.strong_count() > 0);
        if kept.len() == before && before > 0 {
            kept.remove(0);
        }
        before > 0
    }

    /// Keeps one; those of models that are gone go with them.
    pub(super) fn keep(
        &self,
        name: &str,
        digest: &str,
        model: &Arc<Model>,
        adapter: &Arc<Adapter>,
        reservation: Reservation,
    ) {
        let mut kept = self.lock();
        kept.retain(|known| known.model.strong_count() > 0);
        if kept.len() == MOST_KEPT {
            kept.remove(0);
        }
        kept.push(Kept {
            name: name.to_owned(),
            named: Instant::now(),
            digest: digest.to_owned(),
            model: Arc::downgrade(model),
            adapter: Arc::clone(adapter),
            _reservation: reservation,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
