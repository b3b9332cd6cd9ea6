use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::revision::LiveRevision;
use super::trial::{Arm, Trial};

/// What new requests go to.
#[derive(Clone)]
pub(super) struct Route {
    /// Serves whatever nothing else is said of.
    pub stable: Arc<LiveRevision>,
    /// A revision that is tried beside it.
    pub split: Option<Split>,
}

/// A revision that is tried.
#[derive(Clone)]
pub struct Split {
    /// Which.
    pub candidate: Arc<LiveRevision>,
    /// What it gets.
    pub kind: SplitKind,
    /// Its part of the requests, 0 to 1.
    pub share: f64,
    /// Draws who goes where: the same for a whole rollout, so that who was on the candidate stays there as its share grows.
    pub salt: u64,
    /// Where the requests of both are gathered.
    pub trial: Arc<Trial>,
}

/// What a candidate gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitKind {
    /// Requests, whose answers users see.
    Canary,
    /// Copies of requests, whose answers nobody sees.
    Shadow,
}

/// Where a request would like to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preference {
    /// Whose it is: requests of one go the same way as long as a split lasts. `None` draws for each request.
    pub sticky: Option<String>,
    /// Whose turn it is: requests of one share a turn. `None` is everyone who does not say.
    pub fair: Option<String>,
    /// A tester's choice.
    pub revision: Option<RevisionWish>,
}

impl Preference {
    /// The same for requests that share a turn.
    pub fn fairness_key(&self) -> u64 {
        let Some(name) = &self.fair else { return 0 };
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        hasher.finish()
    }
}

/// Whose requests go the same way.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Stickiness {
    /// An end user's, as requests name them.
    #[default]
    User,
    /// A key's: for few users behind many keys.
    Key,
}

/// A tester's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevisionWish {
    /// What serves.
    Stable,
    /// What is tried; what serves where nothing is.
    Candidate,
    /// This one.
    Number(u32),
}

/// Where a request goes.
pub(super) struct Chosen {
    pub(super) revision: Arc<LiveRevision>,
    /// Where it is compared; a tester's choice is not, since it was not drawn.
    pub(super) observed: Option<(Arc<Trial>, Arm)>,
    /// What gets a copy.
    pub(super) shadow: Option<Split>,
}

impl Route {
    /// Where a request goes; `None` when it wants a revision that takes none.
    pub(super) fn choose(&self, preference: &Preference) -> Option<Chosen> {
        if let Some(wish) = preference.revision {
            return Some(Chosen { revision: self.wished(wish)?, observed: None, shadow: None });
        }
        let Some(split) = &self.split else {
            return Some(Chosen { revision: Arc::clone(&self.stable), observed: None, shadow: None });
        };
        let drawn = split.draws(preference.sticky.as_deref());
        let observed = |arm| Some((Arc::clone(&split.trial), arm));
        Some(match split.kind {
            SplitKind::Canary if drawn => Chosen {
                revision: Arc::clone(&split.candidate),
                observed: observed(Arm::Candidate),
                shadow: None,
            },
            SplitKind::Shadow if drawn => Chosen {
                revision: Arc::clone(&self.stable),
                observed: observed(Arm::Stable),
                shadow: Some(split.clone()),
            },
            // Only requests that were copied are compared with their copies.
            SplitKind::Shadow => Chosen { revision: Arc::clone(&self.stable), observed: None, shadow: None },
            SplitKind::Canary => {
                Chosen { revision: Arc::clone(&self.stable), observed: observed(Arm::Stable), shadow: None }
            }
        })
    }

    fn wished(&self, wish: RevisionWish) -> Option<Arc<LiveRevision>> {
        let candidate = self.split.as_ref().map(|split| &split.candidate);
        let found = match wish {
            RevisionWish::Stable => Some(&self.stable),
            RevisionWish::Candidate => candidate.or(Some(&self.stable)),
            RevisionWish::Number(number) => {
                std::iter::once(&self.stable).chain(candidate).find(|live| live.number() == number)
            }
        };
        found.cloned()
    }

    /// The share of new requests that a revision gets.
    pub(super) fn share_of(&self, number: u32) -> f64 {
        let taken = |split: &&Split| split.kind == SplitKind::Canary;
        let tried = self.split.as_ref().filter(taken);
        match tried {
            Some(split) if split.candidate.number() == number => split.share,
            Some(split) if self.stable.number() == number => 1.0 - split.share,
            None if self.stable.number() == number => 1.0,
            _ => 0.0,
        }
    }
}

impl Split {
    fn draws(&self, user: Option<&str>) -> bool {
        let point = match user {
            Some(user) => {
                let digest =
                    Sha256::new().chain_update(self.salt.to_be_bytes()).chain_update(user).finalize();
                let mut first = [0; 8];
                first.copy_from_slice(&digest[..8]);
                u64::from_be_bytes(first)
            }
            None => rand::random(),
        };
        // 53 bits make a number below 1 exactly.
        ((point >> 11) as f64 / (1u64 << 53) as f64) < self.share
    }
}
