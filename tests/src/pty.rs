use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::{PATIENCE, binaries};

/// `llmdeck` in a pseudo-terminal, its screen read back through a terminal emulator.
pub struct Console {
    master: Box<dyn MasterPty + Send>,
    writer: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Console {
    /// Runs it on a terminal of this many columns and lines.
    pub fn start(arguments: &[&str], columns: u16, lines: u16) -> Self {
        Self::start_with(arguments, columns, lines, &[])
    }

    /// The same, with variables in its environment.
    pub fn start_with(arguments: &[&str], columns: u16, lines: u16, environment: &[(&str, &str)]) -> Self {
        let mut command = CommandBuilder::new(&binaries().console);
        command.args(arguments);
        Self::run(command, columns, lines, environment)
    }

    /// Runs a script in a shell with job control, on 80x24; `$LLMDECK` is the console's path.
    pub fn start_in_shell(script: &str) -> Self {
        let mut command = CommandBuilder::new("bash");
        command.args(["-m", "-c", script]);
        Self::run(command, 80, 24, &[("LLMDECK", binaries().console.to_str().unwrap())])
    }

    /// Runs the program that panics in the middle of a screen, on 80x24.
    pub fn start_panicking() -> Self {
        Self::run(CommandBuilder::new(&binaries().panic_in_terminal), 80, 24, &[])
    }

    fn run(mut command: CommandBuilder, columns: u16, lines: u16, environment: &[(&str, &str)]) -> Self {
        let pty = native_pty_system().openpty(size(columns, lines)).unwrap();
        command.env_clear();
        for (name, value) in [("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("PATH", "/usr/bin:/bin")] {
            command.env(name, value);
        }
        for (name, value) in environment {
            command.env(name, value);
        }
        let child = pty.slave.spawn_command(command).unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(
            lines.try_into().unwrap(),
            columns.try_into().unwrap(),
            0,
        )));
        let mut reader = pty.master.try_clone_reader().unwrap();
        std::thread::spawn({
            let screen = Arc::clone(&screen);
            move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = reader.read(&mut buffer) {
                    screen.lock().unwrap().process(&buffer[..count]);
                }
            }
        });
        let writer = pty.master.take_writer().unwrap();
        Self { master: pty.master, writer, child, screen }
    }

    /// Types.
    pub fn send(&mut self, keys: &str) {
        self.writer.write_all(keys.as_bytes()).unwrap();
        self.writer.flush().unwrap();
    }

    /// Changes the size of the terminal.
    pub fn resize(&mut self, columns: u16, lines: u16) {
        let (rows, cols) = (lines.try_into().unwrap(), columns.try_into().unwrap());
        self.screen.lock().unwrap().screen_mut().set_size(rows, cols);
        self.master.resize(size(columns, lines)).unwrap();
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Whether the terminal is as it was before: first screen, cursor shown, no mouse.
    pub fn is_restored(&self) -> bool {
        let parser = self.screen.lock().unwrap();
        let screen = parser.screen();
        !screen.alternate_screen()
            && !screen.hide_cursor()
            && screen.mouse_protocol_mode() == vt100::MouseProtocolMode::None
    }

    /// Waits until the screen has a text; returns the whole screen.
    ///
    /// # Panics
    /// When it has not within `PATIENCE`, with the screen as it is.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |screen| screen.contains(text))
    }

    /// Waits until the screen is as wanted.
    ///
    /// # Panics
    /// When it is not within `PATIENCE`, with the screen as it is.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let screen = self.text();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "waited in vain for {what:?} on\n{screen}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.child.process_id().unwrap().try_into().unwrap()
    }

    /// Waits for its end; whether it ended well.
    ///
    /// # Panics
    /// When it does not end within `PATIENCE`, with the screen as it is.
    pub fn wait(&mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < end, "it does not end; its screen is\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(columns: u16, lines: u16) -> PtySize {
    PtySize { rows: lines, cols: columns, pixel_width: 0, pixel_height: 0 }
}
