//! What the console knows: frames in, one model out. Views read it; only the fold writes it.

mod deployment_point;
mod fold;
mod latency;
mod node_points;
mod percentiles;
mod series;
mod window;

use std::collections::{BTreeMap, VecDeque};

use llmdeck_proto::v1::{Alert, Deployment, Event, Frame, Rollout};

pub use deployment_point::{DeploymentPoint, RevisionPoint, SMOOTHED};
pub use node_points::{GpuPoint, HostPoint};
pub use percentiles::{Bucket, Percentiles};
pub use series::{Series, Timed};
pub use window::Window;

/// Most events kept, over all nodes.
pub const MOST_EVENTS: usize = 2_000;

/// Everything known of the fleet.
#[derive(Debug, Default)]
pub struct Model {
    /// In the order in which they were named.
    pub nodes: Vec<NodeModel>,
    /// Newest last.
    pub events: VecDeque<NodeEvent>,
}

/// An event and the node that it came from.
#[derive(Clone, Debug)]
pub struct NodeEvent {
    /// Name of the node.
    pub node: String,
    /// What happened.
    pub event: Event,
}

/// How the link to an agent stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing has come yet.
    Connecting,
    /// Frames come.
    Live,
    /// It does not answer.
    Lost {
        /// In words.
        reason: String,
    },
}

/// One node.
#[derive(Debug)]
pub struct NodeModel {
    /// Its address, as asked for.
    pub address: String,
    /// How its link stands.
    pub link: LinkState,
    /// The latest frame, for states. `None` before the first.
    pub frame: Option<Frame>,
    /// Host readings over time.
    pub host: Series<HostPoint>,
    /// GPU readings over time, by UUID.
    pub gpus: BTreeMap<String, Series<GpuPoint>>,
    /// Requests over time, by deployment.
    pub deployments: BTreeMap<String, Series<DeploymentPoint>>,
}

/// Names a deployment of a node, whatever the order on the screen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeploymentKey {
    /// Index of the node.
    pub node: usize,
    /// Name of the deployment.
    pub name: String,
}

impl Model {
    /// Of these addresses, none of which has answered yet.
    pub fn new(addresses: impl IntoIterator<Item = String>) -> Self {
        let nodes = addresses.into_iter().map(NodeModel::new).collect();
        Self { nodes, events: VecDeque::new() }
    }

    /// A deployment as its node's latest frame has it.
    pub fn deployment(&self, key: &DeploymentKey) -> Option<&Deployment> {
        let frame = self.nodes.get(key.node)?.frame.as_ref()?;
        frame.deployments.iter().find(|deployment| deployment.name == key.name)
    }

    /// Its series.
    pub fn series(&self, key: &DeploymentKey) -> Option<&Series<DeploymentPoint>> {
        self.nodes.get(key.node)?.deployments.get(&key.name)
    }

    /// Its newest rollout: the one under way, else the latest.
    pub fn rollout(&self, key: &DeploymentKey) -> Option<&Rollout> {
        let frame = self.nodes.get(key.node)?.frame.as_ref()?;
        let of = frame.rollouts.iter().filter(|rollout| rollout.deployment == key.name);
        of.max_by_key(|rollout| (rollout.ended_unix_ms.is_none(), rollout.started_unix_ms))
    }

    /// Whether a node has answered and is another server, which can only be looked at.
    pub fn is_without_agent(&self, node: usize) -> bool {
        let frame = self.nodes.get(node).and_then(|node| node.frame.as_ref());
        frame.is_some_and(|frame| frame.agent_version.is_empty())
    }

    /// Alerts of every node, with its index.
    pub fn alerts(&self) -> impl Iterator<Item = (usize, &Alert)> {
        let frames = self.nodes.iter().enumerate();
        frames.flat_map(|(index, node)| {
            node.frame.iter().flat_map(move |frame| frame.alerts.iter().map(move |a| (index, a)))
        })
    }
}

impl NodeModel {
    fn new(address: String) -> Self {
        Self {
            address,
            link: LinkState::Connecting,
            frame: None,
            host: Series::default(),
            gpus: BTreeMap::new(),
            deployments: BTreeMap::new(),
        }
    }

    /// Its own name once it has said it, its address before.
    pub fn name(&self) -> &str {
        self.frame.as_ref().map_or(self.address.as_str(), |frame| frame.node.as_str())
    }

    /// How old its latest frame is, in milliseconds. `None` before the first.
    pub fn age_ms(&self, now_unix_ms: i64) -> Option<i64> {
        self.frame.as_ref().map(|frame| (now_unix_ms - frame.time_unix_ms).max(0))
    }
}
