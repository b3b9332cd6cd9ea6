//! Keys of the HTTP API: made, known again, limited, rotated, revoked. Only their digests are kept.

mod budget;
mod secret;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::Deserialize;

pub use budget::{Budget, Charge, DAY_MS, Day, Left, Limits, OverBudget};
pub use secret::Secret;

use crate::store::{KeyRow, KeyRows, SecretRow, Store, StoreError, UsageRow};
use crate::time::unix_ms;

/// Most keys of an agent.
const MOST_KEYS: usize = 10_000;
const LONGEST_NAME: usize = 64;

/// What a key may be used for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Answers: everything under `/v1`.
    Inference,
    /// `/metrics`.
    Metrics,
    /// The agent's gRPC services over TLS, with the roles that the configuration grants the key.
    Control,
}

impl Scope {
    const ALL: [Self; 3] = [Self::Inference, Self::Metrics, Self::Control];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Metrics => "metrics",
            Self::Control => "control",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// A key, whichever of its secrets is given.
pub struct Key {
    name: String,
    scopes: Vec<Scope>,
    deployments: Vec<String>,
    created_unix_ms: i64,
    /// 0 for never.
    expires_unix_ms: i64,
    last_used_unix_ms: AtomicI64,
    budget: Arc<Budget>,
}

impl Key {
    /// Whose it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may be used for this.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether it may use a deployment.
    pub fn reaches(&self, deployment: &str) -> bool {
        self.deployments.is_empty() || self.deployments.iter().any(|name| name == deployment)
    }

    /// How much it may use.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}

/// What a new key is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewKey {
    /// Whose it is.
    pub name: String,
    /// What for; inference where there is none.
    pub scopes: Vec<String>,
    /// For which deployments; all where there is none.
    pub deployments: Vec<String>,
    /// How much.
    pub limits: Limits,
    /// Unix time in milliseconds; `None` for never.
    pub expires_unix_ms: Option<i64>,
}

/// A key, for who administers it.
pub struct KeyReport {
    /// The key.
    pub key: KeyRow,
    /// Its secrets' public parts, and when each ends; 0 for with the key.
    pub secrets: Vec<(String, i64)>,
    /// Unix time in milliseconds; 0 for never since the agent started.
    pub last_used_unix_ms: i64,
    /// What it used today.
    pub today: Day,
}

/// Why a key was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its description makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The name is taken.
    #[error("there is a key {0:?} already; rotate it, revoke it, or choose another name")]
    Exists(String),
    /// There is none.
    #[error("there is no key {0:?}; `llmdeck keys list` shows those that there are")]
    Unknown(String),
    /// As many as there may be.
    #[error("there are {MOST_KEYS} keys, as many as there may be; revoke those that nobody uses")]
    TooMany,
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(#[from] std::io::Error),
}

/// A secret's digest, and what it opens.
struct Known {
    sha256: [u8; 32],
    expires_unix_ms: i64,
    key: Arc<Key>,
}

#[derive(Default)]
struct Ring {
    secrets: HashMap<String, Known>,
    keys: BTreeMap<String, Arc<Key>>,
}

/// Every key of the agent. Requests read it without a lock.
pub struct Keys {
    /// What the agent asks its own deployments with; nobody else ever has it.
    own: (Secret, Arc<Key>),
    store: Arc<Store>,
    ring: ArcSwap<Ring>,
    /// One change at a time.
    changing: Mutex<()>,
}

impl Keys {
    /// The keys that a store has.
    ///
    /// # Errors
    /// When the store cannot be read, or the system has no random numbers.
    pub fn open(store: Arc<Store>) -> Result<Self, KeyError> {
        let own = Key {
            name: "agent".into(),
            scopes: vec![Scope::Inference],
            deployments: Vec::new(),
            created_unix_ms: unix_ms(),
            expires_unix_ms: 0,
            last_used_unix_ms: AtomicI64::new(0),
            budget: Arc::new(Budget::new(Limits::default(), Day::default(), Instant::now())),
        };
        let own = (Secret::generate()?, Arc::new(own));
        let keys = Self { own, store, ring: ArcSwap::default(), changing: Mutex::new(()) };
        keys.read()?;
        Ok(keys)
    }

