use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use color_eyre::eyre::Result;

use crate::security::pki::{Written, issue_client, issue_node, make_authority};

#[derive(Debug, Subcommand)]
pub(super) enum PkiCommand {
    /// The authority itself: authority.pem, for every node and console, and authority.key, for nobody.
    Authority {
        /// A folder on a machine that you trust.
        folder: PathBuf,
    },
    /// A node's certificate, good for 397 days: node.pem and node.key.
    Node {
        /// The authority's folder.
        folder: PathBuf,
        /// Host names and addresses that consoles and clients reach it by.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// An operator's certificate, good for 90 days: NAME.pem and NAME.key.
    Client {
        /// The authority's folder.
        folder: PathBuf,
        /// An email address, or spiffe://DOMAIN/PATH; what [[access]] names under `certificates`.
        name: String,
    },
}

pub(super) fn make(command: &PkiCommand) -> Result<()> {
    let (Written { certificate, key, days }, next) = match command {
        PkiCommand::Authority { folder } => (
            make_authority(folder)?,
            "keep the key where no node can read it; the certificate goes to every node and console"
                .to_owned(),
        ),
        PkiCommand::Node { folder, names } => {
            (issue_node(folder, names)?, "name both in [tls] of the node's configuration".to_owned())
        }
        PkiCommand::Client { folder, name } => {
            (issue_client(folder, name)?, format!("grant it a role in [[access]]: certificates = [{name:?}]"))
        }
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n{}", certificate.display(), key.display())?;
    writeln!(out, "good for {days} days; {next}")?;
    Ok(())
}
