//! The loop: events in, intents out, at most one draw for however many frames came meanwhile.

use std::io;
use std::time::Duration;

use crate::link::Channel;
use crossterm::event::EventStream;
use futures_util::StreamExt;
use jiff::tz::TimeZone;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Answer, App, AppEvent, Intent, update};
use crate::clock::unix_ms;
use crate::link::{LinkEvent, Target, dial, watch};
use crate::model::Model;
use crate::request;
use crate::terminal::Terminal;
use crate::theme::Theme;
use crate::view::{View, draw};

/// Least time between two draws that no key asked for.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Ages are drawn anew this often though nothing came.
const AGE_EVERY: Duration = Duration::from_secs(1);
/// Link events that wait; a link that has more waits, which makes its agent merge frames.
const MOST_WAITING: usize = 16;

/// Why the console could not go on.
#[derive(Debug, thiserror::Error)]
#[error("terminal: {0}")]
pub struct RunError(#[from] io::Error);

/// Shows these agents until the operator leaves.
///
/// # Errors
/// When the terminal cannot be read or written.
pub async fn run(targets: Vec<Target>, theme: Theme, mut app: App) -> Result<(), RunError> {
    let mut model = Model::new(targets.iter().map(ToString::to_string));
    let mut tasks = JoinSet::new();
    let (links, mut link_events) = mpsc::channel(MOST_WAITING);
    let channels: Vec<Channel> = targets.iter().map(dial).collect();
    for (node, channel) in channels.iter().cloned().enumerate() {
        let (sender, receiver) = mpsc::channel(1);
        tasks.spawn(watch(channel, unix_ms, sender));
        tasks.spawn(number(node, receiver, links.clone()));
    }
    let (answers, mut answered) = mpsc::channel(MOST_WAITING);
    let zone = TimeZone::system();
    let mut terminal = Terminal::enter()?;
    let (mut terminate, mut hang_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut keys = EventStream::new();
    let mut ages = tokio::time::interval(AGE_EVERY);
    let mut drawn = Instant::now();
    let mut due = Some(drawn);
    loop {
        let now = Instant::now();
        if due.is_some_and(|due| due <= now) {
            let view = View { app: &app, model: &model, theme, now_unix_ms: unix_ms(), zone: &zone };
            let hits = terminal.draw(|area, buffer| draw(&view, area, buffer))?;
            app.hits = hits;
            (drawn, due) = (now, None);
        }
        let soon = drawn + DRAW_EVERY;
        let mut intents = Vec::new();
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = hang_up.recv() => break,
            key = keys.next() => match key {
                Some(event) => {
                    intents = update(&mut app, &model, AppEvent::Terminal(event?));
                    due = Some(Instant::now());
                }
                None => break,
            },
            Some(answer) = answered.recv() => {
                intents = update(&mut app, &model, AppEvent::Answer(answer));
                due = Some(Instant::now());
            }
            () = async { tokio::time::sleep_until(due.unwrap_or(soon)).await }, if due.is_some() => {}
            Some((node, event)) = link_events.recv() => {
                model.apply(node, event);
                due = Some(due.unwrap_or(soon));
            }
            _ = ages.tick() => {
                intents = update(&mut app, &model, AppEvent::Second);
                due = Some(due.unwrap_or(soon));
            }
        }
        for intent in intents {
            match intent {
                Intent::Quit => return Ok(terminal.leave()?),
                Intent::Suspend => {
                    terminal.suspend()?;
                    due = Some(Instant::now());
                }
                asked => ask(&channels, asked, &answers, &mut tasks),
            }
        }
    }
    Ok(terminal.leave()?)
}

async fn number(node: usize, mut events: mpsc::Receiver<LinkEvent>, links: mpsc::Sender<(usize, LinkEvent)>) {
    while let Some(event) = events.recv().await {
        if links.send((node, event)).await.is_err() {
            return;
        }
    }
}

fn ask(channels: &[Channel], intent: Intent, answers: &mpsc::Sender<Answer>, tasks: &mut JoinSet<()>) {
    let node = match &intent {
        Intent::Act { node, .. } | Intent::ListArtifacts { node, .. } | Intent::ListJobs { node } => *node,
        Intent::GetJob { key } => key.node,
        Intent::GetRollout { key } => key.node,
        Intent::Quit | Intent::Suspend => return,
    };
    let Some(channel) = channels.get(node).cloned() else { return };
    let answers = answers.clone();
    tasks.spawn(async move {
        if let Some(answer) = request::answer(channel, intent).await {
            // Nobody listens once the console is closing.
            let _ = answers.send(answer).await;
        }
    });
}
