//! GGUF files: the header, and the decoder that it describes.

mod description;
mod header;
mod strings;

pub(crate) use description::description;
pub(crate) use header::Header;
pub(crate) use strings::Strings;
