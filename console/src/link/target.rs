use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where an agent is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A socket on this machine.
    Unix(PathBuf),
    /// Through the system's `ssh`, which speaks to `llmdeck-agent stdio` there.
    Ssh {
        /// `user@host`, or a name of the ssh configuration.
        destination: String,
    },
    /// Over TLS, with the certificates in the user's configuration folder.
    Https {
        /// A name or an address, as the agent's certificate has it.
        host: String,
        /// Where the agent's `--grpc` listens.
        port: u16,
    },
    /// Another server without an agent, whose own metrics are read.
    Http {
        /// `http://host:port`.
        url: String,
    },
}

/// An address that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No known scheme.
    #[error(
        "address {0:?} is not understood; use unix:PATH, ssh://user@host, https://host:port, or http://host:port of a server without an agent"
    )]
    Unknown(String),
    /// Nothing behind the scheme.
    #[error("address {0:?} names no place")]
    Empty(String),
    /// It would be taken for an option of ssh.
    #[error("address {0:?}: a host name cannot begin with a dash or hold white space, / or @")]
    Host(String),
    /// Without a port that is a number.
    #[error("address {0:?} must name a port: https://host:port, as the agent's --grpc has it")]
    Port(String),
}

impl Target {
    /// The local agent's socket.
    pub fn local() -> Self {
        Self::Unix(llmdeck_proto::socket::default_socket())
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let empty =
            |rest: &str| if rest.is_empty() { Err(TargetError::Empty(text.to_owned())) } else { Ok(()) };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            empty(path)?;
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Some(destination) = text.strip_prefix("ssh://") {
            empty(destination)?;
            if destination.starts_with('-') || destination.contains(char::is_whitespace) {
                return Err(TargetError::Host(text.to_owned()));
            }
            return Ok(Self::Ssh { destination: destination.to_owned() });
        }
        if let Some(place) = text.strip_prefix("https://") {
            let place = place.trim_end_matches('/');
            empty(place)?;
            let no_port = || TargetError::Port(text.to_owned());
            let (host, port) = place.rsplit_once(':').ok_or_else(no_port)?;
            let port = port.parse().map_err(|_| no_port())?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            if host.is_empty() || host.contains(['/', '@']) || host.contains(char::is_whitespace) {
                return Err(TargetError::Host(text.to_owned()));
            }
            return Ok(Self::Https { host, port });
        }
        if let Some(place) = text.strip_prefix("http://") {
            empty(place)?;
            if place.contains(char::is_whitespace) {
                return Err(TargetError::Host(text.to_owned()));
            }
            return Ok(Self::Http { url: text.trim_end_matches('/').to_owned() });
        }
        Err(TargetError::Unknown(text.to_owned()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Ssh { destination } => write!(formatter, "ssh://{destination}"),
            Self::Http { url } => write!(formatter, "{url}"),
            Self::Https { host, port } if host.contains(':') => write!(formatter, "https://[{host}]:{port}"),
            Self::Https { host, port } => write!(formatter, "https://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Target, TargetError};

    #[test]
    fn addresses_survive_being_written_and_what_is_not_one_is_refused() {
        for text in [
            "unix:/run/llmdeck/agent.sock",
            "ssh://root@gpu-01",
            "ssh://gpu-01:2222",
            "https://gpu-01:8443",
            "https://[::1]:8443",
            "http://127.0.0.1:8000",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("gpu-01".parse::<Target>(), Err(TargetError::Unknown("gpu-01".into())));
        assert_eq!(
            "ssh://-oProxyCommand=x".parse::<Target>(),
            Err(TargetError::Host("ssh://-oProxyCommand=x".into()))
        );
        assert_eq!("https://gpu-01".parse::<Target>(), Err(TargetError::Port("https://gpu-01".into())));
        assert_eq!("unix:".parse::<Target>(), Err(TargetError::Empty("unix:".into())));
    }
}
