//! What the operator is looking at and doing. `update` turns events into a new state and intents; it does no I/O.

mod action;
mod dialog;
mod dialog_keys;
mod jobs;
mod palette;
mod rollout;
mod rows;
mod run;
pub(crate) mod setting;
mod text_field;
mod update;

use ratatui::layout::Rect;

use crate::model::{DeploymentKey, Model};

pub use action::{Action, Answer, Intent, RevisionParts, RolloutChoice};
pub use dialog::{Dialog, DialogKind, Field, PlanState, Progress};
pub use jobs::{JobKey, JobResult, JobsState, OpenJob};
pub use palette::{Command, Palette};
pub use rollout::{OpenRollout, finding_rows};
pub use rows::{Health, deployment_health, deployment_rows, event_rows, node_health, node_rows};
pub use run::{RunError, run};
pub use text_field::TextField;
pub use update::{AppEvent, update};

/// What fills the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screen {
    /// Deployments and nodes, worst first.
    Fleet,
    /// One node: GPUs and host over time.
    Node(usize),
    /// One deployment over time.
    Deployment(DeploymentKey),
    /// A deployment's latest rollout: both revisions side by side, and what is known of them.
    Rollout(DeploymentKey),
    /// What happened, newest first.
    Events,
    /// Long work, newest first.
    Jobs,
    /// One job in full.
    Job(JobKey),
}

/// What lies over it.
#[derive(Debug)]
pub enum Overlay {
    /// Every key.
    Help,
    /// Commands by name.
    Palette(Palette),
    /// A change, before, while and after it is made.
    Dialog(Box<Dialog>),
}

/// A thing that can be selected, whatever the order on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// A deployment.
    Deployment(DeploymentKey),
    /// A node, by index.
    Node(usize),
    /// A job.
    Job(JobKey),
}

/// Where things are on the screen, for the mouse.
#[derive(Clone, Debug, Default)]
pub struct Hits(pub Vec<(Rect, Row)>);

/// The state of the console beside the model.
#[derive(Debug)]
pub struct App {
    /// What fills the screen.
    pub screen: Screen,
    /// Where Esc goes.
    back: Vec<Screen>,
    /// What lies over it.
    pub overlay: Option<Overlay>,
    /// What the keys act on. `None` until there is something.
    pub selected: Option<Row>,
    /// Only rows with this in them.
    pub filter: TextField,
    /// The filter is being typed.
    pub filtering: bool,
    /// Lines scrolled on screens that are longer than the terminal.
    pub scroll: usize,
    /// The last thing worth a line: an answer or an error.
    pub notice: Option<String>,
    /// One line in the footer of each step of the demo.
    pub guide: Option<fn(&App, &Model) -> String>,
    /// Where things were drawn last.
    pub hits: Hits,
    /// The rollout on the screen, as last told in full.
    pub rollout: Option<OpenRollout>,
    /// Long work.
    pub jobs: JobsState,
    /// A job that was asked for, by its serial and node: it is shown as soon as it has begun.
    awaited_job: Option<(u64, usize)>,
    serial: u64,
}

impl App {
    /// On the fleet.
    pub fn new() -> Self {
        Self {
            screen: Screen::Fleet,
            back: Vec::new(),
            overlay: None,
            selected: None,
            filter: TextField::default(),
            filtering: false,
            scroll: 0,
            notice: None,
            guide: None,
            hits: Hits::default(),
            rollout: None,
            jobs: JobsState::default(),
            awaited_job: None,
            serial: 0,
        }
    }

    /// The deployment that an action is about: the one that fills the screen, else the selected one, else the only one.
    pub fn deployment_in_view(&self, model: &Model) -> Option<DeploymentKey> {
        if let Screen::Deployment(key) | Screen::Rollout(key) = &self.screen {
            return Some(key.clone());
        }
        if let Some(Row::Deployment(key)) = &self.selected {
            return Some(key.clone());
        }
        let mut all = deployment_rows(model, "").into_iter();
        let first = all.next();
        if all.next().is_none() { first } else { None }
    }

    fn go_to(&mut self, screen: Screen) {
        if self.screen != screen {
            self.back.push(std::mem::replace(&mut self.screen, screen));
            self.scroll = 0;
        }
    }

    fn go_back(&mut self) {
        if let Some(screen) = self.back.pop() {
            self.screen = screen;
            self.scroll = 0;
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}
