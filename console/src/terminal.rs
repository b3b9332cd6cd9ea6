//! The terminal in raw mode on its second screen, and the way back to what it was: on leaving, on a panic, on Ctrl-Z.

use std::io::{self, Stdout, Write, stdout};

use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute, queue};
use nix::sys::signal::{Signal, raise};
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Restores the terminal when it is dropped, however that comes about.
pub struct Terminal {
    inner: ratatui::Terminal<CrosstermBackend<Stdout>>,
}

impl Terminal {
    /// Takes the terminal. From now on a panic restores it before it is reported.
    ///
    /// # Errors
    /// When standard output is no terminal.
    pub fn enter() -> io::Result<Self> {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = restore();
            report(panic);
        }));
        prepare()?;
        Ok(Self { inner: ratatui::Terminal::new(CrosstermBackend::new(stdout()))? })
    }

    /// Draws what has changed, as one update where the terminal knows how.
    ///
    /// # Errors
    /// When the terminal cannot be written.
    pub fn draw<T: Default>(&mut self, view: impl FnOnce(Rect, &mut Buffer) -> T) -> io::Result<T> {
        let mut drawn = T::default();
        queue!(stdout(), BeginSynchronizedUpdate)?;
        self.inner.draw(|frame| drawn = view(frame.area(), frame.buffer_mut()))?;
        execute!(stdout(), EndSynchronizedUpdate)?;
        Ok(drawn)
    }

    /// Gives the terminal back.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn leave(self) -> io::Result<()> {
        restore()
    }

    /// Gives the terminal to the shell until the process is continued.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn suspend(&mut self) -> io::Result<()> {
        restore()?;
        raise(Signal::SIGTSTP)?;
        prepare()?;
        // Afresh, so that everything is drawn again; clearing would ask the terminal where its cursor is, and the answer
        // would be taken for keys.
        self.inner = ratatui::Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = restore();
    }
}

fn prepare() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, EnableMouseCapture, EnableBracketedPaste, cursor::Hide)
}

fn restore() -> io::Result<()> {
    execute!(stdout(), DisableBracketedPaste, DisableMouseCapture, LeaveAlternateScreen, cursor::Show)?;
    disable_raw_mode()?;
    stdout().flush()
}
