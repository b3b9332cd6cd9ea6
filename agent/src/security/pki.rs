//! A private authority and certificates, for a first set-up without one.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

const AUTHORITY_DAYS: u64 = 3_650;
const NODE_DAYS: u64 = 397;
const CLIENT_DAYS: u64 = 90;
const DAY: Duration = Duration::from_secs(86_400);
/// Clocks of a fleet differ a little.
const CLOCK_SLACK: Duration = Duration::from_secs(300);

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file is in the way, or cannot be read or written.
    #[error("{path}: {source}; {remedy}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What helps.
        remedy: &'static str,
    },
    /// Not a name.
    #[error("{0:?} is no name for this: {1}")]
    Name(String, &'static str),
    /// The authority's files.
    #[error("the authority in {0}: {1}; make one with `llmdeck-agent pki authority`")]
    Authority(PathBuf, rcgen::Error),
    /// The library refused.
    #[error("the certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key, readable by its owner only.
    pub key: PathBuf,
    /// How long it is good for.
    pub days: u64,
}

/// Makes an authority: `authority.pem` and `authority.key` in a folder.
///
/// # Errors
/// When files cannot be written; nothing is overwritten.
pub fn make_authority(folder: &Path) -> Result<Written, PkiError> {
    let mut parameters = parameters("llmdeck authority", AUTHORITY_DAYS);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    write(folder, "authority", &certificate.pem(), &key, AUTHORITY_DAYS)
}

/// Makes a node's certificate: `node.pem` and `node.key`, for host names and addresses.
///
/// # Errors
/// When a name cannot be one, the authority cannot be read or files cannot be written; nothing is overwritten.
pub fn issue_node(folder: &Path, names: &[String]) -> Result<Written, PkiError> {
    let first = names.first().map_or("node", String::as_str);
    let mut parameters = parameters(first, NODE_DAYS);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        parameters.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(text(name)?),
        });
    }
    issue(folder, "node", parameters, NODE_DAYS)
}

/// Makes an operator's certificate for a SPIFFE id or an email address: `NAME.pem` and `NAME.key`.
///
/// # Errors
/// When the name cannot be one, the authority cannot be read or files cannot be written; nothing is overwritten.
pub fn issue_client(folder: &Path, name: &str) -> Result<Written, PkiError> {
    let mut parameters = parameters(name, CLIENT_DAYS);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let alternative = if name.starts_with("spiffe://") {
        SanType::URI(text(name)?)
    } else if name.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty()) {
        SanType::Rfc822Name(text(name)?)
    } else {
        return Err(PkiError::Name(name.to_owned(), "give an email address, or spiffe://DOMAIN/PATH"));
    };
    parameters.subject_alt_names.push(alternative);
    let plain =
        |letter: char| if letter.is_ascii_alphanumeric() || "-_.@".contains(letter) { letter } else { '-' };
    let stem: String = name.trim_start_matches("spiffe://").chars().map(plain).collect();
    issue(folder, &stem, parameters, CLIENT_DAYS)
}

fn text(name: &str) -> Result<Ia5String, PkiError> {
    let wrong = "it must be of ASCII letters, without spaces";
    let plain = !name.is_empty() && !name.contains(char::is_whitespace);
    let text = Ia5String::try_from(name).ok().filter(|_| plain);
    text.ok_or_else(|| PkiError::Name(name.to_owned(), wrong))
}

fn parameters(common_name: &str, days: u64) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    parameters.distinguished_name = name;
    let now = SystemTime::now();
    parameters.not_before = (now - CLOCK_SLACK).into();
    parameters.not_after = (now + DAY * u32::try_from(days).unwrap_or(u32::MAX)).into();
    parameters
}

fn issue(
    folder: &Path,
    stem: &str,
    mut parameters: CertificateParams,
    days: u64,
) -> Result<Written, PkiError> {
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.use_authority_key_identifier_extension = true;
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).map_err(|source| {
            let remedy =
                "make an authority with `llmdeck-agent pki authority`, or name the folder that it is in";
            PkiError::File { path, source, remedy }
        })
    };
    let broken = |error| PkiError::Authority(folder.to_owned(), error);
    let authority_key = KeyPair::from_pem(&read("authority.key")?).map_err(broken)?;
    let authority = Issuer::from_ca_cert_pem(&read("authority.pem")?, authority_key).map_err(broken)?;
    let key = KeyPair::generate()?;
    let certificate = parameters.signed_by(&key, &authority)?;
    write(folder, stem, &certificate.pem(), &key, days)
}

fn write(
    folder: &Path,
    stem: &str,
    certificate: &str,
    key: &KeyPair,
    days: u64,
) -> Result<Written, PkiError> {
    let path = |extension: &str| folder.join(format!("{stem}.{extension}"));
    let (certificate_path, key_path) = (path("pem"), path("key"));
    let remedy = "nothing was overwritten; choose a folder that you may write, or move the file away";
    let fail = |path: &Path, source| PkiError::File { path: path.to_owned(), source, remedy };
    std::fs::create_dir_all(folder).map_err(|source| fail(folder, source))?;
    for (path, text, mode) in
        [(&key_path, key.serialize_pem().as_str(), 0o600), (&certificate_path, certificate, 0o644)]
    {
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let written =
            file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|source| fail(path, source))?;
    }
    Ok(Written { certificate: certificate_path, key: key_path, days })
}
