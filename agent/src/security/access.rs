//! Who may do what: a rule for every call, and the roles that the configuration grants.

use serde::Deserialize;
use tonic::Status;

use super::identity::Operator;

/// What a caller may do.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads, and changes what serves.
    Operator,
    /// Everything.
    Admin,
}

/// Some callers' role, everywhere or for some deployments.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Which role.
    pub role: Role,
    /// Names of users.
    #[serde(default)]
    pub users: Vec<String>,
    /// Names of groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Names in certificates: a SPIFFE id or an email address.
    #[serde(default)]
    pub certificates: Vec<String>,
    /// Names of keys.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Only for these; for all, and for the node, where it is absent.
    pub deployments: Option<Vec<String>>,
}

impl Grant {
    /// Whether it names anybody.
    pub fn is_empty(&self) -> bool {
        let Self { users, groups, certificates, keys, .. } = self;
        [users, groups, certificates, keys].iter().all(|names| names.is_empty())
    }

    fn names(&self, operator: &Operator, groups: &[String]) -> bool {
        match operator {
            Operator::User { name, .. } => {
                self.users.contains(name) || self.groups.iter().any(|group| groups.contains(group))
            }
            Operator::Certificate { name } => self.certificates.contains(name),
            Operator::Key { name } => self.keys.contains(name),
        }
    }
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// The whole node, or what every viewer sees.
    Node,
    /// One deployment.
    Deployment(&'a str),
}

/// The least role for every call. A call that is not here is refused to everyone.
pub const RULES: [(&str, Role); 35] = [
    ("Telemetry/Watch", Role::Viewer),
    ("Telemetry/History", Role::Viewer),
    ("Control/Deploy", Role::Operator),
    ("Control/Rollback", Role::Operator),
    ("Control/Stop", Role::Operator),
    ("Control/AbortRollout", Role::Operator),
    ("Control/PauseRollout", Role::Operator),
    ("Control/ResumeRollout", Role::Operator),
    ("Control/PromoteRollout", Role::Operator),
    ("Control/GetRollout", Role::Viewer),
    ("Control/ListRollouts", Role::Viewer),
    ("Registry/ListArtifacts", Role::Viewer),
    ("Registry/AddArtifact", Role::Operator),
    ("Registry/DeriveDataset", Role::Operator),
    ("Registry/MergeAdapter", Role::Operator),
    ("Registry/GovernDataset", Role::Operator),
    ("Registry/GetDataset", Role::Viewer),
    ("Registry/TagArtifact", Role::Operator),
    ("Registry/RemoveArtifact", Role::Operator),
    ("Registry/CollectGarbage", Role::Operator),
    ("Registry/VerifyArtifacts", Role::Viewer),
    ("Jobs/Evaluate", Role::Operator),
    ("Jobs/Bench", Role::Operator),
    ("Jobs/BenchNode", Role::Operator),
    ("Jobs/Finetune", Role::Operator),
    ("Jobs/HoldJob", Role::Operator),
    ("Jobs/GetJob", Role::Viewer),
    ("Jobs/CancelJob", Role::Operator),
    ("Jobs/ListJobs", Role::Viewer),
    ("Audit/ListRecords", Role::Operator),
    ("Inspect/ListRequests", Role::Viewer),
    ("Keys/ListKeys", Role::Admin),
    ("Keys/CreateKey", Role::Admin),
    ("Keys/RotateKey", Role::Admin),
    ("Keys/RevokeKey", Role::Admin),
];

/// The roles of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    grants: Vec<Grant>,
}

impl Access {
    /// With these grants. Without any, whoever reaches the socket may look; certificates and keys always need one. Root and
    /// the agent's own user, who could change its files anyway, may do everything. With some, who is granted nothing is
    /// refused everything.
    pub fn new(grants: Vec<Grant>) -> Self {
        Self { grants }
    }

    /// The role of a caller.
    pub fn role(&self, operator: &Operator, subject: Subject<'_>) -> Option<Role> {
        if operator.owns_the_agent() {
            return Some(Role::Admin);
        }
        if self.grants.is_empty() {
            return operator.uid().map(|_| Role::Viewer);
        }
        let groups = operator.groups();
        let of_caller = self.grants.iter().filter(|grant| grant.names(operator, &groups));
        let role = |grant: &Grant| match (&grant.deployments, subject) {
            (None, _) => Some(grant.role),
            (Some(names), Subject::Deployment(name)) if names.iter().any(|other| other == name) => {
                Some(grant.role)
            }
            // Whoever has a part in the node may look at it.
            (Some(_), _) => Some(Role::Viewer),
        };
        of_caller.filter_map(role).max()
    }