    /// The key that the agent asks its own deployments with.
    pub fn own_secret(&self) -> String {
        self.own.0.reveal()
    }

    /// Whose key a text is; `None` for what is no key, or is one no longer.
    pub fn find(&self, text: &str) -> Option<Arc<Key>> {
        let secret = Secret::parse(text)?;
        let (own, agent) = &self.own;
        if secret.id() == own.id() && secret.has(&own.sha256()) {
            return Some(Arc::clone(agent));
        }
        let ring = self.ring.load();
        let known = ring.secrets.get(secret.id())?;
        let now = unix_ms();
        let is_over = |expires_unix_ms: i64| expires_unix_ms != 0 && expires_unix_ms <= now;
        if !secret.has(&known.sha256) || is_over(known.expires_unix_ms) || is_over(known.key.expires_unix_ms)
        {
            return None;
        }
        known.key.last_used_unix_ms.store(now, Ordering::Relaxed);
        Some(Arc::clone(&known.key))
    }

    /// Checks a new key without making it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, new: &NewKey) -> Result<(), KeyError> {
        let NewKey { name, scopes, .. } = new;
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.@".contains(letter);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
            let what = format!("name {name:?} must have 1 to {LONGEST_NAME} letters, digits, - _ . or @");
            return Err(KeyError::Invalid(what));
        }
        if let Some(scope) = scopes.iter().find(|scope| Scope::parse(scope).is_none()) {
            let known = Scope::ALL.map(Scope::as_str).join(", ");
            return Err(KeyError::Invalid(format!("scope {scope:?} is not known; there are {known}")));
        }
        if new.expires_unix_ms.is_some_and(|at| at <= unix_ms()) {
            return Err(KeyError::Invalid("it would be over already; give a later time".into()));
        }
        let ring = self.ring.load();
        if ring.keys.contains_key(name) {
            return Err(KeyError::Exists(name.clone()));
        }
        if ring.keys.len() >= MOST_KEYS { Err(KeyError::TooMany) } else { Ok(()) }
    }

    /// Makes a key; its secret is known to the caller only.
    ///
    /// # Errors
    /// What is wrong with it, or that it could not be kept.
    pub fn create(&self, new: &NewKey) -> Result<Secret, KeyError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check(new)?;
        let secret = Secret::generate()?;
        let now = unix_ms();
        let scopes = if new.scopes.is_empty() {
            vec![Scope::Inference.as_str().to_owned()]
        } else {
            new.scopes.clone()
        };
        let key = KeyRow {
            name: new.name.clone(),
            scopes,
            deployments: new.deployments.clone(),
            requests_per_minute: new.limits.requests_per_minute.unwrap_or(0),
            tokens_per_minute: new.limits.tokens_per_minute.unwrap_or(0),
            tokens_per_day: new.limits.tokens_per_day.unwrap_or(0),
            created_unix_ms: now,
            expires_unix_ms: new.expires_unix_ms.unwrap_or(0),
        };
        self.store.add_key(&key, &row(&new.name, &secret, now))?;
        self.read()?;
        Ok(secret)
    }

    /// Gives a key another secret; the ones before are good for `grace` longer.
    ///
    /// # Errors
    /// When there is no such key, or the change could not be kept.
    pub fn rotate(&self, name: &str, grace: Duration) -> Result<Secret, KeyError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.known(name)?;
        let (secret, now) = (Secret::generate()?, unix_ms());
        let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        self.store.rotate_key(&row(name, &secret, now), now.saturating_add(grace_ms))?;
        self.read()?;
        Ok(secret)
    }

    /// Ends a key; the next request with it is refused.
    ///
    /// # Errors
    /// When there is no such key, or the change could not be kept.
    pub fn revoke(&self, name: &str) -> Result<(), KeyError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.known(name)?;
        self.store.remove_key(name)?;
        Ok(self.read()?)
    }

    /// Whether there is a key of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn known(&self, name: &str) -> Result<(), KeyError> {
        let found = self.ring.load().keys.contains_key(name);
        found.then_some(()).ok_or_else(|| KeyError::Unknown(name.to_owned()))
    }

    /// Every key, in order of name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn reports(&self) -> Result<Vec<KeyReport>, StoreError> {
        let now = unix_ms();
        let KeyRows { keys, secrets, .. } = self.store.keys(now.div_euclid(DAY_MS))?;
        let ring = self.ring.load();
        let report = |key: KeyRow| {
            let live = ring.keys.get(&key.name);
            KeyReport {
                secrets: secrets
                    .iter()
                    .filter(|secret| secret.name == key.name)
                    .map(|secret| (secret.id.clone(), secret.expires_unix_ms))
                    .collect(),
                last_used_unix_ms: live.map_or(0, |live| live.last_used_unix_ms.load(Ordering::Relaxed)),
                today: live.map_or_else(Day::default, |live| live.budget.today(now)),
                key,
            }
        };
        Ok(keys.into_iter().map(report).collect())
    }

    /// Keeps what was used, so that a budget of a day outlives the agent.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn keep_usage(&self) -> Result<(), StoreError> {
        let now = unix_ms();
        let ring = self.ring.load();
        let used = ring.keys.values().map(|key| (key, key.budget.today(now)));
        let rows: Vec<UsageRow> = used
            .filter(|(_, today)| today.requests > 0)
            .map(|(key, today)| UsageRow {
                name: key.name.clone(),
                day: today.day,
                requests: today.requests,
                tokens: today.tokens,
            })
            .collect();
        if rows.is_empty() { Ok(()) } else { self.store.keep_key_usage(&rows) }
    }

    /// Reads the ring anew; keys that stay keep their budgets.
    fn read(&self) -> Result<(), StoreError> {
        let today = unix_ms().div_euclid(DAY_MS);
        let KeyRows { keys: rows, secrets, usage } = self.store.keys(today)?;
        let before = self.ring.load();
        let mut ring = Ring::default();
        for row in rows {
            let key = before.keys.get(&row.name).filter(|key| key.created_unix_ms == row.created_unix_ms);
            let key = key.cloned().unwrap_or_else(|| {
                let used = usage.iter().find(|usage| usage.name == row.name);
                let used = used.map_or(Day { day: today, ..Day::default() }, |used| Day {
                    day: today,
                    requests: used.requests,
                    tokens: used.tokens,
                });
                Arc::new(of_row(&row, used))
            });
            ring.keys.insert(row.name, key);
        }
        for secret in secrets {
            let SecretRow { id, name, sha256, expires_unix_ms, .. } = secret;
            if let Some(key) = ring.keys.get(&name).cloned() {
                ring.secrets.insert(id, Known { sha256, expires_unix_ms, key });
            }
        }
        self.ring.store(Arc::new(ring));
        Ok(())
    }
}

