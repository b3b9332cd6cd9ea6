//! Who acts: the peer of the socket by the kernel's word, the name in a certificate, or a key.

use std::ffi::CString;
use std::fmt;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// A user of the node, by the kernel's word (`SO_PEERCRED`).
    User {
        /// Its user id.
        uid: u32,
        /// Its name in the system's user database, or `uid 1000` where it has none.
        name: String,
    },
    /// Whoever holds the private key of a certificate that the authority signed.
    Certificate {
        /// Its SPIFFE id, or its email address where it has none.
        name: String,
    },
    /// Whoever holds a key.
    Key {
        /// The key's name.
        name: String,
    },
}

impl Operator {
    /// The user with this id.
    pub fn of_uid(uid: u32) -> Self {
        let name = user(uid).map_or_else(|| format!("uid {uid}"), |user| user.name);
        Self::User { uid, name }
    }

    /// The agent's own user.
    pub fn agent() -> Self {
        Self::of_uid(Uid::current().as_raw())
    }

    /// Its user id, where it has one.
    pub fn uid(&self) -> Option<u32> {
        match self {
            Self::User { uid, .. } => Some(*uid),
            Self::Certificate { .. } | Self::Key { .. } => None,
        }
    }

    /// Whether it could change the agent's files anyway: root, and the agent's own user.
    pub fn owns_the_agent(&self) -> bool {
        self.uid().is_some_and(|uid| uid == 0 || Uid::current().as_raw() == uid)
    }

    /// Names of the groups that the system's databases put it in.
    pub fn groups(&self) -> Vec<String> {
        let Some(user) = self.uid().and_then(user) else { return Vec::new() };
        let Ok(name) = CString::new(user.name) else { return Vec::new() };
        let groups: Vec<Gid> = getgrouplist(&name, user.gid).unwrap_or_default();
        groups.into_iter().filter_map(|group| Some(Group::from_gid(group).ok()??.name)).collect()
    }
}

/// `alice`, `certificate:alice@example.org`, `key:ci`: no name of one kind can pass for another's.
impl fmt::Display for Operator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { name, .. } => write!(formatter, "{name}"),
            Self::Certificate { name } => write!(formatter, "certificate:{name}"),
            Self::Key { name } => write!(formatter, "key:{name}"),
        }
    }
}

fn user(uid: u32) -> Option<User> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten()
}
