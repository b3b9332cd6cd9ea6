use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::{Alert, Frame};

use crate::model::{DeploymentKey, LinkState, Model, NodeEvent, NodeModel};

/// How bad something is; the worst sorts last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Nothing is wrong.
    Well,
    /// Something may become bad.
    Warning,
    /// Something is bad.
    Bad,
}

impl Health {
    fn of(alert: &Alert) -> Self {
        match alert.severity() {
            Severity::Bad => Self::Bad,
            Severity::Warning => Self::Warning,
            Severity::Information | Severity::Unspecified => Self::Well,
        }
    }
}

/// How a deployment is, and its worst alert in words.
pub fn deployment_health(model: &Model, key: &DeploymentKey) -> (Health, Option<String>) {
    let Some(node) = model.nodes.get(key.node) else { return (Health::Bad, None) };
    if let LinkState::Lost { reason } = &node.link {
        return (Health::Bad, Some(reason.clone()));
    }
    let own = alerts(node).filter(|alert| deployment_of(alert, node).is_some_and(|name| name == key.name));
    let (health, alert) = worst(own);
    (health, alert.map(|alert| alert.text.clone()))
}

/// How a node is, and its worst alert in words; its deployments count for themselves.
pub fn node_health(node: &NodeModel) -> (Health, Option<String>) {
    match &node.link {
        LinkState::Lost { reason } => (Health::Bad, Some(reason.clone())),
        LinkState::Connecting => (Health::Warning, None),
        LinkState::Live => {
            let (health, alert) = worst(alerts(node).filter(|alert| deployment_of(alert, node).is_none()));
            (health, alert.map(|alert| format!("{} {}", alert.subject, alert.text)))
        }
    }
}

/// Deployments whose name or node has `filter` in it, worst first, then by name.
pub fn deployment_rows(model: &Model, filter: &str) -> Vec<DeploymentKey> {
    let nodes = model.nodes.iter().enumerate();
    let mut rows: Vec<(Health, DeploymentKey)> = nodes
        .flat_map(|(index, node)| {
            let frame = node.frame.as_ref().map_or(&[][..], |frame| &frame.deployments[..]);
            frame
                .iter()
                .filter(move |deployment| matches(filter, &[&deployment.name, node.name()]))
                .map(move |deployment| DeploymentKey { node: index, name: deployment.name.clone() })
        })
        .map(|key| (deployment_health(model, &key).0, key))
        .collect();
    rows.sort_by(|(left_health, left), (right_health, right)| {
        right_health
            .cmp(left_health)
            .then_with(|| left.name.cmp(&right.name))
            .then(left.node.cmp(&right.node))
    });
    rows.into_iter().map(|(_, key)| key).collect()
}

/// Nodes whose name has `filter` in it, worst first, then in the order in which they were named.
pub fn node_rows(model: &Model, filter: &str) -> Vec<usize> {
    let mut rows: Vec<usize> =
        (0..model.nodes.len()).filter(|index| matches(filter, &[model.nodes[*index].name()])).collect();
    rows.sort_by_key(|index| (std::cmp::Reverse(node_health(&model.nodes[*index]).0), *index));
    rows
}

/// Events with `filter` in them, newest first.
pub fn event_rows<'a>(model: &'a Model, filter: &'a str) -> impl Iterator<Item = &'a NodeEvent> {
    model.events.iter().rev().filter(move |row| {
        matches(filter, &[&row.node, &row.event.subject, &row.event.text, &row.event.operator])
    })
}

fn alerts(node: &NodeModel) -> impl Iterator<Item = &Alert> {
    node.frame.iter().flat_map(|frame| &frame.alerts)
}

fn worst<'a>(alerts: impl Iterator<Item = &'a Alert>) -> (Health, Option<&'a Alert>) {
    // Of equals the first, which the agent sorted to be the oldest.
    alerts.fold((Health::Well, None), |(worst, first), alert| match Health::of(alert) {
        health if health > worst => (health, Some(alert)),
        _ => (worst, first),
    })
}

/// The deployment that an alert is about: `chat`, or a revision of it: `chat@7`.
fn deployment_of<'a>(alert: &'a Alert, node: &NodeModel) -> Option<&'a str> {
    let name = alert.subject.split_once('@').map_or(alert.subject.as_str(), |(name, _)| name);
    let known = |frame: &Frame| frame.deployments.iter().any(|deployment| deployment.name == name);
    node.frame.as_ref().is_some_and(known).then_some(name)
}

fn matches(filter: &str, texts: &[&str]) -> bool {
    let filter = filter.to_lowercase();
    filter.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(&filter))
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::alert::Severity;
    use llmdeck_proto::v1::{Alert, Deployment, Frame};

    use super::{Health, deployment_health, deployment_rows, node_health, node_rows};
    use crate::link::LinkEvent;
    use crate::model::{DeploymentKey, Model};

    fn alert(severity: Severity, subject: &str) -> Alert {
        Alert { severity: severity.into(), subject: subject.into(), text: subject.into(), ..Alert::default() }
    }

    #[test]
    fn the_worst_comes_first_and_a_deployments_trouble_is_not_its_nodes() {
        let mut model = Model::new(["unix:/a".to_owned(), "unix:/b".to_owned()]);
        let deployment = |name: &str| Deployment { name: name.into(), ..Deployment::default() };
        let frame = Frame {
            node: "n".into(),
            time_unix_ms: 1,
            deployments: vec![deployment("a"), deployment("b"), deployment("c")],
            alerts: vec![alert(Severity::Bad, "c@7"), alert(Severity::Warning, "b")],
            ..Frame::default()
        };
        model.apply(0, LinkEvent::Frame(Box::new(frame)));
        let names: Vec<String> = deployment_rows(&model, "").into_iter().map(|key| key.name).collect();
        assert_eq!(names, ["c", "b", "a"]);
        assert_eq!(deployment_rows(&model, "B").len(), 1);
        let key = DeploymentKey { node: 0, name: "c".into() };
        assert_eq!(deployment_health(&model, &key), (Health::Bad, Some("c@7".to_owned())));
        assert_eq!(node_health(&model.nodes[0]).0, Health::Well);
        assert_eq!(node_rows(&model, ""), [1, 0]);
    }
}
