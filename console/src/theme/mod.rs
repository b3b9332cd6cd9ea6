//! Colours by what the terminal can show, and symbols by what its encoding can. Colour says state only, and never alone.

use ratatui::style::{Color, Modifier, Style};

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColorDepth {
    /// 24 bits.
    TrueColor,
    /// The 256 of xterm.
    Indexed,
    /// The 16 of ANSI.
    Ansi,
    /// None: `NO_COLOR`, or a terminal that cannot.
    None,
}

/// What a style means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Ordinary text.
    Plain,
    /// Less important.
    Quiet,
    /// Titles.
    Strong,
    /// Something is bad.
    Bad,
    /// Something may become bad.
    Warning,
    /// Something is new.
    Information,
    /// The thing that the keys act on.
    Selected,
}

/// How everything is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    depth: ColorDepth,
    /// Which characters.
    pub symbols: Symbols,
}

/// Characters for marks, bars and lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbols {
    /// From empty to full.
    pub levels: [&'static str; 9],
    /// Shades of a heatmap, from nothing to most.
    pub shades: [&'static str; 5],
    /// In front of what is bad.
    pub bad: &'static str,
    /// In front of what may become bad.
    pub warning: &'static str,
    /// In front of what is well.
    pub well: &'static str,
    /// A rule.
    pub rule: &'static str,
    /// Where a value is missing.
    pub missing: &'static str,
    /// Between two revisions.
    pub arrow: &'static str,
    /// Better and worse than before.
    pub up: &'static str,
    /// See `up`.
    pub down: &'static str,
    /// Between two facts.
    pub dot: &'static str,
    /// Corners of a box: top left, top right, bottom left, bottom right.
    pub corners: [&'static str; 4],
    /// A box's sides.
    pub side: &'static str,
    /// Where text is cut off.
    pub ellipsis: &'static str,
    /// Lines of a chart: p50, p95, p99.
    pub lines: [&'static str; 3],
    /// The best guess within an interval.
    pub estimate: &'static str,
    /// In front of what is not known exactly.
    pub about: &'static str,
    /// The text cursor of a field.
    pub cursor: &'static str,
    /// Points of a plotted line are braille.
    pub braille: bool,
}

const UNICODE: Symbols = Symbols {
    levels: [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
    shades: [" ", "░", "▒", "▓", "█"],
    bad: "▲",
    warning: "△",
    well: "·",
    rule: "─",
    missing: "—",
    arrow: "→",
    up: "↑",
    down: "↓",
    dot: "·",
    corners: ["┌", "┐", "└", "┘"],
    side: "│",
    ellipsis: "…",
    lines: ["⠤", "⠶", "⠿"],
    estimate: "•",
    about: "≈",
    cursor: "▏",
    braille: true,
};

const ASCII: Symbols = Symbols {
    levels: [" ", "_", ".", ":", "-", "=", "+", "*", "#"],
    shades: [" ", ".", ":", "+", "#"],
    bad: "!",
    warning: "?",
    well: " ",
    rule: "-",
    missing: "-",
    arrow: ">",
    up: "^",
    down: "v",
    dot: "-",
    corners: ["+", "+", "+", "+"],
    side: "|",
    ellipsis: "~",
    lines: [".", "o", "#"],
    estimate: "o",
    about: "~",
    cursor: "_",
    braille: false,
};

impl Theme {
    /// Of these.
    pub fn new(depth: ColorDepth, ascii: bool) -> Self {
        Self { depth, symbols: if ascii { ASCII } else { UNICODE } }
    }

    /// What the environment says of the terminal.
    pub fn detect(variable: impl Fn(&str) -> Option<String>, ascii: bool) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let term = set("TERM").unwrap_or_default();
        let depth = if set("NO_COLOR").is_some() || term == "dumb" {
            ColorDepth::None
        } else if set("COLORTERM").is_some_and(|value| value == "truecolor" || value == "24bit") {
            ColorDepth::TrueColor
        } else if term.contains("256color") {
            ColorDepth::Indexed
        } else {
            ColorDepth::Ansi
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| set(name));
        // A locale that is not set says nothing of the terminal; one that is set to something else does.
        let utf8 = locale.is_none_or(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        Self::new(depth, ascii || !utf8)
    }

    /// The style of a tone.
    pub fn style(&self, tone: Tone) -> Style {
        let modifier = match tone {
            Tone::Plain | Tone::Information | Tone::Warning => Modifier::empty(),
            Tone::Quiet => Modifier::DIM,
            Tone::Strong | Tone::Bad => Modifier::BOLD,
            Tone::Selected => Modifier::REVERSED,
        };
        let style = Style::new().add_modifier(modifier);
        match self.color(tone) {
            Some(color) => style.fg(color),
            None => style,
        }
    }

    fn color(&self, tone: Tone) -> Option<Color> {
        let (rgb, index, ansi) = match tone {
            Tone::Bad => (Color::Rgb(240, 90, 80), Color::Indexed(203), Color::Red),
            Tone::Warning => (Color::Rgb(235, 180, 60), Color::Indexed(214), Color::Yellow),
            Tone::Information => (Color::Rgb(95, 180, 235), Color::Indexed(75), Color::Cyan),
            Tone::Plain | Tone::Quiet | Tone::Strong | Tone::Selected => return None,
        };
        match self.depth {
            ColorDepth::TrueColor => Some(rgb),
            ColorDepth::Indexed => Some(index),
            ColorDepth::Ansi => Some(ansi),
            ColorDepth::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::style::{Color, Modifier};

    use super::{ColorDepth, Theme, Tone};

    fn detect(variables: &[(&str, &str)]) -> Theme {
        Theme::detect(
            |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
            false,
        )
    }

    #[test]
    fn the_environment_decides() {
        assert_eq!(detect(&[("TERM", "xterm"), ("COLORTERM", "truecolor")]).depth, ColorDepth::TrueColor);
        assert_eq!(detect(&[("TERM", "screen-256color")]).depth, ColorDepth::Indexed);
        assert_eq!(detect(&[("TERM", "linux")]).depth, ColorDepth::Ansi);
        assert_eq!(detect(&[("TERM", "xterm-256color"), ("NO_COLOR", "1")]).depth, ColorDepth::None);
        assert_eq!(detect(&[("LANG", "C")]).symbols.bad, "!");
        assert_eq!(detect(&[("LANG", "C"), ("LC_ALL", "de_DE.UTF-8")]).symbols.bad, "▲");
    }

    #[test]
    fn without_colour_what_is_bad_still_stands_out() {
        let style = Theme::new(ColorDepth::None, false).style(Tone::Bad);
        assert_eq!((style.fg, style.add_modifier), (None::<Color>, Modifier::BOLD));
    }
}
