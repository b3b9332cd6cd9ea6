//! Chat messages to a prompt, by the model's own Jinja template.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use crate::EngineError;

/// One turn of a conversation, by OpenAI's field names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// A compiled template with the tokens that it may name.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos_token: String,
    eos_token: String,
}

const NAME: &str = "chat";
/// Steps after which a template is cut off.
const FUEL: u64 = 2_000_000;

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// When its syntax is off, with the line.
    pub fn new(source: String, bos_token: String, eos_token: String) -> Result<Self, EngineError> {
        let mut environment = Environment::new();
        // As Hugging Face renders templates.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| EngineError::ChatTemplate(error.to_string()))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned(NAME, source.clone())
            .map_err(|error| EngineError::ChatTemplate(error.to_string()))?;
        Ok(Self { environment, source, bos_token, eos_token })
    }

    /// What it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt that asks for the next assistant turn.
    ///
    /// # Errors
    /// When the template refuses the messages: the order of roles, for instance.
    pub fn render(&self, messages: &[Message]) -> Result<String, EngineError> {
        self.rendered(messages, true)
    }

    /// The messages as they stand, with nothing asked for behind them.
    ///
    /// # Errors
    /// When the template refuses the messages.
    pub fn render_whole(&self, messages: &[Message]) -> Result<String, EngineError> {
        self.rendered(messages, false)
    }

    fn rendered(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, EngineError> {
        let fail =
            |error: Error| EngineError::ChatTemplate(error.detail().unwrap_or(&error.to_string()).to_owned());
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.as_str(), content => message.content.as_str() })
            .collect();
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages,
                    add_generation_prompt,
                    bos_token => self.bos_token.as_str(),
                    eos_token => self.eos_token.as_str(),
                })
            })
            .map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::{ChatTemplate, Message};

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    #[test]
    fn renders_turns_and_the_generation_prompt() {
        let source = "{{ bos_token }}{% for m in messages %}<{{ m['role'].upper() }}>{{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}<A>{% endif %}";
        let template = ChatTemplate::new(source.into(), "<s>".into(), "</s>".into()).unwrap();
        let prompt = template.render(&[message("user", " hi ")]).unwrap();
        assert_eq!(prompt, "<s><USER>hi\n<A>");
    }

    #[test]
    fn a_refusal_is_told_in_the_templates_words() {
        let source = "{{ raise_exception('roles must alternate') }}";
        let template = ChatTemplate::new(source.into(), String::new(), String::new()).unwrap();
        let error = template.render(&[]).unwrap_err().to_string();
        assert!(error.contains("roles must alternate"), "{error}");
    }
}
