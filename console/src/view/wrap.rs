use super::pen::{Pen, width};
use crate::theme::Tone;

/// Text in lines of at most `room` columns, broken between words where it can be; the last of `most` lines takes the rest.
pub(super) fn wrap(text: &str, room: u16, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() == most;
        let Some(line) = lines.last_mut() else { break };
        let fits = width(line) + 1 + width(word) <= room;
        if line.is_empty() {
            line.push_str(word);
        } else if fits || last {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
        while lines.len() < most && room > 0 {
            let Some(rest) = lines.last_mut().and_then(|line| beyond(line, room)) else { break };
            lines.push(rest);
        }
    }
    lines
}

/// Takes what a word has beyond the room.
fn beyond(line: &mut String, room: u16) -> Option<String> {
    let too_long = |at: usize, letter: char| width(&line[..at + letter.len_utf8()]) > room;
    let at = line.char_indices().find(|(at, letter)| too_long(*at, *letter)).map(|(at, _)| at)?;
    (at > 0).then(|| line.split_off(at))
}

impl Pen<'_> {
    /// Text over at most so many lines from `y` on; how many it took.
    pub(super) fn put_wrapped(&mut self, x: u16, y: u16, most: usize, text: &str, tone: Tone) -> u16 {
        let lines = wrap(text, self.area.width.saturating_sub(x), most);
        for (y, line) in (y..).zip(&lines) {
            self.put(x, y, line, tone);
        }
        u16::try_from(lines.len()).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn lines_break_between_words_and_the_last_takes_the_rest() {
        assert_eq!(wrap("one two three", 7, 4), ["one two", "three"]);
        assert_eq!(wrap("one two three four", 7, 2), ["one two", "three four"]);
        assert_eq!(wrap("", 7, 2), [""]);
    }

    #[test]
    fn a_word_that_fills_more_than_a_line_goes_on_in_the_next() {
        assert_eq!(wrap("in /models/long.gguf it", 8, 4), ["in", "/models/", "long.ggu", "f it"]);
        assert_eq!(wrap("モデル", 4, 4), ["モデ", "ル"]);
        assert_eq!(wrap("モ", 1, 4), ["モ"]);
        assert_eq!(wrap("abc", 0, 4), ["abc"]);
    }
}
