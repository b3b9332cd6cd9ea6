use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Longest text, in characters.
const LONGEST: usize = 200;

/// One line that is typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextField {
    text: String,
    /// In characters.
    cursor: usize,
}

impl TextField {
    /// With the cursor at its end.
    pub fn new(text: &str) -> Self {
        let text: String = text.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect();
        Self { cursor: text.chars().count(), text }
    }

    /// What has been typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Before and behind the cursor.
    pub fn split(&self) -> (&str, &str) {
        self.text.split_at(self.byte(self.cursor))
    }

    /// Takes a key; false when it is not one of an editor.
    pub fn key(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let end = self.text.chars().count();
        match key.code {
            KeyCode::Char('u') if control => {
                self.text.drain(..self.byte(self.cursor));
                self.cursor = 0;
            }
            KeyCode::Char('w') if control => self.delete_word(),
            KeyCode::Char('a') if control => self.cursor = 0,
            KeyCode::Char('e') if control => self.cursor = end,
            KeyCode::Char(_) if control || key.modifiers.contains(KeyModifiers::ALT) => return false,
            KeyCode::Char(letter) => self.insert(letter),
            KeyCode::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.text.remove(self.byte(self.cursor));
            }
            KeyCode::Delete if self.cursor < end => {
                self.text.remove(self.byte(self.cursor));
            }
            KeyCode::Left => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Right => self.cursor = (self.cursor + 1).min(end),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = end,
            KeyCode::Backspace | KeyCode::Delete => {}
            _ => return false,
        }
        true
    }

    /// Takes pasted text; line ends become spaces.
    pub fn paste(&mut self, text: &str) {
        text.chars()
            .map(|letter| if letter.is_control() { ' ' } else { letter })
            .for_each(|letter| self.insert(letter));
    }

    fn insert(&mut self, letter: char) {
        if self.text.chars().count() < LONGEST {
            self.text.insert(self.byte(self.cursor), letter);
            self.cursor += 1;
        }
    }

    fn delete_word(&mut self) {
        let (before, behind) = self.split();
        let kept = before.trim_end().rfind(' ').map_or(0, |space| space + 1);
        let text = format!("{}{behind}", &before[..kept]);
        self.cursor = before[..kept].chars().count();
        self.text = text;
    }

    fn byte(&self, character: usize) -> usize {
        self.text.char_indices().nth(character).map_or(self.text.len(), |(byte, _)| byte)
    }
}

#[cfg(test)]
mod tests {
    use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::TextField;

    #[test]
    fn edits_by_character_and_by_word() {
        let mut field = TextField::new("TTFT für p99");
        let press = |field: &mut TextField, code| field.key(KeyEvent::new(code, KeyModifiers::NONE));
        let control = |field: &mut TextField, letter| {
            field.key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL))
        };
        control(&mut field, 'w');
        assert_eq!(field.text(), "TTFT für ");
        press(&mut field, KeyCode::Left);
        press(&mut field, KeyCode::Left);
        press(&mut field, KeyCode::Backspace);
        assert_eq!(field.split(), ("TTFT f", "r "));
        field.paste("ü\n");
        control(&mut field, 'u');
        assert_eq!(field.text(), "r ");
        assert!(!press(&mut field, KeyCode::Enter));
    }
}
