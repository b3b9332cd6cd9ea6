use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::View;
use super::overlay::boxed;
use crate::theme::Tone;

const KEYS: [(&str, &str); 18] = [
    ("Enter", "open what is selected"),
    ("Esc", "back; in a dialog: no"),
    ("Up Down j k", "select, or scroll"),
    ("PgUp PgDn g G", "further"),
    ("Tab", "deployments or nodes; the next field of a dialog"),
    ("r", "roll back: shows what will change, then asks"),
    ("d", "deploy another model: shows what will change, then asks"),
    ("t", "teach its model what is in a dataset: checks the data first"),
    ("v", "a deployment's rollout; there p holds it, P promotes, x ends it"),
    ("/", "filter by name; Esc shows all again"),
    (":", "any command by name"),
    ("1 2 3", "fleet, events, jobs"),
    ("x", "on a job: end it; what it measured is kept"),
    ("Ctrl-S Ctrl-F", "in a deploy: canary, shadow or at once; past the golden floor"),
    ("Ctrl-Z", "to the shell; fg comes back"),
    ("?", "this"),
    ("q Ctrl-C", "leave; nothing that runs is stopped"),
    ("mouse", "click selects, a second click opens, the wheel scrolls"),
];

pub(super) fn draw(view: &View<'_>, area: Rect, buffer: &mut Buffer) {
    let height = u16::try_from(KEYS.len()).unwrap_or(0) + 5;
    let mut pen = boxed(view, "Keys", (76, height), area, buffer);
    for (y, (key, what)) in (0..).zip(KEYS) {
        pen.put(0, y, key, Tone::Strong);
        pen.put(15, y, what, Tone::Plain);
    }
    let symbols = view.theme.symbols;
    let signs =
        format!("{} bad   {} may become bad   {} not known", symbols.bad, symbols.warning, symbols.missing);
    pen.put(0, height - 4, &signs, Tone::Plain);
    pen.put(0, height - 3, "any key closes this", Tone::Quiet);
}
