use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llmdeck_engine::footprint::Footprint;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Memory for models on this node. Each deployment may be guaranteed a part, which no other takes even while it is not
/// used; the rest is for whoever comes first.
pub struct MemoryBudget {
    total_bytes: u64,
    guaranteed: BTreeMap<String, u64>,
    held: Mutex<Held>,
    given_back: Notify,
}

#[derive(Default)]
struct Held {
    next: u64,
    holdings: BTreeMap<u64, Holding>,
}

/// What one loaded revision holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Of which deployment.
    pub deployment: String,
    /// Its revision's number; 0 of an adapter that requests choose by name.
    pub revision: u32,
    /// Weights, cache and scratch together, or those of an adapter.
    pub bytes: u64,
}

/// A part of the budget, given back when it is dropped.
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    id: u64,
}

/// Why a revision does not fit.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Shortage {
    /// What it needs.
    pub needed: Footprint,
    /// What it may have.
    pub available_bytes: u64,
    /// Of the budget.
    pub budget_bytes: u64,
    /// Who holds the rest.
    pub holdings: Vec<Holding>,
    /// What is kept for other deployments.
    pub kept_bytes: u64,
}

impl MemoryBudget {
    /// `total_bytes` for all, of which each deployment named in `guaranteed` can count on its part.
    pub fn new(total_bytes: u64, guaranteed: BTreeMap<String, u64>) -> Self {
        Self { total_bytes, guaranteed, held: Mutex::default(), given_back: Notify::new() }
    }

    /// Bytes in all.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Bytes that a deployment can count on.
    pub fn guaranteed_bytes(&self, deployment: &str) -> u64 {
        self.guaranteed.get(deployment).copied().unwrap_or(0)
    }

    /// Who holds what, in order of name.
    pub fn holdings(&self) -> Vec<Holding> {
        let mut holdings: Vec<Holding> = self.lock().holdings.values().cloned().collect();
        holdings.sort_by(|a, b| (&a.deployment, a.revision).cmp(&(&b.deployment, b.revision)));
        holdings
    }

    /// Takes a part for a revision. `free_bytes` is what the node has besides.
    ///
    /// # Errors
    /// When it does not fit, with who holds the rest.
    pub fn reserve(
        self: &Arc<Self>,
        deployment: &str,
        revision: u32,
        needed: &Footprint,
        free_bytes: u64,
    ) -> Result<Reservation, Box<Shortage>> {
        let mut held = self.lock();
        let holdings: Vec<Holding> = held.holdings.values().cloned().collect();
        let bytes = needed.total_bytes();
        if bytes > self.available_to(deployment, &holdings).min(free_bytes) {
            return Err(Box::new(self.shortage(deployment, needed, holdings, free_bytes)));
        }
        Ok(self.hold(&mut held, Holding { deployment: deployment.to_owned(), revision, bytes }))
    }

    /// Takes a part for an adapter, which cannot be made smaller.
    ///
    /// # Errors
    /// When it does not fit, in words.
    pub fn reserve_adapter(
        self: &Arc<Self>,
        deployment: &str,
        revision: u32,
        bytes: u64,
        free_bytes: u64,
    ) -> Result<Reservation, String> {
        let mut held = self.lock();
        let holdings: Vec<Holding> = held.holdings.values().cloned().collect();
        let available = self.available_to(deployment, &holdings).min(free_bytes);
        if bytes > available {
            return Err(format!(
                "needs {} MiB and {} MiB are free of {} MiB for models; stop something, or train it with a smaller rank",
                bytes.div_ceil(1 << 20),
                available >> 20,
                self.total_bytes >> 20
            ));
        }
        Ok(self.hold(&mut held, Holding { deployment: deployment.to_owned(), revision, bytes }))
    }

    fn hold(self: &Arc<Self>, held: &mut Held, holding: Holding) -> Reservation {
        let id = held.next;
        held.next += 1;
        held.holdings.insert(id, holding);
        Reservation { budget: Arc::clone(self), id }
    }

    /// Why something does not fit beside these.
    pub(super) fn shortage(
        &self,
        deployment: &str,
        needed: &Footprint,
        holdings: Vec<Holding>,
        free_bytes: u64,
    ) -> Shortage {
        Shortage {
            needed: needed.clone(),
            available_bytes: self.available_to(deployment, &holdings).min(free_bytes),
            budget_bytes: self.total_bytes,
            kept_bytes: self.kept_for_others(deployment, &holdings),
            holdings,
        }
    }

    /// What a deployment could take where these are held: the rest, without what is kept for others.
    pub(super) fn available_to(&self, deployment: &str, holdings: &[Holding]) -> u64 {
        let held: u64 = holdings.iter().map(|holding| holding.bytes).sum();
        self.total_bytes.saturating_sub(held).saturating_sub(self.kept_for_others(deployment, holdings))
    }

    /// The parts guaranteed to others that they do not hold yet.
    fn kept_for_others(&self, deployment: &str, holdings: &[Holding]) -> u64 {
        let held = |name: &str| -> u64 {
            holdings.iter().filter(|holding| holding.deployment == name).map(|holding| holding.bytes).sum()
        };
        let others = self.guaranteed.iter().filter(|(name, _)| *name != deployment);
        others.map(|(name, guaranteed)| guaranteed.saturating_sub(held(name))).sum()
    }

