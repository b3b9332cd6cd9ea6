use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use crate::theme::{Theme, Tone};

/// Writes text into a buffer by tone, and never beyond its area.
pub(super) struct Pen<'a> {
    pub(super) theme: Theme,
    pub(super) area: Rect,
    pub(super) buffer: &'a mut Buffer,
}

/// Where a cell's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) width: u16,
    pub(super) align: Align,
}

impl Column {
    pub(super) const fn left(title: &'static str, width: u16) -> Self {
        Self { title, width, align: Align::Left }
    }

    pub(super) const fn right(title: &'static str, width: u16) -> Self {
        Self { title, width, align: Align::Right }
    }
}

/// A cell's text and what it means.
pub(super) type Cell = (String, Tone);

/// Characters that a text takes on the screen.
pub(super) fn width(text: &str) -> u16 {
    u16::try_from(ratatui::text::Line::from(text).width()).unwrap_or(u16::MAX)
}

impl Pen<'_> {
    pub(super) fn style(&self, tone: Tone) -> Style {
        self.theme.style(tone)
    }

    /// Text at a column and line of the area; cut off with an ellipsis where it is too long. Returns the column behind.
    pub(super) fn put(&mut self, x: u16, y: u16, text: &str, tone: Tone) -> u16 {
        self.put_within(x, y, self.area.width.saturating_sub(x), text, tone)
    }

    /// The same within a width.
    pub(super) fn put_within(&mut self, x: u16, y: u16, most: u16, text: &str, tone: Tone) -> u16 {
        let most = most.min(self.area.width.saturating_sub(x));
        if y >= self.area.height || most == 0 {
            return x;
        }
        let style = self.style(tone);
        let (column, line) = (self.area.x + x, self.area.y + y);
        let (end, _) = self.buffer.set_stringn(column, line, text, most.into(), style);
        if width(text) > most {
            self.buffer.set_stringn(column + most - 1, line, self.theme.symbols.ellipsis, 1, style);
        }
        end - self.area.x
    }

    /// Text that ends before a column.
    pub(super) fn put_right(&mut self, end: u16, y: u16, text: &str, tone: Tone) {
        let x = end.saturating_sub(width(text));
        self.put(x, y, text, tone);
    }

    /// A rule over the whole width with a title in it.
    pub(super) fn rule(&mut self, y: u16, title: &str) {
        let line = self.theme.symbols.rule.repeat(self.area.width.into());
        self.put(0, y, &line, Tone::Quiet);
        if !title.is_empty() {
            self.put(1, y, &format!(" {title} "), Tone::Strong);
        }
    }

    /// The titles of a table.
    pub(super) fn titles(&mut self, y: u16, columns: &[Column]) {
        let cells: Vec<Cell> = columns.iter().map(|column| (column.title.to_owned(), Tone::Quiet)).collect();
        self.row(y, columns, &cells);
    }

    /// A line of a table.
    pub(super) fn row(&mut self, y: u16, columns: &[Column], cells: &[Cell]) {
        let mut x = 0;
        for (column, (text, tone)) in columns.iter().zip(cells) {
            // One column of space keeps neighbours apart.
            let room = column.width.saturating_sub(1);
            match column.align {
                Align::Left => self.put_within(x, y, room, text, *tone),
                Align::Right => {
                    let start = x + room.saturating_sub(width(text));
                    self.put_within(start, y, room, text, *tone)
                }
            };
            x += column.width;
        }
    }

    /// Marks a line as the one that keys act on.
    pub(super) fn select(&mut self, y: u16) {
        if y < self.area.height {
            let line = Rect { y: self.area.y + y, height: 1, ..self.area };
            self.buffer.set_style(line, self.style(Tone::Selected));
        }
    }

    /// A part of the area, by lines.
    pub(super) fn lines(&mut self, from: u16, count: u16) -> Pen<'_> {
        let from = from.min(self.area.height);
        let height = count.min(self.area.height - from);
        let area = Rect { y: self.area.y + from, height, ..self.area };
        Pen { theme: self.theme, area, buffer: self.buffer }
    }

    /// A part of the area, by columns.
    pub(super) fn columns(&mut self, from: u16, count: u16) -> Pen<'_> {
        let from = from.min(self.area.width);
        let width = count.min(self.area.width - from);
        let area = Rect { x: self.area.x + from, width, ..self.area };
        Pen { theme: self.theme, area, buffer: self.buffer }
    }
}
