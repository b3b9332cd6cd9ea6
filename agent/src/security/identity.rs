//! Who acts: the peer of the socket, by the kernel's word.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tonic::Status;
use tonic::transport::server::UdsConnectInfo;

/// Who is at the other end of the socket, by the kernel's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The peer's user id.
    pub uid: u32,
    /// Its name in the system's user database, or `uid 1000` where it has none.
    pub name: String,
}

impl Operator {
    /// The user with this id.
    pub fn of_uid(uid: u32) -> Self {
        let name = user(uid).map_or_else(|| format!("uid {uid}"), |user| user.name);
        Self { uid, name }
    }

    /// The agent's own user.
    pub fn agent() -> Self {
        Self::of_uid(Uid::current().as_raw())
    }

    /// The peer of a gRPC request (`SO_PEERCRED`).
    ///
    /// # Errors
    /// Unauthenticated, when the connection carries no credentials.
    pub fn of_request<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        let credentials = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        let credentials = credentials.ok_or_else(|| {
            Status::unauthenticated("the connection carries no credentials; use the agent's socket")
        })?;
        Ok(Self::of_uid(credentials.uid()))
    }

    /// Whether it could change the agent's files anyway: root, and the agent's own user.
    pub fn owns_the_agent(&self) -> bool {
        self.uid == 0 || Uid::current().as_raw() == self.uid
    }

    /// Names of the groups that the system's databases put it in.
    pub fn groups(&self) -> Vec<String> {
        let Some(user) = user(self.uid) else { return Vec::new() };
        let Ok(name) = CString::new(user.name) else { return Vec::new() };
        let groups: Vec<Gid> = getgrouplist(&name, user.gid).unwrap_or_default();
        groups.into_iter().filter_map(|group| Some(Group::from_gid(group).ok()??.name)).collect()
    }
}

fn user(uid: u32) -> Option<User> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten()
}