fn of_row(row: &KeyRow, used: Day) -> Key {
    let limits = Limits {
        requests_per_minute: (row.requests_per_minute > 0).then_some(row.requests_per_minute),
        tokens_per_minute: (row.tokens_per_minute > 0).then_some(row.tokens_per_minute),
        tokens_per_day: (row.tokens_per_day > 0).then_some(row.tokens_per_day),
    };
    Key {
        name: row.name.clone(),
        scopes: row.scopes.iter().filter_map(|scope| Scope::parse(scope)).collect(),
        deployments: row.deployments.clone(),
        created_unix_ms: row.created_unix_ms,
        expires_unix_ms: row.expires_unix_ms,
        last_used_unix_ms: AtomicI64::new(0),
        budget: Arc::new(Budget::new(limits, used, Instant::now())),
    }
}

fn row(name: &str, secret: &Secret, now_unix_ms: i64) -> SecretRow {
    SecretRow {
        id: secret.id().to_owned(),
        name: name.to_owned(),
        sha256: secret.sha256(),
        created_unix_ms: now_unix_ms,
        expires_unix_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::{KeyError, Keys, Limits, NewKey, Scope};
    use crate::store;
    use crate::time::unix_ms;

    fn keys() -> (tempfile::TempDir, Keys) {
        let (folder, store) = store::temporary();
        (folder, Keys::open(Arc::new(store)).unwrap())
    }

    fn named(name: &str) -> NewKey {
        NewKey { name: name.into(), ..NewKey::default() }
    }

    #[test]
    fn a_key_lives_until_it_is_revoked_and_survives_the_agent() {
        let (folder, keys) = keys();
        let secret = keys.create(&named("app")).unwrap().reveal();
        let key = keys.find(&secret).unwrap();
        assert!(key.may(Scope::Inference) && !key.may(Scope::Metrics) && key.reaches("chat"));
        let path = folder.path().join("store.sqlite");
        let again = Keys::open(Arc::new(store::Store::open(&path).unwrap())).unwrap();
        assert_eq!(again.find(&secret).unwrap().name(), "app");
        let kept = std::fs::read(&path).unwrap();
        let tail = secret.rsplit('_').next().unwrap().as_bytes();
        assert!(!kept.windows(tail.len()).any(|window| window == tail), "the secret is nowhere on disk");
        keys.revoke("app").unwrap();
        assert!(keys.find(&secret).is_none());
        assert!(matches!(keys.revoke("app"), Err(KeyError::Unknown(_))));
    }

    #[test]
    fn after_a_rotation_both_secrets_share_a_budget_until_the_grace_is_over() {
        let (_folder, keys) = keys();
        let limits = Limits { requests_per_minute: Some(2), ..Limits::default() };
        let first = keys.create(&NewKey { limits, ..named("app") }).unwrap().reveal();
        let charge =
            |secret: &str| keys.find(secret).unwrap().budget().charge(1, Instant::now(), unix_ms()).map(drop);
        charge(&first).unwrap();
        let second = keys.rotate("app", Duration::from_secs(3_600)).unwrap().reveal();
        charge(&second).unwrap();
        assert!(charge(&first).is_err(), "two requests were used with either secret");
        let third = keys.rotate("app", Duration::ZERO).unwrap().reveal();
        assert!(keys.find(&first).is_none() && keys.find(&second).is_none() && keys.find(&third).is_some());
    }

    #[test]
    fn what_was_used_today_outlives_the_agent() {
        let (folder, keys) = keys();
        let limits = Limits { tokens_per_day: Some(100), ..Limits::default() };
        let secret = keys.create(&NewKey { limits, ..named("app") }).unwrap().reveal();
        keys.find(&secret).unwrap().budget().charge(80, Instant::now(), unix_ms()).unwrap().spend(80);
        keys.keep_usage().unwrap();
        let again = store::Store::open(&folder.path().join("store.sqlite")).unwrap();
        let again = Keys::open(Arc::new(again)).unwrap();
        let refused = again.find(&secret).unwrap().budget().charge(30, Instant::now(), unix_ms()).err();
        assert_eq!(refused.unwrap().what, "tokens a day");
    }

    #[test]
    fn a_key_that_makes_no_sense_is_refused_by_name() {
        let (_folder, keys) = keys();
        let refused = |new: NewKey| keys.create(&new).err().unwrap().to_string();
        assert!(refused(named("a b")).contains("\"a b\""));
        assert!(refused(NewKey { scopes: vec!["all".into()], ..named("a") }).contains("inference"));
        assert!(refused(NewKey { expires_unix_ms: Some(1), ..named("a") }).contains("over already"));
        keys.create(&named("app")).unwrap();
        assert!(refused(named("app")).contains("rotate it"));
    }
}
