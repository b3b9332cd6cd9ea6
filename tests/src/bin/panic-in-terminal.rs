//! Takes the terminal as the console does, draws, and panics; a test looks at what is left of the terminal.

use llmdeck::terminal::Terminal;
use ratatui::style::Style;

fn main() -> std::io::Result<()> {
    let mut terminal = Terminal::enter()?;
    terminal.draw(|area, buffer| {
        buffer.set_stringn(0, 0, "about to panic", area.width.into(), Style::new());
    })?;
    // The test has seen the screen once it has typed a line.
    std::io::stdin().read_line(&mut String::new())?;
    panic!("on purpose");
}
