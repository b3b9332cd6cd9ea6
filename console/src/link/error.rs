use std::error::Error;

use tonic::{Code, Status};

/// Why an agent did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// It refuses: not allowed, or the state has moved on.
    #[error("refused: {0}")]
    Refused(String),
    /// The request makes no sense to it.
    #[error("{0}")]
    Wrong(String),
    /// It tried and failed.
    #[error("{0}")]
    Failed(String),
}

impl LinkError {
    /// Exit code of a command that ends with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Wrong(_) => 2,
            Self::Refused(_) => 3,
            Self::Unreachable(_) => 4,
        }
    }
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::ResourceExhausted => Self::Refused(status.message().to_owned()),
            Code::Unimplemented if status.message().is_empty() => Self::Wrong(
                "what answers there cannot do this: it is a server without an agent, which can only be looked at, or an older agent".into(),
            ),
            Code::InvalidArgument | Code::NotFound | Code::Unimplemented => {
                Self::Wrong(status.message().to_owned())
            }
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => {
                Self::Unreachable(innermost(&status))
            }
            // How a broken connection shows when it breaks in the middle of an answer.
            Code::Unknown if status.source().is_some() => Self::Unreachable(innermost(&status)),
            _ => Self::Failed(status.message().to_owned()),
        }
    }
}

/// The transport wraps the operating system's words several times; the innermost are the ones that help.
fn innermost(status: &Status) -> String {
    let mut words = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        words = error.to_string();
        source = error.source();
    }
    if words.is_empty() { "the connection broke".into() } else { words }
}
