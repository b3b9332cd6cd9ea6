use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher};

use super::rows::{deployment_rows, node_rows};
use super::text_field::TextField;
use crate::model::{DeploymentKey, Model};

/// Something that can be done by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// To the fleet.
    Fleet,
    /// To the events.
    Events,
    /// To a deployment.
    OpenDeployment(DeploymentKey),
    /// To a node.
    OpenNode(usize),
    /// Begin a redeploy.
    Deploy(DeploymentKey),
    /// Begin to teach.
    Finetune(DeploymentKey),
    /// Begin a rollback.
    Rollback(DeploymentKey),
    /// Take out of service.
    Stop(DeploymentKey),
    /// To the rollout of a deployment.
    OpenRollout(DeploymentKey),
    /// Hold a canary at its step.
    Pause(DeploymentKey),
    /// Let it go on.
    Resume(DeploymentKey),
    /// Everything to the candidate.
    Promote(DeploymentKey),
    /// End a rollout.
    Abort(DeploymentKey),
    /// Score now.
    Evaluate(DeploymentKey),
    /// To the jobs.
    Jobs,
    /// Measure a deployment under load.
    Bench(DeploymentKey),
    /// Measure a node.
    BenchNode(usize),
    /// Show every key.
    Help,
    /// Leave.
    Quit,
}

/// Commands by name, the best match first.
#[derive(Debug)]
pub struct Palette {
    /// What is typed.
    pub input: TextField,
    /// Which match Enter takes.
    pub chosen: usize,
    all: Vec<(String, Command)>,
}

impl Palette {
    /// With every command that makes sense now.
    pub fn new(model: &Model) -> Self {
        let several = model.nodes.len() > 1;
        let mut all = vec![
            ("fleet".to_owned(), Command::Fleet),
            ("events".to_owned(), Command::Events),
            ("jobs".to_owned(), Command::Jobs),
        ];
        for key in deployment_rows(model, "") {
            let node = model.nodes.get(key.node).map_or("", |node| node.name());
            let at = if several { format!("{} on {node}", key.name) } else { key.name.clone() };
            all.push((format!("open {at}"), Command::OpenDeployment(key.clone())));
            all.push((format!("deploy {at}"), Command::Deploy(key.clone())));
            all.push((format!("finetune {at}"), Command::Finetune(key.clone())));
            all.push((format!("rollback {at}"), Command::Rollback(key.clone())));
            all.push((format!("stop {at}"), Command::Stop(key.clone())));
            all.push((format!("rollout {at}"), Command::OpenRollout(key.clone())));
            all.push((format!("rollout pause {at}"), Command::Pause(key.clone())));
            all.push((format!("rollout resume {at}"), Command::Resume(key.clone())));
            all.push((format!("rollout promote {at}"), Command::Promote(key.clone())));
            all.push((format!("rollout abort {at}"), Command::Abort(key.clone())));
            all.push((format!("evaluate {at}"), Command::Evaluate(key.clone())));
            all.push((format!("bench {at} (8 users for 30 s)"), Command::Bench(key)));
        }
        for node in node_rows(model, "") {
            let name = model.nodes[node].name();
            all.push((format!("node {name}"), Command::OpenNode(node)));
            all.push((format!("bench node {name} (slows what it serves)"), Command::BenchNode(node)));
        }
        all.push(("help".to_owned(), Command::Help));
        all.push(("quit".to_owned(), Command::Quit));
        Self { input: TextField::default(), chosen: 0, all }
    }

    /// What matches, best first; all in their order when nothing is typed.
    pub fn matches(&self) -> Vec<&(String, Command)> {
        let mut matcher = Matcher::new(Config::DEFAULT);
        let pattern = Pattern::parse(self.input.text(), CaseMatching::Ignore, Normalization::Smart);
        let mut buffer = Vec::new();
        let mut scored: Vec<(u32, &(String, Command))> = self
            .all
            .iter()
            .filter_map(|entry| {
                let haystack = nucleo_matcher::Utf32Str::new(&entry.0, &mut buffer);
                pattern.score(haystack, &mut matcher).map(|score| (score, entry))
            })
            .collect();
        scored.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
        scored.into_iter().map(|(_, entry)| entry).collect()
    }

    /// The match that Enter takes.
    pub fn command(&self) -> Option<Command> {
        self.matches().get(self.chosen).map(|entry| entry.1.clone())
    }
}
