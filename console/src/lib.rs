//! The terminal console.
//!
//! Data flows one way: `link` brings frames, `model` folds them, `app` holds what the operator does, `view` draws both;
//! keys become intents, and `request` carries those to agents.

pub mod app;
pub mod cli;
pub mod clock;
#[cfg(feature = "demo")]
pub mod demo;
pub mod link;
pub mod model;
pub mod report;
pub mod request;
pub mod terminal;
pub mod theme;
pub mod view;
pub mod widget;
