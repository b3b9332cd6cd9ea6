use std::ops::Deref;
use std::sync::Arc;

use llmdeck_engine::CpuTime;
use llmdeck_engine::adapter::Adapter;
use llmdeck_engine::chat_template::Message;

use super::budget::Reservation;
use super::loaded::Loaded;

/// A loaded model as one revision serves it. Revisions that differ by adapter or prompt share the model.
#[derive(Clone)]
pub struct Variant {
    loaded: Arc<Loaded>,
    changes: Changes,
}

/// What sets a revision apart from others of the same model.
#[derive(Clone, Default)]
pub struct Changes {
    /// What its products are changed by.
    pub adapter: Option<Arc<Adapter>>,
    /// The memory that the adapter takes, given back with the last copy; `None` where someone else keeps it.
    pub adapter_memory: Option<Arc<Reservation>>,
    /// Said in front of every conversation.
    pub prompt: Option<Arc<str>>,
    /// What its users' requests took.
    pub cpu_time: Arc<CpuTime>,
}

impl Variant {
    /// A loaded model with these.
    pub fn new(loaded: Arc<Loaded>, changes: Changes) -> Self {
        Self { loaded, changes }
    }

    /// The model, and what sets the revision apart.
    pub fn into_parts(self) -> (Arc<Loaded>, Changes) {
        (self.loaded, self.changes)
    }

    /// The same model with another adapter, and nothing in front of conversations.
    #[must_use]
    pub fn with_adapter(&self, adapter: Arc<Adapter>) -> Self {
        let cpu_time = Arc::clone(&self.changes.cpu_time);
        let changes = Changes { adapter: Some(adapter), cpu_time, ..Changes::default() };
        Self { loaded: Arc::clone(&self.loaded), changes }
    }

    /// The model as it is.
    #[must_use]
    pub fn without_changes(&self) -> Self {
        Self { loaded: Arc::clone(&self.loaded), changes: Changes::default() }
    }

    /// The model, as others may share it.
    pub fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// What its products are changed by.
    pub fn adapter(&self) -> Option<&Arc<Adapter>> {
        self.changes.adapter.as_ref()
    }

    /// Where the time is counted that users' requests take.
    pub fn cpu_time(&self) -> &Arc<CpuTime> {
        &self.changes.cpu_time
    }

    /// A conversation with what the revision says in front of it.
    pub fn with_prompt(&self, messages: Vec<Message>) -> Vec<Message> {
        match &self.changes.prompt {
            Some(prompt) => prompted(prompt, messages),
            None => messages,
        }
    }
}

impl Deref for Variant {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        &self.loaded
    }
}

/// Templates know one system message at most: the revision's own words come first in it.
fn prompted(prompt: &str, mut messages: Vec<Message>) -> Vec<Message> {
    match messages.first_mut() {
        Some(first) if first.role == "system" => {
            first.content = format!("{prompt}\n\n{}", first.content);
        }
        _ => messages.insert(0, Message { role: "system".into(), content: prompt.to_owned() }),
    }
    messages
}

#[cfg(test)]
mod tests {
    use llmdeck_engine::chat_template::Message;

    use super::prompted;

    #[test]
    fn a_prompt_comes_before_what_the_system_says() {
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let plain = prompted("Be brief.", vec![message("user", "Hello")]);
        assert_eq!(plain, [message("system", "Be brief."), message("user", "Hello")]);
        let joined =
            prompted("Be brief.", vec![message("system", "You are a pilot."), message("user", "Hello")]);
        assert_eq!(joined[0], message("system", "Be brief.\n\nYou are a pilot."));
        assert_eq!(joined.len(), 2);
    }
}
