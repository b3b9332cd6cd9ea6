//! The built-in models and everything about them: the skills they were taught, the program that trained them, the
//! suite that scores them and the dataset that teaches the missing one.

pub mod assets;
pub mod skills;
pub mod vocabulary;