    /// Whether a caller may make a call.
    ///
    /// # Errors
    /// Permission denied. Who has no role at all learns nothing but that.
    pub fn check(&self, operator: &Operator, call: &str, subject: Subject<'_>) -> Result<(), Status> {
        let Some(role) = self.role(operator, subject) else {
            return Err(Status::permission_denied("refused"));
        };
        let rule = RULES.iter().find(|(name, _)| *name == call);
        if rule.is_some_and(|(_, least)| role >= *least) {
            return Ok(());
        }
        let owner = match Operator::agent() {
            Operator::User { uid: 0, .. } => "root".to_owned(),
            other => format!("root or {other}"),
        };
        Err(Status::permission_denied(format!(
            "{operator} may not do this; ask {owner}, whose agent this is, or for a higher role in its configuration"
        )))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::{Access, Grant, Operator, RULES, Role, Subject};

    fn every_call() -> Vec<String> {
        let set = FileDescriptorSet::decode(llmdeck_proto::FILE_DESCRIPTORS).unwrap();
        let services =
            set.file.iter().filter(|file| file.package() == "llmdeck.v1").flat_map(|file| &file.service);
        services
            .flat_map(|service| {
                service.method.iter().map(|method| format!("{}/{}", service.name(), method.name()))
            })
            .collect()
    }

    #[test]
    fn every_call_has_a_rule_and_every_rule_a_call() {
        let (mut calls, mut rules) = (every_call(), RULES.map(|(name, _)| name.to_owned()).to_vec());
        calls.sort();
        rules.sort();
        assert_eq!(calls, rules);
    }

    fn someone(name: &str) -> Operator {
        Operator::User { uid: 4_000_000, name: name.into() }
    }

    fn grant(role: Role, user: &str, deployments: Option<&[&str]>) -> Grant {
        let deployments = deployments.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let (groups, certificates, keys) = Default::default();
        Grant { role, users: vec![user.into()], groups, certificates, keys, deployments }
    }

    /// Every call as every role: what a role may is what the rules say, and no more for another deployment.
    #[test]
    fn every_call_as_every_role() {
        let access = Access::new(vec![
            grant(Role::Viewer, "viewer", None),
            grant(Role::Operator, "operator", None),
            grant(Role::Admin, "admin", None),
            grant(Role::Operator, "chats", Some(&["chat"])),
        ]);
        for (call, least) in RULES {
            let may = |name: &str, subject| access.check(&someone(name), call, subject).is_ok();
            for subject in [Subject::Node, Subject::Deployment("chat"), Subject::Deployment("other")] {
                assert_eq!(may("viewer", subject), least <= Role::Viewer, "{call}");
                assert_eq!(may("operator", subject), least <= Role::Operator, "{call}");
                assert!(may("admin", subject), "{call}");
                let refused = access.check(&someone("stranger"), call, subject).unwrap_err();
                assert_eq!(refused.message(), "refused");
                let here = if subject == Subject::Deployment("chat") { Role::Operator } else { Role::Viewer };
                assert_eq!(may("chats", subject), least <= here, "{call}");
            }
        }
        assert!(access.check(&someone("admin"), "Control/Nonesuch", Subject::Node).is_err());
    }

    /// A name of one kind gives nothing to the same name of another.
    #[test]
    fn names_of_users_certificates_and_keys_are_apart() {
        let grant: Grant = toml::from_str(
            "role = \"admin\"\nusers = [\"a\"]\ncertificates = [\"b@example.org\"]\nkeys = [\"c\"]",
        )
        .unwrap();
        let access = Access::new(vec![grant]);
        let role = |operator| access.role(&operator, Subject::Node);
        let certificate = |name: &str| Operator::Certificate { name: name.into() };
        let key = |name: &str| Operator::Key { name: name.into() };
        assert_eq!(role(someone("a")), Some(Role::Admin));
        assert_eq!(role(certificate("b@example.org")), Some(Role::Admin));
        assert_eq!(role(key("c")), Some(Role::Admin));
        for other in [certificate("a"), certificate("root"), key("a"), key("b@example.org"), someone("c")] {
            assert_eq!(role(other), None);
        }
        assert_eq!(Access::default().role(&key("c"), Subject::Node), None);
    }

    #[test]
    fn without_grants_everyone_may_look_and_owners_may_act() {
        let access = Access::default();
        assert_eq!(access.role(&someone("anyone"), Subject::Node), Some(Role::Viewer));
        assert_eq!(access.role(&Operator::agent(), Subject::Node), Some(Role::Admin));
    }
}