    /// Ends when someone gives memory back from now on.
    pub(super) fn given_back(&self) -> Notified<'_> {
        self.given_back.notified()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.lock().holdings.remove(&self.id);
        self.budget.given_back.notify_waiters();
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let needed = &self.needed;
        write!(
            f,
            "needs {needed} and {} MiB are free of {} MiB for models",
            self.available_bytes >> 20,
            self.budget_bytes >> 20,
        )?;
        let mut separator = ": ";
        for Holding { deployment, revision, bytes } in &self.holdings {
            let who = if *revision == 0 {
                format!("an adapter of {deployment}")
            } else {
                format!("{deployment}@{revision}")
            };
            write!(f, "{separator}{who} holds {} MiB", mib(*bytes))?;
            separator = ", ";
        }
        if self.kept_bytes > 0 {
            write!(f, "{separator}{} MiB are guaranteed to other deployments", mib(self.kept_bytes))?;
        }
        match needed.fitting(self.available_bytes) {
            Some((options, fitting)) => write!(
                f,
                "; it would fit with cache_bytes = {} and max_concurrent = {} ({} tokens of context)",
                options.cache_bytes.unwrap_or(fitting.cache_bytes),
                options.max_sequences,
                fitting.context_tokens,
            ),
            None => f.write_str("; no smaller cache makes it fit: stop something, or choose a smaller model"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use llmdeck_engine::description::{
        Activation, DecoderDescription, Family, NormWeight, RopeLayout, RopeScaling,
    };
    use llmdeck_engine::engine::EngineOptions;
    use llmdeck_engine::footprint::Footprint;

    use super::MemoryBudget;

    const MIB: u64 = 1 << 20;

    fn footprint(mib: u64) -> Footprint {
        let description = DecoderDescription {
            family: Family::Llama,
            layers: 2,
            width: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            ffn_width: 128,
            vocabulary: 256,
            context: 1_024,
            norm_eps: 1e-6,
            norm_weight: NormWeight::AsIs,
            activation: Activation::Silu,
            rope: RopeLayout::Halves,
            rope_base: 10_000.0,
            rope_scaling: RopeScaling::None,
            local: None,
            qkv_bias: false,
            qk_norm: false,
            sandwich_norms: false,
            embedding_scale: 1.0,
            attention_scale: 0.25,
            tied_output: true,
        };
        let none = Footprint::new(description.clone(), 0, &EngineOptions::default()).total_bytes();
        Footprint::new(description, mib * MIB - none, &EngineOptions::default())
    }

    fn budget(total_mib: u64, guaranteed: &[(&str, u64)]) -> Arc<MemoryBudget> {
        let guaranteed: BTreeMap<String, u64> =
            guaranteed.iter().map(|(name, mib)| ((*name).to_owned(), mib * MIB)).collect();
        Arc::new(MemoryBudget::new(total_mib * MIB, guaranteed))
    }

    #[test]
    fn what_is_guaranteed_to_one_is_not_lent_to_another() {
        let budget = budget(1_000, &[("chat", 400)]);
        let first = budget.reserve("code", 1, &footprint(500), u64::MAX).unwrap();
        let refused = budget.reserve("code", 2, &footprint(200), u64::MAX).err().unwrap().to_string();
        assert!(
            refused.contains("100 MiB are free") && refused.contains("code@1 holds 500 MiB"),
            "{refused}"
        );
        assert!(refused.contains("400 MiB are guaranteed to other deployments"), "{refused}");
        let chat = budget.reserve("chat", 1, &footprint(450), u64::MAX).unwrap();
        assert!(budget.reserve("chat", 2, &footprint(100), u64::MAX).is_err());
        drop((first, chat));
        assert!(budget.holdings().is_empty());
    }

    #[test]
    fn an_adapter_takes_its_part_and_gives_it_back() {
        let budget = budget(100, &[("chat", 40)]);
        let refused = budget.reserve_adapter("code", 0, 70 * MIB, u64::MAX).err().unwrap();
        assert!(refused.contains("needs 70 MiB and 60 MiB are free of 100 MiB"), "{refused}");
        let held = budget.reserve_adapter("code", 0, 50 * MIB, u64::MAX).unwrap();
        let shortage = budget.reserve("code", 1, &footprint(20), u64::MAX).err().unwrap().to_string();
        assert!(shortage.contains("an adapter of code holds 50 MiB"), "{shortage}");
        drop(held);
        assert!(budget.reserve("code", 1, &footprint(20), u64::MAX).is_ok());
    }

    #[test]
    fn a_refusal_names_settings_that_fit() {
        let needed = footprint(500);
        let budget = budget(495, &[]);
        let refused = budget.reserve("chat", 1, &needed, u64::MAX).err().unwrap();
        let (options, fitting) = needed.fitting(495 * MIB).unwrap();
        assert!(
            refused.to_string().contains(&format!("cache_bytes = {}", options.cache_bytes.unwrap())),
            "{refused}"
        );
        assert!(budget.reserve("chat", 1, &fitting, u64::MAX).is_ok());
        let nothing = budget.reserve("chat", 1, &needed, 100 * MIB).err().unwrap().to_string();
        assert!(nothing.contains("choose a smaller model"), "{nothing}");
    }
}
