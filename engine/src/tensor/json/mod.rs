//! JSON ⇄ tensors.
//!
//! `scan` knows the grammar, `text` strings and base64, `decode` turns values into tensors,
//! `encode` tensors into text, and `dump` shows a value in a message. None of them builds a tree.

pub mod decode;
mod digits;
pub mod dump;
pub mod encode;
pub mod scan;
mod shortest;
pub mod text;
