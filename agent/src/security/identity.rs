//! Who acts: the peer of the socket, by the kernel's word, and what it may do.

use nix::unistd::{Uid, User};
use tonic::Status;
use tonic::transport::server::UdsConnectInfo;

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and changes what serves.
    Operator,
}

/// Who is at the other end of the socket, by the kernel's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The peer's user id.
    pub uid: u32,
    /// Its name in the system's user database, or `uid 1000` where it has none.
    pub name: String,
    /// What it may do: root and the agent's own user operate, anyone else who reaches the socket reads.
    pub role: Role,
}

impl Operator {
    /// The user with this id.
    pub fn of_uid(uid: u32) -> Self {
        let name = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let operates = uid == 0 || Uid::current().as_raw() == uid;
        Self {
            uid,
            name: name.map_or_else(|| format!("uid {uid}"), |user| user.name),
            role: if operates { Role::Operator } else { Role::Viewer },
        }
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

    /// Refuses those who only read.
    ///
    /// # Errors
    /// Permission denied, naming the operator and who may.
    pub fn may_operate(&self) -> Result<(), Status> {
        if self.role >= Role::Operator {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{} may look but not act; ask root or {}, whose agent this is",
            self.name,
            Self::of_uid(Uid::current().as_raw()).name
        )))
    }
}
