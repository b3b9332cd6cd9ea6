//! The screens: the model in, cells out. No I/O and no clock; the same view draws the same cells.

mod chrome;
mod deployment;
mod dialog;
mod events;
mod fleet;
mod format;
mod help;
mod job;
mod jobs;
mod model_memory;
mod node;
mod overlay;
mod palette;
mod pen;
mod rollout;
mod wrap;

use jiff::tz::TimeZone;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::app::{App, Hits, Overlay, Screen};
use crate::model::Model;
use crate::theme::Theme;

pub(crate) use deployment::state_word;
pub use format::{bytes, milliseconds, percent, time_of_day};

/// Intervals that "now" is measured over in tables.
pub const WINDOW: usize = 10;

/// Least size that can be drawn.
const LEAST_WIDTH: u16 = 40;
const LEAST_HEIGHT: u16 = 8;

/// Everything that a screen is drawn from.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// What the operator does.
    pub app: &'a App,
    /// What is known.
    pub model: &'a Model,
    /// How it is drawn.
    pub theme: Theme,
    /// For ages.
    pub now_unix_ms: i64,
    /// For times of day.
    pub zone: &'a TimeZone,
}

/// Draws the screen; says where things are for the mouse.
pub fn draw(view: &View<'_>, area: Rect, buffer: &mut Buffer) -> Hits {
    let mut hits = Hits::default();
    if area.width < LEAST_WIDTH || area.height < LEAST_HEIGHT {
        let text = format!("{LEAST_WIDTH}x{LEAST_HEIGHT} needed");
        buffer.set_stringn(area.x, area.y, text, area.width.into(), ratatui::style::Style::new());
        return hits;
    }
    let body = chrome::draw(view, area, buffer);
    match &view.app.screen {
        Screen::Fleet => fleet::draw(view, body, buffer, &mut hits),
        Screen::Node(node) => node::draw(view, *node, body, buffer),
        Screen::Deployment(key) => deployment::draw(view, key, body, buffer),
        Screen::Rollout(key) => rollout::draw(view, key, body, buffer),
        Screen::Events => events::draw(view, body, buffer),
        Screen::Jobs => jobs::draw(view, body, buffer, &mut hits),
        Screen::Job(key) => job::draw(view, key, body, buffer),
    }
    match &view.app.overlay {
        Some(Overlay::Help) => help::draw(view, area, buffer),
        Some(Overlay::Palette(palette)) => palette::draw(view, palette, area, buffer),
        Some(Overlay::Dialog(dialog)) => dialog::draw(view, dialog, area, buffer),
        None => {}
    }
    hits
}
